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


def _number_cells(values: list[Cell], style: int) -> tuple[bytes, bytes]:
    return b' s="%d"><v>' % style, b"</v></c>"


def _per_cell(values: list[Cell], one: Callable[[bytes], bytes]) -> Cells:
    return Cells(b"", [BLANK if value is None else one(value) for value in values], b"")


def _text_cell(value: bytes, style: int) -> bytes:
    """A cell of text that is known to need no escaping."""
    return b' s="%d" t="inlineStr"><is><t>%b</t></is></c>' % (style, value)


def integer(values: list[Cell], styles: Styles, fidelity: "Counter[str]") -> Cells:
    prefix, suffix = _number_cells(values, styles.value)
    if _all_of(values, b"0123456789-", MAX_DIGITS):
        return Cells(prefix, values, suffix)  # type: ignore[arg-type]  # no None in it

    def one(value: bytes) -> bytes:
        digits = value.removeprefix(b"-")
        if not digits.isdigit():
            return _odd_number(value, styles, fidelity)
        if len(digits.lstrip(b"0")) > MAX_DIGITS:
            fidelity["long_number_as_text"] += 1
            return _text_cell(value, styles.text)
        return prefix + value + suffix

    return _per_cell(values, one)


_DECIMAL = re.compile(rb"-?(\d+)(?:\.(\d+))?")


def decimal(values: list[Cell], styles: Styles, fidelity: "Counter[str]") -> Cells:
    prefix, suffix = _number_cells(values, styles.value)
    if _all_of(values, b"0123456789-.", MAX_DIGITS):
        return Cells(prefix, values, suffix)  # type: ignore[arg-type]

    def one(value: bytes) -> bytes:
        match = _DECIMAL.fullmatch(value)
        if match is None:
            return _odd_number(value, styles, fidelity)
        whole, fraction = match[1].lstrip(b"0"), (match[2] or b"").rstrip(b"0")
        significant = len(whole) + len(fraction) if whole else len(fraction.lstrip(b"0"))
        if significant > MAX_DIGITS:
            fidelity["long_number_as_text"] += 1
            return _text_cell(value, styles.text)
        return prefix + value + suffix

    return _per_cell(values, one)


def floating(values: list[Cell], styles: Styles, fidelity: "Counter[str]") -> Cells:
    prefix, suffix = _number_cells(values, styles.value)
    if _all_of(values, b"0123456789-+.eE", 400):
        return Cells(prefix, values, suffix)  # type: ignore[arg-type]

    def one(value: bytes) -> bytes:
        if value.translate(None, b"0123456789-+.eE"):
            return _odd_number(value, styles, fidelity)
        return prefix + value + suffix

    return _per_cell(values, one)


def _odd_number(value: bytes, styles: Styles, fidelity: "Counter[str]") -> bytes:
    fidelity["number_as_text"] += 1
    return _one_text(value, styles.text, styles, fidelity)


def _all_of(values: list[Cell], allowed: bytes, longest: int) -> bool:
    """Whether no cell is NULL or empty, all consist of `allowed` characters and none is longer than `longest`."""
    try:
        joined = b"".join(values)  # type: ignore[arg-type]
    except TypeError:  # a None
        return False
    if joined.translate(None, allowed):
        return False
    lengths = list(map(len, values))  # type: ignore[arg-type]
    return max(lengths) <= longest and min(lengths) > 0


_TRUE = b' t="b"><v>1</v></c>'
_FALSE = b' t="b"><v>0</v></c>'


def boolean(values: list[Cell], styles: Styles, fidelity: "Counter[str]") -> Cells:
    known = {b"t": _TRUE, b"f": _FALSE}
    return _per_cell(values, lambda value: known.get(value) or _odd_number(value, styles, fidelity))


_DATE = re.compile(rb"(\d{4})-(\d\d)-(\d\d)")
_TIME = re.compile(rb"(\d\d):(\d\d):(\d\d)(?:\.(\d{1,6}))?")
_OFFSET = re.compile(rb"[+-]\d\d(?::?\d\d){0,2}")
_DAY_MICROSECONDS = 86_400_000_000


def _day_number(value: bytes) -> int | None:
    """The serial number of YYYY-MM-DD; None for what is no date, or none that a spreadsheet knows."""
    match = _DATE.fullmatch(value)
    if match is None:
        return None
    try:
        ordinal = date(int(match[1]), int(match[2]), int(match[3])).toordinal()
    except ValueError:
        return None
    return ordinal - _EPOCH if ordinal >= _FIRST_DAY else None


def _microseconds(value: bytes) -> int | None:
    """Microseconds since midnight of HH:MM:SS[.ffffff]; None for what is no time of day."""
    match = _TIME.fullmatch(value)
    if match is None:
        return None
    hours, minutes, seconds = int(match[1]), int(match[2]), int(match[3])
    if hours > 23 or minutes > 59 or seconds > 59:
        return None
    fraction = int(match[4].ljust(6, b"0")) if match[4] else 0
    return (hours * 3600 + minutes * 60 + seconds) * 1_000_000 + fraction


