"""What every connector promises (datasources/connectors/base.py), tried with each registered kind on a real server."""

import contextlib
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field

import pytest

from datasources.connectors.base import (
    BatchSizer,
    BoundValue,
    Cell,
    Column,
    ColumnType,
    Connector,
    ConnectorError,
    Query,
    batches_of,
)
from exporter_site.config import BASE_DIR
from tests.datasources.benches import Bench, read, rows

NASTY = (
    "O'Brien",
    'say "hi"',
    "100%",
    "%s and %(name)s",
    "back\\slash\\",
    "\\'; DROP TABLE facts; --",
    "? $1 :name @x {{ ds }}",
    "张三的订单，合计￥12",
    "emoji 😀👨‍👩‍👧",
    "line\nfeed\ttab",
    "",
    " ",
    "/* comment */ -- #",
)
labels = (f"exp:{number}:1" for number in range(1000, 10_000))


@pytest.fixture
def label() -> str:
    """A label that no other test uses: the judge of what still runs on the server."""
    return next(labels)


@dataclass
class Reader:
    """Reads a query in a thread, as an export does."""

    connector: Connector
    sql: str
    rows: int = 0
    error: Exception | None = None
    ended: bool = False
    first_batch: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self) -> None:
        try:
            for batch in self.connector.stream(Query((self.sql,)), 10_000).batches:
                self.rows += batch.rows
                self.first_batch.set()
            self.ended = True
        except Exception as exc:
            self.error = exc

    def assert_cancelled(self) -> None:
        assert isinstance(self.error, ConnectorError), self.error
        assert (self.error.reason, self.ended) == ("cancelled", False)


def test_columns_have_names_types_and_scales_and_cells_are_the_servers_text(bench: Bench) -> None:
    columns, cells = read(bench.connector(), "SELECT id, name, amount, ratio, day, at FROM facts ORDER BY id")
    assert [(column.name, column.type) for column in columns] == [
        ("id", ColumnType.INTEGER),
        ("name", ColumnType.TEXT),
        ("amount", ColumnType.DECIMAL),
        ("ratio", ColumnType.FLOAT),
        ("day", ColumnType.DATE),
        ("at", ColumnType.DATETIME),
    ]
    assert columns[2].scale == 2
    assert all(column.server_type for column in columns)
    id, name, _amount, ratio, day, at = cells
    assert id == [b"1", b"2", b"3"]
    assert name == ["张三".encode(), b"100%", None]
    assert [None if cell is None else float(cell) for cell in ratio] == [0.5, 1.25, None]
    assert day == [b"2025-01-31", b"2025-02-01", None]
    assert at == [b"2025-01-31 08:00:00", b"2025-02-01 23:59:59", None]


def test_decimals_keep_their_digits(bench: Bench) -> None:
    _columns, [amount] = read(bench.connector(), "SELECT amount FROM facts ORDER BY id")
    shown = [None if cell is None else cell.decode() for cell in amount]
    # SQLite stores a DECIMAL as a double: the zeros at the end are lost in the file itself.
    assert shown in (["12.50", "-0.05", None], ["12.5", "-0.05", None])


def test_batches_hold_every_row_once_and_never_more_than_asked_for(bench: Bench) -> None:
    seen: list[bytes | None] = []
    with bench.connector() as connector:
        for batch in connector.stream(Query((bench.series(25_001),)), 700).batches:
            assert 1 <= batch.rows <= 700
            assert [len(column) for column in batch.columns] == [batch.rows]
            seen += batch.columns[0]
    assert seen == [b"%d" % number for number in range(1, 25_002)]


@pytest.mark.parametrize("count", [1, 31, 32, 33, 63, 64, 65, 320, 321])
def test_a_count_of_rows_around_a_batch_loses_none(bench: Bench, count: int) -> None:
    assert rows(bench.connector(), bench.series(count)) == [(b"%d" % number,) for number in range(1, count + 1)]


def test_one_row_at_a_time_if_asked_for(bench: Bench) -> None:
    with bench.connector() as connector:
        assert [batch.rows for batch in connector.stream(Query((bench.series(5),)), 1).batches] == [1] * 5


def test_null_is_none_in_every_column(bench: Bench) -> None:
    assert rows(bench.connector(), "SELECT NULL AS a, name, amount, day FROM facts WHERE id = 3") == [(None,) * 4]


