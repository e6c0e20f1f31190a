"""Where finished files are kept: what a kind of store promises.

A file has a key, `<month>/<execution>-<attempt>/<name>`. What stands before its name is the place of an attempt: nobody
else ever writes there, so whoever lost his run can remove what he put there and never hurts another.

The row is the switch: nobody looks for a file but by the `files` of an execution that has succeeded. Those say the kind
of their store, too (see StoredFile), so that a change of export.storage leaves older files where they are.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, ClassVar, Protocol

# As files.place_of() and the runner make them, and nothing that only looks similar: `01-15` is somebody else's.
MONTH = re.compile(r"\d{4}-\d{2}")
ATTEMPT = re.compile(r"([1-9]\d{0,17})-([1-9]\d{0,8})")
SET_ASIDE = re.compile(rf"{ATTEMPT.pattern}(?:\.[1-9]\d*)?")
QUARANTINE = ".quarantine"  # where housekeeping puts what no row knows


class StorageError(OSError):
    """A store can't be used now; the text says which, and what it answered."""


class Readable(Protocol):
    def read(self, size: int = -1, /) -> bytes: ...


# Is told, again and again, how many bytes have arrived. What it raises ends the work; a BaseException, for libraries take
# an Exception for a fault of the network and try again.
Watch = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Place:
    """The files of one attempt. `age`: seconds since something was put there."""

    path: str
    age: float

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    @property
    def attempt(self) -> tuple[int, int] | None:
        """(execution, attempt), as its name says."""
        found = ATTEMPT.fullmatch(self.name)
        return (int(found[1]), int(found[2])) if found else None


class Storage(ABC):
    """Every method may raise StorageError, or OSError for a file of this machine.

    `is_remote`: putting files there may take minutes, so it is watched meanwhile.
    """

    kind: ClassVar[str]
    is_remote: ClassVar[bool]

    @abstractmethod
    def publish(self, directory: Path, planned_at: datetime, watch: Watch) -> str:
        """Put the files of `directory`, which has the name of its attempt, into the place of that attempt, and return
        it. All of them are kept then, as safe as the store makes them; when this raises, none."""

    @abstractmethod
    def remove(self, place: str) -> None:
        """Remove what is there, whole or not. It may be gone already."""

    @abstractmethod
    def size(self, key: str) -> int | None:
        """Bytes; None when there is no such file."""

    @abstractmethod
    def open(self, key: str, span: range | None = None) -> BinaryIO:
        """The file, or these bytes of it, to be read from front to back and closed. Raises FileNotFoundError."""

    @abstractmethod
    def put(self, key: str, content: Readable) -> None:
        """Keep `content` as this file, whole or not at all."""

    @abstractmethod
    def places(self) -> Iterator[Place]:
        """All attempts that have files here, whether or not a row knows them."""

    @abstractmethod
    def quarantined(self) -> Iterator[Place]:
        """What was moved into QUARANTINE; its age counts from then on."""

    @abstractmethod
    def contents(self) -> Iterator[tuple[str, dict[str, int]]]:
        """Each of places() as its path, with the key and size of every file in it."""

    @abstractmethod
    def move(self, place: str, target: str) -> str:
        """Move what is there to `target`, or beside it when that is taken. Returns where it is now, in words."""

    @abstractmethod
    def where(self, path: str) -> str:
        """Where people find this key or place."""

    def probe(self) -> None:  # noqa: B027  # a directory is looked at in other ways
        """Try out all that is asked of a store, with a small file that is gone afterwards."""

    def keeps_removed(self) -> bool:
        """Whether what is removed stays somewhere and takes room."""
        return False

    def address(self, key: str, name: str, content_type: str) -> str:
        """Where a browser may fetch the file, under this name, within a minute; "" when it is to be sent by us."""
        return ""
