"""What must happen whether or not somebody watches: due runs queued, queued runs started, dead runs taken up or closed.

Each step is a method that returns how much it did and is safe beside any number of other schedulers: the database
decides who wins (guarded updates, one row per occurrence), never a lock in memory, and never two hosts' clocks.

    step()   care and tick
    care()   collect; every few seconds reap, beat and a piece of housekeep
    tick()   enqueue_due, dispatch: two queries when there is nothing to do
"""

import logging
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta

from cronsim import CronSimError
from django.conf import settings
from django.db import DatabaseError, IntegrityError, InterfaceError, close_old_connections, transaction
from django.db.models import Exists
from django.utils import timezone

from exporter_site import logs, worker
from exporter_site.redact import redact
from notifications.outbox import Outbox
from tasks import announce, housekeeping, schedule
from tasks.executors.base import Ended, Executor
from tasks.leftovers import clear_away
from tasks.models import CatchUp, Execution, ExportTask, Pause, SchedulerProcess
from tasks.states import Overlap, Trigger

logger = logging.getLogger(__name__)

LEASE = 60.0  # seconds without a heartbeat after which a run's worker is taken for dead
CARE_EVERY = 2.0  # seconds
DELIVER_EVERY = 1.0  # seconds
BEAT_EVERY = 10.0  # seconds
MOST_DUE = 200  # tasks that one step plans; the next step goes on
MOST_READY = 1000  # queued runs among which one step looks for those that may start
MOST_MISSED = 100  # missed times of one task that get a row each; the older ones share one
ON_TIME = timedelta(seconds=60)  # with catch_up none, what is later than this does not run
CLEAN_EVERY = 3600.0  # seconds
COMPLAIN_EVERY = 10.0  # seconds between two lines about a database that is away