def test_an_empty_result_has_its_columns_and_no_batches(bench: Bench) -> None:
    with bench.connector() as connector:
        result = connector.stream(Query(("SELECT id, name, amount, day FROM facts WHERE 1 = 0",)), 100)
        assert list(result.batches) == []
        assert [column.type for column in result.columns] == [
            ColumnType.INTEGER,
            ColumnType.TEXT,
            ColumnType.DECIMAL,
            ColumnType.DATE,
        ]


def test_column_names_may_be_chinese_equal_or_hold_quotes(bench: Bench) -> None:
    quote = "`" if bench.kind in ("mysql", "adb") else '"'
    sql = f"SELECT 1 AS {quote}订单 数量{quote}, 2 AS n, 3 AS n, 4 AS {quote}it's 100%{quote}"
    columns, cells = read(bench.connector(), sql)
    assert [column.name for column in columns] == ["订单 数量", "n", "n", "it's 100%"]
    assert cells == [[b"1"], [b"2"], [b"3"], [b"4"]]


@pytest.mark.parametrize("value", NASTY)
def test_a_bound_text_arrives_as_it_is_whatever_it_holds(bench: Bench, value: str) -> None:
    cast = "CAST(" if bench.kind != "postgresql" else "("
    kind = " AS CHAR)" if bench.kind in ("mysql", "adb") else " AS TEXT)" if bench.kind == "sqlite" else "::text)"
    [(cell,)] = rows(bench.connector(), (f"SELECT {cast}", f"{kind} AS v"), value)
    assert (cell or b"").decode() == value


@pytest.mark.parametrize("value", ["a\0b", "\ud800"])
def test_a_bound_text_that_a_server_can_not_hold_is_refused_not_cut(bench: Bench, value: str) -> None:
    text = {"postgresql": "::text", "sqlite": "||''"}.get(bench.kind, "")
    with contextlib.suppress(ConnectorError):
        [(cell,)] = rows(bench.connector(), ("SELECT ", f"{text} AS v"), value)
        assert (cell or b"").decode() == value


@pytest.mark.parametrize(("value", "found"), [("张三", b"1"), ("100%", b"2"), ("' OR '1'='1", None), (None, None)])
def test_a_bound_text_is_compared_as_a_value(bench: Bench, value: BoundValue, found: bytes | None) -> None:
    matches = rows(bench.connector(), ("SELECT id FROM facts WHERE name = ", " ORDER BY id"), value)
    assert matches == ([(found,)] if found else [])


def test_bound_numbers_and_dates_compare_with_columns_of_their_type(bench: Bench) -> None:
    sql = ("SELECT id FROM facts WHERE id >= ", " AND ratio < ", " AND day >= ", " AND at < ", " ORDER BY id")
    assert rows(bench.connector(), sql, 1, 1.5, "2025-02-01", "2025-02-02 00:00:00") == [(b"2",)]


def test_a_percent_sign_in_the_sql_is_no_placeholder(bench: Bench) -> None:
    sql = ("SELECT id FROM facts WHERE name LIKE '1%0%' AND day = ", "")
    assert rows(bench.connector(), sql, "2025-02-01") == [(b"2",)]


def test_date_formats_with_percent_signs_stand_next_to_bound_values(bench: Bench) -> None:
    month = {
        "mysql": "DATE_FORMAT(day, '%Y-%m 100%%')",
        "adb": "DATE_FORMAT(day, '%Y-%m 100%%')",
        "postgresql": "to_char(day, 'YYYY-MM') || ' 100%'",
        "sqlite": "strftime('%Y-%m 100%%', day)",
    }[bench.kind]
    sql = (f"SELECT {month} AS m FROM facts WHERE id = ", " AND 7 % 4 = 3")
    assert rows(bench.connector(), sql, 1) == [(b"2025-01 100%",)]


@pytest.mark.parametrize("second", ["SELECT 2", "DROP TABLE facts", "COMMIT", "SET SESSION x = 1"])
def test_two_statements_are_refused(bench: Bench, second: str) -> None:
    before = bench.facts()
    with pytest.raises(ConnectorError):
        rows(bench.connector(privileged=True), f"SELECT 1; {second}")
    assert bench.facts() == before


def test_no_write_passes_even_unchecked_and_with_an_account_that_may_write(bench: Bench) -> None:
    before = bench.facts()
    for statement in bench.writes:
        with pytest.raises(ConnectorError) as caught:
            rows(bench.connector(privileged=True), statement)
        assert caught.value.reason in ("sql_error", "permission_denied"), statement
        assert str(caught.value), statement
    assert bench.facts() == before


