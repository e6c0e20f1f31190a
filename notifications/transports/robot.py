"""What transports that post JSON to one address have in common, and the group robots among them."""

import base64
import hmac
import re
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar, NamedTuple
from urllib.parse import parse_qs

from django.core.exceptions import ValidationError
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from urllib3.util import parse_url

from exporter_site.redact import remember_secret
from notifications.transports.addresses import check_url
from notifications.transports.base import ACCEPTED, Answer, Message, Setting, Transport, Verdict
from notifications.transports.http import Reply, encode, plain_words, post_json

OPEN_FILE = gettext_lazy("Open the file")
ADDRESS_LABEL = gettext_lazy("Webhook address")
TITLE_LENGTH = 64  # characters
_CHINESE_MOBILE = re.compile(r"(?:\+?86)?(1\d{10})")
_FOREIGN_MOBILE = re.compile(r"\+\d{1,3}-?\d{5,12}")
# What may be a token in the part of a URL behind its host.
_TOKEN = re.compile(r"[^/?&=#]{16,}")
_SHORTEST_TARGET = 8  # characters of that part as a whole; less than that is in innocent words, too

KEYWORD = Setting(
    "keyword",
    gettext_lazy("Keyword"),
    help=gettext_lazy("If the robot only takes messages with a keyword: it is added to those that lack it."),
)


def signature(key: str, text: str) -> str:
    return base64.b64encode(hmac.digest(key.encode(), text.encode(), "sha256")).decode()


def clean_mobiles(values: Sequence[str], *, also: Sequence[str] = ()) -> list[str]:
    """Mobile numbers as robots know them, each once. Raises ValueError with a sentence."""
    cleaned = []
    for value in values:
        number = re.sub(r"[\s()]", "", value)
        chinese = _CHINESE_MOBILE.fullmatch(number.replace("-", ""))
        if chinese is None and number not in also and not _FOREIGN_MOBILE.fullmatch(number):
            raise ValueError(_("“{value}” is not a mobile number.").format(value=value))
        cleaned.append(chinese[1] if chinese else number)
    return list(dict.fromkeys(cleaned))


def one_line(text: str, length: int = TITLE_LENGTH) -> str:
    line = " ".join(text.split())
    return line if len(line) <= length else line[: length - 1] + "…"


def size(text: str) -> int:
    return len(text.encode("utf-8", "replace"))


