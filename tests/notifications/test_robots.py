"""Robots and webhooks: what they get, and what their answers mean. The fake robots' own logs are the judge."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.utils.translation import override

from notifications.reasons import REASONS
from notifications.transports import http
from notifications.transports.base import ACCEPTED, Answer, Verdict
from notifications.transports.robot import clean_mobiles, one_line, shorten
from notifications.transports.wecom import without_markup
from tests.notifications.channels import make_message, send, transport_to
from tests.servers.robots import Robots, Step, answers, cut, endless, raw, says, silent, trickle

KINDS = ["dingtalk", "wecom", "feishu", "webhook"]
ROBOT_KINDS = KINDS[:3]
SECRET = "SEC" + "0123456789abcdef" * 4
LINES = [f"- 第 {number} 条：导出完成" for number in range(2000)]


# What arrives.


def test_dingtalk_gets_signed_markdown(robots: Robots) -> None:
    robot = robots.add("dingtalk", secret=SECRET)
    message = make_message()
    assert send(robot, message) == ACCEPTED
    (got,) = robots.accepted
    assert (got.title, got.text) == (message.title, message.text)
    assert got.request.json["msgtype"] == "markdown"
    assert got.request.json["at"] == {"atMobiles": [], "isAtAll": False}


def test_wecom_gets_markdown(robots: Robots) -> None:
    assert send(robots.add("wecom")) == ACCEPTED
    assert robots.texts() == [make_message().text]
    assert robots.requests[0].json["msgtype"] == "markdown"


@pytest.mark.parametrize("secret", ["", SECRET])
def test_feishu_gets_a_card_with_a_button(robots: Robots, secret: str) -> None:
    message = make_message()
    assert send(robots.add("feishu", secret=secret), message) == ACCEPTED
    (got,) = robots.accepted
    assert (got.title, got.text) == (message.title, message.text)
    button = got.request.json["card"]["elements"][1]["actions"][0]
    assert button["url"] == message.url


def test_feishu_gets_no_button_without_a_url(robots: Robots) -> None:
    send(robots.add("feishu"), make_message(url=""))
    assert len(robots.requests[0].json["card"]["elements"]) == 1


def test_a_webhook_gets_the_data_and_the_words_signed(robots: Robots) -> None:
    message = make_message()
    assert send(robots.add("webhook", secret=SECRET), message) == ACCEPTED
    (request,) = robots.requests
    expected = {"event": "success", "execution": 7, "key": message.key, "title": message.title}
    assert request.json == expected | {"text": message.text, "url": message.url}
    assert request.headers["X-Exporter-Delivery"] == message.key
    assert request.headers["Content-Type"].startswith("application/json")
    assert request.headers["Accept-Encoding"] == "identity"  # what would be unpacked has no limit


def test_a_webhook_without_a_secret_is_not_signed(robots: Robots) -> None:
    assert send(robots.add("webhook")) == ACCEPTED
    assert "X-Exporter-Signature" not in robots.requests[0].headers
    assert robots.requests[0].headers["X-Exporter-Timestamp"].isdecimal()


def test_a_webhook_with_another_secret_is_refused(robots: Robots) -> None:
    answer = send(robots.add("webhook", secret=SECRET), secret="another one")
    assert answer == Answer(Verdict.REFUSED, "rejected", "HTTP 401 wrong signature")
    assert robots.accepted == []


def test_the_path_of_a_webhook_is_a_secret_however_short(robots: Robots) -> None:
    robots.script(answers(404, "Cannot POST /hook/a7Kq9x", "text/plain"))
    answer = send(robots.add("webhook"), url=f"http://{robots.place}/hook/a7Kq9x")
    assert answer.verdict == Verdict.REFUSED
    assert "a7Kq9x" not in answer.text


def test_an_action_card_has_a_button_to_the_file(robots: Robots) -> None:
    message = make_message()
    assert send(robots.add("dingtalk"), message, message_type="action_card") == ACCEPTED
    content = robots.requests[0].json
    assert content["msgtype"] == "actionCard"
    assert content["actionCard"]["singleURL"] == message.url
    assert robots.texts() == [message.text]


def test_an_action_card_without_a_url_is_markdown(robots: Robots) -> None:
    send(robots.add("dingtalk"), make_message(url=""), message_type="action_card")
    assert robots.requests[0].json["msgtype"] == "markdown"


def test_mentions_are_in_dingtalks_text_and_in_at(robots: Robots) -> None:
    send(robots.add("dingtalk"), at_mobiles=["138 0013 8000", "+86-13900139000", "13800138000"], at_all=True)
    assert robots.texts()[0].endswith("\n\n@13800138000 @13900139000")
    assert robots.requests[0].json["at"] == {"atMobiles": ["13800138000", "13900139000"], "isAtAll": True}


def test_mentions_make_a_wecom_message_plain_text(robots: Robots) -> None:
    text = "### 标题\n\n**行数**: 1,000 ＊\n[下载](https://reports.example.com/d/a__b?c=1&lt=2)\n> #7"
    send(robots.add("wecom"), make_message(text=text), mentioned_mobiles=["13800138000", "@all"])
    content = robots.accepted[0].request.json
    assert content["text"]["mentioned_mobile_list"] == ["13800138000", "@all"]
    expected = "标题\n\n行数: 1,000 ＊\n下载 https://reports.example.com/d/a__b?c=1&lt=2\n#7"
    assert content["text"]["content"] == expected


@pytest.mark.parametrize("kind", ["dingtalk", "feishu"])
@pytest.mark.parametrize(("text", "expected"), [("没有", "没有\n\n报表"), ("今日报表来了", "今日报表来了")])
def test_a_missing_keyword_is_added(robots: Robots, kind: str, text: str, expected: str) -> None:
    assert send(robots.add(kind, keyword="报表"), make_message(text=text)) == ACCEPTED
    assert robots.texts() == [expected]


def test_titles_are_one_short_line(robots: Robots) -> None:
    send(robots.add("dingtalk"), make_message(title="第一\n行 " + "长" * 100))
    assert robots.accepted[0].title == "第一 行 " + "长" * 58 + "…"
    assert len(robots.accepted[0].title) == 64
    assert one_line("短") == "短"


# Sizes.


@pytest.fixture
def english() -> Iterator[None]:
    with override("en"):
        yield


@pytest.mark.usefixtures("english")
@pytest.mark.parametrize(("kind", "limit"), [("dingtalk", 18_000), ("wecom", 4096), ("feishu", 18_000)])
def test_a_long_text_is_cut_at_a_line_and_keeps_the_url(robots: Robots, kind: str, limit: int) -> None:
    message = make_message(text="\n".join(LINES))
    assert send(robots.add(kind), message) == ACCEPTED
    (text,) = robots.texts()
    *kept, blank, note, blank_too, link = text.split("\n")
    assert kept == LINES[: len(kept)]
    assert (blank, note, blank_too) == ("", "… (shortened)", "")
    assert message.url in link
    assert limit - 100 < len(text.encode()) <= limit


def test_a_long_plain_text_of_wecom_has_half_the_room(robots: Robots) -> None:
    robot = robots.add("wecom")
    message = make_message(text="\n".join(LINES))
    assert send(robot, message, mentioned_mobiles=["13800138000"]) == ACCEPTED
    assert robots.texts()[0].endswith(f"\n\n{message.url}")
    # What digests are measured by.
    assert transport_to(robot, mentioned_mobiles=["13800138000"]).max_bytes == 2048
    assert transport_to(robot).max_bytes == 4096


def test_a_text_of_exactly_the_limit_is_not_cut(robots: Robots) -> None:
    text = "字" * 6000
    assert send(robots.add("dingtalk", keyword="报表"), make_message(text=text), at_mobiles=["13800138000"]) == ACCEPTED
    assert robots.texts() == [f"{text}\n\n报表\n\n@13800138000"]


@pytest.mark.parametrize("kind", ["dingtalk", "feishu"])
def test_what_grows_in_json_fits_all_the_same(robots: Robots, kind: str) -> None:
    text = "\n".join(['""\\\\' * 20] * 400)
    assert send(robots.add(kind, keyword="报表"), make_message(text=text)) == ACCEPTED
    assert robots.texts()[0].endswith("\n\n报表")
    assert len(robots.requests[0].body) <= 20_000


@pytest.mark.usefixtures("english")
def test_one_long_line_is_cut_between_two_characters() -> None:
    assert shorten("标题\n" + "字" * 100, 61, "") == "标题\n" + "字" * 12 + "\n\n… (shortened)"
    assert shorten("字" * 100, 3, "https://x/") == "\n\n… (shortened)\n\nhttps://x/"
    assert shorten("字", 3, "https://x/") == "字"


def test_half_a_character_is_no_reason_to_fail(robots: Robots) -> None:
    assert send(robots.add("dingtalk"), make_message(title="\ud83d", text="a\ud83db")) == ACCEPTED
    assert robots.texts() == ["a?b"]


# What answers mean.

NOT_IN_WORDS = "description:机器人发送签名不匹配;solution:请确认签名和生成签名的时间戳必须都放在调用的网址中"
MEANINGS = [
    ("dingtalk", 130101, "send too fast, exceed 20 times per minute", Verdict.LIMITED, "rate_limited", 600),
    ("dingtalk", 410100, "发送速度太快而限流", Verdict.LIMITED, "rate_limited", 600),
    ("dingtalk", 90030, "webhook over limit", Verdict.LIMITED, "rate_limited", 600),
    ("dingtalk", "130101", "send too fast", Verdict.LIMITED, "rate_limited", 600),
    ("dingtalk", 310000, "keywords not in content, more: […]", Verdict.REFUSED, "keyword_missing", 0),
    ("dingtalk", 310000, "description:关键词不匹配;solution:…", Verdict.REFUSED, "keyword_missing", 0),
    ("dingtalk", 310000, "sign not match, more: […]", Verdict.REFUSED, "bad_signature", 0),
    ("dingtalk", 310000, NOT_IN_WORDS, Verdict.REFUSED, "bad_signature", 0),
    ("dingtalk", 310000, "invalid timestamp, more: […]", Verdict.REFUSED, "clock_skew", 0),
    ("dingtalk", 310000, "ip 1.2.3.4 not in whitelist", Verdict.REFUSED, "ip_not_allowed", 0),
    ("dingtalk", 310000, "something new", Verdict.REFUSED, "rejected", 0),
    ("dingtalk", 300001, "token is not exist", Verdict.REFUSED, "bad_token", 0),
    ("dingtalk", 300005, "token is not exist", Verdict.REFUSED, "bad_token", 0),
    ("dingtalk", 400101, "access_token不存在", Verdict.REFUSED, "bad_token", 0),
    ("dingtalk", 40014, "不合法的access_token", Verdict.REFUSED, "bad_token", 0),
    ("dingtalk", 400102, "机器人已停用", Verdict.REFUSED, "robot_disabled", 0),
    ("dingtalk", 101002, "message too long", Verdict.REFUSED, "too_long", 0),
    ("dingtalk", 460101, "message too long, exceed 20000 bytes", Verdict.REFUSED, "too_long", 0),
    ("dingtalk", -1, "系统繁忙", Verdict.DEFERRED, "server_error", 0),
    ("dingtalk", 430104, "消息内容包含不合适的关键词", Verdict.REFUSED, "rejected", 0),
    ("wecom", 45009, "api freq out of limit", Verdict.LIMITED, "rate_limited", 60),
    ("wecom", 93000, "invalid webhook url", Verdict.REFUSED, "bad_token", 0),
    ("wecom", 45002, "content size out of limit", Verdict.REFUSED, "too_long", 0),
    ("wecom", 40058, "markdown.content exceed max length 4096", Verdict.REFUSED, "too_long", 0),
    ("wecom", 40058, "invalid Request Parameter", Verdict.REFUSED, "rejected", 0),
    ("wecom", -1, "system error", Verdict.DEFERRED, "server_error", 0),
    ("wecom", 40008, "invalid message type", Verdict.REFUSED, "rejected", 0),
    ("feishu", 9499, "too many request", Verdict.LIMITED, "rate_limited", 60),
    ("feishu", 9499, "Bad Request", Verdict.REFUSED, "rejected", 0),
    ("feishu", 11232, "frequency limited", Verdict.LIMITED, "rate_limited", 60),
    ("feishu", 19021, "sign match fail", Verdict.REFUSED, "bad_signature", 0),
    ("feishu", 19024, "Key Words Not Found", Verdict.REFUSED, "keyword_missing", 0),
    ("feishu", 19022, "Ip Not Allowed", Verdict.REFUSED, "ip_not_allowed", 0),
    ("feishu", 19001, "param invalid", Verdict.REFUSED, "bad_token", 0),
    ("feishu", 11246, "something new", Verdict.REFUSED, "rejected", 0),
]


@pytest.mark.parametrize(("kind", "code", "words", "verdict", "reason", "wait"), MEANINGS)
def test_an_error_code_has_its_meaning(
    robots: Robots, kind: str, code: object, words: str, verdict: Verdict, reason: str, wait: float
) -> None:
    robots.script(says(code, words))
    assert send(robots.add(kind, secret=SECRET)) == Answer(verdict, reason, f"{code} {words}", wait)
    assert reason in REASONS
    assert robots.accepted == []


@pytest.mark.parametrize("kind", ROBOT_KINDS)
def test_a_code_may_be_a_text(robots: Robots, kind: str) -> None:
    robots.script(says("0", "ok", accepting=True))
    assert send(robots.add(kind)) == ACCEPTED
    assert len(robots.accepted) == 1


def test_feishus_older_interface_has_another_name_for_the_code(robots: Robots) -> None:
    robots.script(answers(200, '{"StatusCode": 0, "StatusMessage": "success"}', "application/json"))
    assert send(robots.add("feishu")) == ACCEPTED


def test_feishu_gives_its_code_with_an_http_error(robots: Robots) -> None:
    robots.script(answers(400, '{"code": 9499, "msg": "too many request", "data": {}}', "application/json"))
    assert send(robots.add("feishu")).verdict == Verdict.LIMITED


UNREADABLE: dict[str, Step] = {
    "a page": answers(200, "<html>Log in to the hotel's network</html>"),
    "nothing": answers(200),
    "json without a code": answers(200, "{}", "application/json"),
    "a list": answers(200, "[0]", "application/json"),
    "a code that is none": says("none"),
    "true for a code": says(True),
    "null for a code": says(None),
    "false for a code": says(False),
    "another success": answers(204),
    "a success that is not 200": answers(201, '{"errcode": 0, "code": 0}', "application/json"),
    "brackets": answers(200, "[" * 60_000, "application/json"),
    "too much": answers(200, '{"errcode": 0, "code": 0}' + " " * 70_000, "application/json"),
    "no end": endless(),
    "half of it": raw(b'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"errcode": 0'),
}


@pytest.mark.parametrize("step", UNREADABLE.values(), ids=UNREADABLE)
@pytest.mark.parametrize("kind", ROBOT_KINDS)
def test_what_can_not_be_read_may_have_arrived(robots: Robots, kind: str, step: Step) -> None:
    robots.script(step)
    answer = send(robots.add(kind))
    assert (answer.verdict, answer.reason) == (Verdict.UNKNOWN, "unreadable_answer")


def test_an_answer_that_breaks_off_may_be_an_acceptance(robots: Robots, monkeypatch: pytest.MonkeyPatch) -> None:
    robots.script(
        raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"),
        raw(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n", silence=60),
    )
    robot = robots.add("dingtalk")
    assert send(robot) == Answer(Verdict.UNKNOWN, "answer_lost")
    monkeypatch.setattr(http, "READ_TIMEOUT", 0.3)
    assert send(robot) == Answer(Verdict.UNKNOWN, "timed_out")


@pytest.mark.parametrize(
    "name", ["a page", "nothing", "a list", "another success", "a success that is not 200", "no end", "half of it"]
)
def test_a_webhook_has_accepted_with_any_success(robots: Robots, name: str) -> None:
    robots.script(UNREADABLE[name])
    assert send(robots.add("webhook")) == ACCEPTED


LIMITED_7 = (Verdict.LIMITED, "rate_limited", 7)
LIMITED_60 = (Verdict.LIMITED, "rate_limited", 60)
STATUSES = [
    (answers(429, Retry_After="7"), LIMITED_7),
    (answers(429), LIMITED_60),
    (answers(429, Retry_After="soon"), LIMITED_60),
    (answers(429, Retry_After="Wed, 21 Oct 2015 07:28:00 GMT"), LIMITED_60),
    (answers(429, Retry_After="9999999999"), (Verdict.LIMITED, "rate_limited", 3600)),
    (answers(500), (Verdict.DEFERRED, "server_error", 0)),
    (answers(502, "<html>bad gateway</html>"), (Verdict.DEFERRED, "server_error", 0)),
    (answers(503, Retry_After="7"), (Verdict.DEFERRED, "server_error", 7)),
    (answers(503, '{"errcode": 0, "code": 0}'), (Verdict.DEFERRED, "server_error", 0)),
    (answers(400), (Verdict.REFUSED, "rejected", 0)),
    (answers(403, "forbidden", "text/plain"), (Verdict.REFUSED, "rejected", 0)),
    (answers(400, '{"errcode": 0, "code": 0}'), (Verdict.REFUSED, "rejected", 0)),
]


@pytest.mark.parametrize(("step", "expected"), STATUSES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_status_of_http_has_its_meaning(
    robots: Robots, kind: str, step: Step, expected: tuple[Verdict, str, float]
) -> None:
    robots.script(step)
    answer = send(robots.add(kind))
    assert (answer.verdict, answer.reason, answer.wait) == expected
    assert robots.accepted == []


@pytest.mark.parametrize("status", [408, 425])
def test_a_webhook_may_ask_for_another_time(robots: Robots, status: int) -> None:
    robots.script(answers(status))
    assert send(robots.add("webhook")).verdict == Verdict.DEFERRED


@pytest.mark.parametrize(("kind", "reason"), [("dingtalk", "bad_token"), ("webhook", "rejected")])
def test_not_found_means_another_token_for_a_robot(robots: Robots, kind: str, reason: str) -> None:
    robots.script(answers(404, "<html>"))
    answer = send(robots.add(kind))
    assert (answer.verdict, answer.reason, answer.text) == (Verdict.REFUSED, reason, "HTTP 404")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(robots: Robots, kind: str, status: int) -> None:
    robots.script(answers(status, Location=robots.add(kind).url))
    answer = send(robots.add(kind))
    assert (answer.verdict, answer.reason) == (Verdict.REFUSED, "redirected")
    assert (len(robots.requests), robots.accepted) == (1, [])


def test_a_redirect_without_an_end_is_left_alone(robots: Robots) -> None:
    robots.script(endless(302, Location="http://127.0.0.1/"))
    assert send(robots.add("dingtalk")).reason == "redirected"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("step", "reason"),
    [
        (cut(accepting=True), "answer_lost"),
        (silent(60, accepting=True), "timed_out"),
        (raw(b"\0\1\2\n"), "answer_lost"),
    ],
    ids=["cut", "silent", "not http"],
)
def test_without_an_answer_it_may_have_arrived(
    robots: Robots, kind: str, step: Step, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if reason == "timed_out":
        monkeypatch.setattr(http, "READ_TIMEOUT", 0.3)
    robots.script(step)
    assert send(robots.add(kind)) == Answer(Verdict.UNKNOWN, reason)
    assert len(robots.requests) == 1


def test_an_answer_byte_by_byte_ends_at_the_deadline(robots: Robots, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "DEADLINE", 1.5)
    robots.script(trickle(0.05, times=200))
    assert send(robots.add("dingtalk")) == Answer(Verdict.UNKNOWN, "timed_out")


def test_words_are_one_line_that_a_database_takes(robots: Robots) -> None:
    robots.script(says(310000, "first\nsecond\0\ud800 " + "x" * 1000))
    text = send(robots.add("dingtalk")).text
    assert text.startswith("310000 first second x")
    assert len(text) < 320


def test_words_do_not_tell_the_token(robots: Robots) -> None:
    for kind in KINDS:
        robot = robots.add(kind)
        robots.script(answers(400, f"Cannot POST {robot.url.partition(robots.place)[2]}", "text/plain"))
        answer = send(robot)
        assert answer.text.startswith("HTTP 400 Cannot POST /")
        assert robot.token not in answer.text


# DingTalk's rules, as it plays them.


@pytest.mark.parametrize("kind", ["dingtalk", "feishu"])
def test_a_wrong_secret_is_named_and_not_tried_again(robots: Robots, kind: str) -> None:
    answer = send(robots.add(kind, secret=SECRET), secret="SEC-another")
    assert (answer.verdict, answer.reason) == (Verdict.REFUSED, "bad_signature")
    assert (len(robots.requests), robots.accepted) == (1, [])


def test_a_secret_that_is_missing_here_is_named(robots: Robots) -> None:
    """DingTalk complains of the time, which is not there either: the clock is not to blame."""
    answer = send(robots.add("dingtalk", secret=SECRET), secret="")
    assert (answer.verdict, answer.reason) == (Verdict.REFUSED, "bad_signature")
    assert len(robots.requests) == 1


@pytest.mark.parametrize("ahead", [7200, -7200])
def test_a_clock_that_is_off_is_named(robots: Robots, ahead: float) -> None:
    robots.ahead = ahead
    answer = send(robots.add("dingtalk", secret=SECRET))
    assert (answer.verdict, answer.reason) == (Verdict.REFUSED, "clock_skew")
    assert (len(robots.requests), robots.accepted) == (1, [])


@pytest.mark.parametrize(
    ("kind", "rules", "reason"),
    [
        ("dingtalk", {"keyword": "报表"}, "keyword_missing"),
        ("feishu", {"keyword": "报表"}, "keyword_missing"),
        ("dingtalk", {"hosts_allowed": frozenset()}, "ip_not_allowed"),
        ("feishu", {"hosts_allowed": frozenset()}, "ip_not_allowed"),
        ("dingtalk", {"enabled": False}, "robot_disabled"),
    ],
)
def test_a_robots_own_rules_are_named(robots: Robots, kind: str, rules: dict[str, Any], reason: str) -> None:
    answer = send(robots.add(kind, **rules), keyword="")
    assert (answer.verdict, answer.reason) == (Verdict.REFUSED, reason)
    assert robots.accepted == []


@pytest.mark.parametrize("kind", ROBOT_KINDS)
def test_an_unknown_token_is_named(robots: Robots, kind: str) -> None:
    robot = robots.add(kind)
    robot.url = robot.url.replace(robot.token, "0" * 64)
    assert send(robot).reason == "bad_token"


def test_the_twenty_first_message_of_a_minute_is_limited_for_ten(robots: Robots) -> None:
    robot = robots.add("dingtalk")
    assert [send(robot).verdict for _message in range(20)] == [Verdict.ACCEPTED] * 20
    limited = send(robot)
    assert (limited.verdict, limited.wait) == (Verdict.LIMITED, 600)
    robots.ahead += 590
    assert send(robot).verdict == Verdict.LIMITED
    assert send(robots.add("dingtalk")) == ACCEPTED
    robots.ahead += 20
    assert send(robot) == ACCEPTED
    assert len([message for message in robots.accepted if message.token == robot.token]) == 21


# Settings.


def test_an_address_is_put_into_its_usual_form(robots: Robots) -> None:
    robot = robots.add("dingtalk", secret=SECRET)
    copied = f"  {robot.url}&timestamp=1690000000000&sign=abc%3D#top\n"
    transport = transport_to(robot, webhook_url=copied, secret=f" {SECRET} ")
    assert transport.settings["webhook_url"] == robot.url
    assert transport.settings["secret"] == SECRET
    assert transport.limit_key == robot.token


@pytest.mark.parametrize("kind", ROBOT_KINDS)
def test_the_limit_counts_for_the_robot_however_it_is_written(robots: Robots, kind: str) -> None:
    robot = robots.add(kind)
    assert transport_to(robot).limit_key == robot.token
    assert transport_to(robot, webhook_url=robot.url.replace("http:", "HTTP:")).limit_key == robot.token
    assert transport_to(robots.add(kind)).limit_key != robot.token


@pytest.mark.parametrize(
    ("kind", "url"),
    [
        ("dingtalk", ""),
        ("dingtalk", "oapi.dingtalk.com/robot/send?access_token=x"),
        ("dingtalk", "http://oapi.dingtalk.com/robot/send?access_token=x"),
        ("dingtalk", "https://oapi.dingtalk.com:8443/robot/send?access_token=x"),
        ("dingtalk", "https://oapi.dingtalk.com.example.com/robot/send?access_token=x"),
        ("dingtalk", "https://example.com/robot/send?access_token=x"),
        ("dingtalk", "https://oapi.dingtalk.com/robot/send"),
        ("dingtalk", "https://oapi.dingtalk.com/robot/send?access_token="),
        ("wecom", "https://qyapi.weixin.qq.com/cgi-bin/webhook/send"),
        ("wecom", "https://oapi.dingtalk.com/robot/send?access_token=x"),
        ("feishu", "https://open.feishu.cn/open-apis/bot/v2/hook/"),
        ("feishu", "https://open.feishu.cn"),
        ("webhook", "ftp://example.com/"),
        ("webhook", "https://"),
    ],
)
def test_an_address_that_can_not_work_is_refused_when_it_is_saved(robots: Robots, kind: str, url: str) -> None:
    name = "url" if kind == "webhook" else "webhook_url"
    with pytest.raises(ValidationError) as caught:
        transport_to(robots.add(kind), **{name: url})
    assert list(caught.value.message_dict) == [name]


@pytest.mark.parametrize(
    ("kind", "url"),
    [
        ("dingtalk", "https://oapi.dingtalk.com/robot/send?access_token=x"),
        ("dingtalk", "https://OAPI.dingtalk.com:443/robot/send?access_token=x"),
        ("wecom", "https://qyapi.weixin.qq.com/cgi-bin/webhook/send?key=x"),
        ("feishu", "https://open.feishu.cn/open-apis/bot/v2/hook/x"),
        ("feishu", "https://open.larksuite.com/open-apis/bot/v2/hook/x"),
        ("webhook", "https://example.com/hook?x=1"),
        ("webhook", "https://8.8.8.8/"),
    ],
)
def test_the_vendors_own_addresses_are_taken(robots: Robots, kind: str, url: str) -> None:
    transport_to(robots.add(kind), **{"url" if kind == "webhook" else "webhook_url": url})


@pytest.mark.parametrize(("kind", "name"), [("dingtalk", "at_mobiles"), ("wecom", "mentioned_mobiles")])
def test_what_is_no_mobile_number_is_refused_when_it_is_saved(robots: Robots, kind: str, name: str) -> None:
    with pytest.raises(ValidationError) as caught:
        transport_to(robots.add(kind), **{name: ["13800138000", "张三"]})
    assert "张三" in caught.value.message_dict[name][0]


def test_both_mistakes_are_told_at_once(robots: Robots) -> None:
    with pytest.raises(ValidationError) as caught:
        transport_to(robots.add("dingtalk"), webhook_url="x", at_mobiles=["y"])
    assert set(caught.value.message_dict) == {"webhook_url", "at_mobiles"}


def test_mobile_numbers_have_one_form() -> None:
    given = ["138 0013 8000", "+86 138-0013-8000", "8613800138000", "+852-51234567", "+1-4155550100"]
    assert clean_mobiles(given) == ["13800138000", "+852-51234567", "+1-4155550100"]
    for wrong in ("", "@all", "1380013800", "+", "12345", "@13800138000", "138001380000"):
        with pytest.raises(ValueError):
            clean_mobiles([wrong])
    assert clean_mobiles(["@all"], also=["@all"]) == ["@all"]


def test_a_channel_without_an_address_says_so(robots: Robots) -> None:
    transport = type(transport_to(robots.add("dingtalk")))({})
    assert transport.send(make_message(), transport.recipients) == {"robot": Answer(Verdict.REFUSED, "not_configured")}


def test_markup_is_taken_away_and_nothing_else() -> None:
    assert without_markup("2 > 1, a*b, x_y, [1] (2), #7") == "2 > 1, a*b, x_y, [1] (2), #7"


def test_bodies_are_json_that_is_read_as_it_was_meant(robots: Robots) -> None:
    text = '引号 " 反斜杠 \\ 换行\n制表\t表情 😀 </script>'
    for kind in KINDS:
        assert send(robots.add(kind), make_message(text=text)) == ACCEPTED
    assert robots.texts() == [text] * len(KINDS)
    assert json.loads(robots.requests[0].body)
