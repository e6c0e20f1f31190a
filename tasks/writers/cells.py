"""Columns of database text -> columns of spreadsheet cells (ECMA-376 part 1, 18.3.1.4), as bytes.

A chunk of a column is looked at as a whole with operations that run at the speed of C. When nothing in it is
special, its cells go into the row as they are, between a prefix and a suffix that all of them share; only a chunk
with something special in it pays per cell.
"""

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from math import isinf
from typing import NamedTuple

from datasources.connectors.base import Cell, Column, ColumnType

MAX_CELL_CHARACTERS = 32_767  # Excel's limit, in UTF-16 units
TRUNCATED_MARK = "…[已截断]"
MAX_DIGITS = 15  # A spreadsheet's number is a double: further digits would be lost

_EPOCH = date(1899, 12, 30).toordinal()  # Day 0 of the 1900 date system, from 1900-03-01 on
_FIRST_DAY = date(1900, 3, 1).toordinal()  # Before it Excel counts a 29 February 1900 that never was
BLANK = b"/>"


class Cells(NamedTuple):
    """The cells of one column behind `<c r="A1"`: prefix + cell + suffix each."""

    prefix: bytes
    values: list[bytes]
    suffix: bytes


@dataclass(frozen=True, slots=True)
class Styles:
    """The indexes into the workbook's cell formats that one column uses."""

    value: int
    text: int
    quoted: int


Converter = Callable[[list[Cell], Styles, "Counter[str]"], Cells]


def convert(column: Column, values: list[Cell], styles: Styles, fidelity: "Counter[str]", *, as_text: bool) -> Cells:
    """One column of a batch as cells; what could not stay as it was is counted in `fidelity`."""
    if as_text:
        return text(values, styles, fidelity)
    return CONVERTERS[column.type](values, styles, fidelity)


def _number_cells(style: int) -> tuple[bytes, bytes]:
    return b' s="%d"><v>' % style, b"</v></c>"


def _per_cell(values: list[Cell], one: Callable[[bytes], bytes]) -> Cells:
    return Cells(b"", [BLANK if value is None else one(value) for value in values], b"")


def _text_cell(value: bytes, style: int) -> bytes:
    """A cell of text that is known to need no escaping."""
    return b' s="%d" t="inlineStr"><is><t>%b</t></is></c>' % (style, value)


def _present(values: list[Cell]) -> tuple[list[bytes], bytes]:
    """The cells that are not NULL, and the same joined with NUL characters."""
    try:
        return values, b"\0".join(values)  # type: ignore[arg-type, return-value]  # fails on the first None
    except TypeError:
        present = [value for value in values if value is not None]
        return present, b"\0".join(present)


def _spread(values: list[Cell], present: list[bytes], prefix: bytes, suffix: bytes) -> Cells:
    """`present` cells in the places that are neither NULL nor empty in `values`."""
    if len(present) == len(values):
        return Cells(prefix, present, suffix)
    rest = iter(present)
    return Cells(b"", [prefix + next(rest) + suffix if value else BLANK for value in values], b"")


