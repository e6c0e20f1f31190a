"""What a connector promises, and the values that pass between a connector and a writer.

A result set travels as `Batch`es: columns, not rows, and every cell as the text that the server sent (UTF-8 bytes,
None for NULL). Nothing is decoded on the way; the writer reads a column by its `ColumnType`. The canonical text is:

    INTEGER    -?digits                            BOOLEAN   t or f
    DECIMAL    -?digits[.digits]                   DATE      YYYY-MM-DD
    FLOAT      what float() reads                  TIME      HH:MM:SS[.ffffff]
    DATETIME   YYYY-MM-DD HH:MM:SS[.ffffff]        TEXT      any UTF-8 text
    INSTANT    a DATETIME in the task's zone, with or without its offset (+08, +05:30) behind
    BINARY     0x and upper-case hexadecimal digits

A cell that does not fit its column (0000-00-00, infinity, NaN, 25:00:00) stays as the server wrote it: the writer
then writes text and counts it.
"""

import os
import socket
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from types import TracebackType
from typing import ClassVar, Self
from zoneinfo import ZoneInfo

from django.utils.translation import gettext as _

from datasources import hosts
from datasources.sqltext import Dialect

CONNECT_TIMEOUT = 8  # seconds; people wait for "Test connection", and 10 is promised for the whole test
TARGET_BATCH_CELLS = 6_000
TARGET_BATCH_BYTES = 512 * 1024
STEP = 32  # rows that are taken between two looks at their size and at the clock
LONGEST_WAIT = 0.5  # seconds; then a batch goes on with the rows that have come
NARROW_CELL = 2_000  # bytes; where no cell can be longer, the number of cells is bound enough

Cell = bytes | None
Row = tuple[Cell, ...]
BoundValue = str | int | float | None


class ColumnType(Enum):
    INTEGER = "integer"
    DECIMAL = "decimal"
    FLOAT = "float"
    BOOLEAN = "boolean"
    DATE = "date"
    TIME = "time"
    DATETIME = "datetime"
    INSTANT = "instant"
    TEXT = "text"
    BINARY = "binary"


@dataclass(frozen=True, slots=True)
class Column:
    """`scale`: digits after the point (DECIMAL) or of the second's fraction (times); None when the server says none.

    `server_type` is the server's own name of the type, for people. `max_bytes`: no cell is longer, says the server;
    None when it does not say.
    """

    name: str
    type: ColumnType
    scale: int | None = None
    server_type: str = ""
    max_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """Some rows, by column: `columns[i][row]`. All columns have `rows` cells, about half a megabyte together.

    `as_text`: indexes of columns whose cells in this batch are text whatever the column's type says (SQLite keeps a
    type per cell).
    """

    columns: Sequence[Sequence[Cell]]
    rows: int
    as_text: frozenset[int] = frozenset()

    def slice(self, start: int, end: int) -> "Batch":
        """The rows from `start` up to `end`; the batch itself when these are all."""
        if start == 0 and end == self.rows:
            return self
        return Batch([column[start:end] for column in self.columns], end - start, self.as_text)


@dataclass(frozen=True, slots=True)
class Query:
    """One statement with its values apart from it: parts[0] value[0] parts[1] value[1] … parts[-1]."""

    parts: tuple[str, ...]
    values: tuple[BoundValue, ...] = ()

    def text(self, placeholder: Callable[[int], str], escape: Callable[[str], str] = str) -> str:
        """The SQL with `placeholder(n)` (n counts from 1) where each value belongs."""
        pieces = [escape(self.parts[0])]
        for number, part in enumerate(self.parts[1:], start=1):
            pieces += (placeholder(number), escape(part))
        return "".join(pieces)

    def for_people(self) -> str:
        """The SQL with its values written in, to be read; it is never run in this form."""
        return self.text(lambda number: _shown(self.values[number - 1]))


def _shown(value: BoundValue) -> str:
    if value is None:
        return "NULL"
    return "'" + value.replace("'", "''") + "'" if isinstance(value, str) else str(value)


@dataclass(frozen=True, slots=True)
class ConnectionParams:
    """Where and how to connect. `timezone` is the session's: aware times and NOW() come out in it.

    `label` is shown to the server's administrators ("exp:12:1"), and marks the query when it must be killed later.
    """

    host: str = ""
    port: int = 0
    database: str = ""
    username: str = ""
    password: str = field(default="", repr=False)
    charset: str = "utf8mb4"
    ssl_mode: str = "prefer"
    query_timeout: int = 3600  # seconds; told to servers that can end a query by themselves, should we die
    timezone: str = "Asia/Shanghai"
    label: str = "data-exporter"

    @property
    def zone(self) -> ZoneInfo:
        return ZoneInfo(self.timezone)


