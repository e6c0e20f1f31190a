"""Any value that an engine can hold: stored, exported, and read back by two readers it is equal, or is counted."""

import os
import re
import sqlite3
import string
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from datasources.connectors import connectors
from datasources.connectors.base import Cell, ConnectionParams, Connector, Query
from tests.datasources.benches import rows
from tests.readback import assert_csv_holds, assert_xlsx_holds
from tests.servers import PrivateServer
from tests.servers.mariadb import MariaDB
from tests.servers.postgresql import PostgreSQL
from tests.writers.sheets import make_writer

few = settings(
    max_examples=15,
    deadline=None,
    # The fixtures hold a table that each example empties.
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
ZONE = ZoneInfo("Asia/Shanghai")
Strategy = st.SearchStrategy[Any]


class Engine(ABC):
    """A table `any_value (n, v)` and how a connector reads it."""

    kind: str

    @abstractmethod
    def store(self, declaration: str, values: Sequence[object]) -> None:
        """A fresh table whose v is declared so, with `values` in their order."""

    @abstractmethod
    def params(self) -> ConnectionParams: ...

    def connector(self) -> Connector:
        return connectors.get(self.kind)(self.params())


class SQLiteEngine(Engine):
    kind = "sqlite"

    def __init__(self, path: Path) -> None:
        self.path = path

    def store(self, declaration: str, values: Sequence[object]) -> None:
        with closing(sqlite3.connect(self.path)) as connection, connection:
            connection.execute("PRAGMA synchronous = OFF")
            connection.execute("DROP TABLE IF EXISTS any_value")
            connection.execute(f"CREATE TABLE any_value (n INTEGER, v {declaration})")
            connection.executemany("INSERT INTO any_value VALUES (?, ?)", list(enumerate(values)))

    def stored(self) -> list[Any]:
        with closing(sqlite3.connect(self.path)) as connection:
            return [value for (value,) in connection.execute("SELECT v FROM any_value ORDER BY n")]

    def params(self) -> ConnectionParams:
        return ConnectionParams(database=str(self.path))


class ServerEngine(Engine):
    def __init__(self, kind: str, server: PrivateServer, connection: Any, database: str) -> None:
        self.kind = kind
        self._server = server
        self._connection = connection
        self._database = database

    def store(self, declaration: str, values: Sequence[object]) -> None:
        with self._connection.cursor() as cursor:
            cursor.execute("DROP TABLE IF EXISTS any_value")
            cursor.execute(f"CREATE TABLE any_value (n INTEGER, v {declaration})")
            cursor.executemany("INSERT INTO any_value VALUES (%s, %s)", list(enumerate(values)))

    def params(self) -> ConnectionParams:
        return self._server.params(self._database, timezone=ZONE.key)


@pytest.fixture(autouse=True, scope="module")
def _without_waiting_for_the_disk() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="module")
def sqlite_engine(tmp_path_factory: pytest.TempPathFactory) -> SQLiteEngine:
    return SQLiteEngine(tmp_path_factory.mktemp("sqlite") / "any.db")


@pytest.fixture(scope="module")
def mysql_engine(mariadb: MariaDB) -> Iterator[ServerEngine]:
    database = mariadb.new_database()
    connection = mariadb.connect(database, init_command="SET time_zone = '+00:00', sql_mode = 'STRICT_ALL_TABLES'")
    with closing(connection):
        yield ServerEngine("mysql", mariadb, connection, database)


@pytest.fixture(scope="module")
def postgresql_engine(postgresql: PostgreSQL) -> Iterator[ServerEngine]:
    database = postgresql.new_database()
    with closing(postgresql.connect(database)) as connection:
        connection.prepare_threshold = None  # a prepared INSERT would keep the types of the table before
        yield ServerEngine("postgresql", postgresql, connection, database)


@dataclass(frozen=True, slots=True)
class Values:
    """What a column declared so can hold, and how the engine writes each of them, as far as base.py promises it."""

    declaration: str
    any: Strategy
    written: Callable[[Any], str] = str

    def cell(self, value: object) -> Cell:
        return None if value is None else self.written(value).encode("utf-8", "surrogatepass")

    @property
    def lists(self) -> st.SearchStrategy[list[Any]]:
        return st.lists(st.none() | self.any | self.any | self.any | self.any, min_size=1, max_size=50)


# A text is the same in CSV; numbers and times may have more or fewer zeros there than Python writes.
TEXTUAL = ("TEXT", "text")


