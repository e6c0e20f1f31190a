"""One fault at a time, at the worst moment: a zombie that comes back, each step of an export, the second that is due."""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import pytest

from exporter_site.config import BASE_DIR
from tests import servers
from tests.faults import checker
from tests.faults.checker import Owed
from tests.faults.load import GRACE, Fleet, Load, add_source, add_tasks, configure, query_of, seed
from tests.instance import Instance
from tests.tasks.test_runtask import eventually


def missing(text: str) -> None:
    """Nothing is skipped in silence: only who asked for it gets a skip."""
    if os.environ.get("EXPORTER_TESTS_ALLOW_MISSING") == "1":
        pytest.skip(text)
    pytest.fail(text, pytrace=False)


@pytest.fixture
def strace() -> str:
    found = shutil.which("strace")
    if found is None:
        missing("The tests need strace: apt-get install strace")
    assert found is not None
    return found


def once(now: datetime) -> Owed:
    """A schedule that owed one run, at the last full minute."""
    first = now.replace(second=0, microsecond=0)
    return Owed(f"{first.minute} {first.hour} {first.day} {first.month} *", "UTC", first, 1)


# ---- a zombie

# The host of the zombie: it stands still, and every other scheduler must take it for another machine's.
OTHER_HOST = """
from django.core.management import call_command
from exporter_site import worker
worker.machine = lambda: "otherhost"
call_command("runscheduler", workers=1, executor="inline")
"""
THIS_HOST = """
from django.core.management import call_command
from tasks import scheduler
scheduler.LEASE = {lease}
call_command("runscheduler", workers=1)
"""
# Seconds of work, whatever the machine: long enough to be stopped in it.
SLOW = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000000) SELECT max(i) AS most FROM n"


def start_other_host(instance: Instance, stop_at: str) -> None:
    """A scheduler of another host, whose only process carries out the run itself. `stop_at`: a system call on the run's
    directory at which it stands still; "" for none."""
    command: list[object] = [sys.executable, BASE_DIR / "manage.py", "shell", "-c", OTHER_HOST]
    if stop_at:
        directory = instance.temp_dir / "1-1"
        tracing = ["strace", "-f", "-qq", "-o", "/dev/null", "-P", directory, "-e", f"trace={stop_at}"]
        command = [*tracing, "-e", f"inject={stop_at}:signal=SIGSTOP:when=1", *command]
    spawn_program(instance, command)


def spawn_program(instance: Instance, command: list[object]) -> subprocess.Popen[str]:
    """Start any program in the environment of the installation; it ends with the installation."""
    process = subprocess.Popen(
        [*map(str, command)],
        cwd=BASE_DIR,
        env=instance.environment,
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=servers.die_with_parent(signal.SIGKILL),
    )
    instance._spawned.append(process)
    return process


def stands_still(pid: int) -> bool:
    """Whether the process is stopped, and not only for the moment in which a tracer looks at it."""
    for _ in range(20):
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "Tt":
                return False
        except OSError:
            return False
        time.sleep(0.05)
    return True


