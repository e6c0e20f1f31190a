"""Executions in the admin, with their messages, links and downloads."""

from collections.abc import Callable
from datetime import datetime
from functools import wraps
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.utils import unquote
from django.db.models import Prefetch, QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _t
from django.utils.translation import gettext_lazy as _
from unfold.contrib.filters.admin import RangeDateTimeFilter
from unfold.decorators import action, display

from exporter_site.access import audit
from exporter_site.formats import human_duration, human_size
from exporter_site.modeladmin import LogAdmin, LogInline, ScopedAdmin, ScopedFilter
from notifications.admin import DeliveryInline, say_resent
from notifications.models import Arrival, Delivery
from tasks import announce, reasons
from tasks.dashboard_filters import EndedFilter
from tasks.downloads import parts_of
from tasks.models import Download, DownloadLink, Execution, ExportTask
from tasks.states import Status, Trigger
from tasks.writers.base import FIDELITY

SEE_SQL = "tasks.view_sql"
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

ARRIVAL_COLOURS = {
    Arrival.OPEN.value: "info",
    Arrival.ALL.value: "success",
    Arrival.SOME.value: "warning",
    Arrival.NONE.value: "danger",
}


class DownloadLinkInline(LogInline):
    model = DownloadLink
    fields = readonly_fields = ("address", "state", "created_at", "expires_at", "login_required", "downloads")

    def get_queryset(self, request: HttpRequest) -> QuerySet[DownloadLink]:
        queryset: QuerySet[DownloadLink] = super().get_queryset(request)
        return queryset.select_related("revoked_by")

    @display(description=_("link"))
    def address(self, link: DownloadLink) -> SafeString:
        return format_html('<a href="{}" class="exporter-code underline">{}</a>', link.path, link.url or link.path)

    @display(description=_("state"))
    def state(self, link: DownloadLink) -> str:
        if link.revoked_at:
            return _t("revoked on {when} by {who}").format(when=_minute(link.revoked_at), who=link.revoked_by or "-")
        return _t("valid") if link.expires_at > timezone.now() else _t("expired")


@display(description=_("who"))
def reader_of(download: Download) -> str:
    """A name, or the number of a link that needs none."""
    if download.username:
        return download.username
    return _t("whoever had the link {link}").format(link=download.link) if download.link else _t("whoever had a link")


@display(description=_("size"))
def size_of(download: Download) -> str:
    return human_size(download.bytes) if download.bytes is not None else "-"


class DownloadInline(LogInline):
    model = Download
    fields = readonly_fields = ("at", "filename", size_of, reader_of, "address")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Download]:
        queryset: QuerySet[Download] = super().get_queryset(request)
        return queryset.select_related("link")


class ThroughFilter(admin.SimpleListFilter):
    title = _("how it was reached")
    parameter_name = "through"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [("link", _("without login, through a link")), ("login", _("after login"))]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Download]) -> QuerySet[Download]:
        if self.value() == "link":
            return queryset.filter(username="")
        return queryset.exclude(username="") if self.value() == "login" else queryset


@admin.register(Download)
class DownloadAdmin(ScopedAdmin, LogAdmin):
    list_display = ("at", "task_name", "filename", size_of, reader_of, "address")
    list_filter = (ThroughFilter, ("at", RangeDateTimeFilter))
    list_filter_submit = True
    list_select_related = ("link",)
    search_fields = ("task_name", "filename", "username", "address", "user_agent")
    show_full_result_count = False
    readonly_fields = (size_of, reader_of)
    fields = (
        "filename",
        ("task_name", "execution"),
        ("part", size_of),
        (reader_of, "link"),
        ("at", "address"),
        "user_agent",
    )


NEW_LINK = {
    "title": _("New link"),
    "description": _("Whoever has the link may fetch the files of this run until it expires or is revoked."),
    "form_submit_text": _("Make a link"),
}
REVOKE_LINKS = {
    "title": _("Revoke links"),
    "description": _("All links to this run, also those in messages, stop working now. This can't be undone."),
    "form_submit_text": _("Revoke"),
}


def of_a_shown_run(view: Callable[..., HttpResponse]) -> Callable[..., HttpResponse]:
    """For a dialog: the theme opens it for any number, also of a run that is not there for the user."""

    @wraps(view)
    def opened(model_admin: Any, request: HttpRequest, object_id: str) -> HttpResponse:
        if model_admin.get_object(request, unquote(object_id)) is None:
            raise Http404
        return view(model_admin, request, object_id=object_id)

    return opened


