"""What a file format promises: batches of columns in, one or more whole files out.

A writer sees batches as connectors make them (datasources/connectors/base.py) and streams them to disk: memory does
not grow with rows. It never changes a value in silence: whatever a format can't hold as it is, is counted in
`fidelity`.
"""

import hashlib
import os
import sys
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from django.utils.functional import Promise
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from datasources.connectors.base import Batch, Column, ColumnType

MOST_IN_BATCH = 32 * 1024 * 1024  # bytes; connectors aim at half a megabyte

# Why a cell in the file is not the very value of the database: code -> words for people.
FIDELITY: dict[str, Promise] = {
    "long_number_as_text": gettext_lazy("numbers of more than 15 digits, written as text so that no digit is lost"),
    "number_as_text": gettext_lazy("numbers that are none (NaN, infinity, text in a number column), written as text"),
    "date_as_text": gettext_lazy(
        "dates that Excel does not know (before March 1900, 0000-00-00, infinity), written as text"
    ),
    "time_as_text": gettext_lazy("times outside 00:00–23:59, written as text"),
    "sub_millisecond": gettext_lazy("times whose microseconds Excel does not show"),
    "binary_as_hex": gettext_lazy("binary values, written as 0x…"),
    "invalid_text": gettext_lazy("texts that are not valid UTF-8, written as 0x…"),
    "escaped_characters": gettext_lazy("texts with characters that Excel can't hold, written as _xHHHH_"),
    "truncated_text": gettext_lazy("texts longer than 32,767 characters, cut with a mark"),
    "empty_text_as_blank": gettext_lazy("empty texts, which look like NULL in the file"),
    "formula_guarded": gettext_lazy("texts that look like a formula, with ' put in front"),
}


class WriterError(Exception):
    """The result can't be written in this format; the text says why. `reason` is a code of tasks/reasons.py."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class FilePart:
    """One finished file: size in bytes, data rows without headers, hexadecimal SHA-256."""

    path: Path
    rows: int
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class WriterOptions:
    """`title` names the sheet, `max_file_size` (bytes) starts a further part, `extra` holds the format's own options."""

    title: str
    max_file_size: int
    extra: Mapping[str, Any] = field(default_factory=dict)


