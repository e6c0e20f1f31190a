"""Databases with something to lose, the hostile SQL for them, and everything about them that must stay as it is."""

from pathlib import Path
from typing import Any, ClassVar

from datasources import safety
from datasources.connectors.base import Cell
from datasources.sqltext import MYSQL, POSTGRESQL, SQLITE, Dialect
from tests.datasources.benches import Bench, MySQLBench, PostgreSQLBench, SQLiteBench, rows
from tests.datasources.hostile import more_hostile_sql
from tests.datasources.test_safety import HOSTILE
from tests.servers.mariadb import MariaDB
from tests.servers.postgresql import PostgreSQL

SECRET = b"what nobody may read"


class Scene:
    """A database of one kind with something to lose, and everything about it that must stay as it is."""

    dialect: ClassVar[Dialect]
    bench: Bench
    watched: Path  # a directory where the server may write
    secrets: tuple[bytes, ...] = (b"0x" + SECRET.hex().upper().encode(),)  # cells that nobody may see

    @property
    def file(self) -> Path:
        """Where hostile SQL tries to write."""
        return self.watched / "written"

    def filled(self, sql: str) -> str:
        return sql.replace("{file}", str(self.file)).replace("{secret}", str(self.watched / "secret"))

    def statements(self) -> list[str]:
        known = [sql for dialect, sql in HOSTILE if dialect is self.dialect]
        return [self.filled(sql) for sql in dict.fromkeys([*known, *more_hostile_sql(self.dialect)])]

    def run(self, sql: str, *, checked: bool) -> list[tuple[Cell, ...]]:
        """As a run of a task does it, with an account that may do everything. `checked`: with the look at the text."""
        if checked:
            safety.check(sql, self.dialect)
        return rows(self.bench.connector("exp:66:1", privileged=True), sql)

    def state(self) -> dict[str, Any]:
        files = {file.name: file.read_bytes() for file in self.watched.iterdir() if file.is_file()}
        return {"files": files, **self.of_server()}

    def of_server(self) -> dict[str, Any]:
        raise NotImplementedError

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        return self.bench.execute(sql)


class MySQLScene(Scene):
    dialect = MYSQL

    def __init__(self, server: MariaDB) -> None:
        self.bench = MySQLBench(server)
        self.server, self.watched = server, watched_directory(server)
        for statement in (
            "CREATE SEQUENCE counter",
            "CREATE TABLE marks (n INT) ENGINE = Aria",
            "INSERT INTO marks VALUES (0)",
            "CREATE FUNCTION bump() RETURNS INT BEGIN UPDATE marks SET n = n + 1; RETURN 1; END",
            "CREATE VIEW seen AS SELECT id FROM facts",
        ):
            self.query(statement)

    def of_server(self) -> dict[str, Any]:
        # Statistics and logs, which the server itself writes.
        tables = self.query(
            "SELECT CONCAT('`', table_schema, '`.`', table_name, '`') FROM information_schema.tables WHERE table_type = 'BASE TABLE' "
            "AND table_schema NOT IN ('information_schema', 'performance_schema', 'sys') AND table_name NOT LIKE '%\\_stats' "
            "AND table_name NOT LIKE '%\\_log' AND table_name <> 'transaction_registry' ORDER BY 1"
        )
        what = {
            "objects": "SELECT table_schema, table_name, table_type, engine FROM information_schema.tables ORDER BY 1, 2",
            "columns": "SELECT * FROM information_schema.columns WHERE table_schema = DATABASE() ORDER BY 3, 5",
            "routines": "SELECT routine_schema, routine_name, routine_definition FROM information_schema.routines ORDER BY 1, 2",
            "triggers": "SELECT trigger_schema, trigger_name FROM information_schema.triggers ORDER BY 1, 2",
            "events": "SELECT event_schema, event_name FROM information_schema.events ORDER BY 1, 2",
            "plugins": "SELECT plugin_name, plugin_status FROM information_schema.plugins ORDER BY 1",
            "sequence": "SELECT * FROM counter",
            "settings": "SELECT * FROM information_schema.global_variables WHERE variable_name NOT IN ('TIMESTAMP') ORDER BY 1",
        }
        checksums = self.query(f"CHECKSUM TABLE {', '.join(name for (name,) in tables)}")
        data = self.server.directory / "data"
        names = {str(file.relative_to(data)) for file in data.rglob("*") if "#sql" not in file.name}
        return {"rows": checksums, "in data": names} | {name: self.query(sql) for name, sql in what.items()}


