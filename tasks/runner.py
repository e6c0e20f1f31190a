"""The pipeline of one execution: source -> connector -> writer -> published file -> end state.

The rows flow in a thread of their own (pipeline.py); the thread that calls run() watches it (supervisor.py).
"""

import errno
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from django.conf import settings
from django.utils.translation import gettext as _

from datasources import safety
from datasources.connectors.base import ConnectorError, Query
from datasources.models import DataSource
from datasources.sqltext import SQLTextError
from exporter_site import logs
from exporter_site.redact import redact
from exporter_site.worker import worker_name
from tasks import dates, files, reasons, rights, storage
from tasks.models import Execution, ExportTask
from tasks.patience import patiently
from tasks.pipeline import ABANDON, Pipeline
from tasks.publication import Publication
from tasks.states import Status
from tasks.storage.base import Storage, StorageError
from tasks.supervisor import SELF_FENCE, Progress, Supervisor
from tasks.writers import writers
from tasks.writers.base import WriterError, WriterOptions

logger = logging.getLogger(__name__)

TIMEOUTS = ("query_timeout", "task_timeout")


@dataclass(frozen=True, slots=True)
class Outcome:
    status: Status
    reason: str = ""
    error: str = ""


class Refused(Exception):
    """The run may not start; `reason` is a code of reasons.py."""

    def __init__(self, reason: str, message: str = "") -> None:
        super().__init__(message)
        self.reason = reason


def claimed(execution_id: int, attempt: int) -> Execution | None:
    """The execution with all that its run needs; None when this attempt is not running any more."""
    rows = Execution.objects.running().select_related("task", "task__data_source", "data_source")
    return rows.filter(pk=execution_id, attempt=attempt).first()


def run_claimed(execution_id: int, attempt: int, on_progress: Callable[[Progress], None] | None = None) -> bool:
    """run() for a process that was only given numbers; whether this attempt succeeded. One that is not running any
    more is left alone."""
    with logs.during(execution_id, attempt):
        execution = patiently(execution_id, lambda: claimed(execution_id, attempt))
        if execution is None:
            logger.warning("attempt %s of execution %s is not running any more", attempt, execution_id)
            return False
        ended = run(execution, on_progress)
        return (ended.status, ended.attempt) == (Status.SUCCEEDED, attempt)  # not who has taken it over


def run(execution: Execution, on_progress: Callable[[Progress], None] | None = None) -> Execution:
    """Carry out a claimed (running) execution and store its end. Returns the row as it then is.

    Expected failures become a state, a reason and a sentence on the row; nothing is raised for them. When another
    worker has taken the run over meanwhile, everything made here is removed and the row is left alone.
    """
    with logs.during(execution.pk, execution.attempt, execution.task_name):
        # Whoever closed those may have died before it could clear away.
        storage.sweep(execution.pk, range(1, execution.attempt), execution.planned_at)
        try:
            with files.temp_directory(execution.pk, execution.attempt) as directory:
                return _run_in(directory, execution, on_progress)
        except OSError as exc:  # the temporary directory itself could not be made
            return _end(execution, outcome_of(exc))


def _run_in(directory: Path, execution: Execution, on_progress: Callable[[Progress], None] | None) -> Execution:
    try:
        pipeline = prepare(execution, directory)
    except Exception as exc:
        return _end(execution, outcome_of(exc))
    sql = pipeline.query.for_people()
    if not patiently(execution.pk, lambda: Execution.objects.begin(execution, worker=worker_name(), sql=sql)):
        return _taken_over(execution)
    supervisor = Supervisor(execution, pipeline, on_progress)
    try:
        with supervisor.signals_answered():
            pipeline.start()
            supervisor.watch(pipeline)
    except Exception as exc:  # A fault of ours must not leave a query and a file behind.
        pipeline.connector.cancel()
        pipeline.done.wait(ABANDON)
        return _end(execution, outcome_of(exc), pipeline)
    if not supervisor.has_stopped and pipeline.error is None:
        supervisor.make_sure()
    if pipeline.error is not None and not supervisor.has_stopped:
        return _end(execution, outcome_of(pipeline.error), pipeline)
    return _stopped(supervisor) if supervisor.has_stopped else _publish(supervisor, directory)


