"""Export tasks and executions, with the one place that changes an execution's state.

    (created) --> queued --claim--> running --finish--> succeeded | failed | timed_out | cancelled
                    |                  |
                    |                  +--reap (its worker died)--> failed(worker_lost)
                    +--cancel--> cancelled
                    +--its time passed, or its task still runs--> missed | skipped

Every arrow is one UPDATE that is guarded by id, attempt and status and must change exactly one row. `attempt` is a
fencing number: a worker that was taken for dead and comes back holds an old one, and changes nothing.
"""

import os
import socket
from collections.abc import Mapping
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, available_timezones

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, validate_email
from django.db import IntegrityError, models, transaction
from django.db.models import F
from django.utils import timezone
from django.utils.functional import Promise
from django.utils.translation import gettext as _t
from django.utils.translation import gettext_lazy as _

from datasources import safety
from datasources.models import DataSource
from exporter_site.fields import SecretField
from tasks import dates, files, reasons, schedule
from tasks.writers import format_choices, writers

FILENAME_NAMES = ("task", "time", "id")


def default_timezone() -> str:
    return str(settings.CONFIG.scheduler.timezone)


class Overlap(models.TextChoices):
    SKIP = "skip", _("skip the new run")
    QUEUE = "queue", _("wait for the running one")
    PARALLEL = "parallel", _("run side by side")


class CatchUp(models.TextChoices):
    LATEST = "latest", _("only the newest")
    NONE = "none", _("none")
    ALL = "all", _("all of them")


class OnEmpty(models.TextChoices):
    SEND = "send", _("send the empty file")
    NOTICE = "notice", _("send a notice without a file")
    SILENT = "silent", _("send nothing")


