"""Real schedulers under load, and what kills them.

A fleet of `manage.py runscheduler` processes works off many owed occurrences of real exports; a killer with a seed ends
its processes by SIGKILL: schedulers, the servers that fork exports, exports.
"""

import json
import os
import random
import signal
import sqlite3
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml

from tests import servers
from tests.factories import make_sqlite_file
from tests.faults import checker
from tests.faults.checker import Owed, Query
from tests.instance import Instance
from tests.plugin import installation_environment
from tests.servers import PrivateServer

MOST_RECOVERY = 75.0  # seconds: SPEC section 8, P2
STUCK = 120.0  # seconds without any progress after which a load has failed
GRACE = 7 * 86_400  # seconds: nothing of a load is ever too late

_SOURCE_ROWS = 5
_SOURCE = (
    "CREATE TABLE orders (id INTEGER PRIMARY KEY, customer TEXT, amount DECIMAL(10,2), paid BOOLEAN, created DATE)",
    *(
        f"INSERT INTO orders VALUES ({number}, '客户 {number}', {number}.25, {number % 2}, '2025-08-{number:02d}')"
        for number in range(1, _SOURCE_ROWS + 1)
    ),
)
_CREATE_TASKS = """
import datetime, json
from datasources.models import DataSource
from tasks.models import ExportTask
DataSource.objects.update(max_concurrency=100)
for name, fields in json.loads({tasks!r}).items():
    first = datetime.datetime.fromisoformat(fields.pop("first"))
    task = ExportTask(name=name, data_source=DataSource.objects.get(), **fields)
    task.full_clean()
    task.save()
    ExportTask.objects.filter(pk=task.pk).update(next_run_at=first, max_retries=1000)
"""


def seed() -> int:
    """EXPORTER_FAULTS_SEED, or a new one; printed, so that a run can be repeated."""
    given = os.environ.get("EXPORTER_FAULTS_SEED")
    chosen = int(given) if given else random.SystemRandom().randrange(1_000_000)
    print(f"EXPORTER_FAULTS_SEED={chosen}")
    return chosen


class InstanceOn(Instance):
    """An installation whose system database lies on `server`, which a test may kill: not the session's."""

    def __init__(self, home: Path, kind: str, server: PrivateServer) -> None:
        super().__init__(home)
        self.kind, self.server = kind, server
        self.database = server.new_database()
        settings = {
            "type": kind,
            "host": server.host,
            "port": str(server.port),
            "database": self.database,
            "username": server.admin.username,
            "password": server.admin.password,
        }
        self.environment |= installation_environment(home, settings)
        self.manage("migrate", "--verbosity", "0")


def query_of(instance: Instance) -> Query:
    """Plain SQL on the system database of `instance`, committed at once."""
    if instance.kind == "sqlite":

        def query(sql: str) -> list[tuple[Any, ...]]:
            with closing(sqlite3.connect(instance.database_file, timeout=30, isolation_level=None)) as connection:
                return connection.execute(sql).fetchall()

        return query
    server = instance.server if isinstance(instance, InstanceOn) else servers.shared(instance.kind)
    return lambda sql: server.execute(sql, database=str(instance.database))


def configure(instance: Instance, **sections: dict[str, object]) -> None:
    """Put `sections` over those of the installation's config.yaml."""
    settings = yaml.safe_load(instance.config_file.read_text())
    for name, keys in sections.items():
        settings[name] = settings.get(name, {}) | keys
    instance.config_file.write_text(yaml.safe_dump(settings))


def add_source(instance: Instance) -> None:
    file = make_sqlite_file(instance.home / "source.db", _SOURCE)
    instance.manage("datasource", "create", "source", "sqlite", "-", "-", file, "-")


