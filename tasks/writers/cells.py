"""Columns of database text -> columns of spreadsheet cells (ECMA-376 part 1, 18.3.1.4), as bytes.

A chunk of a column is looked at as a whole with operations that run at the speed of C (joined.py). When nothing in it
is special, its cells go into the sheet as they are, between an opening and a closing that all of them share; what is
special is paid for by the cells that have it, where that can be, and by the chunk where it can't.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import date
from math import isinf
from typing import NamedTuple

from datasources.connectors.base import Cell, Column, ColumnType
from tasks.writers.joined import (
    SEPARATOR,
    any_begins_with,
    change_cells_with,
    decoded,
    has_empty,
    indexes_with,
    is_separable,
    join,
)
from tasks.writers.rows import Cells

MAX_CELL_CHARACTERS = 32_767  # Excel's limit, in UTF-16 units
TRUNCATED_MARK = "…[已截断]"
MAX_DIGITS = 15  # A spreadsheet's number is a double: further digits would be lost

_NUMBER_CLOSING = b"</v></c>"
_TEXT_CLOSING = b"</t></is></c>"


class Styles(NamedTuple):
    """The indexes into the workbook's cell formats that one column uses; 0 is the general format."""

    value: int
    text: int
    quoted: int


class TextOpening(NamedTuple):
    """How a text begins; `spaced` where a reader could take blanks away."""

    plain: bytes
    spaced: bytes


class Markup:
    """How the cells of one column begin in XML.

    With references these stand behind `<c r="A1`, without behind `<c`.
    """

    def __init__(self, styles: Styles, *, references: bool = True) -> None:
        quote = b'"' if references else b""

        def opening(style: int, rest: bytes) -> bytes:
            return quote + (b' s="%d"' % style if style else b"") + rest

        def text_opening(style: int) -> TextOpening:
            start = opening(style, b' t="inlineStr"><is><t')
            return TextOpening(start + b">", start + b' xml:space="preserve">')

        self.blank = quote + b"/>"
        self.number = opening(styles.value, b"><v>")
        self.boolean = opening(styles.value, b' t="b"><v>')
        self.text = text_opening(styles.value)
        # A text in a column of numbers or dates.
        self.stray = text_opening(styles.text)
        # A text like a formula.
        self.quoted = text_opening(styles.quoted)


Converter = Callable[[Sequence[Cell], Markup, "Counter[str]"], Cells]


def convert(
    column: Column, values: Sequence[Cell], markup: Markup, fidelity: "Counter[str]", *, as_text: bool
) -> Cells:
    """One column of a batch as cells; what could not stay as it was is counted in `fidelity`."""
    if as_text:
        return text(values, markup, fidelity)
    return CONVERTERS[column.type](values, markup, fidelity)


def _numbers(
    values: Sequence[Cell], written: Sequence[bytes], opening: bytes, markup: Markup, fidelity: "Counter[str]"
) -> Cells:
    """Cells of the numbers that `written` has for `values`; an empty one is blank."""
    if all(written):
        return Cells(opening, written, _NUMBER_CLOSING)
    _count_empty(values, fidelity)
    return _with_blanks([opening if number else markup.blank for number in written], written, _NUMBER_CLOSING)


def _with_blanks(openings: list[bytes], written: Sequence[bytes], closing: bytes) -> Cells:
    return Cells(openings, written, [closing if value else b"" for value in written])


def _count_empty(values: Sequence[Cell], fidelity: "Counter[str]") -> None:
    """Empty texts can't be told from NULL in a sheet."""
    fidelity["empty_text_as_blank"] += values.count(b"")


def _per_cell(values: Sequence[Cell], markup: Markup, one: Callable[[bytes], bytes]) -> Cells:
    """The way for a chunk with something strange in it: `one` makes a whole cell, opening and closing included."""
    return Cells(b"", [markup.blank if value is None else one(value) for value in values], b"")


