"""CSV after RFC 4180, for Excel in China: a BOM so that Chinese is read right, or GB18030; and a formula guard.

NULL is an empty field, an empty text is "". In a result of one column NULL is "" too: an empty line is no row for most
readers.
"""

import string
from collections.abc import Sequence
from pathlib import Path

from datasources.connectors.base import Batch, Cell, Column, ColumnType
from tasks.writers.base import HashedFile, Writer, WriterOptions

_BOM = b"\xef\xbb\xbf"
_SPECIAL = b'",\r\n'
# A spreadsheet takes what begins so for a formula (OWASP, CSV injection).
_FORMULA_STARTS = (b"=", b"+", b"-", b"@", b"\t", b"\r")
_HARMLESS = b"-+:. " + string.digits.encode() + string.ascii_letters.encode()
_BOOLEANS = {b"t": b"TRUE", b"f": b"FALSE"}
_TEXTUAL = (ColumnType.TEXT, ColumnType.BINARY)


class CsvWriter(Writer):
    extension = ".csv"
    content_type = "text/csv"
    option_values = {"encoding": ("utf-8", ("utf-8", "gb18030")), "formula_guard": (True, (True, False))}

    def __init__(self, directory: Path, stem: str, columns: Sequence[Column], options: WriterOptions) -> None:
        super().__init__(directory, stem, columns, options)
        self._guard: bool = self.option("formula_guard")
        self._recode: bool = self.option("encoding") != "utf-8"

    def _open(self, file: HashedFile) -> None:
        names: list[Cell] = [column.name.encode() for column in self.columns]
        header = b",".join(self._texts(names)) + b"\r\n"
        file.write(header.decode().encode("gb18030") if self._recode else _BOM + header)

    def _write_rows(self, file: HashedFile, batch: Batch) -> None:
        columns = [
            self._column(column, values, as_text=index in batch.as_text)
            for index, (column, values) in enumerate(zip(self.columns, batch.columns, strict=True))
        ]
        if len(columns) == 1:
            columns = [[cell or b'""' for cell in columns[0]]]
        rows = b"\r\n".join(map(b",".join, zip(*columns, strict=True))) + b"\r\n"
        # GB18030 holds every character of Unicode, so nothing can be lost here.
        file.write(rows.decode().encode("gb18030") if self._recode else rows)

    def _close(self, file: HashedFile) -> None:
        pass

    def _column(self, column: Column, values: list[Cell], *, as_text: bool) -> list[bytes]:
        if as_text or column.type in _TEXTUAL:
            return self._texts(values)
        if column.type is ColumnType.BOOLEAN:
            values = [_BOOLEANS.get(value, value) if value is not None else None for value in values]
        elif column.type is ColumnType.INSTANT:
            values = [_without_offset(value) if value is not None else None for value in values]
        # Numbers and times hold neither commas nor quotes; a text that strayed in (SQLite) may.
        joined = b"".join(value for value in values if value)
        if joined.translate(None, _HARMLESS):
            return self._texts(values, guard=False)
        return [value if value is not None else b"" for value in values]

    def _texts(self, values: list[Cell], *, guard: bool = True) -> list[bytes]:
        joined = b"\0".join(value for value in values if value is not None)
        try:
            joined.decode()
        except UnicodeDecodeError:
            values = [self._one_valid(value) for value in values]
        if guard and self._guard and self._any_formula(joined):
            values = [self._guarded(value) for value in values]
        if b"" in values or any(character in joined for character in (b'"', b",", b"\r", b"\n")):
            return [self._quoted(value) for value in values]
        return [value if value is not None else b"" for value in values]

    def _one_valid(self, value: Cell) -> Cell:
        if value is None:
            return None
        try:
            value.decode()
        except UnicodeDecodeError:
            self.fidelity["invalid_text"] += 1
            return b"0x" + value.hex().upper().encode()
        return value

    def _any_formula(self, joined: bytes) -> bool:
        return joined[:1] in _FORMULA_STARTS or any(b"\0" + start in joined for start in _FORMULA_STARTS)

    def _guarded(self, value: Cell) -> Cell:
        if value and value[:1] in _FORMULA_STARTS:
            self.fidelity["formula_guarded"] += 1
            return b"'" + value
        return value

    @staticmethod
    def _quoted(value: Cell) -> bytes:
        if value is None:
            return b""
        if not value or value.translate(None, _SPECIAL) != value:
            return b'"' + value.replace(b'"', b'""') + b'"'
        return value


def _without_offset(value: bytes) -> bytes:
    """2025-01-01 08:00:00+08 in the task's zone, without the offset that says so."""
    end = max(value.rfind(b"+"), value.rfind(b"-"))
    if end <= 18:
        return value
    # PostgreSQL writes the era behind the offset.
    return value[:end] + b" BC" if value.endswith(b" BC") else value[:end]
