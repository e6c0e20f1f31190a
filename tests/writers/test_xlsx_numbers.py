"""Numbers are numbers with every digit, or text that is counted."""

import itertools
import re
from decimal import Decimal
from pathlib import Path

import pytest

from datasources.connectors.base import Batch, Column, ColumnType
from tasks.writers import cells
from tests.writers.sheets import (
    calamine_column,
    column_cells,
    column_values,
    encoded,
    make_writer,
    raw_values,
    write,
    write_column,
)

BIGINTS = [
    "9223372036854775807",
    "-9223372036854775808",
    "18446744073709551615",
    "1234567890123456",
    "-1234567890123456",
]
SMALL_INTEGERS = ["0", "1", "-1", "999999999999999", "-999999999999999", "00042"]


def test_integers_of_up_to_15_digits_are_numbers(tmp_path: Path) -> None:
    written = write_column(tmp_path, ColumnType.INTEGER, SMALL_INTEGERS)
    assert column_values(written.path) == calamine_column(written.path) == [int(text) for text in SMALL_INTEGERS]
    assert written.fidelity == {}


@pytest.mark.parametrize("company", [[], ["7"], [None], ["7", None]], ids=["alone", "short", "null", "both"])
def test_longer_integers_are_text_and_counted_whatever_stands_beside_them(
    tmp_path: Path, company: list[str | None]
) -> None:
    written = write_column(tmp_path, ColumnType.INTEGER, [*BIGINTS, *company])
    assert column_values(written.path)[: len(BIGINTS)] == BIGINTS
    assert calamine_column(written.path)[: len(BIGINTS)] == BIGINTS
    assert written.fidelity == {"long_number_as_text": len(BIGINTS)}


@pytest.mark.parametrize("kind", [ColumnType.INTEGER, ColumnType.DECIMAL, ColumnType.FLOAT])
@pytest.mark.parametrize(
    "stray",
    [
        "2025-01-01",
        "1-2",
        "-",
        "--1",
        "1.2.3",
        ".",
        "-.",
        "10.0.0.1",
        "NaN",
        "Infinity",
        "-Infinity",
        "a",
        "1 2",
        "e5",
        "1e",
        "0x10",
        "1_000",
        "٣",
    ],
)
def test_what_is_no_number_is_text_and_counted(tmp_path: Path, kind: ColumnType, stray: str) -> None:
    for company in ([], ["7"], [None]):
        written = write_column(tmp_path / f"{len(company)}{company}", kind, [stray, *company])
        assert column_values(written.path)[0] == stray
        assert written.fidelity == {"number_as_text": 1}


@pytest.mark.parametrize("kind", [ColumnType.INTEGER, ColumnType.DECIMAL, ColumnType.FLOAT, ColumnType.BOOLEAN])
def test_an_empty_text_in_a_number_column_is_blank_and_counted_once(tmp_path: Path, kind: ColumnType) -> None:
    written = write_column(tmp_path, kind, ["", None])
    assert column_values(written.path) == [None, None]
    assert written.fidelity == {"empty_text_as_blank": 1}


DECIMALS = [
    "0.0000000000",
    "1.5000000000",
    "-0.0000000001",
    "123456.7890123450",
    "99999.9999999999",
    "-12.30",
    "0",
    "0.00",
]
LONG_DECIMALS = [
    "1234567890.1234567890",
    "0.1234567890123456",
    "-99999999999999999999999999.9999999999",
    "1234567890123456.0",
]


def test_decimals_are_exact_numbers_or_text(tmp_path: Path) -> None:
    written = write_column(tmp_path, Column("d", ColumnType.DECIMAL, 10), [*DECIMALS, *LONG_DECIMALS])
    values = column_values(written.path)
    assert [Decimal(text) for text in raw_values(written.path)[: len(DECIMALS)] if text] == [
        Decimal(x) for x in DECIMALS
    ]
    assert values[: len(DECIMALS)] == [float(text) for text in DECIMALS]
    assert values[len(DECIMALS) :] == calamine_column(written.path)[len(DECIMALS) :] == LONG_DECIMALS
    assert written.fidelity == {"long_number_as_text": len(LONG_DECIMALS)}


