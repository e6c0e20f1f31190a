"""What every transport promises (notifications/transports/base.py), tried with each kind on a real server."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from django.conf import LazySettings
from django.core.exceptions import ValidationError
from django.utils.functional import Promise
from django.utils.translation import override

from exporter_site.redact import remember_secret
from notifications.reasons import REASONS
from notifications.transports import http, transports
from notifications.transports.base import Answer, Attachment, Patience, Transport, Verdict
from tests.notifications.channels import make_message, transport_to
from tests.servers import Account
from tests.servers.mail import Fault, MailServer, authority, configure, read
from tests.servers.robots import Robots, Step, answers, cut, silent

FIELD_KINDS = {"text", "secret", "list", "flag", "choice"}
# What may happen to a message, and what a transport has to make of it.
FAULTS = {
    "busy": Verdict.DEFERRED,  # it says: not now
    "refused": Verdict.REFUSED,  # it says: never
    "cut": Verdict.UNKNOWN,  # it took the message, and the line was cut
    "silent": Verdict.UNKNOWN,  # it took the message, and says nothing
}


class Stage(ABC):
    """A transport of one kind whose other side is a real server. `secrets`: what nobody may be told."""

    transport: Transport
    secrets: list[str]

    @abstractmethod
    def expected_patience(self, tries: int) -> tuple[int, float, float]:
        """After so many tries: how many there are, and the shortest and the longest delay until the next one."""

    @abstractmethod
    def arrived(self) -> list[str]:
        """The texts that readers have got, by the server's own log: one for each message."""

    @abstractmethod
    def break_next(self, fault: str) -> None:
        """The next message meets one of FAULTS. Timeouts are short from now on, if it takes one."""

    @abstractmethod
    def leave(self) -> None:
        """From now on nobody listens."""


class WebStage(Stage):
    def __init__(self, kind: str, request: pytest.FixtureRequest) -> None:
        self._robots: Robots = request.getfixturevalue("robots")
        self._monkeypatch: pytest.MonkeyPatch = request.getfixturevalue("monkeypatch")
        robot = self._robots.add(kind, secret="" if kind == "wecom" else "SEC0123456789abcdef")
        self.transport = transport_to(robot)
        self.secrets = [robot.token, *filter(None, [robot.secret])]

    def expected_patience(self, tries: int) -> tuple[int, float, float]:
        usual = min(30 * 2 ** (tries - 1), 900)
        return 8, usual / 2, usual * 1.5

    def arrived(self) -> list[str]:
        return self._robots.texts()

    def break_next(self, fault: str) -> None:
        if fault == "silent":
            self._monkeypatch.setattr(http, "READ_TIMEOUT", 0.3)
        steps: dict[str, Step] = {
            "busy": answers(503),
            "refused": answers(403, " ".join(self.secrets), "text/plain"),
            "cut": cut(accepting=True),
            "silent": silent(60, accepting=True),
        }
        self._robots.script(steps[fault])

    def leave(self) -> None:
        self._robots.leave()


class MailStage(Stage):
    def __init__(self, kind: str, request: pytest.FixtureRequest) -> None:
        self._settings: LazySettings = request.getfixturevalue("settings")
        account = Account("exports@example.com", "canary-of-the-mailbox")
        server = MailServer(tls="starttls", account=account)
        request.getfixturevalue("monkeypatch").setenv("SSL_CERT_FILE", request.getfixturevalue("mail_authority"))
        self._server: MailServer = request.getfixturevalue("opened").enter_context(server)
        self._configure()
        self.transport = transports.get(kind)({"recipients": ["a@example.com", "b@example.com"]})
        self.secrets = [account.password]
        remember_secret(account.password)  # as the settings do with what config.yaml holds

    def _configure(self, **changes: object) -> None:
        configure(self._settings, self._server, **changes)

    def expected_patience(self, tries: int) -> tuple[int, float, float]:
        self._configure(retry_attempts=5, retry_delay=77)
        return 5, 77, 77

    def arrived(self) -> list[str]:
        return [read(mail)[0] for mail in self._server.log.mails]

    def break_next(self, fault: str) -> None:
        if fault == "silent":
            self._configure(smtp_timeout=0.5)
        steps: dict[str, tuple[str, str | Fault]] = {
            "busy": ("MAIL", "451 4.3.0 later"),
            "refused": ("MAIL", f"550 5.7.1 no, {self.secrets[0]}"),
            "cut": ("BODY", Fault.CUT),
            "silent": ("BODY", Fault.SILENCE),
        }
        self._server.say(*steps[fault])

    def leave(self) -> None:
        self._configure(smtp_port=1)


