"""A first look at what a task's SQL gives: columns and the first rows; no file, no message, no execution."""

import time
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from django.utils import timezone

from datasources import safety
from datasources.connectors.base import Column
from tasks import dates
from tasks.models import ExportTask

PREVIEW_TIMEOUT = 60  # seconds; told to the server


@dataclass(frozen=True, slots=True)
class Preview:
    """`rows` as text, None for NULL; `more`: whether the result goes on behind them; `seconds` to the last shown row."""

    columns: tuple[Column, ...]
    rows: list[list[str | None]]
    more: bool
    seconds: float
    sql: str


def preview(
    task: ExportTask, *, limit: int = 100, planned_at: datetime | None = None, params: dict[str, Any] | None = None
) -> Preview:
    """Run the task's SQL as it stands and read at most `limit` rows; the query is ended on the server then.

    Raises ConnectorError, or ValueError for SQL that is refused.
    """
    source = task.data_source
    dialect = source.connector_class.dialect
    safety.check(task.sql, dialect)
    planned = (planned_at or timezone.now()).astimezone(ZoneInfo(task.timezone))
    query = dates.bind(task.sql, dialect, planned, {**task.params, **(params or {})})
    started = time.perf_counter()
    rows: list[list[str | None]] = []
    with source.connector(timezone=task.timezone, label="exp:preview", query_timeout=PREVIEW_TIMEOUT) as connector:
        result = connector.stream(query, max_rows=limit + 1)
        for batch in result.batches:
            cells = zip(*batch.columns, strict=True)
            rows += [[None if cell is None else cell.decode("utf-8", "replace") for cell in row] for row in cells]
            if len(rows) > limit:
                break
        return Preview(
            result.columns, rows[:limit], len(rows) > limit, time.perf_counter() - started, query.for_people()
        )
