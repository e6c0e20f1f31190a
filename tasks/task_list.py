"""The list of tasks: the last runs of each that it shows, and its filters. A fixed number of queries, however many rows."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from django.contrib import admin
from django.contrib.auth import get_user_model
from django.db.models import OuterRef, QuerySet, Subquery
from django.http import HttpRequest
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _t
from django.utils.translation import gettext_lazy as _
from unfold.views import ChangeList

from datasources.models import DataSource
from tasks.dashboard_parts import BAD, runs_url
from tasks.models import Execution, ExportTask
from tasks.states import UNFINISHED, Status

RUNS = 14  # of each task
_SHOWN = ("task_id", "data_source_id", "status", "planned_at")
_BAR, _STEP, _HEIGHT = 5, 7, 22  # pixels


def last_runs(tasks: Iterable[ExportTask]) -> dict[int, list[Execution]]:
    """{task: its newest runs, the newest first, with what the list shows of them}, in one query.

    Runs of another source than the task reads now are left out: who sees the task need not see them.
    """
    sources = {task.pk: task.data_source_id for task in tasks}
    # One part for each task, read from the end of its part of the index. A window over the runs of all these tasks would
    # read every one of them; by task and number, so that no database prefers to walk through all runs by number.
    parts = [
        Execution.objects.filter(task=number).order_by("-task_id", "-id").only(*_SHOWN)[:RUNS].query.sql_with_params()
        for number in sources
    ]
    found: dict[int, list[Execution]] = defaultdict(list)
    if not parts:
        return found
    sql = " UNION ALL ".join(f"SELECT * FROM ({part}) AS part{number}" for number, (part, _p) in enumerate(parts))  # noqa: S608  # made by the ORM
    for run in Execution.objects.raw(sql, [value for _part, values in parts for value in values]):
        assert run.task_id is not None
        if run.data_source_id == sources[run.task_id]:
            found[run.task_id].append(run)
    for runs in found.values():
        runs.sort(key=lambda run: -run.pk)
    return found


class TaskList(ChangeList):  # type: ignore[misc]  # untyped library
    """Gives each task of the shown page its `last_runs`. `is_first_task`: there is nothing to list or to find yet."""

    result_list: Any

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        tasks: list[Any] = [*self.result_list]
        runs = last_runs(tasks)
        for task in tasks:
            task.last_runs = runs[task.pk]
        self.result_list = tasks
        self.is_first_task = not (self.result_count or self.query or self.has_active_filters)
        if self.is_first_task:
            self.has_sources = DataSource.objects.for_user(request.user).exists()


def sparkline(runs: Sequence[Execution]) -> SafeString:
    """The runs as bars, the oldest first: upwards when they succeeded, downwards when they failed, short ones for what
    did neither; so it can be read without colours."""
    bars = [_bar(place, run) for place, run in enumerate(reversed(runs))]
    return format_html(
        '<svg class="exporter-spark" role="img" aria-label="{}" width="{}" height="{}" viewBox="0 0 {} {}">{}</svg>',
        _in_words(runs),
        *(RUNS * _STEP, _HEIGHT) * 2,
        format_html_join(
            "", '<rect class="exporter-spark-{}" x="{}" y="{}" width="{}" height="{}"><title>{}</title></rect>', bars
        ),
    )


def _bar(place: int, run: Execution) -> tuple[str, int, int, int, int, str]:
    middle = _HEIGHT // 2
    if run.status == Status.SUCCEEDED:
        kind, top, height = "good", 1, middle - 1
    elif run.status in BAD:
        kind, top, height = "bad", middle, middle - 1
    else:
        kind, top, height = "open" if run.status in UNFINISHED else "other", middle - 2, 4
    planned = timezone.localtime(run.planned_at).strftime("%Y-%m-%d %H:%M")
    return kind, place * _STEP + 1, top, _BAR, height, f"{planned} {run.get_status_display()}"


def _in_words(runs: Sequence[Execution]) -> str:
    counts = Counter(run.get_status_display() for run in runs)
    states = ", ".join(f"{state} {count}" for state, count in counts.items())
    return _t("The last {count} runs: {states}").format(count=len(runs), states=states)


def runs_shown(task: ExportTask, runs: Sequence[Execution]) -> str | SafeString:
    """The bars, and how many of the runs that have ended succeeded, as a link to all runs of the task."""
    if not runs:
        return "-"
    ended = [run for run in runs if run.status not in UNFINISHED]
    good = sum(run.status == Status.SUCCEEDED for run in ended)
    return format_html(
        '<a class="exporter-runs-cell" href="{}" title="{}">{}<span>{}/{}</span></a>',
        runs_url(task__id__exact=task.pk),
        _t("{good} of {count} succeeded").format(good=good, count=len(ended)),
        sparkline(runs),
        good,
        len(ended),
    )


class LastStateFilter(admin.SimpleListFilter):
    """By the state of the newest run of the source that the task reads."""

    title = _("last run")
    parameter_name = "last"
    NEVER = "never"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [*Status.choices, (self.NEVER, _("never run"))]

    def queryset(self, request: HttpRequest, queryset: QuerySet[ExportTask]) -> QuerySet[ExportTask]:
        if not self.value():
            return queryset
        # By task and number, as in last_runs().
        newest = Execution.objects.filter(task=OuterRef("pk"), data_source=OuterRef("data_source"))
        state = Subquery(newest.order_by("-task_id", "-id").values("status")[:1])
        return queryset.alias(last_state=state).filter(
            **{"last_state": None} if self.value() == self.NEVER else {"last_state": self.value()}
        )


class TagFilter(admin.SimpleListFilter):
    title = _("tag")
    parameter_name = "tag"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        # SQLite can't look into a list; and who sees a thousand tasks has a thousand short lists here.
        self._tagged: dict[str, list[int]] = defaultdict(list)
        for number, tags in ExportTask.objects.for_user(request.user).exclude(tags=[]).values_list("pk", "tags"):
            for tag in tags:
                self._tagged[tag].append(number)
        return [(tag, f"{tag} ({len(numbers)})") for tag, numbers in sorted(self._tagged.items())]

    def queryset(self, request: HttpRequest, queryset: QuerySet[ExportTask]) -> QuerySet[ExportTask]:
        return queryset.filter(pk__in=self._tagged.get(self.value() or "", [])) if self.value() else queryset


class OwnerFilter(admin.SimpleListFilter):
    """Names the owners of the tasks that the user sees, and no other users."""

    title = _("owner")
    parameter_name = "owner"
    NOBODY = "none"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        tasks = ExportTask.objects.for_user(request.user).order_by()
        owners = get_user_model().objects.filter(pk__in=tasks.values("owner")).order_by("username")
        names = [(str(owner.pk), _t("me") if owner == request.user else owner.get_username()) for owner in owners]
        return [*names, (self.NOBODY, _("nobody"))]

    def queryset(self, request: HttpRequest, queryset: QuerySet[ExportTask]) -> QuerySet[ExportTask]:
        value = self.value() or ""
        if value == self.NOBODY:
            return queryset.filter(owner=None)
        if not value:
            return queryset
        return queryset.filter(owner=int(value)) if value.isdecimal() and len(value) < 19 else queryset.none()
