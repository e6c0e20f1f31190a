"""Every reason of a message that did not arrive, produced: the page of its run says it in the words of the document, and
what these advise helps. The servers' own logs are the judge."""

import logging
from collections.abc import Callable, Generator
from contextlib import closing
from io import StringIO

import pytest
from django.core.management import call_command
from pydantic import SecretStr

from notifications.models import Channel, Delivery, NotificationRule, SendingLimit
from notifications.outbox import DIGEST_OVER, Outbox
from notifications.states import DeliveryStatus
from notifications.transports import http
from tests.notifications.runs import A, B, deliver
from tests.servers import free_port
from tests.servers.mail import LOGIN, authority, read
from tests.servers.robots import Exchange, answers, cut, play, says, silent
from tests.symptoms.room import Room
from tests.symptoms.table import MESSAGES, ROWS, produces
from tests.tasks.test_scheduler import dead_worker

# Yields the channel to which messages will not come, or a message that was given up; and once more when the cure has been
# applied: nothing, or another channel, when the cure is for the messages of later runs.
Tale = Generator[Channel | Delivery | None, None, None]
Story = Callable[[Room], Tale]
STORIES: list[tuple[str, Story]] = []
SECRET = "SEC" + "0123456789abcdef" * 4
OWN_WORDS = {"rejected": "wrong signature", "content_refused": "looks like spam", "message_too_large": "exceeds"}


def story(code: str) -> Callable[[Story], Story]:
    def added(tell: Story) -> Story:
        STORIES.append((code, tell))
        return produces(MESSAGES, code)(tell)

    return added


@pytest.mark.parametrize(("code", "tell"), STORIES, ids=lambda value: getattr(value, "__name__", value))
def test_a_reason_leads_to_its_cure(code: str, tell: Story, room: Room) -> None:
    row = ROWS[MESSAGES, code]
    with closing(tell(room)) as told:
        found = next(told)
        message = message_to(room, found) if isinstance(found, Channel) else found
        assert message is not None
        assert (message.status, message.reason) == (DeliveryStatus.DEAD, code), message.error
        said = room.read_run(message.execution)
        assert row.words in said
        assert any(text.startswith("未送达") for text in said)
        page = room.html(f"/admin/notifications/delivery/{message.pk}/change/")
        assert OWN_WORDS.get(code, "") in page
        assert ("见下" in row.cure) == (code in OWN_WORDS)
        later = next(told, None)
        if isinstance(later, Channel):
            message = message_to(room, later)
        else:
            room.send_again(message.execution)
        message.refresh_from_db()
        assert (message.status, message.reason, message.error) == (DeliveryStatus.SENT, "", "")
        assert "已送达" in " ".join(room.read("/admin/tasks/execution/"))
        next(told, None)


def message_to(room: Room, channel: Channel, *, template: str = "") -> Delivery:
    """What has become of the message of a run to `channel`."""
    rule, _made = NotificationRule.objects.get_or_create(channel=channel, defaults={"template": template})
    run = room.run(room.export())
    return run.deliveries.get(channel=rule.channel, event="success")


def owed(room: Room, channel: Channel) -> Delivery:
    """A message to `channel` that nobody has tried to send yet."""
    NotificationRule.objects.create(channel=channel)
    return room.run(room.export(), send=False).deliveries.get()


# The network and the other side in general


@story("unreachable")
def a_wrong_address(room: Room) -> Tale:
    with room.robots() as server:
        right, wrong = server.place, f"127.0.0.1:{free_port()}"
        room.configure("notifications", private_hosts=[right, wrong])
        url = server.add("dingtalk").url
        channel = room.channel("dingtalk", webhook_url=url.replace(right, wrong))
        yield channel
        room.change(channel, settings={"webhook_url": url})
        yield None
        assert len(server.accepted) == 1


@story("timed_out")
def a_robot_that_says_nothing(room: Room) -> Tale:
    room.patch.setattr(http, "READ_TIMEOUT", 0.2)
    with room.robots() as server:
        server.script(silent(60), silent(60))
        yield room.channel("dingtalk", webhook_url=server.add("dingtalk").url)
        room.patch.setattr(http, "READ_TIMEOUT", 20)
        yield None
        assert len(server.accepted) == 1


@story("answer_lost")
def a_line_that_breaks_before_the_answer(room: Room) -> Tale:
    with room.robots() as server:
        server.script(cut(accepting=True), cut())
        yield room.channel("dingtalk", webhook_url=server.add("dingtalk").url)
        assert len(server.accepted) == 1, "a reader who is asked has it, or not"
        yield None
        assert Delivery.objects.get().possibly_duplicate