class Scheduler:
    """`workers`: how many exports run at once on this machine, those that an earlier scheduler started included."""

    def __init__(self, workers: int, executor: Executor, outbox: Outbox | None = None) -> None:
        self.workers = workers
        self.outbox = outbox or Outbox()
        self.executor = executor
        executor.on_busy = lambda: self._each(self.beat)
        self.name = worker.worker_name()
        self.adopted = 0  # runs on this machine that an earlier scheduler has started
        # (attempt, heartbeat) of each running row and since when, by our own monotonic clock, it has not changed.
        self._seen: dict[int, tuple[tuple[int, int], float]] = {}
        self._looked_at, self._blind = 0.0, False  # when that was looked at, and whether a look has failed since
        self._ended: list[Ended] = []  # not yet dealt with: the database was away
        self._housework: Iterator[housekeeping.Removed] | None = None
        self._removed: housekeeping.Removed | None = None
        self._cared_at = self._beaten_at = self._delivered_at = float("-inf")
        self._cleaned_at = self._complained_at = float("-inf")

    def step(self) -> int:
        """All that is to be done now. Returns how much that was."""
        return self.care() + self.tick()

    def care(self) -> int:
        done = self._each(self.collect)
        if time.monotonic() - self._cared_at >= CARE_EVERY:
            self._cared_at = time.monotonic()
            done += self._each(self.reap, self.outbox.reap, self.beat)
            self._each(self.housekeep)  # not counted: nobody waits for it
        if time.monotonic() - self._delivered_at >= DELIVER_EVERY:
            self._delivered_at = time.monotonic()
            done += self._each(self.deliver)
        return done

    def tick(self) -> int:
        return self._each(self.enqueue_due, self.dispatch)

    def _each(self, *steps: Callable[[], int]) -> int:
        done = 0
        for step in steps:
            try:
                done += step()
            except (DatabaseError, InterfaceError) as exc:
                self._complain(step.__name__, exc)
                close_old_connections()  # those that broke
            except Exception:  # A bad row must not stop the others.
                logger.exception("scheduler step %s failed", step.__name__)
        return done

    def _complain(self, step: str, exc: Exception) -> None:
        """A database that is away is tried twice a second; one line in ten seconds says so."""
        now = time.monotonic()
        if now - self._complained_at >= COMPLAIN_EVERY:
            self._complained_at = now
            logger.warning("scheduler step %s will be tried again: %s", step, redact(str(exc)).strip())

    def collect(self) -> int:
        """Take note of runs that have ended; one whose process died without a word is dealt with at once."""
        self._ended += self.executor.collect()
        count = len(self._ended)
        # Asked about together, and only then, one by one: hardly any of them still says that it runs.
        numbers = [run.execution_id for run in self._ended]
        rows = {row.pk: row for row in Execution.objects.running().filter(pk__in=numbers).order_by()} if numbers else {}
        while self._ended:
            run = self._ended.pop(0)
            row = rows.get(run.execution_id)
            try:
                if row is not None and row.attempt == run.attempt:
                    self._close_ended(run, row)
            except (DatabaseError, InterfaceError):
                self._ended.insert(0, run)  # The executor tells it once; the next step tries again.
                raise
        return count

    def _close_ended(self, run: Ended, row: Execution) -> None:
        if run.code is None and row.worker != self.name and not worker.is_gone(row.worker):
            return  # It lives on without the process that started it.
        if run.code == -signal.SIGTERM and Execution.objects.requeue(row, "interrupted", counts=False):
            clear_away(row)
        else:
            close_lost(row)

    def reap(self) -> int:
        """Take up or close the runs whose worker is dead. Returns how many."""
        rows = self._look()
        names = Counter(row.worker for row in rows)
        now = self._looked_at
        seen: dict[int, tuple[tuple[int, int], float]] = {}
        lost = adopted = 0
        for row in rows:
            beat = (row.attempt, row.heartbeat_seq)
            known = self._seen.get(row.pk)
            since = known[1] if known and known[0] == beat else now
            seen[row.pk] = (beat, since)
            silent = now - since > LEASE
            if silent or worker.is_gone(row.worker):
                # A run that was claimed and never began bears the name of its scheduler, which may be in good health; and
                # in a container that was started again, a number may belong to the process of another run by now.
                stuck = silent and names[row.worker] == 1
                stuck = stuck and not SchedulerProcess.objects.alive().filter(name=row.worker).exists()
                if stuck and worker.kill(row.worker):
                    logger.warning("execution %s: its worker was stuck and has been killed", row.pk)
                lost += close_lost(row)
            elif (
                self.executor.on_this_machine
                and not self.executor.holds(row.pk, row.attempt)
                and row.trigger != Trigger.CLI
            ):
                adopted += worker.local_pid(row.worker) is not None
        self._seen, self.adopted = seen, adopted
        return lost

    def _look(self) -> list[Execution]:
        """What is running. The time for which the database was away before is not held against any worker: nobody could
        show that it lives, and a whole file may wait for nothing but to be recorded."""
        try:
            rows = list(Execution.objects.running())
        except (DatabaseError, InterfaceError):
            self._blind = True
            raise
        now = time.monotonic()
        if self._blind:
            away = now - self._looked_at
            self._seen = {pk: (beat, since + away) for pk, (beat, since) in self._seen.items()}
        self._looked_at, self._blind = now, False
        return rows

    def beat(self) -> int:
        """Be seen to live. Returns whether it was time to."""
        if time.monotonic() - self._beaten_at < BEAT_EVERY:
            return 0
        SchedulerProcess.objects.beat(
            self.name, executor=self.executor.kind, workers=self.workers, running=self.executor.running + self.adopted
        )
        self._beaten_at = time.monotonic()
        return 1

    def deliver(self) -> int:
        """Start sending the messages that are due. Returns how many."""
        return self.outbox.deliver()

    def housekeep(self) -> int:
        """Move the housework on by one piece. Returns whether there was one."""
        if self._housework is None:
            if time.monotonic() - self._cleaned_at < CLEAN_EVERY:
                return 0
            self._cleaned_at = time.monotonic()
            self._housework = housekeeping.housework()
        work, self._housework = self._housework, None
        for removed in work:
            self._removed = removed
            self._housework = work  # only now: one that has failed can't go on
            return 1
        if self._removed:
            logger.info("housekeeping: %s", self._removed)
            self._removed = None
        return 0

    def enqueue_due(self) -> int:
        """Queue the runs whose time has come. Returns how many tasks were dealt with."""
        due = ExportTask.objects.filter(~Exists(Pause.objects.active()), enabled=True, next_run_at__lte=timezone.now())
        done = 0
        for task in due.order_by("next_run_at")[:MOST_DUE]:
            try:
                planned = enqueue_occurrences(task, timezone.now())
            except (CronSimError, ValueError, KeyError):
                # A task that can't be planned is set aside; saving it anew puts it back. A database that is away for
                # a moment is no reason for that: its errors go up, and the next step tries again.
                logger.exception("“%s” can't be planned and is set aside", task.name)
                set_aside(task)
                planned = True
            if not planned and not due.filter(pk=task.pk).exists():
                break  # Another scheduler is at it: this one starts meanwhile what is queued already.
            done += planned
        return done

    def dispatch(self) -> int:
        """Start queued runs while there are free workers. Returns how many were started."""
        free = self.workers - self.executor.running - self.adopted
        ready = Execution.objects.ready().filter(~Exists(Pause.objects.active()))
        if free <= 0 or not ready.exists():
            return 0
        reading: Counter[int | None] = Counter()
        busy: set[int | None] = set()
        full: set[int] = set()
        running = Execution.objects.running().values_list(
            "data_source", "data_source__max_concurrency", "task", "slot_key"
        )
        for source, most, task, slot in running:
            reading[source] += 1
            if source is not None and reading[source] >= most:
                full.add(source)
            if slot is not None:
                busy.add(task)
        skip_overlapping(busy)
        rows = ready.exclude(data_source__in=full).exclude(task__in=[task for task in busy if task])
        light = rows.only("attempt", "heartbeat_seq", "task__overlap", "data_source__max_concurrency")
        ordered = light.select_related("task", "data_source").order_by("-priority", "id")
        started = 0
        # A short look is enough, unless many of them wait for each other.
        for most in (2 * free, MOST_READY):
            candidates = list(ordered[:most])
            for row in candidates:
                if started < free and self._may_start(row, busy, reading) and self.executor.start(row):
                    started += 1
                    reading[row.data_source_id] += 1
                    if row.task is not None and row.task.overlap != Overlap.PARALLEL:
                        busy.add(row.task_id)
            if started >= free or len(candidates) < most:
                break
        return started

    def _may_start(self, row: Execution, busy: set[int | None], reading: Counter[int | None]) -> bool:
        """Whether neither its task nor its source has been taken up in this step."""
        source = row.data_source
        return row.task_id not in busy and (source is None or reading[source.pk] < source.max_concurrency)

    def finish(self, seconds: float) -> None:
        """Send what the last runs owe, within `seconds`, and stop()."""
        self._each(self.deliver)
        self.outbox.finish(seconds)
        self.stop()

    def stop(self) -> None:
        """Say that this scheduler is gone."""
        self.executor.close()
        self.outbox.close()
        self._each(self._say_stopped)

    def _say_stopped(self) -> int:
        return SchedulerProcess.objects.filter(name=self.name).update(stopped_at=timezone.now(), running=0)


