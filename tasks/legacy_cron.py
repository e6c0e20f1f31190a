"""The older system's schedules: what they mean there (APScheduler 3, CronTrigger), and the same in cron.

Two things differ. Weekdays are counted from Monday = 0, so that `1-5` is Tuesday to Saturday; cron counts from Sunday = 0.
And a day must fit both day and weekday, where cron takes either. What is written here is checked against our own
planner for years ahead before it is believed.
"""

import calendar
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from enum import StrEnum
from itertools import islice
from typing import NamedTuple
from zoneinfo import ZoneInfo

from django.utils.translation import gettext as _

from tasks import schedule

WEEKDAYS = ("MON", "TUE", "WED", "THU", "FRI", "SAT", "SUN")
MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
LAST = 0  # as a day: the last one of the month
YEARS_AHEAD = timedelta(days=3000)  # a 29th of February is never further away than eight years
COMPARED = 200  # runs
_ITEM = re.compile(r"(?P<first>\d+|[A-Z]{3})(?:-(?P<last>\d+|[A-Z]{3}))?(?:/(?P<step>\d+))?")
_EVERY = re.compile(r"\*(?:/(?P<step>\d+))?")


class WeekdayBase(StrEnum):
    """Who counts the weekdays: the numbers in the older system's file are APScheduler's unless it says otherwise."""

    APSCHEDULER = "apscheduler"
    CRON = "cron"


class LegacyCronError(ValueError):
    """The expression can't be converted; the text says why and how to mend it."""


class _Field(NamedTuple):
    name: str
    least: int
    most: int
    words: tuple[str, ...] = ()


_FIELDS = (
    _Field("minute", 0, 59),
    _Field("hour", 0, 23),
    _Field("day", 1, 31),
    _Field("month", 1, 12, MONTHS),
    _Field("day_of_week", 0, 6, WEEKDAYS),
)


@dataclass(frozen=True, slots=True)
class LegacyCron:
    """What each field allows; weekdays from Monday = 0, `LAST` among the days."""

    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]

    def runs(self, zone: ZoneInfo, after: datetime) -> Iterator[datetime]:
        """The instants (UTC) after `after`, for some years."""
        first = after.astimezone(zone).date()
        for number in range(YEARS_AHEAD.days):
            day = first + timedelta(days=number)
            if not self._fits(day):
                continue
            for hour in sorted(self.hours):
                for minute in sorted(self.minutes):
                    moment = datetime.combine(day, time(hour, minute), zone).astimezone(UTC)
                    if moment > after:
                        yield moment

    def _fits(self, day: date) -> bool:
        is_last = LAST in self.days and day.day == calendar.monthrange(day.year, day.month)[1]
        return day.month in self.months and day.weekday() in self.weekdays and (day.day in self.days or is_last)


def counts_weekdays(text: str) -> bool:
    """Whether `text` means different days by different ways to count weekdays."""
    weekdays = text.split()[4:5]
    return bool(weekdays) and weekdays[0] != "*" and any(character.isdigit() for character in weekdays[0])


def parse(text: str, base: WeekdayBase) -> LegacyCron:
    """Raises LegacyCronError."""
    fields = text.upper().split()
    if len(fields) != len(_FIELDS):
        raise LegacyCronError(
            _("“{cron}” has {count} fields; 5 are expected: minute hour day month weekday.").format(
                cron=text, count=len(fields)
            )
        )
    values = [_parse_field(field, written, base) for field, written in zip(_FIELDS, fields, strict=True)]
    return LegacyCron(*map(frozenset, values))


def _parse_field(field: _Field, written: str, base: WeekdayBase) -> set[int]:
    by_cron = field.words == WEEKDAYS and base == WeekdayBase.CRON
    span = field._replace(most=7, words=("SUN", *WEEKDAYS)) if by_cron else field
    found: set[int] = set()
    for item in written.split(","):
        if span.name == "day" and item == "LAST":
            found.add(LAST)
            continue
        found.update(_parse_item(span, item))
    return {(value - 1) % 7 for value in found} if by_cron else found


def _parse_item(field: _Field, item: str) -> range:
    every, match = _EVERY.fullmatch(item), _ITEM.fullmatch(item)
    if every is not None:
        first, last, step = field.least, field.most, every["step"]
    elif match is not None:
        step = match["step"]
        first = _number(field, match["first"])
        last = _number(field, match["last"]) if match["last"] else field.most if step else first
    else:
        raise _not_valid(field, item)
    if last < first or (step is not None and int(step) == 0):
        raise _not_valid(field, item)
    return range(first, last + 1, int(step or 1))


