"""Where files live on this machine, and how they become visible there.

A run writes into temp_dir/<execution>-<attempt>/. Publishing renames that whole directory into output_dir: all parts
of a file appear in one step, or none does. Both must lie on one file system (check exporter.E002). Where finished files
are kept elsewhere: tasks/storage/.
"""

import logging
import os
import re
import shutil
import time
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, NamedTuple

from django.conf import settings

from exporter_site.config import resolve
from tasks.writers.zipstream import MAX_ENTRY, ZipStream

logger = logging.getLogger(__name__)

MAX_NAME_BYTES = 180  # of the name without extension; file systems hold 255, and parts add to it

_FORBIDDEN = re.compile(
    r'[\x00-\x1f\x7f/\\:*?"<>|\x80-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]'
)
_RESERVED = re.compile(r"(?:CON|PRN|AUX|NUL|CONIN\$|CONOUT\$|COM[\d¹²³]|LPT[\d¹²³]) *(?:\..*)?", re.IGNORECASE)


def temp_root() -> Path:
    return resolve(settings.CONFIG.export.temp_dir)


def output_root() -> Path:
    return resolve(settings.CONFIG.export.output_dir)


def attempt_name(execution_id: int, attempt: int) -> str:
    return f"{execution_id}-{attempt}"


def safe_stem(name: str) -> str:
    """`name` as the last part of a path on Linux, Windows and macOS; never empty, never a way out of its directory."""
    stem = _FORBIDDEN.sub("_", unicodedata.normalize("NFC", name)).strip(" .")
    stem = stem.encode()[:MAX_NAME_BYTES].decode(errors="ignore").rstrip(" .")
    return f"_{stem}" if not stem or _RESERVED.fullmatch(stem) else stem


@contextmanager
def temp_directory(execution_id: int, attempt: int) -> Iterator[Path]:
    """A private directory for one attempt; gone afterwards, unless publish() has moved it away.

    Private by the umask; a default ACL of temp_dir may let somebody in (nginx, that sends the files).
    """
    directory = temp_root() / attempt_name(execution_id, attempt)
    directory.mkdir(parents=True, mode=0o750)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def place_of(name: str, planned_at: datetime) -> str:
    """Where the attempt `name` of a run planned at `planned_at` has its files, below the root of its store."""
    return f"{planned_at:%Y-%m}/{name}"


def month_directory(planned_at: datetime) -> Path:
    """Where the files of a run planned at `planned_at` become visible, in a local store."""
    return output_root() / f"{planned_at:%Y-%m}"


def publish(directory: Path, planned_at: datetime) -> Path:
    """Make a finished attempt visible under output_dir/<month>/. Returns its new place, safe against a power cut."""
    parent = month_directory(planned_at)
    parent.mkdir(parents=True, exist_ok=True)
    sync_directory(directory)
    target = parent / directory.name
    directory.rename(target)
    try:
        sync_directory(parent)
        sync_directory(parent.parent)  # The month may be new.
    except OSError:
        withdraw(target)  # Its run fails: nobody may see it.
        raise
    return target


def withdraw(directory: Path) -> None:
    """Remove what publish() made visible: its run turned out to have lost its place."""
    shutil.rmtree(directory, ignore_errors=True)


def sweep(execution_id: int, attempt: int, planned_at: datetime) -> None:
    """Remove what a dead attempt left here: unfinished files, and files that were published but never recorded."""
    name = attempt_name(execution_id, attempt)
    for left in (temp_root() / name, month_directory(planned_at) / name):
        shutil.rmtree(left, ignore_errors=True)


def directories(parent: Path, name: re.Pattern[str]) -> list[Path]:
    """Those in `parent` that are called so. Never a link: where it leads is not ours."""
    if not parent.is_dir():
        return []
    found = (path for path in parent.iterdir() if name.fullmatch(path.name))
    return sorted(path for path in found if path.is_dir() and not path.is_symlink())


def age(directory: Path) -> float:
    """Seconds since something was made in it."""
    try:
        return time.time() - directory.stat().st_mtime
    except OSError:
        return 0.0  # gone in this moment


def remove(directory: Path) -> None:
    """Remove it with all that is in it, or say in the log that this is not possible."""
    shutil.rmtree(directory, ignore_errors=True)
    if directory.exists():
        logger.warning("%s can't be removed; is it another user's?", directory)


def sync_directory(directory: Path) -> None:
    """Put the names in `directory` on the disk itself (a rename is lost in a power cut without it)."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def free_bytes() -> int:
    """Free space where exports are written."""
    directory = temp_root()
    directory.mkdir(parents=True, exist_ok=True)
    return shutil.disk_usage(directory).free


class _Pipe:
    """A sink that hands out what was written to it since it was last asked."""

    def __init__(self) -> None:
        self.size = 0
        self._chunks: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.size += len(data)
        self._chunks.append(data)

    def take(self) -> bytes:
        data, self._chunks = b"".join(self._chunks), []
        return data


class Member(NamedTuple):
    """A file that goes into a zip archive; `open` is called when its turn comes. `size` in bytes."""

    name: str
    size: int
    open: Callable[[], BinaryIO]


def zip_of(members: Iterable[Member], chunk_size: int = 1 << 20) -> Iterator[bytes]:
    """One zip archive of `members`, made while it is sent: flat in memory, nothing on the disk."""
    pipe = _Pipe()
    archive = ZipStream(pipe)
    for member in members:
        archive.begin(member.name, large=member.size > MAX_ENTRY)
        with member.open() as file:
            while chunk := file.read(chunk_size):
                archive.write(chunk)
                yield pipe.take()
        archive.end()
    archive.close()
    yield pipe.take()
