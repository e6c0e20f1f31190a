"""Mails: what each recipient's answer means, and what the mail looks like. The judge is a real server's log."""

import base64
import email
import io
import re
import smtplib
import socket
import threading
import time
import tracemalloc
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from email import policy
from email.header import decode_header, make_header
from email.message import EmailMessage
from email.message import Message as LegacyMessage
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from django.conf import LazySettings
from django.core.exceptions import ValidationError
from django.utils import translation
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import SecretStr

from exporter_site.redact import remember_secret
from notifications.reasons import REASONS
from notifications.transports import transports
from notifications.transports.base import Answer, Attachment, Message, Verdict
from notifications.transports.email import MAX_RECIPIENTS, Email
from notifications.transports.mime import Mail, compose, encoded_size
from tests.servers import Account, free_port
from tests.servers.mail import LOGIN, Accepted, Fault, MailServer, authority, configure

A, B, C = "a@example.com", "b@example.com", "c@example.com"
LONG = "二〇二五年第三季度华东华南华北各大区门店销售明细与退换货汇总报表（含税、含运费、不含赠品，按商品大类和渠道拆分，最终确认稿第十二版）"
assert len(LONG) >= 60


@pytest.fixture
def server(settings: LazySettings) -> Iterator[MailServer]:
    """Takes everything from everybody, without TLS."""
    with MailServer() as made:
        configure(settings, made)
        yield made