def _number(field: _Field, text: str) -> int:
    if not text.isdigit():
        if text not in field.words:
            raise _not_valid(field, text)
        # Of two Sundays, cron's 0 and 7, the second: FRI-SUN is a range.
        return len(field.words) - 1 - field.words[::-1].index(text) + field.least
    if not field.least <= int(text) <= field.most:
        raise _not_valid(field, text)
    return int(text)


def _not_valid(field: _Field, item: str) -> LegacyCronError:
    return LegacyCronError(
        _("The field {field} ({value}) means nothing to the older system: {least} to {most} are expected.").format(
            field=field.name, value=item.lower(), least=field.least, most=field.most
        )
    )


def convert(text: str, base: WeekdayBase) -> str:
    """The cron expression that fires exactly when `text` did. Raises LegacyCronError when there is none."""
    legacy = parse(text, base)
    minute, hour, day, month = text.upper().split()[:4]
    weekdays = _weekday_names(legacy.weekdays)
    if weekdays != "*" and not day.startswith("*"):
        day, weekdays = _both(text, legacy, weekdays)
    plain = [_plain(field, written) for field, written in zip(_FIELDS, (minute, hour, day, month), strict=False)]
    cron = " ".join([*plain, weekdays])
    _compare(text, legacy, cron)
    return cron


def _weekday_names(weekdays: frozenset[int]) -> str:
    """In names, which mean the same to everybody; cron's ranges can't end on Sunday."""
    if len(weekdays) == len(WEEKDAYS):
        return "*"
    runs: list[list[int]] = []
    for day in sorted(weekdays - {6}):
        if runs and runs[-1][-1] == day - 1:
            runs[-1].append(day)
        else:
            runs.append([day])
    names = [
        f"{WEEKDAYS[run[0]]}-{WEEKDAYS[run[-1]]}" if len(run) > 2 else ",".join(WEEKDAYS[day] for day in run)
        for run in runs
    ]
    return ",".join(names + ["SUN"] * (6 in weekdays))


def _both(text: str, legacy: LegacyCron, weekdays: str) -> tuple[str, str]:
    """Day and weekday together: the Mondays among the days 1 to 7 are the first Monday of each month."""
    for week in range(1, 5):
        if legacy.days == frozenset(range(7 * week - 6, 7 * week + 1)):
            return "*", ",".join(f"{WEEKDAYS[day]}#{week}" for day in sorted(legacy.weekdays))
    raise LegacyCronError(
        _(
            "“{cron}” names a day of the month and a weekday ({weekdays}). The older system wants both to fit, cron takes either. Leave one of them *, or make several tasks of it."
        ).format(cron=text, weekdays=weekdays)
    )


def _plain(field: _Field, written: str) -> str:
    """As cron writes it: `5/15` is `5-59/15`, the last day is L."""
    items = []
    for item in written.split(","):
        match = _ITEM.fullmatch(item)
        if item == "LAST":
            items.append("L")
        elif match and match["step"] and not match["last"]:
            items.append(f"{match['first']}-{field.most}/{match['step']}")
        else:
            items.append(item)
    return ",".join(items)


def _compare(text: str, legacy: LegacyCron, cron: str) -> None:
    """Raise LegacyCronError unless our planner fires when the older one did: the next runs, and the days for years."""
    start = datetime(2024, 1, 1, tzinfo=UTC)
    midnight = replace(legacy, minutes=frozenset({0}), hours=frozenset({0}))
    days = " ".join(["0", "0", *cron.split()[2:]])
    if next(midnight.runs(ZoneInfo("UTC"), start), None) is None:
        raise LegacyCronError(_("“{cron}” never fires.").format(cron=text))
    for theirs, ours in ((legacy, cron), (midnight, days)):
        try:
            schedule.check(ours)
        except schedule.BadCron as exc:
            raise LegacyCronError(f"“{text}”: {exc}") from None
        expected = list(islice(theirs.runs(ZoneInfo("UTC"), start), COMPARED))
        found = schedule.next_runs(ours, "UTC", start, len(expected))
        if found != expected:
            raise LegacyCronError(_("“{cron}” can't be written as a cron expression.").format(cron=text))
