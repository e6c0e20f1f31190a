"""Hostile SQL in an administrator's hands changes nothing on the servers, and each layer that sees to it is needed."""

import contextlib
import hashlib
import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import MySQLdb
import psycopg
import pytest

from datasources import safety
from datasources.connectors import mysql, postgresql, sqlite
from datasources.connectors.base import Cell, ConnectionParams, ConnectorError
from tests.datasources.benches import SQLiteBench, rows
from tests.datasources.scenes import MySQLScene, PostgreSQLScene, Scene, SQLiteScene
from tests.servers.mariadb import MariaDB
from tests.servers.postgresql import PostgreSQL

KINDS = ("mysql", "postgresql", "sqlite")


@pytest.fixture(scope="module")
def scenes(
    mariadb: MariaDB, postgresql: PostgreSQL, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Callable[[], Scene]]:
    made: dict[str, Scene] = {}
    makers: dict[str, Callable[[], Scene]] = {
        "mysql": lambda: MySQLScene(mariadb),
        "postgresql": lambda: PostgreSQLScene(postgresql),
        "sqlite": lambda: SQLiteScene(tmp_path_factory.mktemp("hostile")),
    }
    return {kind: lambda kind=kind: made.setdefault(kind, made.get(kind) or makers[kind]()) for kind in KINDS}  # type: ignore[misc]


@pytest.fixture(params=KINDS)
def scene(request: pytest.FixtureRequest, scenes: dict[str, Callable[[], Scene]]) -> Scene:
    return scenes[request.param]()


def test_the_state_is_the_same_when_nothing_happened(scene: Scene) -> None:
    assert scene.state() == scene.state()


def test_through_all_layers_no_hostile_statement_changes_anything(scene: Scene) -> None:
    before = scene.state()
    statements = scene.statements()
    assert len(statements) >= 120
    for sql in statements:
        with pytest.raises((safety.UnsafeSQL, ConnectorError)):
            scene.run(sql, checked=True)
    assert scene.state() == before


# Only the look at the text, and the account, keep these from an administrator: they write a file of the server, end
# sessions or the server, or change settings, which is no writing to a read-only transaction.
ONLY_THE_TEXT = (
    "outfile",
    "dumpfile",
    "load_file",
    "set global",
    "shutdown",
    "kill 1",
    "install",
    "begin not atomic commit",
    "reset master",
    "change master",
    "purge binary",
    "cache index",
    "flush",
    "lo_export",
    "pg_terminate_backend",
    "pg_cancel_backend",
    "pg_promote",
    "pg_switch_wal",
    "pg_reload_conf",
    "pg_rotate_logfile",
    "brin_",
    "gin_",
    "pg_current_xact_id",
)


def test_without_the_look_at_the_text_session_and_protocol_hold_the_rest(scene: Scene) -> None:
    before = scene.state()
    tried, passed = 0, []
    for sql in scene.statements():
        if any(word in sql.lower() for word in ONLY_THE_TEXT) or "\0" in sql:
            continue
        tried += 1
        with contextlib.suppress(ConnectorError):
            scene.run(sql, checked=False)
            passed.append(sql)
    # What was not refused must not have done anything either.
    assert scene.state() == before, passed
    assert tried >= 90


# Each layer: how it is taken away.


def look_away(name: str) -> Callable[[pytest.MonkeyPatch], None]:
    return lambda patch: patch.setattr(safety, name, lambda *args: None)


def with_scripts(patch: pytest.MonkeyPatch) -> None:
    connect = MySQLdb.connect
    patch.setattr(MySQLdb, "connect", lambda **fields: connect(**fields | {"multi_statements": True}))


def without(owner: Any, method: str, argument: str) -> Callable[[pytest.MonkeyPatch], None]:
    """Calls of the method with this argument are left out."""

    def take_away(patch: pytest.MonkeyPatch) -> None:
        original = getattr(owner, method)

        def call(self: Any, sql: str, *args: Any, **options: Any) -> Any:
            return None if sql == argument else original(self, sql, *args, **options)

        patch.setattr(owner, method, call)

    return take_away


def without_setting(name: str) -> Callable[[pytest.MonkeyPatch], None]:
    return lambda patch: patch.delitem(postgresql._SESSION, name)


def in_a_writing_transaction(patch: pytest.MonkeyPatch) -> None:
    execute = psycopg.Connection.execute

    def call(self: Any, sql: Any, *args: Any, **options: Any) -> Any:
        return execute(self, "BEGIN" if sql == "BEGIN TRANSACTION READ ONLY" else sql, *args, **options)

    patch.setattr(psycopg.Connection, "execute", call)


def by_the_simple_protocol(patch: pytest.MonkeyPatch) -> None:
    """As psycopg's own cursors send what has no values: a script of any length."""

    def check_structure(self: Any, statement: str, values: list[Any]) -> None:
        self._open.execute(f"DECLARE exporter_check CURSOR FOR {statement}".encode())

    patch.setattr(postgresql.PostgreSQL, "_check_structure", check_structure)