def test_a_statement_without_rows_is_refused(bench: Bench) -> None:
    nothing = {"postgresql": "SET timezone = 'UTC'", "sqlite": "BEGIN"}.get(bench.kind, "DO 1")
    with pytest.raises(ConnectorError) as caught:
        rows(bench.connector(), nothing)
    assert caught.value.reason in ("sql_error", "permission_denied")


def test_a_mistake_in_the_sql_is_told_with_the_servers_words(bench: Bench) -> None:
    with pytest.raises(ConnectorError, match="no_such_table") as caught:
        rows(bench.connector(), "SELECT * FROM no_such_table")
    assert caught.value.reason == "sql_error"


def test_an_error_in_the_middle_of_the_rows_is_never_a_normal_end(bench: Bench) -> None:
    with pytest.raises(ConnectorError) as caught:
        rows(bench.connector(), bench.failing_late)
    assert caught.value.reason == "sql_error"


def test_the_report_names_the_version_and_warns_of_an_account_that_may_write(bench: Bench) -> None:
    with bench.connector() as connector:
        report = connector.report()
    assert any(character.isdigit() for character in report.server_version)
    assert 0 <= report.latency_ms < 5000
    assert report.warnings == ()
    if bench.has_sessions:
        with bench.connector(privileged=True) as connector:
            [warning] = connector.report().warnings
        assert "SELECT" in warning


def test_leaving_early_is_quick_and_ends_the_query_on_the_server(bench: Bench, label: str) -> None:
    with bench.connector(label) as connector:
        batches = connector.stream(Query((bench.series(10_000_000),)), 1000).batches
        assert next(batches).rows
        started = time.monotonic()
    assert time.monotonic() - started < 2
    assert bench.ended(label)
    connector.close()


def test_leaving_by_an_exception_ends_the_query_too(bench: Bench, label: str) -> None:
    def export() -> None:
        with bench.connector(label) as connector:
            next(connector.stream(Query((bench.series(10_000_000),)), 1000).batches)
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        export()
    assert bench.ended(label)


def test_leaving_before_the_first_batch_ends_the_query_too(bench: Bench, label: str) -> None:
    with bench.connector(label) as connector:
        assert connector.stream(Query((bench.series(10_000_000),)), 1000).columns[0].name == "n"
    assert bench.ended(label)


def test_a_cancel_while_the_first_row_is_awaited_wakes_the_reader(bench: Bench, label: str) -> None:
    with bench.connector(label) as connector:
        reader = Reader(connector, bench.waiting)
        bench.wait_until_running(label)
        time.sleep(0.1)  # SQLite shows no sessions: let the thread arrive in the query
        connector.cancel()
        reader.thread.join(5)
        reader.assert_cancelled()
        assert bench.ended(label)


def test_a_cancel_while_rows_stream_ends_reader_and_query(bench: Bench, label: str) -> None:
    with bench.connector(label) as connector:
        reader = Reader(connector, bench.series(100_000_000))
        assert reader.first_batch.wait(10)
        connector.cancel()
        reader.thread.join(5)
        reader.assert_cancelled()
    assert bench.ended(label)


def test_a_cancel_while_the_reader_is_busy_elsewhere_is_seen_at_the_next_batch(bench: Bench, label: str) -> None:
    with bench.connector(label) as connector:
        batches = connector.stream(Query((bench.series(10_000_000),)), 1000).batches
        next(batches)
        connector.cancel()
        with pytest.raises(ConnectorError) as caught:
            for _batch in batches:
                pass
        assert caught.value.reason == "cancelled"
    assert bench.ended(label)


def test_a_cancel_just_before_the_query_is_not_lost(bench: Bench, label: str) -> None:
    with bench.connector(label) as connector:
        connector.cancel()
        started = time.monotonic()
        with pytest.raises(ConnectorError) as caught:
            list(connector.stream(Query((bench.waiting,)), 100).batches)
        assert caught.value.reason == "cancelled"
        assert time.monotonic() - started < 5
    assert bench.ended(label)


def test_cancel_may_come_before_the_query_after_it_and_twice(bench: Bench) -> None:
    connector = bench.connector()
    connector.cancel()
    with connector:
        pass
    connector.cancel()
    connector.cancel()
    connector.close()