# Whole columns joined with NUL characters. The possessive repetitions never go back: twice as fast.
_INTEGERS = re.compile(rb"(?:-?+[0-9]{1,%d}+\0)*+" % MAX_DIGITS)
_LONG_INTEGERS = re.compile(rb"(?:-?+[1-9][0-9]{%d,}+\0)*+" % MAX_DIGITS)
_NUMBERS = re.compile(rb"(?:-?+[0-9]++(?:\.[0-9]++)?+\0)*+")
_DECIMAL = re.compile(rb"-?([0-9]+)(?:\.([0-9]+))?")
_FLOAT = re.compile(rb"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_LONGEST_FLOAT = 25  # characters of a double without an exponent


def integer(values: list[Cell], styles: Styles, fidelity: "Counter[str]") -> Cells:
    prefix, suffix = _number_cells(styles.value)
    present, joined = _present(values)
    if _INTEGERS.fullmatch(joined + b"\0"):
        return _spread(values, present, prefix, suffix)
    if _LONG_INTEGERS.fullmatch(joined + b"\0"):
        fidelity["long_number_as_text"] += len(present)
        return _spread(values, present, *_text_cell(b"\0", styles.text).split(b"\0"))

    def one(value: bytes) -> bytes:
        digits = value.removeprefix(b"-")
        if not digits.isdigit():
            return _stray(value, "number_as_text", styles, fidelity)
        if len(digits.lstrip(b"0")) > MAX_DIGITS:
            fidelity["long_number_as_text"] += 1
            return _text_cell(value, styles.text)
        return prefix + value + suffix

    return _per_cell(values, one)


def decimal(values: list[Cell], styles: Styles, fidelity: "Counter[str]") -> Cells:
    prefix, suffix = _number_cells(styles.value)
    present, joined = _present(values)
    if _are_short_numbers(present, joined, MAX_DIGITS):
        return _spread(values, present, prefix, suffix)

    def one(value: bytes) -> bytes:
        match = _DECIMAL.fullmatch(value)
        if match is None:
            return _stray(value, "number_as_text", styles, fidelity)
        whole, fraction = match[1].lstrip(b"0"), (match[2] or b"").rstrip(b"0")
        significant = len(whole) + len(fraction) if whole else len(fraction.lstrip(b"0"))
        if significant > MAX_DIGITS:
            fidelity["long_number_as_text"] += 1
            return _text_cell(value, styles.text)
        return prefix + value + suffix

    return _per_cell(values, one)


def floating(values: list[Cell], styles: Styles, fidelity: "Counter[str]") -> Cells:
    prefix, suffix = _number_cells(styles.value)
    present, joined = _present(values)
    if _are_short_numbers(present, joined, _LONGEST_FLOAT):
        return _spread(values, present, prefix, suffix)

    def one(value: bytes) -> bytes:
        # What overflows to infinity has no place in a number cell either.
        if not _FLOAT.fullmatch(value) or isinf(float(value)):
            return _stray(value, "number_as_text", styles, fidelity)
        return prefix + value + suffix

    return _per_cell(values, one)


def _are_short_numbers(present: list[bytes], joined: bytes, longest: int) -> bool:
    return bool(_NUMBERS.fullmatch(joined + b"\0")) and max(map(len, present)) <= longest


def _stray(value: bytes, code: str, styles: Styles, fidelity: "Counter[str]") -> bytes:
    """A value that its column's type can't hold, as text."""
    if value:
        fidelity[code] += 1
    return _one_text(value, styles.text, styles, fidelity)


_TRUE = b' t="b"><v>1</v></c>'
_FALSE = b' t="b"><v>0</v></c>'


def boolean(values: list[Cell], styles: Styles, fidelity: "Counter[str]") -> Cells:
    known = {b"t": _TRUE, b"f": _FALSE}
    return _per_cell(values, lambda value: known.get(value) or _stray(value, "number_as_text", styles, fidelity))


_DATE = re.compile(rb"(\d{4})-(\d\d)-(\d\d)")
_BEHIND_SECONDS = re.compile(rb"(?:\.(\d{1,6}))?(?:[+-]\d\d(?::?\d\d){0,2})?")
# In microseconds. Two small tables stay in the processor's cache; one of all 86,400 times would not.
_MINUTES = {b"%02d:%02d" % divmod(minute, 60): minute * 60_000_000 for minute in range(24 * 60)}
_SECONDS = {b":%02d" % second: second * 1_000_000 for second in range(60)}
_BEHIND_DATE = {separator + minute: time for separator in (b" ", b"T") for minute, time in _MINUTES.items()}


@lru_cache(maxsize=16_384)
def _day_number(value: Cell) -> bytes | None:
    """The serial number of YYYY-MM-DD; None for what is no date, or none that a spreadsheet knows."""
    match = _DATE.fullmatch(value or b"")
    if match is None:
        return None
    try:
        ordinal = date(int(match[1]), int(match[2]), int(match[3])).toordinal()
    except ValueError:
        return None
    return b"%d" % (ordinal - _EPOCH) if ordinal >= _FIRST_DAY else None


@lru_cache(maxsize=1024)
def _fraction(value: bytes) -> int:
    """The microseconds in [.ffffff][+HH[:MM]], which stands behind HH:MM:SS. Raises ValueError for anything else."""
    match = _BEHIND_SECONDS.fullmatch(value)
    if match is None:
        raise ValueError(value)
    return int(match[1].ljust(6, b"0")) if match[1] else 0


def day(values: list[Cell], styles: Styles, fidelity: "Counter[str]") -> Cells:
    prefix, suffix = _number_cells(styles.value)
    numbers = list(map(_day_number, values))
    if None not in numbers:
        return Cells(prefix, numbers, suffix)  # type: ignore[arg-type]  # no None in it

    def one(value: bytes) -> bytes:
        number = _day_number(value)
        return prefix + number + suffix if number else _stray(value, "date_as_text", styles, fidelity)

    return _per_cell(values, one)


def _parts_of_day(microseconds: int) -> int:
    """The part of the day in units of 10**-12 days: 0.09 microseconds, more than any reader keeps."""
    return (microseconds * 625 + 27) // 54  # 10**12 / 86,400,000,000 = 625 / 54


def moment(values: list[Cell], styles: Styles, fidelity: "Counter[str]") -> Cells:
    """Date and time; an offset behind it says the task's zone and is left out."""
    prefix, suffix = _number_cells(styles.value)

    def one(value: bytes) -> bytes:
        number = _day_number(value[:10])
        try:
            microseconds = _BEHIND_DATE[value[10:16]] + _SECONDS[value[16:19]] if len(value) > 10 else 0
            if len(value) > 19:
                microseconds += _fraction(value[19:])
                if microseconds % 1000 and number:
                    fidelity["sub_millisecond"] += 1
        except (KeyError, ValueError):
            number = None
        if number is None:
            return _stray(value, "date_as_text", styles, fidelity)
        return b"%b%b.%012d%b" % (prefix, number, _parts_of_day(microseconds), suffix)

    return _per_cell(values, one)


def clock(values: list[Cell], styles: Styles, fidelity: "Counter[str]") -> Cells:
    prefix, suffix = _number_cells(styles.value)

    def one(value: bytes) -> bytes:
        try:
            microseconds = _MINUTES[value[:5]] + _SECONDS[value[5:8]] + _fraction(value[8:])
        except (KeyError, ValueError):
            return _stray(value, "time_as_text", styles, fidelity)
        if b"+" in value or b"-" in value:  # Excel has no times with an offset.
            return _stray(value, "time_as_text", styles, fidelity)
        if microseconds % 1000:
            fidelity["sub_millisecond"] += 1
        return b"%b0.%012d%b" % (prefix, _parts_of_day(microseconds), suffix)

    return _per_cell(values, one)


# What XML 1.0 or Excel can't hold: C0 controls but TAB and LF, and the two non-characters U+FFFE and U+FFFF.
_CONTROLS = bytes(code for code in range(32) if code not in (9, 10))
_NONCHARACTERS = (b"\xef\xbf\xbe", b"\xef\xbf\xbf")
_UNWRITABLE = re.compile("[\x00-\x08\x0b-\x1f\ufffe\uffff]")
# Also what looks escaped only when the character behind it has been escaped.
_LOOKS_ESCAPED = re.compile("_(?=x[0-9A-Fa-f]{4}[_\x00-\x08\x0b-\x1f\ufffe\uffff])")
_FORMULA_STARTS = (b"=", b"+", b"-", b"@")
_BLANKS = " \t\n"


def text(values: list[Cell], styles: Styles, fidelity: "Counter[str]") -> Cells:
    present, joined = _present(values)
    if b"\0\0" in joined or joined[:1] == b"\0" or joined[-1:] == b"\0" or not joined:
        present = [value for value in present if value]
        joined = b"\0".join(present)
    if not _is_plain(joined, present):
        return _per_cell(values, lambda value: _one_text(value, styles.value, styles, fidelity))
    if len(present) < len(values):
        fidelity["empty_text_as_blank"] += values.count(b"")
    # One cell that needs xml:space gives it to all.
    space = _SPACE if _has_outer_blanks(joined) else b""
    prefix, suffix = _opening(styles.value, space), b"</t></is></c>"
    cells = present
    if b"&" in joined or b"<" in joined or b">" in joined:
        cells = _escape_markup(joined).split(b"\0")
    if not any(b"\0" + start in joined or joined[:1] == start for start in _FORMULA_STARTS):
        return _spread(values, cells, prefix, suffix)
    quoted = _opening(styles.quoted, space)
    cells = [(quoted if cell[:1] in _FORMULA_STARTS else prefix) + cell + suffix for cell in cells]
    return _spread(values, cells, b"", b"")


def _is_plain(joined: bytes, present: list[bytes]) -> bool:
    """Whether no text in the joined column must be escaped (other than markup), cut or replaced."""
    separators = max(0, len(present) - 1)
    # This also finds a NUL inside a text.
    if len(joined.translate(None, _CONTROLS)) != len(joined) - separators:
        return False
    if b"_x" in joined or any(character in joined for character in _NONCHARACTERS):
        return False
    if len(joined) > MAX_CELL_CHARACTERS and max(map(len, present)) > MAX_CELL_CHARACTERS:
        return False
    try:
        joined.decode()
    except UnicodeDecodeError:
        return False
    return True


def _has_outer_blanks(joined: bytes) -> bool:
    """Whether a reader could take blanks away; line feeds and tabs count anywhere."""
    if joined[:1] == b" " or joined[-1:] == b" ":
        return True
    return any(blank in joined for blank in (b"\n", b"\t", b" \0", b"\0 "))


def _escape_markup(value: bytes) -> bytes:
    return value.replace(b"&", b"&amp;").replace(b"<", b"&lt;").replace(b">", b"&gt;")


_SPACE = b' xml:space="preserve"'


def _opening(style: int, space: bytes) -> bytes:
    return b' s="%d" t="inlineStr"><is><t%b>' % (style, space)


def _one_text(value: bytes, style: int, styles: Styles, fidelity: "Counter[str]") -> bytes:
    """Any text as a cell, with everything that can be wrong with it."""
    if not value:
        fidelity["empty_text_as_blank"] += 1
        return BLANK
    try:
        characters = value.decode()
    except UnicodeDecodeError:
        fidelity["invalid_text"] += 1
        characters = "0x" + value.hex().upper()
    if len(characters) > MAX_CELL_CHARACTERS // 2 and utf16_length(characters) > MAX_CELL_CHARACTERS:
        fidelity["truncated_text"] += 1
        characters = cut(characters, MAX_CELL_CHARACTERS - len(TRUNCATED_MARK)) + TRUNCATED_MARK
    safe = _UNWRITABLE.sub(lambda match: f"_x{ord(match[0]):04X}_", _LOOKS_ESCAPED.sub("_x005F_", characters))
    if safe != characters:
        fidelity["escaped_characters"] += 1
    if characters[0] in "=+-@":
        style = styles.quoted
    space = _SPACE if characters != characters.strip(_BLANKS) or "\n" in characters or "\t" in characters else b""
    return _opening(style, space) + _escape_markup(safe.encode()) + b"</t></is></c>"


def utf16_length(characters: str) -> int:
    """The length as Excel counts it: characters beyond U+FFFF are two."""
    return len(characters.encode("utf-16-le")) // 2


def cut(characters: str, units: int) -> str:
    """The beginning of `characters`, at most `units` UTF-16 units, never half a character."""
    return characters.encode("utf-16-le")[: units * 2].decode("utf-16-le", "ignore")


CONVERTERS: dict[ColumnType, Converter] = {
    ColumnType.INTEGER: integer,
    ColumnType.DECIMAL: decimal,
    ColumnType.FLOAT: floating,
    ColumnType.BOOLEAN: boolean,
    ColumnType.DATE: day,
    ColumnType.TIME: clock,
    ColumnType.DATETIME: moment,
    ColumnType.INSTANT: moment,
    ColumnType.TEXT: text,
    ColumnType.BINARY: text,
}
