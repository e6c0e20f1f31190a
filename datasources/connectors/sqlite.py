"""SQLite files, opened read-only. Types belong to cells here, not to columns, so each batch is looked at."""

import re
import sqlite3
import time
from collections.abc import Iterator, Sequence
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any

from django.utils.translation import gettext as _

from datasources.connectors.base import (
    STEP,
    Batch,
    BatchSizer,
    Cell,
    Column,
    ColumnType,
    ConnectionReport,
    Connector,
    ConnectorError,
    Query,
    Result,
    TableColumn,
    batches_of,
)
from datasources.private_files import check_file
from datasources.quoting import quoted
from datasources.sqltext import SQLITE

# Declared type (its first word) -> what its cells are. Others are guessed from the first batch.
_DECLARED = {
    "BOOLEAN": ColumnType.BOOLEAN,
    "BOOL": ColumnType.BOOLEAN,
    "DATE": ColumnType.DATE,
    "TIME": ColumnType.TIME,
    "DATETIME": ColumnType.DATETIME,
    "TIMESTAMP": ColumnType.DATETIME,
    "DECIMAL": ColumnType.DECIMAL,
    "NUMERIC": ColumnType.DECIMAL,
    "REAL": ColumnType.FLOAT,
    "DOUBLE": ColumnType.FLOAT,
    "FLOAT": ColumnType.FLOAT,
    "BLOB": ColumnType.BINARY,
    "TEXT": ColumnType.TEXT,
    "VARCHAR": ColumnType.TEXT,
    "CHAR": ColumnType.TEXT,
    "NVARCHAR": ColumnType.TEXT,
    "CLOB": ColumnType.TEXT,
    "JSON": ColumnType.TEXT,
}
_SCALE = re.compile(r"\(\s*\d+\s*,\s*(\d+)\s*\)")
_ALLOWED_ACTIONS = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE}


def _authorize(action: int, *args: str | None) -> int:
    return sqlite3.SQLITE_OK if action in _ALLOWED_ACTIONS else sqlite3.SQLITE_DENY


class SQLite(Connector):
    dialect = SQLITE
    fields = ("database",)
    place = "database"

    _conn: sqlite3.Connection | None = None

    @staticmethod
    def check_place(place: str) -> None:
        check_file(place)

    def open(self) -> None:
        try:
            self.check_place(self.params.database)
        except ValueError as exc:
            raise ConnectorError("connection_failed", str(exc)) from exc
        path = Path(self.params.database)
        if not path.is_file():
            raise ConnectorError(
                "unknown_database", _("There is no SQLite file {path}. Check the path.").format(path=path)
            )
        with self.errors_explained():
            # The reader runs in a thread of its own and is interrupted from another.
            self._conn = sqlite3.connect(
                f"{path.resolve().as_uri()}?mode=ro", uri=True, check_same_thread=False, timeout=8
            )
            # interrupt() is lost when it comes a moment before the query begins.
            self._conn.set_progress_handler(self._cancelled.is_set, 100_000)
            self._conn.execute("PRAGMA query_only = ON")
            self._conn.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone()

    @property
    def _open(self) -> sqlite3.Connection:
        assert self._conn is not None, "open() comes first"
        return self._conn

    def report(self) -> ConnectionReport:
        started = time.perf_counter()
        with self.errors_explained():
            self._open.execute("SELECT count(*) FROM sqlite_master").fetchone()
        return ConnectionReport(f"SQLite {sqlite3.sqlite_version}", round((time.perf_counter() - started) * 1000, 1))

    def stream(self, query: Query, max_rows: int) -> Result:
        sql = query.text(lambda number: f" ?{number} ")
        with self.errors_explained():
            declared = self._declared_types(query)
            self._open.set_authorizer(_authorize)
            cursor = self._open.execute(sql, query.values)
            if cursor.description is None:
                raise ConnectorError("sql_error", _("The statement gives no rows. Write a SELECT."))
            names = [column[0] for column in cursor.description]
            # Enough to guess types from; every column may be wide here.
            first = cursor.fetchmany(min(max_rows, STEP))
        columns = _columns(names, declared, first)
        return Result(columns, self._batches(cursor, first, columns, _Sizer(columns, max_rows)))

    def check(self, query: Query) -> None:
        with self.errors_explained():
            self._open.set_authorizer(_authorize)
            self._open.execute("EXPLAIN " + query.text(lambda number: f" ?{number} "), query.values).close()

    def table_columns(self, limit: int) -> list[TableColumn]:
        with self.errors_explained():
            tables = self._open.execute(
                "SELECT name FROM sqlite_master WHERE type IN ('table', 'view') AND name NOT GLOB 'sqlite_*' ORDER BY name"
            ).fetchall()
            found = (quoted(column, '"') for (table,) in tables for column in self._columns_of(table))
            return list(islice(found, limit))

    def _columns_of(self, table: str) -> list[TableColumn]:
        try:
            rows = self._open.execute("SELECT name, type FROM pragma_table_info(?) ORDER BY cid", [table]).fetchall()
        except sqlite3.OperationalError:
            if self._cancelled.is_set():
                raise
            return []  # a view of what is not there any more
        return [TableColumn("", table, *row) for row in rows]

    def _declared_types(self, query: Query) -> list[str]:
        """The declared type of each result column, "" for expressions: what a view of the query would have."""
        self._open.execute("PRAGMA query_only = OFF")  # A temporary view lives in memory; the file is opened read-only.
        try:
            self._open.execute(f"CREATE TEMP VIEW exporter_probe AS {query.text(lambda number: ' NULL ')}")
            rows = self._open.execute("PRAGMA temp.table_info(exporter_probe)").fetchall()
            self._open.execute("DROP VIEW temp.exporter_probe")
            return [row[2].upper() for row in rows]
        except sqlite3.Error:
            return []  # Not expressible as a view: all columns are guessed.
        finally:
            self._open.execute("PRAGMA query_only = ON")

    def _batches(
        self, cursor: sqlite3.Cursor, first: list[Any], columns: tuple[Column, ...], sizer: BatchSizer
    ) -> Iterator[Batch]:
        def fetch(count: int) -> Sequence[Any]:
            if self._cancelled.is_set():
                raise ConnectorError("cancelled", _("The query was cancelled."))
            with self.errors_explained():
                rows = cursor.fetchmany(count)
            self.activity += len(rows)
            return rows

        for values in batches_of(fetch, sizer, taken=first):
            cells = [_cells(vector, column.type) for vector, column in zip(values, columns, strict=True)]
            mixed = (i for i, vector in enumerate(values) if _is_mixed(vector, columns[i].type))
            yield Batch(cells, len(values[0]), frozenset(mixed))

    def backend_id(self) -> str:
        return ""

    def _interrupt(self) -> None:
        conn = self._conn
        if conn is not None:
            try:
                conn.interrupt()
            except sqlite3.ProgrammingError:
                pass  # closed meanwhile

    def close(self) -> None:
        conn, self._conn = self._conn, None
        if conn is not None:
            conn.close()

    def kill(self, backend_id: str) -> bool:
        return False  # The query died with its process.

    def explain(self, exc: Exception) -> ConnectorError | None:
        if not isinstance(exc, (sqlite3.Error, sqlite3.Warning)):
            return None
        message = str(exc)
        if "not a database" in message or "unable to open" in message:
            return ConnectorError(
                "connection_failed",
                _("{path} can't be read as an SQLite file: {message}").format(
                    path=self.params.database, message=message
                ),
                message,
            )
        if "interrupted" in message:
            return ConnectorError("killed_on_server", _("The query was interrupted."), message)
        if "not authorized" in message or "readonly" in message:
            return ConnectorError(
                "permission_denied", _("The SQL does more than read: {message}").format(message=message), message
            )
        return ConnectorError("sql_error", _("SQLite refused the SQL: {message}").format(message=message), message)