@pytest.fixture
def trusted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The servers' certificates are good ones."""
    authority().cert_pem.write_to_path(tmp_path / "authority.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))


@pytest.fixture
def attach(tmp_path: Path) -> Callable[..., Attachment]:
    def make(name: str = "订单.xlsx", content: bytes = b"PK\x03\x04 cells") -> Attachment:
        path = tmp_path / f"file-{len(list(tmp_path.iterdir()))}"
        path.write_bytes(content)
        return Attachment(lambda: path.open("rb"), name, len(content))

    return make


Attach = Callable[..., Attachment]


def make_message(**changes: Any) -> Message:
    values: dict[str, Any] = {"key": "delivery-7", "title": "每日订单：导出成功", "text": "共 1,000 行。\n\n祝好"}
    return Message(**values | changes)


def send(message: Message | None = None, *recipients: str, to: Sequence[str] = ()) -> dict[str, Answer]:
    """Send to `recipients` of a channel that has those, or has `to`."""
    names = recipients or (A,)
    return Email({"recipients": list(to or names)}).send(message or make_message(), names)


def send_one(message: Message | None = None) -> Answer:
    return send(message, A)[A]


def change(settings: LazySettings, **changes: object) -> None:
    section = settings.CONFIG.email.model_copy(update=changes)
    settings.CONFIG = settings.CONFIG.model_copy(update={"email": section})


def reasons(answers: dict[str, Answer]) -> dict[str, tuple[Verdict, str]]:
    assert all(answer.reason in REASONS for answer in answers.values() if answer.reason)
    return {name: (answer.verdict, answer.reason) for name, answer in answers.items()}


def read(mail: Accepted) -> EmailMessage:
    """The mail as today's clients read it."""
    parsed = email.message_from_bytes(mail.content, policy=policy.default)
    assert isinstance(parsed, EmailMessage)
    return parsed


def read_as_older_clients(mail: Accepted) -> "LegacyMessage[str, str]":
    return email.message_from_bytes(mail.content, policy=policy.compat32)


def decoded(value: object) -> str:
    return str(make_header(decode_header(str(value))))


def body(mail: Accepted, kind: str) -> str:
    part = read(mail).get_body((kind,))
    assert part is not None
    content: str = part.get_content()
    return content.replace("\r\n", "\n")


def names_of_files(mail: Accepted) -> list[str | None]:
    return [part.get_filename() for part in read(mail).iter_attachments()]


# Who gets it


def test_a_mail_is_accepted_with_the_words_of_the_server(server: MailServer) -> None:
    answers = send(None, A, B)
    assert set(answers.values()) == {Answer(Verdict.ACCEPTED, text="250 2.0.0 Ok: queued as 4711")}
    (mail,) = server.log.mails
    assert (mail.sender, mail.recipients) == (LOGIN.username, (A, B))
    assert server.log.commands[-1] == "QUIT"


def test_each_recipient_has_an_answer_of_its_own(server: MailServer) -> None:
    server.say(A, "451 4.7.1 greylisted, come back later")
    server.say(B, "550 5.1.1 no such user")
    answers = send(None, A, B, C)
    assert reasons(answers) == {
        A: (Verdict.DEFERRED, "mailbox_busy"),
        B: (Verdict.REFUSED, "recipient_refused"),
        C: (Verdict.ACCEPTED, ""),
    }
    assert answers[A].text == "451 4.7.1 greylisted, come back later"
    assert [mail.recipients for mail in server.log.mails] == [(C,)]


def test_nothing_is_sent_when_all_are_refused(server: MailServer) -> None:
    server.say(A, "550 5.1.1 no such user")
    server.say(B, "452 4.2.2 mailbox full")
    assert reasons(send(None, A, B)) == {
        A: (Verdict.REFUSED, "recipient_refused"),
        B: (Verdict.DEFERRED, "mailbox_busy"),
    }
    assert "DATA" not in server.log.commands


def test_only_those_asked_for_get_it_and_all_are_named_in_it(server: MailServer) -> None:
    answers = send(None, B, to=[A, B, C])
    assert list(answers) == [B]
    (mail,) = server.log.mails
    assert mail.recipients == (B,)
    assert read(mail)["To"] == f"{A}, {B}, {C}"
    assert [recipient.address for recipient in server.log.recipients] == [B]


@pytest.mark.parametrize(
    ("where", "reply", "verdict", "reason"),
    [
        ("CONNECT", "554 5.7.1 no service for you", Verdict.REFUSED, "rejected"),
        ("MAIL", "550 5.7.1 not your address", Verdict.REFUSED, "sender_refused"),
        ("MAIL", "451 4.3.0 try again", Verdict.DEFERRED, "server_error"),
        ("MAIL", "530 5.7.0 log in first", Verdict.REFUSED, "auth_failed"),
        ("DATA", "554 5.5.1 no valid recipients", Verdict.REFUSED, "content_refused"),
        ("DATA", "451 4.3.0 no space", Verdict.DEFERRED, "server_error"),
        ("BODY", "554 5.7.1 looks like spam", Verdict.REFUSED, "content_refused"),
        ("BODY", "550 5.7.1 looks like spam", Verdict.REFUSED, "content_refused"),
        ("BODY", "451 4.3.0 try again", Verdict.DEFERRED, "server_error"),
        ("BODY", "552 5.2.3 too long", Verdict.REFUSED, "message_too_large"),
        ("BODY", "554 5.3.4 over the limit", Verdict.REFUSED, "message_too_large"),
        ("BODY", "500 Message TOO LARGE for us", Verdict.REFUSED, "message_too_large"),
        ("MAIL", "552 message size exceeds fixed limit", Verdict.REFUSED, "message_too_large"),
        ("BODY", "pardon?", Verdict.UNKNOWN, "unreadable_answer"),
        ("BODY", "354 and?", Verdict.UNKNOWN, "unreadable_answer"),
        ("MAIL", "pardon?", Verdict.DEFERRED, "server_error"),
    ],
)
def test_what_a_reply_means(server: MailServer, where: str, reply: str, verdict: Verdict, reason: str) -> None:
    server.say(where, reply)
    answers = send(None, A, B)
    assert reasons(answers) == {A: (verdict, reason), B: (verdict, reason)}
    assert answers[A].text in (reply, reply[4:].strip())
    assert not server.log.mails


@pytest.mark.parametrize("where", ["CONNECT", "EHLO", "MAIL", "RCPT", B, "DATA", "BODY"])
def test_a_server_that_closes_for_now_is_asked_again_later(server: MailServer, where: str) -> None:
    server.say(where, "421 4.3.2 service shutting down")
    assert set(reasons(send(None, A, B)).values()) == {(Verdict.DEFERRED, "server_error")}
    assert not server.log.mails


def test_a_refusal_stands_when_the_server_closes_afterwards(server: MailServer) -> None:
    server.say(A, "550 5.1.1 no such user")
    server.say(B, "421 4.3.2 too many connections")
    assert reasons(send(None, A, B, C)) == {
        A: (Verdict.REFUSED, "recipient_refused"),
        B: (Verdict.DEFERRED, "server_error"),
        C: (Verdict.DEFERRED, "server_error"),
    }


def test_an_old_server_without_ehlo_is_greeted_with_helo(server: MailServer) -> None:
    server.say("EHLO", "502 5.5.1 what?")
    assert send_one().verdict == Verdict.ACCEPTED
    assert server.log.commands[:2] == ["EHLO", "HELO"]


def test_the_words_of_the_server_are_cut_and_carry_no_secret(server: MailServer) -> None:
    remember_secret("a-secret-of-ours")
    server.say("MAIL", "550 a-secret-of-ours 拒绝 " + "x" * 400, "550-" + "y" * 400 + "\r\n550 " + "z" * 400)
    said = send_one().text
    assert "a-secret-of-ours" not in said
    assert "拒绝" in said
    assert len(send_one().text) == 500


# What breaks on the way


@pytest.mark.parametrize("where", ["CONNECT", "EHLO", "MAIL", A, "DATA"])
@pytest.mark.parametrize(("fault", "reason"), [(Fault.CUT, "unreachable"), (Fault.SILENCE, "timed_out")])
def test_a_conversation_that_breaks_before_the_mail_is_begun_again_later(
    server: MailServer, settings: LazySettings, where: str, fault: Fault, reason: str
) -> None:
    change(settings, smtp_timeout=1 if fault is Fault.SILENCE else 30)
    server.say(where, fault)
    assert set(reasons(send(None, A, B)).values()) == {(Verdict.DEFERRED, reason)}


@pytest.mark.parametrize("fault", [Fault.CUT, Fault.SILENCE])
def test_a_lost_answer_leaves_open_whether_the_mail_arrived(
    server: MailServer, settings: LazySettings, fault: Fault
) -> None:
    change(settings, smtp_timeout=1 if fault is Fault.SILENCE else 30)
    server.say("BODY", fault)
    server.say(B, "550 5.1.1 no such user")
    assert reasons(send(None, A, B)) == {
        A: (Verdict.UNKNOWN, "answer_lost"),
        B: (Verdict.REFUSED, "recipient_refused"),
    }
    assert len(server.log.mails) == 1  # here it did


def test_a_mail_that_was_cut_before_its_end_did_not_arrive(server: MailServer, attach: Attach) -> None:
    server.say("DATA", Fault.CUT_IN_BODY)
    big = attach(content=bytes(8_000_000))
    assert reasons(send(make_message(attachments=[big]), A)) == {A: (Verdict.DEFERRED, "unreachable")}
    assert not server.log.mails


@pytest.mark.parametrize("greeting", [b"", b"220 mail.test\r\n"])
def test_a_reply_that_does_not_end_keeps_nobody_for_ever(settings: LazySettings, greeting: bytes) -> None:
    def talk() -> None:
        connection, _address = listener.accept()
        with closing(connection), suppress(OSError):
            connection.sendall(greeting)
            while not over.wait(0.02):
                connection.sendall(b"250-and\r\n")

    over = threading.Event()
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        talker = threading.Thread(target=talk)
        talker.start()
        section = {"smtp_server": "127.0.0.1", "smtp_port": listener.getsockname()[1], "username": LOGIN.username}
        change(settings, smtp_timeout=0.2, **section)
        begun = time.monotonic()
        # Somebody who is kept for ever must not keep the tests as well.
        rescue = threading.Timer(8, over.set)
        rescue.start()
        answer = send_one()
        took = time.monotonic() - begun
        rescue.cancel()
        over.set()
        talker.join(10)
    assert (answer.verdict, answer.reason) == (Verdict.DEFERRED, "timed_out")
    assert took < 4


@pytest.mark.parametrize("fault", [Fault.CUT, Fault.SILENCE, "421 bye", "500 what?"])
def test_an_accepted_mail_stays_accepted_whatever_becomes_of_the_goodbye(
    server: MailServer, settings: LazySettings, fault: Fault | str
) -> None:
    change(settings, smtp_timeout=1)
    server.say("QUIT", fault)
    assert send_one().verdict == Verdict.ACCEPTED
    assert len(server.log.mails) == 1


def test_nobody_listens(settings: LazySettings, server: MailServer) -> None:
    change(settings, smtp_port=free_port())
    assert reasons(send()) == {A: (Verdict.DEFERRED, "unreachable")}


@pytest.mark.parametrize("name", [".example.com", "邮件..例子", "x" * 70 + ".example.com"])
def test_a_name_that_leads_nowhere(settings: LazySettings, server: MailServer, name: str) -> None:
    change(settings, smtp_server=name)
    assert reasons(send()) == {A: (Verdict.DEFERRED, "unreachable")}


def set_clock(monkeypatch: pytest.MonkeyPatch, clock: Callable[[], float]) -> None:
    for module in ("email", "smtp"):
        monkeypatch.setattr(f"notifications.transports.{module}.time", SimpleNamespace(monotonic=clock))


def test_a_server_that_is_slow_at_each_step_is_left_after_four_timeouts(
    server: MailServer, settings: LazySettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(settings, smtp_timeout=30)
    set_clock(monkeypatch, partial(next, iter(range(0, 10_000, 29))))
    assert reasons(send(None, A, B, C)) == dict.fromkeys((A, B, C), (Verdict.DEFERRED, "timed_out"))
    assert "DATA" not in server.log.commands


def test_a_mail_that_takes_too_long_to_send_is_broken_off(
    server: MailServer, settings: LazySettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_clock(monkeypatch, lambda: 1e6 if "DATA" in server.log.commands else 0)
    assert reasons(send()) == {A: (Verdict.DEFERRED, "timed_out")}
    assert not server.log.mails


# Logging in, and TLS


@pytest.mark.parametrize(
    "changes",
    [
        {"smtp_server": ""},
        {"smtp_server": "your_mysql_host"},
        {"username": "your_email@example.com"},
        {"password": SecretStr("your_password")},
    ],
)
def test_a_server_that_nobody_configured_is_not_asked(
    server: MailServer, settings: LazySettings, changes: dict[str, object]
) -> None:
    change(settings, **changes)
    assert reasons(send(None, A, B)) == dict.fromkeys((A, B), (Verdict.REFUSED, "not_configured"))
    assert not server.log.commands


@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize("mechanisms", [("LOGIN", "PLAIN"), ("PLAIN",), ("LOGIN",)])
@pytest.mark.parametrize("password", [LOGIN.password, "密码 with spaces"])
def test_the_login_goes_over_starttls(settings: LazySettings, mechanisms: tuple[str, ...], password: str) -> None:
    with MailServer(tls="starttls", account=Account(LOGIN.username, password), mechanisms=mechanisms) as server:
        configure(settings, server)
        assert send_one().verdict == Verdict.ACCEPTED
    assert [(mail.encrypted, mail.user) for mail in server.log.mails] == [(True, LOGIN.username)]


@pytest.mark.usefixtures("trusted")
def test_the_port_for_tls_speaks_it_from_the_first_byte(
    settings: LazySettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with MailServer(tls="implicit", account=LOGIN) as server:
        monkeypatch.setattr(smtplib, "SMTP_SSL_PORT", server.port)
        configure(settings, server)
        assert send_one().verdict == Verdict.ACCEPTED
    assert [(mail.encrypted, mail.user) for mail in server.log.mails] == [(True, LOGIN.username)]


def test_a_password_is_never_sent_in_clear(settings: LazySettings) -> None:
    # As somebody in between leaves it who took STARTTLS out of what the server offers.
    with MailServer(account=LOGIN, offers_login_in_clear=True) as server:
        configure(settings, server)
        assert reasons(send(None, A, B)) == dict.fromkeys((A, B), (Verdict.REFUSED, "tls_missing"))
    assert not server.log.logins
    assert "AUTH" not in server.log.commands


@pytest.mark.parametrize("changes", [{"username": ""}, {"password": SecretStr("")}])
def test_without_an_account_there_is_no_login(
    server: MailServer, settings: LazySettings, changes: dict[str, object]
) -> None:
    change(settings, **{"password": SecretStr("never-needed")} | changes)
    assert send_one().verdict == Verdict.ACCEPTED
    assert "AUTH" not in server.log.commands


def test_a_mail_without_a_user_name_still_has_a_sender(server: MailServer, settings: LazySettings) -> None:
    change(settings, username="")
    send()
    (mail,) = server.log.mails
    assert mail.sender.startswith("data-export-system@")
    assert read(mail)["Message-ID"] == "<delivery-7@data-export-system>"


@pytest.mark.parametrize("username", ["a@b.cn\r\nRCPT TO:<evil@example.com>", "用户@example.com", "A B <a@b.cn>"])
def test_a_user_name_that_can_be_no_sender(server: MailServer, settings: LazySettings, username: str) -> None:
    change(settings, username=username)
    assert reasons(send()) == {A: (Verdict.REFUSED, "sender_refused")}
    assert not server.log.commands


@pytest.mark.usefixtures("trusted")
def test_a_wrong_password_is_tried_once(settings: LazySettings) -> None:
    with MailServer(tls="starttls", account=LOGIN) as server:
        configure(settings, server, password=SecretStr("a-wrong-password"))
        answers = send(None, A, B)
    assert reasons(answers) == dict.fromkeys((A, B), (Verdict.REFUSED, "auth_failed"))
    assert answers[A].text.startswith("535 ")
    assert len(server.log.logins) == 1


@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize(
    ("reply", "verdict", "reason"),
    [
        ("535 5.7.8 wrong", Verdict.REFUSED, "auth_failed"),
        ("534 5.7.9 use an app password", Verdict.REFUSED, "auth_failed"),
        ("454 4.7.0 temporary failure", Verdict.DEFERRED, "server_error"),
        ("421 4.7.0 too many tries", Verdict.DEFERRED, "server_error"),
    ],
)
def test_what_the_reply_to_a_login_means(settings: LazySettings, reply: str, verdict: Verdict, reason: str) -> None:
    with MailServer(tls="starttls", account=LOGIN) as server:
        configure(settings, server)
        server.say("AUTH", reply)
        assert reasons(send()) == {A: (verdict, reason)}


@pytest.mark.usefixtures("trusted")
def test_a_server_that_says_the_login_back_gives_no_secret_away(settings: LazySettings) -> None:
    encoded = base64.b64encode(f"\0{LOGIN.username}\0{LOGIN.password}".encode()).decode()
    with MailServer(tls="starttls", account=LOGIN) as server:
        configure(settings, server)
        server.say("AUTH", f"500 5.5.1 unknown command: AUTH PLAIN {encoded}")
        assert encoded not in send_one().text


@pytest.mark.usefixtures("trusted")
def test_a_server_that_takes_no_login_we_know(settings: LazySettings) -> None:
    with MailServer(tls="starttls", account=LOGIN, mechanisms=()) as server:
        configure(settings, server)
        assert reasons(send()) == {A: (Verdict.REFUSED, "auth_failed")}


@pytest.mark.parametrize("tls", ["starttls", "implicit"])
def test_a_certificate_that_nobody_knows_is_not_taken(
    settings: LazySettings, monkeypatch: pytest.MonkeyPatch, tls: str
) -> None:
    with MailServer(tls=tls, account=LOGIN) as server:
        monkeypatch.setattr(smtplib, "SMTP_SSL_PORT", server.port if tls == "implicit" else 465)
        configure(settings, server)
        assert reasons(send()) == {A: (Verdict.DEFERRED, "tls_failed")}
    assert not server.log.logins


@pytest.mark.usefixtures("trusted")
def test_a_certificate_of_another_host_is_not_taken(settings: LazySettings) -> None:
    with MailServer(tls="starttls", account=LOGIN, identity="mail.example.com") as server:
        configure(settings, server)
        assert reasons(send()) == {A: (Verdict.DEFERRED, "tls_failed")}


def test_a_server_that_speaks_no_tls_on_the_port_for_it(server: MailServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smtplib, "SMTP_SSL_PORT", server.port)
    assert reasons(send()) == {A: (Verdict.DEFERRED, "tls_failed")}


@pytest.mark.parametrize(("reply", "reason"), [("454 4.7.0 not now", "tls_failed"), ("421 bye", "server_error")])
def test_starttls_that_is_offered_and_refused(settings: LazySettings, reply: str, reason: str) -> None:
    with MailServer(tls="starttls", account=LOGIN) as server:
        configure(settings, server)
        server.say("STARTTLS", reply)
        assert reasons(send()) == {A: (Verdict.DEFERRED, reason)}
    assert not server.log.logins


# Addresses


@pytest.mark.parametrize(
    "bad", ["用户@example.com", "a@b.cn\r\nBcc: evil@example.com", "a@b.cn>\nDATA", "a b@example.com", "", "a@例..子"]
)
def test_an_impossible_address_harms_nobody_else(server: MailServer, bad: str) -> None:
    assert reasons(send(None, bad, A)) == {bad: (Verdict.REFUSED, "recipient_refused"), A: (Verdict.ACCEPTED, "")}
    (mail,) = server.log.mails
    assert mail.recipients == (A,)
    assert read(mail)["To"] == A


def test_a_domain_beyond_ascii_is_written_as_the_wire_wants_it(server: MailServer) -> None:
    assert reasons(send(None, "user@例子.中国")) == {"user@例子.中国": (Verdict.ACCEPTED, "")}
    (mail,) = server.log.mails
    assert mail.recipients == ("user@xn--fsqu00a.xn--fiqs8s",)


def clean(*recipients: object) -> list[str]:
    values: dict[str, Any] = {"recipients": list(recipients)}
    transports.get("email").clean(values)
    cleaned: list[str] = values["recipients"]
    return cleaned


def test_addresses_are_kept_once() -> None:
    assert clean(A, f" {B} ", "A@Example.com", A, "user@例子.中国") == [A, B, "user@例子.中国"]


@pytest.mark.parametrize("bad", ["nobody", "a@", "a@b.cn\nc@d.cn", "用户@example.com", '"a b"@example.com', 7, ""])
def test_what_is_no_address_is_refused_by_name(bad: object) -> None:
    with pytest.raises(ValidationError) as caught:
        clean(A, bad)
    (words,) = caught.value.message_dict["recipients"]
    assert str(bad) in words
    assert A not in words


def test_there_is_an_end_to_addresses() -> None:
    many = [f"user{number}@example.com" for number in range(MAX_RECIPIENTS + 1)]
    assert len(clean(*many[1:])) == MAX_RECIPIENTS
    with pytest.raises(ValidationError) as caught:
        clean(*many)
    assert str(MAX_RECIPIENTS) in caught.value.message_dict["recipients"][0]


def test_a_hundred_recipients_get_one_mail(server: MailServer) -> None:
    many = [f"user{number}@example.com" for number in range(MAX_RECIPIENTS)]
    assert set(reasons(send(None, *many)).values()) == {(Verdict.ACCEPTED, "")}
    (mail,) = server.log.mails
    assert mail.recipients == tuple(many)
    assert [address.addr_spec for address in read(mail)["To"].addresses] == many


# What it says


def test_the_headers_that_keep_a_mail_one_and_machines_quiet(server: MailServer) -> None:
    send()
    send()
    first, second = map(read, (mail for mail in server.log.mails))
    assert first["Message-ID"] == second["Message-ID"] == "<delivery-7@example.com>"
    assert first["Auto-Submitted"] == "auto-generated"
    assert first["X-Auto-Response-Suppress"] == "All"
    assert first["Date"].datetime.tzinfo is not None


@pytest.mark.parametrize(
    "title", ["每日订单：导出成功", LONG, "Export finished", "Orders: 100 rows (每日)", f"{LONG} {LONG}"]
)
@pytest.mark.parametrize("name", ["数据导出系统", "Data, Export & Co. <x>", LONG, ""])
def test_subject_and_sender_are_read_by_new_and_old_clients(
    server: MailServer, settings: LazySettings, title: str, name: str
) -> None:
    change(settings, from_name=name)
    send(make_message(title=title))
    (mail,) = server.log.mails
    new, old = read(mail), read_as_older_clients(mail)
    assert new["Subject"] == title
    assert decoded(old["Subject"]) == title
    (sender,) = new["From"].addresses
    # Python 3.11 leaves the space between two encoded words of a name, against RFC 2047, 6.2.
    assert visible(sender.display_name) == visible(name)
    assert sender.addr_spec == LOGIN.username
    old_name, old_address = email.utils.parseaddr(old["From"])
    assert (decoded(old_name), old_address) == (name, LOGIN.username)
    assert max(map(len, mail.content.splitlines())) <= 78


def test_text_facts_and_link_stand_in_both_forms(server: MailServer) -> None:
    url = "https://exports.example.com/d/7?t=abc&x=1"
    send(make_message(facts=[("行数", "1,000"), ("耗时", "3.2秒")], url=url))
    (mail,) = server.log.mails
    text = body(mail, "plain")
    assert text.startswith("共 1,000 行。\n\n祝好\n\n行数: 1,000\n耗时: 3.2秒\n\n")
    assert url in text
    html = body(mail, "html")
    assert re.search(r"<td [^>]*>耗时</td>\s*<td [^>]*>3\.2秒</td>", html)
    assert 'href="https://exports.example.com/d/7?t=abc&amp;x=1"' in html
    assert "共 1,000 行。</p>" in html


def test_a_link_that_the_text_has_is_not_said_twice(server: MailServer) -> None:
    send(make_message(text="下载：https://x.example/1", url="https://x.example/1"))
    assert body(server.log.mails[0], "plain").count("https://x.example/1") == 1


def test_facts_alone_make_a_text(server: MailServer) -> None:
    send(make_message(text="", facts=[("行数", "0")]))
    assert body(server.log.mails[0], "plain") == "行数: 0\n"


def test_html_of_others_is_only_text_and_nothing_is_loaded_from_elsewhere(server: MailServer) -> None:
    evil = "<img src=x onerror=alert(1)>"
    send(make_message(title=evil, text=f"{evil}\n</p>{evil}", facts=[(evil, evil)], url=f'https://x/"{evil}'))
    html = body(server.log.mails[0], "html")
    assert "<img" not in html
    assert not re.search(r"<(?:link|script|img|iframe|style)\b|url\(|@import", html)
    assert html.count("&lt;img src=x onerror=alert(1)&gt;") >= 5


def test_lines_are_kept_and_dots_survive(server: MailServer) -> None:
    text = ".\n..\nFrom here\n.end\n" + "长" * 2000
    send(make_message(text=text))
    (mail,) = server.log.mails
    assert body(mail, "plain") == f"{text}\n"
    assert ".<br>..<br>From here<br>.end<br>" in body(mail, "html")


# Files


@pytest.mark.parametrize(
    "name", ["订单.xlsx", f"{LONG}.xlsx", "orders 2025.xlsx", 'a"b\\c;d.xlsx', "😀" * 30 + ".xlsx"]
)
def test_a_file_comes_with_its_name_for_new_and_old_clients(server: MailServer, attach: Attach, name: str) -> None:
    content = bytes(range(256)) * 1000
    send(make_message(attachments=[attach(name, content)]))
    (mail,) = server.log.mails
    (new,) = read(mail).iter_attachments()
    assert new.get_filename() == name
    assert new.get_content() == content
    assert new.is_attachment()
    old = [part for part in read_as_older_clients(mail).walk() if part.get_filename()]
    assert [part.get_filename() for part in old] == [name]
    assert decoded(old[0].get_param("name")) == name
    assert old[0].get_payload(decode=True) == content
    assert old[0].get_content_type() == "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
    assert max(map(len, mail.content.splitlines())) <= 100


def test_several_files_come_in_order_with_their_types(server: MailServer, attach: Attach) -> None:
    files = [attach("订单.csv", "\ufeff编号\r\n".encode()), attach("订单.zip", b"PK\x05\x06"), attach("订单.dat", b"")]
    send(make_message(attachments=files))
    (mail,) = server.log.mails
    assert names_of_files(mail) == ["订单.csv", "订单.zip", "订单.dat"]
    parts = list(read(mail).iter_attachments())
    assert [part.get_content_type() for part in parts] == ["text/csv", "application/zip", "application/octet-stream"]
    assert [part.get_payload(decode=True) for part in parts] == ["\ufeff编号\r\n".encode(), b"PK\x05\x06", b""]


def test_what_counts_is_the_size_as_encoded(server: MailServer, settings: LazySettings, attach: Attach) -> None:
    files = [attach("一.xlsx", bytes(100_000)), attach("二.xlsx", bytes(57))]
    size = encoded_size(files)
    change(settings, max_attachment_size=size)
    send(make_message(attachments=files))
    change(settings, max_attachment_size=size - 1)
    send(make_message(attachments=files))
    assert [names_of_files(mail) for mail in server.log.mails] == [["一.xlsx", "二.xlsx"], []]
    fits, _too_big = server.log.mails
    parts = [part.as_bytes(policy=policy.SMTP) for part in read(fits).iter_attachments()]
    assert abs(sum(map(len, parts)) - size) < 100 * len(parts)


@pytest.mark.parametrize("url", ["https://exports.example.com/d/7", ""])
def test_a_file_too_large_for_mail_leaves_the_reason_and_the_way_to_it(
    server: MailServer, settings: LazySettings, attach: Attach, url: str
) -> None:
    change(settings, max_attachment_size=1024 * 1024)
    with translation.override("en"):
        answer = send_one(make_message(attachments=[attach("订单.xlsx", bytes(1024 * 1024))], url=url))
    assert answer.verdict == Verdict.ACCEPTED
    (mail,) = server.log.mails
    assert not names_of_files(mail)
    for kind in ("plain", "html"):
        said = body(mail, kind)
        assert "订单.xlsx (1.0MB)" in said
        assert "In a mail that is 1.4MB, and the limit is 1.0MB." in said
        assert (url or "downloaded in the data export system") in said


@pytest.mark.parametrize("where", ["DATA", "BODY", "MAIL"])
def test_a_mail_that_the_server_finds_too_large_goes_again_with_the_link(
    server: MailServer, attach: Attach, where: str
) -> None:
    server.say(where, "552 5.3.4 too large")
    server.say(B, "550 5.1.1 no such user")
    url = "https://exports.example.com/d/7"
    with translation.override("en"):
        answers = send(make_message(attachments=[attach()], url=url), A, B)
    assert reasons(answers) == {A: (Verdict.ACCEPTED, ""), B: (Verdict.REFUSED, "recipient_refused")}
    (mail,) = server.log.mails
    assert mail.recipients == (A,)
    assert not names_of_files(mail)
    assert url in body(mail, "plain")
    assert "found that too large" in body(mail, "html")
    assert read(mail)["Message-ID"] == "<delivery-7@example.com>"


def test_who_refused_the_file_and_the_link_is_not_asked_a_third_time(server: MailServer, attach: Attach) -> None:
    server.say("BODY", "552 5.3.4 too large", "552 5.3.4 still too large")
    answer = send_one(make_message(attachments=[attach()]))
    assert (answer.verdict, answer.reason) == (Verdict.REFUSED, "message_too_large")
    assert server.log.commands.count("DATA") == 2


def test_the_size_is_said_beforehand_so_that_nothing_is_sent_in_vain(settings: LazySettings, attach: Attach) -> None:
    with MailServer(size_limit=100_000) as server:
        configure(settings, server)
        assert send_one(make_message(attachments=[attach(content=bytes(200_000))])).verdict == Verdict.ACCEPTED
    assert server.log.commands.count("DATA") == 1
    assert not names_of_files(server.log.mails[0])


def make_mail(message: Message) -> Mail:
    return compose(message, sender=LOGIN.username, sender_name=message.title, to=[A, B], domain="example.com")


def test_a_file_is_read_while_it_is_sent(attach: Attach) -> None:
    file = attach(content=bytes(20_000_000))
    mail = make_mail(make_message(attachments=[file]))
    tracemalloc.start()
    with file.open() as content:
        size = sum(map(len, mail.blocks([content])))
    _current, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2_000_000
    assert size == mail.size > 27_000_000


# What others write

NASTY = (
    "\r\n", "\n", "\r", "\n\n", "\nBcc: evil@example.com\n", "\r\n.\r\n", "\x00", "\x0b", "\x0c", "\x1c", "\x85", "\u2028",
    "=?utf-8?q?a=0D=0ABcc:_evil@example.com?=", "=?utf-8?b?DQpCY2M6IGV2aWw=?=", "=?", "?=", "=?x?q?", '"', "\\", ";", ",",
    "<", ">", "(", "@", ":", "%", "'", "''", " ", "  ", "\t", "中文", "😀", "e\u0301", "\u202e", "\ud800", "\udcff", "a" * 80,
    "--=", "订单" * 40,
)  # fmt: skip
texts = st.lists(st.one_of(st.sampled_from(NASTY), st.text(st.characters(), max_size=8)), max_size=8).map("".join)


def visible(text: str) -> str:
    """What of `text` can be seen."""
    text = text.encode("utf-8", "replace").decode()
    return "".join(char for char in text if not char.isspace() and unicodedata.category(char) != "Cc")


@given(title=texts, text=texts, name=texts, key=st.text(st.characters(), min_size=1, max_size=20))
@hypothesis_settings(max_examples=100, deadline=None)
@example(title="", text="", name="", key="\ud800")
@example(title="=?utf-8?q?a=0D=0ABcc:_evil@example.com?=", text="\n.\n", name='"; filename="evil.exe', key="a\r\nB: c")
def test_nothing_that_others_write_makes_or_breaks_a_header(title: str, text: str, name: str, key: str) -> None:
    # Python's older parser takes "<" and ">" off a name that is wholly within them: a real one has an ending.
    name = f"{name}.xlsx"
    message = make_message(
        key=key,
        title=title,
        text=text,
        facts=[(title, name)],
        url=f"https://example.com/{visible(name)}",
        attachments=[Attachment(lambda: Path("unused").open("rb"), name, 3)],
    )
    sent = b"".join(make_mail(message).blocks([io.BytesIO(b"abc")]))
    assert sent.isascii()
    assert sent.endswith(b"\r\n")
    lines = sent.split(b"\r\n")
    assert not [line for line in lines if b"\r" in line or b"\n" in line or len(line) > 998 or line.startswith(b".")]

    mail = Accepted("", (), sent, (), False, "")
    new, old = read(mail), read_as_older_clients(mail)
    expected = "From To Subject Date Message-ID Auto-Submitted X-Auto-Response-Suppress MIME-Version Content-Type"
    assert new.keys() == old.keys() == expected.split()
    assert not [part.defects for part in new.walk() if part.defects]
    assert not new["Subject"].defects
    assert visible(new["Subject"]) == visible(title) == visible(decoded(old["Subject"]))
    (sender,) = new["From"].addresses
    assert sender.addr_spec == LOGIN.username
    assert visible(sender.display_name) == visible(title)
    assert [address.addr_spec for address in new["To"].addresses] == [A, B]
    assert visible(text) in visible(body(mail, "plain"))

    (file,) = new.iter_attachments()
    assert file.keys() == ["Content-Type", "Content-Disposition", "Content-Transfer-Encoding"]
    assert visible(file.get_filename() or "") == visible(name)
    assert file.get_payload(decode=True) == b"abc"
    (old_file,) = [part for part in old.walk() if "attachment" in part.get("Content-Disposition", "")]
    assert visible(decoded(old_file.get_param("name"))) == visible(name)
    assert visible(old_file.get_filename() or "") == visible(name)
