"""Cron expressions: checked at save, explained in words, next runs. Pure functions on aware times, no database."""

from collections import deque
from collections.abc import Iterator
from datetime import UTC, datetime, time, timedelta
from itertools import islice
from typing import NamedTuple
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

FIELDS = (
    (gettext_lazy("minute"), "0-59"),
    (gettext_lazy("hour"), "0-23"),
    (gettext_lazy("day of the month"), "1-31"),
    (gettext_lazy("month"), "1-12"),
    (gettext_lazy("day of the week"), "0-7"),
)


MINUTE, DAY = timedelta(minutes=1), timedelta(days=1)
QUARTER = 15  # minutes
QUARTERS = ("1,4,7,10", "*/3", "1/3", "1-12/3")  # the months that begin one, as they are written


class BadCron(ValueError):
    """The expression can't be used; the text names the field."""


def check(cron: str) -> None:
    """Raise BadCron unless `cron` has five valid fields and fires at least once."""
    fields = cron.split()
    if len(fields) != len(FIELDS):
        raise BadCron(
            _(
                "A schedule has 5 fields (minute hour day month weekday); this has {count}. Example: 0 9 * * * is every day at 09:00."
            ).format(count=len(fields))
        )
    for position, (label, span) in enumerate(FIELDS):
        # Alone in an otherwise free expression, a field is judged by itself.
        alone = ["*"] * len(FIELDS)
        alone[position] = fields[position]
        try:
            CronSim(" ".join(alone), datetime(2024, 1, 1, tzinfo=UTC))
        except CronSimError:
            raise BadCron(
                _("The field “{field}” ({value}) is not valid: expected {span}, *, a list, a range or a step.").format(
                    field=label, value=fields[position], span=span
                )
            ) from None
    try:
        next(CronSim(cron, datetime(2024, 1, 1, tzinfo=UTC)))
    except (CronSimError, StopIteration):
        raise BadCron(_("The schedule {cron} never fires: no such day exists.").format(cron=cron)) from None


def upcoming(cron: str, timezone: str, after: datetime) -> Iterator[datetime]:
    """The instants (UTC) after `after` at which `cron` fires in `timezone`, without end.

    A time that a clock change skips fires once at the first valid instant; a repeated hour fires a fixed hour once; with
    * in minute or hour, what counts is what the clock on the wall shows (Debian cron's rules).
    """
    zone = ZoneInfo(timezone)
    minute, hour = cron.split()[:2]
    if minute.startswith("*") or hour.startswith("*"):
        yield from _by_the_wall(cron, zone, after.astimezone(UTC))
        return
    for moment in CronSim(cron, after.astimezone(zone)):
        instant = moment.astimezone(UTC)
        # Asked within a repeated hour, cronsim names the first 01:30, which is over.
        if instant > after:
            yield instant


def _by_the_wall(cron: str, zone: ZoneInfo, after: datetime) -> Iterator[datetime]:
    """The instants at which a clock in `zone` shows what `cron` says.

    Not cronsim's own way: it goes wrong where a clock changes by half an hour (Lord Howe).
    """
    fields = CronSim(cron, datetime(2024, 1, 1))
    to_next_minute = _distances(fields.minutes)
    instant = after.replace(second=0, microsecond=0) + MINUTE
    while True:
        wall = instant.astimezone(zone)
        if wall.month not in fields.months or not fields.match_day(wall):
            instant = datetime.combine(wall.date() + DAY, time(), zone).astimezone(UTC)
        elif wall.hour not in fields.hours:
            instant += MINUTE * (QUARTER - wall.minute % QUARTER)
        elif distance := to_next_minute[wall.minute]:
            instant += MINUTE * distance
        else:
            yield instant
            instant += MINUTE


def _distances(minutes: set[int]) -> list[int]:
    """From each minute of an hour to the next one that is in `minutes`, or to the next quarter of an hour if that is
    nearer: clocks change at quarters."""
    return [
        next(
            step
            for step in range(QUARTER + 1)
            if (start + step) % 60 in minutes or (step and (start + step) % QUARTER == 0)
        )
        for start in range(60)
    ]


class Due(NamedTuple):
    """The instants from the first one owed up to now: the newest of them one by one, how many came before these and
    from when to when, and the first one that is still to come (None when there is none)."""

    newest: list[datetime]
    older: int
    older_from: datetime | None
    older_to: datetime | None
    following: datetime | None


def due(cron: str, timezone: str, first: datetime, now: datetime, most: int = 100) -> Due:
    """What is owed at `now` when `first` is the first instant owed; `most` of them one by one."""
    newest: deque[datetime] = deque([first], maxlen=most)
    count, older_to, following = 1, None, None
    for instant in upcoming(cron, timezone, first):
        if instant > now:
            following = instant
            break
        if count >= most:
            older_to = newest[0]
        newest.append(instant)
        count += 1
    older = count - len(newest)
    return Due(list(newest), older, first if older else None, older_to, following)


def next_run(cron: str, timezone: str, after: datetime) -> datetime | None:
    """The first instant after `after`, None when there is none."""
    return next(upcoming(cron, timezone, after), None)


def next_runs(cron: str, timezone: str, after: datetime, count: int = 5) -> list[datetime]:
    return list(islice(upcoming(cron, timezone, after), count))


def describe(cron: str) -> str:
    """`cron` in words, for the common shapes; the expression itself for the others."""
    minute, hour, day, month, weekday = cron.split()
    if month in QUARTERS and [day, weekday] == ["1", "*"] and minute.isdigit() and hour.isdigit():
        return _("on the first day of every quarter at {time}").format(time=f"{int(hour):02d}:{int(minute):02d}")
    if month != "*" or not minute.isdigit():
        step = minute.removeprefix("*/")
        if minute.startswith("*/") and step.isdigit() and [hour, day, month, weekday] == ["*"] * 4:
            return _("every {count} minutes").format(count=int(step))
        if cron.split() == ["*"] * 5:
            return _("every minute")
        return cron
    if hour == "*" and day == weekday == "*":
        return _("every hour at minute {minute}").format(minute=int(minute))
    if not hour.isdigit():
        return cron
    at = f"{int(hour):02d}:{int(minute):02d}"
    if day == weekday == "*":
        return _("every day at {time}").format(time=at)
    if day == "*" and weekday in ("1-5", "MON-FRI"):
        return _("Monday to Friday at {time}").format(time=at)
    if day == "*" and weekday.isdigit():
        names = (_("Sunday"), _("Monday"), _("Tuesday"), _("Wednesday"), _("Thursday"), _("Friday"), _("Saturday"))
        return _("every {weekday} at {time}").format(weekday=names[int(weekday) % 7], time=at)
    if weekday == "*" and day.isdigit():
        return _("on day {day} of every month at {time}").format(day=int(day), time=at)
    if weekday == "*" and day == "L":
        return _("on the last day of every month at {time}").format(time=at)
    return cron