@story("server_error")
def a_robot_with_a_fault(room: Room) -> Tale:
    with room.robots() as server:
        server.script(*[answers(500)] * 8)
        yield room.channel("dingtalk", webhook_url=server.add("dingtalk").url)
        assert len(server.requests) == 8
        yield None
        assert len(server.accepted) == 1


@story("unreadable_answer")
def a_page_where_a_robot_was_expected(room: Room) -> Tale:
    with room.robots() as server:
        server.script(answers(200, "<html>login</html>"), answers(200, "<html>login</html>"))
        channel = room.channel("dingtalk", webhook_url=f"http://{server.place}/robot/send?access_token=of-a-page")
        yield channel
        room.change(channel, settings={"webhook_url": server.add("dingtalk").url})
        yield None
        assert len(server.accepted) == 1


@story("rejected")
def a_webhook_with_another_secret(room: Room) -> Tale:
    with room.robots() as server:
        url = server.add("webhook", secret=SECRET).url
        channel = room.channel("webhook", url=url, secret="another one")
        yield channel
        room.change(channel, settings={"url": url, "secret": SECRET})
        yield None
        assert len(server.accepted) == 1


@story("tls_failed")
def an_authority_that_nobody_knows(room: Room) -> Tale:
    with room.mail_server(tls="starttls", account=LOGIN) as server:
        yield room.channel("email", recipients=[A])
        trust(room)
        yield None
        assert len(server.log.mails) == 1


@story("tls_failed")
def a_certificate_for_another_name(room: Room) -> Tale:
    trust(room)
    with room.mail_server(tls="starttls", account=LOGIN, identity="localhost") as server:
        yield room.channel("email", recipients=[A])
        room.configure("email", smtp_server="localhost")
        yield None
        assert len(server.log.mails) == 1


def trust(room: Room) -> None:
    """This machine trusts the authority of the mail servers from now on."""
    file = room.directory / "authority.pem"
    authority().cert_pem.write_to_path(str(file))
    room.patch.setenv("SSL_CERT_FILE", str(file))


@story("address_refused")
def a_robot_in_the_own_network(room: Room) -> Tale:
    with room.robots() as server:
        room.configure("notifications", private_hosts=[])
        yield room.channel("dingtalk", webhook_url=server.add("dingtalk").url)
        assert server.connections == 0
        room.configure("notifications", private_hosts=[server.place])
        yield None
        assert len(server.accepted) == 1


@story("redirected")
def an_address_that_has_moved(room: Room) -> Tale:
    with room.robots() as server:
        moved, new = f"http://{server.place}/webhook/old", server.add("webhook").url
        server.script(answers(302, Location=new))
        channel = room.channel("webhook", url=moved)
        yield channel
        room.change(channel, settings={"url": new})
        yield None
        assert len(server.accepted) == 1


# Our own side


@story("not_configured")
def a_channel_without_an_address(room: Room) -> Tale:
    with room.robots() as server:
        channel = room.channel("dingtalk")
        yield channel
        room.change(channel, settings={"webhook_url": server.add("dingtalk").url})
        yield None
        assert len(server.accepted) == 1


@story("not_configured")
def a_configuration_without_a_mail_server(room: Room) -> Tale:
    yield room.channel("email", recipients=[A])
    with room.mail_server() as server:
        yield None
        assert len(server.log.mails) == 1


@story("secret_unreadable")
def a_key_that_comes_back(room: Room) -> Tale:
    with room.robots() as server:
        channel, keys = room.channel("dingtalk", webhook_url=server.add("dingtalk").url), room.settings.FERNET_KEYS
        room.settings.FERNET_KEYS = ["another key"]
        yield channel
        room.settings.FERNET_KEYS = keys
        yield None
        assert len(server.accepted) == 1


@story("secret_unreadable")
def a_lost_key(room: Room) -> Tale:
    with room.robots() as server:
        url = server.add("dingtalk").url
        channel = room.channel("dingtalk", webhook_url=url)
        room.settings.FERNET_KEYS = ["another key"]
        yield channel
        room.change(channel, settings={"webhook_url": url})
        yield None
        assert len(server.accepted) == 1


@story("channel_deleted")
def a_channel_that_is_gone(room: Room) -> Tale:
    with room.robots() as server:
        channel = room.channel("dingtalk", webhook_url=server.add("dingtalk").url)
        message = owed(room, channel)
        assert room.browser.delete(f"/api/channels/{channel.pk}").status_code == 204
        room.work()
        message.refresh_from_db()
        yield message
        yield room.channel("dingtalk", webhook_url=server.add("dingtalk").url)
        assert len(server.accepted) == 1


