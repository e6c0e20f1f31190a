"""One installation on several hosts, what it works at, and what happens when one of them is cut off."""

import json
import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import MySQLdb
import psycopg

from tests.deploy.hosts import OUTSIDE, Host, Hub
from tests.faults import checker
from tests.faults.checker import Owed
from tests.faults.load import GRACE, Fleet, InstanceOn, Load, add_tasks, by_role, configure, minutely
from tests.servers import PrivateServer
from tests.servers.robots import Robots

Attempt = tuple[int, int]  # execution, attempt

_TABLE = (
    "CREATE TABLE orders (id INTEGER PRIMARY KEY, customer VARCHAR(20), amount DECIMAL(10,2))",
    "INSERT INTO orders VALUES (1, '客户 1', 1.25), (2, '客户 2', 2.25), (3, '客户 3', 3.25), (4, '客户 4', 4.25), (5, '客户 5', 5.25)",
)
# A row every tenth of a second.
_SLOW = {
    "postgresql": "SELECT n, pg_sleep(0.1) AS slept FROM generate_series(1, {rows}) AS n",
    "mysql": "SELECT seq AS n, SLEEP(0.1) AS slept FROM seq_1_to_{rows}",
}
_ANNOUNCE = """
from notifications.models import Channel, NotificationRule
channel = Channel(name="robot", kind="webhook")
channel.set_settings({{"url": {url!r}, "secret": ""}})
channel.full_clean()
channel.save()
NotificationRule.objects.create(channel=channel)
"""
_MORE = """
from tasks.models import Execution, ExportTask
from tasks.states import Trigger
for task in ExportTask.objects.filter(name__startswith="slow", name__endswith={word!r}):
    Execution.objects.enqueue(task, trigger=Trigger.MANUAL)
"""
_HELD = ("CREATE TABLE held (n INTEGER PRIMARY KEY)", "INSERT INTO held VALUES (1)")
# In the middle of a transaction when its host is cut off.
_HOLD = """
import time
from django.db import connection, transaction
print("ready", flush=True)
input()
with transaction.atomic():
    connection.cursor().execute("SELECT n FROM held FOR UPDATE")
    print("held", flush=True)
    time.sleep(600)
"""


@dataclass
class Schedulers(Fleet):
    """One on each host. They are started once, and must live through everything."""

    hosts: Sequence[Host] = ()

    def keep(self) -> None:
        for process, host in zip(self.processes, self.hosts, strict=True):
            assert process.poll() is None, f"the scheduler of {host.name} has ended"

    def start_all(self) -> None:
        for host in self.hosts:
            with (self.instance.home / f"{host.name}.err").open("ab") as errors:
                command = ("runscheduler", f"--workers={self.workers}")
                self.processes.append(host.spawn(self.instance, *command, stdout=errors, stderr=errors))

    def stop(self) -> None:
        for pid in by_role(self.instance.processes())["scheduler"]:
            # nsenter has the same command line, and passes no signal on.
            if "nsenter" not in Path(f"/proc/{pid}/cmdline").read_text():
                os.kill(pid, signal.SIGTERM)
        for process in self.processes:
            assert process.wait(60) == 0