def assert_comes_back(engine: Engine, values: Values, cells: Sequence[Cell]) -> None:
    """The table of `engine` holds `cells`; so must the files."""
    expected = [[b"%d" % number for number in range(len(cells))], cells]
    with TemporaryDirectory() as directory, engine.connector() as connector:
        result = connector.stream(Query(("SELECT n, v FROM any_value ORDER BY n",)), 1000)
        batches = list(result.batches)
        for format, check in CHECKS.items():
            if format == "csv" and values.declaration not in TEXTUAL:
                continue
            writer = make_writer(Path(directory), result.columns, format)
            for batch in batches:
                writer.write(batch)
            writer.finish()
            check(writer, expected)


CHECKS = {"xlsx": assert_xlsx_holds, "csv": assert_csv_holds}
CHARACTERS = st.one_of(
    st.sampled_from("\x01\x08\t\n\x0b\r\x1f\x7f\x85\u2028\ufffe\uffff\ufeff <>&\"'=+-@,;\\%?$:"),
    st.sampled_from(string.ascii_letters + string.digits),
    st.characters(codec="utf-8", exclude_characters="\0"),
)
WORDS = st.sampled_from(
    (
        *("_x0041_", "_x000D_", "_x005F_x0041_", "=1+1", "+86 138", "-1", "@x", "00123", " lead", "trail ", "  ", "\t", "\n"),
        *("NULL", "\\N", "0x41", "]]>", "&amp;", "😀", "👨\u200d👩\u200d👧", "e\u0301", "𠮷", "1e5", "NaN", "TRUE", "2024-01-01"),
        *("'", '"', "'=1", "\r\n"),
    )
)  # fmt: skip


def texts_of(*more: str) -> Strategy:
    return st.lists(CHARACTERS | WORDS | st.sampled_from(["", *more]), max_size=6).map("".join).filter(is_judged)


def is_judged(text: str) -> bool:
    """Whether the rules of readback.py can judge how `text` is read back: they take _xHHHH_ to be undone everywhere in
    it or nowhere, while calamine undoes all but non-characters; and they know no _xHHHH that only becomes _xHHHH_ by the
    escape behind it. tests/writers/ has both.
    """
    return not re.search("_x[0-9A-Fa-f]{4}[\x00-\x1f\ufffe\uffff]", text) and not (
        re.search("[\ufffe\uffff]", text) and re.search("[\x00-\x1f]|_x", text)
    )


def trimmed(text: str) -> str:
    """As PostgreSQL writes the fraction of a second: no zeros at its end."""
    return text.rstrip("0").rstrip(".") if "." in text else text


def with_offset(moment: datetime) -> str:
    local = moment.astimezone(ZONE)
    offset = local.strftime("%z")
    parts = [offset[:3], offset[3:5], offset[5:7]]
    while parts[-1] in ("", "00"):
        parts.pop()
    return trimmed(local.replace(tzinfo=None).isoformat(" ")) + ":".join(parts)


def mysql_time(value: timedelta) -> str:
    seconds, microseconds = divmod(abs(value) // timedelta(microseconds=1), 10**6)
    sign = "-" if value < timedelta() else ""
    return f"{sign}{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}.{microseconds:06d}"


def six_digits(moment: datetime) -> str:
    return moment.isoformat(" ", "microseconds")


# By way of text: arithmetic of decimals rounds to 28 digits.
decimals38 = st.integers(1 - 10**38, 10**38 - 1).map(lambda digits: Decimal(f"{digits}E-10")) | st.decimals(
    -10_000, 10_000, places=2
)
finite = st.floats(allow_nan=False, allow_infinity=False)
clock_length = timedelta(hours=838, minutes=59, seconds=59)
instants = st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=st.just(UTC))


def integers(declaration: str, bits: int, *, unsigned: bool = False) -> Values:
    low, high = (0, 2**bits - 1) if unsigned else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return Values(declaration, st.integers(low, high) | st.sampled_from([low, high, 0]))


def ten_places(value: object) -> str:
    return f"{value:.10f}" if isinstance(value, Decimal) else str(value)