@dataclass(frozen=True, slots=True)
class ConnectionReport:
    """A successful connection test. `warnings` are sentences, e.g. that the account may write."""

    server_version: str
    latency_ms: float
    warnings: tuple[str, ...] = ()

    @property
    def sentence(self) -> str:
        return _("{version}, answered in {latency} ms.").format(version=self.server_version, latency=self.latency_ms)


class ConnectorError(Exception):
    """A source failed in a way that can be named. `reason` is a code of tasks/reasons.py, the text is for people.

    `detail` is the server's own message; it may hold anything but our password (redacted where it is stored). `line`
    of the SQL, counted from 1, is what the server complains about, when it says so.
    """

    def __init__(self, reason: str, message: str, detail: str = "", line: int | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.detail = detail
        self.line = line


@dataclass(frozen=True, slots=True)
class TableColumn:
    """A column of a table or view, for completion. `schema` is "" where the table's name alone is enough.

    The names are ready for SQL: in quotes where they need them.
    """

    schema: str
    table: str
    name: str
    server_type: str


@dataclass(frozen=True, slots=True)
class Result:
    """The columns of a running query, and its rows.

    `batches` can be iterated once. It ends normally only when the server has confirmed the end of the result; it
    raises ConnectorError with connection_lost, killed_on_server, sql_error, …
    """

    columns: tuple[Column, ...]
    batches: Iterator[Batch]


class Connector(ABC):
    """One connection to one kind of database, for one query: open, stream, close.

        with connectors.get(kind)(params) as connector:
            result = connector.stream(query, max_rows=10_000)
            for batch in result.batches: …

    Leaving the block early (an error, a full disk, a limit) ends the query on the server; it is never read to its
    end. `fields` are the DataSource fields that matter for this kind; the form and the API show no others. `place` is
    the one of them that says where the data is. `read_only_account`: the statements that make an account for us, to be
    shown to people; a {user} or {database} stands between the quotes that it needs.
    """

    dialect: ClassVar[Dialect]
    default_port: ClassVar[int] = 0
    fields: ClassVar[tuple[str, ...]] = ("host", "port", "database", "username", "password", "charset", "ssl_mode")
    place: ClassVar[str] = "host"
    read_only_account: ClassVar[tuple[str, ...]] = ()
    # Schema, table, column and type of what the account may read, in the order of its worth, with LIMIT {}.
    catalogue_sql: ClassVar[str] = ""

    def __init__(self, params: ConnectionParams) -> None:
        self.params = params
        # Grows with whatever the server sends: the sign of life when rows come in a trickle.
        self.activity = 0
        self._cancelled = threading.Event()
        self._closing = threading.Lock()  # close() and cancel() come from two threads

    def __enter__(self) -> Self:
        try:
            self.open()
        except BaseException:
            self.close()  # logged in, but the session could not be prepared
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @staticmethod
    def check_place(place: str) -> None:
        """Raise ValueError, with a sentence, for what no source may lead to. Asked when it is saved; open() asks too."""
        hosts.check_host(place)

    @abstractmethod
    def open(self) -> None:
        """Connect, log in and make the session read-only.

        Raises ConnectorError within 10 seconds: connection_failed, auth_failed, unknown_database or tls_failed.
        """

    @abstractmethod
    def report(self) -> ConnectionReport:
        """What a person wants to know of the open connection: version, and whether the account may write."""

    @abstractmethod
    def stream(self, query: Query, max_rows: int) -> Result:
        """Run `query` read-only; its result comes in batches of at most `max_rows` rows.

        The caller has passed the SQL through safety.check(). Raises ConnectorError.
        """

    @abstractmethod
    def check(self, query: Query) -> None:
        """Let the database look at `query` without running it. Raises ConnectorError when it refuses it."""

    def table_columns(self, limit: int) -> list[TableColumn]:
        """The columns that the account may read, by table in their order; `limit` of them at most. Ends the result
        of stream(). Raises ConnectorError."""
        result = self.stream(Query((self.catalogue_sql.format(limit),)), max_rows=limit)
        rows = [row for batch in result.batches for row in zip(*batch.columns, strict=True)]
        return [TableColumn(*((cell or b"").decode("utf-8", "replace") for cell in row)) for row in rows]

    @abstractmethod
    def backend_id(self) -> str:
        """The server's id of this session, "" where there is none. Kept so that another process can kill the query."""

    def cancel(self) -> None:
        """End the running query on the server and wake up the thread that reads from it. Called from another thread.

        The reader then gets ConnectorError("cancelled"). Never raises: the server may be gone.
        """
        self._cancelled.set()
        self._interrupt()

    @abstractmethod
    def _interrupt(self) -> None:
        """End the query on the server, then cut the connection. Must not raise."""

    @abstractmethod
    def close(self) -> None:
        """Free everything; a query that still runs is ended on the server first. May be called twice."""

    @abstractmethod
    def kill(self, backend_id: str) -> bool:
        """End the query that a dead process left on the server, if `backend_id` still runs it under our label.

        Uses a connection of its own. Returns whether something was ended. Raises ConnectorError.
        """

    @contextmanager
    def errors_explained(self) -> Iterator[None]:
        """Turn the driver's exceptions into ConnectorError; after cancel() into its "cancelled"."""
        try:
            yield
        except ConnectorError:
            raise
        except UnicodeEncodeError as exc:
            text = exc.object[exc.start : exc.end].encode(errors="backslashreplace").decode()
            raise ConnectorError(
                "sql_error",
                _(
                    "“{text}” in the SQL or its values can't be sent in the connection's character set {charset}."
                ).format(text=text, charset=exc.encoding),
            ) from exc
        except Exception as exc:
            if self._cancelled.is_set():
                raise ConnectorError("cancelled", _("The query was cancelled.")) from exc
            explained = self.explain(exc)
            if explained is None:
                raise
            raise explained from exc

    @abstractmethod
    def explain(self, exc: Exception) -> ConnectorError | None:
        """The driver's exception in words and with a reason; None when it is not the driver's but a fault of ours."""


class BatchSizer:
    """How much of a result goes into one batch: about 6,000 cells or 512 KB, whichever is less, never more rows than
    `limit`.

    Small batches stay in the processor's cache: fetching costs half of what it does in batches of 4,000 rows. And rows
    with cells of a megabyte must not come a thousand at a time, also when all rows before them were small: rows are
    taken in small steps, and columns that may be wide are measured.
    """

    def __init__(self, columns: Sequence[Column], limit: int) -> None:
        rows = max(1, min(limit, max(16, TARGET_BATCH_CELLS // max(1, len(columns)))))
        # Rows to take at once; a batch is a whole number of them.
        self.step = min(rows, STEP)
        self.rows = rows - rows % self.step
        self._wide = [i for i, column in enumerate(columns) if (column.max_bytes or sys.maxsize) > NARROW_CELL]

    def measure(self, rows: Sequence[Row]) -> int:
        """Bytes in the columns that may be wide."""
        return sum(sum(map(len, filter(None, [row[i] for row in rows]))) for i in self._wide)


def batches_of(
    fetch: Callable[[int], Sequence[Row]], sizer: BatchSizer, taken: Sequence[Row] = ()
) -> Iterator[list[Sequence[Cell]]]:
    """The columns of each batch. `fetch(n)` gives the next rows, n at most, and none behind the last one.

    `taken` rows have been fetched before; they come first.
    """
    rows = list(taken)
    size = sizer.measure(rows)
    step = 1  # until it is known how fast they come
    started = time.monotonic()
    while True:
        now = time.monotonic()
        if len(rows) >= sizer.rows or size >= TARGET_BATCH_BYTES or (rows and now - started > LONGEST_WAIT):
            yield from _columns_of(rows, size)
            rows, size, started = [], 0, time.monotonic()
        more = fetch(min(step, sizer.rows - len(rows)))
        if not more:
            break
        width = sizer.measure(more)
        if rows and size + width > 2 * TARGET_BATCH_BYTES:
            yield from _columns_of(rows, size)
            rows, size, started = [], 0, time.monotonic()
        rows += more
        size += width
        # As many as are likely to come soon and to fit, when they are like the last ones.
        waited = time.monotonic() - now
        step = min(sizer.step, int(LONGEST_WAIT * len(more) / waited)) if waited else sizer.step
        step = max(1, min(step, TARGET_BATCH_BYTES * len(more) // width if width else step))
    if rows:
        yield from _columns_of(rows, size)


def _columns_of(rows: list[Row], size: int) -> Iterator[list[Sequence[Cell]]]:
    """`rows` by column; in parts, when they turned out to be much wider than expected."""
    most = len(rows) if size < 2 * TARGET_BATCH_BYTES else max(1, TARGET_BATCH_BYTES * len(rows) // size)
    for start in range(0, len(rows), most):
        yield list(zip(*rows[start : start + most], strict=True))


def resolve_host(host: str, port: int) -> tuple[list[str], int]:
    """The addresses to try one after the other, all of them checked, and how many seconds each may take.

    Raises ConnectorError when `host` may not be connected to, or is not known to the name service within 5 seconds.
    """
    started = time.monotonic()
    try:
        addresses = hosts.addresses_of(host, port)
    except hosts.HostRefused as exc:
        raise ConnectorError("connection_failed", str(exc)) from exc
    except OSError as exc:
        raise ConnectorError(
            "connection_failed",
            _("The host “{host}” is not known. Check its spelling, or ask whether this machine may resolve it.").format(
                host=host
            ),
            str(exc),
        ) from exc
    left = CONNECT_TIMEOUT - (time.monotonic() - started)
    return addresses, max(2, int(left / len(addresses)))


def shut_down(descriptor: int) -> None:
    """Cut a driver's socket so that a thread that waits for its bytes wakes up. The driver still owns and closes it."""
    try:
        with socket.socket(fileno=os.dup(descriptor)) as duplicate:
            duplicate.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # Already closed: nobody waits there.
