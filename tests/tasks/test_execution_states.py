"""Every arrow of the state machine, and that a stale holder of a run changes nothing."""

import pytest

from tasks.models import Execution
from tasks.states import Overlap, Status
from tests.factories import make_execution, make_task

pytestmark = pytest.mark.django_db


def test_a_queued_run_is_claimed_once() -> None:
    execution = make_execution()
    first = Execution.objects.claim(execution.pk, worker="a:1")
    assert first is not None
    assert (first.status, first.attempt, first.worker) == (Status.RUNNING, 1, "a:1")
    assert Execution.objects.claim(execution.pk, worker="b:2") is None


def test_two_runs_of_one_task_do_not_run_at_once() -> None:
    task = make_task()
    first, second = make_execution(task), make_execution(task)
    running = Execution.objects.claim(first.pk, worker="a:1")
    assert running is not None
    assert Execution.objects.claim(second.pk, worker="a:1") is None
    assert Execution.objects.finish(running, Status.SUCCEEDED)
    assert Execution.objects.claim(second.pk, worker="a:1") is not None


def test_a_task_that_allows_it_runs_side_by_side() -> None:
    task = make_task(overlap=Overlap.PARALLEL)
    first, second = make_execution(task), make_execution(task)
    assert Execution.objects.claim(first.pk, worker="a:1") is not None
    assert Execution.objects.claim(second.pk, worker="a:1") is not None


def test_a_worker_that_was_replaced_can_neither_beat_nor_finish() -> None:
    execution = make_execution()
    stale = Execution.objects.claim(execution.pk, worker="a:1")
    assert stale is not None
    Execution.objects.filter(pk=stale.pk).update(attempt=2, worker="b:2")
    assert not Execution.objects.heartbeat(stale, {"rows": 1}, "77")
    assert not Execution.objects.finish(stale, Status.SUCCEEDED, rows_count=1)
    row = Execution.objects.get(pk=stale.pk)
    assert (row.status, row.attempt, row.worker, row.rows_count, row.backend_id) == (Status.RUNNING, 2, "b:2", None, "")


def test_an_ended_run_is_not_ended_again() -> None:
    execution = make_execution()
    running = Execution.objects.claim(execution.pk, worker="a:1")
    assert running is not None
    assert Execution.objects.finish(running, Status.SUCCEEDED, rows_count=3)
    assert not Execution.objects.finish(running, Status.FAILED)
    assert not Execution.objects.request_cancel(execution.pk)
    assert Execution.objects.get(pk=execution.pk).status == Status.SUCCEEDED


def test_a_run_that_beats_again_is_not_closed_as_lost() -> None:
    execution = make_execution()
    running = Execution.objects.claim(execution.pk, worker="a:1")
    assert running is not None
    seen = Execution.objects.get(pk=running.pk)
    assert Execution.objects.heartbeat(running, {}, "")
    assert not Execution.objects.end_lost(seen)
    assert Execution.objects.end_lost(Execution.objects.get(pk=running.pk))
    row = Execution.objects.get(pk=running.pk)
    assert (row.status, row.reason, row.slot_key) == (Status.FAILED, "worker_lost", None)


def test_cancelling_ends_a_queued_run_and_asks_a_running_one() -> None:
    queued, other = make_execution(), make_execution()
    assert Execution.objects.request_cancel(queued.pk)
    assert Execution.objects.get(pk=queued.pk).status == Status.CANCELLED
    running = Execution.objects.claim(other.pk, worker="a:1")
    assert running is not None
    assert Execution.objects.request_cancel(running.pk)
    assert Execution.objects.cancel_requested(running)
    assert Execution.objects.get(pk=running.pk).status == Status.RUNNING


def test_a_run_keeps_the_sql_it_was_queued_with() -> None:
    execution = make_execution(make_task(sql="SELECT 1 AS before"))
    task = execution.task
    assert task is not None
    task.sql = "SELECT 2 AS after"
    task.save()
    assert Execution.objects.get(pk=execution.pk).sql_template == "SELECT 1 AS before"


def test_deleting_a_task_keeps_its_executions_with_their_names() -> None:
    execution = make_execution(make_task(name="每日订单"))
    assert execution.task is not None
    execution.task.delete()
    row = Execution.objects.get(pk=execution.pk)
    assert (row.task, row.task_name) == (None, "每日订单")
