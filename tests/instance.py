"""A whole installation in a directory of its own, driven from outside: real processes, real files, a real database."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from exporter_site.config import BASE_DIR
from tests import servers
from tests.plugin import SESSION_DIR, database_settings, foreign_names, installation_environment

_KEPT = (
    "django_migrations",
    "django_content_type",
    "auth_permission",
    "auth_group",
    "auth_group_permissions",
)  # written by migrations, not by tests


class Instance:
    """An installation under `home` with its own config.yaml, keys, logs, exports and migrated, empty system database.

    `kind` is that of the system database: sqlite, mysql or postgresql.
    """

    def __init__(self, home: Path, kind: str = "sqlite") -> None:
        self.home = home
        self.kind = kind
        self.config_file = home / "config.yaml"
        self.temp_dir = home / "temp"
        self.output_dir = home / "exports"
        self.log_file = home / "logs" / "app.log"
        self.database_file = home / "data" / "system.db"
        self._spawned: list[subprocess.Popen[str]] = []
        self.database = _template(kind)
        if kind == "sqlite":
            self.database_file.parent.mkdir(parents=True)
            shutil.copy(self.database, self.database_file)
        else:
            _empty(kind, self.database)
        self.environment = _environment(home, kind, self.database)

    def manage(
        self,
        *args: object,
        check: bool = True,
        input: str | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float = 120,
    ) -> subprocess.CompletedProcess[str]:
        """Run `manage.py *args` to its end. With `check` an exit code other than 0 fails, with what was printed."""
        return self._run([_manage_py(), *args], check=check, input=input, env=env, timeout=timeout)

    def python(self, code: str, *, env: Mapping[str, str] | None = None, timeout: float = 120) -> str:
        """Run `code` in a process of this installation, with Django ready. Returns what it printed."""
        program = f"import django\ndjango.setup()\n{code}"
        return self._run(["-c", program], check=True, input=None, env=env, timeout=timeout).stdout

    def spawn(self, *args: object, env: Mapping[str, str] | None = None, **options: Any) -> subprocess.Popen[str]:
        """Start `manage.py *args` in a process group of its own. What still runs is ended when the test is over."""
        defaults: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL}
        process = subprocess.Popen(
            [sys.executable, _manage_py(), *map(str, args)],
            cwd=BASE_DIR,
            env=self.environment | dict(env or {}),
            text=True,
            start_new_session=True,
            preexec_fn=servers.die_with_parent(signal.SIGKILL),
            **defaults | options,
        )
        self._spawned.append(process)
        return process

    def database_text(self) -> bytes:
        """Everything the system database holds, to look for what must not be in it: the files of SQLite with the
        write-ahead log, or every text and binary column of a server."""
        if self.kind == "sqlite":
            files = (self.database_file, Path(f"{self.database_file}-wal"))
            return b"".join(file.read_bytes() for file in files if file.exists())
        cells = (
            cell for table in _tables(self.kind, self.database) for cell in _cells(self.kind, self.database, table)
        )
        return b"\n".join(cell if isinstance(cell, bytes) else str(cell).encode() for cell in cells)

    def close(self) -> None:
        """End the processes of spawn() that still run, their children, and exports that have outlived their scheduler."""
        for process in self._spawned:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    stream.close()
        for pid in self.processes():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass

    def processes(self) -> list[int]:
        """The numbers of all processes that work with this installation, whoever started them."""
        ours = f"EXPORTER_CONFIG={self.config_file}\0".encode()
        found = []
        for directory in Path("/proc").iterdir():
            try:
                if directory.name.isdigit() and ours in (directory / "environ").read_bytes():
                    found.append(int(directory.name))
            except OSError:
                pass  # it ended in this moment
        return found

    def _run(
        self, args: list[object], *, check: bool, input: str | None, env: Mapping[str, str] | None, timeout: float
    ) -> subprocess.CompletedProcess[str]:
        # Without input there is no terminal and no pipe to wait for: a prompt must fail, not hang.
        source: dict[str, Any] = {"stdin": subprocess.DEVNULL} if input is None else {"input": input}
        done = subprocess.run(
            [sys.executable, *map(str, args)],
            cwd=BASE_DIR,
            env=self.environment | dict(env or {}),
            capture_output=True,
            text=True,
            timeout=timeout,
            **source,
        )
        if check and done.returncode:
            raise AssertionError(f"{args} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
        return done


def _manage_py() -> Path:
    return BASE_DIR / "manage.py"


def _environment(home: Path, kind: str, database: str | Path) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if name not in foreign_names()}
    inherited.pop("LANGUAGE", None)
    return inherited | {
        "DJANGO_SETTINGS_MODULE": "exporter_site.settings",
        "PYTHONPATH": str(BASE_DIR),
        "PYTHONUNBUFFERED": "1",
        **installation_environment(home, database_settings(kind, str(database))),
    }


@cache
def _template(kind: str) -> str | Path:
    """A migrated system database: for sqlite a file to copy; for a server a database that is emptied for each test."""
    home = SESSION_DIR / f"template-{kind}"
    database: str | Path = home / "data" / "system.db" if kind == "sqlite" else servers.shared(kind).new_database()
    subprocess.run(
        [sys.executable, _manage_py(), "migrate", "--verbosity", "0"],
        cwd=BASE_DIR,
        env=_environment(home, kind, database),
        stdin=subprocess.DEVNULL,
        check=True,
    )
    if kind == "sqlite":
        # Everything into the one file that is copied.
        import sqlite3

        with sqlite3.connect(database) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.close()
    return database


def _tables(kind: str, database: str | Path) -> list[str]:
    schema = "public" if kind == "postgresql" else str(database)
    rows = servers.shared(kind).execute(
        "SELECT table_name FROM information_schema.tables WHERE table_schema = %s AND table_type = 'BASE TABLE'",
        schema,
        database=str(database),
    )
    return sorted(name for (name,) in rows)


def _empty(kind: str, database: str | Path) -> None:
    tables = [table for table in _tables(kind, database) if table not in _KEPT]
    server = servers.shared(kind)
    if kind == "postgresql":
        names = ", ".join(f'"{table}"' for table in tables)
        server.execute(f"TRUNCATE {names} RESTART IDENTITY", database=str(database))
        return
    # TRUNCATE, because DELETE would let the numbers of rows go on where the last test ended.
    script = "; ".join(f"TRUNCATE TABLE `{table}`" for table in tables)
    server.execute(
        f"BEGIN NOT ATOMIC SET foreign_key_checks = 0; {script}; SET foreign_key_checks = 1; END",
        database=str(database),
    )


def _cells(kind: str, database: str | Path, table: str) -> list[Any]:
    quote = '"' if kind == "postgresql" else "`"
    rows = servers.shared(kind).execute(f"SELECT * FROM {quote}{table}{quote}", database=str(database))
    return [cell.tobytes() if isinstance(cell, memoryview) else cell for row in rows for cell in row]
