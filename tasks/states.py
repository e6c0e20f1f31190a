"""The states of an execution, and the one place that changes them.

    (created) --> queued --claim--> running --finish--> succeeded | failed | timed_out | cancelled
       |          |    ^               |
       |          |    +--requeue------+  a failure that may pass, or a stop of the system: tried again
       |          +--cancel--> cancelled
       |          +--its task still runs--> skipped
       +--its time has passed--> missed
    queued | running --a backup was restored--> missed  nobody knows what became of it since

Every arrow is one UPDATE that is guarded by id, attempt and status and must change exactly one row. `attempt` is a
fencing number: a worker that was taken for dead and comes back holds an old one, and changes nothing.

Two unique columns keep runs apart in the database itself, however many schedulers claim: `slot_key` (one run per task)
and `source_slot` (one of max_concurrency places per data source). Both are NULL unless the row is running.
"""

import random
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any

from django.db import IntegrityError, connections, models, transaction
from django.db.models import F, Q
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from exporter_site.access import audit
from exporter_site.access.scope import ScopedQuerySet

if TYPE_CHECKING:
    from datasources.models import DataSource
    from tasks.models import Execution, ExportTask


class Overlap(models.TextChoices):
    SKIP = "skip", _("skip the new run")
    QUEUE = "queue", _("wait for the running one")
    PARALLEL = "parallel", _("run side by side")


class Status(models.TextChoices):
    QUEUED = "queued", _("queued")
    RUNNING = "running", _("running")
    SUCCEEDED = "succeeded", _("succeeded")
    FAILED = "failed", _("failed")
    TIMED_OUT = "timed_out", _("timed out")
    CANCELLED = "cancelled", _("cancelled")
    MISSED = "missed", _("missed")
    SKIPPED = "skipped", _("skipped")


UNFINISHED = (Status.QUEUED, Status.RUNNING)
ENDED = tuple(status for status in Status if status not in UNFINISHED)
MOST_RETRY_DELAY = 3600.0  # seconds
MOST_ATTEMPTS = 100  # however often the system is stopped under a run


class Priority(models.IntegerChoices):
    """Which of the queued runs starts first."""

    LOW = -1, _("low")
    NORMAL = 0, _("normal")
    HIGH = 1, _("high")


class Trigger(models.TextChoices):
    SCHEDULE = "schedule", _("schedule")
    MANUAL = "manual", _("by hand")
    API = "api", _("API")
    CLI = "cli", _("command line")
    RETRY = "retry", _("retry")
    BACKFILL = "backfill", _("backfill")


