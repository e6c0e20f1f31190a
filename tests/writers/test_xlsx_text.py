"""Text stays the text it is: never a formula, never cut or changed in silence."""

import re
from pathlib import Path

import pytest

from datasources.connectors.base import ColumnType
from tasks.writers.cells import MAX_CELL_CHARACTERS, TRUNCATED_MARK, utf16_length
from tests.writers.sheets import (
    MAIN,
    calamine_column,
    column_cells,
    column_values,
    raw_values,
    sheet_xml,
    write,
    write_column,
)


def unescaped(text: str | None) -> str | None:
    """Undo _xHHHH_ as Excel does (ECMA-376 part 1, 22.9.2.19), left to right, once."""
    return text and re.sub(r"_x([0-9A-Fa-f]{4})_", lambda match: chr(int(match[1], 16)), text)


def excel_values(path: Path) -> list[str | None]:
    return [unescaped(text) for text in raw_values(path)]


FORMULA_LIKE = ["=1+1", "+8613800138000", "-1", "@SUM(A1)", "=cmd|'/c calc'!A0", "＝1", "-", "="]


@pytest.mark.parametrize("company", [[], [None], [""], ["plain"], ["\x01"]])
def test_text_like_a_formula_is_a_string_and_stays_one_when_edited(tmp_path: Path, company: list[str | None]) -> None:
    written = write_column(tmp_path, ColumnType.TEXT, [*FORMULA_LIKE, *company])
    cells = column_cells(written.path)[: len(FORMULA_LIKE)]
    assert [cell.value for cell in cells] == FORMULA_LIKE == calamine_column(written.path)[: len(FORMULA_LIKE)]
    assert {cell.data_type for cell in cells} == {"s"}
    assert not list(sheet_xml(written.path).iter(f"{MAIN}f"))
    assert [cell.quotePrefix for cell in cells] == [text[0] in "=+-@" for text in FORMULA_LIKE]
    assert "formula_guarded" not in written.fidelity


KEPT = [
    "00123",
    " leading",
    "trailing ",
    "  ",
    " ",
    "two  blanks",
    "line\nfeed",
    "\n",
    "tab\there",
    "\t",
    "&<>\"'",
    "&amp;",
    "]]>",
    "<![CDATA[x]]>",
    "😀👨‍👩‍👧‍👦",
    "中文，全角　空格",
    "\u3000ideographic\u3000",
    "\u00a0nbsp\u00a0",
    "\x7f\x85\u2028",
    "\ufffd\ufeff",
    "NULL",
    "TRUE",
    "1e5",
    "2025-01-01",
    "#N/A",
    "_x",
    "_x41_",
    "%d %s %%",
]


@pytest.mark.parametrize("company", [[], [None], ["\x01"], ["=1"]], ids=["plain", "null", "dirty", "formula"])
def test_text_comes_back_as_it_was(tmp_path: Path, company: list[str | None]) -> None:
    written = write_column(tmp_path, ColumnType.TEXT, [*KEPT, *company])
    assert column_values(written.path)[: len(KEPT)] == KEPT
    assert calamine_column(written.path)[: len(KEPT)] == KEPT
    assert written.fidelity == ({"escaped_characters": 1} if company == ["\x01"] else {})


@pytest.mark.parametrize("text", KEPT)
def test_each_of_them_comes_back_alone(tmp_path: Path, text: str) -> None:
    written = write_column(tmp_path, ColumnType.TEXT, [text])
    assert column_values(written.path) == calamine_column(written.path) == [text]


CONTROLS = [chr(code) for code in range(32) if code not in (9, 10)] + ["\ufffe", "\uffff"]
ESCAPED = [
    *CONTROLS,
    "a\rb",
    "a\r\nb",
    "a\x00b",
    "\x00\x00",
    "_x0041_",
    "_x000D_",
    "__x0041_",
    "_x0041_x0042_",
    "_x005F_",
    "_x0041\x01",
    "_x0041\r",
    "_xAbCd\x02_x0041_",
    "_\x01_",
]


@pytest.mark.parametrize("company", [[], ["plain"], [None]])
def test_what_excel_can_not_hold_is_escaped_so_that_it_reads_the_same_and_counted(
    tmp_path: Path, company: list[str | None]
) -> None:
    written = write_column(tmp_path, ColumnType.TEXT, [*ESCAPED, *company])
    assert excel_values(written.path)[: len(ESCAPED)] == ESCAPED
    assert written.fidelity == {"escaped_characters": len(ESCAPED)}


