"""PostgreSQL through psycopg: the extended protocol in chunks of rows, text format, unconverted.

Not COPY: it takes no bound values. Not a named cursor either: each FETCH is a statement of its own, so the server's
timeout never fires and a cancel between two of them is lost. But the server is asked to DECLARE one first: it then
refuses by itself whatever is not a plain query.
"""

import selectors
import time
from collections.abc import Iterator, Sequence
from typing import Any

import psycopg
from django.utils.translation import gettext as _
from psycopg import pq
from psycopg.abc import Loader, Transformer
from psycopg.adapt import AdaptersMap
from psycopg.adapt import Transformer as make_transformer  # C code where there is any
from psycopg.generators import execute, send

from datasources.connectors.base import (
    Batch,
    BatchSizer,
    Column,
    ColumnType,
    ConnectionParams,
    ConnectionReport,
    Connector,
    ConnectorError,
    Query,
    Result,
    Row,
    batches_of,
    resolve_host,
    shut_down,
)
from datasources.sqltext import POSTGRESQL

# The longest text of a cell, in bytes; of other types it depends on the modifier, or nothing is promised.
_MAX_BYTES = {
    "bool": 1,
    "int2": 6,
    "int4": 11,
    "int8": 20,
    "oid": 10,
    "float4": 25,
    "float8": 25,
    "date": 16,
    "time": 15,
    "timestamp": 32,
    "timestamptz": 40,
    "uuid": 36,
}
_TYPES = {
    "bool": ColumnType.BOOLEAN,
    "int2": ColumnType.INTEGER,
    "int4": ColumnType.INTEGER,
    "int8": ColumnType.INTEGER,
    "oid": ColumnType.INTEGER,
    "float4": ColumnType.FLOAT,
    "float8": ColumnType.FLOAT,
    "numeric": ColumnType.DECIMAL,
    "date": ColumnType.DATE,
    "time": ColumnType.TIME,
    "timestamp": ColumnType.DATETIME,
    "timestamptz": ColumnType.INSTANT,
    "bytea": ColumnType.BINARY,
}
# The text forms that base.py promises, whatever the server's or the account's defaults are.
_SESSION = {
    "default_transaction_read_only": "on",
    "standard_conforming_strings": "on",
    "datestyle": "ISO, YMD",
    "intervalstyle": "postgres",
    "bytea_output": "hex",
    "extra_float_digits": "1",
    "client_encoding": "UTF8",
}
_MAY_WRITE = """
    SELECT rolsuper, rolcreaterole, rolcreatedb, EXISTS (
        SELECT 1 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relkind IN ('r', 'p') AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname NOT LIKE 'pg_toast%'
          AND has_table_privilege(c.oid, 'INSERT, UPDATE, DELETE, TRUNCATE'))
    FROM pg_roles WHERE rolname = current_user
"""
# The server quotes its names itself.
_CATALOGUE = """
    SELECT CASE WHEN pg_table_is_visible(c.oid) THEN '' ELSE quote_ident(n.nspname) END,
        quote_ident(c.relname), quote_ident(a.attname), format_type(a.atttypid, a.atttypmod)
    FROM pg_class c
    JOIN pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f')
        AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_(toast|temp)'
        AND has_schema_privilege(n.oid, 'USAGE') AND has_column_privilege(c.oid, a.attnum, 'SELECT')
    ORDER BY pg_table_is_visible(c.oid) DESC, n.nspname, c.relname, a.attnum
    LIMIT {}
"""


class _UndecodedCells(AdaptersMap):
    """Every type is read as bytea in binary form is: the bytes that the server sent, copied by C code."""

    _as_they_are = psycopg.adapters.get_loader(psycopg.adapters.types["bytea"].oid, pq.Format.BINARY)

    def get_loader(self, oid: int, format: pq.Format) -> "type[Loader] | None":
        return self._as_they_are


class _Undecoded:
    """What psycopg's Transformer wants to know of its surroundings."""

    adapters = _UndecodedCells()
    connection = None


