"""CSV: what RFC 4180 and the csv module read is what the database sent; Excel in China reads it right."""

import csv
import io
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datasources.connectors.base import Column, ColumnType
from tests.writers.sheets import columns_of, write

TEXT = ColumnType.TEXT
BOM = b"\xef\xbb\xbf"


def content(directory: Path, kind: ColumnType, values: list[str | bytes | None], **extra: Any) -> str:
    """The lines behind the header of a file of one column and an `id`, so that no line is empty."""
    columns = [Column("id", ColumnType.INTEGER), Column("v", kind)]
    path = write(directory, columns, [["7"] * len(values), values], kind="csv", **extra).path
    raw = path.read_bytes()
    encoding = str(extra.get("encoding", "utf-8"))
    assert raw.startswith(BOM) is (encoding == "utf-8")
    header, *lines = raw.removeprefix(BOM).decode(encoding).split("\r\n")
    assert header == "id,v"
    assert lines.pop() == ""
    return "|".join(line.removeprefix("7,") for line in lines)


def parsed(path: Path, encoding: str = "utf-8-sig") -> list[list[str]]:
    with path.open(newline="", encoding=encoding) as file:
        return list(csv.reader(file, strict=True))


def test_null_is_an_empty_field_and_the_empty_text_is_quoted(tmp_path: Path) -> None:
    assert content(tmp_path, TEXT, ["a", None, "", "b"]) == 'a||""|b'


def test_in_a_file_of_one_column_null_does_not_become_an_empty_line(tmp_path: Path) -> None:
    for kind in ColumnType:
        path = write(tmp_path / kind.value, columns_of(kind), [[None, None]], kind="csv").path
        assert path.read_bytes() == BOM + b'c1\r\n""\r\n""\r\n'
        assert parsed(path)[1:] == [[""], [""]]


def test_quotes_commas_and_line_ends_are_quoted_and_nothing_else(tmp_path: Path) -> None:
    values: list[str | bytes | None] = ['a"b', "a,b", "a\nb", "a\rb", "a;b", " a ", "plain", '"', '""']
    assert content(tmp_path, TEXT, values) == '"a""b"|"a,b"|"a\nb"|"a\rb"|a;b| a |plain|""""|""""""'


FORMULAS = ["=1+1", "+86138", "-1", "@x", "\tx", "\rx", '=HYPERLINK("a,b")']


def test_what_looks_like_a_formula_is_guarded_and_counted(tmp_path: Path) -> None:
    columns = columns_of(TEXT, ColumnType.INTEGER)
    written = write(tmp_path, columns, [[*FORMULAS, "a=b", None, ""], ["-5"] * 10], kind="csv")
    rows = parsed(written.path)[1:]
    assert [row[0] for row in rows] == [f"'{text}" for text in FORMULAS] + ["a=b", "", ""]
    assert {row[1] for row in rows} == {"-5"}
    assert written.fidelity == {"formula_guarded": len(FORMULAS)}


def test_the_guard_can_be_switched_off(tmp_path: Path) -> None:
    written = write(tmp_path, columns_of(TEXT), [FORMULAS], kind="csv", formula_guard=False)
    assert [row[0] for row in parsed(written.path)[1:]] == FORMULAS
    assert written.fidelity == {}


def test_column_names_are_guarded_and_quoted_too(tmp_path: Path) -> None:
    written = write(tmp_path, [Column("=x", TEXT), Column("a,b", TEXT), Column("", TEXT)], [["1"]] * 3, kind="csv")
    assert parsed(written.path)[0] == ["'=x", "a,b", ""]


def test_text_in_a_number_column_of_this_batch_is_guarded(tmp_path: Path) -> None:
    written = write(tmp_path, columns_of(ColumnType.INTEGER), [["=1", "-5"]], kind="csv", as_text=[0])
    assert parsed(written.path)[1:] == [["'=1"], ["'-5"]]


def test_values_that_strayed_into_a_number_column_can_not_break_the_line(tmp_path: Path) -> None:
    assert content(tmp_path, ColumnType.DECIMAL, ["1,5", "NaN", "-2", None, 'x"']) == '"1,5"|NaN|-2||"x"""'


def test_numbers_and_times_stay_as_the_database_wrote_them(tmp_path: Path) -> None:
    cases = {
        ColumnType.INTEGER: "18446744073709551615",
        ColumnType.DECIMAL: "-0.0000000001",
        ColumnType.FLOAT: "1e-07",
        ColumnType.DATE: "0000-00-00",
        ColumnType.TIME: "-838:59:59",
        ColumnType.DATETIME: "2025-01-01 08:00:00.123456",
    }
    for kind, text in cases.items():
        assert content(tmp_path / kind.value, kind, [text, None]) == f"{text}|"


