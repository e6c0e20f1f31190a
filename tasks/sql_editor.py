"""The SQL editor of the task form: its field, and what static/sql_editor.js asks for while somebody writes.

A preview, a check and a format work on the form as it stands, saved or not. Every question comes as POST with the form's
`sql`, `data_source`, `params`, `timezone` and `cron`; what is wrong with them is part of the answer, as `problem` with a
`message` and, where it is known, the `line` that it is about.
"""

import json
import select
import socket
from collections.abc import Callable, Mapping
from typing import Any

from django.conf import settings
from django.contrib.admin import AdminSite
from django.core.cache import cache
from django.core.exceptions import PermissionDenied
from django.forms.widgets import Script
from django.http import HttpRequest, JsonResponse
from django.shortcuts import get_object_or_404
from django.template.loader import render_to_string
from django.templatetags.static import static
from django.urls import URLPattern, path, reverse_lazy
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.views.decorators.http import require_POST
from unfold.widgets import UnfoldAdminTextareaWidget

from datasources.connectors.base import ConnectorError
from datasources.deadline import ended_in_time
from datasources.models import DataSource
from exporter_site.redact import redact
from tasks import dates, preview, sql_faults
from tasks.models import ExportTask, known_timezones
from tasks.serializers import SEE_SQL
from tasks.sql_editor_words import phrases, words

MAY_WRITE = ("tasks.add_exporttask", "tasks.change_exporttask")  # one of them
MAY_PREVIEW = (SEE_SQL, "tasks.run_exporttask", "tasks.download_execution")  # all; the API asks for the same
ROWS = 100
LONGEST_CELL = 500  # characters that are shown
MOST_COLUMNS = 10_000  # of all tables together: about half a megabyte
CATALOGUE_TIMEOUT = CHECK_TIMEOUT = 10  # seconds
KEPT = 60  # seconds that a source's tables are remembered
SCRIPTS = (Script("sql_editor.js", defer=True),)  # for the Media of the page


class SqlEditorWidget(UnfoldAdminTextareaWidget):  # type: ignore[misc]  # untyped library
    """A textarea that becomes an editor, if scripts run."""

    def render(self, name: str, value: Any, attrs: dict[str, Any] | None = None, renderer: Any = None) -> SafeString:
        urls = {what: reverse_lazy(f"admin:tasks_exporttask_{what}") for what in ("preview", "check", "schema")}
        return render_to_string(
            "admin/tasks/sql_editor.html",
            {
                "textarea": super().render(name, value, attrs, renderer),
                "id": (attrs or {}).get("id", name),
                "editor": _files() | urls | {"words": words(), "phrases": phrases()},
                "names": _names(settings.TIME_ZONE),
                "zone": settings.TIME_ZONE,
            },
        )


def shown(task: ExportTask) -> SafeString:
    """The SQL of `task` to be read, in colours if scripts run."""
    return format_html(
        '<pre class="exporter-code" data-sql-shown="{}" data-codemirror="{}">{}</pre>',
        task.data_source.connector_class.dialect.name,
        _files()["codemirror"],
        task.sql,
    )


def _files() -> dict[str, str]:
    return {"codemirror": static("vendor/codemirror.js"), "formatter": static("vendor/sql-formatter.js")}


def urls(site: AdminSite) -> list[URLPattern]:
    """Below the tasks' list in the admin."""
    views = {"preview": preview_view, "check": check_view, "schema": schema_view}
    return [
        path(f"sql/{what}/", site.admin_view(view), name=f"tasks_exporttask_{what}") for what, view in views.items()
    ]


@require_POST
def preview_view(request: HttpRequest) -> JsonResponse:
    """Run the SQL and give its columns and first rows as texts, null for NULL."""
    source = _source(request)
    if not request.user.has_perms(MAY_PREVIEW):
        raise PermissionDenied
    sql = ""
    try:
        task = _task(request.POST, source)
        sql = task.sql
        seen = preview.preview(task, limit=ROWS, abandoned=_hung_up(request))
    except (ConnectorError, ValueError) as exc:
        return JsonResponse({"problem": _problem(exc, sql, source)})
    return JsonResponse(
        {
            "columns": [
                {"name": column.name, "type": column.server_type or column.type.value} for column in seen.columns
            ],
            "rows": [[_short(cell) for cell in row] for row in seen.rows],
            "more": seen.more,
            "seconds": round(seen.seconds, 3),
            "sql": seen.sql,
        }
    )


@require_POST
def check_view(request: HttpRequest) -> JsonResponse:
    """What our own checks find, and with `database` what the database says, which does not run the SQL.

    `names`: the names with their values today, in the form's zone.
    """
    source = _source(request)
    answer: dict[str, Any] = {"problem": None, "names": []}
    sql = ""
    try:
        task = _task(request.POST, source)
        sql, answer["names"] = task.sql, _names(task.timezone)
        task.check_sql()
        if "database" in request.POST:
            _ask_database(task, _hung_up(request))
    except (ConnectorError, ValueError) as exc:
        answer["problem"] = _problem(exc, sql, source)
    return JsonResponse(answer)


