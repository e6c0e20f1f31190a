"""CSV after RFC 4180, for Excel in China: a BOM so that Chinese is read right, or GB18030; and a formula guard.

NULL is an empty field, an empty text is "". In a result of one column NULL is "" too: an empty line is no row for most
readers. Quotes only where they must be.
"""

import string
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from datasources.connectors.base import Batch, Cell, Column, ColumnType
from tasks.writers.base import OpenPart, Writer, WriterOptions
from tasks.writers.joined import SEPARATOR, any_begins_with, change_cells_with, decoded, has_empty, is_separable, join
from tasks.writers.outfile import Data, HashedFile

_BOM = b"\xef\xbb\xbf"
_SPECIAL = (b'"', b",", b"\r", b"\n")
_QUOTED = b"".join(_SPECIAL)
# A spreadsheet takes what begins so for a formula (OWASP, CSV injection).
_FORMULA_STARTS = (b"=", b"+", b"-", b"@", b"\t", b"\r")
_HARMLESS = SEPARATOR + b"-+:. " + string.digits.encode() + string.ascii_letters.encode()
_BOOLEANS = {b"t": b"TRUE", b"f": b"FALSE"}
_SECONDS_END = len("YYYY-MM-DD HH:MM:SS")
_TEXTUAL = (ColumnType.TEXT, ColumnType.BINARY)
# Finding the cells with something special in the joined column pays as long as at most one in so many has it.
FEW = 8


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
        looked_for = [character for character in _SPECIAL if character in joined]
        guard = guard and self._guard
        if guard:
            looked_for += [character for character in _FORMULA_STARTS if any_begins_with(joined, character)]
        if looked_for:
            one = partial(_field, guarded=fidelity if guard else None)
            found = sum(map(joined.count, looked_for))
            if found * FEW < len(written) and is_separable(joined, len(written)):
                written = change_cells_with(joined, looked_for, one).split(SEPARATOR)
            else:
                # Nothing to take away: the same object, and nothing to do.
                away = b"".join(looked_for)
                written = [cell if cell.translate(None, away) is cell else one(cell) for cell in written]
        if has_empty(joined):
            # An empty text is "", NULL is nothing.
            written = [cell or (b"" if value is None else b'""') for cell, value in zip(written, values, strict=True)]
        return written


def _field(cell: bytes, guarded: "Counter[str] | None") -> bytes:
    """Any text that is not empty as a field; with `guarded` what looks like a formula is marked, and counted there."""
    if guarded is not None and cell[:1] in _FORMULA_STARTS:
        guarded["formula_guarded"] += 1
        cell = b"'" + cell
    if cell.translate(None, _QUOTED) == cell:
        return cell
    return b'"' + cell.replace(b'"', b'""') + b'"'


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
