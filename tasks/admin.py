"""Tasks and executions in the admin."""

from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfoNotFoundError

from django import forms
from django.contrib import admin, messages
from django.db.models import Exists, OuterRef, QuerySet, Subquery
from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _t
from django.utils.translation import gettext_lazy as _
from unfold.admin import ModelAdmin
from unfold.contrib.filters.admin import RangeDateTimeFilter
from unfold.decorators import action, display
from unfold.widgets import UnfoldAdminTextareaWidget, UnfoldAdminTextInputWidget

from exporter_site.formats import human_duration, human_size
from exporter_site.modeladmin import SubmitActionsAdmin
from tasks import reasons, schedule
from tasks.models import Execution, ExportTask, Pause, SchedulerProcess
from tasks.states import Status, Trigger
from tasks.writers.base import FIDELITY

STATUS_COLOURS = {
    Status.QUEUED.value: "info",
    Status.RUNNING.value: "primary",
    Status.SUCCEEDED.value: "success",
    Status.FAILED.value: "danger",
    Status.TIMED_OUT.value: "danger",
    Status.CANCELLED.value: "warning",
    Status.MISSED.value: "warning",
    Status.SKIPPED.value: "warning",
}


class CommaListField(forms.CharField):
    """A list of texts, edited as one line with commas."""

    widget = UnfoldAdminTextInputWidget

    def prepare_value(self, value: Any) -> Any:
        return ", ".join(value) if isinstance(value, list) else value

    def to_python(self, value: Any) -> Any:
        return [item.strip() for item in (value or "").replace("，", ",").split(",") if item.strip()]

    def has_changed(self, initial: Any, data: Any) -> bool:
        return bool((initial or []) != self.to_python(data))


class ExportTaskForm(forms.ModelForm):  # type: ignore[type-arg]
    tags = CommaListField(label=_("Tags"), required=False, help_text=_("Separated by commas."))

    class Meta:
        model = ExportTask
        fields = "__all__"  # noqa: DJ007  # the admin names them
        widgets = {
            "description": UnfoldAdminTextareaWidget(attrs={"rows": 2}),
            "sql": UnfoldAdminTextareaWidget(attrs={"rows": 16, "class": "exporter-code", "spellcheck": "false"}),
            "params": UnfoldAdminTextareaWidget(attrs={"rows": 2}),
            "format_options": UnfoldAdminTextareaWidget(attrs={"rows": 2}),
        }