class World:
    """An installation on all hosts of `hub`, with fast and slow exports that all send a message."""

    def __init__(self, hub: Hub, server: PrivateServer, home: Path, kind: str, robots: Robots) -> None:
        self.hosts, self.robots, self.server = hub.hosts, robots, server
        self.instance = InstanceOn(home, kind, server)
        configure(
            self.instance,
            scheduler={"misfire_grace_time": GRACE},
            notifications={"private_hosts": [robots.place]},
        )
        database = server.new_database()
        for statement in _TABLE:
            server.execute(statement, database=database)
        for statement in _HELD:
            server.execute(statement, database=str(self.instance.database))
        reader = server.reader
        where = (OUTSIDE, server.port, database, reader.username, reader.password)
        self.instance.manage("datasource", "create", "source", kind, *where)
        self.instance.python(_ANNOUNCE.format(url=robots.add("webhook").url))

    def load(self, *, workers: int, fast: int = 0, slow: int = 0, short: int = 0, long: int = 0) -> Load:
        """`fast` exports that owe every minute; `slow` ones of `short` seconds and as many of `long` that owe one run."""
        now = datetime.now(UTC)
        owed = minutely(fast, 3, now)
        add_tasks(self.instance, owed, retry_delay=0)
        last = now.replace(second=0, microsecond=0)
        for word, seconds in (("short", short), ("long", long)):
            rows = 10 * seconds
            cron = f"{last.minute} {last.hour} {last.day} {last.month} *"
            tasks = {f"slow {number} {word}": Owed(cron, "UTC", last, rows) for number in range(slow)}
            sql = _SLOW[self.instance.kind].format(rows=rows)
            add_tasks(self.instance, tasks, sql=sql, retry_delay=0, format="csv")
            owed |= tasks
        self.long = long
        self.fleet = Schedulers(self.instance, len(self.hosts), workers, hosts=self.hosts)
        self.loaded = Load(self.instance, self.fleet, owed)
        return self.loaded

    def more(self, word: str) -> None:
        """One more run of each slow export, `short` or `long`: more than one host has workers for."""
        self.instance.python(_MORE.format(word=word))

    def running_on(self, host: Host) -> dict[Attempt, int]:
        """What runs on `host` as the system database has it, with the processes there."""
        rows = self.loaded.query("SELECT id, attempt, worker FROM tasks_execution WHERE status = 'running'")
        return processes_of(host, rows)

    def slow_on(self, host: Host, *, most_beats: int = 1000) -> dict[Attempt, int]:
        """Its slow exports that are at work and have beaten so often at most, with their processes there."""
        rows = self.loaded.query(
            "SELECT id, attempt, worker FROM tasks_execution WHERE status = 'running' AND task_name LIKE 'slow % long' "
            f"AND heartbeat_seq BETWEEN 3 AND {most_beats}"
        )
        return processes_of(host, rows)

    def had(self, host: Host) -> set[Attempt]:
        """All attempts of `host` so far, but for those that were given up."""
        rows = self.loaded.query("SELECT id, attempt, worker FROM tasks_execution WHERE attempt > 0")
        return set(processes_of(host, rows))

    def lost(self) -> dict[Attempt, str]:
        """The attempts that were taken for dead, with their workers."""
        found = {}
        for row, history in self.loaded.query("SELECT id, history FROM tasks_execution"):
            for entry in json.loads(history) if isinstance(history, (str, bytes)) else history:
                assert entry["reason"] == "worker_lost", entry
                found[row, entry["attempt"]] = entry["worker"]
        return found

    def holder(self, host: Host) -> subprocess.Popen[str]:
        """A process of `host` that is ready to hold()."""
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        process = host.spawn(self.instance, "shell", "-v0", "-c", _HOLD, **pipes)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    def hold(self, holder: subprocess.Popen[str]) -> None:
        """From now on it has a transaction that does not end by itself."""
        assert holder.stdin is not None
        assert holder.stdout is not None
        holder.stdin.write("\n")
        holder.stdin.flush()
        assert holder.stdout.readline() == "held\n"
        assert self.is_held()

    def is_held(self) -> bool:
        try:
            return not self.loaded.query("SELECT n FROM held FOR UPDATE NOWAIT")
        except (psycopg.errors.LockNotAvailable, MySQLdb.OperationalError):
            return True

    def visible(self) -> set[Attempt]:
        names = (path.name.split("-") for path in self.instance.output_dir.glob("*/*"))
        return {(int(execution), int(attempt)) for execution, attempt in names}

    def unsent(self) -> int:
        open_ones = "SELECT count(*) FROM notifications_delivery WHERE status IN ('pending', 'sending', 'retry')"
        return int(self.loaded.query(open_ones)[0][0])

    def faults_of_messages(self) -> Iterator[str]:
        """What is not: one message for each export that succeeded, twice only where the row says so."""
        told = Counter(message.request.json["execution"] for message in self.robots.accepted)
        rows = self.loaded.query("SELECT execution_id, status, possibly_duplicate FROM notifications_delivery")
        assert len(rows) == len({row[0] for row in rows})
        for execution, status, doubtful in rows:
            count = told.pop(execution, 0)
            if status != "sent" or not 1 <= count <= 1 + bool(doubtful):
                yield f"execution {execution}: its message is {status} and came {count} times"
        yield from (f"execution {execution}: {count} messages that nobody owed" for execution, count in told.items())
        owing = {row.id for row in checker.read_rows(self.loaded.query) if row.status == "succeeded"}
        yield from (f"execution {row}: no message" for row in owing - {row[0] for row in rows})

    def spread(self) -> Counter[str]:
        rows = self.loaded.query("SELECT worker FROM tasks_execution WHERE status = 'succeeded'")
        return Counter(worker.partition(":")[0] for (worker,) in rows)


