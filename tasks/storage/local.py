"""Finished files in a directory of this machine, or one that several machines have mounted: export.output_dir.

Publishing is one rename of the whole directory of an attempt (tasks/files.py).
"""

import io
import os
import shutil
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

from tasks import files
from tasks.storage.base import ATTEMPT, MONTH, QUARANTINE, SET_ASIDE, Place, Readable, Storage, Watch


class LocalStorage(Storage):
    kind = "local"
    is_remote = False

    def publish(self, directory: Path, planned_at: datetime, watch: Watch) -> str:
        return str(files.publish(directory, planned_at).relative_to(files.output_root()))

    def remove(self, place: str) -> None:
        files.remove(self._path(place))

    def size(self, key: str) -> int | None:
        path = self._path(key)
        return path.stat().st_size if path.is_file() else None

    def open(self, key: str, span: range | None = None) -> BinaryIO:
        file = self._path(key).open("rb")
        return file if span is None else io.BufferedReader(_Slice(file, span))

    def put(self, key: str, content: Readable) -> None:
        target = self._path(key)
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.part")
        with partial.open("wb") as opened:
            shutil.copyfileobj(content, opened)
            opened.flush()
            os.fsync(opened.fileno())
        partial.rename(target)

    def places(self) -> Iterator[Place]:
        for month in files.directories(files.output_root(), MONTH):
            for directory in files.directories(month, ATTEMPT):
                yield Place(f"{month.name}/{directory.name}", files.age(directory))

    def quarantined(self) -> Iterator[Place]:
        for directory in files.directories(files.output_root() / QUARANTINE, SET_ASIDE):
            yield Place(f"{QUARANTINE}/{directory.name}", files.age(directory))

    def contents(self) -> Iterator[tuple[str, dict[str, int]]]:
        for place in self.places():
            found = (path for path in self._path(place.path).iterdir() if path.is_file())
            yield place.path, {f"{place.path}/{path.name}": path.stat().st_size for path in found}

    def move(self, place: str, target: str) -> str:
        directory, wanted = self._path(place), self._path(target)
        to, number = wanted, 1
        while to.exists():  # from before the database began to count anew
            to, number = wanted.with_name(f"{wanted.name}.{number}"), number + 1
        to.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.utime(directory)  # From now on it counts.
        directory.rename(to)
        return str(to)

    def where(self, path: str) -> str:
        return str(self._path(path))

    def _path(self, path: str) -> Path:
        return files.output_root() / path


class _Slice(io.RawIOBase):
    """The bytes `span` of an open file, which it closes."""

    def __init__(self, file: BinaryIO, span: range) -> None:
        self._file = file
        self._left = len(span)
        file.seek(span.start)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        chunk = self._file.read(min(len(buffer), self._left))
        buffer[: len(chunk)] = chunk
        self._left -= len(chunk)
        return len(chunk)

    def close(self) -> None:
        self._file.close()
        super().close()
