"""The states of an execution, and the one place that changes them.

    (created) --> queued --claim--> running --finish--> succeeded | failed | timed_out | cancelled
                    |                  |
                    |                  +--reap (its worker died)--> failed(worker_lost)
                    +--cancel--> cancelled
                    +--its time passed, or its task still runs--> missed | skipped

Every arrow is one UPDATE that is guarded by id, attempt and status and must change exactly one row. `attempt` is a
fencing number: a worker that was taken for dead and comes back holds an old one, and changes nothing.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from django.db import IntegrityError, models, transaction
from django.db.models import F
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

if TYPE_CHECKING:
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


class Trigger(models.TextChoices):
    SCHEDULE = "schedule", _("schedule")
    MANUAL = "manual", _("by hand")
    API = "api", _("API")
    CLI = "cli", _("command line")
    RETRY = "retry", _("retry")
    BACKFILL = "backfill", _("backfill")


class ExecutionQuerySet(models.QuerySet["Execution"]):
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
    ) -> "Execution":
        """Queue one run of `task`. `planned_at` is what its dates count from; now, when not given."""
        execution = self.model(
            task=task,
            task_name=task.name,
            trigger=trigger,
            planned_at=planned_at or timezone.now(),
            # Only occurrences of the schedule are unique; runs by hand for the same time are not.
            scheduled_for=planned_at if trigger == Trigger.SCHEDULE else None,
            params={**task.params, **(params or {})},
            format=format or task.format,
            data_source=task.data_source,
            sql_template=task.sql,
            notify=notify,
            created_by=created_by,
        )
        execution.save(force_insert=True)
        return execution

    def claim(self, execution_id: int, *, worker: str) -> "Execution | None":
        """queued -> running for `worker`. None when it is not queued any more, or its task is already running.

        The task's slot is a unique column, so two runs of one task can't start at once, however many claim.
        """
        row = self.filter(pk=execution_id, status=Status.QUEUED).select_related("task").first()
        if row is None:
            return None
        exclusive = row.task is not None and row.task.overlap != Overlap.PARALLEL
        now = timezone.now()
        try:
            with transaction.atomic():
                claimed = self.filter(pk=execution_id, status=Status.QUEUED, attempt=row.attempt).update(
                    status=Status.RUNNING,
                    attempt=F("attempt") + 1,
                    worker=worker,
                    slot_key=f"task:{row.task_id}" if exclusive else None,
                    started_at=now,
                    heartbeat_at=now,
                    heartbeat_seq=F("heartbeat_seq") + 1,
                )
        except IntegrityError:
            return None
        if not claimed:
            return None
        return self.select_related("task", "task__data_source").get(pk=execution_id)

    def skip(self, execution_id: int, reason: str) -> bool:
        """queued -> skipped."""
        return self._end_queued(execution_id, Status.SKIPPED, reason)

    def miss(self, execution_id: int, reason: str) -> bool:
        """queued -> missed."""
        return self._end_queued(execution_id, Status.MISSED, reason)

    def cancel_queued(self, execution_id: int) -> bool:
        """queued -> cancelled."""
        return self._end_queued(execution_id, Status.CANCELLED, "cancelled")

    def _end_queued(self, execution_id: int, status: Status, reason: str) -> bool:
        changed = self.filter(pk=execution_id, status=Status.QUEUED).update(
            status=status, reason=reason, finished_at=timezone.now()
        )
        return changed == 1

    def request_cancel(self, execution_id: int) -> bool:
        """End a queued run now, ask a running one to stop. False when it had already ended."""
        if self.cancel_queued(execution_id):
            return True
        return bool(self.filter(pk=execution_id, status=Status.RUNNING).update(cancel_requested_at=timezone.now()))

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
                **fields,
            )
        if finished:
            execution.refresh_from_db()
        return bool(finished)

    def fail_lost(self, execution: "Execution") -> bool:
        """running -> failed(worker_lost), if nothing has beaten since `execution` was read."""
        return bool(
            self.held_by(execution)
            .filter(heartbeat_seq=execution.heartbeat_seq)
            .update(status=Status.FAILED, reason="worker_lost", finished_at=timezone.now(), slot_key=None)
        )
