"""What the contract suite needs to know of each database kind: where its server is, and how it says the same things."""

import sqlite3
import time
from abc import ABC, abstractmethod
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from datasources.connectors import connectors
from datasources.connectors.base import BoundValue, Cell, Column, ConnectionParams, Connector, Query
from tests.servers import PrivateServer, Session

FACTS = (
    "CREATE TABLE facts (id INTEGER PRIMARY KEY, name VARCHAR(40), amount DECIMAL(12,2), ratio {double}, day DATE, at {moment})",
    "INSERT INTO facts VALUES (1, '张三', 12.50, 0.5, '2025-01-31', '2025-01-31 08:00:00')",
    "INSERT INTO facts VALUES (2, '100%', -0.05, 1.25, '2025-02-01', '2025-02-01 23:59:59')",
    "INSERT INTO facts VALUES (3, NULL, NULL, NULL, NULL, NULL)",
)


class Bench(ABC):
    """A database of one kind with the table `facts`, and SQL snippets in its dialect."""

    kind: ClassVar[str]
    double: ClassVar[str] = "DOUBLE"
    moment: ClassVar[str] = "DATETIME"
    # Waits for a minute before its first row.
    waiting: ClassVar[str]
    # 40 rows, each a tenth of a second behind the one before it.
    trickle: ClassVar[str]
    # An error in row 5,000 of 10,000.
    failing_late: ClassVar[str]
    has_sessions: ClassVar[bool] = True
    # Statements that the session or the protocol must refuse although nobody looked at them, even to an administrator.
    writes: ClassVar[tuple[str, ...]] = (
        "INSERT INTO facts (id) VALUES (9)",
        "UPDATE facts SET name = 'x'",
        "DELETE FROM facts",
        "CREATE TABLE more (id INTEGER)",
        "DROP TABLE facts",
        "ALTER TABLE facts ADD COLUMN more INTEGER",
    )

    @abstractmethod
    def params(self, label: str = "exp:1:1", *, privileged: bool = False) -> ConnectionParams: ...

    @abstractmethod
    def execute(self, sql: str) -> list[tuple[Any, ...]]:
        """Run `sql` as the administrator, beside the connector."""

    @abstractmethod
    def series(self, count: int) -> str:
        """SQL whose one column n counts from 1 to `count`, made while it is read."""

    @abstractmethod
    def wide(self, rows: int, size: int) -> str:
        """SQL of `rows` rows whose one cell holds `size` bytes."""

    @abstractmethod
    def running(self, label: str) -> list[Session]:
        """The sessions on the server that run a query with `label`."""

    def connector(self, label: str = "exp:1:1", *, privileged: bool = False, **changes: Any) -> Connector:
        return connectors.get(self.kind)(replace(self.params(label, privileged=privileged), **changes))

    def facts(self) -> list[tuple[Any, ...]]:
        return self.execute("SELECT * FROM facts ORDER BY id")

    def ended(self, label: str, within: float = 3) -> bool:
        """Whether no query with `label` is left on the server, at the latest `within` seconds from now."""
        deadline = time.monotonic() + within
        while self.running(label):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True

    def wait_until_running(self, label: str) -> None:
        deadline = time.monotonic() + 10
        while self.has_sessions and not self.running(label):
            assert time.monotonic() < deadline, "the query never reached the server"
            time.sleep(0.02)


class ServerBench(Bench):
    def __init__(self, server: PrivateServer) -> None:
        self.server = server
        self.database = server.new_database()
        for statement in FACTS:
            self.execute(statement.format(double=self.double, moment=self.moment))

    def params(self, label: str = "exp:1:1", *, privileged: bool = False) -> ConnectionParams:
        account = self.server.admin if privileged else self.server.reader
        return self.server.params(self.database, account=account, label=label)

    def execute(self, sql: str) -> list[tuple[Any, ...]]:
        return self.server.execute(sql, database=self.database)

    def running(self, label: str) -> list[Session]:
        return self.server.running(label)


class MySQLBench(ServerBench):
    kind = "mysql"
    waiting = "SELECT SLEEP(60) AS n"
    trickle = "SELECT seq + SLEEP(0.1) AS n, REPEAT('x', 20000) AS filler FROM seq_1_to_40"
    failing_late = (
        "SELECT CASE WHEN seq < 5000 THEN 1 ELSE (SELECT n FROM (SELECT 1 AS n UNION SELECT 2) AS two WHERE seq > 0) END AS n "
        "FROM seq_1_to_10000"
    )
    writes = (
        *Bench.writes,
        "TRUNCATE TABLE facts",
        "REPLACE INTO facts (id) VALUES (1)",
        "RENAME TABLE facts TO other",
        "EXECUTE IMMEDIATE 'DELETE FROM facts'",
        "BEGIN NOT ATOMIC DELETE FROM facts; END",
        "CREATE USER intruder",
        "GRANT ALL ON *.* TO intruder IDENTIFIED BY 'x'",
        "SELECT * FROM facts FOR UPDATE",
        "LOAD DATA INFILE '/etc/passwd' INTO TABLE facts",
        "LOCK TABLES facts WRITE",
    )

    def series(self, count: int) -> str:
        return f"SELECT seq AS n FROM seq_1_to_{count}"

    def wide(self, rows: int, size: int) -> str:
        return f"SELECT REPEAT('x', {size}) AS n FROM seq_1_to_{rows}"


