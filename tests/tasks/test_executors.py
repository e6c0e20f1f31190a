"""How runs are carried out: the fork server by real processes, and what each executor promises."""

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.executors import executors
from tests.factories import make_sqlite_file
from tests.instance import Instance
from tests.servers.mariadb import MariaDB
from tests.tasks.test_runtask import add_task, eventually, files_below, last_execution, server_shop

ENQUEUE = """
from tasks.models import *; from tasks.states import *
for task in ExportTask.objects.all(): Execution.objects.enqueue(task, trigger=Trigger.MANUAL)
"""
# Carries out what is queued with one executor, and prints how each process ended.
DRIVE = """
import time
from tasks.executors import executors
from tasks.models import *
executor = executors.get({kind!r})()
rows = list(Execution.objects.queued().order_by("id"))
print([executor.start(row) for row in rows], executor.running)
end = time.monotonic() + 60
while executor.running and time.monotonic() < end:
    executor.wait(1)
    for ended in executor.collect(): print("ended", *ended)
executor.close()
print(sorted(Execution.objects.values_list("status", flat=True)))
"""


@pytest.fixture
def shop(instance: Instance, tmp_path: Path) -> Instance:
    file = make_sqlite_file(tmp_path / "shop.db")
    instance.manage("datasource", "create", "shop", "sqlite", "-", "-", file, "-")
    for name in ("one", "two"):
        add_task(instance, name=name, data_source="shop", sql="SELECT * FROM orders")
    return instance


# Celery has its own file: it needs a broker and workers.
@pytest.mark.parametrize("kind", [kind for kind in executors if kind != "celery"])
def test_queued_runs_are_carried_out_once(shop: Instance, kind: str) -> None:
    shop.python(ENQUEUE)
    out = shop.python(DRIVE.format(kind=kind)).splitlines()
    assert out[0].startswith("[True, True]")
    assert out[-1] == "['succeeded', 'succeeded']"
    assert len(files_below(shop.output_dir)) == 2
    assert not files_below(shop.temp_dir)
    # Nothing is left to start, whoever asks.
    assert "[] 0" in shop.python(DRIVE.format(kind=kind))


@pytest.mark.parametrize("kind", list(executors))
def test_an_executor_knows_its_own_name(kind: str) -> None:
    assert executors.get(kind).kind == kind


@pytest.fixture
def server(shop: Instance) -> Iterator[tuple[socket.socket, subprocess.Popen[str]]]:
    ours, theirs = socket.socketpair()
    with theirs:
        number = theirs.fileno()
        process = shop.spawn("forkserver", number, pass_fds=[number])
    ours.settimeout(30)
    with ours:
        yield ours, process


def receive(channel: socket.socket) -> list[int]:
    return [int(number) for number in channel.recv(1000).split()]


def test_the_server_says_how_each_run_ended_and_leaves_with_its_scheduler(
    shop: Instance, server: tuple[socket.socket, subprocess.Popen[str]]
) -> None:
    channel, process = server
    # There is no such execution: nothing to do is no failure.
    channel.sendall(b"run 12 1\nru")
    assert receive(channel) == [12, 1, 0]
    channel.sendall(b"n 13 2\n")
    assert receive(channel) == [13, 2, 0]
    channel.close()
    assert process.wait(10) == 0


# A fork server with other limits; `runs()` carries out what is queued, one after another, and yields each process.
ONE_BY_ONE = """
import os, signal, socket, time
from pathlib import Path
from django.db import connections
from tasks.executors import forkserver
from tasks.models import *
for name, value in {limits!r}.items(): setattr(forkserver, name, value)
ours, theirs = socket.socketpair()
connections.close_all()
server = os.fork()
if server == 0:
    ours.close()
    forkserver.ForkServer(theirs).serve()
    os._exit(0)
def runs():
    for row in Execution.objects.queued().order_by("id"):
        assert Execution.objects.take(row, worker="nobody")
        ours.sendall(f"run {{row.pk}} {{row.attempt}}\\n".encode())
        assert ours.recv(100).decode() == f"{{row.pk}} {{row.attempt}} 0\\n"
        row.refresh_from_db()
        yield int(row.worker.split(":")[1])
def lives(pid):
    return Path(f"/proc/{{pid}}").exists() and "Z" not in Path(f"/proc/{{pid}}/stat").read_text()
{then}
print([processes.index(pid) for pid in processes], *Execution.objects.order_by("id").values_list("status", flat=True))
"""


@pytest.mark.parametrize(
    ("limits", "then", "processes"),
    [
        ({}, "processes = list(runs())", [0, 0, 0, 0]),
        ({"MOST_RUNS": 2}, "processes = list(runs())", [0, 0, 2, 2]),
        ({"MOST_GROWTH": -(1 << 40)}, "processes = list(runs())", [0, 1, 2, 3]),
        ({"IDLE": 0.1}, "processes = [(pid, time.sleep(1))[0] for pid in runs()]", [0, 1, 2, 3]),
        (
            {"IDLE": 60},
            "processes = [(pid, os.kill(pid, signal.SIGKILL), time.sleep(0.3))[0] for pid in runs()]",
            [0, 1, 2, 3],
        ),
    ],
)
def test_a_process_takes_further_runs_as_long_as_it_is_young_and_small_and_there(
    shop: Instance, limits: dict[str, float], then: str, processes: list[int]
) -> None:
    shop.python(ENQUEUE + ENQUEUE)
    out = shop.python(ONE_BY_ONE.format(limits=limits, then=then))
    assert out == f"{processes} succeeded succeeded succeeded succeeded\n"
    assert len(files_below(shop.output_dir)) == 4