def test_booleans_are_excels_words(tmp_path: Path) -> None:
    assert content(tmp_path, ColumnType.BOOLEAN, ["t", "f", None]) == "TRUE|FALSE|"


@pytest.mark.parametrize(
    ("instant", "shown"),
    [
        ("2025-01-01 08:00:00+08", "2025-01-01 08:00:00"),
        ("2025-01-01 08:00:00.5-03", "2025-01-01 08:00:00.5"),
        ("2025-01-01 08:00:00+05:30", "2025-01-01 08:00:00"),
        ("1900-01-01 08:00:00+08:05:43", "1900-01-01 08:00:00"),
        ("2025-01-01 08:00:00", "2025-01-01 08:00:00"),
        ("10000-01-01 08:00:00+08", "10000-01-01 08:00:00"),
        ("0044-03-15 08:00:00+08:05:43 BC", "0044-03-15 08:00:00 BC"),
        ("infinity", "infinity"),
        ("-infinity", "-infinity"),
    ],
)
def test_instants_lose_their_offset_and_nothing_else(tmp_path: Path, instant: str, shown: str) -> None:
    assert content(tmp_path, ColumnType.INSTANT, [instant]) == shown


def test_bytes_that_are_not_utf8_are_shown_in_hexadecimal_and_counted(tmp_path: Path) -> None:
    written = write(tmp_path, columns_of(TEXT), [[b"\xff\xfe", "fine", b"=\x80", None]], kind="csv")
    assert [row[0] for row in parsed(written.path)[1:]] == ["0xFFFE", "fine", "0x3D80", ""]
    assert written.fidelity == {"invalid_text": 2}


@pytest.mark.parametrize("kind", [ColumnType.INTEGER, ColumnType.BOOLEAN, ColumnType.INSTANT, ColumnType.DATE])
@pytest.mark.parametrize("encoding", ["utf-8", "gb18030"])
def test_they_can_not_spoil_a_column_of_another_type_either(tmp_path: Path, kind: ColumnType, encoding: str) -> None:
    written = write(tmp_path, columns_of(kind), [[b"\xff"]], kind="csv", encoding=encoding)
    assert parsed(written.path, encoding.replace("utf-8", "utf-8-sig"))[1:] == [["0xFF"]]
    assert written.fidelity == {"invalid_text": 1}


def test_gb18030_holds_every_character(tmp_path: Path) -> None:
    values: list[str | bytes | None] = ["中文", "€é😀", "𠮷", None, "a,b"]
    assert content(tmp_path, TEXT, values, encoding="gb18030") == '中文|€é😀|𠮷||"a,b"'


def test_binary_is_hexadecimal_and_counted(tmp_path: Path) -> None:
    written = write(tmp_path, columns_of(ColumnType.BINARY), [["0xCAFE", None]], kind="csv")
    assert parsed(written.path)[1:] == [["0xCAFE"], [""]]
    assert written.fidelity == {"binary_as_hex": 1}


texts = st.one_of(
    st.none(),
    st.text(st.one_of(st.characters(codec="utf-8"), st.sampled_from('",\r\n\0=+-@ \t')), max_size=8),
)


@settings(max_examples=200, deadline=None)
@given(
    st.integers(1, 4).flatmap(lambda width: st.lists(st.tuples(*[texts] * width), min_size=1, max_size=6)),
    st.booleans(),
)
def test_any_text_comes_back(rows: list[tuple[str | None, ...]], guard: bool) -> None:
    columns = [list(column) for column in zip(*rows, strict=True)]
    with TemporaryDirectory() as directory:
        written = write(Path(directory), columns_of(*[TEXT] * len(columns)), columns, kind="csv", formula_guard=guard)
        read = list(csv.reader(io.StringIO(written.path.read_bytes().decode("utf-8-sig"), newline=""), strict=True))[1:]
    guarded = Counter(bool(text) and text[:1] in "=+-@\t\r" for row in rows for text in row if text)
    wanted = [["'" + text if guard and text and text[0] in "=+-@\t\r" else text or "" for text in row] for row in rows]
    assert read == wanted
    assert written.fidelity == ({"formula_guarded": guarded[True]} if guard and guarded[True] else {})
