"""Tasks and executions in the admin."""

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
from unfold.admin import StackedInline
from unfold.decorators import action, display
from unfold.widgets import UnfoldAdminTextareaWidget, UnfoldAdminTextInputWidget

from exporter_site.access.scope import ALL_SOURCES
from exporter_site.modeladmin import LogAdmin, ScopedAdmin, ScopedFilter, SubmitActionsAdmin
from notifications.forms import RuleForm, SecretFormField
from notifications.models import Channel, NotificationRule
from tasks import announce, schedule, sql_editor
from tasks.execution_admin import SEE_SQL, STATUS_COLOURS
from tasks.models import Execution, ExportTask, Pause, SchedulerProcess
from tasks.states import Status, Trigger


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
    email_recipients = CommaListField(label=_("E-mail recipients"), required=False, help_text=_("Separated by commas."))
    dingtalk_webhook = SecretFormField(label=_("DingTalk webhook"), help_text=_("Empty: the robot of config.yaml."))
    dingtalk_secret = SecretFormField(
        label=_("DingTalk secret"), help_text=_("SEC…, if the robot asks for signatures.")
    )

    class Meta:
        model = ExportTask
        fields = "__all__"  # noqa: DJ007  # the admin names them
        widgets = {
            "description": UnfoldAdminTextareaWidget(attrs={"rows": 2}),
            "sql": sql_editor.SqlEditorWidget(attrs={"rows": 16, "class": "exporter-code", "spellcheck": "false"}),
            "params": UnfoldAdminTextareaWidget(attrs={"rows": 2}),
            "format_options": UnfoldAdminTextareaWidget(attrs={"rows": 2}),
            "dingtalk_message_template": UnfoldAdminTextareaWidget(attrs={"rows": 4, "class": "exporter-code"}),
        }

    def clean_dingtalk_webhook(self) -> str:
        return str(self.cleaned_data["dingtalk_webhook"]) or self.instance.dingtalk_webhook

    def clean_dingtalk_secret(self) -> str:
        return str(self.cleaned_data["dingtalk_secret"]) or self.instance.dingtalk_secret


class RuleInline(StackedInline):  # type: ignore[misc]
    """The shared channels that hear of this task, and of what."""

    model = NotificationRule
    form = RuleForm
    fields = ("channel", "events", "template")
    extra = 0


@admin.register(ExportTask)
class ExportTaskAdmin(ScopedAdmin, SubmitActionsAdmin):
    form = ExportTaskForm
    list_display = ("name", "data_source", "schedule_shown", "next_run_at", "enabled_shown", "last_state")
    list_filter = ("enabled", ("data_source", ScopedFilter), "format")
    list_select_related = ("data_source",)
    search_fields = ("name", "description")
    autocomplete_fields = ("data_source",)
    readonly_fields = ("next_runs", "message_preview")
    inlines = (RuleInline,)
    actions = ("run_now", "enable", "disable")
    actions_submit_line = ("save_and_run",)
    save_as = True

    class Media:
        js = sql_editor.SCRIPTS

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
        (
            _("Messages"),
            {
                "fields": (
                    "email_recipients",
                    ("dingtalk_webhook", "dingtalk_secret"),
                    "dingtalk_message_template",
                    "message_preview",
                    "on_empty",
                )
            },
        ),
        (_("Other"), {"fields": ("tags", "owner")}),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[ExportTask]:
        last = Execution.objects.filter(task=OuterRef("pk"), data_source=OuterRef("data_source")).order_by("-id")
        queryset: QuerySet[ExportTask] = super().get_queryset(request)
        return queryset.annotate(last_status=Subquery(last.values("status")[:1]))

    def get_fieldsets(self, request: HttpRequest, obj: ExportTask | None = None) -> Any:
        fieldsets = super().get_fieldsets(request, obj)
        hidden = set() if request.user.has_perm(SEE_SQL) else {"sql", "params"}
        to_read = {} if obj is None or self.has_change_permission(request, obj) else {"sql": "sql_shown"}
        return [
            (
                title,
                {
                    **options,
                    "fields": tuple(to_read.get(name, name) for name in options["fields"] if name not in hidden),
                },
            )
            for title, options in fieldsets
        ]

    def get_urls(self) -> Any:
        return [*sql_editor.urls(self.admin_site), *super().get_urls()]

    def get_readonly_fields(self, request: HttpRequest, obj: ExportTask | None = None) -> tuple[str, ...]:
        # Nobody lends a task rights that are not their own.
        return self.readonly_fields if request.user.has_perm(ALL_SOURCES) else (*self.readonly_fields, "owner")

    def save_model(self, request: HttpRequest, obj: ExportTask, form: Any, change: bool) -> None:
        if not change and not request.user.has_perm(ALL_SOURCES):
            obj.owner = request.user  # type: ignore[assignment]  # logged in
        super().save_model(request, obj, form, change)

    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> Any:
        """Whoever may delete a task may delete with it what is only the task's: its rules, its own channels."""
        shown, counts, needed, protected = super().get_deleted_objects(objs, request)
        own = {str(model._meta.verbose_name) for model in (Channel, NotificationRule)}
        return shown, counts, needed - own, protected

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

    @display(description=_("SQL"))
    def sql_shown(self, task: ExportTask) -> SafeString:
        return sql_editor.shown(task)

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

    @display(description=_("preview"))
    def message_preview(self, task: ExportTask) -> str | SafeString:
        if not task.pk:
            return _t("After saving.")
        shown = announce.preview(task, task.dingtalk_message_template)
        return format_html('<b>{}</b><pre class="exporter-code">{}</pre>', shown["title"], shown["text"])

    @action(description=_("Run now"), permissions=["run"])
    def run_now(self, request: HttpRequest, queryset: QuerySet[ExportTask]) -> None:
        for task in queryset.select_related("data_source"):
            self._enqueue(request, task)

    @action(description=_("Save and run now"), permissions=["run_saved"])
    def save_and_run(self, request: HttpRequest, obj: ExportTask) -> None:
        self._enqueue(request, obj)

    @action(description=_("Enable"), permissions=["change"])
    def enable(self, request: HttpRequest, queryset: QuerySet[ExportTask]) -> None:
        self._switch(request, queryset, on=True)

    @action(description=_("Disable"), permissions=["change"])
    def disable(self, request: HttpRequest, queryset: QuerySet[ExportTask]) -> None:
        self._switch(request, queryset, on=False)

    def has_run_saved_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        return self.has_run_permission(request)

    def has_run_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("tasks.run_exporttask")

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

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
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