@admin.register(ExportTask)
class ExportTaskAdmin(SubmitActionsAdmin):
    form = ExportTaskForm
    list_display = ("name", "data_source", "schedule_shown", "next_run_at", "enabled_shown", "last_state")
    list_filter = ("enabled", "data_source", "format")
    list_select_related = ("data_source",)
    search_fields = ("name", "description")
    autocomplete_fields = ("data_source",)
    readonly_fields = ("next_runs",)
    actions = ("run_now", "enable", "disable")
    actions_submit_line = ("save_and_run",)
    save_as = True
    fieldsets = (
        (None, {"fields": ("name", "description", "data_source", "enabled")}),
        (_("Query"), {"fields": ("sql", "params", "long_running")}),
        (
            _("Schedule"),
            {
                "fields": (
                    ("cron", "timezone"),
                    "next_runs",
                    ("overlap", "catch_up"),
                    ("priority", "max_retries", "retry_delay"),
                )
            },
        ),
        (_("File"), {"fields": (("format", "filename_template"), "format_options")}),
        (_("Other"), {"fields": ("tags", "owner")}),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[ExportTask]:
        last = Execution.objects.filter(task=OuterRef("pk")).order_by("-id")
        queryset: QuerySet[ExportTask] = super().get_queryset(request)
        return queryset.annotate(last_status=Subquery(last.values("status")[:1]))

    def get_changeform_initial_data(self, request: HttpRequest) -> dict[str, Any]:
        return {"owner": request.user.pk, **super().get_changeform_initial_data(request)}

    @display(description=_("schedule"), ordering="cron")
    def schedule_shown(self, task: ExportTask) -> str:
        return schedule.describe(task.cron) if task.cron else _t("by hand")

    @display(description=_("enabled"), boolean=True, ordering="enabled")
    def enabled_shown(self, task: ExportTask) -> bool:
        return task.enabled

    @display(description=_("last run"), label=STATUS_COLOURS)
    def last_state(self, task: ExportTask) -> tuple[str, str] | None:
        status = getattr(task, "last_status", None)
        return (status, str(Status(status).label)) if status else None

    @display(description=_("next runs"))
    def next_runs(self, task: ExportTask) -> str | SafeString:
        if not task.pk or not task.cron:
            return _t("Only by hand.")
        try:
            schedule.check(task.cron)
            moments = schedule.next_runs(task.cron, task.timezone, timezone.now())
        except (ValueError, ZoneInfoNotFoundError):
            return "-"  # the form shows what is wrong, at its field
        lines = ((timezone.localtime(moment).strftime("%Y-%m-%d %H:%M %Z"),) for moment in moments)
        words = f"{schedule.describe(task.cron)} ({task.timezone})"
        return format_html("{}<br>{}", words, format_html_join("", "{}<br>", lines))

    @action(description=_("Run now"), permissions=["change"])
    def run_now(self, request: HttpRequest, queryset: QuerySet[ExportTask]) -> None:
        for task in queryset.select_related("data_source"):
            self._enqueue(request, task)

    @action(description=_("Save and run now"))
    def save_and_run(self, request: HttpRequest, obj: ExportTask) -> None:
        self._enqueue(request, obj)

    @action(description=_("Enable"), permissions=["change"])
    def enable(self, request: HttpRequest, queryset: QuerySet[ExportTask]) -> None:
        self._switch(request, queryset, on=True)

    @action(description=_("Disable"), permissions=["change"])
    def disable(self, request: HttpRequest, queryset: QuerySet[ExportTask]) -> None:
        self._switch(request, queryset, on=False)

    def _switch(self, request: HttpRequest, queryset: QuerySet[ExportTask], *, on: bool) -> None:
        changed = 0
        for task in queryset.filter(enabled=not on):
            task.enabled = on
            task.save(update_fields=["enabled", "updated_at"])
            changed += 1
        messages.success(request, _t("{count} tasks changed.").format(count=changed))

    def _enqueue(self, request: HttpRequest, task: ExportTask) -> None:
        execution = Execution.objects.enqueue(task, trigger=Trigger.MANUAL, created_by=request.user)
        link = reverse("admin:tasks_execution_change", args=[execution.pk])
        messages.success(
            request,
            format_html(
                '{} <a href="{}" class="underline">#{}</a>',
                _t("“{name}” is queued.").format(name=task.name),
                link,
                execution.pk,
            ),
        )


class LogAdmin(ModelAdmin):  # type: ignore[misc]
    """Nobody adds, changes or removes a row here."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


@admin.register(SchedulerProcess)
class SchedulerProcessAdmin(LogAdmin):
    list_display = ("name", "alive", "started_at", "seen_at", "stopped_at", "executor", "workers", "running")
    fields = ("name", "started_at", "seen_at", "stopped_at", "executor", "workers", "running")

    def get_queryset(self, request: HttpRequest) -> QuerySet[SchedulerProcess]:
        alive = SchedulerProcess.objects.alive().filter(pk=OuterRef("pk"))
        queryset: QuerySet[SchedulerProcess] = super().get_queryset(request)
        return queryset.annotate(is_alive=Exists(alive))

    @display(description=_("alive"), boolean=True)
    def alive(self, process: SchedulerProcess) -> bool:
        return bool(getattr(process, "is_alive", False))


@admin.register(Pause)
class PauseAdmin(LogAdmin):
    """Adding a pause is pausing; an action ends it."""

    list_display = ("begun_at", "begun_by", "note", "ended_at", "ended_by")
    fields = ("note",)
    actions = ("resume",)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("tasks.add_pause") and not Pause.objects.active().exists()

    def save_model(self, request: HttpRequest, obj: Pause, form: Any, change: bool) -> None:
        obj.begun_by, obj.active_key = request.user.get_username(), Pause.ACTIVE
        super().save_model(request, obj, form, change)

    @action(description=_("Resume"), permissions=["resume"])
    def resume(self, request: HttpRequest, queryset: QuerySet[Pause]) -> None:
        if Pause.objects.end(request.user.get_username()):
            messages.success(request, _t("Runs are started again."))
        else:
            messages.warning(request, _t("Nothing is paused."))

    def has_resume_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("tasks.add_pause")


@admin.register(Execution)
class ExecutionAdmin(LogAdmin):
    list_display = (
        "id",
        "task_name",
        "state",
        "planned_at",
        "trigger",
        "rows_shown",
        "size_shown",
        "duration_shown",
        "download",
    )
    list_display_links = ("id", "task_name")
    list_filter = ("status", "trigger", ("planned_at", RangeDateTimeFilter))
    list_filter_submit = True
    search_fields = ("task_name", "filename")
    show_full_result_count = False
    actions = ("cancel", "run_again")
    fieldsets = (
        (None, {"fields": ("task_name", "status", "reason_shown", "error_shown", "download", "parts")}),
        (
            _("Figures"),
            {"fields": (("rows_shown", "size_shown", "duration_shown"), "fidelity_shown", "progress_shown")},
        ),
        (
            _("Times"),
            {
                "fields": (
                    ("planned_at", "queued_at"),
                    ("started_at", "finished_at"),
                    ("not_before", "missed_range"),
                    ("trigger", "priority", "created_by"),
                )
            },
        ),
        (_("Query"), {"fields": ("sql_shown", "params")}),
        (_("Details"), {"fields": ("checksum", ("worker", "attempt", "retries"), "history_shown")}),
    )

    def get_readonly_fields(self, request: HttpRequest, obj: Execution | None = None) -> tuple[str, ...]:
        return tuple(name for _title, options in self.fieldsets for row in options["fields"] for name in _flat(row))

    @display(description=_("state"), label=STATUS_COLOURS, ordering="status")
    def state(self, execution: Execution) -> tuple[str, str]:
        return execution.status, execution.get_status_display()

    @display(description=_("rows"), ordering="rows_count")
    def rows_shown(self, execution: Execution) -> str:
        return f"{execution.rows_count:,}" if execution.rows_count is not None else "-"

    @display(description=_("size"), ordering="file_size")
    def size_shown(self, execution: Execution) -> str:
        return human_size(execution.file_size) if execution.file_size is not None else "-"

    @display(description=_("duration"), ordering="duration_seconds")
    def duration_shown(self, execution: Execution) -> str:
        return human_duration(execution.duration_seconds) if execution.duration_seconds is not None else "-"

    @display(description=_("progress"))
    def progress_shown(self, execution: Execution) -> str:
        if execution.status != Status.RUNNING:
            return "-"
        rows, size = execution.progress.get("rows", 0), execution.progress.get("bytes", 0)
        return _t("{rows} rows, {size}").format(rows=f"{rows:,}", size=human_size(size))

    @display(description=_("reason"))
    def reason_shown(self, execution: Execution) -> str:
        if execution.status == Status.QUEUED and execution.not_before:
            when = timezone.localtime(execution.not_before).strftime("%H:%M:%S")
            return f"{execution.reason_sentence} " + _t("It is tried again after {when}.").format(when=when)
        return f"{execution.reason_sentence} {execution.reason_remedy}".strip() or "-"

    @display(description=_("message of the database"))
    def error_shown(self, execution: Execution) -> str | SafeString:
        return format_html('<pre class="exporter-code">{}</pre>', execution.error) if execution.error else "-"

    @display(description=_("SQL as it ran"))
    def sql_shown(self, execution: Execution) -> SafeString:
        return format_html('<pre class="exporter-code">{}</pre>', execution.sql or execution.sql_template)

    @display(description="SHA-256")
    def checksum(self, execution: Execution) -> str | SafeString:
        return format_html('<span class="exporter-code">{}</span>', execution.sha256) if execution.sha256 else "-"

    @display(description=_("changed cells"))
    def fidelity_shown(self, execution: Execution) -> str | SafeString:
        if not execution.fidelity:
            return _t("none: every cell is as the database holds it") if execution.files else "-"
        lines = ((f"{count:,}", FIDELITY.get(code, code)) for code, count in execution.fidelity.items())
        return format_html_join("", "{} {}<br>", lines)

    @display(description=_("missed times"))
    def missed_range(self, execution: Execution) -> str:
        if execution.range_start is None:
            return "-"
        first, last = (
            timezone.localtime(moment).strftime("%Y-%m-%d %H:%M")
            for moment in (execution.range_start, execution.planned_at)
        )
        return _t("{count} times from {first} to {last}").format(
            count=f"{execution.occurrences:,}", first=first, last=last
        )

    @display(description=_("earlier attempts"))
    def history_shown(self, execution: Execution) -> str | SafeString:
        if not execution.history:
            return "-"
        lines = (
            (
                attempt["attempt"],
                timezone.localtime(datetime.fromisoformat(attempt["ended_at"])).strftime("%Y-%m-%d %H:%M:%S"),
                reasons.sentence(attempt["reason"]),
                attempt["error"],
            )
            for attempt in execution.history
        )
        return format_html_join("", "#{} {} {} {}<br>", lines)

    @display(description=_("file"))
    def download(self, execution: Execution) -> str | SafeString:
        if not execution.files:
            return "-"
        if execution.files_removed_at:
            day = timezone.localtime(execution.files_removed_at).strftime("%Y-%m-%d")
            return _t("removed on {day}, after its retention time").format(day=day)
        name = execution.filename if len(execution.files) == 1 else _t("all parts (zip)")
        url = reverse("tasks:download", args=[execution.pk])
        return format_html('<a href="{}" class="text-primary-600 dark:text-primary-500 underline">{}</a>', url, name)

    @display(description=_("parts"))
    def parts(self, execution: Execution) -> str | SafeString:
        if len(execution.files) < 2 or execution.files_removed_at:
            return "-"
        url = reverse("tasks:download", args=[execution.pk])
        lines = (
            (url, number, part["path"].rpartition("/")[2], f"{part['rows']:,}", human_size(part["size"]))
            for number, part in enumerate(execution.files, start=1)
        )
        return format_html_join("", '<a href="{}?part={}" class="underline">{}</a> ({} · {})<br>', lines)

    @action(description=_("Cancel"), permissions=["operate"])
    def cancel(self, request: HttpRequest, queryset: QuerySet[Execution]) -> None:
        for execution in queryset:
            if Execution.objects.request_cancel(execution.pk):
                messages.success(request, _t("{execution} is being cancelled.").format(execution=execution))
            else:
                messages.warning(request, _t("{execution} has already ended.").format(execution=execution))

    @action(description=_("Run again"), permissions=["operate"])
    def run_again(self, request: HttpRequest, queryset: QuerySet[Execution]) -> None:
        for execution in queryset.select_related("task", "task__data_source"):
            if execution.task is None:
                messages.error(request, _t("The task of {execution} has been deleted.").format(execution=execution))
                continue
            again = Execution.objects.enqueue(
                execution.task,
                trigger=Trigger.MANUAL,
                planned_at=execution.planned_at,
                params=execution.params,
                format=execution.format,
                created_by=request.user,
            )
            messages.success(request, _t("{execution} is queued for the same planned time.").format(execution=again))

    def has_operate_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("tasks.change_exporttask")


def _flat(row: str | tuple[str, ...]) -> tuple[str, ...]:
    return (row,) if isinstance(row, str) else row
