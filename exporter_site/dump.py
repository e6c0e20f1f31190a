"""The system database as one file, and back: consistent while it is in use, by each server's own program.

    dump(file, tables)                   a snapshot of `tables`
    load(file, tables, guard, before)    they become what the file says; `guard` holds before anybody can see them

A password never stands in a command line: the programs read it from a file of mode 0600 that is gone afterwards.
Only the tables that are named are ever touched: the database may be shared.
"""

import os
import shutil
import sqlite3
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import IO, Any

from django.db import connection
from django.utils.translation import gettext as _

from exporter_site.redact import redact

MEMBERS = {"sqlite": "database.sqlite3", "mysql": "database.sql", "postgresql": "database.pgdump"}
LABELS = {"sqlite": "SQLite", "mysql": "MySQL / MariaDB", "postgresql": "PostgreSQL"}
_LOCKED_FOR = 60.0  # seconds that SQLite may be busy with others


class DumpError(Exception):
    """The database could not be saved or loaded; the text says why and what to do."""


def dump(file: Path, tables: Sequence[str]) -> None:
    """Write a snapshot of `tables` to `file`. Those whose order matters when they are loaded come last."""
    {"sqlite": _dump_sqlite, "mysql": _dump_mysql, "postgresql": _dump_postgresql}[connection.vendor](file, tables)


def load(file: Path, tables: Sequence[str], guard: Sequence[str], before: str) -> None:
    """Put what `file` holds in the place of `tables`, those that exist now.

    The statements of `guard` hold from the moment at which the table `before`, the last one of the dump, can be seen:
    in the same transaction where there is one for this (MySQL has none).
    """
    connection.close()
    loaders = {"sqlite": _load_sqlite, "mysql": _load_mysql, "postgresql": _load_postgresql}
    loaders[connection.vendor](file, tables, guard, before)


def continue_numbers(table: str, column: str, last: int) -> None:
    """Let the next row of `table` have a number above `last`."""
    with connection.cursor() as cursor:
        if connection.vendor == "sqlite":
            cursor.execute("DELETE FROM sqlite_sequence WHERE name = %s", [table])
            cursor.execute("INSERT INTO sqlite_sequence (name, seq) VALUES (%s, %s)", [table, last])
        elif connection.vendor == "mysql":
            cursor.execute(f"ALTER TABLE {connection.ops.quote_name(table)} AUTO_INCREMENT = {last + 1:d}")
        else:
            cursor.execute("SELECT setval(pg_get_serial_sequence(%s, %s), %s)", [table, column, last])


def _dump_sqlite(file: Path, tables: Sequence[str]) -> None:
    try:
        with _sqlite(_database()) as source, _sqlite(file) as target:
            # All pages in one step: with smaller steps every write of another process begins it anew. In WAL mode
            # nobody waits for it.
            source.backup(target)
            target.execute("PRAGMA journal_mode = DELETE")  # one file
            _check_sqlite(target)
    except sqlite3.Error as exc:
        raise DumpError(_("The system database can't be saved: {error}").format(error=exc)) from exc


def _load_sqlite(file: Path, tables: Sequence[str], guard: Sequence[str], before: str) -> None:
    try:
        with _sqlite(file) as source, _sqlite(_database()) as target:
            _check_sqlite(source)
            with source:
                for statement in guard:
                    source.execute(statement)
            source.backup(target)
    except sqlite3.Error as exc:
        raise DumpError(
            _(
                "The system database can't be replaced: {error} Stop the web server and whatever else uses it, and try again."
            ).format(error=exc)
        ) from exc


def _check_sqlite(opened: sqlite3.Connection) -> None:
    found = opened.execute("PRAGMA quick_check").fetchone()[0]
    if found != "ok":
        raise DumpError(_("The SQLite file of the system database is damaged: {error}").format(error=found))


def _sqlite(file: Path | str) -> closing[sqlite3.Connection]:
    return closing(sqlite3.connect(file, timeout=_LOCKED_FOR))


def _database() -> str:
    return str(connection.settings_dict["NAME"])


def _dump_mysql(file: Path, tables: Sequence[str]) -> None:
    program = _program("mariadb-dump", "mysqldump", package="mariadb-client")
    options = ["--single-transaction", "--quick", "--skip-lock-tables", "--skip-add-locks", "--hex-blob"]
    options += ["--no-tablespaces", "--default-character-set=utf8mb4"]
    if "MariaDB" not in _run([program, "--version"]).decode(errors="replace"):
        # Rights and tables that the account need not have, or that an older server lacks.
        options += ["--set-gtid-purged=OFF", "--column-statistics=0"]
    with _mysql_access() as access:
        _run([program, access, *options, f"--result-file={file}", _database(), *tables])


def _load_mysql(file: Path, tables: Sequence[str], guard: Sequence[str], before: str) -> None:
    program = _program("mariadb", "mysql", package="mariadb-client")
    with _mysql_access() as access, file.open("rb") as dumped:
        command = [program, access, "--default-character-set=utf8mb4", f"--database={_database()}"]
        _run(command, input=_mysql_script(dumped, tables, guard, before))