def prepare(execution: Execution, directory: Path) -> "Pipeline":
    """Everything that can be refused before the source is touched. Raises what outcome_of() knows."""
    task, source = execution.task, execution.data_source
    if task is None or source is None:
        raise Refused("source_inactive", _("The task or its data source has been deleted."))
    if not source.is_active:
        raise Refused("source_inactive", _("The data source “{name}” is switched off.").format(name=source.name))
    refused = rights.refusal(task, source)
    if refused:
        raise Refused("owner_not_allowed", refused)
    minimum = settings.CONFIG.export.min_free_disk
    if files.free_bytes() < minimum:
        raise OSError(errno.ENOSPC, _("Less than {bytes} bytes are free (export.min_free_disk).").format(bytes=minimum))
    storage.current()  # What is missing for it is said now, not after an hour of work.
    query = bind(execution, task, source)
    connector = source.connector(timezone=task.timezone, label=execution.label, query_timeout=task.query_timeout)
    options = WriterOptions(task.name, settings.CONFIG.export.max_file_size, task.format_options_for(execution.format))
    stem = task.file_stem(execution.planned_at, execution.pk, execution.params)
    return Pipeline(connector, query, lambda columns: writers.get(execution.format)(directory, stem, columns, options))


def bind(execution: Execution, task: ExportTask, source: DataSource) -> Query:
    """The SQL that was queued, checked again, with the values of its names. Raises ValueError."""
    dialect = source.connector_class.dialect  # the task may read another one by now
    safety.check(execution.sql_template, dialect)
    planned = execution.planned_at.astimezone(ZoneInfo(task.timezone))
    return dates.bind(execution.sql_template, dialect, planned, execution.params)


def outcome_of(exc: BaseException) -> Outcome:
    """The end state for an exception of the pipeline; only what nobody expected is logged with its traceback."""
    if isinstance(exc, ConnectorError):
        detail = "" if exc.detail in str(exc) else f"\n{exc.detail}"
        status = Status.TIMED_OUT if exc.reason in TIMEOUTS else Status.FAILED
        return Outcome(status, exc.reason, f"{exc}{detail}")
    if isinstance(exc, (WriterError, Refused)):
        return Outcome(Status.FAILED, exc.reason, str(exc))
    if isinstance(exc, (safety.UnsafeSQL, dates.UnknownName, SQLTextError)):
        return Outcome(Status.FAILED, "sql_refused", str(exc))
    if isinstance(exc, MemoryError):
        return Outcome(Status.FAILED, "out_of_memory")
    if isinstance(exc, StorageError):
        return Outcome(Status.FAILED, "storage_unavailable", str(exc))
    if isinstance(exc, OSError):
        reasons = {errno.ENOSPC: "disk_full", errno.EDQUOT: "disk_full", errno.EFBIG: "file_too_large"}
        return Outcome(Status.FAILED, reasons.get(exc.errno or 0, "file_error"), str(exc))
    logger.error("unexpected failure of an export", exc_info=exc)
    return Outcome(Status.FAILED, "internal_error", f"{type(exc).__name__}: {exc}")


def _outcome_of_stop(reason: str) -> Outcome:
    if reason == "cancelled":
        return Outcome(Status.CANCELLED, reason)
    return Outcome(Status.TIMED_OUT if reason in TIMEOUTS else Status.FAILED, reason)


def _stopped(supervisor: Supervisor) -> Execution:
    if supervisor.fenced:
        return _given_up(supervisor.execution)
    if supervisor.lost:
        return _taken_over(supervisor.execution)
    return _end(supervisor.execution, _outcome_of_stop(supervisor.stop_reason), supervisor.pipeline)