def shorten(text: str, limit: int, link: str = "") -> str:
    """`text` in `limit` bytes of UTF-8: cut at the end of a line, with a line that says so and then `link`."""
    if size(text) <= limit:
        return text
    ending = "\n\n".join(["", _("… (shortened)"), *filter(None, [link])])
    kept = text.encode("utf-8", "replace")[: max(0, limit - size(ending))].decode("utf-8", "ignore")
    end = kept.rfind("\n")
    # A single line that is longer than all the others is cut in its middle.
    return kept[: end if end > len(kept) // 2 else None].rstrip() + ending


class WebTransport(Transport):
    """Posts to the URL in the setting `address`, which must be at one of `hosts` (None: anywhere that is public)."""

    address = "webhook_url"
    hosts: ClassVar[Sequence[str] | None] = None

    @property
    def url(self) -> str:
        url: str = self.settings[self.address]
        return url

    @classmethod
    def clean(cls, settings: dict[str, Any]) -> None:
        if problems := cls.problems(settings):
            raise ValidationError(dict(problems))

    @classmethod
    def problems(cls, settings: dict[str, Any]) -> dict[str, str]:
        """Put the settings into their usual form, and say by name what is wrong with them."""
        settings[cls.address] = settings[cls.address].strip()
        try:
            check_url(settings[cls.address], cls.hosts)
        except ValueError as exc:
            return {cls.address: str(exc)}
        return {}

    def send(self, message: Message, recipients: Sequence[str]) -> dict[str, Answer]:
        if not self.url:
            return dict.fromkeys(recipients, Answer(Verdict.REFUSED, "not_configured"))
        # Servers say back what they were sent, whole or in part.
        known = [self.settings[name] for name in self.secret_names()]
        target = "".join(self.url.split("/", 3)[3:])
        for secret in [*known, *_TOKEN.findall(target)]:
            remember_secret(secret)
        if len(target) >= _SHORTEST_TARGET:
            remember_secret(target)
        return dict.fromkeys(recipients, self.answer(message))

    @abstractmethod
    def answer(self, message: Message) -> Answer:
        """Post it, and say what became of it."""


class Rule(NamedTuple):
    """What the error codes of a robot mean; `words`: only if its text has this in it. No codes: any code."""

    codes: tuple[int, ...]
    answer: Answer
    words: str = ""


def refused(reason: str) -> Answer:
    return Answer(Verdict.REFUSED, reason)


def limited(seconds: float) -> Answer:
    return Answer(Verdict.LIMITED, "rate_limited", wait=seconds)


SERVER_ERROR = Answer(Verdict.DEFERRED, "server_error")


class RobotTransport(WebTransport):
    """A robot in a group: an address with a token, an error code in each answer, and a limit per minute.

    The first of `rules` that fits says what an error code means. `code_names`, `words_name`: where they are in the
    answer. `token_name`: the parameter with the token, "" when it is the last part of the path.
    """

    per_minute = 18  # of 20, which is what each of the vendors allows
    max_bytes = 18_000
    max_body: ClassVar[int] = 20_000  # bytes of the JSON
    rules: ClassVar[Sequence[Rule]]
    code_names: ClassVar[Sequence[str]] = ("errcode",)
    words_name: ClassVar[str] = "errmsg"
    token_name: ClassVar[str] = ""
    # A signature can be too old when it arrives, so these get another one before they count.

    @classmethod
    def problems(cls, settings: dict[str, Any]) -> dict[str, str]:
        problems = super().problems(settings)
        for name in ("secret", "keyword"):
            if name in settings:
                settings[name] = settings[name].strip()
        if not problems:
            token = cls.token_of(settings[cls.address])
            if not token:
                problems[cls.address] = _("This is not the address of a robot: it has no token in it.")
        return problems

    @classmethod
    def token_of(cls, url: str) -> str:
        parts = parse_url(url)
        if not cls.token_name:
            return (parts.path or "").rpartition("/")[2]
        return next(iter(parse_qs(parts.query or "").get(cls.token_name, [])), "")

    @property
    def limit_key(self) -> str:
        return self.token_of(self.url)

    @property
    def endings(self) -> list[str]:
        """What the robot wants to find in the text, at the end if it is not there."""
        return list(filter(None, [self.settings.get("keyword", "")]))

    @abstractmethod
    def content(self, title: str, text: str, url: str) -> dict[str, Any]:
        """The message in the robot's own form."""

    def signed(self, content: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """The address to post to and what to post, as of now."""
        return self.url, content

    def link(self, url: str) -> str:
        return f"[{OPEN_FILE}]({url})"

    def answer(self, message: Message) -> Answer:
        """One post and no more: the limit counts them."""
        room = self.max_bytes
        while True:
            text = shorten(message.text, room, self.link(message.url) if message.url else "")
            whole = self.content(one_line(message.title), self._with_endings(text), message.url)
            url, content = self.signed(whole)
            body = encode(content)
            # Quotes and line breaks take two bytes in JSON.
            excess = len(body) - self.max_body
            if excess <= 0 or room <= 0:
                return self._judge(post_json(url, body, hosts=self.hosts))
            room = min(room, size(text)) - excess

    def _with_endings(self, text: str) -> str:
        return "\n\n".join([text, *(ending for ending in self.endings if ending not in text)])

    def _judge(self, reply: Reply) -> Answer:
        """Accepted is only what the robot itself says it has accepted: a page with status 200 says nothing."""
        code, refusal = self._code(reply.json), reply.refusal
        if reply.status == 200 and code == 0:
            return ACCEPTED
        if code and (refusal is None or refusal.reason == "rejected"):
            words = plain_words(str(reply.json.get(self.words_name) or ""))
            return replace(self._meaning(code, words), text=f"{code} {words}".rstrip())
        if refusal is None:
            return Answer(Verdict.UNKNOWN, reply.broken_off or "unreadable_answer", reply.words)
        return replace(refusal, reason="bad_token") if reply.status == 404 else refusal

    def _code(self, answer: Any) -> int | None:
        if isinstance(answer, dict):
            for name in self.code_names:
                if re.fullmatch(r"-?\d{1,9}", str(answer.get(name))):
                    return int(answer[name])
        return None

    def _meaning(self, code: int, words: str) -> Answer:
        for rule in self.rules:
            if (code in rule.codes or not rule.codes) and re.search(rule.words, words, re.IGNORECASE):
                return rule.answer
        return refused("rejected")