# Whole columns joined with NUL; an empty cell is NULL. Possessive repetitions never go back, which is faster; groups that
# may be missing are not: until Python 3.11.4 a possessive one that begins and then fails swallows what it began with.
_INTEGERS = re.compile(rb"(?:(?:-?+[0-9]{1,%d}+)?\0)*+" % MAX_DIGITS)
_LONG_INTEGERS = re.compile(rb"(?:(?:-?+[1-9][0-9]{%d,}+)?\0)*+" % MAX_DIGITS)
# The usual amounts of money, 15 digits at most; and any others.
_AMOUNTS = re.compile(rb"(?:(?:-?+[0-9]{1,12}+(?:\.[0-9]{1,3}+)?)?\0)*+")
_DECIMALS = re.compile(rb"(?:(?:-?+[0-9]++(?:\.[0-9]++)?)?\0)*+")
# As doubles are written; exponents of one or two digits never reach infinity.
_FLOATS = re.compile(rb"(?:(?:-?+[0-9]{1,20}+(?:\.[0-9]{1,20}+)?(?:[eE][+-]?[0-9]{1,2}+)?)?\0)*+")
_DECIMAL = re.compile(rb"-?([0-9]+)(?:\.([0-9]+))?")
_FLOAT = re.compile(rb"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")


def integer(values: Sequence[Cell], markup: Markup, fidelity: "Counter[str]") -> Cells:
    written, joined = join(values)
    if _INTEGERS.fullmatch(joined + SEPARATOR):
        return _numbers(values, written, markup.number, markup, fidelity)
    if not has_empty(joined) and _LONG_INTEGERS.fullmatch(joined + SEPARATOR):
        fidelity["long_number_as_text"] += len(written)
        return Cells(markup.stray.plain, written, _TEXT_CLOSING)

    def one(value: bytes) -> bytes:
        digits = value.removeprefix(b"-")
        if not digits.isdigit():
            return _stray(value, "number_as_text", markup, fidelity)
        if len(digits.lstrip(b"0")) > MAX_DIGITS:
            fidelity["long_number_as_text"] += 1
            return markup.stray.plain + value + _TEXT_CLOSING
        return markup.number + value + _NUMBER_CLOSING

    return _per_cell(values, markup, one)


def decimal(values: Sequence[Cell], markup: Markup, fidelity: "Counter[str]") -> Cells:
    written, joined = join(values)
    closed = joined + SEPARATOR
    if _AMOUNTS.fullmatch(closed) or (_DECIMALS.fullmatch(closed) and _most_digits(joined) <= MAX_DIGITS):
        return _numbers(values, written, markup.number, markup, fidelity)

    def one(value: bytes) -> bytes:
        match = _DECIMAL.fullmatch(value)
        if match is None:
            return _stray(value, "number_as_text", markup, fidelity)
        whole, fraction = match[1].lstrip(b"0"), (match[2] or b"").rstrip(b"0")
        significant = len(whole) + len(fraction) if whole else len(fraction.lstrip(b"0"))
        if significant > MAX_DIGITS:
            fidelity["long_number_as_text"] += 1
            return markup.stray.plain + value + _TEXT_CLOSING
        return markup.number + value + _NUMBER_CLOSING

    return _per_cell(values, markup, one)


def _most_digits(joined: bytes) -> int:
    return max(map(len, joined.translate(None, b"-.").split(SEPARATOR)))


def floating(values: Sequence[Cell], markup: Markup, fidelity: "Counter[str]") -> Cells:
    written, joined = join(values)
    if _FLOATS.fullmatch(joined + SEPARATOR):
        return _numbers(values, written, markup.number, markup, fidelity)

    def one(value: bytes) -> bytes:
        # What overflows to infinity has no place in a number cell either.
        if not _FLOAT.fullmatch(value) or isinf(float(value)):
            return _stray(value, "number_as_text", markup, fidelity)
        return markup.number + value + _NUMBER_CLOSING

    return _per_cell(values, markup, one)


def _stray(value: bytes, code: str, markup: Markup, fidelity: "Counter[str]") -> bytes:
    """A value that its column's type can't hold, as text."""
    if value:
        fidelity[code] += 1
    return _one_text(value, markup.stray, markup, fidelity)