class ExportTask(models.Model):
    """SQL, data source, schedule and file format. What is checked in clean() is checked again when it runs."""

    name = models.CharField(_("name"), max_length=200, unique=True)
    description = models.TextField(_("description"), blank=True)
    data_source = models.ForeignKey(DataSource, models.PROTECT, related_name="tasks", verbose_name=_("data source"))
    sql = models.TextField(
        _("SQL"),
        help_text=_(
            "One SELECT. {{ ds }} is the planned date; also {{ yesterday }}, {{ month_start }}, {{ ds - 7 }}, {{ params.name }} …"
        ),
    )
    params = models.JSONField(
        _("parameter defaults"),
        default=dict,
        blank=True,
        help_text=_('Values for {{ params.name }}, e.g. {"shop": "001"}.'),
    )
    cron = models.CharField(
        _("schedule"),
        max_length=100,
        blank=True,
        help_text=_("Minute hour day month weekday, e.g. 0 9 * * 1-5. Empty: only by hand."),
    )
    timezone = models.CharField(_("time zone"), max_length=64, default=default_timezone)
    enabled = models.BooleanField(_("enabled"), default=True)
    long_running = models.BooleanField(
        _("long running"), default=False, help_text=_("Use the long time limits of config.yaml.")
    )
    format = models.CharField(_("file format"), max_length=20, choices=format_choices, default="xlsx")
    format_options = models.JSONField(
        _("format options"),
        default=dict,
        blank=True,
        help_text=_('csv: {"encoding": "gb18030", "formula_guard": false}; xlsx: {"compact": true}.'),
    )
    filename_template = models.CharField(
        _("file name"),
        max_length=200,
        default="{{ task }}_{{ ds_nodash }}_{{ time }}",
        help_text=_("Without extension. {{ task }}, {{ time }}, {{ id }} and the date names."),
    )
    overlap = models.CharField(_("if still running"), max_length=20, choices=Overlap, default=Overlap.SKIP)
    catch_up = models.CharField(_("runs that were late"), max_length=20, choices=CatchUp, default=CatchUp.LATEST)
    max_retries = models.PositiveSmallIntegerField(_("retries"), default=0, validators=[MaxValueValidator(20)])
    retry_delay = models.PositiveIntegerField(_("seconds between retries"), default=60)
    on_empty = models.CharField(_("empty result"), max_length=20, choices=OnEmpty, default=OnEmpty.SEND)
    tags = models.JSONField(_("tags"), default=list, blank=True)
    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        models.SET_NULL,
        null=True,
        blank=True,
        related_name="export_tasks",
        verbose_name=_("owner"),
    )
    next_run_at = models.DateTimeField(_("next run"), null=True, blank=True, editable=False, db_index=True)
    dingtalk_webhook = SecretField(_("DingTalk webhook"), blank=True, default="")
    dingtalk_secret = SecretField(_("DingTalk secret"), blank=True, default="")
    dingtalk_message_template = models.TextField(_("DingTalk message"), blank=True)
    email_recipients = models.JSONField(_("e-mail recipients"), default=list, blank=True)
    created_at = models.DateTimeField(_("created"), auto_now_add=True)
    updated_at = models.DateTimeField(_("changed"), auto_now=True)

    class Meta:
        verbose_name = _("export task")
        verbose_name_plural = _("export tasks")
        ordering = ("name",)

    def __str__(self) -> str:
        return self.name

    def save(self, *args: Any, **kwargs: Any) -> None:
        # From now on: a changed schedule never replays the past.
        if self._schedule_changed():
            self.next_run_at = self.compute_next_run(timezone.now())
            if kwargs.get("update_fields") is not None:
                kwargs["update_fields"] = {*kwargs["update_fields"], "next_run_at"}
        super().save(*args, **kwargs)

    def clean(self) -> None:
        """Refuse a task that could not run, each fault at its field and in words."""
        errors: dict[str, str] = {}
        for field, check in (
            ("timezone", self._check_timezone),
            ("cron", self._check_cron),
            ("sql", self.check_sql),
            ("filename_template", self._check_filename),
            ("format_options", self._check_format_options),
            ("email_recipients", self._check_recipients),
            ("tags", self._check_tags),
        ):
            try:
                check()
            except (ValueError, ValidationError) as exc:
                errors[field] = "; ".join(exc.messages) if isinstance(exc, ValidationError) else str(exc)
        if errors:
            raise ValidationError(errors)

    def _check_timezone(self) -> None:
        if self.timezone not in known_timezones():
            raise ValueError(_t("“{name}” is not a time zone. Example: Asia/Shanghai.").format(name=self.timezone))

    def _check_cron(self) -> None:
        self.cron = " ".join(self.cron.split())
        if self.cron:
            schedule.check(self.cron)

    def check_sql(self) -> None:
        """Raise ValueError unless the SQL only reads and all its names have values."""
        if not self.data_source_id:
            return
        if not _is_object(self.params):
            raise ValueError(
                _t("The parameter defaults must be an object such as {example}.").format(example='{"shop": "001"}')
            )
        dialect = self.data_source.connector_class.dialect
        safety.check(self.sql, dialect)
        missing = [name for name in dates.check_sql(self.sql, dialect) if name not in self.params]
        if missing and self.cron:
            raise ValueError(_t("A scheduled task needs a default for the parameter “{name}”.").format(name=missing[0]))

    def _check_filename(self) -> None:
        dates.check_text(self.filename_template, FILENAME_NAMES)

    def _check_format_options(self) -> None:
        if not _is_object(self.format_options):
            raise ValueError(
                _t("The format options must be an object such as {example}.").format(example='{"compact": true}')
            )
        if self.format not in writers:
            raise ValueError(_t("Unknown format. Known are: {formats}.").format(formats=", ".join(writers)))
        writers.get(self.format).check_options(self.format_options)

    def _check_recipients(self) -> None:
        self.email_recipients = _as_list(self.email_recipients)
        for address in self.email_recipients:
            validate_email(address)

    def _check_tags(self) -> None:
        self.tags = _as_list(self.tags)

    def _schedule_changed(self) -> bool:
        if self._state.adding:
            return True
        before = type(self).objects.filter(pk=self.pk).values_list("cron", "timezone", "enabled").first()
        return before != (self.cron, self.timezone, self.enabled)

    def compute_next_run(self, after: datetime) -> datetime | None:
        """The first planned time after `after`; None for a task that only runs by hand or is disabled."""
        if not self.cron or not self.enabled:
            return None
        return schedule.next_run(self.cron, self.timezone, after)

    @property
    def query_timeout(self) -> int:
        """Seconds that the query may take, to its last row."""
        export = settings.CONFIG.export
        return int(export.long_query_timeout if self.long_running else export.query_timeout)

    @property
    def task_timeout(self) -> int:
        """Seconds that a whole run may take."""
        scheduler = settings.CONFIG.scheduler
        return int(scheduler.long_task_timeout if self.long_running else scheduler.task_timeout)

    def format_options_for(self, format: str) -> dict[str, Any]:
        """The task's format options; they mean nothing to another format than its own."""
        return dict(self.format_options) if format == self.format else {}

    def file_stem(self, planned: datetime, execution_id: int, params: Mapping[str, Any]) -> str:
        """The file name without extension for a run planned at `planned`."""
        local = planned.astimezone(ZoneInfo(self.timezone))
        extra = {"task": self.name, "time": local.strftime("%H%M"), "id": str(execution_id)}
        return files.safe_stem(dates.fill_text(self.filename_template, local, params, extra))


def _is_object(value: object) -> bool:
    return isinstance(value, dict)


@cache
def known_timezones() -> frozenset[str]:
    return frozenset(available_timezones())