def zombie_returns(instance: Instance, stop_at: str, lease: float) -> None:
    owed = {"zombie": once(datetime.now(UTC))}
    add_source(instance)
    sql = "SELECT 1 AS one" if stop_at else SLOW
    add_tasks(instance, owed, sql=sql, format="xlsx", retry_delay=0)
    query = query_of(instance)
    start_other_host(instance, stop_at)
    # The third beat is the first one of a query that runs.
    assert eventually(
        lambda: bool(query(f"SELECT 1 FROM tasks_execution WHERE heartbeat_seq >= {2 if stop_at else 3}")), 60
    )
    worker: str = query("SELECT worker FROM tasks_execution")[0][0]
    assert worker.endswith(":otherhost")
    pid = int(worker.split(":")[1])
    if not stop_at:
        os.kill(pid, signal.SIGSTOP)
    assert eventually(lambda: stands_still(pid), 60)
    assert query("SELECT status, attempt FROM tasks_execution") == [("running", 1)]
    assert visible_attempts(instance) == (["1-1"] if stop_at == "rename" else [])

    this_host = [sys.executable, BASE_DIR / "manage.py", "shell", "-c", THIS_HOST.format(lease=lease)]
    scheduler = spawn_program(instance, this_host)
    done = [("succeeded", 2)]
    assert eventually(lambda: query("SELECT status, attempt FROM tasks_execution") == done, lease + 60)
    assert visible_attempts(instance) == ["1-2"]
    before = query("SELECT finished_at, sha256 FROM tasks_execution")
    assert stands_still(pid), "the zombie must not have been killed: it is another machine's"

    os.kill(pid, signal.SIGCONT)
    taken_over = "this one leaves nothing behind"  # it was told so, or has seen by its clock that it may be so
    facts = "SELECT finished_at, sha256 FROM tasks_execution"
    assert eventually(lambda: taken_over in instance.log_file.read_text() or query(facts) != before, 60), (
        "the zombie has not come back"
    )
    time.sleep(1)  # in which it could do harm
    assert query(facts) == before
    for process in (pid, scheduler.pid):
        os.kill(process, signal.SIGTERM)
    assert scheduler.wait(60) == 0
    found = checker.check(query, instance.output_dir, instance.temp_dir, owed, datetime.now(UTC))
    assert not found, "\n".join(found)


def visible_attempts(instance: Instance) -> list[str]:
    return sorted(path.name for path in instance.output_dir.glob("*/*"))


# In the query; with the file whole but not yet visible; with the file visible but not yet recorded.
STOPS = ("", "fsync", "rename")


@pytest.mark.parametrize("stop_at", STOPS)
def test_a_zombie_that_comes_back_changes_nothing(instance: Instance, strace: str, stop_at: str) -> None:
    zombie_returns(instance, stop_at, lease=3.0)


@pytest.mark.faults_long
@pytest.mark.parametrize("stop_at", STOPS)
def test_a_zombie_after_a_whole_lease(instance: Instance, strace: str, stop_at: str) -> None:
    zombie_returns(instance, stop_at, lease=60.0)


# ---- each step of an export

CALLS = ("openat", "write", "fsync", "rename", "mkdir")
FAULTS = ("signal=SIGKILL", "error=ENOSPC", "error=EIO")
SWEPT_ROWS = 6000
# Text that no compression makes small, so that there are several writes.
SWEPT = (
    f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {SWEPT_ROWS}) "
    "SELECT i, hex(randomblob(600)) AS noise FROM n"
)


# Which thread writes how much differs a little from run to run.
NOT_REACHED = "not reached"


class Point(NamedTuple):
    """The `number`th `call` on `place`, a path below the installation in which {run} stands for the attempt."""

    call: str
    place: str
    number: int


