"""What the dashboard shows, as figures: of the rows that a user may see, in a fixed number of queries.

Runs that have ended are counted by their end, through the index execution_by_end; the others as they are now. Days are
those of the system's zone.
"""

import shutil
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from datetime import date, datetime, timedelta
from typing import Any

from django.conf import settings
from django.db.models import Avg, Count, F, Max, Min, OuterRef, QuerySet, Subquery, Value
from django.urls import reverse
from django.utils import timezone

from datasources.models import DataSource
from exporter_site.access.scope import ALL_SOURCES, granted_sources
from notifications.models import Channel
from tasks import files, schedule, status
from tasks.dashboard_parts import (
    BAD,
    OTHER,
    Day,
    Disk,
    Failing,
    Figure,
    Live,
    Next,
    Overview,
    Running,
    Slow,
    Step,
    Trend,
    runs_url,
)
from tasks.models import Execution, ExportTask, Pause, SchedulerProcess
from tasks.states import ENDED, UNFINISHED, Status

TREND_DAYS = 14
LATELY_DAYS = 7  # of failing and slowest tasks
MOST_RUNNING = 20
MOST_NEXT = 10
MOST_TASKS = 5
LATE = timedelta(seconds=60)  # after its planned time a run that has not begun is overdue


def day_start(day: date) -> datetime:
    """The first moment of `day` in the system's zone, also where midnight is left out or comes twice."""
    return datetime(day.year, day.month, day.day, tzinfo=timezone.get_default_timezone())


def ended_on(executions: QuerySet[Execution], first: date, last: date) -> QuerySet[Execution]:
    """Those whose end is in the days from `first` to `last`."""
    # The states are named, because the index begins with them.
    return executions.filter(
        status__in=ENDED, finished_at__gte=day_start(first), finished_at__lt=day_start(last + timedelta(days=1))
    )


def today() -> date:
    return timezone.localdate(timezone=timezone.get_default_timezone())


def live(user: Any) -> Live:
    now = timezone.now()
    day = timezone.localdate(now, timezone.get_default_timezone())
    sees_runs, sees_tasks = user.has_perm("tasks.view_execution"), user.has_perm("tasks.view_exporttask")
    executions = _executions_of(user) if sees_runs else Execution.objects.none()
    waiting = executions.filter(status__in=UNFINISHED).order_by().values_list("status")
    unfinished = list(waiting.annotate(Count("pk"), Min("queued_at")))
    counts = Counter({state: count for state, count, _oldest in unfinished})
    counts.update(dict(_count_by_state(ended_on(executions, day, day))))
    return Live(
        at=now,
        sees_runs=sees_runs,
        sees_tasks=sees_tasks,
        may_cancel=sees_runs and user.has_perm("tasks.run_exporttask"),
        problems=status.problems(user),
        pause=Pause.objects.active().first(),
        schedulers=list(SchedulerProcess.objects.alive()),
        figures=[_figure(state, counts[state], day) for state in Status] if sees_runs else [],
        oldest_queued=next((oldest for state, _count, oldest in unfinished if state == Status.QUEUED), None),
        running=_running(executions, now),
        next=_next(user, now, day) if sees_tasks else [],
        disk=_disk(),
    )


def overview(user: Any) -> Overview:
    sees_runs = user.has_perm("tasks.view_execution")
    if not sees_runs:
        return Overview(trend=None, failing=[], slowest=[], steps=[])
    executions = _executions_of(user)
    steps = [] if executions.exists() else _steps(user)
    failing, slowest = _by_task(executions)
    return Overview(trend=_trend(executions), failing=failing, slowest=slowest, steps=steps)


def _executions_of(user: Any) -> QuerySet[Execution]:
    """for_user(), in words that keep the databases from reading the whole log of a source: SQLite prefers that index to
    the one of ends."""
    if user.has_perm(ALL_SOURCES):
        return Execution.objects.for_user(user)
    return Execution.objects.alias(source=F("data_source_id") + 0).filter(source__in=granted_sources(user))


def _count_by_state(executions: QuerySet[Execution]) -> QuerySet[Execution, tuple[str, int]]:
    return executions.order_by().values_list("status").annotate(Count("pk"))


def _figure(state: Status, count: int, day: date) -> Figure:
    filters = {} if state in UNFINISHED else {"ended": day.isoformat()}
    return Figure(state.value, state.label, count, runs_url(status__exact=state.value, **filters))


def _running(executions: QuerySet[Execution], now: datetime) -> list[Running]:
    # Only a run that succeeded has a checksum. Its state, in words, would send SQLite through all successes of all tasks.
    last = executions.filter(task=OuterRef("task")).exclude(sha256="").order_by("-id")
    rows = (
        executions.filter(status=Status.RUNNING)
        .select_related("data_source")
        .annotate(expected=Subquery(last.values("rows_count")[:1]))
        .order_by("id")
        .defer("sql", "sql_template", "history", "error", "params", "files")
    )
    return [_running_row(row, now) for row in rows[:MOST_RUNNING]]


def _running_row(row: Any, now: datetime) -> Running:
    progress = row.progress if isinstance(row.progress, dict) else {}
    return Running(
        pk=row.pk,
        task_name=row.task_name,
        source=str(row.data_source or ""),
        url=reverse("admin:tasks_execution_change", args=[row.pk]),
        attempt=row.attempt,
        elapsed=max(0.0, (now - (row.started_at or now)).total_seconds()),
        rows=progress.get("rows", 0),
        rate=progress.get("rate", 0),
        bytes=progress.get("bytes", 0),
        expected=row.expected,
        is_being_cancelled=row.cancel_requested_at is not None,
    )