class PostgreSQL(Connector):
    dialect = POSTGRESQL
    default_port = 5432
    fields = ("host", "port", "database", "username", "password", "ssl_mode")
    read_only_account = (
        """CREATE ROLE "{user}" LOGIN PASSWORD '********'; GRANT CONNECT ON DATABASE "{database}" TO "{user}";""",
        'GRANT USAGE ON SCHEMA public TO "{user}"; GRANT SELECT ON ALL TABLES IN SCHEMA public TO "{user}";',
    )
    catalogue_sql = _CATALOGUE

    _sent = ""  # the statement that an error's position counts in
    _conn: psycopg.Connection[Any] | None = None
    _unfinished = False

    def __init__(self, params: ConnectionParams) -> None:
        super().__init__(params)
        self._readable = selectors.DefaultSelector()

    def open(self) -> None:
        with self.errors_explained():
            self._conn = self._connect()
            self._prepare_session()

    def _connect(self) -> psycopg.Connection[Any]:
        params = self.params
        addresses, seconds = resolve_host(params.host, params.port)
        return psycopg.connect(
            # The certificate is checked for the name; the connection goes to the addresses that were looked at.
            host=",".join([params.host] * len(addresses)),
            hostaddr=",".join(addresses),
            port=params.port or self.default_port,
            dbname=params.database,
            user=params.username,
            password=params.password,
            sslmode=params.ssl_mode,
            connect_timeout=seconds,
            application_name=params.label,
            gssencmode="disable",
            keepalives_idle=30,
            autocommit=True,
        )

    def _prepare_session(self) -> None:
        settings = _SESSION | {
            "timezone": self.params.zone.key,
            # Only a help, should we die: our own deadline decides. In this protocol it counts the whole query.
            "statement_timeout": str((self.params.query_timeout + 5) * 1000),
        }
        for name, value in settings.items():
            self._open.execute("SELECT set_config(%s, %s, false)", [name, value])
        self._open.execute("BEGIN TRANSACTION READ ONLY")

    @property
    def _open(self) -> psycopg.Connection[Any]:
        assert self._conn is not None, "open() comes first"
        return self._conn

    def report(self) -> ConnectionReport:
        with self.errors_explained():
            started = time.perf_counter()
            row = self._open.execute("SHOW server_version").fetchone()
            latency = (time.perf_counter() - started) * 1000
            version = f"PostgreSQL {row[0] if row else ''}"
            return ConnectionReport(version, round(latency, 1), tuple(self._warnings()))

    def _warnings(self) -> Iterator[str]:
        row = self._open.execute(_MAY_WRITE).fetchone() or (False, False, False, False)
        names = ("SUPERUSER", "CREATEROLE", "CREATEDB", "INSERT/UPDATE/DELETE")
        found = [name for name, held in zip(names, row, strict=True) if held]
        if found:
            yield _("The account may do more than read ({grants}). Use an account with SELECT only.").format(
                grants=", ".join(found)
            )

    def stream(self, query: Query, max_rows: int) -> Result:
        statement, values = self._statement(query), _texts(query)
        columns = self._prepared(statement, values)
        self._unfinished = True
        return Result(columns, self._batches(statement, values, columns, BatchSizer(columns, max_rows)))

    def check(self, query: Query) -> None:
        self._prepared(self._statement(query), _texts(query))

    def _statement(self, query: Query) -> str:
        return f"/* {self.params.label} */ " + query.text(lambda number: f" ${number} ")

    def _prepared(self, statement: str, values: list[str | None]) -> tuple[Column, ...]:
        with self.errors_explained():
            self._check_structure(statement, values)
            return self._describe(statement)

    def _check_structure(self, statement: str, values: list[str | None]) -> None:
        # In the extended protocol: psycopg's cursors, when there are no values, would send it as a script.
        declare = self._sent = f"DECLARE exporter_check NO SCROLL CURSOR FOR {statement}"
        self._open.pgconn.send_query_params(declare.encode(), _encoded(values))
        self._answer()
        self._open.execute("CLOSE exporter_check")

    def _describe(self, statement: str) -> tuple[Column, ...]:
        """The columns of `statement`, which is parsed and not run. What gives no rows is refused here."""
        pgconn = self._open.pgconn
        self._sent = statement
        # Not prepare() and describe_prepared(): they hold Python's lock while the server is silent.
        pgconn.send_prepare(b"", statement.encode())
        self._answer()
        pgconn.send_describe_prepared(b"")
        described = self._answer()
        if described.nfields == 0:
            raise ConnectorError("sql_error", _("The statement gives no rows. Write a SELECT."))
        own = {oid for i in range(described.nfields) if not psycopg.adapters.types.get(oid := described.ftype(i))}
        names = self._type_names(own) if own else {}
        return tuple(_column(described, i, names) for i in range(described.nfields))

    def _answer(self) -> Any:
        """The result of the command that was sent last."""
        [result] = self._open.wait(execute(self._open.pgconn))
        if result.status != pq.ExecStatus.COMMAND_OK:
            raise psycopg.errors.error_from_result(result)
        return result

    def _type_names(self, oids: set[int]) -> dict[int, str]:
        """The names of types that are not PostgreSQL's own: enums, composites, those of extensions."""
        rows = self._open.execute("SELECT oid, format_type(oid, NULL) FROM pg_type WHERE oid = ANY(%s)", [list(oids)])
        return dict(rows.fetchall())

    def _batches(
        self, statement: str, values: list[str | None], columns: tuple[Column, ...], sizer: BatchSizer
    ) -> Iterator[Batch]:
        binary = [i for i, column in enumerate(columns) if column.type is ColumnType.BINARY]
        # Loads the cells of a result as they came, without a Python function per cell.
        loader: Transformer = make_transformer(_Undecoded())

        def fetch(count: int) -> Sequence[Row]:
            if self._cancelled.is_set():
                raise ConnectorError("cancelled", _("The query was cancelled."))
            return self._receive(loader)

        with self.errors_explained():
            # libpq (17 and later) hands over this many rows at once; it can't be told otherwise on the way.
            self._send(statement, values, sizer.step)
            self._readable.register(self._open.pgconn.socket, selectors.EVENT_READ)
            for cells in batches_of(fetch, sizer):
                for i in binary:
                    cells[i] = [b"0x" + cell[2:].upper() if cell is not None else None for cell in cells[i]]
                yield Batch(cells, len(cells[0]))

    def _send(self, statement: str, values: list[str | None], chunk: int) -> None:
        """Start the query: values apart from it and without a type, as a quoted literal has none; text format."""
        pgconn = self._open.pgconn
        pgconn.send_query_params(statement.encode(), _encoded(values))
        if psycopg.capabilities.has_stream_chunked():
            pgconn.set_chunked_rows_mode(chunk)
        else:
            pgconn.set_single_row_mode()
        self._open.wait(send(pgconn))

    def _receive(self, loader: Transformer) -> Sequence[Row]:
        """The next rows; none when the server has said that these were all."""
        pgconn = self._open.pgconn
        # What libpq has read already needs no look at the socket.
        while pgconn.is_busy():
            self._readable.select()
            pgconn.consume_input()
            self.activity += 1
        result = pgconn.get_result()
        if result is None:
            raise ConnectorError("connection_lost", _("The server ended the result without saying so."))
        if result.status in (pq.ExecStatus.TUPLES_CHUNK, pq.ExecStatus.SINGLE_TUPLE):
            loader.set_pgresult(result, set_loaders=loader.pgresult is None)
            return loader.load_rows(0, result.ntuples, tuple)
        if result.status != pq.ExecStatus.TUPLES_OK:
            raise psycopg.errors.error_from_result(result)
        self._unfinished = False
        return ()

    def backend_id(self) -> str:
        return str(self._conn.info.backend_pid) if self._conn else ""

    def _interrupt(self) -> None:
        conn = self._conn
        if conn is not None:
            self._end_query(conn)

    def _end_query(self, conn: psycopg.Connection[Any]) -> None:
        try:
            conn.cancel_safe(timeout=5)
        except psycopg.Error:
            pass  # The server is gone, or the query ended in this moment.
        # A server that waits for us to read does not see the cancel; it does see the end of the connection.
        with self._closing:
            if not conn.closed:
                shut_down(conn.pgconn.socket)

    def close(self) -> None:
        conn, self._conn = self._conn, None
        self._readable.close()
        if conn is None:
            return
        if self._unfinished and not conn.closed:
            self._unfinished = False
            self._end_query(conn)
        with self._closing:
            conn.close()

    def kill(self, backend_id: str) -> bool:
        with self.errors_explained(), self._connect() as conn:
            # Ids are used again: only a session under our label is ours.
            row = conn.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = %s AND application_name = %s AND pid <> pg_backend_pid()",
                [int(backend_id), self.params.label],
            ).fetchone()
            return bool(row and row[0])

    def explain(self, exc: Exception) -> ConnectorError | None:
        if not isinstance(exc, psycopg.Error):
            return None
        message = (exc.diag.message_primary or str(exc)).strip()
        if self._conn is None:
            return self._explain_connecting(str(exc), exc.sqlstate or "")
        place = f"{self.params.host}:{self.params.port or self.default_port}"
        state = exc.sqlstate or ""
        if state == "57014" and "statement timeout" in message:
            return ConnectorError("query_timeout", _("The server ended the query at its time limit."), message)
        if state in ("57014", "57P01"):
            return ConnectorError(
                "killed_on_server", _("The query was ended on the server (cancelled or terminated)."), message
            )
        if isinstance(exc, psycopg.OperationalError) and (not state or state.startswith(("08", "57P"))):
            text = _("The connection to PostgreSQL at {place} broke while the query ran.")
            return ConnectorError("connection_lost", text.format(place=place), message)
        if state == "42501":
            return ConnectorError(
                "permission_denied", _("The account may not read this: {message}").format(message=message), message
            )
        return ConnectorError(
            "sql_error",
            _("PostgreSQL refused the SQL: {message} (error {code})").format(message=message, code=state or "-"),
            message,
            _line_of(exc, self._sent),
        )

    def _explain_connecting(self, message: str, state: str) -> ConnectorError:
        params = self.params
        place = f"{params.host}:{params.port or self.default_port}"

        def says(*needles: str) -> bool:
            return any(needle in message for needle in needles)

        # libpq gives no code for a refused login; these are its own words and the server's, in English and Chinese.
        if state.startswith("28") or says(
            "authentication failed", "pg_hba.conf", 'role "', "no password", "认证失败", "角色"
        ):
            text = _(
                "PostgreSQL at {place} refused the login of “{user}”. Check user name and password, and whether pg_hba.conf lets this machine in."
            )
            return ConnectorError("auth_failed", text.format(place=place, user=params.username), message)
        if says("permission denied for database") or (says("数据库") and says("权限")):
            text = _(
                "“{user}” may not use the database “{database}” on PostgreSQL at {place}. Have the account granted CONNECT, or check the name."
            )
            filled = text.format(user=params.username, database=params.database, place=place)
            return ConnectorError("unknown_database", filled, message)
        # Also a missing certificate file "does not exist".
        if state == "3D000" or (says('database "', "数据库") and says("does not exist", "不存在")):
            text = _("There is no database “{database}” on PostgreSQL at {place}. Check its spelling.")
            return ConnectorError("unknown_database", text.format(place=place, database=params.database), message)
        # The second is what libpq says when something else than PostgreSQL listens there.
        if says("SSL", "certificate") and not says("received invalid response to SSL negotiation"):
            text = _(
                "No encrypted connection to PostgreSQL at {place}. Check the TLS mode of the data source and the server's certificate."
            )
            return ConnectorError("tls_failed", text.format(place=place), message)
        text = _(
            "Can't reach PostgreSQL at {place}. Check host and port, that the server runs, and that no firewall is between."
        )
        return ConnectorError("connection_failed", text.format(place=place), message)