class Sweep:
    """Runs one small export again and again, each time with a fault at another step."""

    def __init__(self, instance: Instance, strace: str, format: str) -> None:
        self.instance, self.strace, self.format = instance, strace, format
        self.query = query_of(instance)
        add_source(instance)
        # It owes nothing before next year: only the sweep runs it.
        next_year = datetime(datetime.now(UTC).year + 1, 12, 31, tzinfo=UTC)
        self.owed = {"swept": Owed("0 0 31 12 *", "UTC", next_year, SWEPT_ROWS)}
        add_tasks(instance, self.owed, sql=SWEPT, format=format, filename_template="file")

    def run(self, *options: str) -> subprocess.CompletedProcess[bytes]:
        program = (sys.executable, str(BASE_DIR / "manage.py"), "runtask", "swept", "--date=2025-08-12")
        return subprocess.run(
            [self.strace, "-f", "-y", "-qq", *options, *program],
            cwd=BASE_DIR,
            env=self.instance.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=120,
        )

    def next_run(self) -> int:
        return int(self.query("SELECT coalesce(max(id), 0) FROM tasks_execution")[0][0]) + 1

    def status(self, run: int) -> str:
        return str(self.query(f"SELECT status FROM tasks_execution WHERE id = {run}")[0][0])

    def points(self) -> list[Point]:
        """Every step of an export that succeeds, as a second run shows them; each thread's are counted by themselves,
        as strace does."""
        self.instance.manage("runtask", "swept")
        run, trace = self.next_run(), self.instance.home / "trace"
        assert self.run("-o", str(trace), "-e", f"trace={','.join(CALLS)}").returncode == 0
        seen: Counter[tuple[str, str, str]] = Counter()
        home = re.escape(str(self.instance.home))
        for line in trace.read_text(errors="replace").splitlines():
            found = re.match(rf"(\d+) +(\w+)\([^\"]*?[<\"]{home}/((?:temp|exports)[^\"<>]*)", line)
            if found is None:
                found = re.match(rf"(\d+) +(\w+)\(AT_FDCWD<[^>]*>, \"{home}/((?:temp|exports)[^\"<>]*)", line)
            if found and found[2] in CALLS:
                seen[(found[1], found[2], found[3].replace(f"{run}-1", "{run}-1"))] += 1
        most: dict[tuple[str, str], int] = {}
        for (_thread, call, place), count in seen.items():
            most[(call, place)] = max(count, most.get((call, place), 0))
        return [Point(*key, number) for key, count in most.items() for number in range(1, count + 1)]

    def strike(self, point: Point, fault: str) -> str:
        """One run with a fault. Returns its state right after, which may still be running when it was killed."""
        run = self.next_run()
        place = self.instance.home / point.place.format(run=run)
        trace = self.instance.home / "trace"
        inject = f"inject={point.call}:{fault}:when={point.number}"
        done = self.run("-o", str(trace), "-P", str(place), "-e", f"trace={point.call}", "-e", inject)
        self.look(run)
        killed = fault == "signal=SIGKILL"
        reached = done.returncode == -signal.SIGKILL if killed else "(INJECTED)" in trace.read_text(errors="replace")
        status = self.status(run)
        if not reached:
            assert status == "succeeded", (point, fault, done.stderr.decode())
            return NOT_REACHED
        assert status == "running" if killed else status in checker.END_STATES, (point, fault, status)
        return status

    def look(self, run: int) -> None:
        """What is visible is whole, at every moment; what ran before this run has ended and left nothing."""
        for path in self.instance.output_dir.rglob("file*"):
            assert checker.count_data_rows(path) == SWEPT_ROWS, f"{path} is not whole"
        rows = [row for row in checker.read_rows(self.query) if row.id < run]
        strays = checker.check_strays(rows, self.instance.output_dir, self.instance.temp_dir)
        violations = [*checker.check_ends(rows), *(stray for stray in strays if f"{run}-1" not in stray)]
        assert not violations, violations


def sweep(instance: Instance, strace: str, format: str, every: int) -> None:
    swept = Sweep(instance, strace, format)
    points = swept.points()
    assert {point.call for point in points} == set(CALLS)
    # Faults change fastest: with a step that 3 does not divide, each of them is met.
    cases = [(point, fault) for point in points for fault in FAULTS][::every]
    faults: list[str] = []
    states: Counter[str] = Counter()
    for point, fault in cases:
        try:
            status = swept.strike(point, fault)
            states[status if status == NOT_REACHED else f"{fault}: {status}"] += 1
        except AssertionError as exc:
            faults.append(f"{fault} at {point}: {exc}")
    instance.manage("runscheduler", "--once")
    found = checker.check(swept.query, instance.output_dir, instance.temp_dir, swept.owed, datetime.now(UTC))
    print(f"{format}: {len(points)} steps, {len(cases)} faults, {dict(states)}, {len(found)} violations")
    assert not faults, "\n".join(faults)
    assert not found, "\n".join(found)
    assert states[NOT_REACHED] <= len(cases) / 10


@pytest.mark.parametrize("format", ["xlsx", "csv"])
def test_a_fault_at_some_steps_of_an_export(instance: Instance, strace: str, format: str) -> None:
    sweep(instance, strace, format, every=7)


@pytest.mark.faults_long
@pytest.mark.parametrize("format", ["xlsx", "csv"])
def test_a_fault_at_every_step_of_an_export(instance: Instance, strace: str, format: str) -> None:
    sweep(instance, strace, format, every=1)


# ---- the second that is due


