"""The fast way for a whole chunk gives what the slow way gives for each cell or row, however much dirt is in it."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from datasources.connectors.base import Batch, Cell, Column, ColumnType
from tasks.writers.cells import Markup, Styles, convert
from tasks.writers.csv import CsvWriter
from tasks.writers.joined import SEPARATOR, any_begins_with, change_cells_with, has_empty, is_separable, join
from tasks.writers.rows import BLOCK_ROWS, NUMBER, Cells, RowAssembler
from tests.writers.sheets import make_writer

thorough = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
quick = settings(thorough, max_examples=60)
MARKUP = Markup(Styles(value=4, text=2, quoted=3))
BARE = Markup(Styles(value=0, text=2, quoted=3), references=False)
MOST_CELLS = 60


def as_bytes(strategy: st.SearchStrategy[object]) -> st.SearchStrategy[Cell]:
    return strategy.map(lambda value: str(value).encode())


offsets = st.sampled_from(["", "+08", "+08", "+09", "-05", "-04", "+05:30", "+08:05:43"])
clocks = st.times().map(lambda clock: clock.isoformat()) | st.times().map(lambda clock: clock.isoformat("seconds"))
local = st.datetimes().map(lambda moment: moment.isoformat(" ")) | st.datetimes().map(
    lambda moment: f"{moment:%Y-%m-%d %H:%M:%S}".zfill(19)
)
plain_texts = st.text(st.sampled_from("abc 订单é😀1"), min_size=1, max_size=8)
# What the cells of a column of each type usually are.
CLEAN: dict[ColumnType, st.SearchStrategy[Cell]] = {
    ColumnType.INTEGER: as_bytes(st.integers(-(10**15) + 1, 10**15 - 1)),
    ColumnType.DECIMAL: as_bytes(st.decimals(-9_999_999, 9_999_999, places=4)),
    ColumnType.FLOAT: as_bytes(st.floats(allow_nan=False, allow_infinity=False)),
    ColumnType.BOOLEAN: st.sampled_from([b"t", b"f"]),
    ColumnType.DATE: as_bytes(st.dates()),
    ColumnType.TIME: as_bytes(clocks),
    ColumnType.DATETIME: as_bytes(local),
    ColumnType.INSTANT: as_bytes(st.tuples(local, offsets).map("".join)),
    ColumnType.TEXT: as_bytes(plain_texts),
    ColumnType.BINARY: st.binary(max_size=6).map(lambda value: b"0x" + value.hex().upper().encode()),
}
ODD: list[Cell] = [
    *(b"", b"\0", b"a\0b", b"\0=1", b"=\0", b"\xff", b"=\x80", b"\xff\0", b"=1+1", b"+8", b"-", b"@x", b"\tx", b"\rx", b"'", b'"'),
    *(b'a"b', b"a,b", b"a\nb", b"\r\n", b" x", b"x ", b" ", b"\n", b"<&>", b"]]>", b"\x01", b"\x1f", "\ufffe\uffff".encode()),
    *(b"_x0041_", b"_x0041\x01", b"_x00411", b"_x_x0041_", b"NULL", b"NaN", b"Infinity", b"-infinity", b"1e400", b"1e-400"),
    *(b"007", b"-0", b"0000000000000000001", b"1" * 15, b"1" * 16, b"-" + b"9" * 19, b"1.", b".5", b"1e5", b"1.50000000000000000000"),
    *(b"0000-00-00", b"1900-02-28", b"1900-03-01", b"2024-02-30", b"10000-01-01", b"0044-03-15 BC", b"2024-01-01", b"24:00:00"),
    *(b"-00:00:01", b"838:59:59", b"12:00:00+08", b"2024-01-01T00:00:00", b"2024-01-01 24:00:00", b"2024-01-01 00:00:00.0000001"),
    *(b"infinity", b"0044-03-15 08:00:00+08:05:43 BC", b"10000-01-01 08:00:00+08", b"t", b"f", b"T", "\U0001f600".encode() * 3),
]  # fmt: skip
dirt: st.SearchStrategy[Cell] = st.one_of(
    st.none(), st.sampled_from(ODD), st.binary(max_size=6), as_bytes(st.text(st.characters(codec="utf-8"), max_size=6))
)


class Chunk(NamedTuple):
    kind: ColumnType
    cells: list[Cell]
    as_text: bool


def chunks_of(kind: ColumnType, count: int | None = None) -> st.SearchStrategy[list[Cell]]:
    """Cells of which none, one in forty, one in eight, half or all are dirt."""

    def cells(dirty: int) -> st.SearchStrategy[list[Cell]]:
        one = st.integers(1, 40).flatmap(lambda number: dirt if number > 40 - dirty else CLEAN[kind])
        return st.lists(one, min_size=count or 1, max_size=count or MOST_CELLS)

    return st.sampled_from([0, 1, 5, 20, 40]).flatmap(cells)


chunks = st.sampled_from(ColumnType).flatmap(
    lambda kind: st.builds(Chunk, st.just(kind), chunks_of(kind), st.booleans() if kind is not ColumnType.TEXT else st.just(False))
)  # fmt: skip


def excel(chunk: Chunk, cells: Sequence[Cell], fidelity: Counter[str], markup: Markup) -> list[bytes]:
    """Whole cells, without the attribute that a column shares when one of its texts needs it."""
    made = convert(Column("v", chunk.kind, 4), cells, markup, fidelity, as_text=chunk.as_text).whole()
    assert len(made) == len(cells)
    return [cell.replace(b' xml:space="preserve"', b"") for cell in made]


@thorough
@given(chunks, st.sampled_from([MARKUP, BARE]))
def test_excel_cells_of_a_chunk_are_those_of_chunks_of_one(chunk: Chunk, markup: Markup) -> None:
    together, apart = Counter[str](), Counter[str]()
    alone = [cell for value in chunk.cells for cell in excel(chunk, [value], apart, markup)]
    assert excel(chunk, chunk.cells, together, markup) == alone
    assert +together == +apart


@thorough
@given(chunks, st.sampled_from([MARKUP, BARE]))
def test_excel_cells_are_the_same_when_company_forces_the_slow_way(chunk: Chunk, markup: Markup) -> None:
    # No chunk that holds this can go the fast way: it is no UTF-8, no number and no time.
    company = b"\xff\0"
    fast, slow, of_company = Counter[str](), Counter[str](), Counter[str]()
    cells = excel(chunk, chunk.cells, fast, markup)
    [beside] = excel(chunk, [company], of_company, markup)
    assert excel(chunk, [*chunk.cells, company], slow, markup) == [*cells, beside]
    assert +slow == +(fast + of_company)


@thorough
@given(chunks, st.sampled_from([MARKUP, BARE]))
def test_blanks_at_the_ends_of_a_text_are_kept_whatever_company_it_has(chunk: Chunk, markup: Markup) -> None:
    made = convert(Column("v", chunk.kind), chunk.cells, markup, Counter(), as_text=chunk.as_text).whole()
    for cell, value in zip(made, chunk.cells, strict=True):
        text = (value or b"").decode("utf-8", "replace")
        if b"<t" in cell and (text.strip(" \t\n") != text or "\n" in text or "\t" in text) and "\ufffd" not in text:
            assert b'xml:space="preserve"' in cell


class CsvCase(NamedTuple):
    """A result by column, and what the writer was asked for."""

    kinds: list[ColumnType]
    columns: list[list[Cell]]
    as_text: frozenset[int]
    formula_guard: bool
    encoding: str

    def writer(self) -> CsvWriter:
        columns = [Column(f"c{number}", kind) for number, kind in enumerate(self.kinds)]
        writer = make_writer(Path(), columns, "csv", formula_guard=self.formula_guard, encoding=self.encoding)
        assert isinstance(writer, CsvWriter)
        return writer

    def encode(self, fidelity: Counter[str], start: int = 0, end: int | None = None) -> bytes:
        rows = [column[start:end] for column in self.columns]
        return self.writer()._encode(Batch(rows, len(rows[0]), self.as_text), fidelity)


@st.composite
def csv_cases(draw: st.DrawFn, column: Callable[[ColumnType, int], st.SearchStrategy[list[Cell]]]) -> CsvCase:
    kinds = draw(st.lists(st.sampled_from(ColumnType), min_size=1, max_size=3))
    rows = draw(st.integers(1, MOST_CELLS // len(kinds)))
    columns = [draw(column(kind, rows)) for kind in kinds]
    as_text = draw(st.frozensets(st.integers(0, len(kinds) - 1)))
    return CsvCase(kinds, columns, as_text, draw(st.booleans()), draw(st.sampled_from(["utf-8", "gb18030"])))


def assert_rows_are_those_of_one_row_each(case: CsvCase) -> None:
    together, apart = Counter[str](), Counter[str]()
    count = len(case.columns[0])
    alone = [case.encode(apart, row, row + 1) for row in range(count)]
    assert case.encode(together) == b"".join(alone)
    assert +together == +apart


@thorough
@given(csv_cases(chunks_of))
def test_csv_rows_of_a_chunk_are_those_of_chunks_of_one(case: CsvCase) -> None:
    assert_rows_are_those_of_one_row_each(case)


@pytest.mark.parametrize(
    "offsets_", [["-05", "-04"], ["-05", "-05", "-04"], ["+08", "+08:05:43"], ["+08", "+05:30"], ["+08", "+08", ""]]
)
def test_csv_the_last_instant_of_a_chunk_loses_its_offset_too(offsets_: list[str]) -> None:
    cells: list[Cell] = [f"2025-03-09 03:00:00{offset}".encode() for offset in offsets_]
    case = CsvCase([ColumnType.INSTANT], [cells], frozenset(), True, "utf-8")
    assert case.encode(Counter()) == b"2025-03-09 03:00:00\r\n" * len(cells)


@pytest.mark.parametrize("kind", [ColumnType.TEXT, ColumnType.DATE, ColumnType.TIME, ColumnType.DATETIME])
def test_csv_an_empty_text_is_told_from_null_in_columns_of_times_too(kind: ColumnType) -> None:
    # SQLite lets texts into every column; its connector says so for columns of numbers only.
    case = CsvCase([kind, ColumnType.INTEGER], [[b"", None], [b"1", b"2"]], frozenset(), True, "utf-8")
    assert case.encode(Counter()) == b'"",1\r\n,2\r\n'


NOTHING: list[list[Cell]] = [[None], [b""], [None, b""]]


@quick
@given(csv_cases(lambda kind, rows: st.sampled_from(NOTHING).map(lambda cells: list(islice(cycle(cells), rows)))))
def test_csv_columns_in_which_nothing_stands_are_no_exception(case: CsvCase) -> None:
    assert_rows_are_those_of_one_row_each(case)


@quick
@given(csv_cases(lambda kind, rows: st.lists(dirt, min_size=rows, max_size=rows)))
def test_csv_is_always_valid_in_its_encoding_and_loses_no_row(case: CsvCase) -> None:
    text = case.encode(Counter()).decode(case.encoding)
    outside_quotes = "".join(text.split('"')[::2])
    assert outside_quotes.count("\r\n") == len(case.columns[0])
    assert outside_quotes.count(",") == len(case.columns[0]) * (len(case.kinds) - 1)


def naive_rows(leads: Sequence[Sequence[bytes | None]], end: bytes, columns: Sequence[Cells], first: int, count: int) -> bytes:  # fmt: skip
    made = b""
    whole = [cells.whole() for cells in columns]
    for row in range(count):
        for lead, cells in zip(leads, whole, strict=True):
            made += b"".join(str(first + row).encode() if part is NUMBER else part for part in lead) + cells[row]
        made += end
    return made


pieces = st.sampled_from([b"", b"<c>", b"</c>", b' s="4"><v>', b"\0", b"%d", b"x"])


@st.composite
def shapes(draw: st.DrawFn) -> tuple[list[tuple[bytes | None, ...]], bytes, list[Cells], int, int]:
    width = draw(st.integers(1, 5))
    count = draw(st.sampled_from([1, 2, 3, BLOCK_ROWS - 1, BLOCK_ROWS, BLOCK_ROWS + 1, 2 * BLOCK_ROWS + 7]))
    leads = draw(st.lists(st.lists(pieces | st.just(NUMBER), max_size=4).map(tuple), min_size=width, max_size=width))
    return leads, draw(pieces), [draw(cells_of(count)) for _column in range(width)], draw(st.integers(1, 10**6)), count


def cells_of(count: int) -> st.SearchStrategy[Cells]:
    """A few drawn pieces over and over; the row's number behind each value tells the rows apart."""
    few = st.lists(pieces, min_size=1, max_size=5).map(lambda some: list(islice(cycle(some), count)))
    values = few.map(lambda some: [b"%b%d" % (piece, row) for row, piece in enumerate(some)])
    return st.builds(Cells, pieces | few, values | few | few.map(tuple), pieces | few)


