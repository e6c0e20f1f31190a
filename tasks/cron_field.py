"""The schedule on a task's form: what an expression means, in words and as the next runs, also while it is typed."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from django.conf import settings
from django.core.exceptions import ValidationError
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.template.loader import render_to_string
from django.utils import timezone
from django.utils.dateformat import format as date_format
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _
from unfold.widgets import UnfoldAdminTextInputWidget

from tasks import schedule
from tasks.models import ExportTask, known_timezones

PRESETS = (
    (_("Every hour"), "0 * * * *"),
    (_("Every day 09:00"), "0 9 * * *"),
    (_("Workdays 09:00"), "0 9 * * 1-5"),
    (_("Mondays 09:00"), "0 9 * * 1"),
    (_("Day 1 of the month 09:00"), "0 9 1 * *"),
    (_("First day of the quarter 09:00"), "0 9 1 1,4,7,10 *"),
    (_("Only by hand"), ""),
)
OFTEN = ("Asia/Shanghai", "Asia/Hong_Kong", "Asia/Singapore", "Asia/Tokyo", "UTC")
# Older names of places that have another one.
_OLD_NAMES = ("Brazil/", "Canada/", "Chile/", "Etc/", "Mexico/", "SystemV/", "US/")


class TimezoneWidget(UnfoldAdminTextInputWidget):  # type: ignore[misc]
    """A text with suggestions; any name that the system knows may be typed."""

    def __init__(self, attrs: dict[str, Any] | None = None) -> None:
        super().__init__(attrs={"list": "timezones", "autocomplete": "off", **(attrs or {})})

    def render(self, name: str, value: Any, attrs: Any = None, renderer: Any = None) -> SafeString:
        options = format_html_join("", '<option value="{}">', ((zone,) for zone in suggested_timezones()))
        return format_html(
            '{}<datalist id="timezones">{}</datalist>', super().render(name, value, attrs, renderer), options
        )


def suggested_timezones() -> list[str]:
    others = (name for name in known_timezones() if "/" in name and not name.startswith(_OLD_NAMES))
    return list(dict.fromkeys([*OFTEN[:1], str(settings.TIME_ZONE), *OFTEN[1:], *sorted(others)]))


@dataclass(frozen=True, slots=True)
class Explanation:
    """`faults`: (field, what is wrong with it). `runs`: the next ones in the task's zone, and in the system's where that
    is another one. Neither: it only runs by hand."""

    words: str = ""
    timezone: str = ""
    faults: list[tuple[str, str]] = field(default_factory=list)
    runs: list[tuple[str, str]] = field(default_factory=list)


def explain(cron: str, zone: str, now: datetime) -> Explanation:
    """What a task with this schedule does after `now`: the model itself says whether it may be saved so."""
    names = ("cron", "timezone")
    task = ExportTask(cron=cron, timezone=zone)
    others = {each.name for each in ExportTask._meta.fields} - set(names)
    try:
        task.full_clean(exclude=others, validate_unique=False, validate_constraints=False)
    except ValidationError as exc:
        found = exc.message_dict
        labels = {name: str(ExportTask._meta.get_field(name).verbose_name) for name in names}  # type: ignore[union-attr]
        faults = [(label, words) for name, label in labels.items() for words in found.get(name, ())]
        if faults:
            return Explanation(faults=faults)
    if not task.cron:
        return Explanation()
    moments = schedule.next_runs(task.cron, task.timezone, now)
    return Explanation(
        words=schedule.describe(task.cron),
        timezone=task.timezone,
        runs=[_both_clocks(moment, task.timezone) for moment in moments],
    )


def _both_clocks(moment: datetime, zone: str) -> tuple[str, str]:
    local = moment.astimezone(ZoneInfo(zone))
    # Not by a template's filter: that would turn it to the system's zone.
    there = f"{date_format(local, 'Y-m-d l H:i')} UTC{local.isoformat()[-6:]}"
    if zone == settings.TIME_ZONE:
        return there, ""
    here = moment.astimezone(timezone.get_default_timezone())
    return there, f"{date_format(here, 'Y-m-d H:i')} {settings.TIME_ZONE}"


def panel(task: ExportTask) -> SafeString:
    """What stands on the form below the fields: usual schedules to choose from, and what the saved one means."""
    explained = explain(task.cron, task.timezone, timezone.now())
    return render_to_string("admin/tasks/exporttask/cron.html", {"explained": explained, "presets": PRESETS})


def words(request: HttpRequest) -> HttpResponse:
    """The same for what is being typed, as a piece of HTML."""
    explained = explain(request.GET.get("cron", ""), request.GET.get("timezone", ""), timezone.now())
    return render(request, "admin/tasks/exporttask/next_runs.html", {"explained": explained})
