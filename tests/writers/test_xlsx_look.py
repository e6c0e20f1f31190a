"""What a person sees on opening the file: header, filter, widths, sheet names."""

from pathlib import Path
from typing import Any

import openpyxl
import pytest

from datasources.connectors.base import Column, ColumnType
from tasks.writers.base import WriterError
from tasks.writers.workbook import column_letters, sheet_name
from tests.writers.sheets import batches, calamine_rows, columns_of, make_writer, raw_values, small_sheets, write


def opened(path: Path) -> Any:
    return openpyxl.load_workbook(path).active


def test_the_header_is_bold_frozen_and_filtered(tmp_path: Path) -> None:
    sheet = opened(write(tmp_path, columns_of(*[ColumnType.TEXT] * 3), [["a", "b"]] * 3).path)
    assert [cell.font.b for cell in sheet[1]] == [True] * 3
    assert [cell.font.b for cell in sheet[2]] == [False] * 3
    assert {cell.fill.fill_type for cell in sheet[1]} == {"solid"}
    assert sheet.freeze_panes == "A2"
    assert sheet.auto_filter.ref == "A1:C3"


def test_the_filter_of_an_empty_result_is_its_header(tmp_path: Path) -> None:
    (part,) = make_writer(tmp_path, columns_of(ColumnType.TEXT)).finish()
    sheet = opened(part.path)
    assert sheet.auto_filter.ref == "A1:A1"
    assert [[cell.value for cell in row] for row in sheet.iter_rows()] == [["c1"]]


def test_every_sheet_has_its_own_filter_and_excels_hidden_name_for_it(tmp_path: Path) -> None:
    writer = small_sheets(tmp_path, columns_of(ColumnType.INTEGER), 11)
    for batch in batches(1, 25):
        writer.write(batch)
    book = openpyxl.load_workbook(writer.finish()[0].path)
    assert [sheet.auto_filter.ref for sheet in book] == ["A1:A11", "A1:A11", "A1:A6"]
    assert [sheet.freeze_panes for sheet in book] == ["A2"] * 3
    names = [sheet.defined_names.get("_xlnm._FilterDatabase") for sheet in book]
    assert all(name is None or name.hidden for name in names)


def test_widths_come_from_a_sample_and_count_chinese_twice(tmp_path: Path) -> None:
    columns = [
        Column(name, ColumnType.TEXT)
        for name in ("narrow", "wide", "chinese", "endless", "first line", "长长长长长长长长长长")
    ]
    values = [["x"], ["w" * 30], ["中" * 15], ["e" * 500], ["short\n" + "l" * 90], ["x"]]
    sheet = opened(write(tmp_path, columns, values).path)
    assert [sheet.column_dimensions[letter].width for letter in "ABCDEF"] == [10, 32, 32, 60, 14, 24]


@pytest.mark.parametrize(
    ("title", "name"),
    [
        ("每日订单", "每日订单"),
        ("", "Sheet1"),
        ("   ", "Sheet1"),
        ("'", "Sheet1"),
        ("''' quoted '''", "quoted"),
        ("it's", "it's"),
        ("a[b]c:d*e?f/g\\h", "a_b_c_d_e_f_g_h"),
        ("History", "History_"),
        ("hISTORY", "hISTORY_"),
        ("x" * 40, "x" * 31),
        ("中" * 40, "中" * 31),
        ("😀" * 40, "😀" * 15),
        ("x" * 30 + "' y", "x" * 30),
        ("a\x00b\nc\ud800d", "a_b_c_d"),
        ('<&>"', '<&>"'),
    ],
)
def test_sheet_names_are_legal(tmp_path: Path, title: str, name: str) -> None:
    assert sheet_name(title, 1) == name
    assert opened(write(tmp_path, columns_of(ColumnType.TEXT), [["x"]], title=title).path).title == name


@pytest.mark.parametrize("title", ["x" * 40, "😀" * 40, "History", "", "x" * 26 + "'" + "y" * 10])
def test_further_sheets_are_numbered_within_the_length(title: str) -> None:
    names = [sheet_name(title, number) for number in (1, 2, 10, 100)]
    assert len({name.lower() for name in names}) == 4
    assert all(len(name.encode("utf-16-le")) <= 62 and not name.endswith("'") for name in names)
    assert [name.rpartition(" ")[2] for name in names[1:]] == ["(2)", "(10)", "(100)"]


def test_duplicate_empty_and_strange_column_names_are_kept(tmp_path: Path) -> None:
    names = ["id", "id", "", "=1+1", "a\nb", "<b>&", "_x0041_", "  ", "列"]
    written = write(tmp_path, [Column(name, ColumnType.TEXT) for name in names], [["x"]] * len(names))
    header = calamine_rows(written.path)[0]
    assert header == [name or " " for name in names]
    assert [cell.data_type for cell in opened(written.path)[1]] == ["s"] * len(names)
    assert [cell.font.b for cell in opened(written.path)[1]] == [True] * len(names)
    assert written.fidelity == {"escaped_characters": 1}


@pytest.mark.parametrize("count", [1, 26, 27, 300, 703])
def test_any_number_of_columns(tmp_path: Path, count: int) -> None:
    columns = [Column(f"c{number}", ColumnType.INTEGER) for number in range(count)]
    written = write(tmp_path, columns, [[str(number), None] for number in range(count)])
    rows = calamine_rows(written.path)
    assert rows[0] == [column.name for column in columns]
    assert rows[1] == list(range(count))
    assert opened(written.path).auto_filter.ref == f"A1:{column_letters(count - 1)}3"


def test_column_letters() -> None:
    known = {0: "A", 25: "Z", 26: "AA", 701: "ZZ", 702: "AAA", 16_383: "XFD"}
    assert {index: column_letters(index) for index in known} == known


@pytest.mark.parametrize(("count", "reason"), [(0, "sql_error"), (16_385, "file_too_large")])
def test_a_result_without_columns_or_with_too_many_is_refused(tmp_path: Path, count: int, reason: str) -> None:
    with pytest.raises(WriterError) as caught:
        make_writer(tmp_path, columns_of(*[ColumnType.TEXT] * count))
    assert caught.value.reason == reason
    assert list(tmp_path.iterdir()) == []


def test_compact_files_leave_the_references_out_and_read_the_same(tmp_path: Path) -> None:
    columns = columns_of(ColumnType.INTEGER, ColumnType.TEXT, ColumnType.DATE)
    values = [["1", None, "3"], ["a", "b", None], [None, "2025-01-01", "0000-00-00"]]
    plain = write(tmp_path / "plain", columns, values)
    compact = write(tmp_path / "compact", columns, values, compact=True)
    assert compact.parts[0].size < plain.parts[0].size
    assert calamine_rows(plain.path) == calamine_rows(compact.path)
    assert [[c.value for c in row] for row in opened(plain.path).iter_rows()] == [
        [c.value for c in row] for row in opened(compact.path).iter_rows()
    ]
    assert raw_values(plain.path) == raw_values(compact.path)