_BOOLEANS: dict[Cell, bytes] = {b"t": b"1", b"f": b"0", None: b""}


def boolean(values: Sequence[Cell], markup: Markup, fidelity: "Counter[str]") -> Cells:
    try:
        return _numbers(values, [_BOOLEANS[value] for value in values], markup.boolean, markup, fidelity)
    except KeyError:
        pass

    def one(value: bytes) -> bytes:
        known = _BOOLEANS.get(value)
        if known is None:
            return _stray(value, "number_as_text", markup, fidelity)
        return markup.boolean + known + _NUMBER_CLOSING

    return _per_cell(values, markup, one)


_EPOCH = date(1899, 12, 30).toordinal()  # Day 0 of the 1900 date system, from 1900-03-01 on
_FIRST_DAY = date(1900, 3, 1).toordinal()  # Before it Excel counts a 29 February 1900 that never was
_DATE = re.compile(rb"(\d{4})-(\d\d)-(\d\d)")


class _Days(dict[Cell, bytes]):
    """YYYY-MM-DD -> its serial number, made when first asked for; nothing for NULL. KeyError for what is no date, or
    none that a spreadsheet knows."""

    MOST = 16_384  # 45 years; 2 MB

    def __missing__(self, value: Cell) -> bytes:
        if value is None:
            self[value] = b""
            return b""
        match = _DATE.fullmatch(value)
        if match is None:
            raise KeyError(value)
        try:
            ordinal = date(int(match[1]), int(match[2]), int(match[3])).toordinal()
        except ValueError:
            raise KeyError(value) from None
        if ordinal < _FIRST_DAY:
            raise KeyError(value)
        if len(self) >= self.MOST:
            self.clear()
        self[value] = number = b"%d" % (ordinal - _EPOCH)
        return number


def _part_of_day(microseconds: int) -> int:
    """In units of 10**-12 days, 0.09 microseconds: more than any reader keeps. 10**12 / 86,400,000,000 = 625 / 54."""
    return (microseconds * 625 + 27) // 54


class _Seconds(dict[bytes, int]):
    """What stands behind HH:MM, :SS[.ffffff][+HH[:MM]], -> part of the day. KeyError for anything else."""

    MOST = 4096
    SHAPE = re.compile(rb":([0-5]\d)(?:\.(\d{1,6}))?(?:[+-]\d\d(?::?\d\d){0,2})?")

    def __missing__(self, value: bytes) -> int:
        if len(value) == 10 and value[3] == ord(".") and value[4:].isdigit() and not value.endswith(b"000"):
            return self[value[:3]] + _part_of_day(int(value[4:]))
        match = self.SHAPE.fullmatch(value)
        if match is None:
            raise KeyError(value)
        fraction = match[2].ljust(6, b"0") if match[2] else b"000000"
        part = _part_of_day(int(match[1]) * 1_000_000 + int(fraction))
        # There are too many microseconds to meet one again.
        if fraction.endswith(b"000"):
            if len(self) >= self.MOST:
                self.clear()
                self[b""] = 0
            self[value] = part
        return part


# Two small tables stay in the processor's cache; one of all 86,400 times would not, and is no faster.
_MINUTES = {b"%02d:%02d" % divmod(minute, 60): _part_of_day(minute * 60_000_000) for minute in range(24 * 60)}
_MINUTES_BEHIND_DATE = {between + minute: part for between in (b" ", b"T") for minute, part in _MINUTES.items()}
_SECONDS = _Seconds()
_MINUTES_BEHIND_DATE[b""] = _SECONDS[b""] = 0  # a date alone is its midnight
_DAYS = _Days()
# Microseconds that are no whole milliseconds.
_FINER = re.compile(rb"\.\d{3}(?!0{1,3}(?!\d))\d")


def day(values: Sequence[Cell], markup: Markup, fidelity: "Counter[str]") -> Cells:
    def serials(cells: Sequence[Cell]) -> list[bytes]:
        return list(map(_DAYS.__getitem__, cells))

    return _times(values, serials, "date_as_text", markup, fidelity)


