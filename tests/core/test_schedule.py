"""Cron: checked with the field's name, next runs with clock changes, words for people."""

from datetime import UTC, datetime
from itertools import islice, pairwise
from zoneinfo import ZoneInfo

import pytest

from tasks import schedule

pytestmark = pytest.mark.usefixtures("english")

NEW_YORK = "America/New_York"


def at(text: str, zone: str = "UTC") -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone))


def local_runs(cron: str, zone: str, after: str, count: int) -> list[str]:
    moments = schedule.next_runs(cron, zone, at(after, zone), count)
    assert all(moment.tzinfo is UTC for moment in moments)
    return [moment.astimezone(ZoneInfo(zone)).strftime("%m-%d %H:%M %z") for moment in moments]


@pytest.mark.parametrize(
    "cron",
    ["* * * * *", "0 9 * * *", "*/15 8-18 * * 1-5", "0 0 1,15 * *", "0 0 L * *", "30 6 * JAN-MAR MON", "0 0 29 2 *", "0 0 * * 0", "0 0 * * 7", "0 9 * * 5L", "0 9 * * 1#2", "  0   9 * * *  ", "0\t9 * * *"],
)  # fmt: skip
def test_good_expressions_pass(cron: str) -> None:
    schedule.check(cron)
    assert schedule.next_run(cron, "Asia/Shanghai", at("2025-01-01"))


@pytest.mark.parametrize(
    ("cron", "field"),
    [
        ("60 * * * *", "minute"),
        ("*/0 * * * *", "minute"),
        ("a * * * *", "minute"),
        ("0 24 * * *", "hour"),
        ("0 9-8 * * *", "hour"),
        ("0 0 32 * *", "day of the month"),
        ("0 0 0 * *", "day of the month"),
        ("0 0 * 13 *", "month"),
        ("0 0 * FOO *", "month"),
        ("0 0 * * 8", "day of the week"),
        ("0 0 * * MONDAY", "day of the week"),
        ("0 0 * * 1#6", "day of the week"),
        ("５ 0 * * *", "minute"),
        ("; * * * *", "minute"),
    ],
)
def test_a_bad_field_is_named(cron: str, field: str) -> None:
    value = cron.split()[[str(label) for label, _span in schedule.FIELDS].index(field)]
    with pytest.raises(schedule.BadCron, match=rf"The field “{field}”") as caught:
        schedule.check(cron)
    assert f"({value})" in str(caught.value)


@pytest.mark.parametrize(("cron", "count"), [("", 0), ("* * * *", 4), ("0 0 9 * * *", 6), ("@daily", 1)])
def test_a_schedule_has_five_fields(cron: str, count: int) -> None:
    with pytest.raises(schedule.BadCron, match=f"has 5 fields .* this has {count}"):
        schedule.check(cron)


@pytest.mark.parametrize("cron", ["0 0 30 2 *", "0 0 31 2,4,6,9,11 *", "0 0 31 4 *"])
def test_what_never_fires_is_refused(cron: str) -> None:
    with pytest.raises(schedule.BadCron, match="never fires"):
        schedule.check(cron)


def test_next_runs_are_in_the_tasks_zone_and_after_the_moment() -> None:
    assert local_runs("0 9 * * *", "Asia/Shanghai", "2025-08-12T09:00", 2) == ["08-13 09:00 +0800", "08-14 09:00 +0800"]
    assert schedule.next_run("0 9 * * *", "Asia/Shanghai", at("2025-08-12T00:59:59")) == at("2025-08-12T01:00")
    assert len(schedule.next_runs("0 9 * * *", "UTC", at("2025-01-01"))) == 5


def test_leap_days_are_found_years_ahead() -> None:
    assert schedule.next_run("0 0 29 2 *", "UTC", at("2025-01-01")) == at("2028-02-29")


def test_a_time_that_the_clock_skips_fires_once_at_the_first_valid_instant() -> None:
    runs = local_runs("30 2 * * *", NEW_YORK, "2025-03-08T12:00", 2)
    assert runs == ["03-09 03:00 -0400", "03-10 02:30 -0400"]


def test_a_repeated_hour_fires_a_fixed_hour_once() -> None:
    runs = local_runs("30 1 * * *", NEW_YORK, "2025-11-01T12:00", 2)
    assert runs == ["11-02 01:30 -0400", "11-03 01:30 -0500"]


def test_every_half_hour_goes_on_evenly_through_both_changes() -> None:
    for after in ("2025-03-09T00:00", "2025-11-02T00:00"):
        moments = list(islice(schedule.upcoming("*/30 * * * *", NEW_YORK, at(after, NEW_YORK)), 12))
        assert {later - earlier for earlier, later in pairwise(moments)} == {moments[1] - moments[0]}


@pytest.mark.parametrize(
    "start", ["2025-03-09T06:59", "2025-03-09T07:01", "2025-11-02T05:29", "2025-11-02T06:29", "2025-11-02T06:31"]
)
@pytest.mark.parametrize("cron", ["30 2 * * *", "30 1 * * *", "*/30 * * * *", "0 * * * *"])
def test_asking_again_in_between_gives_the_same_runs(cron: str, start: str) -> None:
    moments = schedule.next_runs(cron, NEW_YORK, at(start), 6)
    assert [schedule.next_run(cron, NEW_YORK, moment) for moment in moments[:-1]] == moments[1:]
    assert moments == sorted(set(moments))
    assert moments[0] > at(start)


@pytest.mark.parametrize(
    ("cron", "words"),
    [
        ("* * * * *", "every minute"),
        ("*/5 * * * *", "every 5 minutes"),
        ("7 * * * *", "every hour at minute 7"),
        ("0 9 * * *", "every day at 09:00"),
        ("5 0 * * *", "every day at 00:05"),
        ("0 9 * * 1-5", "Monday to Friday at 09:00"),
        ("0 9 * * MON-FRI", "Monday to Friday at 09:00"),
        ("0 9 * * 0", "every Sunday at 09:00"),
        ("0 9 * * 7", "every Sunday at 09:00"),
        ("0 9 * * 3", "every Wednesday at 09:00"),
        ("0 9 15 * *", "on day 15 of every month at 09:00"),
        ("0 9 L * *", "on the last day of every month at 09:00"),
        ("0 9 1 1 *", "0 9 1 1 *"),
        ("0 9 1 * 1", "0 9 1 * 1"),
        ("0 9-18 * * *", "0 9-18 * * *"),
        ("0,30 9 * * *", "0,30 9 * * *"),
        ("*/5 9 * * *", "*/5 9 * * *"),
        ("0 9 * * 1,3", "0 9 * * 1,3"),
    ],
)
def test_common_schedules_in_words(cron: str, words: str) -> None:
    assert schedule.describe(cron) == words