def processes_of(host: Host, rows: Iterable[tuple[Any, ...]]) -> dict[Attempt, int]:
    """Those of (execution, attempt, worker) that `host` has, with the numbers of their processes there."""
    found = {}
    for execution, attempt, worker in rows:
        name, number, _machine = worker.split(":")
        if name == host.name:
            found[execution, attempt] = int(number)
    return found


@dataclass
class Cut:
    """What one of `hosts` does while `lines` of it are cut, and how long things take, in seconds from the cut.

    `patience`: seconds for which a worker without heartbeat goes on.
    """

    world: World
    hosts: Sequence[Host]
    lines: tuple[str, ...]
    patience: float
    at_the_far_end: bool = False
    facts: dict[str, Any] = field(default_factory=dict)
    given_up: set[Attempt] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.holders = {host.name: self.world.holder(host) for host in self.hosts}

    def happen(self, most: float) -> None:
        """Cut in the middle of slow exports, and look until another host has taken all of them up, `most` seconds."""
        world = self.world
        world.loaded.work_until(self._choose, pause=0.2)
        host, slow = self.host, self._young(self.host)
        others = {attempt for each in world.hosts if each is not host for attempt in world.running_on(each)}
        world.hold(self.holders[host.name])
        host.cut(*self.lines, at_the_far_end=self.at_the_far_end)
        began = time.monotonic()
        ended_before = world.loaded.ended()
        time.sleep(1)  # what was on its way has arrived, or never will
        self.given_up = set(world.running_on(host))
        at_work = {pid for pid, number in host.of(world.instance.processes()).items() if number in slow.values()}
        assert at_work, "there was nothing to take up"
        while not {"stopped after", "taken up after"} <= self.facts.keys():
            took = round(time.monotonic() - began, 1)
            if not at_work & set(host.of(world.instance.processes())):
                self.facts.setdefault("stopped after", took)
            if not self.given_up & set(world.running_on(host)):
                self.facts.setdefault("taken up after", took)
            assert took < most, f"{self.facts} {world.loaded.describe()}"
            world.fleet.keep()
            time.sleep(0.1)
        self.facts["exports that ran"] = len(self.given_up)
        self.facts["ended meanwhile"] = world.loaded.ended() - ended_before
        assert self.facts["stopped after"] < self.facts["taken up after"], "two of them ran at once"
        assert self.facts["ended meanwhile"] > 0
        assert not others & world.lost().keys(), "the host that was well lost runs"
        assert not world.is_held(), "what it was in the middle of is still locked"

    def _choose(self) -> bool:
        """Whether all hosts are at work, and one of them with exports that will not have ended when their patience has."""
        if all(map(self.world.slow_on, self.world.hosts)):
            for host in self.hosts:
                if self._young(host):
                    self.host = host
                    return True
        return False

    def _young(self, host: Host) -> dict[Attempt, int]:
        # A little more than a second from beat to beat.
        return self.world.slow_on(host, most_beats=int((self.world.long - self.patience - 3) / 1.3))

    def mend(self) -> None:
        """Plug the cables in again, and wait until the host works as before."""
        assert not self.given_up & self.world.visible()
        before = self.world.had(self.host)
        self.host.mend(*self.lines)
        began = time.monotonic()
        self.world.more("short")
        self.world.loaded.work_until(lambda: bool(self.world.had(self.host) - before))
        self.facts["back at work after"] = round(time.monotonic() - began, 1)
        assert not self.given_up & self.world.visible()
        print(self.host.name, self.lines, self.facts)


def finish(world: World, cuts: Sequence[Cut]) -> None:
    load = world.loaded
    load.stop_schedules()
    load.work_until(lambda: not load.unfinished() and not world.unsent())
    world.fleet.stop()
    lost = world.lost()
    found = [*load.violations(), *world.faults_of_messages()]
    twice = load.query("SELECT count(*) FROM notifications_delivery WHERE possibly_duplicate")[0][0]
    print(
        f"{world.instance.kind}: {load.total} occurrences {dict(load.statuses())} on {dict(world.spread())}, {len(lost)} "
        f"taken up, {len(world.robots.accepted)} messages ({twice} perhaps twice), {len(found)} violations"
    )
    assert not found, "\n".join(found[:50])
    assert set(load.statuses()) == {"succeeded"}
    assert set(world.spread()) == {host.name for host in world.hosts}
    assert lost.keys() == set().union(*(cut.given_up for cut in cuts)), "others than those of a host that was cut off"
