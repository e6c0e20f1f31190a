"""A log of many executions, and all ways to look at it. For tests/api/test_many_logs.py, tests/site/test_execution_list.py
and `python -m benchmarks logs | admin-lists`."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any

from django.db import connection, transaction

from datasources.models import DataSource
from tasks.models import Execution, ExportTask
from tasks.states import UNFINISHED, Status, Trigger

SOURCES, TASKS_OF_EACH = 20, 5
FIRST = datetime(2025, 1, 1, tzinfo=UTC)
_BATCH = 5000
# Of a hundred runs: what became of them, and who started them.
_STATUSES = (
    *[Status.SUCCEEDED] * 90, *[Status.FAILED] * 4, *[Status.SKIPPED] * 2, *[Status.MISSED] * 2, Status.TIMED_OUT, Status.CANCELLED,
)  # fmt: skip
_TRIGGERS = (*[Trigger.SCHEDULE] * 17, Trigger.MANUAL, Trigger.API, Trigger.BACKFILL)


def make_tasks() -> list[ExportTask]:
    """Five tasks of each of twenty sources."""
    sources = [DataSource(name=f"source {number}", kind="sqlite", database="/nowhere") for number in range(SOURCES)]
    DataSource.objects.bulk_create(sources)
    tasks = [
        ExportTask(name=f"task {number}", data_source=source, sql="SELECT 1")
        for number, source in enumerate(list(DataSource.objects.order_by("id")) * TASKS_OF_EACH)
    ]
    ExportTask.objects.bulk_create(tasks)
    return list(ExportTask.objects.order_by("id"))


def fill(count: int) -> None:
    """So many executions of all tasks, one each minute, as copies of a few hundred: the fastest way past the ORM."""
    Execution.objects.all().delete()
    tasks = list(ExportTask.objects.order_by("id"))
    # Numbers without a common divisor: each status meets each task and each trigger.
    patterns = [
        Execution(
            task=tasks[number % len(tasks)],
            task_name=tasks[number % len(tasks)].name,
            data_source_id=tasks[number % len(tasks)].data_source_id,
            status=_STATUSES[number * 37 % 101 % 100],
            trigger=_TRIGGERS[number * 7 % 23 % 20],
            planned_at=FIRST,
            format="xlsx",
            sql_template="SELECT 1",
            sql="SELECT column_one, column_two FROM orders WHERE created_at >= '2025-01-01' " * 5,
            filename=f"{'refunds' if number % 500 == 7 else 'orders'}_20250101_0900.xlsx",
            files=[{"path": "2025-01/1-1/orders.xlsx", "rows": 1000, "size": 50000, "sha256": "ab" * 32}],
            rows_count=1000,
        )
        for number in range(min(count, 2323))
    ]
    Execution.objects.bulk_create(patterns, batch_size=200)
    names = [str(field.column) for field in Execution._meta.concrete_fields if not field.primary_key]
    columns = ", ".join(connection.ops.quote_name(name) for name in names)
    table = connection.ops.quote_name(Execution._meta.db_table)
    planned, finished, status = (names.index(name) for name in ("planned_at", "finished_at", "status"))
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {columns} FROM {table} ORDER BY id")
        rows = cursor.fetchall()
    Execution.objects.all().delete()

    def copies() -> Iterator[list[Any]]:
        for number in range(count):
            row = list(rows[number % len(rows)])
            row[planned] = connection.ops.adapt_datetimefield_value(FIRST + timedelta(minutes=number))
            if row[status] not in UNFINISHED:
                row[finished] = connection.ops.adapt_datetimefield_value(FIRST + timedelta(minutes=number + 1))
            yield row

    left, insert = copies(), f"INSERT INTO {table} ({columns}) VALUES ({', '.join(['%s'] * len(names))})"
    with transaction.atomic(), connection.cursor() as cursor:
        while batch := list(islice(left, _BATCH)):
            cursor.executemany(insert, batch)
    analyse()


def analyse() -> None:
    """Let the database look after what it has now, as it does by itself after a while."""
    with connection.cursor() as cursor:
        if connection.vendor == "mysql":
            cursor.execute("ANALYZE TABLE tasks_execution")
            cursor.fetchall()
        else:
            vacuum = connection.vendor == "postgresql" and not connection.in_atomic_block
            cursor.execute("VACUUM (ANALYZE)" if vacuum else "ANALYZE")


def views(count: int) -> dict[str, str]:
    """{what it is: query of GET /api/logs}, for a log of `count` runs: each filter, each order, several at once, deep pages."""
    task = ExportTask.objects.order_by("id").values_list("pk", flat=True)[7]
    source = DataSource.objects.order_by("id").values_list("pk", flat=True)[0]
    day = (FIRST + timedelta(minutes=count // 2)).strftime("%Y-%m-%d")
    late = (FIRST + timedelta(minutes=count)).strftime("%Y-%m-%d")
    return {
        "all": "",
        "200 to a page": "page_size=200",
        "status, common": "status=succeeded",
        "status, rare": "status=timed_out",
        "status, none": "status=running",
        "two of status": "status=failed&status=timed_out",
        "trigger, common": "trigger=schedule",
        "trigger, rare": "trigger=api",
        "task": f"task={task}",
        "data source": f"data_source={source}",
        "since half": f"since={day}",
        "since the end": f"since={late}",
        "until half": f"until={day}",
        "one day": f"since={day}&until={day}",
        "status and task": f"status=failed&task={task}",
        "status and source": f"status=failed&data_source={source}",
        "status and trigger": "status=failed&trigger=api",
        "status and since": f"status=failed&since={day}",
        "status, trigger, task, since": f"status=failed&trigger=api&task={task}&since={day}",
        "oldest first": "ordering=id",
        "by planned time": "ordering=scheduled_for",
        "by planned time, backwards": "ordering=-scheduled_for",
        "status by planned time": "status=failed&ordering=-scheduled_for",
        "status, common, by planned time": "status=succeeded&ordering=-scheduled_for",
        "task by planned time": f"task={task}&ordering=-scheduled_for",
        "source by planned time": f"data_source={source}&ordering=-scheduled_for",
        "trigger by planned time": "trigger=api&ordering=-scheduled_for",
        "page 100": "page=100",
        "last page": f"page={max(1, count // 20)}",
        "last page of a status": f"status=succeeded&page={max(1, count * 8 // 10 // 20)}",
        "last page by planned time": f"ordering=scheduled_for&page={max(1, count // 20)}",
    }


def admin_views(count: int) -> dict[str, str]:
    """{what it is: query of the admin's list}: each filter, each search, each order, several at once, deep pages."""
    task = ExportTask.objects.order_by("id").values_list("pk", flat=True)[0]
    source = DataSource.objects.order_by("id").values_list("pk", flat=True)[0]
    half = FIRST + timedelta(minutes=count // 2)
    day, later = half.strftime("%Y-%m-%d"), (half + timedelta(days=7)).strftime("%Y-%m-%d")
    since, until = (
        f"planned_at_from_0={day}&planned_at_from_1=00:00:00",
        f"planned_at_to_0={later}&planned_at_to_1=00:00:00",
    )
    order_by_planned = 4  # the column, after the box to choose a row
    return {
        "all": "",
        "state, common": "status__in=succeeded",
        "state, rare": "status__in=timed_out",
        "states not ended": "status__in=queued,running",
        "states of failures": "status__in=failed,timed_out",
        "ended on a day": f"ended={day}",
        "ended in 14 days": "ended=14d",
        "failures of a day": f"status__in=failed,timed_out&ended={day}",
        "trigger, common": "trigger__exact=schedule",
        "trigger, rare": "trigger__exact=api",
        "task": f"task__id__exact={task}",
        "source": f"data_source__id__exact={source}",
        "planned since half": since,
        "planned in a week": f"{since}&{until}",
        "state and task": f"status__in=failed&task__id__exact={task}",
        "state and source": f"status__in=failed&data_source__id__exact={source}",
        "state and trigger": "status__in=failed&trigger__exact=api",
        "state and planned": f"status__in=failed&{since}&{until}",
        "trigger and source": f"trigger__exact=api&data_source__id__exact={source}",
        "trigger and planned": f"trigger__exact=api&{since}&{until}",
        "everything": f"status__in=failed&trigger__exact=api&data_source__id__exact={source}&task__id__exact={task}&ended=14d",
        "search: one task": "q=task 99",
        "search: a few tasks": "q=task 1",
        "search: all tasks": "q=task",
        "search: many files": "q=orders_2025",
        "search: few files": "q=refunds",
        "search: nothing": "q=nothing of the kind",
        "search: a number": f"q=%23{Execution.objects.order_by('id').values_list('pk', flat=True)[count // 2]}",
        "search and state": "q=task 99&status__in=failed",
        "search: all tasks, state": "q=task&status__in=timed_out",
        "search: many files, state": "q=orders&status__in=failed",
        "planned, oldest first": f"o={order_by_planned}",
        "planned, newest first": f"o=-{order_by_planned}",
        "number, oldest first": "o=1",
        "state, by planned": f"status__in=failed&o=-{order_by_planned}",
        "page 50": "p=50",
        "last page": f"p={max(1, count // 50)}",
    }