@pytest.mark.parametrize("text", ESCAPED)
def test_each_of_them_is_escaped_alone(tmp_path: Path, text: str) -> None:
    written = write_column(tmp_path, ColumnType.TEXT, [text])
    assert excel_values(written.path) == [text]
    assert written.fidelity == {"escaped_characters": 1}


def test_calamine_undoes_the_escapes(tmp_path: Path) -> None:
    texts = ["a\rb", "_x0041_", "_x0041\x01", "a\x00b"]
    assert calamine_column(write_column(tmp_path, ColumnType.TEXT, texts).path) == texts


INVALID = [b"\xff", b"abc\x80", b"\xe4\xb8", b"\xed\xa0\x80", b"\xc0\xaf", b"\xf4\x90\x80\x80"]


def test_bytes_that_are_not_utf8_are_shown_in_hexadecimal_and_counted(tmp_path: Path) -> None:
    written = write_column(tmp_path, ColumnType.TEXT, [*INVALID, "fine", None])
    assert column_values(written.path)[:-2] == ["0x" + text.hex().upper() for text in INVALID]
    assert column_values(written.path)[-2:] == ["fine", None]
    assert written.fidelity == {"invalid_text": len(INVALID)}


def test_null_and_empty_text_are_blank_and_the_empty_text_is_counted(tmp_path: Path) -> None:
    columns: list[list[str | bytes | None]] = [[None, "", "x", ""], ["", ""], [""], [None], ["x", ""], ["", "=1", ""]]
    for number, values in enumerate(columns):
        written = write_column(tmp_path / str(number), ColumnType.TEXT, values)
        assert column_values(written.path) == [value or None for value in values]
        assert written.fidelity == ({"empty_text_as_blank": values.count("")} if "" in values else {})


@pytest.mark.parametrize(
    "text",
    ["a" * 32_767, "中" * 32_767, "😀" * 16_383 + "x", "\n" * 32_767, "<" * 32_767],
    ids=["ascii", "chinese", "astral", "lines", "markup"],
)
def test_a_text_of_exactly_the_limit_is_whole(tmp_path: Path, text: str) -> None:
    written = write_column(tmp_path, ColumnType.TEXT, [text])
    assert excel_values(written.path) == [text]
    assert written.fidelity == {}


@pytest.mark.parametrize(
    "text",
    ["a" * 32_768, "中" * 32_768, "😀" * 16_384, "x" + "😀" * 16_384, "\x01" * 40_000, "<" * 100_000],
    ids=["ascii", "chinese", "astral", "shifted", "escaped", "long"],
)
def test_a_longer_text_is_cut_with_a_mark_and_counted(tmp_path: Path, text: str) -> None:
    written = write_column(tmp_path, ColumnType.TEXT, [text, "next"])
    cut, following = excel_values(written.path)
    assert cut is not None
    assert cut.endswith(TRUNCATED_MARK)
    assert following == "next"
    kept = cut.removesuffix(TRUNCATED_MARK)
    assert text.startswith(kept)
    assert MAX_CELL_CHARACTERS - 1 <= utf16_length(cut) <= MAX_CELL_CHARACTERS
    assert written.fidelity["truncated_text"] == 1


def test_half_a_million_bytes_that_are_not_utf8_are_cut_too(tmp_path: Path) -> None:
    written = write_column(tmp_path, ColumnType.TEXT, [b"\xff" * 500_000])
    assert written.fidelity == {"invalid_text": 1, "truncated_text": 1}


def test_binary_is_hexadecimal_text_and_counted(tmp_path: Path) -> None:
    written = write_column(tmp_path, ColumnType.BINARY, ["0xDEADBEEF", None, "0x"])
    assert column_values(written.path) == ["0xDEADBEEF", None, "0x"]
    assert written.fidelity == {"binary_as_hex": 2}


def test_columns_that_are_text_in_a_batch_are_text_there(tmp_path: Path) -> None:
    from datasources.connectors.base import Column

    columns = [Column(kind.value, kind) for kind in ColumnType]
    values = ["007", "=1", "2025-01-01", None]
    written = write(tmp_path, columns, [values for _kind in columns], as_text=range(len(columns)))
    assert column_values(written.path) == values
