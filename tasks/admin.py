"""Export tasks in the admin: their list, their form and what can be done with them."""

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.loader import render_to_string
from django.urls import path, reverse
from django.utils import timezone
from django.utils.decorators import method_decorator
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _t
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext
from django.views.decorators.http import require_POST, require_safe
from unfold.admin import StackedInline
from unfold.decorators import action, display
from unfold.widgets import UnfoldAdminTextareaWidget, UnfoldAdminTextInputWidget

from exporter_site.access.scope import ALL_SOURCES
from exporter_site.modeladmin import ScopedAdmin, ScopedFilter, SubmitActionsAdmin
from notifications.forms import RuleForm, SecretFormField
from notifications.models import Channel, NotificationRule
from tasks import (
    announce,
    backfill,
    cron_field,
    schedule,
    sql_editor,
    task_copy,
    task_history_views,
    task_list,
    task_messages,
    task_runs,
)
from tasks.cron_field import TimezoneWidget
from tasks.dashboard_parts import runs_url
from tasks.execution_admin import SEE_SQL, STATUS_COLOURS, ExecutionAdmin
from tasks.execution_admin import of_a_shown_run as of_a_shown_task
from tasks.models import Execution, ExportTask
from tasks.scheduler_admin import PauseAdmin, SchedulerProcessAdmin
from tasks.states import Trigger
from tasks.task_runs import lead_to
from tasks.templatetags.figures import until

# Django looks for the pages of an app here.
__all__ = ["ExecutionAdmin", "ExportTaskAdmin", "PauseAdmin", "SchedulerProcessAdmin"]


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
            "timezone": TimezoneWidget,
        }

    def clean_dingtalk_webhook(self) -> str:
        return str(self.cleaned_data["dingtalk_webhook"]) or self.instance.dingtalk_webhook

    def clean_dingtalk_secret(self) -> str:
        return str(self.cleaned_data["dingtalk_secret"]) or self.instance.dingtalk_secret


class RuleInline(StackedInline):  # type: ignore[misc]
    """The shared channels that hear of this task, and of what."""

    model = NotificationRule
    form = RuleForm
    fields = ("channel", "events", "template", "tools")
    readonly_fields = ("tools",)
    extra = 0

    def get_extra(self, request: HttpRequest, obj: ExportTask | None = None, **kwargs: Any) -> int:
        original = copied_task(request) if obj is None else None
        return len(task_copy.rules_of(original)) if original else super().get_extra(request, obj, **kwargs)

    @display(description=_("try it"))
    def tools(self, rule: NotificationRule) -> SafeString:
        return message_tools("rule")


def message_tools(kind: str) -> SafeString:
    """The buttons that static/task_form.js brings to life."""
    return render_to_string("admin/tasks/exporttask/message_tools.html", {"kind": kind})


def copied_task(request: HttpRequest) -> ExportTask | None:
    """What the form for a new task is to be a copy of, as ?copy= says, if the user may see it."""
    number = request.GET.get("copy", "")
    if request.method != "GET" or not (number.isascii() and number.isdecimal() and len(number) < 19):
        return None
    return ExportTask.objects.for_user(request.user).filter(pk=int(number)).first()


