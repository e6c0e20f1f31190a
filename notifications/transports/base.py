"""What a transport promises: it hands one message to its recipients, and says for each what the other side answered.

It keeps nothing and retries nothing; what is done about an answer is decided in sender.py. It never raises for what
the other side or the network does: that is an Answer.
"""

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, BinaryIO, ClassVar, NamedTuple

from exporter_site.registry import Label

ROBOT = "robot"  # the one recipient of a channel that does not name its readers
TRIES = 8  # about three quarters of an hour
FIRST_DELAY, LONGEST_DELAY = 30.0, 900.0  # seconds


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting of a channel, as its form shows it. `kind`: text, secret, list (of texts), flag or choice.

    A secret is stored encrypted and never shown again. `choices`: (value, label) pairs of a choice, the first one is
    what holds when nothing is set.
    """

    name: str
    label: Label
    kind: str = "text"
    required: bool = False
    help: Label = ""
    choices: tuple[tuple[str, Label], ...] = ()

    @property
    def empty(self) -> Any:
        """The value when nothing is set."""
        if self.kind == "choice":
            return self.choices[0][0]
        return {"list": [], "flag": False}.get(self.kind, "")


class Verdict(StrEnum):
    ACCEPTED = "accepted"  # it is theirs now
    REFUSED = "refused"  # and would be refused again
    DEFERRED = "deferred"  # not now; it did not arrive
    LIMITED = "limited"  # too many messages lately; not this one's fault
    UNKNOWN = "unknown"  # it was sent, and no answer came: perhaps it arrived


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a message for one recipient.

    `reason`: a code of notifications/reasons.py, "" when accepted. `text`: the other side's own words. `wait`: seconds
    that the other side asked to be left alone (LIMITED: needed).
    """

    verdict: Verdict
    reason: str = ""
    text: str = ""
    wait: float = 0.0


ACCEPTED = Answer(Verdict.ACCEPTED)


class Patience(NamedTuple):
    """`tries`: how often a message goes out at most. `delay`: seconds until the next try."""

    tries: int
    delay: float


@dataclass(frozen=True, slots=True)
class Attachment:
    open: Callable[[], BinaryIO]  # may raise OSError
    name: str  # as the reader shall see it
    size: int  # bytes


@dataclass(frozen=True, slots=True)
class Message:
    """A message that is ready to be sent.

    `key` is the same at every try, and for each message another. `text` is in the transport's own markup: markdown with
    all values made harmless, or plain text. `facts`: (label, value) pairs, plain. `url`: where the file is, "" when
    there is none or nobody knows our address. `attachments`: the files, whether the transport can send some or not;
    all of them are there. `data`: the same for programs, JSON-able.
    """

    key: str
    title: str
    text: str
    facts: Sequence[tuple[str, str]] = ()
    url: str = ""
    attachments: Sequence[Attachment] = ()
    data: Mapping[str, Any] = field(default_factory=dict)


class Transport(ABC):
    """`settings`: a value for each name in `fields`, as clean() returned them.

    `address`: which of the settings says where messages go; the channel's other secrets were entered for that place.
    `markup`: markdown or plain, what `Message.text` is made in. `per_minute`: how many messages the other side takes in
    any 60 seconds, 0 for no limit; such a channel gets one message at a time, and many that wait as one digest.
    """

    fields: ClassVar[tuple[Setting, ...]]
    address: ClassVar[str] = ""
    markup: ClassVar[str] = "markdown"
    per_minute: ClassVar[int] = 0
    max_bytes: ClassVar[int] = 0  # of Message.text in UTF-8; 0 for no limit

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.settings = {setting.name: settings.get(setting.name, setting.empty) for setting in self.fields}

    @classmethod
    def secret_names(cls) -> tuple[str, ...]:
        return tuple(setting.name for setting in cls.fields if setting.kind == "secret")

    @classmethod  # noqa: B027  # there may be nothing to refuse
    def clean(cls, settings: dict[str, Any]) -> None:
        """Refuse settings that can't work, and put the others into their usual form in place. Called by
        clean_settings() with a value of the right type for every name.

        Raises ValidationError with {name: words}.
        """

    @property
    def recipients(self) -> list[str]:
        """Whom a message goes to: addresses, or ROBOT."""
        return [ROBOT]

    @property
    def limit_key(self) -> str:
        """What the limit of `per_minute` counts for: the same text for the same robot, however it is written."""
        return ""

    def patience(self, tries: int) -> Patience:
        """How long it is worth while to go on after `tries` tries (1 or more) that did not reach everybody.

        What the other side asks for (Answer.wait) is waited for besides; tries that were LIMITED are not counted. Here:
        eight tries with growing delays, with jitter, so that what failed together does not come back together.
        """
        delay = min(FIRST_DELAY * 2.0 ** min(max(0, tries - 1), 10), LONGEST_DELAY)
        return Patience(TRIES, delay * random.uniform(0.5, 1.5))  # noqa: S311  # no secret

    @abstractmethod
    def send(self, message: Message, recipients: Sequence[str]) -> dict[str, Answer]:
        """Hand `message` to `recipients` (some or all of self.recipients). An answer for each of them.

        Takes a bounded time. Nothing is raised for what may happen outside of this program.
        """