class ExecutionQuerySet(ScopedQuerySet["Execution"]):
    """Holds every change of an execution's state."""

    def enqueue(
        self,
        task: "ExportTask",
        *,
        trigger: Trigger,
        planned_at: datetime | None = None,
        params: Mapping[str, Any] | None = None,
        format: str = "",
        notify: bool = True,
        created_by: Any = None,
        request_key: str | None = None,
        request_digest: str = "",
    ) -> "Execution":
        """Queue one run of `task`. `planned_at` is what its dates count from; now, when not given.

        Raises IntegrityError when there is a run with this `request_key` already.
        """
        execution = self._new(
            task,
            trigger=trigger,
            planned_at=planned_at or timezone.now(),
            # Only occurrences of the schedule are unique; runs by hand for the same time are not.
            scheduled_for=planned_at if trigger == Trigger.SCHEDULE else None,
            params={**task.params, **(params or {})},
            format=format or task.format,
            notify=notify,
            created_by=created_by,
            request_key=request_key,
            request_digest=request_digest,
        )
        with transaction.atomic():
            execution.save(force_insert=True)
            if trigger != Trigger.SCHEDULE:
                audit.record(audit.Action.RUN, execution)
        return execution

    def record_missed(
        self,
        task: "ExportTask",
        planned_at: datetime,
        reason: str,
        *,
        occurrences: int = 1,
        range_start: datetime | None = None,
    ) -> "Execution":
        """A scheduled time at which nothing ran. With `range_start` the row stands for `occurrences` times, from there
        to `planned_at`."""
        execution = self._new(
            task,
            trigger=Trigger.SCHEDULE,
            planned_at=planned_at,
            scheduled_for=planned_at,
            params=task.params,
            format=task.format,
            status=Status.MISSED,
            reason=reason,
            finished_at=timezone.now(),
            occurrences=occurrences,
            range_start=range_start,
        )
        execution.save(force_insert=True)
        return execution

    def _new(self, task: "ExportTask", **fields: Any) -> "Execution":
        return self.model(
            task=task,
            task_name=task.name,
            data_source_id=task.data_source_id,
            sql_template=task.sql,
            priority=task.priority,
            **fields,
        )

    def queued(self) -> "ExecutionQuerySet":
        return self.filter(status=Status.QUEUED)

    def ready(self) -> "ExecutionQuerySet":
        """Queued, and not waiting for its next try."""
        return self.queued().filter(Q(not_before=None) | Q(not_before__lte=timezone.now()))

    def unfinished(self) -> "ExecutionQuerySet":
        return self.filter(status__in=UNFINISHED)

    def finished(self) -> "ExecutionQuerySet":
        return self.exclude(status__in=UNFINISHED)

    def running(self) -> "ExecutionQuerySet":
        return self.filter(status=Status.RUNNING)

    def claim(self, execution_id: int, *, worker: str, limit_source: bool = True) -> "Execution | None":
        """take() for who only has a number. The row comes with its task and its data source."""
        rows = self.select_related("task", "task__data_source", "data_source")
        row = rows.filter(pk=execution_id, status=Status.QUEUED).first()
        return row if row is not None and self.take(row, worker=worker, limit_source=limit_source) else None

    def take(self, row: "Execution", *, worker: str, limit_source: bool = True) -> bool:
        """queued -> running for `worker`, if it still is as `row` was read. False when it is not, when its task is
        already running, or, with `limit_source`, when its data source is read by as many runs as it allows."""
        exclusive = row.task is not None and row.task.overlap != Overlap.PARALLEL
        slot = f"task:{row.task_id}" if exclusive else None
        places: Iterable[str | None] = [None]
        if limit_source and row.data_source:
            places = self._free_places(row.data_source)
        for place in places:
            now = timezone.now()
            changes: dict[str, Any] = {
                "status": Status.RUNNING,
                "attempt": row.attempt + 1,
                "worker": worker,
                "slot_key": slot,
                "source_slot": place,
                "reason": "",
                "error": "",
                "started_at": now,
                "not_before": None,
                "heartbeat_at": now,
                "heartbeat_seq": row.heartbeat_seq + 1,
            }
            try:
                with _room_to_fail(self.db):
                    claimed = self.filter(pk=row.pk, status=Status.QUEUED, attempt=row.attempt).update(**changes)
            except IntegrityError:
                if slot and self.filter(slot_key=slot).exists():
                    return False
                continue  # Somebody else took this place of the source in this moment.
            if not claimed:
                return False
            for name, value in changes.items():
                setattr(row, name, value)
            return True
        return False

    def _free_places(self, source: "DataSource") -> Iterator[str]:
        """The places of a data source that nobody holds, as `source_slot` names them."""
        running = self.filter(data_source=source, status=Status.RUNNING).values_list("source_slot", flat=True)
        taken = list(running)
        places = (f"source:{source.pk}:{number}" for number in range(source.max_concurrency))
        # Runs from the command line have no place, but they read, too.
        return islice((place for place in places if place not in taken), max(0, source.max_concurrency - len(taken)))

    def skip(self, execution_id: int, reason: str) -> bool:
        """queued -> skipped."""
        return self._end_queued(execution_id, Status.SKIPPED, reason)

    def cancel_queued(self, execution_id: int) -> bool:
        """queued -> cancelled."""
        return self._end_queued(execution_id, Status.CANCELLED, "cancelled")

    def _end_queued(self, execution_id: int, status: Status, reason: str) -> bool:
        changed = self.filter(pk=execution_id, status=Status.QUEUED).update(
            status=status, reason=reason, finished_at=timezone.now()
        )
        return changed == 1

    def close_restored(self) -> int:
        """queued | running -> missed, after a backup was restored: it may have run since, so it does not run again.
        Returns how many."""
        return self.unfinished().update(
            status=Status.MISSED,
            reason="restored",
            finished_at=timezone.now(),
            not_before=None,
            slot_key=None,
            source_slot=None,
        )

    def request_cancel(self, execution_id: int) -> bool:
        """End a queued run now, ask a running one to stop. False when it had already ended."""
        with transaction.atomic():
            running = self.filter(pk=execution_id, status=Status.RUNNING)
            asked = self.cancel_queued(execution_id) or bool(running.update(cancel_requested_at=timezone.now()))
            if asked:
                audit.record(audit.Action.CANCEL, self.get(pk=execution_id))
        return asked

    def held_by(self, execution: "Execution") -> "ExecutionQuerySet":
        """The row of `execution`, if this attempt still holds it: the guard of all that a worker writes."""
        return self.filter(pk=execution.pk, attempt=execution.attempt, status=Status.RUNNING)

    def heartbeat(self, execution: "Execution", progress: Mapping[str, Any], backend_id: str) -> bool:
        """Renew the lease and store progress. False when the run is no longer ours."""
        beaten = self.held_by(execution).update(
            heartbeat_seq=F("heartbeat_seq") + 1,
            heartbeat_at=timezone.now(),
            progress=dict(progress),
            backend_id=backend_id,
        )
        return bool(beaten)

    def cancel_requested(self, execution: "Execution") -> bool:
        return self.held_by(execution).filter(cancel_requested_at__isnull=False).exists()

    def begin(self, execution: "Execution", *, worker: str, sql: str) -> bool:
        """The process that runs a claimed execution makes itself known. False when the run is no longer ours."""
        execution.worker, execution.sql = worker, sql
        return bool(self.held_by(execution).update(worker=worker, sql=sql, heartbeat_seq=F("heartbeat_seq") + 1))

    def finish(self, execution: "Execution", status: Status, **fields: Any) -> bool:
        """running -> an end state, with its figures. False when this attempt no longer holds the run: the caller
        must then remove whatever it made."""
        with transaction.atomic():
            now = timezone.now()
            started = execution.started_at or now
            finished = self.held_by(execution).update(
                status=status,
                finished_at=now,
                duration_seconds=max(0.0, (now - started).total_seconds()),
                slot_key=None,
                source_slot=None,
                **fields,
            )
            if finished:
                _announce(execution.pk)
        return bool(finished)

    def requeue(self, execution: "Execution", reason: str, *, error: str = "", counts: bool = True) -> bool:
        """running -> queued, to be tried again. False when this attempt no longer holds the run, or may not.

        With `counts` it is one of the task's retries, later by its delay; without (the system was stopped) neither.
        The guard includes the heartbeat that `execution` was read with, if the worker is not this process.
        """
        task = execution.task
        if task is None or not execution.may_go_on or (counts and execution.retries >= task.max_retries):
            return False
        now = timezone.now()
        ended = {
            "attempt": execution.attempt,
            "worker": execution.worker,
            "started_at": execution.started_at.isoformat() if execution.started_at else None,
            "ended_at": now.isoformat(),
            "reason": reason,
            "error": error,
        }
        delay = retry_delay(task.retry_delay, execution.retries) if counts else 0.0
        return bool(
            self.held_by(execution)
            .filter(cancel_requested_at=None)
            .update(
                status=Status.QUEUED,
                reason=reason,
                error=error,
                not_before=now + timedelta(seconds=delay) if counts else None,
                retries=F("retries") + int(counts),
                history=[*execution.history, ended],
                slot_key=None,
                source_slot=None,
                backend_id="",
                progress={},
            )
        )

    def end_lost(self, execution: "Execution") -> bool:
        """Close or requeue the run of a dead worker, if nothing has beaten since `execution` was read."""
        unchanged = self.filter(heartbeat_seq=execution.heartbeat_seq)
        if unchanged.requeue(execution, "worker_lost"):
            return True
        cancelled = execution.cancel_requested_at is not None
        with transaction.atomic():
            ended = unchanged.held_by(execution).update(
                status=Status.CANCELLED if cancelled else Status.FAILED,
                reason="cancelled" if cancelled else "worker_lost",
                finished_at=timezone.now(),
                slot_key=None,
                source_slot=None,
            )
            if ended:
                _announce(execution.pk)
        return bool(ended)


def _room_to_fail(database: str) -> AbstractContextManager[object]:
    """For one statement that may break a constraint: within a transaction a savepoint; by itself it needs neither."""
    return transaction.atomic() if connections[database].in_atomic_block else nullcontext()


def _announce(execution_id: int) -> None:
    """Note the messages that this end owes, in the transaction of its UPDATE."""
    from tasks import announce  # it needs the models, which need this module

    announce.announce(execution_id)


def retry_delay(base: float, retries: int) -> float:
    """Seconds until the next try: doubled each time, with jitter, so that what failed together does not come back
    together."""
    return float(min(base * 2**retries, MOST_RETRY_DELAY) * random.uniform(0.5, 1.5))  # noqa: S311  # no secret