def _publish(supervisor: Supervisor, directory: Path) -> Execution:
    execution, pipeline = supervisor.execution, supervisor.pipeline
    writer = pipeline.writer
    assert writer is not None
    try:
        store = storage.current()
        if store.is_remote:
            place = _upload(supervisor, store, directory)
        else:
            place = store.publish(directory, execution.planned_at, lambda arrived: None)
    except Exception as exc:
        return _end(execution, outcome_of(exc), pipeline)
    if supervisor.publication is not None and supervisor.has_stopped:
        try:
            return _stopped(supervisor)
        finally:  # Only then: whoever has cancelled need not wait for a store that does not answer.
            supervisor.publication.take_back()
    parts = pipeline.parts
    figures = {
        "rows_count": pipeline.rows,
        "file_size": sum(part.size for part in parts),
        "filename": parts[0].path.name,
        "sha256": parts[0].sha256,
        "fidelity": dict(writer.fidelity),
        "progress": {"rows": pipeline.rows, "bytes": pipeline.bytes},
        "files": [
            storage.entry(
                {"path": f"{place}/{part.path.name}", "rows": part.rows, "size": part.size, "sha256": part.sha256},
                store.kind,
            )
            for part in parts
        ],
    }
    if not _finish_surely(execution, Status.SUCCEEDED, **figures):
        storage.withdraw(store, place)
        return _taken_over(execution)
    logger.info("execution %s of “%s” succeeded: %s rows", execution.pk, execution.task_name, pipeline.rows)
    return execution


def _upload(supervisor: Supervisor, store: Storage, directory: Path) -> str:
    """Publish into a store that takes its time, while the heart goes on beating. Returns the place, or "" when the run
    was stopped meanwhile. Raises StorageError, OSError."""
    publication = supervisor.publication = Publication(store, directory, supervisor.execution.planned_at)
    try:
        with supervisor.signals_answered():
            publication.start()
            supervisor.watch(publication)
    except Exception:  # A fault of ours must not leave files behind.
        publication.cancel()
        publication.take_back()
        raise
    if publication.error is not None and not supervisor.has_stopped:
        raise publication.error
    return publication.place


def _end(execution: Execution, outcome: Outcome, pipeline: Pipeline | None = None) -> Execution:
    """Store an end without a file, or put the run back into the queue when it is worth another try."""
    error = redact(outcome.error)
    if _try_again(execution, outcome.reason, error):
        logger.warning("execution %s of “%s” is tried again: %s", execution.pk, execution.task_name, outcome.reason)
        return execution
    logger.warning("execution %s of “%s”: %s (%s)", execution.pk, execution.task_name, outcome.status, outcome.reason)
    rows = {"rows_count": pipeline.rows} if pipeline else {}
    if not _finish_surely(execution, outcome.status, reason=outcome.reason, error=error, **rows):
        return _taken_over(execution)
    return execution


def _try_again(execution: Execution, reason: str, error: str) -> bool:
    """Put the run back into the queue, if `reason` and the task's retries allow it."""
    stopped = reason == "interrupted"
    if not stopped and not reasons.is_passing(reason):
        return False
    return _surely(
        execution,
        Status.QUEUED,
        lambda: Execution.objects.requeue(execution, reason, error=error, counts=not stopped),
    )


def _finish_surely(execution: Execution, status: Status, **fields: Any) -> bool:
    return _surely(execution, status, lambda: Execution.objects.finish(execution, status, **fields))


def _surely(execution: Execution, status: Status, change: Callable[[], bool]) -> bool:
    """Have `change` bring this attempt to `status`, again after a lost connection: the commit may have been done
    although its answer was lost. False when it is not in that state; raises when nobody can say."""
    attempt = execution.attempt

    def act() -> bool:
        changed = change()
        execution.refresh_from_db()
        return changed or (execution.status == status and execution.attempt == attempt)

    # A published file stays when this raises: if its row does not say succeeded, whoever closes it removes the file.
    return patiently(execution.pk, act)


def _taken_over(execution: Execution) -> Execution:
    logger.warning("execution %s was taken over by another worker; this one leaves nothing behind", execution.pk)
    execution.refresh_from_db()
    return execution


def _given_up(execution: Execution) -> Execution:
    logger.warning(
        "execution %s has stored no sign of life for %d seconds; it may be another worker's by now, and this one leaves nothing behind",
        execution.pk,
        SELF_FENCE,
    )
    return execution
