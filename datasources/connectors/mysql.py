"""MySQL and MariaDB through mysqlclient: the server's text, unconverted and unbuffered."""

import re
import time
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any, ClassVar

import MySQLdb
from django.utils.translation import gettext as _
from MySQLdb.constants import CR, ER, FIELD_TYPE, FLAG

from datasources.connectors.base import (
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
    Row,
    TableColumn,
    batches_of,
    resolve_host,
    shut_down,
)
from datasources.quoting import quoted
from datasources.sqltext import MYSQL

SSL_MODES = {
    "disable": "DISABLED",
    "require": "REQUIRED",
    "verify-ca": "VERIFY_CA",
    "verify-full": "VERIFY_IDENTITY",
}
# MySQL's name of a character set -> Python's codec, where it is not UTF-8.
CODECS = {"gbk": "gbk", "gb2312": "gb2312", "gb18030": "gb18030", "big5": "big5", "latin1": "cp1252"}
# With these the server would read quotes otherwise than our lexer, and a literal could hide a statement.
_LEXER_MODES = {"ANSI_QUOTES", "NO_BACKSLASH_ESCAPES", "ORACLE", "MSSQL", "DB2", "POSTGRESQL", "MAXDB", "ANSI"}

_AUTH = {1044, 1045, 1130, 1698, 1862, 1227, 2059, 2061}
_TLS = {2026, 3159}
_NOBODY_THERE = {CR.CONNECTION_ERROR, CR.CONN_HOST_ERROR}
_BUSY = {1040, 1203, 1226, 1129}
_LOST = {1053, 1152, 1158, 1159, 1160, 1161, 1927, 2006, 2013, 2055, 4031}
_DENIED = {1142, 1143, 1370, 1356}
_SERVER_TIMEOUT = {1969, 3024}

_INTEGERS = {FIELD_TYPE.TINY, FIELD_TYPE.SHORT, FIELD_TYPE.INT24, FIELD_TYPE.LONG, FIELD_TYPE.LONGLONG, FIELD_TYPE.YEAR}
_BYTES = {
    FIELD_TYPE.STRING,
    FIELD_TYPE.VAR_STRING,
    FIELD_TYPE.VARCHAR,
    FIELD_TYPE.TINY_BLOB,
    FIELD_TYPE.MEDIUM_BLOB,
    FIELD_TYPE.LONG_BLOB,
    FIELD_TYPE.BLOB,
}
_TIMES = {
    FIELD_TYPE.DATE: ColumnType.DATE,
    FIELD_TYPE.TIME: ColumnType.TIME,
    FIELD_TYPE.DATETIME: ColumnType.DATETIME,
    # The session's time zone is the task's: the server has already converted it.
    FIELD_TYPE.TIMESTAMP: ColumnType.DATETIME,
}
_TYPE_NAMES = {number: name.lower() for name, number in vars(FIELD_TYPE).items() if name.isupper()}
_WIDTH_OF_TIME = {FIELD_TYPE.TIME: 10, FIELD_TYPE.DATETIME: 19, FIELD_TYPE.TIMESTAMP: 19}
_PROCESS = "SELECT INFO FROM information_schema.PROCESSLIST WHERE ID = {:d}"
_AT_LINE = re.compile(r"\bat line (\d+)$")
# The column's own type may be long: all values of an ENUM.
_CATALOGUE = """
    SELECT '', TABLE_NAME, COLUMN_NAME, LEFT(COLUMN_TYPE, 60)
    FROM information_schema.COLUMNS
    WHERE TABLE_SCHEMA = DATABASE()
    ORDER BY TABLE_NAME, ORDINAL_POSITION
    LIMIT {}
"""
_WRITE_GRANT = re.compile(
    r"\b(ALL PRIVILEGES|INSERT|UPDATE|DELETE|CREATE|DROP|ALTER|TRIGGER|FILE|SUPER|GRANT OPTION|RELOAD|SHUTDOWN)\b"
)


def hexadecimal(cell: bytes) -> bytes:
    return b"0x" + cell.hex().upper().encode()


def bits_as_integer(cell: bytes) -> bytes:
    return b"%d" % int.from_bytes(cell, "big")


# conv={} would give bytes for everything; only these two need a look, and only per cell of such columns.
_CONVERTERS: dict[int, Any] = dict.fromkeys(_BYTES, ((FLAG.BINARY, hexadecimal), (None, bytes))) | {
    FIELD_TYPE.BIT: bits_as_integer,
    FIELD_TYPE.GEOMETRY: hexadecimal,
}


