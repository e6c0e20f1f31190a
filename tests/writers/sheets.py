"""Write columns to a file and read it back, with two independent readers."""

import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import openpyxl
from python_calamine import CalamineWorkbook

from datasources.connectors.base import Batch, Cell, Column, ColumnType
from tasks.writers import writers
from tasks.writers.base import FilePart, Writer, WriterOptions
from tasks.writers.xlsx import XlsxWriter

MAIN = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"
ENOUGH = 1 << 40  # a max_file_size that nothing reaches


def encoded(values: Iterable[str | bytes | None]) -> list[Cell]:
    return [value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value for value in values]


def columns_of(*types: ColumnType) -> list[Column]:
    return [Column(f"c{number}", kind) for number, kind in enumerate(types, start=1)]


def make_writer(
    directory: Path,
    columns: Sequence[Column],
    kind: str = "xlsx",
    *,
    title: str = "result",
    max_file_size: int = ENOUGH,
    **extra: Any,
) -> Writer:
    directory.mkdir(parents=True, exist_ok=True)
    return writers.get(kind)(directory, "result", columns, WriterOptions(title, max_file_size, extra))


@dataclass(frozen=True)
class Written:
    """What a writer left: its files and what it counted."""

    parts: list[FilePart]
    fidelity: dict[str, int]

    @property
    def path(self) -> Path:
        (part,) = self.parts
        return part.path


def write(
    directory: Path,
    columns: Sequence[Column],
    values: Sequence[Sequence[str | bytes | None]],
    *,
    kind: str = "xlsx",
    as_text: Iterable[int] = (),
    title: str = "result",
    **extra: Any,
) -> Written:
    """`values` by column, in one batch."""
    writer = make_writer(directory, columns, kind, title=title, **extra)
    writer.write(Batch([encoded(column) for column in values], len(values[0]), frozenset(as_text)))
    parts = writer.finish()
    return Written(parts, dict(writer.fidelity))


def write_column(directory: Path, column: Column | ColumnType, values: Sequence[str | bytes | None]) -> Written:
    named = column if isinstance(column, Column) else Column("value", column)
    return write(directory, [named], [values])


def column_cells(path: Path) -> list[Any]:
    """The cells of the first column without its header, as openpyxl sees them."""
    book = openpyxl.load_workbook(path)
    sheet: Any = book.active
    cells = [row[0] for row in sheet.iter_rows(min_row=2)]
    book.close()
    return cells


def column_values(path: Path) -> list[Any]:
    return [cell.value for cell in column_cells(path)]


def calamine_rows(path: Path, sheet: int = 0) -> list[list[Any]]:
    with CalamineWorkbook.from_path(path) as book:
        return book.get_sheet_by_index(sheet).to_python(skip_empty_area=False)


def calamine_column(path: Path) -> list[Any]:
    return [row[0] for row in calamine_rows(path)[1:]]


def parts_of(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def sheet_xml(path: Path, number: int = 1) -> ElementTree.Element:
    return ElementTree.fromstring(parts_of(path)[f"xl/worksheets/sheet{number}.xml"])


def raw_values(path: Path) -> list[str | None]:
    """What stands in the first column's cells, letter for letter, before any reader interprets it."""
    rows = sheet_xml(path).iter(f"{MAIN}row")
    cells = [next(iter(row)) for row in rows][1:]
    return [
        next((node.text or "" for node in cell.iter() if node.tag in (f"{MAIN}v", f"{MAIN}t")), None) for cell in cells
    ]


def small_sheets(directory: Path, columns: Sequence[Column], max_rows: int) -> XlsxWriter:
    """An Excel writer whose sheets end after `max_rows` rows, their header included."""
    writer = make_writer(directory, columns)
    assert isinstance(writer, XlsxWriter)
    writer.max_rows = max_rows
    return writer


def batches(columns: int, rows: int, size: int = 500) -> Iterator[Batch]:
    """`rows` rows of numbers, each different."""
    for start in range(0, rows, size):
        count = min(size, rows - start)
        numbers: list[Cell] = [b"%d" % number for number in range(start, start + count)]
        yield Batch([list(numbers) for _column in range(columns)], count)
