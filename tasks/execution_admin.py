"""Executions in the admin: their list, and the page of each."""

from collections.abc import Callable
from datetime import datetime
from functools import wraps
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.db.models import Prefetch, QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404
from django.template.loader import render_to_string
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _t
from django.utils.translation import gettext_lazy as _
from django.views.decorators.http import require_POST, require_safe
from unfold.decorators import action, display

from exporter_site.access import audit
from exporter_site.formats import human_duration, human_size
from exporter_site.modeladmin import LogAdmin, LookedUpFilter, ScopedAdmin, ScopedFilter, TimesFilter
from notifications.models import Arrival, Delivery
from tasks import execution_acts, execution_filters
from tasks.dashboard_filters import EndedFilter
from tasks.downloads import has_files
from tasks.execution_page import ICONS, OPERATE, SEE_SQL, STATUS_COLOURS, RunPage, elapsed_of
from tasks.live import looked_at
from tasks.models import DownloadLink, Execution
from tasks.states import Status

__all__ = ["SEE_SQL", "STATUS_COLOURS", "ExecutionAdmin"]  # for tasks/admin.py

# What a list does not show, and what makes rows wide.
WIDE = ("sql", "sql_template", "params", "history", "error", "fidelity")
MOST_WATCHED = 200  # runs of one page of the list
ARRIVAL_COLOURS = {
    Arrival.OPEN.value: "info",
    Arrival.ALL.value: "success",
    Arrival.SOME.value: "warning",
    Arrival.NONE.value: "danger",
}
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


def cell(name: str) -> Callable[[Callable[..., Any]], Callable[..., SafeString]]:
    """A cell of the list that static/executions.js fills anew while its run goes on."""

    def marked(show: Callable[..., Any]) -> Callable[..., SafeString]:
        @wraps(show)
        def shown(model_admin: Any, execution: Execution) -> SafeString:
            return format_html('<span id="run-{}-{}">{}</span>', execution.pk, name, show(model_admin, execution))

        return shown

    return marked