class MySQL(Connector):
    dialect = MYSQL
    default_port = 3306
    read_only_account = (
        "CREATE USER '{user}'@'%' IDENTIFIED BY '********';",
        "GRANT SELECT, SHOW VIEW ON `{database}`.* TO '{user}'@'%';",
    )
    catalogue_sql = _CATALOGUE
    # Whether a session setting that the server refuses is an error. AnalyticDB knows only some of them.
    strict_session: ClassVar[bool] = True

    _conn: Any = None
    # Noted when connecting: the driver lets no other thread ask for them while a query runs.
    _thread_id = 0
    _descriptor = -1
    _unfinished = False
    _charset = "utf8mb4"  # of the connection as it is
    _address = ""  # where the connection went: a KILL must reach the same server, whatever else the name leads to

    def open(self) -> None:
        with self.errors_explained():
            self._conn = self._connect()
            self._thread_id, self._descriptor = self._conn.thread_id(), self._conn.fileno()
            self._prepare_session()

    def _connect(self) -> Any:
        params = self.params
        addresses, seconds = resolve_host(params.host, params.port)
        if params.host.lower() == "localhost":
            addresses.sort(key=lambda address: ":" in address)  # servers and accounts are more often for 127.0.0.1
        try:
            conn = self._dial_first(addresses, "utf8mb4", seconds)
        except MySQLdb.MySQLError as exc:
            if _code(exc) != ER.UNKNOWN_CHARACTER_SET or params.charset == "utf8mb4":
                raise
            # Only where there is no better one: what a character set can't hold arrives as "?".
            self._charset = params.charset
            conn = self._dial_first(addresses, params.charset, seconds)
        self._check_encrypted(conn)
        return conn

    def _dial_first(self, addresses: Sequence[str], charset: str, seconds: int) -> Any:
        """A connection to the first address where anybody listens, as the driver would find it for a name."""
        if self.params.ssl_mode == "verify-full":
            # The driver checks the certificate for the name it is given, and looks the name up again. Should that lead
            # elsewhere by now, the certificate keeps us from saying anything there, the login included.
            name = self.params.host.lower()
            return self._dial("LOCALHOST" if name == "localhost" else name, charset, seconds)  # in small: a socket file
        if self._address in addresses:
            addresses = [self._address]
        for address in addresses:
            try:
                conn = self._dial(address, charset, seconds)
            except MySQLdb.MySQLError as exc:
                if address == addresses[-1] or _code(exc) not in _NOBODY_THERE:
                    raise
            else:
                self._address = address
                return conn
        raise AssertionError("a host without an address")  # resolve_host() has refused it

    def _dial(self, host: str, charset: str, seconds: int) -> Any:
        if self.params.ssl_mode != "prefer":
            return self._log_in(host, charset, seconds, SSL_MODES[self.params.ssl_mode])
        # PREFERRED never encrypts with MariaDB's client library. REQUIRED does there if the server can, and fails
        # with MySQL's if it can't.
        try:
            return self._log_in(host, charset, seconds, "REQUIRED")
        except MySQLdb.MySQLError as exc:
            if _code(exc) not in _TLS:
                raise
            return self._log_in(host, charset, seconds, "DISABLED")

    def _check_encrypted(self, conn: Any) -> None:
        # MariaDB's client library takes a plain connection for REQUIRED, too, when the server offers no other.
        if self.params.ssl_mode in ("disable", "prefer"):
            return
        conn.query(b"SHOW SESSION STATUS LIKE 'Ssl_cipher'")
        if not any(cipher for _name, cipher in conn.store_result().fetch_row(maxrows=0)):
            conn.close()
            raise ConnectorError("tls_failed", self._tls_sentence(), "the server offers no TLS")

    def _log_in(self, host: str, charset: str, seconds: int, ssl_mode: str) -> Any:
        params = self.params
        return MySQLdb.connect(
            host=host,
            port=params.port or self.default_port,
            user=params.username,
            passwd=params.password,
            db=params.database,
            charset=charset,
            use_unicode=False,
            conv=_CONVERTERS,
            connect_timeout=seconds,
            ssl_mode=ssl_mode,
            # A hostile server may ask for any local file; a second statement could leave the read-only transaction.
            local_infile=0,
            multi_statements=False,
            autocommit=None,
        )

    def _prepare_session(self) -> None:
        modes = self._value("SELECT @@SESSION.sql_mode").split(",")
        kept = [mode for mode in modes if mode.upper() not in _LEXER_MODES]
        self._set(f"sql_mode = '{','.join(kept)}'", required=self.strict_session or kept != modes)
        # A slow disk on our side, or rows that come in a trickle, must not end the stream after 60 seconds.
        self._set("net_write_timeout = 600")
        self._set_timezone()
        self._set_server_timeout()
        self._set("TRANSACTION READ ONLY", required=self.strict_session)
        if self.strict_session:
            self._run("START TRANSACTION READ ONLY")

    def _set_timezone(self) -> None:
        try:
            self._run(f"SET SESSION time_zone = '{self.params.zone.key}'")
        except MySQLdb.MySQLError as exc:
            # 1298: the server has no time zone tables. An offset is as good where the zone keeps one all year.
            offset = constant_offset(self.params.zone)
            if offset is None:
                raise ConnectorError(
                    "sql_error",
                    _(
                        "The server knows no time zone “{zone}”. Load its time zone tables (mysql_tzinfo_to_sql), or choose a zone without summer time for the task."
                    ).format(zone=self.params.zone.key),
                    str(exc),
                ) from exc
            self._set(f"time_zone = '{offset}'")

    def _set_server_timeout(self) -> None:
        # MariaDB counts seconds, MySQL milliseconds; each knows only its own name. Only a help: our deadline decides.
        seconds = self.params.query_timeout + 5
        for setting in (f"max_statement_time = {seconds}", f"max_execution_time = {seconds * 1000}"):
            self._set(setting, required=False)

    def _set(self, assignment: str, required: bool | None = None) -> None:
        try:
            self._run(f"SET SESSION {assignment}")
        except MySQLdb.MySQLError:
            if self.strict_session if required is None else required:
                raise

    def _run(self, sql: str) -> None:
        self._conn.query(sql.encode())
        self._conn.store_result()

    def _rows(self, sql: str) -> list[tuple[Cell, ...]]:
        self._conn.query(sql.encode())
        result = self._conn.store_result()
        if result is None:
            raise ConnectorError(
                "connection_failed", _("The server at this host and port does not answer as MySQL does.")
            )
        return list(result.fetch_row(maxrows=0))

    def _value(self, sql: str) -> str:
        return (self._rows(sql)[0][0] or b"").decode()

    def report(self) -> ConnectionReport:
        with self.errors_explained():
            started = time.perf_counter()
            version = self._value("SELECT VERSION()")
            latency = (time.perf_counter() - started) * 1000
            return ConnectionReport(version, round(latency, 1), tuple(self._warnings()))

    def _warnings(self) -> Iterator[str]:
        try:
            grants = [(row[0] or b"").decode() for row in self._rows("SHOW GRANTS")]
        except MySQLdb.MySQLError:
            return
        found = sorted(
            {
                match
                for grant in grants
                for match in _WRITE_GRANT.findall(grant.split(" ON ")[0] + " " + _with_option(grant))
            }
        )
        if found:
            yield _("The account may do more than read ({grants}). Use an account with SELECT only.").format(
                grants=", ".join(found)
            )

    def stream(self, query: Query, max_rows: int) -> Result:
        with self.errors_explained():
            self._conn.query(self._statement(query))
            self._unfinished = True
            result = self._conn.use_result()
        if result is None:
            raise ConnectorError("sql_error", _("The statement gives no rows. Write a SELECT."))
        columns = _columns(result, CODECS.get(self._charset, "utf-8"))
        return Result(columns, self._batches(result, columns, max_rows))

    def check(self, query: Query) -> None:
        with self.errors_explained():
            self._conn.query(b"EXPLAIN " + self._statement(query))
            self._conn.store_result()

    def table_columns(self, limit: int) -> list[TableColumn]:
        return [quoted(column, "`") for column in super().table_columns(limit)]

    def _statement(self, query: Query) -> bytes:
        # mysqlclient has no server-side binding: each value becomes a literal through the connection's own escaping,
        # and is put in place by position, so that neither a % nor a ? in the SQL can be mistaken for one.
        literals = [
            self._conn.literal(self._encoded(value) if isinstance(value, str) else value) for value in query.values
        ]
        pieces = [f"/* {self.params.label} */ ".encode()]
        for part, literal in zip(query.parts, [*literals, b""], strict=True):
            pieces += (self._encoded(part), literal)
        return b"".join(pieces)

    def _encoded(self, text: str) -> bytes:
        # MySQL's utf8 ends at U+FFFF: the server would take an emoji for "????".
        if self._charset == "utf8" and (beyond := re.search("[^\0-\uffff]", text)):
            raise UnicodeEncodeError("utf8", text, *beyond.span(), "more than three bytes")
        return text.encode(CODECS.get(self._charset, "utf-8"))

    def _batches(self, result: Any, columns: tuple[Column, ...], max_rows: int) -> Iterator[Batch]:
        codec = CODECS.get(self._charset)
        recoded = {i for i, column in enumerate(columns) if column.type is ColumnType.TEXT} if codec else set()

        def fetch(count: int) -> Sequence[Row]:
            if self._cancelled.is_set():
                raise ConnectorError("cancelled", _("The query was cancelled."))
            rows: Sequence[Row] = result.fetch_row(maxrows=count, how=0)
            if not rows:
                # The driver has checked the end-of-result packet: an error there was raised by fetch_row.
                self._unfinished = False
            self.activity += len(rows)
            return rows

        with self.errors_explained():
            for cells in batches_of(fetch, BatchSizer(columns, max_rows)):
                for i in recoded:
                    cells[i] = [recode(cell, str(codec)) if cell else cell for cell in cells[i]]
                yield Batch(cells, len(cells[0]))

    def backend_id(self) -> str:
        return str(self._thread_id) if self._conn is not None else ""

    def _interrupt(self) -> None:
        with self._closing:
            if self._conn is None:  # its descriptor may belong to somebody else by now
                return
            shut_down(self._descriptor)
        # Behind it: to a server that does not answer it takes a while, and the reader must not wait for that.
        self._kill_from_outside(self._thread_id)

    def _kill_from_outside(self, thread: int) -> None:
        try:
            other = self._connect()
        except (MySQLdb.MySQLError, ConnectorError):
            return  # The server is gone; so is the query.
        try:
            other.query(b"KILL %d" % thread)
        except MySQLdb.MySQLError:
            pass  # It ended by itself in this moment.
        finally:
            other.close()

    def close(self) -> None:
        with self._closing:
            conn, self._conn = self._conn, None
        if conn is None:
            return
        if self._unfinished and not self._cancelled.is_set():  # cancel() ends the query itself
            # Closing the result first would read all remaining rows: hours for a huge table.
            self._unfinished = False
            self._kill_from_outside(self._thread_id)
        try:
            conn.close()
        except MySQLdb.MySQLError:
            pass  # cut by _interrupt or by the server

    def kill(self, backend_id: str) -> bool:
        with self.errors_explained():
            self._conn = self._connect()
            try:
                # Ids are used again: only a query that carries our label is ours.
                rows = self._rows(_PROCESS.format(int(backend_id)))
                ours = bool(rows) and (rows[0][0] or b"").startswith(f"/* {self.params.label} */".encode())
                if ours:
                    self._run(f"KILL {int(backend_id)}")
                return ours
            finally:
                self.close()

    def _tls_sentence(self) -> str:
        return _(
            "No encrypted connection to MySQL at {place}. Check the TLS mode of the data source and the server's certificate."
        ).format(place=f"{self.params.host}:{self.params.port or self.default_port}")

    def explain(self, exc: Exception) -> ConnectorError | None:
        if not isinstance(exc, MySQLdb.MySQLError):
            return None
        code = _code(exc)
        message = str(exc.args[1]) if len(exc.args) > 1 else str(exc)
        params = self.params
        place = f"{params.host}:{params.port or self.default_port}"
        connecting = self._conn is None
        if code == ER.DBACCESS_DENIED_ERROR and connecting:
            text = _(
                "There is no database “{database}” on MySQL at {place}, or “{user}” may not use it. Check its spelling, and the account's rights."
            )
            filled = text.format(database=params.database, place=place, user=params.username)
            return ConnectorError("unknown_database", filled, message)
        if code in _AUTH and connecting:
            text = _(
                "MySQL at {place} refused the login of “{user}”. Check user name and password, and whether the account may come from this machine."
            )
            return ConnectorError("auth_failed", text.format(place=place, user=params.username), message)
        if code == ER.BAD_DB_ERROR:
            text = _("There is no database “{database}” on MySQL at {place}. Check its spelling.")
            return ConnectorError("unknown_database", text.format(place=place, database=params.database), message)
        if code in _TLS:
            return ConnectorError("tls_failed", self._tls_sentence(), message)
        if code in _BUSY:
            text = _("MySQL at {place} takes no more connections. Try again later, or raise its limit.")
            return ConnectorError("connection_failed", text.format(place=place), message)
        if connecting and (CR.MIN_ERROR <= code <= 2999 or code in _LOST):
            text = _(
                "Can't reach MySQL at {place}. Check host and port, that the server runs, and that no firewall is between."
            )
            return ConnectorError("connection_failed", text.format(place=place), message)
        if code in _LOST or code == 0:
            return ConnectorError(
                "connection_lost",
                _("The connection to MySQL at {place} broke while the query ran.").format(place=place),
                message,
            )
        if code == ER.QUERY_INTERRUPTED:
            return ConnectorError("killed_on_server", _("The query was ended on the server (KILL)."), message)
        if code in _SERVER_TIMEOUT:
            return ConnectorError("query_timeout", _("The server ended the query at its time limit."), message)
        if code in _DENIED or code in _AUTH:
            return ConnectorError(
                "permission_denied", _("The account may not read this: {message}").format(message=message), message
            )
        return ConnectorError(
            "sql_error",
            _("MySQL refused the SQL: {message} (error {code})").format(message=message, code=code),
            message,
            int(found[1]) if (found := _AT_LINE.search(message)) else None,
        )