@quick
@given(shapes())
def test_rows_are_put_together_as_one_by_one(
    shape: tuple[list[tuple[bytes | None, ...]], bytes, list[Cells], int, int],
) -> None:
    leads, end, columns, first, count = shape
    assert RowAssembler(leads, end).rows(columns, first, count) == naive_rows(leads, end, columns, first, count)


@quick
@given(st.data())
def test_an_assembler_that_has_seen_other_shapes_makes_the_same_rows(data: st.DataObject) -> None:
    width = data.draw(st.integers(1, 3))
    leads = data.draw(
        st.lists(st.lists(pieces | st.just(NUMBER), max_size=3).map(tuple), min_size=width, max_size=width)
    )
    assembler = RowAssembler(leads, b"</row>")
    assembler.MOST_LAYOUTS = 3
    for _chunk in range(data.draw(st.integers(2, 8))):
        count = data.draw(st.integers(1, 5))
        columns = [data.draw(cells_of(count)) for _column in range(width)]
        assert assembler.rows(columns, 7, count) == naive_rows(leads, b"</row>", columns, 7, count)


separable = st.lists(st.binary(max_size=5).map(lambda cell: cell.replace(b"\0", b"")), min_size=1, max_size=30) | st.lists(
    st.text("ab_x=", max_size=4).map(str.encode), min_size=1, max_size=30
)  # fmt: skip
needles = st.lists(
    st.binary(min_size=1, max_size=3).filter(lambda needle: b"\0" not in needle)
    | st.sampled_from([b"a", b"_", b"_x", b"=", b"ab", b"aa"]),
    max_size=4,
)


