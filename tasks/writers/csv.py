"""CSV after RFC 4180, for Excel in China: a BOM so that Chinese is read right, or GB18030; and a formula guard.

NULL is an empty field, an empty text is "". In a result of one column NULL is "" too: an empty line is no row for most
readers. Quotes only where they must be.
"""

import string
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from datasources.connectors.base import Batch, Cell, Column, ColumnType
from tasks.writers.base import OpenPart, Writer, WriterOptions
from tasks.writers.joined import SEPARATOR, any_begins_with, decoded, has_empty, join
from tasks.writers.outfile import Data, HashedFile

_BOM = b"\xef\xbb\xbf"
_SPECIAL = b'",\r\n'
# A spreadsheet takes what begins so for a formula (OWASP, CSV injection).
_FORMULA_STARTS = b"=+-@\t\r"
_HARMLESS = SEPARATOR + b"-+:. " + string.digits.encode() + string.ascii_letters.encode()
_BOOLEANS = {b"t": b"TRUE", b"f": b"FALSE"}
_SECONDS_END = len("YYYY-MM-DD HH:MM:SS")
# What stands in the file for NULL and for an empty text.
_EMPTY: dict[Cell, bytes] = {None: b"", b"": b'""'}
_TEXTUAL = (ColumnType.TEXT, ColumnType.BINARY)


class CsvWriter(Writer):
    extension = ".csv"
    content_type = "text/csv"
    option_values = {"encoding": ("utf-8", ("utf-8", "gb18030")), "formula_guard": (True, (True, False))}

    def __init__(self, directory: Path, stem: str, columns: Sequence[Column], options: WriterOptions) -> None:
        super().__init__(directory, stem, columns, options)
        self._guard: bool = self.option("formula_guard")
        self._recode: bool = self.option("encoding") != "utf-8"

    def _open(self, file: HashedFile) -> Callable[[Data], None]:
        names = [self._texts([column.name.encode()], self.fidelity)[0] for column in self.columns]
        header = b",".join(names) + b"\r\n"
        file.write(header.decode().encode("gb18030") if self._recode else _BOM + header)
        return file.write

    def _encode(self, batch: Batch, fidelity: "Counter[str]") -> bytes:
        columns = [
            self._column(column, values, fidelity, as_text=index in batch.as_text)
            for index, (column, values) in enumerate(zip(self.columns, batch.columns, strict=True))
        ]
        if len(columns) == 1:
            columns = [[cell or b'""' for cell in columns[0]]]
        rows = b"\r\n".join(map(b",".join, zip(*columns, strict=True))) + b"\r\n"
        # GB18030 holds every character of Unicode, so nothing can be lost here.
        return rows.decode().encode("gb18030") if self._recode else rows

    def _close(self, part: OpenPart) -> None:
        pass  # A line end stands behind each row.

    def _column(
        self, column: Column, values: Sequence[Cell], fidelity: "Counter[str]", *, as_text: bool
    ) -> Sequence[bytes]:
        if as_text or column.type in _TEXTUAL:
            return self._texts(values, fidelity)
        if column.type is ColumnType.BOOLEAN:
            values = [_BOOLEANS.get(value, value) if value is not None else None for value in values]
        elif column.type is ColumnType.INSTANT:
            values = _without_offsets(values)
        # Numbers and times hold neither commas nor quotes; a text that strayed in (SQLite) may.
        written, joined = join(values)
        if joined.translate(None, _HARMLESS) or (has_empty(joined) and b"" in values):
            return self._texts(values, fidelity, guard=False)
        return written

    def _texts(self, values: Sequence[Cell], fidelity: "Counter[str]", *, guard: bool = True) -> Sequence[bytes]:
        written, joined = join(values)
        if decoded(joined) is None:
            values = [_valid(value, fidelity) for value in values]
            written, joined = join(values)
        quoted = _holding(written, joined, _SPECIAL)
        guarded = _beginning_with(written, joined, _FORMULA_STARTS) if guard and self._guard else ()
        if quoted or guarded:
            written = list(written)
            for index in guarded:
                written[index] = b"'" + written[index]
            for index in quoted:
                written[index] = b'"' + written[index].replace(b'"', b'""') + b'"'
        fidelity["formula_guarded"] += len(guarded)
        if has_empty(joined) and b"" in values:
            written = [cell or _EMPTY[value] for cell, value in zip(written, values, strict=True)]
        return written


def _holding(cells: Sequence[bytes], joined: bytes, characters: bytes) -> set[int]:
    """Which cells hold one of `characters`."""
    found: set[int] = set()
    for code in characters:
        if code in joined:
            # Asking for a number is five times faster than asking for bytes.
            found.update([index for index, cell in enumerate(cells) if code in cell])
    return found


def _beginning_with(cells: Sequence[bytes], joined: bytes, characters: bytes) -> Sequence[int]:
    """Which cells begin with one of `characters`."""
    if not any_begins_with(joined, characters):
        return ()
    return [index for index, cell in enumerate(cells) if cell and cell[0] in characters]


def _valid(value: Cell, fidelity: "Counter[str]") -> Cell:
    if value is None or decoded(value) is not None:
        return value
    fidelity["invalid_text"] += 1
    return b"0x" + value.hex().upper().encode()


def _without_offsets(values: Sequence[Cell]) -> Sequence[Cell]:
    """_without_offset() for a column; most zones have one offset for all of it."""
    written, joined = join(values)
    ending = written[0][-3:] + SEPARATOR
    closed = joined + SEPARATOR
    if ending[:1] in (b"+", b"-") and closed.count(ending) == len(written) and min(map(len, written)) > _SECONDS_END:
        return closed.replace(ending, SEPARATOR)[:-1].split(SEPARATOR)
    return [_without_offset(value) if value is not None else None for value in values]


def _without_offset(value: bytes) -> bytes:
    """2025-01-01 08:00:00+08 in the task's zone, without the offset that says so."""
    end = max(value.rfind(b"+"), value.rfind(b"-"))
    if end < _SECONDS_END:
        return value
    # PostgreSQL writes the era behind the offset.
    return value[:end] + b" BC" if value.endswith(b" BC") else value[:end]
