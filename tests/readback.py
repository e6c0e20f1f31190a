"""Reads an exported file with other people's libraries and compares each cell with what the database sent.

The rules are written down here a second time, from SPEC and base.py, not from the writers: a cell must equal the
database's value, or be the text that stands for it and be counted in the writer's fidelity. Nothing else may be.
"""

import csv
import re
from collections import Counter
from collections.abc import Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

import openpyxl
import python_calamine

from datasources.connectors.base import Cell, Column, ColumnType
from tasks.writers.base import Writer

_FIRST_EXCEL_DAY = date(1900, 3, 1)
_TIME = re.compile(r"(\d\d):(\d\d):(\d\d)(?:\.(\d{1,6}))?")
_OFFSET = re.compile(r"[+-]\d\d(?::\d\d){0,2}(?=$| BC$)")
_UNWRITABLE = re.compile("[\x00-\x08\x0b-\x1f\ufffe\uffff]|_(?=x[0-9A-Fa-f]{4}_)")
_CLOSE = timedelta(milliseconds=1)  # the readers round what Excel stores as a double to milliseconds


class Expected(NamedTuple):
    """What a cell must read as, and the fidelity codes that it must have been counted under."""

    value: object
    codes: tuple[str, ...] = ()


def assert_xlsx_holds(writer: Writer, cells: Sequence[Sequence[Cell]]) -> None:
    """The finished file holds exactly `cells` (by column), for openpyxl and for calamine; fidelity counts the rest."""
    expected = [
        [in_excel(column, cell) for cell in values] for column, values in zip(writer.columns, cells, strict=True)
    ]
    for read in (_with_openpyxl, _with_calamine):
        header, *body = read(writer.parts[0].path)
        assert header == [column.name for column in writer.columns]
        _compare(writer.columns, body, expected, cells, read.__name__)
    _compare_fidelity(writer, expected)


def assert_csv_holds(writer: Writer, cells: Sequence[Sequence[Cell]], encoding: str = "utf-8-sig") -> None:
    """The same for a CSV file, read by the csv module. NULL and the empty text are one there."""
    expected = [[in_csv(column, cell) for cell in values] for column, values in zip(writer.columns, cells, strict=True)]
    with writer.parts[0].path.open(encoding=encoding, newline="") as file:
        header, *body = csv.reader(file, strict=True)
    assert header == [column.name for column in writer.columns]
    _compare(writer.columns, body, expected, cells, "csv")
    _compare_fidelity(writer, expected)


def _compare(
    columns: Sequence[Column],
    body: Sequence[Sequence[object]],
    expected: Sequence[Sequence[Expected]],
    cells: Sequence[Sequence[Cell]],
    reader: str,
) -> None:
    assert len(body) == len(cells[0]), f"{reader}: {len(body)} rows instead of {len(cells[0])}"
    wrong = [
        f"{column.name} row {number}: {reader} reads {row[index]!r}, the database holds {cells[index][number]!r}"
        for index, column in enumerate(columns)
        for number, row in enumerate(body)
        if not same_value(row[index], expected[index][number].value)
    ]
    assert not wrong, "\n".join(wrong)


def _compare_fidelity(writer: Writer, expected: Sequence[Sequence[Expected]]) -> None:
    counted = Counter(code for column in expected for item in column for code in item.codes)
    assert dict(writer.fidelity) == dict(counted)


def same_value(read: object, expected: object) -> bool:
    if isinstance(expected, str):
        # Of the two readers one undoes _xHHHH_, the other does not.
        return isinstance(read, str) and read in (expected, _escaped(expected))
    if isinstance(expected, bool) or expected is None:
        return read is expected or (expected is None and read == "")
    if isinstance(expected, (int, Decimal, float)):
        return isinstance(read, (int, float)) and not isinstance(read, bool) and float(read) == float(expected)
    if isinstance(expected, time) and isinstance(read, datetime):
        read = read.time()  # openpyxl shows a time that it rounds up to 24:00 as 1900-01-01 00:00
    moment, wanted = _as_moment(read), _as_moment(expected)
    if moment is None or wanted is None:
        return False
    apart = abs(moment - wanted)
    # calamine shows a time that it rounds up to 24:00 as 00:00.
    return apart <= _CLOSE or (isinstance(expected, time) and timedelta(days=1) - apart <= _CLOSE)


def _as_moment(value: object) -> datetime | None:
    match value:
        case datetime():
            return value
        case date():
            return datetime.combine(value, time())
        case time():
            return datetime.combine(date(1, 1, 1), value)
        case timedelta():
            return datetime(1, 1, 1) + value
    return None


