"""Beyond the last row of a sheet the result goes on in the next one."""

import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from python_calamine import CalamineWorkbook

from datasources.connectors.base import ColumnType
from tasks.writers import xlsx
from tests.writers.sheets import batches, calamine_rows, columns_of, make_writer, small_sheets


@pytest.mark.parametrize("rows", [0, 1, 9, 10, 11, 20, 21, 1000])
@pytest.mark.parametrize("batch", [1, 7, 10, 500])
def test_sheets_end_where_they_are_full(tmp_path: Path, rows: int, batch: int) -> None:
    writer = small_sheets(tmp_path, columns_of(ColumnType.INTEGER, ColumnType.TEXT), 11)
    for each in batches(2, rows, batch):
        writer.write(each)
    (part,) = writer.finish()
    count = max(1, -(-rows // 10))
    sheets = [calamine_rows(part.path, number) for number in range(count)]
    assert len(CalamineWorkbook.from_path(part.path).sheet_names) == count
    assert all(sheet[0] == ["c1", "c2"] for sheet in sheets)
    assert all(len(sheet) == 11 for sheet in sheets[:-1])
    assert [row[0] for sheet in sheets for row in sheet[1:]] == list(range(rows))
    assert part.rows == rows


def test_a_sheet_also_ends_before_its_xml_reaches_4_gib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xlsx, "MAX_ENTRY", 10_000)
    writer = make_writer(tmp_path, columns_of(ColumnType.INTEGER))
    for batch in batches(1, 1000, 50):
        writer.write(batch)
    (part,) = writer.finish()
    count = len(CalamineWorkbook.from_path(part.path).sheet_names)
    assert count > 2
    values = [row[0] for number in range(count) for row in calamine_rows(part.path, number)[1:]]
    assert values == list(range(1000))


def row_numbers(path: Path, sheet: int) -> Iterator[tuple[int, int]]:
    """(row, value of its first cell) of a sheet of integers, read in pieces."""
    with zipfile.ZipFile(path) as archive, archive.open(f"xl/worksheets/sheet{sheet}.xml") as file:
        rest = b""
        while chunk := file.read(1 << 20):
            *rows, rest = (rest + chunk).split(b"</row>")
            for row in rows:
                match = re.search(rb'<row r="(\d+)"><c r="A\1" s="\d+"(?:><v>(\d+)</v>)?', row)
                assert match is not None
                yield int(match[1]), int(match[2] or -1)


@pytest.mark.slow
def test_the_real_limit_gives_two_sheets_and_loses_no_row(tmp_path: Path) -> None:
    writer = make_writer(tmp_path, columns_of(ColumnType.INTEGER))
    for batch in batches(1, 1_048_576, 3000):
        writer.write(batch)
    (part,) = writer.finish()
    assert part.rows == 1_048_576
    first, second = list(row_numbers(part.path, 1)), list(row_numbers(part.path, 2))
    assert first == [(1, -1), *((row, row - 2) for row in range(2, 1_048_577))]
    assert second == [(1, -1), (2, 1_048_575)]
    book = CalamineWorkbook.from_path(part.path)
    assert book.get_sheet_by_index(1).to_python() == [["c1"], [1_048_575]]
