"""What a check is, and how all of them are carried out: each in a thread of its own, for ten seconds and no longer."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from queue import Empty, SimpleQueue
from typing import Any

from django.core.checks import WARNING, CheckMessage
from django.db import Error, connection
from django.utils import translation
from django.utils.translation import gettext as _

from exporter_site.redact import redact

LIMIT = 10.0  # seconds for one check, and for one of the subjects of a check
AT_ONCE = 8  # subjects that are looked at side by side


class Level(StrEnum):
    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found, in a sentence, and what to do about it. `check`: the name of the check that found it."""

    level: Level
    sentence: str
    remedy: str = ""
    check: str = ""


def ok(sentence: str) -> Finding:
    return Finding(Level.OK, sentence)


def warning(sentence: str, remedy: str) -> Finding:
    return Finding(Level.WARNING, sentence, remedy)


def failed(sentence: str, remedy: str) -> Finding:
    return Finding(Level.FAILED, sentence, remedy)


def from_messages(messages: Iterable[CheckMessage]) -> Iterator[Finding]:
    """What Django's system checks have to say."""
    for message in messages:
        say = warning if message.level <= WARNING else failed
        yield say(str(message.msg), str(message.hint or ""))


@dataclass(frozen=True, slots=True)
class Check:
    """`look` gets each of `subjects()`, or nothing when there is no such function. `needs_database`: left out when the
    system database can't be used."""

    name: str
    look: Callable[..., Iterator[Finding]]
    subjects: Callable[[], Iterable[Any]] | None = None
    needs_database: bool = False


CHECKS: list[Check] = []


def check(
    *, subjects: Callable[[], Iterable[Any]] | None = None, needs_database: bool = False
) -> Callable[[Callable[..., Iterator[Finding]]], Callable[..., Iterator[Finding]]]:
    """Put a function that yields findings into the table of checks, under its own name."""

    def register(look: Callable[..., Iterator[Finding]]) -> Callable[..., Iterator[Finding]]:
        CHECKS.append(Check(look.__name__, look, subjects, needs_database))
        return look

    return register


DATABASE = "system_database"  # the check that those which need the database wait for


def examine(checks: Iterable[Check], limit: float = LIMIT) -> Iterator[Finding]:
    """Carry out `checks` one after the other; each finding comes as soon as it is known."""
    has_database = True
    for each in checks:
        if each.needs_database and not has_database:
            sentence = _("{check} was not looked at: the system database can't be used.").format(check=each.name)
            yield Finding(Level.SKIPPED, sentence, check=each.name)
            continue
        for finding in _carried_out(each, limit):
            has_database = has_database and not (each.name == DATABASE and finding.level == Level.FAILED)
            yield Finding(finding.level, _one_line(finding.sentence), _one_line(finding.remedy), each.name)


def _one_line(text: str) -> str:
    return redact(" ".join(text.split()))


def _carried_out(each: Check, limit: float) -> Iterator[Finding]:
    if each.subjects is None:
        yield from _Job(each.look, ()).findings(limit)
        return
    listing = _Job(_listing(each.subjects), ())
    yield from listing.findings(limit)
    waiting = list(listing.result)
    while waiting:
        batch, waiting = waiting[:AT_ONCE], waiting[AT_ONCE:]
        for job in [_Job(each.look, (subject,)) for subject in batch]:
            yield from job.findings(limit)


def _listing(subjects: Callable[[], Iterable[Any]]) -> Callable[..., Iterator[Any]]:
    def find() -> Iterator[Any]:
        for subject in subjects():
            yield _Subject(subject)

    return find


@dataclass(frozen=True, slots=True)
class _Subject:
    value: Any


class _Job:
    """A check that runs. One that hangs is left alone: its thread ends with the process."""

    def __init__(self, look: Callable[..., Iterator[Any]], arguments: tuple[Any, ...]) -> None:
        self.result: list[Any] = []  # the subjects that it found
        self._said: SimpleQueue[Finding | None] = SimpleQueue()
        self._started = time.monotonic()
        self._about = str(arguments[0]) if arguments else ""
        language = translation.get_language()
        threading.Thread(target=self._run, args=(look, arguments, language), name="doctor", daemon=True).start()

    def _run(self, look: Callable[..., Iterator[Any]], arguments: tuple[Any, ...], language: str | None) -> None:
        try:
            with translation.override(language):
                for found in look(*arguments):
                    if isinstance(found, _Subject):
                        self.result.append(found.value)
                    else:
                        self._said.put(found)
        except Error as exc:
            self._said.put(self._broken(_("the system database: {error}").format(error=str(exc).strip())))
        except Exception as exc:  # A fault of ours in one check must not keep the others from being carried out.
            self._said.put(self._broken(f"{type(exc).__name__}: {exc}"))
        finally:
            connection.close()  # this thread's own
            self._said.put(None)

    def _broken(self, why: str) -> Finding:
        sentence = _("This could not be looked at ({why}).").format(why=why)
        return failed(self._named(sentence), _("The log may say more. Please report it if it stays so."))

    def _named(self, sentence: str) -> str:
        return f"{self._about}: {sentence}" if self._about else sentence

    def findings(self, limit: float) -> Iterator[Finding]:
        while True:
            try:
                finding = self._said.get(timeout=max(0.0, self._started + limit - time.monotonic()))
            except Empty:
                sentence = _("No answer within {seconds} seconds.").format(seconds=round(limit))
                yield failed(
                    self._named(sentence), _("Look whether a firewall swallows the packets, or the server is stuck.")
                )
                return
            if finding is None:
                return
            yield finding