class Clock:
    """What a scheduler's clock shows: the machine's time, and `offset` more. Minutes need not be waited for."""

    PROGRAM = """
import datetime, pathlib
from django.core.management import call_command
from django.utils import timezone
real, offset = timezone.now, pathlib.Path({file!r})
timezone.now = lambda: real() + datetime.timedelta(seconds=float(offset.read_text()))
call_command("runscheduler", workers=4)
"""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.offset = timedelta()
        self.forward(timedelta())
        self.scheduler = ("shell", "-c", self.PROGRAM.format(file=str(file)))

    def now(self) -> datetime:
        return datetime.now(UTC) + self.offset

    def forward(self, by: timedelta) -> None:
        self.offset += by
        # In one step: a process may read it at any moment.
        written = self._file.with_suffix(".new")
        written.write_text(str(self.offset.total_seconds()))
        written.replace(self._file)


def restart_when_due(instance: Instance, times: int) -> None:
    clock = Clock(instance.home / "clock")
    chance = random.Random(seed())
    configure(instance, scheduler={"misfire_grace_time": GRACE})
    add_source(instance)
    first = clock.now().replace(second=0, microsecond=0)
    owed = {f"task {n}": Owed("* * * * *", zone, first, 1) for n, zone in enumerate(("UTC", "Asia/Shanghai"))}
    add_tasks(instance, owed)
    load = Load(instance, Fleet(instance, 1, 4, clock.scheduler), owed, clock=clock.now)
    load.work_until(lambda: load.ended() >= len(owed))
    for number in range(times):
        due = clock.now().replace(second=0, microsecond=0) + timedelta(minutes=1)
        clock.forward(max(timedelta(), due - clock.now() - timedelta(seconds=1.5)))
        time.sleep(max(0.0, (due - clock.now()).total_seconds() + chance.uniform(-1, 1)))
        (old,) = load.fleet.processes
        old.send_signal(signal.SIGTERM if number % 2 else signal.SIGKILL)
        load.fleet.processes.remove(old)
        load.fleet.keep()
        load.work_until(lambda due=due: clock.now() > due and load.all_planned(clock.now()))  # type: ignore[misc]
        (new,) = load.fleet.processes
        seen = f"SELECT 1 FROM tasks_schedulerprocess WHERE name LIKE '%:{new.pid}:%'"
        load.work_until(lambda seen=seen: bool(load.query(seen)))  # type: ignore[misc]
        assert not number % 2 or old.wait(60) == 0
    load.finish()
    found = load.violations()
    print(
        f"{instance.kind}: {times} restarts, {load.total} occurrences {dict(load.statuses())}, {len(found)} violations"
    )
    assert not found, "\n".join(found)
    assert load.total >= (times + 1) * len(owed)
    assert set(load.statuses()) == {"succeeded"}


def test_ten_restarts_in_the_second_that_is_due(instance: Instance) -> None:
    restart_when_due(instance, 10)


@pytest.mark.faults_long
def test_a_hundred_restarts_in_the_second_that_is_due(instance: Instance) -> None:
    restart_when_due(instance, 100)


def test_two_schedulers_and_many_tasks_due_at_once(instance: Instance) -> None:
    tasks = 60
    add_source(instance)
    configure(instance, scheduler={"misfire_grace_time": GRACE})
    now = datetime.now(UTC)
    owed = {f"task {number}": once(now) for number in range(tasks)}
    add_tasks(instance, owed)
    load = Load(instance, Fleet(instance, 2, 8), owed)
    load.query("UPDATE tasks_exporttask SET enabled = FALSE")
    load.fleet.keep()
    alive = "SELECT count(*) FROM tasks_schedulerprocess WHERE stopped_at IS NULL"
    assert eventually(lambda: load.query(alive) == [(2,)], 60)
    # From here on both find all of them due at their next look.
    load.query("UPDATE tasks_exporttask SET enabled = TRUE")
    load.work_until(lambda: load.ended() >= tasks)
    load.finish()
    found = load.violations()
    assert not found, "\n".join(found)
    assert load.statuses() == {"succeeded": tasks}
    attempts = load.query("SELECT max(attempt) FROM tasks_execution")
    assert attempts == [(1,)]
    log = instance.log_file.read_text()
    assert "IntegrityError" not in log
    assert " failed" not in log