def _next(user: Any, now: datetime, day: date) -> list[Next]:
    planned = ExportTask.objects.for_user(user).filter(enabled=True, next_run_at__isnull=False)
    rows = planned.select_related("data_source").only(
        "name", "cron", "timezone", "next_run_at", "data_source__name", "data_source__is_active"
    )
    return [_next_row(task, now, day) for task in rows.order_by("next_run_at", "pk")[:MOST_NEXT]]


def _next_row(task: ExportTask, now: datetime, day: date) -> Next:
    assert task.next_run_at is not None
    zone = "" if task.timezone == settings.TIME_ZONE else f" ({task.timezone})"
    return Next(
        task_name=task.name,
        source=task.data_source.name,
        url=reverse("admin:tasks_exporttask_change", args=[task.pk]),
        at=task.next_run_at,
        schedule=f"{schedule.describe(task.cron)}{zone}" if task.cron else "",
        is_today=timezone.localdate(task.next_run_at, timezone.get_default_timezone()) == day,
        is_overdue=task.next_run_at < now - LATE,
        is_blocked=not task.data_source.is_active,
    )


def _disk() -> Disk:
    free = files.free_bytes()
    return Disk(free, shutil.disk_usage(files.temp_root()).total, settings.CONFIG.export.min_free_disk)


def _trend(executions: QuerySet[Execution]) -> Trend:
    last = today()
    days = [last - timedelta(days=ago) for ago in range(TREND_DAYS - 1, -1, -1)]
    # A part for each day, each of it counted in the index: grouping by day would have to sort all rows.
    parts = [
        ended_on(executions, day, day)
        .order_by()
        .values(number=Value(number), state=F("status"))
        .annotate(count=Count("pk"))
        .values_list("number", "state", "count")
        for number, day in enumerate(days)
    ]
    counts: Counter[tuple[int, str]] = Counter()
    for number, state, count in parts[0].union(*parts[1:], all=True):
        counts[number, state] = count
    totals = [sum(counts[number, state] for state in ENDED) for number in range(TREND_DAYS)]
    return Trend(
        [
            Day(
                date=day,
                good=counts[number, Status.SUCCEEDED],
                bad=sum(counts[number, state] for state in BAD),
                other=sum(counts[number, state] for state in OTHER),
                highest=max(totals),
            )
            for number, day in enumerate(days)
        ]
    )


def _by_task(executions: QuerySet[Execution]) -> tuple[list[Failing], list[Slow]]:
    last = today()
    lately = ended_on(executions, last - timedelta(days=LATELY_DAYS - 1), last).filter(task__isnull=False).order_by()
    failed = list(
        lately.filter(status__in=BAD)
        .values("task")
        .annotate(count=Count("pk"), newest=Max("pk"))
        .order_by("-count", "task")[:MOST_TASKS]
    )
    slow = list(
        lately.filter(status=Status.SUCCEEDED)
        .values("task")
        .annotate(average=Avg("duration_seconds"), longest=Max("duration_seconds"), count=Count("pk"), newest=Max("pk"))
        .filter(average__isnull=False)
        .order_by("-average", "task")[:MOST_TASKS]
    )
    newest = _with_state_now(executions, [row["newest"] for row in (*failed, *slow)])
    failing = [
        Failing(newest[row["newest"]], row["count"], newest[row["newest"]].state_now == Status.SUCCEEDED)
        for row in failed
        if row["newest"] in newest
    ]
    slowest = [
        Slow(newest[row["newest"]].task_name, row["task"], row["average"], row["longest"], row["count"])
        for row in slow
        if row["newest"] in newest
    ]
    return sorted(failing, key=lambda task: task.is_over), slowest


def _with_state_now(executions: QuerySet[Execution], numbers: Iterable[int]) -> dict[int, Any]:
    """These runs; `state_now` is how the newest run of the same task ended that has ended."""
    newest = executions.filter(task=OuterRef("task"), finished_at__isnull=False).order_by("-id")
    rows = executions.filter(pk__in=numbers).annotate(state_now=Subquery(newest.values("status")[:1]))
    return {row.pk: row for row in rows.only("task", "task_name", "reason", "status", "finished_at")}


def _steps(user: Any) -> list[Step]:
    tasks = ExportTask.objects.for_user(user).exists()
    steps = [
        _step(user, "source", "datasources.add_datasource", DataSource.objects.for_user(user).exists()),
        _step(user, "task", "tasks.add_exporttask", tasks),
        _step(user, "channel", "notifications.add_channel", Channel.objects.shared().exists()),
        Step("run", False, reverse("admin:tasks_exporttask_changelist") if tasks else ""),
    ]
    first = next(step for step in steps if not step.is_done and step.name != "channel")  # a channel can wait
    return [replace(step, is_next=step is first) for step in steps]


def _step(user: Any, name: str, right: str, is_done: bool) -> Step:
    app, codename = right.split(".")
    url = reverse(f"admin:{app}_{codename.removeprefix('add_')}_add") if user.has_perm(right) else ""
    return Step(name, is_done, url)
