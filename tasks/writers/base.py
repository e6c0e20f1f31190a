"""What a file format promises: batches of columns in, one or more whole files out.

A writer sees batches as connectors make them (datasources/connectors/base.py) and streams them to disk: memory does
not grow with rows. It never changes a value in silence: whatever a format can't hold as it is, is counted in
`fidelity`.
"""

import sys
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from django.utils.functional import Promise
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from datasources.connectors.base import Batch, Column, ColumnType
from tasks.writers.outfile import Data, HashedFile, WriteBehind

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


@dataclass(slots=True)
class OpenPart:
    """The file that is being written, the thread that writes it, and the data rows in it so far."""

    file: HashedFile
    behind: WriteBehind
    rows: int = 0

    @property
    def most_bytes(self) -> int:
        """What is in the file, and what is on its way to it even if it can't be compressed at all."""
        # In this order: bytes that pass from one to the other meanwhile are counted twice, never not at all.
        pending = self.behind.pending
        return pending + self.file.size


class Writer(ABC):
    """Writes one result set into `directory` as `<stem><extension>`, `<stem>_part2<extension>`, …

    write() for each batch, then finish(); or abort(), which leaves nothing behind. What write() was given may still be
    on its way to the disk when it returns.
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
        self._part: OpenPart | None = None

    @property
    def size(self) -> int:
        """Bytes written so far, in all parts."""
        part = self._part
        return sum(part.size for part in self.parts) + (part.file.size if part else 0)

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
        start = 0
        while start < batch.rows:
            part = self._part or self._begin_part()
            count = min(batch.rows - start, self._rows_left(part))
            self._append(part, batch.slice(start, start + count))
            start += count

    def _append(self, part: OpenPart, batch: Batch) -> None:
        """Append rows that fit into the part by their number; those that do not fit by their size begin a new one."""
        counted: Counter[str] = Counter()
        data = self._encode(batch, counted)
        if not self._has_room(part, len(data)):
            # The end of a part is filled in ever smaller steps; what is too large for an empty one is written anyway.
            if batch.rows > 1:
                middle = batch.rows // 2
                self.write(batch.slice(0, middle))
                self.write(batch.slice(middle, batch.rows))
                return
            if part.rows:
                self._finish_part(part)
                self.write(batch)
                return
        self._put(part, data, batch.rows)
        self.fidelity += counted
        for index, column in enumerate(self.columns):
            if column.type is ColumnType.BINARY:
                self.fidelity["binary_as_hex"] += batch.rows - batch.columns[index].count(None)
        self.rows += batch.rows

    def _has_room(self, part: OpenPart, size: int) -> bool:
        """Whether `size` bytes fit into the part, even if they can't be compressed at all."""
        limit = min(self.options.max_file_size, self.largest_file) - self.slack - size
        # When what is on its way is too much, it is compressed first: then its size is known.
        for make_sure in (part.behind.drain, part.behind.flush):
            if part.most_bytes <= limit:
                return True
            make_sure()
        return part.most_bytes <= limit

    def finish(self) -> list[FilePart]:
        """Close the last file; an empty result gives one file with its header. All files are on the disk then."""
        if self._part is None and not self.parts:
            self._begin_part()
        if self._part is not None:
            self._finish_part(self._part)
        self.fidelity = +self.fidelity
        return self.parts

    def abort(self) -> None:
        """Remove everything that was written. May be called at any time, also after an error of write()."""
        if self._part is not None:
            self._part.behind.abandon()
            self._part.file.discard()
            self._part = None
        for part in self.parts:
            part.path.unlink(missing_ok=True)
        self.parts = []

    def _begin_part(self) -> OpenPart:
        number = len(self.parts) + 1
        suffix = f"_part{number}" if number > 1 else ""
        file = HashedFile(self.directory / f"{self.stem}{suffix}{self.extension}")
        try:
            self._part = OpenPart(file, WriteBehind(self._open(file)))
        except BaseException:
            file.discard()
            raise
        return self._part

    def _finish_part(self, part: OpenPart) -> None:
        part.behind.flush()
        self._close(part)
        part.behind.close()
        sha256 = part.file.finish()
        self.parts.append(FilePart(part.file.path, part.rows, part.file.size, sha256))
        self._part = None

    @abstractmethod
    def _open(self, file: HashedFile) -> Callable[[Data], None]:
        """Begin a file: what stands before the first row. Returns where encoded rows go; called in another thread."""

    def _rows_left(self, part: OpenPart) -> int:
        """How many rows may come next, at least one; the moment to begin a new sheet."""
        return sys.maxsize

    @abstractmethod
    def _encode(self, batch: Batch, fidelity: "Counter[str]") -> bytes:
        """The next rows as they stand in the file, before compression. Changes nothing: it may be asked again for
        fewer of the rows."""

    def _put(self, part: OpenPart, data: bytes, rows: int) -> None:
        """Send encoded rows on their way to the file."""
        part.behind.put(data)
        part.rows += rows

    @abstractmethod
    def _close(self, part: OpenPart) -> None:
        """End a file: what stands behind the last row. Nothing is on its way at this time."""