def _line_of(exc: psycopg.Error, statement: str) -> int | None:
    """The line of `statement` that the server's error is about."""
    position = exc.diag.statement_position
    return statement.count("\n", 0, int(position) - 1) + 1 if position else None


def _texts(query: Query) -> list[str | None]:
    return [None if value is None else str(value) for value in query.values]


def _encoded(values: list[str | None]) -> list[bytes | None]:
    if any(value and "\0" in value for value in values):  # libpq would end the text there
        raise psycopg.DataError("PostgreSQL text can't hold NUL (0x00) bytes")
    return [value.encode() if value is not None else None for value in values]


def _column(described: Any, index: int, own_types: dict[int, str]) -> Column:
    label = (described.fname(index) or b"").decode()
    oid = described.ftype(index)
    known = psycopg.adapters.types.get(oid)
    if known is None:
        return Column(label, ColumnType.TEXT, None, own_types.get(oid, str(oid)))
    if oid == known.array_oid:  # the register gives an array the type of its elements
        return Column(label, ColumnType.TEXT, None, f"{known.regtype}[]")
    column_type = _TYPES.get(known.name, ColumnType.TEXT)
    modifier = described.fmod(index)
    return Column(label, column_type, _scale(column_type, modifier), known.regtype, _max_bytes(known.name, modifier))


def _max_bytes(name: str, modifier: int) -> int | None:
    if name in ("varchar", "bpchar") and modifier > 4:
        return 4 * (modifier - 4)  # characters
    if name == "numeric" and modifier > 4:
        return ((modifier - 4) >> 16) + 1000 + 3  # precision; the scale may be up to 1,000 beyond it
    return _MAX_BYTES.get(name)


def _scale(column_type: ColumnType, modifier: int) -> int | None:
    if column_type is ColumnType.INTEGER:
        return 0
    if column_type is ColumnType.DECIMAL:
        # numeric(p, s) is (p << 16 | s) + 4; s is an 11-bit signed number since PostgreSQL 15.
        if modifier < 4:
            return None
        scale = (modifier - 4) & 0x7FF
        return max(0, scale - 0x800 if scale & 0x400 else scale)
    if column_type in (ColumnType.TIME, ColumnType.DATETIME, ColumnType.INSTANT):
        return 6 if modifier < 0 else modifier
    return None