@require_POST
def schema_view(request: HttpRequest) -> JsonResponse:
    """The source's dialect, and its tables with their columns, as far as they are known: [schema, table, [[name, type]]],
    `count` columns in all; `more` when these are not all."""
    source = _source(request)
    answer = {"dialect": source.connector_class.dialect.name, "tables": [], "count": 0, "more": False, "problem": None}
    key = f"sql-editor-schema-{source.pk}-{source.updated_at.timestamp()}"
    known = cache.get(key)
    if known is None:
        try:
            known = _catalogue(source)
        except (ConnectorError, ValueError) as exc:
            return JsonResponse(answer | {"problem": _problem(exc, "", source)})
        cache.set(key, known, KEPT)
    return JsonResponse(answer | known)


def _source(request: HttpRequest) -> DataSource:
    """The form's source. Raises PermissionDenied for who may not write tasks, Http404 for a source that is not granted."""
    if not request.user.has_perm(SEE_SQL) or not any(map(request.user.has_perm, MAY_WRITE)):
        raise PermissionDenied
    number = request.POST.get("data_source", "")
    granted = DataSource.objects.for_user(request.user)
    return get_object_or_404(granted, pk=number if number.isascii() and number.isdigit() and len(number) < 19 else 0)


def _task(form: Mapping[str, str], source: DataSource) -> ExportTask:
    """The form as a task that is not saved. Raises ValueError, in words, for what can't be read."""
    zone = form.get("timezone", "") or settings.TIME_ZONE
    if zone not in known_timezones():
        raise ValueError(_("“{name}” is not a time zone. Example: Asia/Shanghai.").format(name=zone))
    try:
        params = json.loads(form.get("params", "") or "{}")
    except ValueError:
        params = None
    if not isinstance(params, dict) or any(isinstance(value, list | dict) for value in params.values()):
        raise ValueError(
            _("The parameter defaults must be an object such as {example}.").format(example='{"shop": "001"}')
        )
    return ExportTask(
        name=form.get("name", "")[:200],
        sql=form.get("sql", "").replace("\r\n", "\n"),
        data_source=source,
        params=params,
        timezone=zone,
        cron=form.get("cron", ""),
    )


def _ask_database(task: ExportTask, abandoned: Callable[[], bool]) -> None:
    query = preview.bound(task, timezone.now(), {})
    label = "exp:check"
    with (
        task.data_source.connector(timezone=task.timezone, label=label, query_timeout=CHECK_TIMEOUT) as connector,
        ended_in_time(connector, CHECK_TIMEOUT, abandoned),
    ):
        connector.check(query)


def _catalogue(source: DataSource) -> dict[str, Any]:
    if not source.is_active:
        raise ValueError(_("The data source “{name}” is switched off.").format(name=source.name))
    with (
        source.connector(timezone=settings.TIME_ZONE, label="exp:schema", query_timeout=CATALOGUE_TIMEOUT) as connector,
        ended_in_time(connector, CATALOGUE_TIMEOUT),
    ):
        found = connector.table_columns(MOST_COLUMNS + 1)
    tables: dict[tuple[str, str], list[list[str]]] = {}
    for column in found[:MOST_COLUMNS]:
        tables.setdefault((column.schema, column.table), []).append([column.name, column.server_type])
    return {
        "tables": [[*key, columns] for key, columns in tables.items()],
        "count": min(len(found), MOST_COLUMNS),
        "more": len(found) > MOST_COLUMNS,
    }


def _names(zone: str) -> list[list[str]]:
    """[name as it is written in SQL, its value if the task were due now in `zone`]"""
    planned = dates.planned_in_zone(timezone.now(), zone)
    return [[f"{{{{ {name} }}}}", value] for name, value in dates.values_of(planned).items()]


def _problem(exc: Exception, sql: str, source: DataSource) -> dict[str, Any]:
    message = str(exc)
    detail = getattr(exc, "detail", "")
    if detail and detail not in message:
        message = f"{message} ({detail})"
    return {"message": redact(message), "line": sql_faults.line_of(exc, sql, source.connector_class.dialect)}


def _short(cell: str | None) -> str | None:
    return cell if cell is None or len(cell) <= LONGEST_CELL else f"{cell[:LONGEST_CELL]}…"


def _hung_up(request: HttpRequest) -> Callable[[], bool]:
    """Tells whether the browser has closed its connection. Where the server does not hand that over, it never has."""
    connection: socket.socket | None = request.META.get("gunicorn.socket")

    def hung_up() -> bool:
        if connection is None:
            return False
        try:
            readable, _writable, _other = select.select([connection], [], [], 0)
            return bool(readable) and connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
        except BlockingIOError:
            return False
        except OSError:
            return True  # reset, or closed already
        except ValueError:
            return False  # TLS of our own: what lies there can't be looked at

    return hung_up