class PostgreSQLScene(Scene):
    dialect = POSTGRESQL

    def __init__(self, server: PostgreSQL) -> None:
        self.bench = PostgreSQLBench(server)
        self.watched = watched_directory(server)
        for statement in (
            "CREATE SEQUENCE counter",
            "SELECT nextval('counter')",
            "CREATE FUNCTION bump() RETURNS bigint LANGUAGE sql AS $$ SELECT nextval('counter') $$",
            "CREATE VIEW seen AS SELECT id FROM facts",
            # Both with something that waits to be taken in.
            "CREATE TABLE pages (n INT, words tsvector)",
            "CREATE INDEX facts_brin ON pages USING brin (n) WITH (pages_per_range = 1)",
            "CREATE INDEX facts_gin ON pages USING gin (words) WITH (fastupdate = on)",
            "INSERT INTO pages SELECT n, to_tsvector('simple', 'word' || n) FROM generate_series(1, 2000) AS n",
            "ALTER TABLE pages SET (autovacuum_enabled = off)",
        ):
            self.query(statement)
        [(self.lo,)] = self.query("SELECT lo_from_bytea(0, 'large object')")
        self.query("VACUUM FREEZE facts")
        self.query("SELECT count(*), sum(n) FROM pages")  # the first to read writes hints

    def filled(self, sql: str) -> str:
        return super().filled(sql).replace("{lo}", str(self.lo))

    def of_server(self) -> dict[str, Any]:
        self.query("CHECKPOINT")
        what = {
            # Byte for byte: tables, indexes and sequences.
            "storage": "SELECT relname, md5(pg_read_binary_file(pg_relation_filepath(oid))) FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'i', 'S') ORDER BY 1",
            "settings": "SELECT name, setting, reset_val, pending_restart FROM pg_settings WHERE name <> 'transaction_isolation' ORDER BY 1",
            "for later": "SELECT * FROM pg_file_settings",
            "advisory locks": "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'",
            "slots": "SELECT count(*) FROM pg_replication_slots",
            "large objects": "SELECT loid, md5(data) FROM pg_largeobject ORDER BY loid, pageno",
        }
        for catalog in (
            "authid",
            "database",
            "extension",
            "foreign_server",
            "event_trigger",
            "db_role_setting",
            "proc",
        ):
            what[catalog] = f"SELECT md5(string_agg(t::text, ',' ORDER BY t::text)) FROM pg_{catalog} AS t"
        objects = "SELECT oid, relname, relkind, relfilenode, relacl::text FROM pg_class WHERE relpersistence = 'p' ORDER BY oid"
        return {name: self.query(sql) for name, sql in (what | {"objects": objects}).items()}


class SQLiteScene(Scene):
    dialect = SQLITE

    def __init__(self, directory: Path) -> None:
        self.watched = directory
        (directory / "secret").write_bytes(SECRET)
        self.path = directory / "facts.db"
        self.secrets = (str(self.path).encode(),)
        self.bench = SQLiteBench(self.path)
        self.query("CREATE VIRTUAL TABLE docs USING fts4(text)")
        for number in range(3):
            self.query(f"INSERT INTO docs (text) VALUES ('word {number}')")

    def of_server(self) -> dict[str, Any]:
        return {}  # the files are all there is


def watched_directory(server: Any) -> Path:
    directory = Path(server.directory) / "watched"
    directory.mkdir(exist_ok=True)
    server.user.own(directory)
    (directory / "secret").write_bytes(SECRET)
    (directory / "secret").chmod(0o644)  # MySQL wants it readable to all
    server.user.own(directory / "secret")
    return directory