def moment(values: Sequence[Cell], markup: Markup, fidelity: "Counter[str]") -> Cells:
    """Date and time; an offset behind it says the task's zone and is left out."""

    def serials(cells: Sequence[Cell]) -> list[bytes]:
        days, minutes, seconds = _DAYS, _MINUTES_BEHIND_DATE, _SECONDS
        return [
            b"%b.%012d" % (days[cell[:10]], minutes[cell[10:16]] + seconds[cell[16:]]) if cell is not None else b""
            for cell in cells
        ]

    return _times(values, serials, "date_as_text", markup, fidelity)


def clock(values: Sequence[Cell], markup: Markup, fidelity: "Counter[str]") -> Cells:
    def serials(cells: Sequence[Cell]) -> list[bytes]:
        joined = join(cells)[1]
        if b"+" in joined or b"-" in joined:
            raise KeyError  # Excel has no times with an offset.
        return [b"0.%012d" % (_MINUTES[cell[:5]] + _SECONDS[cell[5:]]) if cell is not None else b"" for cell in cells]

    return _times(values, serials, "time_as_text", markup, fidelity)


def _times(
    values: Sequence[Cell],
    serials: Callable[[Sequence[Cell]], list[bytes]],
    code: str,
    markup: Markup,
    fidelity: "Counter[str]",
) -> Cells:
    """Cells with the `serials` of `values`; where these raise KeyError, a cell is text and is counted as `code`."""
    try:
        written = serials(values)
    except KeyError:
        return _per_cell(values, markup, lambda value: _one_time(value, serials, code, markup, fidelity))
    _count_finer(values, fidelity)
    return _numbers(values, written, markup.number, markup, fidelity)


def _one_time(
    value: bytes, serials: Callable[[Sequence[Cell]], list[bytes]], code: str, markup: Markup, fidelity: "Counter[str]"
) -> bytes:
    try:
        (serial,) = serials([value])
    except KeyError:
        return _stray(value, code, markup, fidelity)
    _count_finer([value], fidelity)
    return markup.number + serial + _NUMBER_CLOSING


def _count_finer(values: Sequence[Cell], fidelity: "Counter[str]") -> None:
    joined = join(values)[1]
    if b"." not in joined:
        return
    # MySQL writes all digits of the column's scale, mostly zeros.
    rest = joined.replace(b".000000", b"")
    if b"." in rest:
        fidelity["sub_millisecond"] += len(_FINER.findall(rest))


# What XML 1.0 or Excel can't hold: C0 controls but TAB and LF, and the two non-characters U+FFFE and U+FFFF.
_CONTROLS = bytes(code for code in range(32) if code not in (9, 10))
_NOT_CONTROLS = bytes(code for code in range(256) if code not in _CONTROLS or code == 0)
_NONCHARACTERS = ("\ufffe", "\uffff")
_ESCAPED = re.compile("[\x00-\x08\x0b-\x1f\ufffe\uffff]")
# Also what looks escaped only when the character behind it has been escaped.
_LOOKS_ESCAPED = re.compile("_(?=x[0-9A-Fa-f]{4}[_\x00-\x08\x0b-\x1f\ufffe\uffff])")
_FORMULA_STARTS = b"=+-@"


# What a reader could take away without xml:space: blanks at the ends of a text, line feeds and tabs anywhere.
_BLANKS = (b"\n", b"\t", SEPARATOR + b" ", b" " + SEPARATOR)