def _as_list(value: Any) -> list[str]:
    """A list of texts, from a list or from text with commas or line breaks between."""
    if isinstance(value, str):
        value = value.replace("\n", ",").replace("，", ",").replace(";", ",").split(",")
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError(_t("A list of texts is expected."))
    return list(dict.fromkeys(item.strip() for item in value if item.strip()))


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
        task: ExportTask,
        *,
        trigger: Trigger,
        planned_at: datetime | None = None,
        params: Mapping[str, Any] | None = None,
        format: str = "",
        notify: bool = True,
        created_by: Any = None,
    ) -> "Execution":
        """Queue one run of `task`. `planned_at` is what its dates count from; now, when not given."""
        execution = Execution(
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


class Execution(models.Model):
    """One run, from the moment it is owed: queue row and log in one."""

    task = models.ForeignKey(ExportTask, models.SET_NULL, null=True, related_name="executions", verbose_name=_("task"))
    task_name = models.CharField(_("task"), max_length=200)
    status = models.CharField(_("state"), max_length=20, choices=Status, default=Status.QUEUED)
    reason = models.CharField(_("reason"), max_length=40, blank=True)
    trigger = models.CharField(_("started by"), max_length=20, choices=Trigger)
    planned_at = models.DateTimeField(_("planned time"), help_text=_("What the dates in SQL and file name count from."))
    scheduled_for = models.DateTimeField(
        _("occurrence"), null=True, help_text=_("The schedule's time, for scheduled runs.")
    )
    queued_at = models.DateTimeField(_("queued at"), auto_now_add=True)
    started_at = models.DateTimeField(_("started at"), null=True)
    finished_at = models.DateTimeField(_("finished at"), null=True)
    duration_seconds = models.FloatField(_("duration"), null=True)
    attempt = models.PositiveIntegerField(_("attempt"), default=0)
    worker = models.CharField(_("worker"), max_length=200, blank=True)
    heartbeat_at = models.DateTimeField(_("last sign of life"), null=True)
    heartbeat_seq = models.PositiveBigIntegerField(default=0)
    backend_id = models.CharField(_("session on the server"), max_length=40, blank=True)
    cancel_requested_at = models.DateTimeField(_("cancel requested"), null=True)
    slot_key = models.CharField(max_length=64, null=True, unique=True)
    format = models.CharField(_("file format"), max_length=20)
    data_source = models.ForeignKey(
        DataSource, models.SET_NULL, null=True, related_name="executions", verbose_name=_("data source")
    )
    sql_template = models.TextField(
        help_text="The task's SQL when the run was queued; what a later edit does not touch."
    )
    sql = models.TextField(_("SQL as it ran"), blank=True)
    params = models.JSONField(_("parameters"), default=dict)
    notify = models.BooleanField(_("send messages"), default=True)
    progress = models.JSONField(_("progress"), default=dict)
    rows_count = models.PositiveBigIntegerField(_("rows"), null=True)
    file_size = models.PositiveBigIntegerField(_("size"), null=True)
    filename = models.CharField(_("file"), max_length=255, blank=True)
    sha256 = models.CharField("SHA-256", max_length=64, blank=True)
    files = models.JSONField(_("parts"), default=list)
    fidelity = models.JSONField(_("changed cells"), default=dict)
    error = models.TextField(_("error"), blank=True)
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.SET_NULL, null=True, related_name="+", verbose_name=_("started by user")
    )

    objects = ExecutionQuerySet.as_manager()

    class Meta:
        verbose_name = _("execution")
        verbose_name_plural = _("executions")
        ordering = ("-id",)
        constraints = (models.UniqueConstraint(fields=("task", "scheduled_for"), name="one_execution_per_occurrence"),)
        indexes = (
            models.Index(fields=("status", "id"), name="execution_by_status"),
            models.Index(fields=("task", "id"), name="execution_by_task"),
        )

    def __str__(self) -> str:
        return f"{self.task_name} #{self.pk}"

    @property
    def is_finished(self) -> bool:
        return self.status not in UNFINISHED

    @property
    def reason_sentence(self) -> str | Promise:
        return reasons.sentence(self.reason) if self.reason else ""

    @property
    def reason_remedy(self) -> str | Promise:
        return reasons.remedy(self.reason)

    @property
    def label(self) -> str:
        """What the source's administrators see, and what marks the query that may be killed."""
        return f"exp:{self.pk}:{self.attempt}"

    def paths(self) -> list[Path]:
        """The files of a succeeded run. Files are only ever found through their row, never through a directory."""
        if self.status != Status.SUCCEEDED:
            return []
        return [files.output_root() / part["path"] for part in self.files]


def worker_name() -> str:
    """This process, for people and for the check whether it still lives: host:pid."""
    return f"{socket.gethostname()}:{os.getpid()}"