@admin.register(ExportTask)
class ExportTaskAdmin(ScopedAdmin, SubmitActionsAdmin):
    form = ExportTaskForm
    list_display = (
        "name",
        "data_source",
        "schedule_shown",
        "next_shown",
        "enabled_shown",
        "last_state",
        "runs_shown",
        "owner",
    )
    list_filter = (
        "enabled",
        task_list.LastStateFilter,
        ("data_source", ScopedFilter),
        task_list.TagFilter,
        task_list.OwnerFilter,
        "format",
    )
    list_select_related = ("data_source", "owner")
    search_fields = ("name", "description")
    autocomplete_fields = ("data_source",)
    readonly_fields = ("next_runs", "message_preview", "email_tools")
    inlines = (RuleInline,)
    actions = ("run_now", "enable", "disable")
    actions_submit_line = ("save_and_run",)
    actions_detail = actions_row = ("run", "backfill", "copy")
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
                    "email_tools",
                    ("dingtalk_webhook", "dingtalk_secret"),
                    "dingtalk_message_template",
                    "message_preview",
                    "on_empty",
                )
            },
        ),
        (_("Other"), {"fields": ("tags", "owner")}),
    )

    def get_urls(self) -> list[Any]:
        own = (
            ("cron/", "cron", self.cron_view),
            ("preview-message/", "preview_message", self.preview_message_view),
            ("test-message/", "test_message", self.test_message_view),
            ("<path:object_id>/history/<int:event_id>/", "restore", self.restore_view),
        )
        views = [
            path(place, self.admin_site.admin_view(view), name=f"tasks_exporttask_{name}") for place, name, view in own
        ]
        return [*views, *sql_editor.urls(self.admin_site), *super().get_urls()]

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[task_list.TaskList]:
        return task_list.TaskList

    def get_search_fields(self, request: HttpRequest) -> tuple[str, ...]:
        # A search is an answer: it would tell the SQL letter by letter.
        return (*self.search_fields, "sql") if request.user.has_perm(SEE_SQL) else self.search_fields

    def get_fieldsets(self, request: HttpRequest, obj: ExportTask | None = None) -> Any:
        fieldsets = super().get_fieldsets(request, obj)
        hidden = set() if request.user.has_perm(SEE_SQL) else {"sql", "params"}
        to_read = {} if obj is None or self.has_change_permission(request, obj) else {"sql": "sql_shown"}
        if not self._may_edit(request):
            hidden.add("email_tools")
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

    def get_readonly_fields(self, request: HttpRequest, obj: ExportTask | None = None) -> tuple[str, ...]:
        # Nobody lends a task rights that are not their own.
        return self.readonly_fields if request.user.has_perm(ALL_SOURCES) else (*self.readonly_fields, "owner")

    def save_model(self, request: HttpRequest, obj: ExportTask, form: Any, change: bool) -> None:
        if not change and not request.user.has_perm(ALL_SOURCES):
            obj.owner = request.user  # type: ignore[assignment]  # logged in
        super().save_model(request, obj, form, change)
        original = request.resolver_match.kwargs.get("object_id") if request.resolver_match else None
        if not change and original:  # “save as new”
            self._say_what_is_not_copied(request, self.get_object(request, unquote(original)))

    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> Any:
        """Whoever may delete a task may delete with it what is only the task's: its rules, its own channels."""
        shown, counts, needed, protected = super().get_deleted_objects(objs, request)
        own = {str(model._meta.verbose_name) for model in (Channel, NotificationRule)}
        return shown, counts, needed - own, protected

    def get_changeform_initial_data(self, request: HttpRequest) -> dict[str, Any]:
        original = copied_task(request)
        if original is not None:
            self._say_what_is_not_copied(request, original)
            return task_copy.fields_of(original)
        return {"owner": request.user.pk, **super().get_changeform_initial_data(request)}

    def get_formset_kwargs(self, request: HttpRequest, obj: ExportTask, inline: Any, prefix: str) -> dict[str, Any]:
        options: dict[str, Any] = super().get_formset_kwargs(request, obj, inline, prefix)
        original = copied_task(request) if obj.pk is None else None
        return options | {"initial": task_copy.rules_of(original)} if original else options

    def _say_what_is_not_copied(self, request: HttpRequest, original: ExportTask | None) -> None:
        if original is not None and task_copy.has_secrets(original):
            words = _t("The DingTalk webhook and secret of “{name}” are not copied: enter them again.")
            messages.warning(request, words.format(name=original.name))

    @display(description=_("schedule"), ordering="cron")
    def schedule_shown(self, task: ExportTask) -> str:
        return schedule.describe(task.cron) if task.cron else _t("by hand")

    @display(description=_("next run"), ordering="next_run_at")
    def next_shown(self, task: ExportTask) -> str | SafeString:
        if task.next_run_at is None:
            return "-"
        time_left = until(task.next_run_at)
        if time_left:
            words = _t("in {time}").format(time=time_left)
        else:
            words = _t("due now") if task.next_run_at <= timezone.now() else _t("in less than a minute")
        moment = timezone.localtime(task.next_run_at).strftime("%Y-%m-%d %H:%M")
        return format_html('{}<br><small class="exporter-muted">{}</small>', words, moment)

    @display(description=_("enabled"), boolean=True, ordering="enabled")
    def enabled_shown(self, task: ExportTask) -> bool:
        return task.enabled

    @display(description=_("last run"), label=STATUS_COLOURS)
    def last_state(self, task: Any) -> tuple[str, str] | None:
        return (task.last_runs[0].status, task.last_runs[0].get_status_display()) if task.last_runs else None

    @display(description=_("last runs"))
    def runs_shown(self, task: Any) -> str | SafeString:
        return task_list.runs_shown(task, task.last_runs)

    @display(description=_("SQL"))
    def sql_shown(self, task: ExportTask) -> SafeString:
        return sql_editor.shown(task)

    @display(description=_("next runs"))
    def next_runs(self, task: ExportTask) -> SafeString:
        return cron_field.panel(task)

    @display(description=_("preview"))
    def message_preview(self, task: ExportTask) -> SafeString:
        shown = announce.preview(task, task.dingtalk_message_template) if task.pk else None
        context = {"kind": "dingtalk", "shown": shown}
        return render_to_string("admin/tasks/exporttask/message_tools.html", context)

    @display(description=_("try it"))
    def email_tools(self, task: ExportTask) -> SafeString:
        return message_tools("email")

    @method_decorator(require_safe)
    def cron_view(self, request: HttpRequest) -> HttpResponse:
        self._editors_only(request)
        return cron_field.words(request)

    @method_decorator(require_POST)
    def preview_message_view(self, request: HttpRequest) -> HttpResponse:
        self._editors_only(request)
        return task_messages.preview(request, self.get_queryset(request))

    @method_decorator(require_POST)
    def test_message_view(self, request: HttpRequest) -> HttpResponse:
        self._editors_only(request)
        return task_messages.test(request, self.get_queryset(request))

    def history_view(self, request: HttpRequest, object_id: str, extra_context: Any = None) -> HttpResponse:
        return task_history_views.history(self, request, unquote(object_id))

    def restore_view(self, request: HttpRequest, object_id: str, event_id: int) -> HttpResponse:
        return task_history_views.restore(self, request, unquote(object_id), event_id)

    def _may_edit(self, request: HttpRequest) -> bool:
        return self.has_add_permission(request) or self.has_change_permission(request)

    def _editors_only(self, request: HttpRequest) -> None:
        if not self._may_edit(request):
            raise PermissionDenied

    @of_a_shown_task
    @action(description=_("Run…"), permissions=["run"], icon="play_arrow", dialog=task_runs.RUN)
    def run(self, request: HttpRequest, form: task_runs.RunForm, object_id: str) -> HttpResponse:
        execution = Execution.objects.enqueue(
            form.task,
            trigger=Trigger.MANUAL,
            planned_at=form.cleaned_data["planned"],
            notify=form.cleaned_data["notify"],
            created_by=request.user,
        )
        messages.success(request, _t("“{name}” is queued.").format(name=form.task.name))
        return lead_to(request, reverse("admin:tasks_execution_change", args=[execution.pk]))

    @of_a_shown_task
    @action(description=_("Backfill…"), permissions=["run"], icon="history_toggle_off", dialog=task_runs.BACKFILL)
    def backfill(self, request: HttpRequest, form: task_runs.BackfillForm, object_id: str) -> HttpResponse:
        queued = backfill.enqueue(
            form.task, form.moments or (), notify=form.cleaned_data["notify"], created_by=request.user
        )
        count = len(queued)
        words = ngettext("{count} run of “{name}” is queued.", "{count} runs of “{name}” are queued.", count)
        messages.success(request, words.format(count=count, name=form.task.name))
        return lead_to(request, runs_url(task__id__exact=form.task.pk))

    @of_a_shown_task
    @action(description=_("Copy"), permissions=["add"], icon="content_copy")
    def copy(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return HttpResponseRedirect(f"{reverse('admin:tasks_exporttask_add')}?copy={int(object_id)}")

    @action(description=_("Run now"), permissions=["run"])
    def run_now(self, request: HttpRequest, queryset: QuerySet[ExportTask]) -> None:
        for task in queryset.select_related("data_source"):
            self._enqueue(request, task)

    @action(description=_("Save and run now"), permissions=["run_saved"])
    def save_and_run(self, request: HttpRequest, obj: ExportTask) -> None:
        self._enqueue(request, obj)

    @action(description=_("Enable"), permissions=["change"])
    def enable(self, request: HttpRequest, queryset: QuerySet[ExportTask]) -> None:
        count = self._switch(request, queryset, on=True)
        words = ngettext(
            "{count} task enabled. Its next run is the next planned time from now; what it missed is not made up for.",
            "{count} tasks enabled. Their next runs are the next planned times from now; what they missed is not made up for.",
            count,
        )
        self._say_switched(request, count, words, _t("These tasks were enabled already."))

    @action(description=_("Disable"), permissions=["change"])
    def disable(self, request: HttpRequest, queryset: QuerySet[ExportTask]) -> None:
        count = self._switch(request, queryset, on=False)
        words = ngettext(
            "{count} task disabled. Runs that are queued or running go on.",
            "{count} tasks disabled. Runs that are queued or running go on.",
            count,
        )
        self._say_switched(request, count, words, _t("These tasks were disabled already."))

    def has_run_saved_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        return self.has_run_permission(request)

    def has_run_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        return request.user.has_perm("tasks.run_exporttask")

    def has_add_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        return bool(super().has_add_permission(request))

    def _switch(self, request: HttpRequest, queryset: QuerySet[ExportTask], *, on: bool) -> int:
        """How many were switched; one whose schedule can't be used is named and stays off."""
        changed = 0
        for task in queryset.filter(enabled=not on):
            task.enabled = on
            explained = cron_field.explain(task.cron, task.timezone, timezone.now())
            if on and explained.faults:
                words = " ".join(fault for _label, fault in explained.faults)
                messages.error(request, _t("“{name}” stays disabled: {words}").format(name=task.name, words=words))
                continue
            task.save(update_fields=["enabled", "updated_at"])
            changed += 1
        return changed

    def _say_switched(self, request: HttpRequest, count: int, words: str, otherwise: str) -> None:
        if count:
            messages.success(request, words.format(count=count))
        else:
            messages.info(request, otherwise)

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