def _escaped(text: str) -> str:
    return _UNWRITABLE.sub(lambda match: f"_x{ord(match[0]):04X}_", text)


def in_excel(column: Column, cell: Cell) -> Expected:
    if cell is None:
        return Expected(None)
    try:
        text = cell.decode()
    except UnicodeDecodeError:
        return Expected("0x" + cell.hex().upper(), ("invalid_text",))
    match column.type:
        case ColumnType.INTEGER | ColumnType.DECIMAL:
            return _exact_number(text)
        case ColumnType.FLOAT:
            return _number_or_text(text, bool(re.fullmatch(r"[-+]?[\d.]+(?:[eE][-+]?\d+)?", text)))
        case ColumnType.BOOLEAN:
            return Expected({"t": True, "f": False}[text])
        case ColumnType.DATE:
            day = _day(text)
            return Expected(day) if day else Expected(text, ("date_as_text",))
        case ColumnType.TIME:
            clock = _clock(text)
            return Expected(clock, _finer(clock)) if clock else Expected(text, ("time_as_text",))
        case ColumnType.DATETIME:
            return _moment(text, text)
        case ColumnType.INSTANT:
            return _moment(text, _OFFSET.sub("", text))
        case ColumnType.BINARY:
            return Expected(*_in_text(text)._replace(codes=("binary_as_hex", *_in_text(text).codes)))
    return _in_text(text)


def _exact_number(text: str) -> Expected:
    if not re.fullmatch(r"-?\d+(\.\d+)?", text):
        return Expected(text, ("number_as_text",))
    whole, _, fraction = text.lstrip("-").partition(".")
    digits = f"{whole}{fraction.rstrip('0')}".lstrip("0")
    return Expected(Decimal(text)) if len(digits) <= 15 else Expected(text, ("long_number_as_text",))


def _number_or_text(text: str, is_number: bool) -> Expected:
    return Expected(float(text)) if is_number else Expected(text, ("number_as_text",))


def _day(text: str) -> date | None:
    try:
        day = date.fromisoformat(text) if re.fullmatch(r"\d{4}-\d\d-\d\d", text) else None
    except ValueError:
        return None
    return day if day and day >= _FIRST_EXCEL_DAY else None


def _clock(text: str) -> time | None:
    match = _TIME.fullmatch(text)
    if match is None:
        return None
    try:
        return time(int(match[1]), int(match[2]), int(match[3]), int((match[4] or "").ljust(6, "0")))
    except ValueError:
        return None


def _moment(text: str, local: str) -> Expected:
    day, clock = _day(local[:10]), _clock(local[11:])
    if day is None or clock is None:
        return Expected(text, ("date_as_text",))
    return Expected(datetime.combine(day, clock), _finer(clock))


def _finer(clock: time) -> tuple[str, ...]:
    return ("sub_millisecond",) if clock.microsecond % 1000 else ()


def _in_text(text: str) -> Expected:
    if not text:
        return Expected(None, ("empty_text_as_blank",))
    codes: tuple[str, ...] = ()
    if len(text.encode("utf-16-le")) // 2 > 32_767:
        mark = "…[已截断]"
        text = text.encode("utf-16-le")[: (32_767 - len(mark)) * 2].decode("utf-16-le", "ignore") + mark
        codes += ("truncated_text",)
    if _escaped(text) != text:
        codes += ("escaped_characters",)
    return Expected(text, codes)


def in_csv(column: Column, cell: Cell) -> Expected:
    if cell is None:
        return Expected(None)
    codes: tuple[str, ...] = ("binary_as_hex",) if column.type is ColumnType.BINARY else ()
    try:
        text = cell.decode()
    except UnicodeDecodeError:
        return Expected("0x" + cell.hex().upper(), (*codes, "invalid_text"))
    if column.type is ColumnType.BOOLEAN:
        return Expected({"t": "TRUE", "f": "FALSE"}[text])
    if column.type is ColumnType.INSTANT:
        return Expected(_OFFSET.sub("", text))
    if column.type is ColumnType.TEXT and text[:1] in ("=", "+", "-", "@", "\t", "\r") and text:
        return Expected("'" + text, ("formula_guarded",))
    return Expected(text or None, codes)


def _with_openpyxl(path: Path) -> list[list[object]]:
    book = openpyxl.load_workbook(path, read_only=True)
    try:
        return [list(row) for sheet in book.worksheets for row in sheet.iter_rows(values_only=True)]
    finally:
        book.close()


def _with_calamine(path: Path) -> list[list[object]]:
    with python_calamine.CalamineWorkbook.from_path(path) as book:
        return [list(row) for name in book.sheet_names for row in book.get_sheet_by_name(name).to_python()]
