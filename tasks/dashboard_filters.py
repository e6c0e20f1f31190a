"""The filter of the list of executions that the dashboard's figures lead to."""

from datetime import date, timedelta
from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _

from tasks.dashboard import LATELY_DAYS, TREND_DAYS, ended_on, today
from tasks.models import Execution


class EndedFilter(admin.SimpleListFilter):
    """By the day of the end, in the system's zone: one day (2025-01-31), or the last days with today."""

    title = _("end")
    parameter_name = "ended"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        now = today()
        named = [
            (now.isoformat(), _("today")),
            ((now - timedelta(days=1)).isoformat(), _("yesterday")),
            ("7d", _("the last 7 days")),
            ("14d", _("the last 14 days")),
        ]
        chosen = self.value() or ""
        # Another day, from a bar of the trend: it shows as chosen, too.
        is_named = any(chosen == value for value, _label in named)
        return named if is_named or _days(chosen) is None else [*named, (chosen, chosen)]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Execution]) -> QuerySet[Execution]:
        if not self.value():
            return queryset
        days = _days(self.value() or "")
        return ended_on(queryset, *days) if days else queryset.none()


def _days(value: str) -> tuple[date, date] | None:
    """The first and the last day that `value` means; None if it means nothing."""
    last = today()
    for name, count in (("7d", LATELY_DAYS), ("14d", TREND_DAYS)):
        if value == name:
            return last - timedelta(days=count - 1), last
    try:
        day = date.fromisoformat(value)
    except ValueError:
        return None
    # At the ends of the calendar there are days that have no end, or no beginning in UTC.
    return (day, day) if date.min.year < day.year < date.max.year else None