class ADBBench(MySQLBench):
    """AnalyticDB's connector; MariaDB stands for its server, so the transaction is not read-only by START."""

    kind = "adb"


class PostgreSQLBench(ServerBench):
    kind = "postgresql"
    double = "DOUBLE PRECISION"
    moment = "TIMESTAMP(0)"
    waiting = "SELECT 1 AS n FROM pg_sleep(60)"
    trickle = "SELECT n, repeat('x', 20000) AS filler, pg_sleep(0.1) FROM generate_series(1, 40) AS n"
    failing_late = "SELECT 1 / (5000 - n) AS n FROM generate_series(1, 10000) AS n"
    writes = (
        *Bench.writes,
        "TRUNCATE TABLE facts",
        "WITH gone AS (DELETE FROM facts RETURNING id) SELECT id FROM gone",
        "COPY facts TO PROGRAM 'cat > /dev/null'",
        "COPY facts FROM PROGRAM 'echo 9'",
        "SELECT * INTO more FROM facts",
        "DO $$ BEGIN DELETE FROM facts; END $$",
        "CREATE ROLE intruder SUPERUSER",
        "SELECT * FROM facts FOR UPDATE",
        "SELECT set_config('transaction_read_only', 'off', false)",
        "EXPLAIN ANALYZE DELETE FROM facts",
        "VACUUM facts",
        "CALL nothing()",
        "COMMIT",
        "SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE",
    )

    def series(self, count: int) -> str:
        return f"SELECT generate_series(1, {count}) AS n"

    def wide(self, rows: int, size: int) -> str:
        return f"SELECT repeat('x', {size}) AS n FROM generate_series(1, {rows})"


class SQLiteBench(Bench):
    kind = "sqlite"
    has_sessions = False
    waiting = "WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < 2000000000) SELECT count(*) AS n FROM s"
    failing_late = (
        "WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < 10000) "
        "SELECT CASE WHEN n = 5000 THEN abs(-9223372036854775807 - 1) ELSE n END AS n FROM s"
    )
    writes = (
        *Bench.writes,
        "REPLACE INTO facts (id) VALUES (1)",
        "PRAGMA user_version = 7",
        "PRAGMA query_only = OFF",
        "ATTACH DATABASE '/tmp/more.db' AS more",
        "VACUUM INTO '/tmp/copy.db'",
        "CREATE TEMP TABLE more (id INTEGER)",
        "SELECT load_extension('/tmp/evil.so')",
        "BEGIN IMMEDIATE",
        "REINDEX",
    )

    def __init__(self, path: Path) -> None:
        self.path = path
        for statement in FACTS:
            self.execute(statement.format(double=self.double, moment=self.moment))

    def params(self, label: str = "exp:1:1", *, privileged: bool = False) -> ConnectionParams:
        return ConnectionParams(database=str(self.path), label=label)

    def execute(self, sql: str) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self.path)) as connection, connection:
            return connection.execute(sql).fetchall()

    def series(self, count: int) -> str:
        return f"WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < {count}) SELECT n FROM s"

    def wide(self, rows: int, size: int) -> str:
        return (
            f"WITH RECURSIVE s(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM s WHERE i < {rows}) "
            f"SELECT substr(hex(zeroblob({size // 2 + 1})), 1, {size}) AS n FROM s"
        )

    def running(self, label: str) -> list[Session]:
        return []  # the query lives and dies with our own process


SERVER_BENCHES: dict[str, type[ServerBench]] = {bench.kind: bench for bench in (MySQLBench, ADBBench, PostgreSQLBench)}
SERVER_FIXTURES = {"mysql": "mariadb", "adb": "mariadb", "postgresql": "postgresql"}


def read(
    connector: Connector, sql: str | tuple[str, ...], *values: BoundValue, max_rows: int = 10_000
) -> tuple[tuple[Column, ...], list[list[Cell]]]:
    """Open, run and read to the end: the columns, and their cells by column."""
    parts = (sql,) if isinstance(sql, str) else sql
    with connector:
        result = connector.stream(Query(parts, values), max_rows)
        cells: list[list[Cell]] = [[] for _column in result.columns]
        for batch in result.batches:
            assert len(batch.columns) == len(cells)
            for column, more in zip(cells, batch.columns, strict=True):
                assert len(more) == batch.rows
                column += more
        return result.columns, cells


def rows(connector: Connector, sql: str | tuple[str, ...], *values: BoundValue) -> list[tuple[Cell, ...]]:
    """The same by row."""
    return list(zip(*read(connector, sql, *values)[1], strict=True))
