"""Whatever stands in a column, it reads back equal or is counted; and its company in the column changes nothing."""

import math
import re
from collections import Counter
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given, settings
from hypothesis import strategies as st

from datasources.connectors.base import Cell, Column, ColumnType
from tasks.writers.cells import Markup, Styles, convert
from tests.writers.sheets import calamine_column, column_values, raw_values, write_column
from tests.writers.test_xlsx_text import unescaped

MARKUP = Markup(Styles(value=4, text=2, quoted=3))
quick = settings(max_examples=60, deadline=None)
thorough = settings(max_examples=400, deadline=None)

characters = st.one_of(
    st.characters(codec="utf-8"),
    st.sampled_from("\x00\x01\t\n\r _x0041&<>=+-@'\"\ufffe\uffff😀\u3000"),
)
texts = st.text(characters, max_size=12)
integers = st.integers(-(10**20), 10**20).map(str)
decimals = st.decimals(allow_nan=False, allow_infinity=False, places=6, min_value=-(10**14), max_value=10**14).map(str)
floats = st.floats().map(repr)
dates = st.dates().map(date.isoformat)
moments = st.datetimes().map(lambda moment: moment.isoformat(" "))
odd = st.sampled_from([None, b"", b"NaN", b"0000-00-00", b"\xff", b"=1", b"-", b"1-2", b"infinity", b"24:00:00"])


def back(kind: ColumnType, values: list[str]) -> tuple[list[object], list[object], list[str | None], Counter[str]]:
    with TemporaryDirectory() as directory:
        written = write_column(Path(directory), Column("v", kind, 6), values)
        path = written.path
        read = column_values(path), calamine_column(path), [unescaped(text) for text in raw_values(path)]
        return *read, Counter(written.fidelity)


@quick
@given(st.lists(texts, min_size=1))
def test_any_text(values: list[str]) -> None:
    _openpyxl, calamine, raw, fidelity = back(ColumnType.TEXT, values)
    assert [text or "" for text in raw] == values
    calamine += [""] * (len(values) - len(calamine))  # It leaves out blank cells at the end.
    for read, text in zip(calamine, values, strict=True):
        assert read == text or re.search("[\x00-\x08\x0b-\x1f\ufffe\uffff]|_x", text)
    assert fidelity["empty_text_as_blank"] == values.count("")
    assert fidelity.keys() <= {"empty_text_as_blank", "escaped_characters"}


@quick
@given(st.lists(integers, min_size=1))
def test_any_integer(values: list[str]) -> None:
    first, second, _raw, fidelity = back(ColumnType.INTEGER, values)
    wanted = [text if len(text.lstrip("-")) > 15 else int(text) for text in values]
    assert first == second == wanted
    assert fidelity["long_number_as_text"] == sum(isinstance(value, str) for value in wanted)


@quick
@given(st.lists(decimals, min_size=1))
def test_any_decimal(values: list[str]) -> None:
    first, second, raw, fidelity = back(ColumnType.DECIMAL, values)
    assert [Decimal(text or "") for text in raw] == [Decimal(text) for text in values]
    for text, *read in zip(values, first, second, strict=True):
        assert [Decimal(str(value)) if isinstance(value, str) else float(str(value)) for value in read] == (
            [Decimal(text)] * 2 if isinstance(read[0], str) else [float(text)] * 2
        )
    assert fidelity["long_number_as_text"] == sum(isinstance(value, str) for value in first)


@quick
@given(st.lists(floats, min_size=1))
def test_any_float(values: list[str]) -> None:
    first, second, _raw, fidelity = back(ColumnType.FLOAT, values)
    strange = [not math.isfinite(float(text)) for text in values]
    wanted = [text if is_strange else float(text) for text, is_strange in zip(values, strange, strict=True)]
    assert first == second == wanted
    assert fidelity["number_as_text"] == sum(strange)


@quick
@given(st.lists(dates, min_size=1))
def test_any_date(values: list[str]) -> None:
    first, second, _raw, fidelity = back(ColumnType.DATE, values)
    wanted = [text if text < "1900-03-01" else date.fromisoformat(text) for text in values]
    assert [value.date() if isinstance(value, datetime) else value for value in first] == second == wanted
    assert fidelity["date_as_text"] == sum(isinstance(value, str) for value in wanted)


@quick
@given(st.lists(moments, min_size=1))
def test_any_moment(values: list[str]) -> None:
    _first, _second, raw, fidelity = back(ColumnType.DATETIME, values)
    start = datetime(1899, 12, 30, tzinfo=UTC)
    for text, serial in zip(values, raw, strict=True):
        if text < "1900-03-01":
            assert serial == text
            continue
        elapsed = datetime.fromisoformat(text).replace(tzinfo=UTC) - start
        exact = Decimal(elapsed.days) + Decimal(elapsed.seconds * 10**6 + elapsed.microseconds) / 86_400_000_000
        assert abs(Decimal(serial or "") - exact) <= Decimal("2e-12")  # 0.17 microseconds
    assert fidelity["date_as_text"] == sum(text < "1900-03-01" for text in values)


@thorough
@given(
    st.sampled_from(ColumnType),
    st.lists(st.one_of(texts, integers, decimals, floats, dates, moments).map(str.encode), min_size=1, max_size=6),
    st.lists(odd, max_size=3),
    st.booleans(),
)
def test_a_cell_is_the_same_whatever_stands_beside_it(
    kind: ColumnType, values: list[Cell], company: list[Cell], as_text: bool
) -> None:
    column = Column("v", kind)
    together, apart = Counter[str](), Counter[str]()
    cells = convert(column, [*values, *company], MARKUP, together, as_text=as_text).whole()
    alone = [
        cell
        for value in [*values, *company]
        for cell in convert(column, [value], MARKUP, apart, as_text=as_text).whole()
    ]
    assert cells == alone
    assert +together == +apart