def add_tasks(instance: Instance, owed: dict[str, Owed], **fields: object) -> None:
    """Tasks that owe what `owed` says and run every occurrence; xlsx and csv in turn."""
    tasks = {
        name: {
            "sql": f"SELECT * FROM orders WHERE id <= {task.rows} ORDER BY id",
            "cron": task.cron,
            "timezone": task.timezone,
            "first": task.first.isoformat(),
            "format": ("xlsx", "csv")[number % 2],
            "overlap": "queue",
            "catch_up": "all",
            "retry_delay": number // 2 % 2,
            **fields,
        }
        for number, (name, task) in enumerate(owed.items())
    }
    instance.python(_CREATE_TASKS.format(tasks=json.dumps(tasks)))


def minutely(tasks: int, minutes: int, now: datetime) -> dict[str, Owed]:
    """`tasks` schedules that owe the last `minutes` minutes; every fourth is not every minute's and has another zone."""
    start = now.replace(second=0, microsecond=0) - timedelta(minutes=minutes - 1)
    found = {}
    for number in range(tasks):
        cron, zone = ("*/2 * * * *", "Asia/Kathmandu") if number % 4 == 3 else ("* * * * *", "Asia/Shanghai")
        first = checker.occurrences(cron, zone, start, now)[0]
        found[f"task {number}"] = Owed(cron, zone, first, 1 + number % _SOURCE_ROWS)
    return found


def due_once(tasks: int, now: datetime) -> dict[str, Owed]:
    """`tasks` schedules that are due at `now` and then not again before the next year: a test that takes longer than it
    thought owes no more."""
    return {f"task {number}": Owed("0 0 1 1 *", "Asia/Shanghai", now, 1) for number in range(tasks)}


@dataclass
class Fleet:
    """`size` schedulers of one installation, kept alive by keep()."""

    instance: Instance
    size: int
    workers: int
    command: tuple[object, ...] = ()  # instead of runscheduler
    processes: list[subprocess.Popen[str]] = field(default_factory=list)
    started: int = 0

    def keep(self) -> None:
        """Start schedulers until `size` of them live."""
        self.processes = [process for process in self.processes if process.poll() is None]
        while len(self.processes) < self.size:
            self.start()

    def start(self) -> subprocess.Popen[str]:
        # A pipe that nobody reads would fill, and stop them.
        with (self.instance.home / "schedulers.log").open("ab") as log:
            command = self.command or ("runscheduler", f"--workers={self.workers}")
            process = self.instance.spawn(*command, stdout=subprocess.DEVNULL, stderr=log)
        self.processes.append(process)
        self.started += 1
        return process

    def stop(self) -> None:
        """SIGTERM, and wait."""
        for process in self.processes:
            process.send_signal(signal.SIGTERM)
        for process in self.processes:
            process.wait(60)


def by_role(pids: Iterable[int]) -> dict[str, list[int]]:
    """The processes among `pids` that are schedulers, fork servers and exports."""
    found: dict[str, list[int]] = {"scheduler": [], "fork server": [], "export": []}
    for pid in pids:
        command = _command(pid)
        if "runscheduler" in command:
            found["scheduler"].append(pid)
        elif "forkserver" in command:
            # A forked export has its server's command line.
            is_server = "runscheduler" in _command(_parent(pid))
            found["fork server" if is_server else "export"].append(pid)
    return found