def text(values: Sequence[Cell], markup: Markup, fidelity: "Counter[str]") -> Cells:
    written, joined = join(values)
    characters = _ordinary(written, joined)
    if characters is None:
        return _per_cell(values, markup, lambda value: _one_text(value, markup.text, markup, fidelity))
    blanks = has_empty(joined)
    if blanks:
        _count_empty(values, fidelity)
    quoted = any_begins_with(joined, _FORMULA_STARTS)
    spaced = _has_outer_blanks(joined)
    # Escaping changes no cell from empty to not empty, nor its first character to or from one of a formula.
    escaped = _escape(joined, characters, fidelity)
    if escaped is not joined:
        written = escaped.split(SEPARATOR)
    plain, formula, blank = markup.text.plain, markup.quoted, markup.blank
    if not quoted and not spaced and not blanks:
        return Cells(plain, written, _TEXT_CLOSING)
    if quoted:
        openings = [(formula.plain if cell[0] in _FORMULA_STARTS else plain) if cell else blank for cell in written]
    else:
        openings = [plain if cell else blank for cell in written]
    if spaced:
        for index in indexes_with(joined, _BLANKS):
            is_formula = written[index][0] in _FORMULA_STARTS
            openings[index] = formula.spaced if is_formula else markup.text.spaced
    return _with_blanks(openings, written, _TEXT_CLOSING) if blanks else Cells(openings, written, _TEXT_CLOSING)


def _ordinary(written: Sequence[bytes], joined: bytes) -> str | None:
    """The joined texts decoded, when all of them are UTF-8, short enough, and can be told apart."""
    if len(joined) > MAX_CELL_CHARACTERS and max(map(len, written)) > MAX_CELL_CHARACTERS:
        return None
    return decoded(joined) if is_separable(joined, len(written)) else None


def _has_outer_blanks(joined: bytes) -> bool:
    """Whether a reader could take blanks away from a cell."""
    if b"\n" in joined or b"\t" in joined:
        return True
    return b" " in joined and (joined[:1] == b" " or joined[-1:] == b" " or b" \0" in joined or b"\0 " in joined)


def _needs_space(cell: bytes) -> bool:
    return cell[:1] == b" " or cell[-1:] == b" " or b"\n" in cell or b"\t" in cell


def _escape(joined: bytes, characters: str, fidelity: "Counter[str]") -> bytes:
    """The joined texts as XML can hold them: markup, and the characters that Excel writes as _xHHHH_. `joined` itself
    when there is nothing to escape."""
    special = [bytes([code]) for code in set(joined.translate(None, _NOT_CONTROLS))]
    special += [character.encode() for character in _NONCHARACTERS if character in characters]
    if b"_" in joined and b"_x" in joined:
        special.append(b"_x")
    if special:
        joined = change_cells_with(joined, special, lambda cell: _escape_characters(cell.decode(), fidelity).encode())
    return _escape_markup(joined)


def _escape_characters(characters: str, fidelity: "Counter[str]") -> str:
    """One text with the characters that a workbook can't hold as _xHHHH_ (ECMA-376 part 1, 22.9.2.19)."""
    safe = _LOOKS_ESCAPED.sub("_x005F_", characters)
    safe = _ESCAPED.sub(lambda match: f"_x{ord(match[0]):04X}_", safe)
    if safe != characters:
        fidelity["escaped_characters"] += 1
    return safe


def _escape_markup(joined: bytes) -> bytes:
    # Looking is much cheaper than replacing nothing.
    for character, name in ((b"&", b"&amp;"), (b"<", b"&lt;"), (b">", b"&gt;")):
        if character in joined:
            joined = joined.replace(character, name)
    return joined


def _one_text(value: bytes, opening: TextOpening, markup: Markup, fidelity: "Counter[str]") -> bytes:
    """Any text as a cell, with everything that can be wrong with it."""
    if not value:
        _count_empty([value], fidelity)
        return markup.blank
    characters = decoded(value)
    if characters is None:
        fidelity["invalid_text"] += 1
        characters = "0x" + value.hex().upper()
    if len(characters) > MAX_CELL_CHARACTERS // 2 and utf16_length(characters) > MAX_CELL_CHARACTERS:
        fidelity["truncated_text"] += 1
        characters = cut(characters, MAX_CELL_CHARACTERS - len(TRUNCATED_MARK)) + TRUNCATED_MARK
    if characters[0] in "=+-@":
        opening = markup.quoted
    safe = _escape_characters(characters, fidelity).encode()
    return opening[_needs_space(safe)] + _escape_markup(safe) + _TEXT_CLOSING


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