@pytest.fixture
def opened() -> Iterator[ExitStack]:
    """Closed when the test is over."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def mail_authority(tmp_path: Path) -> str:
    file = tmp_path / "authority.pem"
    authority().cert_pem.write_to_path(str(file))
    return str(file)


Recipe = Callable[[str, pytest.FixtureRequest], Stage]
RECIPES: dict[str, Recipe] = {
    "dingtalk": WebStage,
    "wecom": WebStage,
    "feishu": WebStage,
    "webhook": WebStage,
    "email": MailStage,
}


@pytest.fixture(params=RECIPES)
def stage(request: pytest.FixtureRequest) -> Stage:
    kind: str = request.param
    return RECIPES[kind](kind, request)


def send(stage: Stage, **fields: Any) -> Answer:
    """The one answer for all recipients."""
    answers = stage.transport.send(make_message(**fields), stage.transport.recipients)
    assert list(answers) == stage.transport.recipients
    (answer,) = set(answers.values())
    return answer


def test_every_kind_has_a_recipe() -> None:
    assert set(RECIPES) == set(transports)


def test_settings_have_names_labels_and_kinds(stage: Stage) -> None:
    fields = stage.transport.fields
    assert len({setting.name for setting in fields}) == len(fields) > 0
    for setting in fields:
        assert setting.kind in FIELD_KINDS
        assert bool(setting.choices) == (setting.kind == "choice")
        # Read in the language of whoever looks, not of whoever imported the module.
        assert isinstance(setting.label, Promise)
        assert isinstance(setting.help, Promise) or not setting.help
    assert any(setting.required for setting in fields)


def test_settings_that_were_cleaned_are_clean(stage: Stage) -> None:
    settings = deepcopy(stage.transport.settings)
    stage.transport.clean(settings)
    assert settings == stage.transport.settings


@pytest.mark.parametrize("language", ["en", "zh-hans"])
def test_required_settings_of_nonsense_are_named(stage: Stage, language: str) -> None:
    for setting in stage.transport.fields:
        if not setting.required:
            continue
        nonsense: Any = ["\0 nonsense"] if setting.kind == "list" else "\0 nonsense"
        with override(language), pytest.raises(ValidationError) as caught:
            stage.transport.clean(deepcopy(stage.transport.settings) | {setting.name: nonsense})
        assert list(caught.value.message_dict) == [setting.name]


def test_no_secret_is_in_its_repr(stage: Stage) -> None:
    assert not [secret for secret in stage.secrets if secret in repr(stage.transport)]


def test_a_limit_has_a_key_and_a_size(stage: Stage) -> None:
    assert stage.transport.recipients
    assert bool(stage.transport.limit_key) == bool(stage.transport.per_minute)
    if stage.transport.per_minute:
        assert (stage.transport.max_bytes > 0, stage.transport.markup) == (True, "markdown")  # digests are made so


@pytest.mark.parametrize("tries", [1, 2, 7, 8, 2000])
def test_it_says_how_long_it_is_patient(stage: Stage, tries: int) -> None:
    most, shortest, longest = stage.expected_patience(tries)
    patience = stage.transport.patience(tries)
    assert isinstance(patience, Patience)
    assert patience.tries == most
    assert shortest <= patience.delay <= longest


def test_a_message_arrives_once(stage: Stage) -> None:
    assert send(stage).verdict == Verdict.ACCEPTED
    (text,) = stage.arrived()
    assert "1,000" in text


def test_one_recipient_of_several_gets_an_answer_of_his_own(stage: Stage) -> None:
    last = stage.transport.recipients[-1:]
    answers = stage.transport.send(make_message(), last)
    assert {name: answer.verdict for name, answer in answers.items()} == dict.fromkeys(last, Verdict.ACCEPTED)
    assert len(stage.arrived()) == 1


@pytest.mark.parametrize("fault", FAULTS)
def test_what_goes_wrong_is_an_answer_and_the_next_message_arrives(stage: Stage, fault: str) -> None:
    stage.break_next(fault)
    answer = send(stage, text="first")
    assert answer.verdict == FAULTS[fault]
    assert answer.reason in REASONS
    assert not [secret for secret in stage.secrets if secret in repr(answer)]
    assert len(stage.arrived()) == (1 if FAULTS[fault] == Verdict.UNKNOWN else 0)
    assert send(stage, text="second").verdict == Verdict.ACCEPTED
    assert "second" in stage.arrived()[-1]


def test_nobody_there_is_no_fault_of_the_message(stage: Stage) -> None:
    stage.leave()
    answer = send(stage)
    assert (answer.verdict, answer.reason) == (Verdict.DEFERRED, "unreachable")


NASTY: dict[str, dict[str, Any]] = {
    "quotes": {"title": 'O\'Brien "hi" \\', "text": "1,000 \"'\\ %s {x} ${y} <b>&amp;</b>"},
    "line breaks": {"title": "a\r\nBcc: x@example.com\n\n.\n", "text": "1,000\r\n.\r\nDATA\r\n.\n\n"},
    "emoji": {"title": "😀👨‍👩‍👧", "text": "1,000 😀\u200b\u202e"},
    "half a character": {"title": "a\ud83d", "text": "1,000 \ud83d"},
    "control characters": {"title": "a\0b", "text": "1,000 \0\x07\x1b[31m"},
    "no url": {"url": ""},
    "no facts": {"facts": [], "data": {}},
    "much": {"title": "题" * 500, "text": "1,000\n" + "- 一行文字\n" * 20_000},
    "one long line": {"text": "1,000 " + "字" * 100_000},
}


@pytest.mark.parametrize("fields", NASTY.values(), ids=NASTY)
def test_any_text_arrives(stage: Stage, fields: dict[str, Any]) -> None:
    assert send(stage, **fields).verdict == Verdict.ACCEPTED
    (text,) = stage.arrived()
    assert "1,000" in text


def test_a_file_that_a_transport_can_not_send_does_no_harm(stage: Stage, tmp_path: Path) -> None:
    file = tmp_path / "export.csv"
    file.write_text("a,b\n1,2\n", encoding="utf-8")
    message = make_message(attachments=[Attachment(lambda: file.open("rb"), "导出.csv", file.stat().st_size)])
    given = stage.transport.send(message, stage.transport.recipients).values()
    assert {answer.verdict for answer in given} == {Verdict.ACCEPTED}