def test_after_a_failure_a_process_takes_no_further_run(shop: Instance) -> None:
    add_task(shop, name="wrong", data_source="shop", sql="SELECT nothing FROM orders")
    shop.python(ENQUEUE + ENQUEUE)
    out = shop.python(ONE_BY_ONE.format(limits={}, then="processes = list(runs())"))
    assert out == "[0, 0, 0, 3, 3, 3] succeeded succeeded failed succeeded succeeded failed\n"


@pytest.mark.parametrize("end", ["ours.close()", "os.kill(server, signal.SIGKILL)"])
def test_processes_that_wait_leave_with_their_server(shop: Instance, end: str) -> None:
    shop.python(ENQUEUE)
    then = (
        f"processes = list(runs())\nassert lives(processes[-1])\n{end}\ntime.sleep(1)\nassert not lives(processes[-1])"
    )
    out = shop.python(ONE_BY_ONE.format(limits={"IDLE": 60}, then=then))
    assert out == "[0, 0] succeeded succeeded\n"


def test_a_run_that_is_killed_is_reported_with_its_signal_and_others_go_on(
    instance: Instance, mariadb: MariaDB
) -> None:
    server_shop(instance, mariadb, "mysql")
    instance.python(ENQUEUE)
    scheduler = instance.spawn("runscheduler")
    assert eventually(lambda: bool(mariadb.running("exp:1:1")))
    pid = int(str(last_execution(instance)["worker"]).split(":")[1])
    os.kill(pid, signal.SIGKILL)
    assert eventually(lambda: last_execution(instance)["status"] == "failed", 10)
    assert last_execution(instance)["reason"] == "worker_lost"
    assert eventually(lambda: not mariadb.running("exp:1:1"))
    assert not files_below(instance.temp_dir, instance.output_dir)
    scheduler.send_signal(signal.SIGTERM)
    assert scheduler.wait(20) == 0


def test_runs_outlive_the_fork_server_and_a_new_one_is_started(
    instance: Instance, mariadb: MariaDB, tmp_path: Path
) -> None:
    server_shop(instance, mariadb, "mysql")
    add_task(instance, name="slow", data_source="mysql", sql="SELECT a.seq, SLEEP(0.02) AS s FROM seq_1_to_200 a")
    instance.python(ENQUEUE)
    scheduler = instance.spawn("runscheduler")
    assert eventually(lambda: bool(mariadb.running("exp:1:1")))
    (server_pid,) = children(scheduler.pid)
    os.kill(server_pid, signal.SIGKILL)
    assert eventually(lambda: last_execution(instance)["status"] == "succeeded", 40)
    assert last_execution(instance)["attempt"] == 1
    instance.python(ENQUEUE)
    assert eventually(
        lambda: (last_execution(instance)["id"], last_execution(instance)["status"]) == (2, "succeeded"), 40
    )


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_an_export_may_be_ended_before_its_scheduler_when_memory_runs_out(instance: Instance, mariadb: MariaDB) -> None:
    server_shop(instance, mariadb, "mysql")
    instance.python(ENQUEUE)
    instance.spawn("runscheduler")
    assert eventually(lambda: bool(mariadb.running("exp:1:1")))
    pid = int(str(last_execution(instance)["worker"]).split(":")[1])
    assert Path(f"/proc/{pid}/oom_score_adj").read_text().strip() == "500"


def test_an_unknown_executor_is_refused_in_words(instance: Instance) -> None:
    done = instance.manage("runscheduler", "--executor=magic", "--once", check=False)
    assert done.returncode == 2
    assert "magic" in done.stderr
    assert "local" in done.stderr


def test_a_failure_that_may_pass_is_tried_again_and_stays_on_record(instance: Instance, mariadb: MariaDB) -> None:
    server_shop(instance, mariadb, "mysql")
    add_task(
        instance,
        name="slow",
        data_source="mysql",
        sql="SELECT a.seq, SLEEP(0.02) AS s FROM seq_1_to_150 a",
        max_retries=1,
        retry_delay=1,
    )
    instance.python(ENQUEUE)
    instance.spawn("runscheduler")
    assert eventually(lambda: bool(mariadb.running("exp:1:1")))
    (session,) = mariadb.running("exp:1:1")
    mariadb.execute(f"KILL {session.id}")
    assert eventually(lambda: last_execution(instance)["status"] == "succeeded", 40)
    row = last_execution(instance)
    assert (row["attempt"], row["retries"], row["reason"], row["error"]) == (2, 1, "", "")
    assert [attempt["reason"] for attempt in row["history"]] == ["connection_lost"]
    assert len(files_below(instance.output_dir)) == 1


def test_a_failure_that_will_not_pass_is_final(shop: Instance) -> None:
    add_task(shop, name="wrong", data_source="shop", sql="SELECT nothing FROM orders", max_retries=5)
    shop.python(ENQUEUE)
    shop.python(DRIVE.format(kind="inline"))
    row = last_execution(shop, "wrong")
    assert (row["status"], row["reason"], row["attempt"]) == ("failed", "sql_error", 1)
