"""Runs for planned times of the past: the month that a new report should have, the week that a source was away."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from itertools import takewhile
from typing import Any

from django.db import transaction
from django.utils.translation import gettext as _

from tasks import schedule
from tasks.launch import LaunchError, parse_date
from tasks.models import Execution, ExportTask
from tasks.states import UNFINISHED, Status, Trigger

MOST = 1000  # runs that one backfill queues


def end_of(text: str, timezone: str) -> datetime:
    """The last moment of a date, or the moment itself when it has a time. Raises LaunchError."""
    moment = parse_date(text, timezone)
    is_date = len(text) <= len("2025-08-12")
    return moment + timedelta(days=1, microseconds=-1) if is_date else moment


def moments(task: ExportTask, first: datetime, last: datetime) -> list[datetime]:
    """The planned times of `task` from `first` to `last`, both included; each day, for a task without a schedule.

    Raises LaunchError when there are none, or too many.
    """
    if task.cron:
        times = schedule.upcoming(task.cron, task.timezone, first - timedelta(microseconds=1))
    else:
        times = (first + timedelta(days=day) for day in range((last - first).days + 1))
    found: list[datetime] = []
    for moment in takewhile(lambda moment: moment <= last, times):
        found.append(moment)
        if len(found) > MOST:
            raise LaunchError(_("These are more than {most} runs. Choose a shorter range of dates.").format(most=MOST))
    if not found:
        raise LaunchError(_("The schedule of “{name}” has no time in this range.").format(name=task.name))
    return found


def without_succeeded(task: ExportTask, moments: Iterable[datetime]) -> list[datetime]:
    """Those of `moments` for which no run has succeeded, nor is on its way."""
    wanted = list(moments)
    rows = Execution.objects.filter(task=task, planned_at__in=wanted, status__in=(Status.SUCCEEDED, *UNFINISHED))
    done = set(rows.values_list("planned_at", flat=True))
    return [moment for moment in wanted if moment not in done]


def enqueue(
    task: ExportTask, moments: Iterable[datetime], *, notify: bool = True, created_by: Any = None
) -> list[Execution]:
    """Queue a run for each of `moments`, or none of them. They run one after another if the task says so."""
    with transaction.atomic():
        return [
            Execution.objects.enqueue(
                task, trigger=Trigger.BACKFILL, planned_at=moment, notify=notify, created_by=created_by
            )
            for moment in moments
        ]
