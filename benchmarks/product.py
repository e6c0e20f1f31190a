"""An installation of the data export system in a directory of its own: what the benchmarks measure.

with Installation(home) as ours:
    ours.add_source("shop", "mysql", server, database)
    ours.add_tasks([Task("orders", "shop", "SELECT * FROM orders", "xlsx")])
    measured = measure.run(ours.runtask("orders"))
    runs = ours.new_runs()
"""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import yaml

from benchmarks.measure import Command
from tests.servers import PrivateServer

ROOT = Path(__file__).resolve().parent.parent
MANAGE = str(ROOT / "manage.py")
MAX_FILE_SIZE = 10 << 30  # bytes: one file, whatever is exported


@dataclass(frozen=True, slots=True)
class Task:
    name: str
    source: str
    sql: str
    format: str


@dataclass(frozen=True, slots=True)
class Run:
    """An execution that succeeded; `seconds` from its claim to its end, without the start of the process."""

    rows: int
    seconds: float
    paths: list[Path]

    @property
    def bytes(self) -> int:
        return sum(path.stat().st_size for path in self.paths)

    def remove(self) -> None:
        for path in self.paths:
            path.unlink()


class Installation:
    """An empty, migrated installation under `home`, with SQLite as its system database; removed when the block ends."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.environment = _environment(home)
        self._seen = 0  # the last execution that new_runs() has given

    def __enter__(self) -> Self:
        self.home.mkdir(parents=True)
        (self.home / "config.yaml").write_text("{}\n")
        self.manage("migrate", "--verbosity", "0")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        shutil.rmtree(self.home, ignore_errors=True)

    def add_source(self, name: str, kind: str, server: PrivateServer, database: str) -> None:
        """A data source that reads `database` of `server` with the account that may only read."""
        account = server.reader
        place = (server.host, server.port, database, account.username)
        self.manage("datasource", "create", name, kind, *place, "--password-stdin", text=account.password)

    def add_tasks(self, tasks: Iterable[Task]) -> None:
        """Tasks that run by hand; each may run several times at once."""
        entries = [
            {"name": task.name, "data_source": task.source, "sql": task.sql, "format": task.format}
            | {"overlap": "parallel"}
            for task in tasks
        ]
        file = self.home / "tasks.yaml"
        file.write_text(yaml.safe_dump({"tasks": entries}, allow_unicode=True))
        self.manage("task", "import", file)

    def runtask(self, name: str) -> Command:
        """The whole export as users start it: one process, with everything on."""
        return Command((sys.executable, MANAGE, "runtask", name), self.environment, cwd=ROOT)

    def program(self, *args: object) -> Command:
        """`python -m benchmarks.inside *args` in this installation."""
        return Command((sys.executable, "-m", "benchmarks.inside", *map(str, args)), self.environment, cwd=ROOT)

    def manage(self, *args: object, text: str = "") -> None:
        """Run `manage.py *args` to its end, with `text` as its input. Raises RuntimeError with what it printed."""
        done = subprocess.run(
            [sys.executable, MANAGE, *map(str, args)],
            cwd=ROOT,
            env=self.environment,
            input=text,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise RuntimeError(f"manage.py {args[0]} ended with {done.returncode}:\n{done.stdout}{done.stderr}")

    def new_runs(self) -> list[Run]:
        """The executions since the last call, oldest first. Raises RuntimeError when one did not succeed.

        From the system database: `runtask --json` would tell, too, but imports what makes the JSON only for that.
        """
        with closing(sqlite3.connect(self.home / "data" / "system.db")) as connection:
            rows = connection.execute(
                "SELECT id, status, rows_count, duration_seconds, files FROM tasks_execution WHERE id > ? ORDER BY id",
                (self._seen,),
            ).fetchall()
        if failed := [row for row in rows if row[1] != "succeeded"]:
            raise RuntimeError(f"executions did not succeed: {failed}")
        self._seen = rows[-1][0] if rows else self._seen
        exports = self.home / "exports"
        return [
            Run(count, seconds, [exports / part["path"] for part in json.loads(files)])
            for _id, _status, count, seconds, files in rows
        ]


def _environment(home: Path) -> dict[str, str]:
    """Ours without the variables of another installation, and with those of this one."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("EXPORTER_")}
    return inherited | {
        "DJANGO_SETTINGS_MODULE": "exporter_site.settings",
        # The variables and not the file: a developer's .env would win over it.
        "EXPORTER_CONFIG": str(home / "config.yaml"),
        "EXPORTER_KEYS_FILE": str(home / "data" / "keys.json"),
        "EXPORTER_SYSTEM_DATABASE__TYPE": "sqlite",
        "EXPORTER_SYSTEM_DATABASE__SQLITE_PATH": str(home / "data" / "system.db"),
        "EXPORTER_EXPORT__TEMP_DIR": str(home / "temp"),
        "EXPORTER_EXPORT__OUTPUT_DIR": str(home / "exports"),
        "EXPORTER_EXPORT__MAX_FILE_SIZE": str(MAX_FILE_SIZE),
        "EXPORTER_LOGGING__FILE": str(home / "logs" / "app.log"),
        "LANGUAGE": "en",
    }


def work_directory() -> Path:
    """A new directory for data and results; other accounts may look into it, the servers read their data there."""
    directory = Path(tempfile.mkdtemp(prefix="exporter-benchmarks-"))
    directory.chmod(0o755)
    return directory
