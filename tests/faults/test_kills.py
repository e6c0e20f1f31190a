"""SIGKILL at random, hundreds of times: nothing is lost, nothing is done twice, nothing hangs."""

import time
from datetime import UTC, datetime

import pytest

from tests.faults.load import MOST_RECOVERY, Killer, Load, add_source, add_tasks, due_once, make_load, seed
from tests.instance import Instance

# The server of the exports dies while the scheduler starts one run after another.
SERVER_DIES = """
import os, time
from tasks.executors import executors
from tasks.models import Execution, ExportTask
from tasks.states import Trigger
rows = [Execution.objects.enqueue(task, trigger=Trigger.MANUAL) for task in ExportTask.objects.all()]
executor = executors.get("local")()
executor.start(rows[0])
os.kill(executor._server.pid, 9)
executor._server.wait()
for row in rows[1:]:
    executor.start(row)
told, end = set(), time.monotonic() + 30
while executor.running and time.monotonic() < end:
    executor.wait(0.2)
    told |= {ended.execution_id for ended in executor.collect()}
executor.close()
print(sorted(told), executor.running)
"""


def kill_at_random(instance: Instance, *, schedulers: int, workers: int, tasks: int, minutes: int, kills: int) -> None:
    """A load under `kills` kills, spread evenly over its occurrences; judged by the checker."""
    chosen = seed()
    load = make_load(instance, schedulers=schedulers, workers=workers, tasks=tasks, minutes=minutes)
    killer = Killer(instance, chosen)
    started, total = time.monotonic(), load.total
    while killer.total < kills:
        reached = 1 + total * killer.total // kills
        load.work_until(lambda reached=reached: load.ended() >= reached)  # type: ignore[misc]
        killer.strike()
    last_kill, held = time.monotonic(), running(load)
    load.work_until(lambda: not held & running(load))
    recovered = time.monotonic()
    load.finish()
    ended = time.monotonic()
    found = load.violations()
    statuses = load.statuses()
    print(
        f"{instance.kind}: {killer.total} kills {dict(killer.kills)}, {load.total} occurrences {dict(statuses)}, "
        f"{load.fleet.started} schedulers started, {ended - started:.1f} s, "
        f"{recovered - last_kill:.1f} s from the last kill until its runs had ended or been taken up, {len(found)} violations"
    )
    assert not found, "\n".join(found[:50])
    assert set(statuses) == {"succeeded"}
    assert recovered - last_kill <= MOST_RECOVERY


def running(load: Load) -> set[tuple[int, int]]:
    """The attempts that run, or seem to."""
    return set(load.query("SELECT id, attempt FROM tasks_execution WHERE status = 'running'"))


def test_a_server_that_dies_while_runs_are_started_forgets_none(instance: Instance) -> None:
    add_source(instance)
    add_tasks(instance, due_once(3, datetime.now(UTC)))
    assert instance.python(SERVER_DIES).splitlines()[-1] == "[1, 2, 3] 0"


def test_kills_lose_nothing_double_nothing_and_leave_nothing_behind(instance: Instance) -> None:
    kill_at_random(instance, schedulers=3, workers=6, tasks=20, minutes=25, kills=50)


@pytest.mark.faults_long
def test_a_thousand_kills_over_ten_thousand_occurrences(instance: Instance) -> None:
    kill_at_random(instance, schedulers=6, workers=8, tasks=240, minutes=50, kills=1000)
