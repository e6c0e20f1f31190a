"""A first look at what a task's SQL gives: columns and the first rows; no file, no message, no execution."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.utils import timezone
from django.utils.translation import gettext as _

from datasources import safety
from datasources.connectors.base import Column, Query
from datasources.deadline import ended_in_time
from exporter_site.access import audit
from tasks import dates
from tasks.models import ExportTask

PREVIEW_TIMEOUT = 60  # seconds


@dataclass(frozen=True, slots=True)
class Preview:
    """`rows` as text, None for NULL; `more`: whether the result goes on behind them; `seconds` to the last shown row."""

    columns: tuple[Column, ...]
    rows: list[list[str | None]]
    more: bool
    seconds: float
    sql: str


def preview(
    task: ExportTask,
    *,
    limit: int = 100,
    planned_at: datetime | None = None,
    params: dict[str, Any] | None = None,
    abandoned: Callable[[], bool] = lambda: False,
) -> Preview:
    """Run the SQL of `task`, which may be one that is not saved, and read at most `limit` rows.

    The query is ended on the server then, after PREVIEW_TIMEOUT, and when `abandoned`, asked in another thread, says
    that nobody waits any more. Who looked at what is put on record. The rights of whoever asks are the caller's to check.

    Raises ConnectorError, or ValueError for SQL that is refused.
    """
    source = task.data_source
    query = bound(task, planned_at or timezone.now(), params or {})
    audit.record(audit.Action.PREVIEW, task if task.pk else source, note="" if task.pk else task.name)
    started = time.perf_counter()
    rows: list[list[str | None]] = []
    with (
        source.connector(timezone=task.timezone, label="exp:preview", query_timeout=PREVIEW_TIMEOUT) as connector,
        ended_in_time(connector, PREVIEW_TIMEOUT, abandoned),
    ):
        result = connector.stream(query, max_rows=limit + 1)
        for batch in result.batches:
            cells = zip(*batch.columns, strict=True)
            rows += [[None if cell is None else cell.decode("utf-8", "replace") for cell in row] for row in cells]
            if len(rows) > limit:
                break
        return Preview(
            result.columns, rows[:limit], len(rows) > limit, time.perf_counter() - started, query.for_people()
        )


def bound(task: ExportTask, planned_at: datetime, params: dict[str, Any]) -> Query:
    """The query of `task` for `planned_at`, after the same checks as a run's. Raises ValueError."""
    source = task.data_source
    if not source.is_active:
        raise ValueError(_("The data source “{name}” is switched off.").format(name=source.name))
    dialect = source.connector_class.dialect
    safety.check(task.sql, dialect)
    planned = dates.planned_in_zone(planned_at, task.timezone)
    return dates.bind(task.sql, dialect, planned, {**task.params, **params})