def test_zeros_that_carry_no_digit_do_not_make_a_number_long(tmp_path: Path) -> None:
    texts = ["0.00000000000000000001", "000000000000000000012.5", "7.00000000000000000000"]
    written = write_column(tmp_path, Column("d", ColumnType.DECIMAL, 20), texts)
    assert column_values(written.path) == [1e-20, 12.5, 7]
    assert written.fidelity == {}


@pytest.mark.parametrize(
    ("scale", "code"),
    [
        (0, "0"),
        (2, "0.00"),
        (10, "0.0000000000"),
        (30, "0." + "0" * 30),
        (38, "0." + "0" * 30),
        (-2, "0"),
        (None, "General"),
    ],
)
def test_the_format_keeps_the_scale(tmp_path: Path, scale: int | None, code: str) -> None:
    written = write_column(tmp_path, Column("d", ColumnType.DECIMAL, scale), ["500", None, "12345678901234567890"])
    number, _null, long = column_cells(written.path)
    assert (number.number_format, number.data_type, long.number_format, long.data_type) == (code, "n", "@", "s")


FLOATS = [
    "1e308",
    "1.7976931348623157e308",
    "5e-324",
    "0.1",
    "-0.0",
    "-0",
    "1E+5",
    "1.5e-7",
    "3.141592653589793",
    "100",
]


@pytest.mark.parametrize("company", [[], [None], ["NaN"]])
def test_floats_come_back_to_the_last_bit(tmp_path: Path, company: list[str | None]) -> None:
    written = write_column(tmp_path, ColumnType.FLOAT, [*FLOATS, *company])
    wanted = [float(text) for text in FLOATS]
    assert [float(value) for value in column_values(written.path)[: len(FLOATS)]] == wanted
    assert [float(value) for value in calamine_column(written.path)[: len(FLOATS)]] == wanted
    assert raw_values(written.path)[: len(FLOATS)] == FLOATS


def test_a_float_that_overflows_is_text_and_counted(tmp_path: Path) -> None:
    written = write_column(tmp_path, ColumnType.FLOAT, ["1e309", "-1e999", "inf", "nan", "9" * 400])
    assert column_values(written.path) == ["1e309", "-1e999", "inf", "nan", "9" * 400]
    assert written.fidelity == {"number_as_text": 5}


def test_booleans_are_booleans(tmp_path: Path) -> None:
    written = write_column(tmp_path, ColumnType.BOOLEAN, ["t", "f", None, "2"])
    assert column_values(written.path) == [True, False, None, "2"]
    assert calamine_column(written.path)[:2] == [True, False]
    assert written.fidelity == {"number_as_text": 1}


def test_cells_that_are_text_in_a_number_column_stay_text(tmp_path: Path) -> None:
    columns = [Column(kind.value, kind) for kind in (ColumnType.INTEGER, ColumnType.DECIMAL, ColumnType.BOOLEAN)]
    writer = make_writer(tmp_path, columns)
    writer.write(Batch([encoded(["007"]), encoded(["1.50"]), encoded(["t"])], 1, frozenset({0, 1, 2})))
    writer.write(Batch([encoded(["7"]), encoded(["1.50"]), encoded(["t"])], 1))
    (part,) = writer.finish()
    assert column_values(part.path) == ["007", 7]
    assert dict(writer.fidelity) == {}


def test_a_column_of_nothing_but_null_is_blank(tmp_path: Path) -> None:
    columns = [Column(kind.value, kind) for kind in ColumnType]
    written = write(tmp_path, columns, [[None] * 3 for _kind in columns])
    assert column_values(written.path) == [None] * 3
    assert written.fidelity == {}


@pytest.mark.parametrize("name", ["_INTEGERS", "_LONG_INTEGERS", "_AMOUNTS", "_DECIMALS", "_FLOATS"])
def test_the_fast_look_at_a_column_takes_nothing_that_a_plain_one_refuses(name: str) -> None:
    """Python before 3.11.5 matches some possessive groups wrongly; Debian 12 has 3.11.2."""
    fast = getattr(cells, name)
    plain = re.compile(re.sub(rb"(?<=[?*+}])[+]", b"", fast.pattern))
    assert plain.pattern != fast.pattern
    for length in range(6):
        for codes in itertools.product(b"-1.e\0", repeat=length):
            text = bytes(codes) + b"\0"
            assert bool(fast.fullmatch(text)) == bool(plain.fullmatch(text)), text
