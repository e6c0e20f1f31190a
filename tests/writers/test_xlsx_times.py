"""Dates and times are dates and times with a format, or text that is counted."""

from datetime import date, datetime, time, timedelta
from pathlib import Path
from typing import Any

import pytest

from datasources.connectors.base import Column, ColumnType
from tests.writers.sheets import calamine_column, column_cells, column_values, raw_values, write_column

UNKNOWN_DAYS = [
    "1899-12-31",
    "1900-01-01",
    "1900-02-28",
    "1900-02-29",
    "0000-00-00",
    "0001-01-01",
    "2025-00-10",
    "2025-02-30",
    "infinity",
    "-infinity",
    "2025-03-15 BC",
    "10000-01-01",
]


def near(found: Any, wanted: datetime) -> bool:
    return isinstance(found, datetime) and abs(found - wanted) <= timedelta(milliseconds=1)


def test_dates_from_march_1900_on_are_dates(tmp_path: Path) -> None:
    days = ["1900-03-01", "1970-01-01", "2024-02-29", "2025-12-31", "9999-12-31"]
    written = write_column(tmp_path, ColumnType.DATE, [*days, None, days[0]])
    cells = column_cells(written.path)
    wanted = [date.fromisoformat(day) for day in days]
    assert [cell.value.date() for cell in cells[:5]] == calamine_column(written.path)[:5] == wanted
    assert {cell.number_format for cell in cells if cell.value} == {"yyyy-mm-dd"}
    assert raw_values(written.path)[0] == "61"  # Excel's own number for that day
    assert cells[5].value is None
    assert written.fidelity == {}


@pytest.mark.parametrize("company", [[], ["2025-01-01"], [None]], ids=["alone", "date", "null"])
def test_days_that_excel_does_not_know_are_text_and_counted_each_time(
    tmp_path: Path, company: list[str | None]
) -> None:
    written = write_column(tmp_path, ColumnType.DATE, [*UNKNOWN_DAYS, *UNKNOWN_DAYS, *company])
    count = 2 * len(UNKNOWN_DAYS)
    assert column_values(written.path)[:count] == calamine_column(written.path)[:count] == UNKNOWN_DAYS * 2
    assert written.fidelity == {"date_as_text": count}


def test_times_of_day_are_times_and_others_text(tmp_path: Path) -> None:
    texts = [
        "00:00:00",
        "23:59:59",
        "12:30:15.250",
        "12:30",
        "24:00:00",
        "-838:59:59",
        "838:59:59",
        "12:60:00",
        "1:00:00",
    ]
    written = write_column(tmp_path, ColumnType.TIME, texts)
    cells = column_cells(written.path)
    assert [cell.value for cell in cells[:4]] == [time(0), time(23, 59, 59), time(12, 30, 15, 250_000), time(12, 30)]
    assert [cell.value for cell in cells[4:]] == texts[4:]
    assert cells[0].number_format == "hh:mm:ss.000"
    assert written.fidelity == {"time_as_text": 5}


def test_a_time_with_an_offset_stays_as_the_server_wrote_it(tmp_path: Path) -> None:
    written = write_column(tmp_path, ColumnType.TIME, ["12:00:00+08", "12:00:00.123456+05:30"])
    assert column_values(written.path) == ["12:00:00+08", "12:00:00.123456+05:30"]
    assert written.fidelity == {"time_as_text": 2}


def test_the_last_microsecond_of_a_day_does_not_become_the_next_day(tmp_path: Path) -> None:
    written = write_column(tmp_path, ColumnType.TIME, ["23:59:59.999999"])
    (raw,) = raw_values(written.path)
    assert raw is not None
    assert 0.99999999998 < float(raw) < 1
    assert written.fidelity == {"sub_millisecond": 1}


@pytest.mark.parametrize("digits", range(7))
def test_every_length_of_fraction_is_kept(tmp_path: Path, digits: int) -> None:
    fraction = "123456"[:digits]
    text = f"2025-08-12 15:30:07{'.' if digits else ''}{fraction}"
    written = write_column(tmp_path, ColumnType.DATETIME, [text, None, "2025-08-12 00:00:00"])
    first, null, midnight = column_cells(written.path)
    wanted = datetime(2025, 8, 12, 15, 30, 7, int(fraction.ljust(6, "0")))
    assert near(first.value, wanted)
    assert near(calamine_column(written.path)[0], wanted)
    assert null.value is None
    assert midnight.value == datetime(2025, 8, 12)
    assert first.number_format == ("yyyy-mm-dd hh:mm:ss.000" if digits else "yyyy-mm-dd hh:mm:ss")
    assert written.fidelity == ({"sub_millisecond": 1} if digits > 3 else {})


@pytest.mark.parametrize("offset", ["", "+08", "+05:30", "-03", "+08:05:43", "+00"])
@pytest.mark.parametrize("fraction", ["", ".5", ".123456"])
def test_an_offset_is_left_out(tmp_path: Path, offset: str, fraction: str) -> None:
    written = write_column(tmp_path, ColumnType.INSTANT, [f"2025-08-12 15:30:07{fraction}{offset}"])
    wanted = datetime.fromisoformat(f"2025-08-12 15:30:07{fraction.ljust(7, '0') if fraction else ''}")
    assert near(column_values(written.path)[0], wanted)
    assert near(calamine_column(written.path)[0], wanted)


UNKNOWN_MOMENTS = [
    "0000-00-00 00:00:00",
    "1899-12-31 23:59:59",
    "infinity",
    "-infinity",
    "2025-03-15 08:00:00 BC",
    "2025-03-15 08:00:00+08 BC",
    "12025-01-01 00:00:00",
    "2025-01-01 24:00:00",
    "2025-01-01 10:00:00.1234567",
    "2025-01-01 10:00:00 Asia/Shanghai",
    "2025-01-01x10:00:00",
    "2025-01-01 10",
]


@pytest.mark.parametrize("kind", [ColumnType.DATETIME, ColumnType.INSTANT])
def test_moments_that_excel_does_not_know_are_text_and_counted(tmp_path: Path, kind: ColumnType) -> None:
    written = write_column(tmp_path, kind, [*UNKNOWN_MOMENTS, "2025-01-01 00:00:00"])
    assert column_values(written.path)[:-1] == UNKNOWN_MOMENTS
    assert written.fidelity == {"date_as_text": len(UNKNOWN_MOMENTS)}


def test_a_date_alone_and_iso_form_are_moments(tmp_path: Path) -> None:
    written = write_column(tmp_path, ColumnType.DATETIME, ["2025-01-01", "2025-01-01T08:30:00"])
    assert column_values(written.path) == [datetime(2025, 1, 1), datetime(2025, 1, 1, 8, 30)]
    assert written.fidelity == {}


def test_the_format_shows_no_fraction_when_the_sample_has_none(tmp_path: Path) -> None:
    written = write_column(tmp_path, Column("t", ColumnType.DATETIME, 6), ["2025-01-01 08:30:00"])
    assert column_cells(written.path)[0].number_format == "yyyy-mm-dd hh:mm:ss"
