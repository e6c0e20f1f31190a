"""Export tasks and executions. How an execution changes its state is in states.py."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from functools import cache
from typing import Any
from zoneinfo import ZoneInfo, available_timezones

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator
from django.db import IntegrityError, models, transaction
from django.db.models.functions import Now
from django.utils import timezone
from django.utils.functional import Promise
from django.utils.translation import gettext as _t
from django.utils.translation import gettext_lazy as _
from django.utils.translation import gettext_noop

from datasources import safety
from datasources.models import DataSource
from exporter_site.access import audit
from exporter_site.access.scope import ScopedQuerySet
from exporter_site.fields import SecretField
from exporter_site.links import PREFIX, token_of, url_of
from notifications import messages
from notifications.models import clean_settings
from tasks import dates, files, reasons, schedule
from tasks.links import DownloadLinkQuerySet, DownloadQuerySet
from tasks.states import MOST_ATTEMPTS, UNFINISHED, ExecutionQuerySet, Overlap, Priority, Status, Trigger
from tasks.storage import StoredFile
from tasks.writers import format_choices, writers

SILENT_AFTER = timedelta(seconds=60)  # without a sign of life a scheduler is taken for dead
FILENAME_NAMES = ("task", "time", "id")


def default_timezone() -> str:
    return str(settings.CONFIG.scheduler.timezone)


class CatchUp(models.TextChoices):
    LATEST = "latest", _("only the newest")
    NONE = "none", _("none")
    ALL = "all", _("all of them")


class OnEmpty(models.TextChoices):
    SEND = "send", _("send the empty file")
    NOTICE = "notice", _("send a notice without a file")
    SILENT = "silent", _("send nothing")


class ExportTaskQuerySet(ScopedQuerySet["ExportTask"]):
    pass


class ExportTask(models.Model):
    """SQL, data source, schedule and file format. What is checked in clean() is checked again when it runs."""

    source_path = "data_source"

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
    priority = models.SmallIntegerField(_("priority"), choices=Priority, default=Priority.NORMAL)
    max_retries = models.PositiveSmallIntegerField(_("retries"), default=0, validators=[MaxValueValidator(20)])
    retry_delay = models.PositiveIntegerField(_("seconds between retries"), default=60)
    on_empty = models.CharField(_("empty result"), max_length=20, choices=OnEmpty, default=OnEmpty.SEND)
    tags = models.JSONField(_("tags"), default=list, blank=True)
    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        models.PROTECT,
        null=True,
        blank=True,
        related_name="export_tasks",
        verbose_name=_("owner"),
        help_text=_("It runs with this user's rights, and failures are told to them. Empty: with all rights."),
    )
    next_run_at = models.DateTimeField(_("next run"), null=True, blank=True, editable=False, db_index=True)
    dingtalk_webhook = SecretField(_("DingTalk webhook"), blank=True, default="")
    dingtalk_secret = SecretField(_("DingTalk secret"), blank=True, default="")
    dingtalk_message_template = models.TextField(
        _("DingTalk message"),
        blank=True,
        help_text=_("{task_name}, {rows_count}, {download_url} … Empty: the usual message."),
    )
    email_recipients = models.JSONField(_("e-mail recipients"), default=list, blank=True)
    created_at = models.DateTimeField(_("created"), auto_now_add=True)
    updated_at = models.DateTimeField(_("changed"), auto_now=True)

    objects = ExportTaskQuerySet.as_manager()

    class Meta:
        verbose_name = _("export task")
        verbose_name_plural = _("export tasks")
        ordering = ("name",)
        permissions = (
            ("run_exporttask", gettext_noop("Can run tasks, cancel runs, send messages again")),
            ("view_sql", gettext_noop("Can see the SQL of tasks and runs, and the databases' own words about them")),
        )

    def __str__(self) -> str:
        return self.name

    def save(self, *args: Any, **kwargs: Any) -> None:
        # From now on: a changed schedule never replays the past. One that has been set aside is planned anew.
        set_aside = self.next_run_at is None and self.enabled and self.cron
        if set_aside or self._changes("cron", "timezone", "enabled"):
            self.next_run_at = self.compute_next_run(timezone.now())
            if kwargs.get("update_fields") is not None:
                kwargs["update_fields"] = {*kwargs["update_fields"], "next_run_at"}
        with transaction.atomic():
            if not self._state.adding and self._changes("data_source_id"):
                # What it still owes is about the old source, and its addresses are soon those of people without that.
                self.own_channels.all().delete()
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
            ("dingtalk_webhook", self._check_webhook),
            ("dingtalk_message_template", self._check_template),
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

    def _check_webhook(self) -> None:
        if self.dingtalk_webhook:
            self.dingtalk_webhook = clean_settings("dingtalk", self.channel_settings("dingtalk"))["webhook_url"]

    def _check_template(self) -> None:
        messages.check(self.dingtalk_message_template)

    def _check_recipients(self) -> None:
        self.email_recipients = _as_list(self.email_recipients)
        if self.email_recipients:
            self.email_recipients = clean_settings("email", self.channel_settings("email"))["recipients"]

    def _check_tags(self) -> None:
        self.tags = _as_list(self.tags)

    def _changes(self, *names: str) -> bool:
        """Whether one of these fields is not as it is stored."""
        if self._state.adding:
            return True
        before = type(self).objects.filter(pk=self.pk).values_list(*names).first()
        return before != tuple(getattr(self, name) for name in names)

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

    def channel_settings(self, kind: str) -> dict[str, Any]:
        """What this task names itself for a channel of `kind`; notifications/models.py asks for it when it sends."""
        if kind == "dingtalk":
            return {"webhook_url": self.dingtalk_webhook, "secret": self.dingtalk_secret}
        return {"recipients": self.email_recipients}

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


class Execution(models.Model):
    """One run, from the moment it is owed: queue row and log in one."""

    source_path = "data_source"

    task = models.ForeignKey(ExportTask, models.SET_NULL, null=True, related_name="executions", verbose_name=_("task"))
    task_name = models.CharField(_("task"), max_length=200)
    status = models.CharField(_("state"), max_length=20, choices=Status, default=Status.QUEUED)
    reason = models.CharField(_("reason"), max_length=40, blank=True)
    trigger = models.CharField(_("started by"), max_length=20, choices=Trigger)
    planned_at = models.DateTimeField(_("planned time"), help_text=_("What the dates in SQL and file name count from."))
    scheduled_for = models.DateTimeField(
        _("occurrence"), null=True, help_text=_("The schedule's time, for scheduled runs.")
    )
    range_start = models.DateTimeField(
        _("missed since"), null=True, help_text=_("This row stands for all missed times from here to the occurrence.")
    )
    occurrences = models.PositiveIntegerField(_("number of occurrences"), default=1)
    priority = models.SmallIntegerField(_("priority"), choices=Priority, default=Priority.NORMAL)
    queued_at = models.DateTimeField(_("queued at"), auto_now_add=True)
    not_before = models.DateTimeField(_("next try"), null=True)
    started_at = models.DateTimeField(_("started at"), null=True)
    finished_at = models.DateTimeField(_("finished at"), null=True)
    duration_seconds = models.FloatField(_("duration"), null=True)
    attempt = models.PositiveIntegerField(_("attempt"), default=0)
    retries = models.PositiveSmallIntegerField(_("retries"), default=0)
    history = models.JSONField(_("earlier attempts"), default=list)
    worker = models.CharField(_("worker"), max_length=200, blank=True)
    heartbeat_at = models.DateTimeField(_("last sign of life"), null=True)
    heartbeat_seq = models.PositiveBigIntegerField(default=0)
    backend_id = models.CharField(_("session on the server"), max_length=40, blank=True)
    cancel_requested_at = models.DateTimeField(_("cancel requested"), null=True)
    slot_key = models.CharField(max_length=64, null=True, unique=True)
    source_slot = models.CharField(max_length=64, null=True, unique=True)
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
    files_removed_at = models.DateTimeField(_("files removed at"), null=True)
    fidelity = models.JSONField(_("changed cells"), default=dict)
    error = models.TextField(_("error"), blank=True)
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.SET_NULL, null=True, related_name="+", verbose_name=_("started by user")
    )
    request_key = models.CharField(
        max_length=64, null=True, unique=True, editable=False, help_text="From Idempotency-Key: the same request again."
    )
    request_digest = models.CharField(
        max_length=64, blank=True, default="", editable=False, help_text="What was asked for with request_key."
    )

    objects = ExecutionQuerySet.as_manager()

    class Meta:
        verbose_name = _("execution")
        verbose_name_plural = _("executions")
        ordering = ("-id",)
        permissions = (("download_execution", gettext_noop("Can download the files of runs")),)
        constraints = (models.UniqueConstraint(fields=("task", "scheduled_for"), name="one_execution_per_occurrence"),)
        indexes = (
            models.Index(fields=("status", "id"), name="execution_by_status"),
            models.Index(fields=("status", "-priority", "id"), name="execution_by_priority"),
            models.Index(fields=("task", "id"), name="execution_by_task"),
            models.Index(fields=("status", "finished_at"), name="execution_by_end"),
            models.Index(fields=("data_source", "id"), name="execution_by_source"),
            models.Index(fields=("trigger", "id"), name="execution_by_trigger"),
            models.Index(fields=("planned_at", "id"), name="execution_by_planned_time"),
            # A long log by state in the order of time, and what who sees one source of many asks for.
            models.Index(fields=("status", "planned_at", "id"), name="execution_by_status_and_time"),
            models.Index(fields=("data_source", "planned_at", "id"), name="execution_by_source_and_time"),
            models.Index(fields=("data_source", "status", "planned_at", "id"), name="execution_by_source_state_time"),
            models.Index(fields=("task", "data_source", "planned_at", "id"), name="execution_by_task_and_source"),
            models.Index(fields=("data_source", "status", "id"), name="execution_by_source_and_status"),
            models.Index(fields=("data_source", "status", "finished_at"), name="execution_by_source_and_end"),
            models.Index(fields=("data_source", "trigger", "id"), name="execution_by_source_trigger"),
            # For the beginning of a name; the class is PostgreSQL's, the other databases have no need of one.
            models.Index(fields=("filename",), name="execution_by_filename", opclasses=("varchar_pattern_ops",)),
        )

    def __str__(self) -> str:
        return f"{self.task_name} #{self.pk}"

    @property
    def is_finished(self) -> bool:
        return self.status not in UNFINISHED

    @property
    def may_go_on(self) -> bool:
        """Whether a scheduler may try this run again; one from the command line ends with its command."""
        return self.trigger != Trigger.CLI and self.attempt < MOST_ATTEMPTS

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

    def link_for_messages(self) -> int | None:
        """The number of a valid link to the file; None when there is none that messages may offer."""
        offered = self.rows_count != 0 or self.task is None or self.task.on_empty == OnEmpty.SEND
        return DownloadLink.objects.issue(self).pk if offered and self.stored_files() else None

    def stored_files(self) -> list[StoredFile]:
        """The files of a succeeded run, as long as they are kept. Files are only ever found through their row, never through a directory."""
        if self.status != Status.SUCCEEDED or self.files_removed_at:
            return []
        return [StoredFile.of(part) for part in self.files]


class SchedulerQuerySet(models.QuerySet["SchedulerProcess"]):
    def beat(self, name: str, **fields: Any) -> None:
        """Note that the scheduler `name` lives."""
        # Numbers of processes are used again: a row that says stopped was another process.
        if not self.filter(name=name, stopped_at=None).update(seen_at=Now(), **fields):
            self.filter(name=name).delete()
            self.create(name=name, seen_at=Now(), **fields)

    def alive(self) -> "SchedulerQuerySet":
        """Those that were seen lately, by the clock of the database: those of hosts are never compared."""
        return self.filter(seen_at__gt=Now() - SILENT_AFTER, stopped_at=None)


class SchedulerProcess(models.Model):
    """A `runscheduler` that is or was there: what the dashboard, `scheduler status` and /healthz look at."""

    name = models.CharField(_("process"), max_length=200, unique=True)
    started_at = models.DateTimeField(_("started at"), auto_now_add=True)
    seen_at = models.DateTimeField(_("last sign of life"))
    stopped_at = models.DateTimeField(_("stopped at"), null=True)
    executor = models.CharField(_("executor"), max_length=20)
    workers = models.PositiveIntegerField(_("workers"))
    running = models.PositiveIntegerField(_("running now"), default=0)

    objects = SchedulerQuerySet.as_manager()

    class Meta:
        verbose_name = _("scheduler process")
        verbose_name_plural = _("scheduler processes")
        ordering = ("-seen_at",)

    def __str__(self) -> str:
        return self.name


class PauseQuerySet(models.QuerySet["Pause"]):
    def active(self) -> "PauseQuerySet":
        return self.filter(active_key=Pause.ACTIVE)

    def begin(self, by: str, note: str = "") -> bool:
        """Stop starting runs. False when that is so already."""
        try:
            with transaction.atomic():
                self.create(active_key=Pause.ACTIVE, begun_by=by, note=note)
        except IntegrityError:
            return False
        return True

    def end(self, by: str) -> bool:
        """Start runs again. False when nothing was paused."""
        pause = self.active().first()
        changes = {"ended_at": timezone.now(), "ended_by": by}
        if pause is None or not self.active().filter(pk=pause.pk).update(active_key=None, **changes):
            return False
        audit.record(audit.Action.EDIT, pause, changes={"ended_by": ["", by]})
        return True


class Pause(models.Model):
    """A time in which nothing is started, for maintenance. Running exports go on; what comes due waits, and is late
    by the usual rules when the pause ends."""

    ACTIVE = "active"

    active_key = models.CharField(max_length=10, null=True, unique=True)
    begun_at = models.DateTimeField(_("paused at"), auto_now_add=True)
    begun_by = models.CharField(_("paused by"), max_length=150)
    note = models.CharField(_("note"), max_length=200, blank=True)
    ended_at = models.DateTimeField(_("resumed at"), null=True)
    ended_by = models.CharField(_("resumed by"), max_length=150, blank=True)

    objects = PauseQuerySet.as_manager()

    class Meta:
        verbose_name = _("pause")
        verbose_name_plural = _("pauses")
        ordering = ("-id",)

    def __str__(self) -> str:
        return f"{self.begun_at:%Y-%m-%d %H:%M} {self.begun_by}"


class DownloadLink(models.Model):
    """The right to fetch the files of an execution, for whoever has the address.

    (created) --> valid --revoke--> revoked
                    +--its time has passed--> expired
    """

    source_path = "execution__data_source"

    execution = models.ForeignKey(Execution, models.CASCADE, related_name="links", verbose_name=_("execution"))
    created_at = models.DateTimeField(_("created"), auto_now_add=True)
    expires_at = models.DateTimeField(_("valid until"))
    login_required = models.BooleanField(_("only after login"))
    revoked_at = models.DateTimeField(_("revoked at"), null=True)
    revoked_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.SET_NULL, null=True, related_name="+", verbose_name=_("revoked by")
    )
    downloads = models.PositiveIntegerField(_("downloads"), default=0)

    objects = DownloadLinkQuerySet.as_manager()

    class Meta:
        verbose_name = _("link")
        verbose_name_plural = _("links")
        ordering = ("-id",)

    def __str__(self) -> str:
        return f"#{self.pk}"

    @property
    def path(self) -> str:
        """The address on this site."""
        return f"{PREFIX}{token_of(self.pk)}"

    @property
    def url(self) -> str:
        """The whole address; "" when web.public_url is not set."""
        return url_of(self.pk)


class Download(models.Model):
    """The record of a download that was begun. It outlives execution, link and user, and keeps their names.

    `bytes` is the size of the answer that began it, None for a zip, which is made while it is sent.
    """

    source_path = "execution__data_source"

    execution = models.ForeignKey(
        Execution, models.SET_NULL, null=True, related_name="downloads", verbose_name=_("execution")
    )
    task_name = models.CharField(_("task"), max_length=200)
    filename = models.CharField(_("file"), max_length=255)
    part = models.PositiveIntegerField(_("part"), null=True, help_text=_("Empty for all parts as one zip."))
    bytes = models.PositiveBigIntegerField(_("size"), null=True)
    link = models.ForeignKey(
        DownloadLink, models.SET_NULL, null=True, related_name="history", verbose_name=_("through the link")
    )
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.SET_NULL, null=True, related_name="+", verbose_name=_("user")
    )
    username = models.CharField(_("user name"), max_length=150, blank=True)
    at = models.DateTimeField(_("time"), auto_now_add=True, db_index=True)
    address = models.GenericIPAddressField(_("address"), null=True)
    user_agent = models.CharField(_("browser"), max_length=200, blank=True)

    objects = DownloadQuerySet.as_manager()

    class Meta:
        verbose_name = _("download")
        verbose_name_plural = _("downloads")
        ordering = ("-id",)

    def __str__(self) -> str:
        return f"#{self.pk} {self.filename}"