def naive_change(cells: Iterable[bytes], wanted: Sequence[bytes], change: Callable[[bytes], bytes]) -> list[bytes]:
    return [change(cell) if any(needle in cell for needle in wanted) else cell for cell in cells]


@thorough
@given(separable, needles, st.sampled_from([b"<%b>", b"%b%b", b""]))
def test_changing_the_cells_with_something_is_asking_each_of_them(
    cells: list[bytes], wanted: list[bytes], template: bytes
) -> None:
    asked: list[bytes] = []

    def change(cell: bytes) -> bytes:
        asked.append(cell)
        return template.replace(b"%b", cell)

    changed = change_cells_with(SEPARATOR.join(cells), wanted, change)
    asked_fast, asked[:] = list(asked), []
    assert changed == SEPARATOR.join(naive_change(cells, wanted, change))
    assert asked_fast == asked  # each of them once, in their order


@thorough
@given(st.lists(st.none() | st.binary(max_size=3) | st.sampled_from([b"=", b"\0", b"=a"]), min_size=1, max_size=12))
def test_what_is_asked_of_a_joined_column_is_what_its_cells_say(cells: list[Cell]) -> None:
    written, joined = join(cells)
    assert list(written) == [cell or b"" for cell in cells]
    assert joined == SEPARATOR.join(written)
    holds_nul = any(SEPARATOR in cell for cell in written)
    assert is_separable(joined, len(cells)) is not holds_nul
    for found, really in (
        (has_empty(joined), b"" in written),
        (any_begins_with(joined, b"="), any(cell.startswith(b"=") for cell in written)),
    ):
        assert found or not really  # never overlooked …
        assert holds_nul or found == really  # … and never imagined, unless a NUL in a text looks like an end