MYSQL = [
    Values("TEXT", texts_of("\0", "\0=1")),
    integers("TINYINT", 8),
    integers("SMALLINT UNSIGNED", 16, unsigned=True),
    integers("MEDIUMINT", 24),
    integers("INT", 32),
    integers("BIGINT", 64),
    integers("BIGINT UNSIGNED", 64, unsigned=True),
    Values("DECIMAL(38,10)", decimals38, ten_places),
    Values("DOUBLE", finite, repr),
    Values("DATE", st.dates(), date.isoformat),
    Values("TIME(6)", st.timedeltas(-clock_length, clock_length).map(mysql_time)),
    Values("DATETIME(6)", st.datetimes(), six_digits),
    Values(
        "TIMESTAMP(6) NULL",
        st.datetimes(datetime(1970, 1, 1, 0, 0, 1), datetime(2038, 1, 19, 3, 14, 7)),
        lambda moment: six_digits(moment.replace(tzinfo=UTC).astimezone(ZONE).replace(tzinfo=None)),
    ),
    Values("VARBINARY(20)", st.binary(max_size=20), lambda value: "0x" + value.hex().upper()),
]
POSTGRESQL = [
    Values("text", texts_of()),
    integers("smallint", 16),
    integers("integer", 32),
    integers("bigint", 64),
    Values("numeric(38,10)", decimals38 | st.just("NaN"), ten_places),
    Values("numeric", st.decimals(allow_nan=False, allow_infinity=False, places=20, max_value=10**40), lambda v: f"{v:f}"),
    Values(
        "double precision", finite | st.sampled_from(["NaN", "Infinity", "-Infinity"]), lambda v: v if isinstance(v, str) else repr(v)
    ),
    Values("boolean", st.booleans(), lambda value: "t" if value else "f"),
    Values("date", st.dates().map(date.isoformat) | st.sampled_from(["infinity", "-infinity", "0044-03-15 BC", "10000-01-01"])),
    Values("time", st.times().map(time.isoformat) | st.just("24:00:00"), trimmed),
    Values("timestamp", st.datetimes().map(six_digits) | st.sampled_from(["infinity", "0044-03-15 08:00:00 BC"]), trimmed),
    Values("timestamptz", instants, with_offset),
    Values("bytea", st.binary(max_size=20), lambda value: "0x" + value.hex().upper()),
]  # fmt: skip
SQLITE = [
    Values("TEXT", texts_of("\0", "\0=1")),
    integers("INTEGER", 64),
    Values("REAL", finite),
    Values("DECIMAL(38,10)", decimals38.map(str) | st.integers(-(2**63), 2**63 - 1)),
    Values("DATE", st.dates().map(date.isoformat)),
    Values("TIME", st.times().map(time.isoformat)),
    Values("DATETIME", st.datetimes().map(lambda moment: moment.isoformat(" "))),
    Values("BLOB", st.binary(max_size=20)),
]


def declared(values: Values) -> str:
    return values.declaration


@few
@given(st.data())
@pytest.mark.parametrize("values", MYSQL, ids=declared)
def test_any_value_of_mysql(mysql_engine: ServerEngine, values: Values, data: st.DataObject) -> None:
    some = data.draw(values.lists)
    mysql_engine.store(values.declaration, some)
    assert_comes_back(mysql_engine, values, [values.cell(value) for value in some])


@few
@given(st.data())
@pytest.mark.parametrize("values", POSTGRESQL, ids=declared)
def test_any_value_of_postgresql(postgresql_engine: ServerEngine, values: Values, data: st.DataObject) -> None:
    some = data.draw(values.lists)
    postgresql_engine.store(values.declaration, some)
    assert_comes_back(postgresql_engine, values, [values.cell(value) for value in some])


def canonical(value: object) -> Cell:
    """What SQLite keeps, as base.py has it written: it makes numbers of texts in columns of numbers."""
    if value is None or isinstance(value, bytes):
        return b"0x" + value.hex().upper().encode() if value is not None else None
    return (f"{Decimal(repr(value)):f}" if isinstance(value, float) else str(value)).encode()


@few
@given(st.data())
@pytest.mark.parametrize("values", SQLITE, ids=declared)
def test_any_value_of_sqlite(sqlite_engine: SQLiteEngine, values: Values, data: st.DataObject) -> None:
    some = data.draw(values.lists)
    sqlite_engine.store(values.declaration, some)
    assert_comes_back(sqlite_engine, values, [canonical(value) for value in sqlite_engine.stored()])


bound = st.lists(texts_of().filter(bool), min_size=1, max_size=20)


@few
@given(st.data())
@pytest.mark.parametrize("kind", ["sqlite", "mysql", "postgresql"])
def test_any_text_can_be_bound_to_a_query(kind: str, request: pytest.FixtureRequest, data: st.DataObject) -> None:
    engine = request.getfixturevalue(f"{kind}_engine")
    if kind == "sqlite":
        engine.store("TEXT", [])  # the file must exist
    some = data.draw(bound)
    parts = ("SELECT ", *(f" AS v{number}, " for number in range(1, len(some))), " AS last")
    assert rows(engine.connector(), parts, *some) == [tuple(text.encode() for text in some)]