@admin.register(Execution)
class ExecutionAdmin(ScopedAdmin, LogAdmin):
    list_display = (
        "id",
        "task_name",
        "state",
        "planned_shown",
        "trigger_shown",
        "rows_shown",
        "size_shown",
        "duration_shown",
        "delivered_shown",
        "download",
    )
    list_display_links = ("id", "task_name")
    list_filter = (
        execution_filters.StateFilter,
        EndedFilter,
        "trigger",
        ("data_source", ScopedFilter),
        ("task", LookedUpFilter),
        ("planned_at", TimesFilter),
    )
    list_filter_submit = True
    list_per_page = 50
    list_defer = WIDE
    # By these there is an index, whatever the filter.
    sortable_by = ("id", "planned_shown")
    search_fields = ("task_name",)  # that there is a field to search in; get_search_results() says how
    search_help_text = _("Task, beginning of a file name, or #number")
    actions = ("cancel", "run_again", "send_again", "send_again_to_everybody", "revoke_links")
    actions_detail = ("new_link", "revoke")
    change_list_template = "admin/tasks/execution/list.html"
    change_form_template = "admin/tasks/execution/page.html"

    def get_queryset(self, request: HttpRequest) -> QuerySet[Execution]:
        queryset: QuerySet[Execution] = super().get_queryset(request)
        return queryset.prefetch_related(Prefetch("deliveries", Delivery.objects.defer("payload", "history")))

    def get_ordering(self, request: HttpRequest) -> tuple[str, ...]:
        # An index over the planned time finds a span of it only in its order.
        is_span = any(request.GET.get(f"planned_at_{end}_0") for end in ("from", "to"))
        return ("-planned_at", "-id") if is_span else ("-id",)

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Execution], search_term: str
    ) -> tuple[QuerySet[Execution], bool]:
        words = search_term.strip()
        return (execution_filters.search(queryset, request.user, words) if words else queryset), False

    def get_fieldsets(self, request: HttpRequest, obj: Execution | None = None) -> Any:
        return ()  # the page has a form of its own

    def get_urls(self) -> list[URLPattern]:
        pages: list[tuple[str, str, Callable[..., HttpResponse]]] = [
            ("live/", "watch", require_safe(self.watch_list)),
            ("<int:object_id>/live/", "live", require_safe(self.watch_run)),
            ("<int:object_id>/cancel/", "cancel", require_POST(self.cancel_run)),
            ("<int:object_id>/run-again/", "run_again", require_POST(self.run_run_again)),
            ("<int:object_id>/send-again/", "send_again", require_POST(self.send_run_again)),
        ]
        ours = [
            path(place, self.admin_site.admin_view(view), name=f"tasks_execution_{name}") for place, name, view in pages
        ]
        theirs: list[URLPattern] = super().get_urls()
        return ours + theirs

    # The list

    @display(description=_("state"))
    def state(self, execution: Execution) -> SafeString:
        watched = "" if execution.is_finished else format_html(' data-unfinished="{}"', execution.pk)
        return format_html(
            '<span id="run-{}-state"{} class="exporter-badge exporter-badge-{}">'
            '<span class="material-symbols-outlined" aria-hidden="true">{}</span>{}</span>',
            execution.pk,
            watched,
            STATUS_COLOURS[execution.status],
            ICONS[Status(execution.status)],
            execution.get_status_display(),
        )

    @display(description=_("planned time"), ordering="planned_at")
    def planned_shown(self, execution: Execution) -> str:
        return timezone.localtime(execution.planned_at).strftime("%Y-%m-%d %H:%M:%S")

    @display(description=_("started by"))
    def trigger_shown(self, execution: Execution) -> str:
        return execution.get_trigger_display()

    @display(description=_("rows"))
    @cell("rows")
    def rows_shown(self, execution: Execution) -> str:
        rows = execution.progress.get("rows") if execution.status == Status.RUNNING else execution.rows_count
        return f"{rows:,}" if rows is not None else "-"

    @display(description=_("size"))
    @cell("size")
    def size_shown(self, execution: Execution) -> str:
        size = execution.progress.get("bytes") if execution.status == Status.RUNNING else execution.file_size
        return human_size(size) if size is not None else "-"

    @display(description=_("duration"))
    @cell("duration")
    def duration_shown(self, execution: Execution) -> str:
        seconds = (
            elapsed_of(execution, timezone.now()) if execution.status == Status.RUNNING else execution.duration_seconds
        )
        return human_duration(seconds) if seconds is not None else "-"

    @display(description=_("messages"))
    @cell("messages")
    def delivered_shown(self, execution: Execution) -> str | SafeString:
        arrival = Arrival.of(execution.deliveries.all())
        if arrival is None:
            return "-"
        colour = ARRIVAL_COLOURS[arrival.value]
        return format_html('<span class="exporter-badge exporter-badge-{}">{}</span>', colour, arrival.label)

    @display(description=_("file"))
    @cell("file")
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

    def watch_list(self, request: HttpRequest) -> HttpResponse:
        """The cells of the runs ?ids=1,2,3 that change, as HTML. For static/executions.js."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        numbers = [int(text) for text in request.GET.get("ids", "").split(",") if _is_number(text)]
        runs = self.get_queryset(request).filter(pk__in=numbers[:MOST_WATCHED]).defer(*WIDE)
        shows = (self.state, self.rows_shown, self.size_shown, self.duration_shown, self.delivered_shown, self.download)
        return looked_at(request, "".join(show(run) for run in runs for show in shows))

    # The page of a run

    def form_context(self, request: HttpRequest, obj: Execution | None) -> dict[str, Any]:
        return super().form_context(request, obj) | ({"page": RunPage(obj, request.user)} if obj is not None else {})

    def watch_run(self, request: HttpRequest, object_id: int) -> HttpResponse:
        """The parts of a run's page that change, as HTML; all of them once it has ended. For static/executions.js."""
        page = RunPage(self._run(request, object_id), request.user)
        return looked_at(request, render_to_string("admin/tasks/execution/live.html", {"page": page}))

    def cancel_run(self, request: HttpRequest, object_id: int) -> HttpResponse:
        execution_acts.cancel(request, [self._run_to_operate(request, object_id)])
        return _back_to(request, object_id)

    def run_run_again(self, request: HttpRequest, object_id: int) -> HttpResponse:
        again = execution_acts.run_again(request, [self._run_to_operate(request, object_id)])
        return _back_to(request, again[0].pk if again else object_id)

    def send_run_again(self, request: HttpRequest, object_id: int) -> HttpResponse:
        """All messages of the run, or the one that the form names as `delivery`, to those they did not reach."""
        execution = self._run_to_operate(request, object_id)
        if number := request.POST.get("delivery", ""):
            if not _is_number(number):
                raise Http404
            execution_acts.send_message_again(request, get_object_or_404(execution.deliveries, pk=number))
        else:
            execution_acts.send_again(request, [execution])
        return _back_to(request, object_id)

    def _run(self, request: HttpRequest, object_id: int) -> Execution:
        """Raises PermissionDenied, or Http404 for a run that is not there for the user."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        runs = Execution.objects.for_user(request.user).select_related("task", "data_source", "created_by")
        return get_object_or_404(runs, pk=object_id)

    def _run_to_operate(self, request: HttpRequest, object_id: int) -> Execution:
        if not self.has_operate_permission(request):
            raise PermissionDenied
        return self._run(request, object_id)

    # Actions

    @action(description=_("Cancel"), permissions=["operate"])
    def cancel(self, request: HttpRequest, queryset: QuerySet[Execution]) -> None:
        execution_acts.cancel(request, queryset)

    @action(description=_("Run again"), permissions=["operate"])
    def run_again(self, request: HttpRequest, queryset: QuerySet[Execution]) -> None:
        execution_acts.run_again(request, queryset)

    @action(description=_("Send messages again to those they did not reach"), permissions=["operate"])
    def send_again(self, request: HttpRequest, queryset: QuerySet[Execution]) -> None:
        execution_acts.send_again(request, queryset.select_related("task"))

    @action(description=_("Send messages again to everybody"), permissions=["operate"])
    def send_again_to_everybody(self, request: HttpRequest, queryset: QuerySet[Execution]) -> None:
        execution_acts.send_again(request, queryset.select_related("task"), everybody=True)

    @of_a_shown_run
    @action(description=_("New link"), permissions=["issue"], icon="add_link", dialog=NEW_LINK)
    def new_link(self, request: HttpRequest, form: forms.Form, object_id: str) -> HttpResponse:
        execution = get_object_or_404(self.get_queryset(request), pk=object_id)
        if has_files(execution):
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
        return request.user.has_perm(OPERATE)

    def has_issue_permission(self, request: HttpRequest, object_id: str | None = None) -> bool:
        return request.user.has_perms(("tasks.download_execution", "tasks.add_downloadlink"))

    def has_revoke_permission(self, request: HttpRequest, object_id: str | None = None) -> bool:
        return request.user.has_perms(("tasks.view_execution", "tasks.change_downloadlink"))


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 19


def _minute(moment: datetime) -> str:
    return timezone.localtime(moment).strftime("%Y-%m-%d %H:%M")


def _back_to(request: HttpRequest, object_id: str | int) -> HttpResponse:
    """To the execution's page, from a dialog in it: the script in the page follows a header, no redirect."""
    url = reverse("admin:tasks_execution_change", args=[object_id])
    if request.headers.get("HX-Request"):
        return HttpResponse(headers={"HX-Redirect": url})
    return HttpResponseRedirect(url)
