"""The scheduler's steps, called directly; and the loop as a process with real exports."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import time_machine
from django.db import OperationalError
from django.utils import timezone

from exporter_site.worker import is_gone, worker_name
from tasks.executors.base import Ended
from tasks.models import CatchUp, Execution, ExportTask, Pause, SchedulerProcess
from tasks.scheduler import enqueue_occurrences
from tasks.states import ExecutionQuerySet, Overlap, Priority, Status, Trigger
from tests.factories import ClaimingExecutor, make_execution, make_scheduler, make_source, make_task
from tests.instance import Instance
from tests.servers.mariadb import MariaDB
from tests.tasks.test_runtask import add_task, eventually, files_below, last_execution, server_shop

NOW = datetime(2025, 8, 12, 4, 0, tzinfo=UTC)  # noon in Shanghai


def due_task(next_run_at: datetime, **fields: Any) -> ExportTask:
    task = make_task(**{"cron": "0 * * * *", **fields})
    ExportTask.objects.filter(pk=task.pk).update(next_run_at=next_run_at)
    task.refresh_from_db()
    return task


def failing(*arguments: object) -> Any:
    raise OperationalError("server has gone away")


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
        scheduler = make_scheduler()
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

    @pytest.mark.parametrize("moved_by", ["another scheduler", "an edit"])
    def test_what_another_scheduler_is_at_is_left_to_it(self, moved_by: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """While this one starts what is queued. A task that was only edited and is due again holds nobody up."""
        first, second, third = (due_task(NOW - timedelta(seconds=n), cron="0 9 * * *") for n in (3, 2, 1))

        def lose(task: ExportTask, now: datetime) -> bool:
            if task != second:
                return enqueue_occurrences(task, now)
            if moved_by == "an edit":
                ExportTask.objects.filter(pk=task.pk).update(next_run_at=NOW - timedelta(minutes=1))
            else:
                enqueue_occurrences(ExportTask.objects.get(pk=task.pk), now)
            return enqueue_occurrences(task, now)

        with monkeypatch.context() as patched:
            patched.setattr("tasks.scheduler.enqueue_occurrences", lose)
            assert make_scheduler().enqueue_due() == (2 if moved_by == "an edit" else 1)
        assert len(states(third)) == (1 if moved_by == "an edit" else 0)
        assert make_scheduler().enqueue_due() == 1
        assert [len(states(task)) for task in (first, second, third)] == [1, 1, 1]

    def test_a_time_beyond_the_grace_is_missed_and_told(self) -> None:
        task = due_task(NOW - timedelta(hours=2), cron="0 10 * * *")
        make_scheduler().enqueue_due()
        assert states(task) == [(Status.MISSED, "misfire", NOW - timedelta(hours=2))]

    def test_of_several_late_times_the_newest_runs(self) -> None:
        task = due_task(NOW - timedelta(minutes=20), cron="*/10 * * * *")
        make_scheduler().enqueue_due()
        assert [state[:2] for state in states(task)] == [
            (Status.MISSED, "coalesced"),
            (Status.MISSED, "coalesced"),
            (Status.QUEUED, ""),
        ]

    def test_the_newest_missed_times_have_a_row_each_and_the_older_ones_share_one(self) -> None:
        task = due_task(NOW - timedelta(minutes=250), cron="* * * * *")
        make_scheduler().enqueue_due()
        rows = list(Execution.objects.order_by("scheduled_for"))
        assert len(rows) == 101
        assert [row.status for row in rows].count(Status.QUEUED) == 1
        assert (rows[-1].status, rows[-1].scheduled_for) == (Status.QUEUED, NOW)
        shared = rows[0]
        assert (shared.status, shared.reason, shared.occurrences) == (Status.MISSED, "misfire", 151)
        assert shared.range_start == NOW - timedelta(minutes=250)
        assert shared.scheduled_for == NOW - timedelta(minutes=100)
        assert sum(row.occurrences for row in rows) == 251
        task.refresh_from_db()
        assert task.next_run_at == NOW + timedelta(minutes=1)

    def test_with_catch_up_all_every_time_in_grace_runs(self) -> None:
        due_task(NOW - timedelta(minutes=250), cron="* * * * *", catch_up=CatchUp.ALL)
        make_scheduler().enqueue_due()
        assert Execution.objects.filter(status=Status.QUEUED).count() == 31  # 30 minutes of grace, and now
        assert sum(Execution.objects.values_list("occurrences", flat=True)) == 251

    def test_with_catch_up_none_a_late_time_does_not_run(self) -> None:
        task = due_task(NOW - timedelta(minutes=5), cron="55 11 * * *", catch_up=CatchUp.NONE)
        make_scheduler().enqueue_due()
        assert states(task) == [(Status.MISSED, "misfire", NOW - timedelta(minutes=5))]

    def test_a_pause_holds_everything_back_and_what_is_late_follows_the_rules(self) -> None:
        task = due_task(NOW)
        waiting = make_execution()
        assert Pause.objects.begin("ops", "maintenance")
        assert not Pause.objects.begin("someone else")
        scheduler = make_scheduler(5)
        assert scheduler.tick() == 0
        assert states(task) == []
        with time_machine.travel(NOW + timedelta(hours=3), tick=False):
            assert Pause.objects.end("ops")
            assert scheduler.tick() == 3
        waiting.refresh_from_db()
        assert waiting.status == Status.RUNNING
        assert [state[:2] for state in states(task)] == [
            (Status.MISSED, "misfire"),
            (Status.MISSED, "misfire"),
            (Status.MISSED, "misfire"),
            (Status.RUNNING, ""),
        ]
        assert not Pause.objects.end("ops")

    def test_a_database_that_is_away_for_a_moment_sets_no_task_aside(self, monkeypatch: pytest.MonkeyPatch) -> None:
        task = due_task(NOW)

        def fail(*arguments: object) -> None:
            raise OperationalError("deadlock")

        with monkeypatch.context() as patched:
            patched.setattr("tasks.scheduler.enqueue_occurrences", fail)
            with pytest.raises(OperationalError):
                make_scheduler().enqueue_due()
        task.refresh_from_db()
        assert task.next_run_at == NOW
        assert make_scheduler().enqueue_due() == 1

    def test_all_late_times_run_when_the_task_asks_for_it(self) -> None:
        task = due_task(NOW - timedelta(minutes=20), cron="*/10 * * * *", catch_up=CatchUp.ALL)
        make_scheduler().enqueue_due()
        assert [state[0] for state in states(task)] == [Status.QUEUED] * 3

    def test_a_time_that_was_already_queued_is_passed_over(self) -> None:
        task = due_task(NOW)
        make_execution(task, scheduled_for=NOW, status=Status.SUCCEEDED)
        make_scheduler().enqueue_due()
        task.refresh_from_db()
        assert task.next_run_at == NOW + timedelta(hours=1)
        assert len(states(task)) == 1

    def test_a_disabled_task_is_left_alone(self) -> None:
        task = due_task(NOW)
        ExportTask.objects.filter(pk=task.pk).update(enabled=False)
        assert make_scheduler().enqueue_due() == 0

    def test_one_task_that_fails_does_not_stop_the_others(self, monkeypatch: pytest.MonkeyPatch) -> None:
        due_task(NOW, name="a")
        good = due_task(NOW, name="b")
        ExportTask.objects.filter(name="a").update(cron="nonsense")
        make_scheduler().enqueue_due()
        assert states(good) == [(Status.QUEUED, "", NOW)]
        bad = ExportTask.objects.get(name="a")
        assert states(bad) == [(Status.MISSED, "unplannable", NOW)]
        assert bad.next_run_at is None


@pytest.mark.django_db
class TestReap:
    @pytest.fixture
    def clock(self, monkeypatch: pytest.MonkeyPatch) -> list[float]:
        clock = [1000.0]
        monkeypatch.setattr("tasks.scheduler.time.monotonic", lambda: clock[0])
        return clock

    def test_a_run_of_a_process_that_is_gone_is_closed_at_once(self) -> None:
        execution = running_execution(worker=dead_worker())
        assert make_scheduler().reap() == 1
        execution.refresh_from_db()
        assert (execution.status, execution.reason) == (Status.FAILED, "worker_lost")

    def test_a_run_elsewhere_is_closed_only_after_a_lease_without_a_heartbeat(self, clock: list[float]) -> None:
        execution = running_execution(worker="another-host:1:another")
        scheduler = make_scheduler()
        assert scheduler.reap() == 0
        clock[0] += 59
        assert scheduler.reap() == 0
        Execution.objects.filter(pk=execution.pk).update(heartbeat_seq=5)
        clock[0] += 59
        assert scheduler.reap() == 0
        clock[0] += 61
        assert scheduler.reap() == 1

    def test_the_time_in_which_the_database_was_away_is_not_held_against_a_worker(
        self, clock: list[float], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        running_execution(worker="another-host:1:another")
        scheduler = make_scheduler()
        assert scheduler.reap() == 0
        clock[0] += 30
        with monkeypatch.context() as patched:
            patched.setattr(ExecutionQuerySet, "running", failing)
            for _look in range(3):
                clock[0] += 600
                with pytest.raises(OperationalError):
                    scheduler.reap()
        clock[0] += 600
        assert scheduler.reap() == 0
        clock[0] += 59
        assert scheduler.reap() == 0
        clock[0] += 2
        assert scheduler.reap() == 1

    def test_the_process_of_another_run_is_not_killed_for_having_the_number_of_a_dead_one(
        self, clock: list[float]
    ) -> None:
        process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", "manage.py"])
        try:
            dead, living = (running_execution(worker=worker_name(process.pid)) for _run in range(2))
            scheduler = make_scheduler()
            scheduler.reap()
            clock[0] += 61
            Execution.objects.filter(pk=living.pk).update(heartbeat_seq=5)
            assert scheduler.reap() == 1
            assert process.poll() is None
        finally:
            process.kill()
            process.wait()
        dead.refresh_from_db()
        assert dead.reason == "worker_lost"

    def test_a_lost_run_is_tried_again_as_often_as_its_task_allows(self) -> None:
        execution = running_execution(make_task(max_retries=1, retry_delay=40), worker=dead_worker())
        scheduler = make_scheduler()
        assert scheduler.reap() == 1
        execution.refresh_from_db()
        assert (execution.status, execution.retries, execution.slot_key) == (Status.QUEUED, 1, None)
        assert [attempt["reason"] for attempt in execution.history] == ["worker_lost"]
        assert execution.not_before is not None
        wait = (execution.not_before - timezone.now()).total_seconds()
        assert 15 < wait < 60  # 40 seconds, half as long or half as much again
        assert scheduler.dispatch() == 0
        Execution.objects.update(not_before=timezone.now())
        assert scheduler.dispatch() == 1
        Execution.objects.update(worker=dead_worker())
        assert scheduler.reap() == 1
        execution.refresh_from_db()
        assert (execution.status, execution.reason, execution.attempt) == (Status.FAILED, "worker_lost", 2)

    def test_a_lost_run_that_was_to_be_cancelled_is_cancelled(self) -> None:
        execution = running_execution(make_task(max_retries=5), worker=dead_worker())
        assert Execution.objects.request_cancel(execution.pk)
        assert make_scheduler().reap() == 1
        execution.refresh_from_db()
        assert (execution.status, execution.reason) == (Status.CANCELLED, "cancelled")

    def test_a_run_from_the_command_line_ends_with_its_command(self) -> None:
        execution = running_execution(make_task(max_retries=5), worker=dead_worker(), trigger=Trigger.CLI)
        make_scheduler().reap()
        execution.refresh_from_db()
        assert execution.status == Status.FAILED

    def test_a_stuck_process_of_ours_is_killed_before_its_run_is_dealt_with(self, clock: list[float]) -> None:
        process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", "manage.py"])
        try:
            execution = running_execution(worker=worker_name(process.pid))
            scheduler = make_scheduler()
            assert scheduler.reap() == 0
            assert scheduler.adopted == 1
            clock[0] += 61
            assert scheduler.reap() == 1
            assert process.wait(5) == -signal.SIGKILL
        finally:
            process.kill()
            process.wait()
        execution.refresh_from_db()
        assert execution.reason == "worker_lost"

    def test_a_stuck_process_that_is_not_ours_is_left_alone(self, clock: list[float]) -> None:
        process = subprocess.Popen(["sleep", "600"])
        try:
            running_execution(worker=worker_name(process.pid))
            scheduler = make_scheduler()
            scheduler.reap()
            clock[0] += 61
            assert scheduler.reap() == 1
            assert process.poll() is None
        finally:
            process.kill()
            process.wait()

    def test_this_process_lives(self) -> None:
        assert not is_gone(worker_name())
        assert not is_gone("elsewhere:1:another")
        assert not is_gone("elsewhere:1")
        assert not is_gone("")
        assert is_gone(dead_worker())


@pytest.mark.django_db
class TestCollect:
    def test_a_process_that_was_killed_leaves_a_lost_run(self) -> None:
        execution = running_execution(worker=dead_worker())
        assert self.collect(Ended(execution.pk, 1, -signal.SIGKILL)) == 1
        execution.refresh_from_db()
        assert execution.reason == "worker_lost"

    def test_a_process_that_was_told_to_stop_before_it_listened_leaves_a_queued_run(self) -> None:
        execution = running_execution(worker=dead_worker())
        self.collect(Ended(execution.pk, 1, -signal.SIGTERM))
        execution.refresh_from_db()
        assert (execution.status, execution.reason, execution.retries) == (Status.QUEUED, "interrupted", 0)

    def test_an_older_attempt_says_nothing_about_the_row(self) -> None:
        execution = running_execution(worker=worker_name(), attempt=2)
        self.collect(Ended(execution.pk, 1, -signal.SIGKILL))
        execution.refresh_from_db()
        assert execution.status == Status.RUNNING

    def test_a_run_that_lives_on_without_its_starter_is_left_alone(self) -> None:
        process = subprocess.Popen(["sleep", "600"])
        try:
            execution = running_execution(worker=worker_name(process.pid))
            self.collect(Ended(execution.pk, 1, None))
            execution.refresh_from_db()
            assert execution.status == Status.RUNNING
        finally:
            process.kill()
            process.wait()

    def collect(self, *ended: Ended) -> int:
        executor = ClaimingExecutor()
        executor.ended = list(ended)
        executor.held = len(ended)
        return make_scheduler(executor=executor).collect()


def running_execution(task: ExportTask | None = None, **fields: Any) -> Execution:
    execution = make_execution(task, **{"status": Status.RUNNING, "attempt": 1, **fields})
    Execution.objects.filter(pk=execution.pk).update(slot_key=f"task:{execution.task_id}")
    return execution


def dead_worker() -> str:
    process = subprocess.Popen(["true"])
    process.wait()
    return worker_name(process.pid)


@pytest.mark.django_db
class TestDispatch:
    def test_a_run_by_hand_of_a_running_task_is_skipped_or_waits_as_the_task_says(self) -> None:
        for overlap, expected in ((Overlap.SKIP, Status.SKIPPED), (Overlap.QUEUE, Status.QUEUED)):
            task = make_task(overlap=overlap)
            running = make_execution(task)
            assert Execution.objects.claim(running.pk, worker="elsewhere:1:another")
            waiting = make_execution(task)
            assert make_scheduler().dispatch() == 0
            waiting.refresh_from_db()
            assert waiting.status == expected
            Execution.objects.all().delete()

    def test_what_somebody_has_asked_for_waits_and_is_not_skipped(self) -> None:
        for fields in ({"trigger": Trigger.BACKFILL}, {"trigger": Trigger.SCHEDULE}, {"attempt": 1}):
            task = make_task(catch_up=CatchUp.ALL)
            assert Execution.objects.claim(make_execution(task).pk, worker="elsewhere:1:another")
            waiting = make_execution(task, **fields)
            assert make_scheduler().dispatch() == 0
            waiting.refresh_from_db()
            assert waiting.status == Status.QUEUED
            Execution.objects.all().delete()

    def test_a_source_is_read_by_no_more_runs_at_once_than_it_allows(self, django_assert_max_num_queries: Any) -> None:
        source = make_source(max_concurrency=2)
        tasks = [make_task(data_source=source) for _ in range(6)]
        assert Execution.objects.claim(make_execution(tasks[0]).pk, worker="elsewhere:1:another")
        queued = [make_execution(task) for task in tasks[1:]]
        elsewhere = make_execution()
        executor = ClaimingExecutor()
        assert make_scheduler(10, executor).dispatch() == 2
        assert executor.started == [queued[0].pk, elsewhere.pk]

    def test_two_schedulers_together_keep_to_what_a_source_allows(self) -> None:
        source = make_source(max_concurrency=2)
        rows = [make_execution(make_task(data_source=source)) for _ in range(4)]
        claimed = [Execution.objects.claim(row.pk, worker=f"host{number}:1:x") for number, row in enumerate(rows)]
        assert [bool(row) for row in claimed] == [True, True, False, False]

    def test_a_place_that_is_taken_in_the_last_moment_is_not_given_twice(self, monkeypatch: pytest.MonkeyPatch) -> None:
        source = make_source(max_concurrency=1)
        first, second = (make_execution(make_task(data_source=source)) for _ in range(2))
        assert Execution.objects.claim(first.pk, worker="host1:1:x")
        # As a claimer sees it that has looked just before.
        monkeypatch.setattr(
            type(Execution.objects.all()), "_free_places", lambda self, source: [f"source:{source.pk}:0"]
        )
        assert Execution.objects.claim(second.pk, worker="host2:1:x") is None

    def test_what_is_urgent_starts_first(self) -> None:
        low, normal, high = (make_execution(make_task(priority=priority)) for priority in Priority)
        executor = ClaimingExecutor()
        make_scheduler(2, executor).dispatch()
        assert executor.started == [high.pk, normal.pk]
        assert low.pk not in executor.started

    def test_runs_that_wait_for_one_source_hold_up_no_others(self) -> None:
        busy = make_source(max_concurrency=1)
        tasks = [make_task(data_source=busy) for _ in range(50)]
        rows = [make_execution(task) for task in tasks]
        other = make_execution()
        executor = ClaimingExecutor()
        scheduler = make_scheduler(4, executor)
        scheduler.dispatch()
        scheduler.dispatch()
        assert executor.started == [rows[0].pk, other.pk]

    def test_many_times_of_one_task_hold_up_no_other_task(self) -> None:
        task = make_task(overlap=Overlap.QUEUE)
        rows = [make_execution(task) for _ in range(50)]
        others = [make_execution() for _ in range(2)]
        executor = ClaimingExecutor()
        assert make_scheduler(4, executor).dispatch() == 3
        assert executor.started == [rows[0].pk, *(row.pk for row in others)]

    def test_adopted_runs_count_as_workers(self) -> None:
        make_execution()
        scheduler = make_scheduler(2)
        scheduler.adopted = 2
        assert scheduler.dispatch() == 0
        scheduler.adopted = 1
        assert scheduler.dispatch() == 1

    def test_doing_nothing_takes_two_queries_however_many_tasks_there_are(
        self, django_assert_max_num_queries: Any
    ) -> None:
        source = make_source()
        later = timezone.now() + timedelta(days=1)
        ExportTask.objects.bulk_create(
            ExportTask(name=f"task {number}", data_source=source, sql="SELECT 1", cron="0 9 * * *", next_run_at=later)
            for number in range(1000)
        )
        with django_assert_max_num_queries(2):
            assert make_scheduler().tick() == 0


@pytest.mark.django_db
def test_a_scheduler_is_seen_to_live_until_it_stops() -> None:
    scheduler = make_scheduler(3)
    assert not SchedulerProcess.objects.alive().exists()
    scheduler.care()
    (seen,) = SchedulerProcess.objects.alive()
    assert (seen.name, seen.workers, seen.executor) == (worker_name(), 3, "claiming")
    scheduler.stop()
    assert not SchedulerProcess.objects.alive().exists()


@pytest.mark.django_db
def test_a_scheduler_stops_in_an_orderly_way_while_the_database_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler = make_scheduler()
    scheduler.care()
    closed: list[bool] = []
    monkeypatch.setattr(scheduler.executor, "close", lambda: closed.append(True))
    monkeypatch.setattr(scheduler.outbox, "deliver", failing)
    scheduler.finish(0)
    assert closed


@pytest.mark.django_db
def test_a_silent_scheduler_is_taken_for_dead() -> None:
    make_scheduler().care()
    SchedulerProcess.objects.update(seen_at=timezone.now() - timedelta(seconds=61))
    assert not SchedulerProcess.objects.alive().exists()


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
    assert eventually(lambda: last_execution(instance)["status"] == "queued")
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


@pytest.mark.django_db
def test_a_process_number_that_is_used_again_is_another_scheduler() -> None:
    first = make_scheduler()
    first.care()
    first.stop()
    (old,) = SchedulerProcess.objects.all()
    SchedulerProcess.objects.update(started_at=timezone.now() - timedelta(days=1))
    make_scheduler().care()
    (new,) = SchedulerProcess.objects.alive()
    assert new.pk != old.pk
    assert new.stopped_at is None


@pytest.mark.django_db
def test_a_scheduler_is_seen_to_live_while_it_runs_an_export_itself() -> None:
    executor = ClaimingExecutor()
    make_scheduler(executor=executor)
    executor.on_busy()
    assert SchedulerProcess.objects.alive().exists()