class _Sizer(BatchSizer):
    """Numbers arrive as numbers here, and take no room to speak of."""

    def measure(self, rows: Sequence[Any]) -> int:
        return sum(len(value) for row in rows for value in row if isinstance(value, (str, bytes)))


def _cells(values: Sequence[Any], column_type: ColumnType) -> list[Cell]:
    """One column of the driver's values as canonical(); texts and integers alone, the usual, are done all at once."""
    kinds = set(map(type, values))
    if kinds == {str}:
        cells: list[Cell] = [*"\0".join(values).encode("utf-8", "surrogatepass").split(b"\0")]
        if len(cells) == len(values):  # no NUL in a text
            return cells
    if kinds == {int} and column_type is not ColumnType.BOOLEAN:
        return [b"%d" % value for value in values]
    return [canonical(value, column_type) for value in values]


def canonical(value: Any, column_type: ColumnType) -> Cell:
    """One value of the driver as the text that a writer expects (base.py)."""
    if value is None:
        return None
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass")
    if isinstance(value, bytes):
        return b"0x" + value.hex().upper().encode()
    if column_type is ColumnType.BOOLEAN and value in (0, 1):
        return b"t" if value else b"f"
    text = repr(value)
    if column_type is ColumnType.DECIMAL and "e" in text:
        text = format(Decimal(text), "f")
    return text.encode()


def _columns(names: list[str], declared: list[str], first: list[Any]) -> tuple[Column, ...]:
    if len(declared) != len(names):
        declared = [""] * len(names)
    vectors = list(zip(*first, strict=True)) if first else [()] * len(names)
    return tuple(
        Column(name, *_type_of(kind, vector), kind.lower())
        for name, kind, vector in zip(names, declared, vectors, strict=True)
    )


def _type_of(declared: str, values: tuple[Any, ...]) -> tuple[ColumnType, int | None]:
    word = re.split(r"[\s(]", declared, maxsplit=1)[0]
    if word in _DECLARED:
        scale = _SCALE.search(declared)
        return _DECLARED[word], int(scale[1]) if scale else None
    if "INT" in word:
        return ColumnType.INTEGER, 0
    kinds = {type(value) for value in values if value is not None}
    if kinds == {int}:
        return ColumnType.INTEGER, 0
    if kinds and kinds <= {int, float}:
        return ColumnType.FLOAT, None
    if kinds == {bytes}:
        return ColumnType.BINARY, None
    return ColumnType.TEXT, None


def _is_mixed(values: Sequence[Any], column_type: ColumnType) -> bool:
    """Whether a column of numbers holds text in this batch: "007" there is text, though it looks like a number."""
    numbers = (ColumnType.INTEGER, ColumnType.FLOAT, ColumnType.DECIMAL, ColumnType.BOOLEAN)
    return column_type in numbers and any(isinstance(value, (str, bytes)) for value in values)