def _mysql_script(dumped: IO[bytes], tables: Sequence[str], guard: Sequence[str], before: str) -> Iterator[bytes]:
    yield b"SET FOREIGN_KEY_CHECKS = 0;\n"
    for table in tables:
        yield f"DROP TABLE IF EXISTS `{table}`;\n".encode()
    statements = [f"{statement};\n".encode() for statement in guard]
    for line in dumped:
        if line.startswith(b"/*M!999999"):
            continue  # MariaDB's word to its own client; MySQL's stumbles over it
        # No line of data can look like this: a line break within a value is written as \n.
        if line.strip() == f"DROP TABLE IF EXISTS `{before}`;".encode():
            yield from statements
            statements = []
        yield line
    yield from statements


@contextmanager
def _mysql_access() -> Iterator[str]:
    """The option that tells a client program of MySQL where and who."""
    settings = connection.settings_dict
    values = {"host": "HOST", "port": "PORT", "user": "USER", "password": "PASSWORD"}
    lines = [f"{name}={_mysql_quoted(str(settings[key]))}" for name, key in values.items() if settings[key]]
    with _private_file("[client]\n" + "\n".join(lines) + "\n") as file:
        yield f"--defaults-file={file}"


def _mysql_quoted(value: str) -> str:
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _dump_postgresql(file: Path, tables: Sequence[str]) -> None:
    program = _program("pg_dump", package="postgresql-client")
    named = [f"--table={table}" for table in tables]
    options = ["--format=custom", "--no-owner", "--no-privileges", "--no-password", f"--file={file}"]
    with _postgresql_access() as environment:
        _run([program, *_postgresql_place(), *options, *named], environment=environment)


def _load_postgresql(file: Path, tables: Sequence[str], guard: Sequence[str], before: str) -> None:
    """In one transaction, the end of the old tables included."""
    restore, psql = (_program(name, package="postgresql-client") for name in ("pg_restore", "psql"))
    with tempfile.TemporaryDirectory(dir=file.parent) as directory:
        first, script, last = (Path(directory, name) for name in ("first.sql", "script.sql", "last.sql"))
        _run([restore, "--no-owner", "--no-privileges", f"--file={script}", file])
        first.write_text("".join(f'DROP TABLE IF EXISTS "{table}" CASCADE;\n' for table in tables))
        # The script leaves an empty search path behind.
        lines = ["RESET search_path", "SET TIME ZONE 'UTC'", *guard]
        last.write_text("".join(f"{line};\n" for line in lines), encoding="utf-8")
        options = ["--no-psqlrc", "--quiet", "--single-transaction", "--set=ON_ERROR_STOP=1", "--no-password"]
        options += ["--output=/dev/null", *(f"--file={part}" for part in (first, script, last))]
        with _postgresql_access() as environment:
            _run([psql, *_postgresql_place(), *options], environment=environment)


def _postgresql_place() -> list[str]:
    settings = connection.settings_dict
    values = {"host": "HOST", "port": "PORT", "username": "USER", "dbname": "NAME"}
    return [f"--{option}={settings[key]}" for option, key in values.items() if settings[key]]


@contextmanager
def _postgresql_access() -> Iterator[Mapping[str, str]]:
    password = str(connection.settings_dict["PASSWORD"]).replace("\\", "\\\\").replace(":", "\\:")
    with _private_file(f"*:*:*:*:{password}\n") as file:
        yield {"PGPASSFILE": str(file), "PGCLIENTENCODING": "UTF8"}


@contextmanager
def _private_file(text: str) -> Iterator[Path]:
    descriptor, name = tempfile.mkstemp(prefix="exporter-")  # mkstemp makes it 0600
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        yield Path(name)
    finally:
        Path(name).unlink()


def _program(*names: str, package: str) -> str:
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        raise DumpError(
            _("The program {name} is not on this machine. Install it: apt-get install {package}").format(
                name=names[0], package=package
            )
        )
    return found


def _run(
    command: Sequence[str | Path], *, input: Iterable[bytes] = (), environment: Mapping[str, str] | None = None
) -> bytes:
    """What the program printed. Raises DumpError with its own words when it fails."""
    inherited = {name: value for name, value in os.environ.items() if name not in ("PGPASSWORD", "MYSQL_PWD")}
    with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as printed:
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": printed, "stderr": said}
        with subprocess.Popen([*map(str, command)], env={**inherited, **(environment or {})}, **pipes) as process:
            assert process.stdin is not None
            try:
                with process.stdin as pipe:
                    for piece in input:
                        pipe.write(piece)
            except BrokenPipeError:
                pass  # It has ended, and says why.
        if process.returncode:
            said.seek(0)
            words = " ".join(redact(said.read().decode(errors="replace")).split())
            raise DumpError(_("{program} failed: {error}").format(program=Path(command[0]).name, error=words[-1000:]))
        printed.seek(0)
        return printed.read()
