"""How fast the scheduler starts what is due, and what it costs when nothing is: on each kind of system database."""

import argparse
import json
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.measure import tree_bytes
from benchmarks.stage import say
from tests.instance import Instance

KINDS = ("sqlite", "mysql", "postgresql")
IDLE_TICKS = 200
MOMENTS = 100  # times, 0.2 seconds apart, for the lag
LIMIT = 600  # seconds
SETTLED = 4  # seconds; then the processes that wait for a further run have left

TASKS = """
from datetime import timedelta
from django.utils import timezone
from datasources.models import DataSource
from tasks.models import *
source = DataSource.objects.get()
DataSource.objects.update(max_concurrency=1000)
ExportTask.objects.all().delete()
ExportTask.objects.bulk_create(
    ExportTask(name=f"task {{number}}", data_source=source, sql="SELECT * FROM orders", cron="0 0 1 1 *",
               format="xlsx" if number % 2 else "csv", next_run_at=timezone.now() + timedelta(days=9))
    for number in range({count}))
"""
DUE_NOW = "from tasks.models import *\nfrom django.utils import timezone\nExportTask.objects.update(next_run_at=timezone.now())"
DUE_ONE_BY_ONE = """
from datetime import timedelta
from django.utils import timezone
from tasks.models import *
first = timezone.now() + timedelta(seconds=2)
for number, task in enumerate(ExportTask.objects.all()):
    ExportTask.objects.filter(pk=task.pk).update(next_run_at=first + timedelta(seconds=0.2 * number))
"""
ENDED = """
import json, time
from tasks.models import *
end = time.monotonic() + {limit}
while Execution.objects.finished().count() < {count} and time.monotonic() < end:
    time.sleep(0.2)
rows = list(Execution.objects.values_list("scheduled_for", "queued_at", "started_at", "finished_at", "status"))
print(json.dumps({{
    "rows": len(rows), "succeeded": sum(row[4] == "succeeded" for row in rows),
    "seconds": (max(row[3] for row in rows) - min(row[1] for row in rows)).total_seconds(),
    "queueing": (max(row[1] for row in rows) - min(row[1] for row in rows)).total_seconds(),
    "lags": sorted((row[2] - row[0]).total_seconds() for row in rows)}}))
Execution.objects.all().delete()
"""
IDLE = """
import time
from django.db import connection, reset_queries
from tasks.executors.inline import InlineExecutor
from tasks.scheduler import Scheduler
scheduler = Scheduler(1, InlineExecutor())
scheduler.tick()
began = time.process_time()
for _ in range({ticks}): scheduler.tick()
print((time.process_time() - began) / {ticks} * 1000)
"""


def run(args: argparse.Namespace) -> None:
    results = [{"system_db": kind} | _measure(kind, args) for kind in args.system_db]
    heads = (
        f"{args.tasks} tasks due at once",
        "s",
        "queued in s",
        "lag p50 s",
        "p99 s",
        "idle tick CPU ms",
        "MiB",
        "MiB more",
    )
    report.table(
        heads,
        (
            (
                r["system_db"],
                r["seconds"],
                r["queueing"],
                r["lag_p50"],
                r["lag_p99"],
                r["idle_ms"],
                r["mib"],
                r["growth_mib"],
            )
            for r in results
        ),
    )
    print(f"MiB: a scheduler with its fork server; more: after {args.executions} further executions")
    report.write(args.json, "scheduler", {"tasks": args.tasks, "schedulers": args.schedulers}, results)


def _measure(kind: str, args: argparse.Namespace) -> dict[str, Any]:
    with _installation(kind) as instance:
        say(f"{kind}: an idle tick with {args.enabled} tasks")
        instance.python(TASKS.format(count=args.enabled))
        idle = float(instance.python(IDLE.format(ticks=IDLE_TICKS)))
        schedulers = [
            instance.spawn("runscheduler", "--workers", args.workers, stdout=None) for _ in range(args.schedulers)
        ]
        time.sleep(5)
        say(f"{kind}: {args.tasks} tasks due at once")
        instance.python(TASKS.format(count=args.tasks))
        together = _until_ended(instance, DUE_NOW, args.tasks)
        say(f"{kind}: {MOMENTS} tasks, one by one")
        instance.python(TASKS.format(count=MOMENTS))
        lags = _until_ended(instance, DUE_ONE_BY_ONE, MOMENTS)["lags"]
        say(f"{kind}: memory over {args.executions} executions")
        time.sleep(SETTLED)
        before = tree_bytes(schedulers[0].pid)
        instance.python(TASKS.format(count=args.tasks))
        for _round in range(args.executions // args.tasks):
            _until_ended(instance, DUE_NOW, args.tasks)
        time.sleep(SETTLED)
        after = tree_bytes(schedulers[0].pid)
        return {
            "seconds": together["seconds"],
            "queueing": together["queueing"],
            "lag_p50": lags[len(lags) // 2],
            "lag_p99": lags[int(len(lags) * 0.99) - 1],
            "idle_ms": idle,
            "mib": before / report.MIB,
            "growth_mib": (after - before) / report.MIB,
        }


def _until_ended(instance: Instance, begin: str, count: int) -> dict[str, Any]:
    instance.python(begin)
    ended: dict[str, Any] = json.loads(instance.python(ENDED.format(limit=LIMIT, count=count), timeout=LIMIT + 60))
    if not ended["rows"] == ended["succeeded"] == count:
        raise RuntimeError(f"{count} runs were due, there are {ended['rows']}, {ended['succeeded']} of them succeeded")
    return ended


@contextmanager
def _installation(kind: str) -> Iterator[Instance]:
    with tempfile.TemporaryDirectory(prefix="exporter-benchmarks-") as directory:
        instance = Instance(Path(directory) / "instance", kind)
        try:
            file = Path(directory) / "shop.db"
            with closing(sqlite3.connect(file)) as shop, shop:
                shop.execute("CREATE TABLE orders AS SELECT 1 AS id, '张三' AS customer UNION SELECT 2, '李四'")
            instance.manage("datasource", "create", "shop", "sqlite", "-", "-", file, "-")
            yield instance
        finally:
            instance.close()