@admin.register(Execution)
class ExecutionAdmin(ScopedAdmin, LogAdmin):
    list_display = (
        "id",
        "task_name",
        "state",
        "planned_at",
        "trigger",
        "rows_shown",
        "size_shown",
        "duration_shown",
        "delivered_shown",
        "download",
    )
    list_display_links = ("id", "task_name")
    list_filter = ("status", EndedFilter, "trigger", ("data_source", ScopedFilter), ("planned_at", RangeDateTimeFilter))
    list_filter_submit = True
    search_fields = ("task_name", "filename")
    show_full_result_count = False
    actions = ("cancel", "run_again", "send_again", "send_again_to_everybody", "revoke_links")
    actions_detail = ("new_link", "revoke")
    inlines = (DeliveryInline, DownloadLinkInline, DownloadInline)
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

    def get_queryset(self, request: HttpRequest) -> QuerySet[Execution]:
        queryset: QuerySet[Execution] = super().get_queryset(request)
        return queryset.prefetch_related(Prefetch("deliveries", Delivery.objects.defer("payload", "history")))

    def get_fieldsets(self, request: HttpRequest, obj: Execution | None = None) -> Any:
        if request.user.has_perm(SEE_SQL):
            return self.fieldsets
        # The database's own words quote the SQL.
        hidden = {"sql_shown", "params", "error_shown", "history_shown"}
        shown = (
            (title, tuple(row for row in options["fields"] if row not in hidden)) for title, options in self.fieldsets
        )
        return [(title, {"fields": fields}) for title, fields in shown if fields]

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

    @display(description=_("messages"), label=ARRIVAL_COLOURS)
    def delivered_shown(self, execution: Execution) -> tuple[str, str] | None:
        arrival = Arrival.of(execution.deliveries.all())
        return (arrival.value, str(arrival.label)) if arrival else None

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
        first, last = _minute(execution.range_start), _minute(execution.planned_at)
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
        if execution.files_removed_at and execution.reason:
            return str(execution.reason_sentence)
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
        # The task may read another source by now: that one must be granted, too.
        tasks = ExportTask.objects.for_user(request.user).in_bulk([execution.task_id for execution in queryset])
        for execution in queryset:
            task = tasks.get(execution.task_id)
            if task is None:
                messages.error(request, _t("The task of {execution} has been deleted.").format(execution=execution))
                continue
            again = Execution.objects.enqueue(
                task,
                trigger=Trigger.MANUAL,
                planned_at=execution.planned_at,
                params=execution.params,
                format=execution.format,
                created_by=request.user,
            )
            messages.success(request, _t("{execution} is queued for the same planned time.").format(execution=again))

    @action(description=_("Send messages again to those they did not reach"), permissions=["operate"])
    def send_again(self, request: HttpRequest, queryset: QuerySet[Execution]) -> None:
        self._resend(request, queryset, everybody=False)

    @action(description=_("Send messages again to everybody"), permissions=["operate"])
    def send_again_to_everybody(self, request: HttpRequest, queryset: QuerySet[Execution]) -> None:
        self._resend(request, queryset, everybody=True)

    def _resend(self, request: HttpRequest, queryset: QuerySet[Execution], *, everybody: bool) -> None:
        again = [announce.resend(execution, everybody=everybody) for execution in queryset.select_related("task")]
        say_resent(request, sum(map(len, again)))

    @of_a_shown_run
    @action(description=_("New link"), permissions=["issue"], icon="add_link", dialog=NEW_LINK)
    def new_link(self, request: HttpRequest, form: forms.Form, object_id: str) -> HttpResponse:
        execution = get_object_or_404(self.get_queryset(request), pk=object_id)
        if parts_of(execution):
            link = DownloadLink.objects.make(execution)
            words = _t("The new link, valid until {when}: {url}")
            url = link.url or request.build_absolute_uri(link.path)
            audit.record(audit.Action.REVEAL, execution, note=str(link))
            messages.success(request, words.format(when=_minute(link.expires_at), url=url))
        else:
            messages.error(request, _t("This run has no file, or it has been removed after its retention time."))
        return _back_to(request, object_id)

    @of_a_shown_run
    @action(description=_("Revoke links"), permissions=["revoke"], icon="link_off", dialog=REVOKE_LINKS)
    def revoke(self, request: HttpRequest, form: forms.Form, object_id: str) -> HttpResponse:
        self.revoke_links(request, self.get_queryset(request).filter(pk=object_id))
        return _back_to(request, object_id)

    @action(description=_("Revoke links"), permissions=["revoke"])
    def revoke_links(self, request: HttpRequest, queryset: QuerySet[Execution]) -> None:
        executions = list(queryset.values_list("pk", flat=True))
        count = DownloadLink.objects.filter(execution__in=executions).revoke(request.user)
        messages.success(request, _t("{count} links revoked.").format(count=count))

    def has_operate_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("tasks.run_exporttask")

    def has_issue_permission(self, request: HttpRequest, object_id: str | None = None) -> bool:
        return request.user.has_perms(("tasks.download_execution", "tasks.add_downloadlink"))

    def has_revoke_permission(self, request: HttpRequest, object_id: str | None = None) -> bool:
        return request.user.has_perms(("tasks.view_execution", "tasks.change_downloadlink"))


def _minute(moment: datetime) -> str:
    return timezone.localtime(moment).strftime("%Y-%m-%d %H:%M")


def _back_to(request: HttpRequest, object_id: str) -> HttpResponse:
    """To the execution's page, from a dialog in it: the script in the page follows a header, no redirect."""
    url = reverse("admin:tasks_execution_change", args=[object_id])
    if request.headers.get("HX-Request"):
        return HttpResponse(headers={"HX-Redirect": url})
    return HttpResponseRedirect(url)


def _flat(row: str | tuple[str, ...]) -> tuple[str, ...]:
    return (row,) if isinstance(row, str) else row
