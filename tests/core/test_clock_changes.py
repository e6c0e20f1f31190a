"""Schedules around clock changes, against an oracle that shares nothing with the code: it walks through the minutes.

The rules (SPEC, Debian's cron): a time that the clock skips fires once, at the first instant that exists; a repeated
time fires once, the first time; with * in minute or hour, what counts is the clock on the wall, each time it shows so.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import takewhile
from zoneinfo import ZoneInfo

import pytest

from tasks import schedule

MINUTE = timedelta(minutes=1)
# A zone, and days on which its clock changes: forwards, backwards.
CHANGES = [
    ("America/New_York", "2025-03-09", "2025-11-02"),  # 02:00 -> 03:00, 02:00 -> 01:00
    ("Europe/London", "2025-03-30", "2025-10-26"),  # 01:00 -> 02:00, 02:00 -> 01:00
    ("Europe/Berlin", "2025-03-30", "2025-10-26"),
    ("Australia/Lord_Howe", "2025-10-05", "2025-04-06"),  # by half an hour
    ("America/Sao_Paulo", "2018-11-04", "2018-02-18"),  # at midnight: a day without 00:00
    ("Africa/Cairo", "2025-04-25", "2025-10-31"),  # at midnight
    ("Asia/Shanghai", "2025-03-30", "2025-10-26"),  # none: the control
]
DAYS = [(zone, day) for zone, *days in CHANGES for day in days]
FIXED = [f"{minute} {hour} * * *" for hour in (0, 1, 2, 3, 23) for minute in (0, 15, 30, 59)]
OTHERS = [
    *("* * * * *", "*/15 * * * *", "0 * * * *", "30 * * * *", "45 */2 * * *", "10 */3 * * *"),
    *("*/20 2 * * *", "*/30 1-3 * * *", "* 2 * * *", "0,30 1,2 * * *", "5 0-23 * * *", "0,15,30,45 2 * * *"),
    *("0 2 * * SUN", "30 1 1-31 * *", "30 0 * * FRI", "0 0-3/3 * * *"),
]


def values(field: str, first: int, last: int) -> set[int]:
    found: set[int] = set()
    for item in field.split(","):
        span, _slash, step = item.partition("/")
        start, _dash, end = span.partition("-")
        low, high = (first, last) if span == "*" else (int(start), int(end or start))
        found.update(range(low, high + 1, int(step or 1)))
    return found


def matches(cron: str, wall: datetime) -> bool:
    minute, hour, day, month, weekday = cron.replace("SUN", "0").replace("FRI", "5").split()
    return (
        wall.minute in values(minute, 0, 59)
        and wall.hour in values(hour, 0, 23)
        and wall.day in values(day, 1, 31)
        and wall.month in values(month, 1, 12)
        and wall.isoweekday() % 7 in values(weekday, 0, 6)
    )


def exists(wall: datetime, zone: ZoneInfo) -> bool:
    return wall.replace(tzinfo=zone).astimezone(UTC).astimezone(zone).replace(tzinfo=None) == wall


def oracle(cron: str, zone: ZoneInfo, start: datetime, end: datetime) -> Iterator[datetime]:
    """The instants after `start`, up to `end`, both at midday in `zone`, when no clock changes."""
    minute, hour = cron.split()[:2]
    if minute.startswith("*") or hour.startswith("*"):
        instant = start + MINUTE
        while instant <= end:
            if matches(cron, instant.astimezone(zone).replace(tzinfo=None)):
                yield instant
            instant += MINUTE
        return
    wall, last = (moment.astimezone(zone).replace(tzinfo=None) + MINUTE for moment in (start, end))
    fired = set()
    while wall < last:
        if matches(cron, wall):
            first = wall
            while not exists(first, zone):
                first += MINUTE
            fired.add(first.replace(tzinfo=zone, fold=0).astimezone(UTC))
        wall += MINUTE
    yield from sorted(fired)


def around(zone: ZoneInfo, day: str) -> tuple[datetime, datetime]:
    midday = datetime.fromisoformat(f"{day}T12:00").replace(tzinfo=zone)
    return (midday - timedelta(days=1)).astimezone(UTC), (midday + timedelta(days=1)).astimezone(UTC)


@pytest.mark.parametrize(("zone_name", "day"), DAYS)
@pytest.mark.parametrize("cron", FIXED + OTHERS)
def test_a_schedule_fires_as_the_walk_through_the_minutes_says(zone_name: str, day: str, cron: str) -> None:
    zone = ZoneInfo(zone_name)
    start, end = around(zone, day)
    found = list(takewhile(lambda instant: instant <= end, schedule.upcoming(cron, zone_name, start)))
    assert found == list(oracle(cron, zone, start, end))
    # Asked anew behind each of them, as the scheduler does, it says the same.
    moment, one_by_one = start, []
    while (following := schedule.next_run(cron, zone_name, moment)) is not None and following <= end:
        one_by_one.append(following)
        moment = following
        if len(one_by_one) > 40:  # of those that fire each minute the change itself is enough
            moment = max(moment, end - timedelta(hours=40))
            break
    assert one_by_one == found[: len(one_by_one)]


def test_the_oracle_knows_the_changes() -> None:
    """By hand, so that it can't be wrong in the same way."""
    new_york = ZoneInfo("America/New_York")
    assert list(oracle("30 2 * * *", new_york, *around(new_york, "2025-03-09"))) == [
        datetime(2025, 3, 9, 7, 0, tzinfo=UTC),  # 02:30 does not exist: 03:00 EDT
        datetime(2025, 3, 10, 6, 30, tzinfo=UTC),
    ]
    assert list(oracle("30 1 * * *", new_york, *around(new_york, "2025-11-02"))) == [
        datetime(2025, 11, 2, 5, 30, tzinfo=UTC),  # 01:30 EDT, not again at 01:30 EST
        datetime(2025, 11, 3, 6, 30, tzinfo=UTC),
    ]
    both = oracle("*/30 * * * *", new_york, *around(new_york, "2025-11-02"))
    assert sum(1 for _instant in both) == 49 * 2