def test_a_query_that_a_dead_process_left_is_ended_by_its_session_and_label(bench: Bench, label: str) -> None:
    if not bench.has_sessions:
        with bench.connector(label) as connector:
            assert connector.backend_id() == ""
        assert not bench.connector(label).kill("12")
        return
    with bench.connector(label) as connector:
        backend = connector.backend_id()
        reader = Reader(connector, bench.waiting)
        bench.wait_until_running(label)
        assert not bench.connector("exp:1:2").kill(backend)
        assert bench.running(label)
        assert bench.connector(label).kill(backend)
        reader.thread.join(5)
        assert isinstance(reader.error, ConnectorError)
        assert reader.error.reason in ("killed_on_server", "connection_lost")
        assert bench.ended(label)
    assert not bench.connector(label).kill(backend)


def test_kill_of_a_session_that_never_was_ends_nothing(bench: Bench) -> None:
    assert not bench.connector().kill("4000000")


def test_batches_shrink_when_cells_are_wide(bench: Bench) -> None:
    with bench.connector() as connector:
        batches = connector.stream(Query((bench.wide(120, 1_000_000),)), 10_000).batches
        sizes = [batch.rows for batch in batches]
    assert sum(sizes) == 120
    assert max(sizes) <= 64
    assert max(sizes[1:]) <= 32


STREAM_WIDE_ROWS = """
import re, sys
from pathlib import Path
from django.conf import settings
settings.configure(USE_I18N=False)
from datasources.connectors import connectors
from datasources.connectors.base import ConnectionParams, Query
kind, sql, fields = sys.argv[1], sys.argv[2], eval(sys.argv[3])
rows = 0
with connectors.get(kind)(ConnectionParams(**fields)) as connector:
    for batch in connector.stream(Query((sql,)), 10_000).batches:
        rows += batch.rows
# Not ru_maxrss: that goes on counting from the process that started this one.
peak = re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())
print(rows, peak[1])
"""


def test_memory_does_not_grow_with_the_width_of_the_rows(bench: Bench) -> None:
    params = bench.params()
    fields = {name: getattr(params, name) for name in ("host", "port", "database", "username", "password")}
    done = subprocess.run(
        [sys.executable, "-c", STREAM_WIDE_ROWS, bench.kind, bench.wide(400, 1_000_000), repr(fields)],
        cwd=BASE_DIR,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    count, kilobytes = map(int, done.stdout.split())
    assert count == 400
    assert kilobytes < 200_000


def test_a_trickle_of_rows_shows_life(bench: Bench) -> None:
    if not bench.has_sessions:
        return  # nothing sends rows to a reader of a file
    seen: list[int] = []
    ended = threading.Event()
    with bench.connector() as connector:

        def look() -> None:
            while not ended.wait(0.3):
                seen.append(connector.activity)

        watcher = threading.Thread(target=look)
        watcher.start()
        batches = [batch.rows for batch in connector.stream(Query((bench.trickle,)), 10_000).batches]
        ended.set()
        watcher.join()
    assert sum(batches) == 40
    assert len(set(seen)) >= 4  # a stall of half the time would be seen
    assert len(batches) > 1


def test_a_batch_is_bound_by_cells_by_bytes_and_by_the_limit() -> None:
    wide, narrow = Column("w", ColumnType.TEXT), Column("n", ColumnType.INTEGER, max_bytes=11)

    def sizes(columns: list[Column], cell: bytes, rows: int, limit: int = 10_000) -> list[int]:
        left: list[tuple[Cell, ...]] = [(cell,) * len(columns)] * rows

        def fetch(count: int) -> list[tuple[Cell, ...]]:
            taken, left[:] = left[:count], left[count:]
            return taken

        return [len(batch[0]) for batch in batches_of(fetch, BatchSizer(columns, limit))]

    assert sizes([narrow], b"1", 13_000) == sizes([wide], b"1", 13_000) == [5984, 5984, 1032]
    assert sizes([narrow] * 12, b"1", 1100) == [480, 480, 140]
    assert sizes([narrow] * 100_000, b"1", 20, limit=7) == [7, 7, 6]
    assert sizes([narrow, wide], b"x" * 100_000, 70) == [6, 10, 10, 10, 10, 10, 10, 4]
    # A limit that is no multiple of the step in which wide rows are taken.
    assert sizes([wide], b"1", 700, limit=500) == [480, 220]
    assert sizes([wide], b"", 0) == []


def test_the_first_wide_rows_do_not_come_a_thousand_at_a_time() -> None:
    rows = [(b"x",)] * 6000 + [(b"x" * 1_000_000,)] * 64
    given = iter([rows[at : at + 32] for at in range(0, len(rows), 32)])
    batches = batches_of(lambda count: next(given, []), BatchSizer([Column("w", ColumnType.TEXT)], 10_000))
    assert max(sum(map(len, filter(None, batch[0]))) for batch in batches) <= 1_000_000
