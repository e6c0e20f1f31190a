"""`task backfill` and `task cancel`."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.utils import translation

from tasks import backfill
from tasks.launch import LaunchError
from tasks.models import Execution, ExportTask
from tasks.states import Status, Trigger
from tests.factories import make_execution, make_task

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _english() -> Iterator[None]:
    with translation.override("en"):
        yield


def run(*args: object) -> str:
    out = StringIO()
    call_command("task", *map(str, args), stdout=out)
    return out.getvalue()


def daily() -> ExportTask:
    return make_task(name="daily", cron="0 9 * * *")


def planned() -> list[datetime]:
    return list(Execution.objects.order_by("id").values_list("planned_at", flat=True))


def at_nine(day: int) -> datetime:
    return datetime(2025, 8, day, 1, 0, tzinfo=UTC)  # 09:00 in Shanghai


def test_every_planned_time_of_the_range_is_queued_both_days_included() -> None:
    daily()
    out = run("backfill", "daily", "--from", "2025-08-01", "--to", "2025-08-03")
    assert planned() == [at_nine(1), at_nine(2), at_nine(3)]
    assert set(Execution.objects.values_list("trigger", "status", "notify")) == {
        (Trigger.BACKFILL, Status.QUEUED, True)
    }
    assert "2025-08-03 09:00 CST" in out


def test_what_has_succeeded_or_waits_is_left_out_unless_asked_for() -> None:
    task = daily()
    make_execution(task, planned_at=at_nine(1), status=Status.SUCCEEDED)
    make_execution(task, planned_at=at_nine(2), status=Status.FAILED)
    make_execution(task, planned_at=at_nine(3))
    out = json.loads(run("backfill", "daily", "--from", "2025-08-01", "--to", "2025-08-03", "--json", "--no-notify"))
    assert out["times"] == ["2025-08-02T01:00:00Z"]
    assert Execution.objects.get(trigger=Trigger.BACKFILL).notify is False
    run("backfill", "daily", "--from", "2025-08-01", "--to", "2025-08-03", "--again")
    assert Execution.objects.filter(trigger=Trigger.BACKFILL).count() == 4


def test_a_dry_run_only_shows_the_times() -> None:
    daily()
    assert "2025-08-01 09:00" in run("backfill", "daily", "--from", "2025-08-01", "--to", "2025-08-01", "--dry-run")
    assert planned() == []


def test_a_task_without_a_schedule_has_one_time_a_day() -> None:
    make_task(name="by hand")
    run("backfill", "by hand", "--from", "2025-08-01T08:30", "--to", "2025-08-03")
    assert planned() == [datetime(2025, 8, day, 0, 30, tzinfo=UTC) for day in (1, 2, 3)]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--from", "2025-08-02T10:00", "--to", "2025-08-02T11:00"), "no time in this range"),
        (("--from", "2025-08-02", "--to", "2025-08-01"), "no time in this range"),
        (("--from", "yesterday", "--to", "2025-08-01"), "is not a date"),
        (("--from", "2015-01-01", "--to", "2025-08-01"), "more than 1000 runs"),
    ],
)
def test_a_range_that_can_not_be_meant_is_refused_in_words(arguments: tuple[str, ...], said: str) -> None:
    daily()
    with pytest.raises(CommandError, match=said) as caught:
        run("backfill", "daily", *arguments)
    assert caught.value.returncode == 2
    assert planned() == []


def test_the_moment_of_a_clock_change_is_planned_once() -> None:
    task = make_task(cron="30 2 * * *", timezone="Europe/Berlin")
    first = datetime(2025, 3, 29, tzinfo=UTC)
    found = backfill.moments(task, first, datetime(2025, 3, 31, 12, tzinfo=UTC))
    assert [moment.day for moment in found] == [29, 30, 31]
    with pytest.raises(LaunchError):
        backfill.moments(task, first, first)


def test_cancel_ends_a_queued_run_and_says_when_it_is_too_late() -> None:
    execution = make_execution()
    assert "is being cancelled" in run("cancel", execution.pk)
    execution.refresh_from_db()
    assert execution.status == Status.CANCELLED
    with pytest.raises(CommandError, match="already ended") as caught:
        run("cancel", execution.pk)
    assert caught.value.returncode == 1
    with pytest.raises(CommandError, match="no execution 999") as caught:
        run("cancel", 999)
    assert caught.value.returncode == 2