@story("channel_inactive")
def a_channel_that_is_switched_off(room: Room) -> Tale:
    with room.robots() as server:
        channel = room.channel("dingtalk", webhook_url=server.add("dingtalk").url)
        message = owed(room, channel)
        room.change(channel, is_active=False)
        room.work()
        message.refresh_from_db()
        yield message
        room.change(channel, is_active=True)
        yield None
        assert len(server.accepted) == 1


@story("file_unavailable")
def a_file_whose_store_is_away(room: Room) -> Tale:
    with room.mail_server() as server:
        endpoint = room.keep_in_a_bucket()
        message = owed(room, room.channel("email", recipients=[A]))
        room.configure("export", s3_endpoint=f"http://127.0.0.1:{free_port()}")
        room.work()
        message.refresh_from_db()
        yield message
        assert not server.log.mails
        room.configure("export", s3_endpoint=endpoint)
        yield None
        assert len(read(server.log.mails[0])[1]) == 1


@story("worker_lost")
def senders_that_die(room: Room) -> Tale:
    with room.robots() as server:
        message = owed(room, room.channel("dingtalk", webhook_url=server.add("dingtalk").url))
        gone = dead_worker()
        while not message.is_finished:
            assert Delivery.objects.claim([message], worker=gone)
            assert Outbox(threads=0).reap() == 1
            message.refresh_from_db()
        yield message
        yield None
        message.refresh_from_db()
        assert (len(server.accepted), message.possibly_duplicate) == (1, True)


@story("internal_error")
def a_fault_of_ours(room: Room) -> Tale:
    with room.robots() as server:
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr("notifications.transports.dingtalk.DingTalk.content", lambda *args: 1 / 0)
            yield room.channel("dingtalk", webhook_url=server.add("dingtalk").url)
        yield None
        assert len(server.accepted) == 1


def test_the_log_has_the_details_of_a_fault_of_ours(room: Room, caplog: pytest.LogCaptureFixture) -> None:
    with closing(a_fault_of_ours(room)) as told, caplog.at_level(logging.ERROR):
        channel = next(told)
        assert isinstance(channel, Channel)
        message_to(room, channel)
    assert "Traceback" in caplog.text
    assert "ZeroDivisionError" in caplog.text


# Robots


@produces(MESSAGES, "rate_limited")
def test_a_robot_that_has_had_too_much_gets_one_digest_later(room: Room) -> None:
    row = ROWS[MESSAGES, "rate_limited"]
    with room.robots() as server:
        server.script(says(130101, "send too fast, exceed 20 times per minute"))
        channel = room.channel("dingtalk", webhook_url=server.add("dingtalk").url)
        message = message_to(room, channel)
        assert (message.status, message.reason) == (DeliveryStatus.RETRY, "rate_limited")
        said = room.read_run(message.execution)
        assert row.words in said
        assert "等待重试" in said
        task = message.execution.task
        assert task is not None
        for _run in range(DIGEST_OVER):
            room.run(task)
        assert (server.texts(), len(server.requests)) == ([], 1)
        SendingLimit.objects.update(blocked_until=None)  # The ten minutes are over.
        deliver()
        assert len(server.texts()) == 1
        assert server.texts()[0].count("`#") == DIGEST_OVER + 1
    assert set(Delivery.objects.values_list("status", "merged")) == {(DeliveryStatus.SENT, True)}


@story("bad_token")
def a_wrong_token(room: Room) -> Tale:
    with room.robots() as server:
        url = server.add("dingtalk").url
        channel = room.channel("dingtalk", webhook_url=url[:-1])
        yield channel
        room.change(channel, settings={"webhook_url": url})
        yield None
        assert len(server.accepted) == 1


@story("robot_disabled")
def a_robot_that_is_switched_off(room: Room) -> Tale:
    with room.robots() as server:
        robot = server.add("dingtalk", enabled=False)
        yield room.channel("dingtalk", webhook_url=robot.url)
        robot.enabled = True
        yield None
        assert len(server.accepted) == 1


@story("keyword_missing")
def a_keyword_that_is_not_known_here(room: Room) -> Tale:
    with room.robots() as server:
        channel = room.channel("dingtalk", webhook_url=server.add("dingtalk", keyword="日报").url)
        yield channel
        room.change(channel, settings={"keyword": "日报"})
        yield None
        assert "日报" in server.texts()[0]


@story("bad_signature")
def another_signing_secret(room: Room) -> Tale:
    yield from secret_of_a_robot(room, "SEC-another")


@story("bad_signature")
def no_signing_secret(room: Room) -> Tale:
    """DingTalk itself speaks of the time then."""
    yield from secret_of_a_robot(room, "")