class HashedFile:
    """A file that is only appended to; knows its size and SHA-256 without being read again."""

    def __init__(self, path: Path) -> None:
        # O_EXCL and O_NOFOLLOW: never into something that is there already, nor through a link.
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
        self._file = open(os.open(path, flags, 0o600), "wb", buffering=1 << 18)
        self._hash = hashlib.sha256()
        self.path = path
        self.size = 0

    def write(self, data: bytes) -> None:
        self._file.write(data)
        self._hash.update(data)
        self.size += len(data)

    def finish(self) -> str:
        """Flush to the disk itself and close. Returns the SHA-256 in hexadecimal digits."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        return self._hash.hexdigest()

    def discard(self) -> None:
        try:
            self._file.close()
        except OSError:
            pass  # A full disk refuses the last buffer; the file goes anyway.
        self.path.unlink(missing_ok=True)


class Writer(ABC):
    """Writes one result set into `directory` as `<stem><extension>`, `<stem>_part2<extension>`, …

    write() for each batch, then finish(); or abort(), which leaves nothing behind.
    """

    extension: ClassVar[str]
    content_type: ClassVar[str]
    # The format's own options of a task: name -> (default, allowed values).
    option_values: ClassVar[Mapping[str, tuple[Any, tuple[Any, ...]]]] = {}

    # What compression may hold back and the end of a file needs: a part may be that much larger than it is so far.
    slack: ClassVar[int] = 0
    # What a file of this format can hold at all, whatever `max_file_size` allows.
    largest_file: ClassVar[int] = sys.maxsize

    def __init__(self, directory: Path, stem: str, columns: Sequence[Column], options: WriterOptions) -> None:
        self.directory = directory
        self.stem = stem
        self.columns = tuple(columns)
        self.options = options
        self.fidelity: Counter[str] = Counter()
        self.rows = 0
        self.parts: list[FilePart] = []
        self._file: HashedFile | None = None
        self._rows_in_part = 0

    @property
    def size(self) -> int:
        """Bytes written so far, in all parts."""
        return sum(part.size for part in self.parts) + (self._file.size if self._file else 0)

    def option(self, name: str) -> Any:
        default, _allowed = self.option_values[name]
        return self.options.extra.get(name, default)

    @classmethod
    def check_options(cls, extra: Mapping[str, Any]) -> None:
        """Raise ValueError when `extra` holds an option or a value that the format does not know."""
        for name, value in extra.items():
            if name not in cls.option_values:
                known = ", ".join(cls.option_values) or "-"
                raise ValueError(
                    _("“{name}” is not an option of this format. Known: {known}.").format(name=name, known=known)
                )
            allowed = cls.option_values[name][1]
            if value not in allowed:
                raise ValueError(
                    _("The option “{name}” takes one of: {allowed}.").format(
                        name=name, allowed=", ".join(map(str, allowed))
                    )
                )

    def write(self, batch: Batch) -> None:
        """Append the rows of `batch`. Raises OSError (disk full, …) or WriterError."""
        if not batch.rows:
            return
        if self._file is None:
            self._file = self._begin_part()
        room = self._room(self._file)
        if room >= MOST_IN_BATCH or room >= _most_bytes(batch):
            self._append(self._file, batch)
        elif room > 0 and batch.rows > 1:
            # The end of a part is filled in ever smaller steps.
            middle = batch.rows // 2
            self.write(_rows(batch, 0, middle))
            self.write(_rows(batch, middle, batch.rows))
        elif self._rows_in_part:
            self._finish_part(self._file)
            self.write(batch)
        else:
            self._append(self._file, batch)

    def _append(self, file: HashedFile, batch: Batch) -> None:
        for index, column in enumerate(self.columns):
            if column.type is ColumnType.BINARY:
                self.fidelity["binary_as_hex"] += batch.rows - batch.columns[index].count(None)
        self._write_rows(file, batch)
        self.rows += batch.rows
        self._rows_in_part += batch.rows

    def finish(self) -> list[FilePart]:
        """Close the last file; an empty result gives one file with its header. All files are on the disk then."""
        if self._file is None and not self.parts:
            self._file = self._begin_part()
        if self._file is not None:
            self._finish_part(self._file)
        self.fidelity = +self.fidelity
        return self.parts

    def abort(self) -> None:
        """Remove everything that was written. May be called at any time, also after an error of write()."""
        if self._file is not None:
            self._file.discard()
            self._file = None
        for part in self.parts:
            part.path.unlink(missing_ok=True)
        self.parts = []

    def _room(self, file: HashedFile) -> int:
        return min(self.options.max_file_size, self.largest_file) - self.slack - file.size

    def _begin_part(self) -> HashedFile:
        number = len(self.parts) + 1
        suffix = f"_part{number}" if number > 1 else ""
        file = HashedFile(self.directory / f"{self.stem}{suffix}{self.extension}")
        try:
            self._open(file)
        except BaseException:
            file.discard()
            raise
        return file

    def _finish_part(self, file: HashedFile) -> None:
        self._close(file)
        sha256 = file.finish()
        self.parts.append(FilePart(file.path, self._rows_in_part, file.size, sha256))
        self._file = None
        self._rows_in_part = 0

    @abstractmethod
    def _open(self, file: HashedFile) -> None:
        """Begin a file: what stands before the first row."""

    @abstractmethod
    def _write_rows(self, file: HashedFile, batch: Batch) -> None:
        """Append rows."""

    @abstractmethod
    def _close(self, file: HashedFile) -> None:
        """End a file: what stands behind the last row."""


def _rows(batch: Batch, start: int, end: int) -> Batch:
    return Batch([column[start:end] for column in batch.columns], end - start, batch.as_text)


def _most_bytes(batch: Batch) -> int:
    """What `batch` takes in a file at most: its text, separators or markup, and as much again for escaping."""
    texts = sum(len(cell) for column in batch.columns for cell in column if cell)
    return 2 * (texts + 16 * batch.rows * len(batch.columns))
