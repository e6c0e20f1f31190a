"""The scheduler's steps, called directly; and the loop as a process with real exports."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import time_machine
from django.db import OperationalError

from tasks.models import CatchUp, Execution, ExportTask
from tasks.scheduler import Scheduler, enqueue_occurrences, worker_is_gone
from tasks.states import Overlap, Status, Trigger
from tests.factories import make_execution, make_source, make_task
from tests.instance import Instance
from tests.servers.mariadb import MariaDB
from tests.tasks.test_runtask import add_task, eventually, files_below, last_execution, server_shop

NOW = datetime(2025, 8, 12, 4, 0, tzinfo=UTC)  # noon in Shanghai


def due_task(next_run_at: datetime, **fields: Any) -> ExportTask:
    task = make_task(**{"cron": "0 * * * *", **fields})
    ExportTask.objects.filter(pk=task.pk).update(next_run_at=next_run_at)
    task.refresh_from_db()
    return task


def states(task: ExportTask) -> list[tuple[str, str, datetime | None]]:
    rows = Execution.objects.filter(task=task).order_by("scheduled_for")
    return [(row.status, row.reason, row.scheduled_for) for row in rows]


@pytest.mark.django_db
class TestEnqueue:
    @pytest.fixture(autouse=True)
    def _noon(self) -> Iterator[None]:
        with time_machine.travel(NOW, tick=False):
            yield

    def test_a_due_task_is_queued_once_and_moves_on(self) -> None:
        task = due_task(NOW)
        scheduler = Scheduler(workers=1)
        assert scheduler.enqueue_due() == 1
        assert scheduler.enqueue_due() == 0
        task.refresh_from_db()
        assert states(task) == [(Status.QUEUED, "", NOW)]
        assert task.next_run_at == NOW + timedelta(hours=1)
        assert Execution.objects.get().trigger == Trigger.SCHEDULE

    def test_two_schedulers_that_saw_the_same_task_queue_it_once(self) -> None:
        task = due_task(NOW)
        other = ExportTask.objects.get(pk=task.pk)
        enqueue_occurrences(task, NOW)
        enqueue_occurrences(other, NOW)
        assert len(states(task)) == 1

    def test_a_time_beyond_the_grace_is_missed_and_told(self) -> None:
        task = due_task(NOW - timedelta(hours=2), cron="0 10 * * *")
        Scheduler(workers=1).enqueue_due()
        assert states(task) == [(Status.MISSED, "misfire", NOW - timedelta(hours=2))]

    def test_of_several_late_times_the_newest_runs(self) -> None:
        task = due_task(NOW - timedelta(minutes=20), cron="*/10 * * * *")
        Scheduler(workers=1).enqueue_due()
        assert [state[:2] for state in states(task)] == [
            (Status.MISSED, "coalesced"),
            (Status.MISSED, "coalesced"),
            (Status.QUEUED, ""),
        ]

    def test_however_many_times_were_missed_each_has_its_row(self) -> None:
        task = due_task(NOW - timedelta(minutes=250), cron="* * * * *")
        scheduler = Scheduler(workers=1)
        for _step in range(4):
            scheduler.enqueue_due()
        found = states(task)
        assert len(found) == 251
        assert [state[0] for state in found].count(Status.QUEUED) == 1
        assert found[-1] == (Status.QUEUED, "", NOW)
        task.refresh_from_db()
        assert task.next_run_at == NOW + timedelta(minutes=1)

    def test_a_database_that_is_away_for_a_moment_sets_no_task_aside(self, monkeypatch: pytest.MonkeyPatch) -> None:
        task = due_task(NOW)

        def fail(*arguments: object) -> None:
            raise OperationalError("deadlock")

        with monkeypatch.context() as patched:
            patched.setattr("tasks.scheduler.enqueue_occurrences", fail)
            with pytest.raises(OperationalError):
                Scheduler(workers=1).enqueue_due()
        task.refresh_from_db()
        assert task.next_run_at == NOW
        assert Scheduler(workers=1).enqueue_due() == 1

    def test_all_late_times_run_when_the_task_asks_for_it(self) -> None:
        task = due_task(NOW - timedelta(minutes=20), cron="*/10 * * * *", catch_up=CatchUp.ALL)
        Scheduler(workers=1).enqueue_due()
        assert [state[0] for state in states(task)] == [Status.QUEUED] * 3

    def test_a_time_that_was_already_queued_is_passed_over(self) -> None:
        task = due_task(NOW)
        make_execution(task, scheduled_for=NOW, status=Status.SUCCEEDED)
        Scheduler(workers=1).enqueue_due()
        task.refresh_from_db()
        assert task.next_run_at == NOW + timedelta(hours=1)
        assert len(states(task)) == 1

    def test_a_disabled_task_is_left_alone(self) -> None:
        task = due_task(NOW)
        ExportTask.objects.filter(pk=task.pk).update(enabled=False)
        assert Scheduler(workers=1).enqueue_due() == 0

    def test_one_task_that_fails_does_not_stop_the_others(self, monkeypatch: pytest.MonkeyPatch) -> None:
        due_task(NOW, name="a")
        good = due_task(NOW, name="b")
        ExportTask.objects.filter(name="a").update(cron="nonsense")
        Scheduler(workers=1).enqueue_due()
        assert states(good) == [(Status.QUEUED, "", NOW)]


@pytest.mark.django_db
class TestReap:
    def test_a_run_of_a_process_that_is_gone_is_closed_at_once(self) -> None:
        process = subprocess.Popen(["true"])
        process.wait()
        import socket

        execution = make_execution(status=Status.RUNNING, attempt=1, worker=f"{socket.gethostname()}:{process.pid}")
        assert Scheduler(workers=1).reap() == 1
        execution.refresh_from_db()
        assert (execution.status, execution.reason) == (Status.FAILED, "worker_lost")

    def test_a_run_elsewhere_is_closed_only_after_a_lease_without_a_heartbeat(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        clock = [1000.0]
        monkeypatch.setattr("tasks.scheduler.time.monotonic", lambda: clock[0])
        execution = make_execution(status=Status.RUNNING, attempt=1, worker="another-host:1")
        scheduler = Scheduler(workers=1)
        assert scheduler.reap() == 0
        clock[0] += 59
        assert scheduler.reap() == 0
        Execution.objects.filter(pk=execution.pk).update(heartbeat_seq=5)
        clock[0] += 59
        assert scheduler.reap() == 0
        clock[0] += 61
        assert scheduler.reap() == 1

    def test_this_process_lives(self) -> None:
        import socket

        assert not worker_is_gone(f"{socket.gethostname()}:{os.getpid()}")
        assert not worker_is_gone("elsewhere:1")
        assert not worker_is_gone("")


@pytest.mark.django_db
def test_a_run_by_hand_of_a_running_task_is_skipped_or_waits_as_the_task_says() -> None:
    for overlap, expected in ((Overlap.SKIP, Status.SKIPPED), (Overlap.QUEUE, Status.QUEUED)):
        task = make_task(overlap=overlap)
        running = make_execution(task)
        assert Execution.objects.claim(running.pk, worker="elsewhere:1")
        waiting = make_execution(task)
        assert Scheduler(workers=1).dispatch() == 0
        waiting.refresh_from_db()
        assert waiting.status == expected
        Execution.objects.all().delete()


@pytest.mark.django_db
def test_a_source_is_read_by_no_more_runs_at_once_than_it_allows(
    monkeypatch: pytest.MonkeyPatch, django_assert_max_num_queries: Any
) -> None:
    started: list[int] = []

    def note(self: Scheduler, row: Execution) -> bool:
        started.append(row.pk)
        return True

    monkeypatch.setattr(Scheduler, "_start", note)
    source = make_source(max_concurrency=2)
    tasks = [make_task(data_source=source) for _ in range(6)]
    make_execution(tasks[0], status=Status.RUNNING, attempt=1)
    queued = [make_execution(task) for task in tasks[1:]]
    with django_assert_max_num_queries(2):
        assert Scheduler(workers=10).dispatch() == 1
    assert started == [queued[0].pk]


def test_queued_and_due_runs_are_carried_out_by_the_loop(instance: Instance, tmp_path: Path) -> None:
    from tests.factories import make_sqlite_file

    file = make_sqlite_file(tmp_path / "shop.db")
    instance.manage("datasource", "create", "shop", "sqlite", "-", "-", file, "-")
    for name in ("one", "two", "three"):
        add_task(instance, name=name, data_source="shop", sql="SELECT * FROM orders")
    instance.python(
        "from tasks.models import *; from tasks.states import *\n"
        "for task in ExportTask.objects.all(): Execution.objects.enqueue(task, trigger=Trigger.MANUAL)\n"
    )
    process = instance.spawn("runscheduler", "--workers=2")
    found = eventually(
        lambda: all(last_execution(instance, name)["status"] == "succeeded" for name in ("one", "two", "three")), 60
    )
    process.send_signal(signal.SIGTERM)
    _out, err = process.communicate(timeout=20)
    assert found, err
    assert process.returncode == 0
    assert len(files_below(instance.output_dir)) == 3


def test_sigterm_lets_a_run_finish_and_a_second_one_stops_it(instance: Instance, mariadb: MariaDB) -> None:
    server_shop(instance, mariadb, "mysql")
    instance.python(
        "from tasks.models import *; from tasks.states import *\nExecution.objects.enqueue(ExportTask.objects.get(), trigger=Trigger.MANUAL)"
    )
    process = instance.spawn("runscheduler")
    assert eventually(lambda: bool(mariadb.running("exp:1:1")))
    time.sleep(1)
    process.send_signal(signal.SIGTERM)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(2)
    assert mariadb.running("exp:1:1")
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    assert eventually(lambda: last_execution(instance)["status"] == "failed")
    assert last_execution(instance)["reason"] == "interrupted"
    assert eventually(lambda: not mariadb.running("exp:1:1"))
    assert not files_below(instance.temp_dir, instance.output_dir)


def test_a_run_outlives_its_scheduler_and_is_not_run_again(instance: Instance, mariadb: MariaDB) -> None:
    database = server_shop(instance, mariadb, "mysql")
    assert database
    add_task(instance, name="slow", data_source="mysql", sql="SELECT a.seq, SLEEP(0.02) AS s FROM seq_1_to_200 a")
    instance.python(
        "from tasks.models import *; from tasks.states import *\nExecution.objects.enqueue(ExportTask.objects.get(), trigger=Trigger.MANUAL)"
    )
    first = instance.spawn("runscheduler")
    assert eventually(lambda: bool(mariadb.running("exp:1:1")))
    first.kill()
    first.wait()
    instance.spawn("runscheduler")
    assert eventually(lambda: last_execution(instance)["status"] == "succeeded", 40)
    found = json.loads(instance.manage("task", "logs", "slow", "--json").stdout)
    assert [(row["status"], row["attempt"]) for row in found] == [("succeeded", 1)]