def _code(exc: Exception) -> int:
    """The number of a driver's exception, 0 when it has none."""
    return exc.args[0] if exc.args and isinstance(exc.args[0], int) else 0


def _columns(result: Any, codec: str) -> tuple[Column, ...]:
    found = []
    description = zip(result.describe(), result.field_flags(), result.converter, strict=True)
    for (name, kind, _display, length, _precision, scale, _null), flags, converter in description:
        # describe() gives names as bytes or str, depending on the connection's use_unicode.
        label = name.decode(codec, "replace") if isinstance(name, bytes) else name
        column_type, digits = _column_type(kind, length, scale, flags, converter)
        # Hexadecimal digits take twice the room; what is recoded to UTF-8 half as much again.
        found.append(Column(label, column_type, digits, _TYPE_NAMES.get(kind, str(kind)), 2 * length + 2))
    return tuple(found)


def _column_type(kind: int, length: int, scale: int, flags: int, converter: Any) -> tuple[ColumnType, int | None]:
    if kind in _INTEGERS:
        # ZEROFILL: the zeros in front are part of what the database shows, so it is text.
        return (ColumnType.TEXT if flags & FLAG.ZEROFILL and kind != FIELD_TYPE.YEAR else ColumnType.INTEGER), 0
    if kind == FIELD_TYPE.BIT:
        return ColumnType.INTEGER, 0
    if kind in (FIELD_TYPE.DECIMAL, FIELD_TYPE.NEWDECIMAL):
        return ColumnType.DECIMAL, scale
    if kind in (FIELD_TYPE.FLOAT, FIELD_TYPE.DOUBLE):
        return ColumnType.FLOAT, scale if scale < 31 else None  # 31: "not fixed"
    if kind in _TIMES:
        width = _WIDTH_OF_TIME.get(kind)
        return _TIMES[kind], max(0, length - width - 1) if width else None
    if converter is hexadecimal:
        return ColumnType.BINARY, None
    return ColumnType.TEXT, None


def recode(cell: bytes, codec: str) -> bytes:
    """`cell` from `codec` to UTF-8; as hexadecimal digits when it is not text in that codec."""
    try:
        return cell.decode(codec).encode()
    except UnicodeDecodeError:
        return hexadecimal(cell)


def constant_offset(zone: Any) -> str | None:
    """The zone's offset as MySQL writes it (+08:00), if it was the same at every month's start of the last 20 years."""
    now = datetime.now(zone)
    offsets = {(now - timedelta(days=30 * month)).astimezone(zone).utcoffset() for month in range(240)}
    if len(offsets) != 1:
        return None
    minutes = int((now.utcoffset() or timedelta()).total_seconds() // 60)
    return f"{'-' if minutes < 0 else '+'}{abs(minutes) // 60:02d}:{abs(minutes) % 60:02d}"


def _with_option(grant: str) -> str:
    return "GRANT OPTION" if "WITH GRANT OPTION" in grant else ""
