"""Which export tasks read from a data source. Tasks are above us: they are reached through their relation only."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db.models import Count, OuterRef, Q, QuerySet, Subquery
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from datasources.models import DataSource

LISTED = 50  # tasks that a page shows; the list of tasks has them all
NAMED = 5  # tasks that a sentence names
SEE_TASKS = "tasks.view_exporttask"
_COLOURS = {"succeeded": "good", "failed": "bad", "timed_out": "bad", "missed": "warn", "skipped": "warn"}


@dataclass(frozen=True, slots=True)
class TaskRow:
    """`state`: of its last run, in words, "" when there was none. `colour`: good, bad, warn or ""."""

    name: str
    url: str
    enabled: bool
    next_run_at: datetime | None
    state: str
    colour: str


@dataclass(frozen=True, slots=True)
class Usage:
    """`rows`: the first of the tasks; none for who may not see tasks. `url`: the list with all of them."""

    total: int
    enabled: int
    rows: list[TaskRow]
    url: str


def usage_of(source: DataSource, user: Any) -> Usage:
    """Two queries, however many tasks there are."""
    counts = source.tasks.aggregate(total=Count("pk"), enabled=Count("pk", filter=Q(enabled=True)))
    rows = []
    if user.has_perm(SEE_TASKS):
        labels = dict(source.executions.model._meta.get_field("status").choices or ())
        for name, number, enabled, next_run_at, status in _first_tasks(source):
            url = reverse("admin:tasks_exporttask_change", args=[number])
            state, colour = str(labels.get(status, "")), _COLOURS.get(status, "")
            rows.append(TaskRow(name, url, enabled, next_run_at, state, colour))
    return Usage(counts["total"], counts["enabled"], rows, tasks_url(source))


def _first_tasks(source: DataSource) -> QuerySet[Any, Any]:
    runs = source.executions.model._default_manager.filter(task=OuterRef("pk"), data_source=source.pk)
    last = Subquery(runs.order_by("-id").values("status")[:1])
    tasks = source.tasks.order_by("-enabled", "name")
    return tasks.annotate(last_status=last).values_list("name", "pk", "enabled", "next_run_at", "last_status")[:LISTED]


def tasks_url(source: DataSource) -> str:
    return f"{reverse('admin:tasks_exporttask_changelist')}?data_source__id__exact={source.pk}"


def why_not_deleted(source: DataSource, user: Any) -> str | SafeString:
    """The sentence that names what holds on to `source`; "" when nothing does."""
    if source.config_managed:
        return _(
            "“{name}” comes from config.yaml: take data_sources.{name} out of it and run “manage.py datasource sync”, then it can be deleted here."
        ).format(name=source.name)
    count = source.tasks.count()
    if not count:
        return ""
    names = source.tasks.order_by("name").values_list("name", flat=True)[:NAMED] if user.has_perm(SEE_TASKS) else ()
    words = ngettext(
        "“{name}”: {count} task reads from it ({names}).", "“{name}”: {count} tasks read from it ({names}).", count
    )
    named = ", ".join(names) + (", …" if count > len(names) else "") if names else "…"
    remedy = _(
        "Choose another data source for them, or delete them first. If nothing shall be read from it any more, it is enough to switch the source off."
    )
    link = format_html('<a class="underline" href="{}">{}</a>', tasks_url(source), _("Show these tasks"))
    sentence = words.format(name=source.name, count=count, names=named)
    return format_html("{} {} {}", sentence, remedy, link if names else "")