class _Writable(sqlite3.Connection):
    def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
        return super().execute("SELECT 1" if sql == "PRAGMA query_only = ON" else sql, *args)


def may_write(patch: pytest.MonkeyPatch) -> None:
    connect = sqlite3.connect
    patch.setattr(sqlite3, "connect", lambda file, **more: connect(file, **more | {"factory": _Writable}))


def opened_for_writing(patch: pytest.MonkeyPatch) -> None:
    connect = sqlite3.connect
    patch.setattr(sqlite3, "connect", lambda file, **more: connect(file.replace("?mode=ro", "?mode=rw"), **more))


OFF: dict[str, dict[str, Callable[[pytest.MonkeyPatch], None]]] = {
    "mysql": {
        "lexer": look_away("_check_tokens"),
        "parser": look_away("_check_tree"),
        "one statement": with_scripts,
        "session": without(mysql.MySQL, "_set", "TRANSACTION READ ONLY"),
        "transaction": without(mysql.MySQL, "_run", "START TRANSACTION READ ONLY"),
        "modes": lambda patch: patch.setattr(mysql, "_LEXER_MODES", set()),
    },
    "postgresql": {
        "lexer": look_away("_check_tokens"),
        "parser": look_away("_check_tree"),
        "one statement": by_the_simple_protocol,
        "structure": lambda patch: patch.setattr(postgresql.PostgreSQL, "_check_structure", lambda *args: None),
        "session": without_setting("default_transaction_read_only"),
        "transaction": in_a_writing_transaction,
        "strings": without_setting("standard_conforming_strings"),
    },
    "sqlite": {
        "lexer": look_away("_check_tokens"),
        "parser": look_away("_check_tree"),
        "authorizer": lambda patch: patch.setattr(sqlite, "_authorize", lambda *args: sqlite3.SQLITE_OK),
        "query_only": may_write,
        "read-only file": opened_for_writing,
    },
}


@dataclass(frozen=True)
class Case:
    """With the layers `others` taken away `layer` still holds `sql`; without it, too, `sql` has its effect.

    No others: nothing but this layer stands between the statement and its effect.
    """

    kind: str
    layer: str
    sql: str
    others: tuple[str, ...] = ()
    before: str = ""  # makes the server one on which it matters

    def __str__(self) -> str:
        return f"{self.kind} {self.layer}"


OPTIMIZE, MORE_TO_OPTIMIZE = "SELECT optimize(docs) FROM docs LIMIT 1", "INSERT INTO docs (text) VALUES ('more')"
CASES = (
    Case("mysql", "lexer", "SELECT 1 /*!50000 INTO OUTFILE '{file}' */"),
    Case("mysql", "parser", "SELECT LOAD_FILE('{secret}')"),
    Case(
        "mysql",
        "one statement",
        "SELECT 1; COMMIT; SET SESSION TRANSACTION READ WRITE; DELETE FROM facts WHERE id = 1",
        ("lexer", "parser"),
    ),
    Case("mysql", "session", "SELECT bump()", ("transaction",)),
    Case("mysql", "transaction", "SELECT bump()", ("session",)),
    Case("mysql", "modes", "SELECT '\\' INTO OUTFILE \"{file}\" -- '", before="SET GLOBAL sql_mode = '{modes}'"),
    Case("postgresql", "lexer", "SELECT U&\"lo\\005fexport\"({lo}, '{file}')"),
    Case("postgresql", "parser", "SELECT lo_export({lo}, '{file}')"),
    Case(
        "postgresql",
        "one statement",
        "SELECT 1; COMMIT; BEGIN READ WRITE; DELETE FROM facts WHERE id = 1; COMMIT",
        ("lexer", "parser"),
    ),
    Case(
        "postgresql",
        "structure",
        "WITH gone AS (DELETE FROM facts WHERE nextval('counter') > 0 RETURNING id) SELECT id FROM gone",
        ("parser", "session", "transaction"),
    ),
    Case("postgresql", "session", "SELECT bump()", ("transaction",)),
    Case("postgresql", "transaction", "SELECT bump()", ("session",)),
    Case(
        "postgresql",
        "strings",
        "SELECT '\\' , ' , lo_export({lo}, $${file}$$) --'",
        before="ALTER ROLE CURRENT_USER SET standard_conforming_strings = off",
    ),
    Case("sqlite", "lexer", "CREATE TABLE more (id INT)", ("parser", "authorizer", "query_only", "read-only file")),
    Case(
        "sqlite",
        "parser",
        "WITH gone AS (SELECT 1) DELETE FROM facts WHERE id = 1",
        ("lexer", "authorizer", "query_only", "read-only file"),
    ),
    Case("sqlite", "authorizer", "SELECT file FROM pragma_database_list"),
    # A function that writes, which no text shows.
    Case("sqlite", "authorizer", OPTIMIZE, ("query_only", "read-only file"), before=MORE_TO_OPTIMIZE),
    Case("sqlite", "query_only", OPTIMIZE, ("authorizer", "read-only file"), before=MORE_TO_OPTIMIZE),
    Case("sqlite", "read-only file", OPTIMIZE, ("authorizer", "query_only"), before=MORE_TO_OPTIMIZE),
)