def _day_fraction(microseconds: int) -> bytes:
    # 12 digits are 0.09 microseconds: more than any reader keeps.
    return b"%012d" % ((microseconds * 10**12 + _DAY_MICROSECONDS // 2) // _DAY_MICROSECONDS)


def day(values: list[Cell], styles: Styles, fidelity: "Counter[str]") -> Cells:
    prefix, suffix = _number_cells(values, styles.value)
    seen: dict[Cell, bytes] = {None: BLANK}
    odd = Counter[Cell]()

    def one(value: bytes) -> bytes:
        number = _day_number(value)
        if number is None:
            odd[value] = 1
            return _one_text(value, styles.text, styles, fidelity)
        return prefix + b"%d" % number + suffix

    for value in set(values):
        if value is not None:
            seen[value] = one(value)
    if odd:
        fidelity["date_as_text"] += sum(value in odd for value in values)
    return Cells(b"", [seen[value] for value in values], b"")


def moment(values: list[Cell], styles: Styles, fidelity: "Counter[str]") -> Cells:
    """Date and time; an offset behind it says the task's zone and is left out."""
    prefix, suffix = _number_cells(values, styles.value)
    days: dict[bytes, int | None] = {}

    def one(value: bytes) -> bytes:
        first = value[:10]
        if first not in days:
            days[first] = _day_number(first)
        number = days[first]
        clock = value[11:]
        if len(clock) > 8 and (offset := _OFFSET.search(clock, 8)):
            clock = clock[: offset.start()]
        microseconds = _microseconds(clock) if clock else 0
        if number is None or microseconds is None or value[10:11] not in (b" ", b"T", b""):
            fidelity["date_as_text"] += 1
            return _one_text(value, styles.text, styles, fidelity)
        if microseconds % 1000:
            fidelity["sub_millisecond"] += 1
        if not microseconds:
            return prefix + b"%d" % number + suffix
        fraction = _day_fraction(microseconds)
        return prefix + b"%d.%b" % (number, fraction) + suffix

    return _per_cell(values, one)


def clock(values: list[Cell], styles: Styles, fidelity: "Counter[str]") -> Cells:
    prefix, suffix = _number_cells(values, styles.value)

    def one(value: bytes) -> bytes:
        microseconds = _microseconds(value)
        if microseconds is None:
            fidelity["time_as_text"] += 1
            return _one_text(value, styles.text, styles, fidelity)
        if microseconds % 1000:
            fidelity["sub_millisecond"] += 1
        return prefix + b"0." + _day_fraction(microseconds) + suffix

    return _per_cell(values, one)


# What XML 1.0 or Excel can't hold: C0 controls but TAB and LF, and the two non-characters U+FFFE and U+FFFF.
_CONTROLS = bytes(code for code in range(32) if code not in (9, 10))
_NONCHARACTERS = (b"\xef\xbf\xbe", b"\xef\xbf\xbf")
_LOOKS_ESCAPED = re.compile("_(?=x[0-9A-Fa-f]{4}_)")
_UNWRITABLE = re.compile("[\x00-\x08\x0b-\x1f\ufffe\uffff]")
_FORMULA_STARTS = (b"=", b"+", b"-", b"@")


def text(values: list[Cell], styles: Styles, fidelity: "Counter[str]") -> Cells:
    try:
        joined = b"\0".join(values)  # type: ignore[arg-type]
        complete = b"" not in values
    except TypeError:
        joined = b"\0".join(value for value in values if value)
        complete = False
    if not _is_plain(joined, values):
        return _per_cell(values, lambda value: _one_text(value, styles.value, styles, fidelity))
    if b"&" in joined or b"<" in joined or b">" in joined:
        escaped = _escape_markup(joined).split(b"\0")
    else:
        escaped = joined.split(b"\0") if not complete else values  # type: ignore[assignment]
    opening, closing = b' s="%d" t="inlineStr"><is><t>' % styles.value, b"</t></is></c>"
    if complete:
        return Cells(opening, escaped, closing)
    rest = iter(escaped)
    fidelity["empty_text_as_blank"] += values.count(b"")
    if joined or len(escaped) > 1:
        return Cells(b"", [opening + next(rest) + closing if value else BLANK for value in values], b"")
    return Cells(b"", [BLANK] * len(values), b"")


def _is_plain(joined: bytes, values: list[Cell]) -> bool:
    """Whether the joined column needs nothing but markup to be escaped."""
    separators = len(joined) - len(joined.translate(None, b"\0"))
    present = sum(1 for value in values if value) if None in values or b"" in values else len(values)
    if separators != max(0, present - 1):
        return False  # a NUL inside a text
    if len(joined.translate(None, _CONTROLS)) != len(joined) - separators:
        return False
    if b"_x" in joined or any(character in joined for character in _NONCHARACTERS):
        return False
    # Blanks at an end, tabs and line feeds need xml:space.
    if any(blank in joined for blank in (b"\n", b"\t", b" \0", b"\0 ")) or joined[:1] == b" " or joined[-1:] == b" ":
        return False
    if joined[:1] in _FORMULA_STARTS or any(b"\0" + start in joined for start in _FORMULA_STARTS):
        return False
    if max((len(value) for value in values if value), default=0) > MAX_CELL_CHARACTERS:
        return False
    try:
        joined.decode()
    except UnicodeDecodeError:
        return False
    return True


def _escape_markup(value: bytes) -> bytes:
    return value.replace(b"&", b"&amp;").replace(b"<", b"&lt;").replace(b">", b"&gt;")


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
    if len(value) > MAX_CELL_CHARACTERS and utf16_length(characters) > MAX_CELL_CHARACTERS:
        fidelity["truncated_text"] += 1
        characters = cut(characters, MAX_CELL_CHARACTERS - len(TRUNCATED_MARK)) + TRUNCATED_MARK
    safe = _UNWRITABLE.sub(lambda match: f"_x{ord(match[0]):04X}_", _LOOKS_ESCAPED.sub("_x005F_", characters))
    if safe != characters:
        fidelity["escaped_characters"] += 1
    if characters[0] in "=+-@":
        style = styles.quoted
    space = (
        b' xml:space="preserve"'
        if characters != characters.strip() or "\n" in characters or "\t" in characters
        else b""
    )
    return b' s="%d" t="inlineStr"><is><t%b>%b</t></is></c>' % (style, space, _escape_markup(safe.encode()))


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