def enqueue_occurrences(task: ExportTask, now: datetime) -> bool:
    """Turn every time of `task` that has come into one row, and move its next run on, in one transaction. False when
    another scheduler was faster, or the task has just been edited."""
    if task.next_run_at is None:
        return False
    grace = timedelta(seconds=settings.CONFIG.scheduler.misfire_grace_time)
    # Whatever runs needs a row of its own; once a minute is as often as a schedule can fire.
    in_grace = grace // timedelta(minutes=1) if task.catch_up == CatchUp.ALL else 0
    due = schedule.due(task.cron, task.timezone, task.next_run_at, now, MOST_MISSED + in_grace)
    try:
        return _store_occurrences(task, due, due.newest, now, grace)
    except IntegrityError:
        # The clock was set back, or the schedule was: some of these times have their row already.
        there = Execution.objects.filter(task=task, scheduled_for__in=due.newest).values_list(
            "scheduled_for", flat=True
        )
        known = set(there)
        return _store_occurrences(task, due, [moment for moment in due.newest if moment not in known], now, grace)


def _store_occurrences(
    task: ExportTask, due: schedule.Due, moments: Iterable[datetime], now: datetime, grace: timedelta
) -> bool:
    with transaction.atomic():
        moved = ExportTask.objects.filter(pk=task.pk, next_run_at=task.next_run_at, enabled=True).update(
            next_run_at=due.following
        )
        if not moved:
            return False
        if due.older_to is not None and not Execution.objects.filter(task=task, scheduled_for=due.older_to).exists():
            Execution.objects.record_missed(
                task, due.older_to, "misfire", occurrences=due.older, range_start=due.older_from
            )
        missed = None
        for moment in moments:
            reason = _why_not(task, moment, due.newest[-1], now - moment, grace)
            if not reason:
                Execution.objects.enqueue(task, trigger=Trigger.SCHEDULE, planned_at=moment)
                continue
            row = Execution.objects.record_missed(task, moment, reason)
            missed = row if reason == "misfire" else missed
        if missed is not None:
            announce.announce(missed.pk)  # One message, about the newest: nobody wants a hundred.
    return True


def _why_not(task: ExportTask, moment: datetime, newest: datetime, late: timedelta, grace: timedelta) -> str:
    """Why a time that has come does not run; "" when it does."""
    if late > grace:
        return "misfire"
    if task.catch_up == CatchUp.ALL:
        return ""
    if moment != newest:
        return "coalesced"
    return "misfire" if task.catch_up == CatchUp.NONE and late > ON_TIME else ""


def set_aside(task: ExportTask) -> None:
    """Take a task that can't be planned off the schedule, visibly: the time that was due is missed."""
    with transaction.atomic():
        moved = ExportTask.objects.filter(pk=task.pk, next_run_at=task.next_run_at).update(next_run_at=None)
        known = Execution.objects.filter(task=task, scheduled_for=task.next_run_at)
        if moved and task.next_run_at is not None and not known.exists():
            announce.announce(Execution.objects.record_missed(task, task.next_run_at, "unplannable").pk)


def skip_overlapping(busy: Iterable[int | None]) -> int:
    """End the queued runs of running tasks that say so. Returns how many."""
    waiting = Execution.objects.queued().filter(task__in=list(busy), task__overlap=Overlap.SKIP, attempt=0)
    # Somebody has asked for each of these times.
    waiting = waiting.exclude(trigger=Trigger.BACKFILL).exclude(trigger=Trigger.SCHEDULE, task__catch_up=CatchUp.ALL)
    return sum(Execution.objects.skip(pk, "overlap") for pk in waiting.values_list("pk", flat=True))


def close_lost(execution: Execution) -> bool:
    """Deal with a run whose worker died: its state, its files, its query on the server. False if it lived after all."""
    if not Execution.objects.end_lost(execution):
        return False
    with logs.during(execution.pk, execution.attempt, execution.task_name):
        logger.warning("execution %s: its worker %s is gone", execution.pk, execution.worker)
        clear_away(execution)
    return True