def has_effect(scene: Scene, sql: str) -> bool:
    """Whether the statement changed anything, wrote a file, or gave something away, through the whole product."""
    before = scene.state()
    found: list[tuple[Cell, ...]] = []
    with contextlib.suppress(safety.UnsafeSQL, ConnectorError):
        found = scene.run(sql, checked=True)
    told = any(cell in scene.secrets for row in found for cell in row)
    deadline = time.monotonic() + (0.5 if ";" in sql else 0)  # the end of a script nobody waits for
    while not told and scene.state() == before:
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.05)
    scene.file.unlink(missing_ok=True)
    return True


@pytest.fixture
def prepared(scenes: dict[str, Callable[[], Scene]]) -> Iterator[Callable[[Case], Scene]]:
    """The case's scene, its server made as the case wants it; and as it was, when the test ends."""
    undo: list[tuple[Scene, str]] = []

    def prepare(case: Case) -> Scene:
        scene = scenes[case.kind]()
        if case.before and case.kind == "mysql":
            [(modes,)] = scene.query("SELECT @@GLOBAL.sql_mode")
            undo.append((scene, f"SET GLOBAL sql_mode = '{modes}'"))
            scene.query(case.before.replace("{modes}", f"{modes},NO_BACKSLASH_ESCAPES"))
        elif case.before:
            if case.kind == "postgresql":
                undo.append((scene, "ALTER ROLE CURRENT_USER RESET ALL"))
            scene.query(case.before)
        return scene

    yield prepare
    for scene, sql in undo:
        scene.query(sql)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_each_layer_holds_alone_and_without_it_a_statement_has_its_effect(
    case: Case, prepared: Callable[[Case], Scene], monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = prepared(case)
    sql = scene.filled(case.sql)
    for other in case.others:
        OFF[case.kind][other](monkeypatch)
    assert not has_effect(scene, sql)
    OFF[case.kind][case.layer](monkeypatch)
    assert has_effect(scene, sql)


def test_every_layer_has_a_case() -> None:
    assert {(case.kind, case.layer) for case in CASES} == {(kind, layer) for kind in OFF for layer in OFF[kind]}


@pytest.mark.parametrize("index", ["brin_summarize_new_values('facts_brin')", "gin_clean_pending_list('facts_gin')"])
def test_functions_that_write_into_an_index_are_known_by_name_alone(
    index: str, scenes: dict[str, Callable[[], Scene]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A read-only transaction lets them write, so that this list is all there is."""
    scene = scenes["postgresql"]()
    assert not has_effect(scene, f"SELECT {index}")
    monkeypatch.setattr(safety, "_forbidden_name", lambda *args: "")
    assert has_effect(scene, f"SELECT {index}")


def test_a_text_that_is_run_as_sql_is_not_let_through(
    scenes: dict[str, Callable[[], Scene]], monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = scenes["postgresql"]()
    sql = scene.filled(
        "SELECT ts_rewrite('a'::tsquery, $$SELECT 'a'::tsquery, lo_export({lo}, '{file}')::text::tsquery$$)"
    )
    assert not has_effect(scene, sql)
    monkeypatch.setattr(safety, "_forbidden_name", lambda *args: "")
    assert has_effect(scene, sql)


def test_a_file_that_a_writer_left_behind_is_not_tidied_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opened for writing, even an honest query would carry another program's log into its database."""
    busy = SQLiteBench(tmp_path / "busy.db")
    with contextlib.closing(sqlite3.connect(busy.path)) as writer:
        writer.execute("PRAGMA journal_mode = WAL")
        writer.execute("UPDATE facts SET name = 'x'")
        writer.commit()
        left = tmp_path / "left"
        left.mkdir()
        for suffix in ("", "-wal"):
            shutil.copy(f"{busy.path}{suffix}", left)
    file = left / "busy.db"

    def read() -> tuple[list[tuple[Cell, ...]], str]:
        sql = "SELECT name FROM facts WHERE id = 1"
        found = rows(sqlite.SQLite(ConnectionParams(database=str(file))), sql)
        return found, hashlib.sha256(file.read_bytes()).hexdigest()

    before = hashlib.sha256(file.read_bytes()).hexdigest()
    assert read() == ([(b"x",)], before)
    opened_for_writing(monkeypatch)
    found, after = read()
    assert found == [(b"x",)]
    assert after != before


def test_a_reader_may_not_write_files_on_the_mysql_server_even_unchecked(
    scenes: dict[str, Callable[[], Scene]],
) -> None:
    scene = scenes["mysql"]()
    with pytest.raises(ConnectorError) as caught:
        rows(scene.bench.connector(), scene.filled("SELECT 1 INTO OUTFILE '{file}'"))
    assert caught.value.reason == "permission_denied"
    assert rows(scene.bench.connector(), scene.filled("SELECT LOAD_FILE('{secret}') AS f")) == [(None,)]
    assert not scene.file.exists()
    assert os.access(scene.watched / "secret", os.R_OK)