def _command(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return []


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


class Killer:
    """Ends processes of one installation at random, always in the same order for the same seed."""

    ROLES = ("scheduler", "fork server", "export", "export", "export")

    def __init__(self, instance: Instance, chosen_seed: int) -> None:
        self.instance = instance
        self.random = random.Random(chosen_seed)
        self.kills: Counter[str] = Counter()

    @property
    def total(self) -> int:
        return self.kills.total()

    def strike(self) -> bool:
        """Wait a moment and kill one process. False when there is none of the kind whose turn it is."""
        role = self.random.choice(self.ROLES)
        delay, choice = self.random.uniform(0, 0.1), self.random.random()
        until = time.monotonic() + 2
        while not (found := by_role(self.instance.processes())[role]):
            if time.monotonic() > until:
                return False
        time.sleep(delay if role != "export" else delay / 4)
        if not self._kill(sorted(found)[int(choice * len(found))]):
            return False
        self.kills[role] += 1
        return True

    def _kill(self, pid: int) -> bool:
        try:
            handle = os.pidfd_open(pid)
        except ProcessLookupError:
            return False
        try:
            # The number may have been used again since; the handle can't.
            if not any(word in _command(pid) for word in ("runscheduler", "forkserver")):
                return False
            signal.pidfd_send_signal(handle, signal.SIGKILL)
            return True
        except ProcessLookupError:
            return False
        finally:
            os.close(handle)


class Stuck(AssertionError):
    """A load makes no progress; the text says where it stands."""


@dataclass
class Load:
    """Owed occurrences, a fleet that works them off, and what the test does to it meanwhile."""

    instance: Instance
    fleet: Fleet
    owed: dict[str, Owed]
    until: datetime | None = None
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)

    def __post_init__(self) -> None:
        self.query = query_of(self.instance)

    @property
    def total(self) -> int:
        """How many occurrences are owed by now."""
        until = self.until or self.clock()
        return sum(len(checker.occurrences(task.cron, task.timezone, task.first, until)) for task in self.owed.values())

    def ended(self) -> int:
        states = ", ".join(f"'{state}'" for state in checker.END_STATES)
        return int(self.query(f"SELECT count(*) FROM tasks_execution WHERE status IN ({states})")[0][0])

    def unfinished(self) -> int:
        return int(self.query("SELECT count(*) FROM tasks_execution WHERE status IN ('queued', 'running')")[0][0])

    def work_until(self, enough: Callable[[], bool], *, pause: float = 0.05) -> None:
        """Keep the fleet alive until `enough`. Raises Stuck when nothing ends for a long time."""
        ended, moved = self.ended(), time.monotonic()
        while not enough():
            self.fleet.keep()
            time.sleep(pause)
            if (now_ended := self.ended()) != ended:
                ended, moved = now_ended, time.monotonic()
            if time.monotonic() - moved > STUCK:
                raise Stuck(self.describe())

    def stop_schedules(self) -> None:
        """Disable all tasks at a moment at which no schedule owes anything that has no row yet; it becomes `until`."""
        while self.until is None:
            now = self.clock()
            if now.second < 57 and self.all_planned(now):
                self.query("UPDATE tasks_exporttask SET enabled = FALSE")
                if self.clock().minute == now.minute:
                    self.until = now
                else:
                    self.query("UPDATE tasks_exporttask SET enabled = TRUE")
            self.fleet.keep()
            time.sleep(0.1)

    def all_planned(self, now: datetime) -> bool:
        """Whether every task's next run is still to come."""
        rows = self.query("SELECT next_run_at FROM tasks_exporttask")
        return all((next_run := checker.moment(value)) is not None and next_run > now for (value,) in rows)

    def finish(self) -> float:
        """Wait until everything has ended, then stop the fleet. Returns the seconds that it took."""
        started = time.monotonic()
        self.stop_schedules()
        self.work_until(lambda: not self.unfinished())
        took = time.monotonic() - started
        self.fleet.stop()
        return took

    def violations(self) -> list[str]:
        assert self.until is not None, "the schedules must have been stopped"
        return checker.check(self.query, self.instance.output_dir, self.instance.temp_dir, self.owed, self.until)

    def statuses(self) -> Counter[str]:
        return Counter(row.status for row in checker.read_rows(self.query))

    def describe(self) -> str:
        rows = checker.read_rows(self.query)
        waiting = [row for row in rows if row.status not in checker.END_STATES][:20]
        lines = (f"{row}: {row.status}, attempt {row.attempt}, {row.slot_key}" for row in waiting)
        processes = by_role(self.instance.processes())
        return "\n".join([f"{Counter(row.status for row in rows)} {processes}", *lines])


def make_load(instance: Instance, *, schedulers: int, workers: int, tasks: int, minutes: int) -> Load:
    """A load that is ready to start: `tasks` tasks that owe about `minutes` occurrences each."""
    configure(instance, scheduler={"misfire_grace_time": GRACE})
    add_source(instance)
    owed = minutely(tasks, minutes, datetime.now(UTC))
    add_tasks(instance, owed)
    return Load(instance, Fleet(instance, schedulers, workers), owed)