def secret_of_a_robot(room: Room, wrong: str) -> Tale:
    with room.robots() as server:
        channel = room.channel("dingtalk", webhook_url=server.add("dingtalk", secret=SECRET).url, secret=wrong)
        yield channel
        room.change(channel, settings={"secret": SECRET})
        yield None
        assert len(server.accepted) == 1


@story("clock_skew")
def a_clock_that_is_off(room: Room) -> Tale:
    with room.robots() as server:
        server.ahead = 7200
        yield room.channel("dingtalk", webhook_url=server.add("dingtalk", secret=SECRET).url, secret=SECRET)
        server.ahead = 0
        yield None
        assert len(server.accepted) == 1


@story("ip_not_allowed")
def a_list_without_this_machine(room: Room) -> Tale:
    with room.robots() as server:
        robot = server.add("dingtalk", hosts_allowed=frozenset())
        yield room.channel("dingtalk", webhook_url=robot.url)
        robot.hosts_allowed = frozenset({"127.0.0.1"})
        yield None
        assert len(server.accepted) == 1


@story("too_long")
def a_long_template(room: Room) -> Tale:
    """For a robot that takes less than its vendor says."""

    def short_of_breath(exchange: Exchange) -> None:
        step = says(460101, "message too long, exceed 2000 bytes") if len(exchange.request_seen.body) > 2000 else play
        step(exchange)

    with room.robots() as server:
        server.script(short_of_breath, short_of_breath)
        channel = room.channel("dingtalk", webhook_url=server.add("dingtalk").url)
        yield message_to(room, channel, template="长" * 1000)
        NotificationRule.objects.update(template="{task_name}")
        yield channel
        assert len(server.accepted) == 1


# Mail


@story("auth_failed")
def a_wrong_mail_password(room: Room) -> Tale:
    trust(room)
    wrong = {"password": SecretStr("not-its-password")}
    with room.mail_server(tls="starttls", account=LOGIN, settings=wrong) as server:
        yield room.channel("email", recipients=[A])
        room.configure("email", password=SecretStr(LOGIN.password))
        yield None
        assert len(server.log.mails) == 1


@story("tls_missing")
def a_mail_server_without_tls(room: Room) -> Tale:
    trust(room)
    with room.mail_server(account=LOGIN, offers_login_in_clear=True) as plain:
        yield room.channel("email", recipients=[A])
        assert not plain.log.logins
    with room.mail_server(tls="starttls", account=LOGIN) as server:
        yield None
        assert len(server.log.mails) == 1


@story("sender_refused")
def a_user_name_that_can_be_no_sender(room: Room) -> Tale:
    with room.mail_server(settings={"username": "报表@example.com"}) as server:
        yield room.channel("email", recipients=[A])
        room.configure("email", username=LOGIN.username)
        yield None
        assert server.log.mails[0].sender == LOGIN.username


@story("recipient_refused")
def an_address_that_nobody_has(room: Room) -> Tale:
    with room.mail_server() as server:
        server.say(B, "550 5.1.1 no such user")
        channel = room.channel("email", recipients=[B])
        yield channel
        room.change(channel, settings={"recipients": [A]})
        yield None
        assert [mail.recipients for mail in server.log.mails] == [(A,)]


@story("mailbox_busy")
def a_mailbox_that_takes_nothing_now(room: Room) -> Tale:
    with room.mail_server() as server:
        server.say(A, *["451 4.2.0 try later"] * 3)
        yield room.channel("email", recipients=[A])
        assert len(server.log.recipients) == 3
        yield None
        assert len(server.log.mails) == 1


@story("message_too_large")
def a_server_with_a_small_limit(room: Room) -> Tale:
    with room.mail_server(size_limit=100) as server:
        yield room.channel("email", recipients=[A])
        assert server.log.commands.count("MAIL") == 2, "with the file, and without"
        server.size_limit = 0
        yield None
        assert len(server.log.mails) == 1


@story("content_refused")
def a_filter_against_spam(room: Room) -> Tale:
    with room.mail_server() as server:
        server.say("BODY", "554 5.7.1 looks like spam")
        yield room.channel("email", recipients=[A])
        yield None
        assert len(server.log.mails) == 1


def test_the_command_line_says_the_same_and_sends_again(room: Room) -> None:
    with room.robots() as server:
        robot = server.add("dingtalk", enabled=False)
        message = message_to(room, room.channel("dingtalk", webhook_url=robot.url))
        robot.enabled = True
        out = StringIO()
        call_command("task", "resend", str(message.execution_id), stdout=out)
    assert "已发送" in out.getvalue()
    assert len(server.accepted) == 1
