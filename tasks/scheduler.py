"""What must happen whether or not somebody watches: dead runs are closed, due runs queued, queued runs started.

Each step is a method that returns how much it did and is safe beside any number of other schedulers: the database
decides who wins (guarded updates, one row per occurrence), never a lock in memory.
"""

import itertools
import logging
import os
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timedelta

from cronsim import CronSimError
from django.conf import settings
from django.db import IntegrityError, close_old_connections, transaction
from django.utils import timezone

from datasources.connectors.base import ConnectorError
from exporter_site.config import BASE_DIR
from tasks import files, schedule
from tasks.models import CatchUp, Execution, ExportTask, worker_name
from tasks.states import Overlap, Status, Trigger

logger = logging.getLogger(__name__)

LEASE = 60.0  # seconds without a heartbeat after which a run's worker is taken for dead
MOST_AT_ONCE = 100  # times of one task that one step turns into rows; the next step goes on


class Scheduler:
    """`workers`: how many exports this scheduler runs at once, each in a process of its own."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.running: dict[int, subprocess.Popen[bytes]] = {}
        # (attempt, heartbeat) of each running row and since when, by our own monotonic clock, it has not changed.
        # Clocks of two hosts are never compared.
        self._seen: dict[int, tuple[tuple[int, int], float]] = {}

    def tick(self) -> None:
        steps: tuple[Callable[[], int], ...] = (self.collect, self.reap, self.enqueue_due, self.dispatch)
        for step in steps:
            try:
                step()
            except Exception:  # A bad row or a database that is away for a moment must not stop the others.
                logger.exception("scheduler step %s failed", step.__name__)
                close_old_connections()

    def collect(self) -> int:
        """Take note of workers that have ended; one that died without a word is closed at once."""
        ended = [pk for pk, process in self.running.items() if process.poll() is not None]
        for pk in ended:
            del self.running[pk]
            left = Execution.objects.filter(pk=pk, status=Status.RUNNING).first()
            if left is not None:
                close_lost(left)
        return len(ended)

    def reap(self) -> int:
        """Close the runs whose worker is dead. Returns how many."""
        rows = list(Execution.objects.filter(status=Status.RUNNING).exclude(pk__in=self.running))
        now = time.monotonic()
        seen: dict[int, tuple[tuple[int, int], float]] = {}
        lost = 0
        for row in rows:
            beat = (row.attempt, row.heartbeat_seq)
            known = self._seen.get(row.pk)
            since = known[1] if known and known[0] == beat else now
            seen[row.pk] = (beat, since)
            if now - since > LEASE or worker_is_gone(row.worker):
                lost += close_lost(row)
        self._seen = seen
        return lost

    def enqueue_due(self) -> int:
        """Queue the runs whose time has come. Returns how many tasks were due."""
        due = list(ExportTask.objects.filter(enabled=True, next_run_at__lte=timezone.now()))
        for task in due:
            try:
                enqueue_occurrences(task, timezone.now())
            except IntegrityError:
                # Queued by another scheduler in this moment, or before the clock was set back: go on behind it.
                ExportTask.objects.filter(pk=task.pk, next_run_at=task.next_run_at).update(
                    next_run_at=schedule.next_run(task.cron, task.timezone, timezone.now())
                )
            except (CronSimError, ValueError, KeyError):
                # A task that can't be planned is set aside; saving it anew puts it back. A database that is away for
                # a moment is no reason for that: its errors go up, and the next tick tries again.
                logger.exception("“%s” can't be planned and is set aside", task.name)
                ExportTask.objects.filter(pk=task.pk).update(next_run_at=None)
        return len(due)

    def dispatch(self) -> int:
        """Start queued runs while there are free workers. Returns how many were started."""
        started = 0
        reading: Counter[int | None] = Counter(
            Execution.objects.filter(status=Status.RUNNING).values_list("data_source", flat=True)
        )
        queued = Execution.objects.filter(status=Status.QUEUED).select_related("task", "data_source").order_by("id")
        for row in list(queued[:200]):
            if len(self.running) >= self.workers:
                break
            if row.data_source is not None and reading[row.data_source.pk] >= row.data_source.max_concurrency:
                continue
            if self._start(row):
                started += 1
                reading[row.data_source_id] += 1
        return started

    def _start(self, row: Execution) -> bool:
        claimed = Execution.objects.claim(row.pk, worker=worker_name())
        if claimed is None:
            if row.task is not None and row.task.overlap == Overlap.SKIP and is_running(row.task):
                Execution.objects.skip(row.pk, "overlap")
            return False
        command = [sys.executable, str(BASE_DIR / "manage.py"), "runexecution", str(row.pk), str(claimed.attempt)]
        # Its own session: a Ctrl-C or a stop of the scheduler is not a stop of its exports.
        self.running[row.pk] = subprocess.Popen(command, start_new_session=True, stdin=subprocess.DEVNULL)
        return True

    def stop_workers(self) -> None:
        """Ask the running exports to stop; each then ends as `failed: interrupted` and removes its files."""
        for process in self.running.values():
            process.terminate()


def enqueue_occurrences(task: ExportTask, now: datetime) -> None:
    """Turn every time of `task` that has come into one row, and move its next run on, in one transaction."""
    due_at = task.next_run_at
    if due_at is None:
        return
    grace = timedelta(seconds=settings.CONFIG.scheduler.misfire_grace_time)
    upcoming = itertools.chain([due_at], schedule.upcoming(task.cron, task.timezone, due_at))
    times = list(itertools.takewhile(lambda moment: moment <= now, itertools.islice(upcoming, MOST_AT_ONCE)))
    next_run_at = schedule.next_run(task.cron, task.timezone, times[-1])
    # A newer one that has come, too, is dealt with in the next step.
    newest = times[-1] if next_run_at is None or next_run_at > now else None
    with transaction.atomic():
        moved = ExportTask.objects.filter(pk=task.pk, next_run_at=due_at, enabled=True).update(next_run_at=next_run_at)
        if not moved:
            return  # Another scheduler was faster, or the task has just been edited.
        for moment in times:
            execution = Execution.objects.enqueue(task, trigger=Trigger.SCHEDULE, planned_at=moment)
            if now - moment > grace:
                Execution.objects.miss(execution.pk, "misfire")
            elif moment != newest and task.catch_up != CatchUp.ALL:
                Execution.objects.miss(execution.pk, "coalesced")


def is_running(task: ExportTask) -> bool:
    return Execution.objects.filter(task=task, status=Status.RUNNING).exists()


def worker_is_gone(worker: str) -> bool:
    """Whether `worker` was a process of this machine that does not exist any more. False when nobody can say."""
    host, _colon, pid = worker.rpartition(":")
    if host != socket.gethostname() or not pid.isdigit():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def close_lost(execution: Execution) -> bool:
    """Close a run whose worker died: its state, its files, its query on the server. False if it lived after all."""
    if not Execution.objects.fail_lost(execution):
        return False
    logger.warning("execution %s: its worker %s is gone", execution.pk, execution.worker)
    files.sweep(execution.pk, execution.attempt)
    if execution.backend_id and execution.data_source is not None:
        try:
            source = execution.data_source
            source.connector(timezone=settings.TIME_ZONE, label=execution.label).kill(execution.backend_id)
        except ConnectorError as exc:
            logger.warning("execution %s: its query could not be ended on the server: %s", execution.pk, exc)
    return True
