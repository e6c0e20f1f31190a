"""Judges an installation from outside: its tables by plain SQL, its files by other people's readers.

It knows nothing of the code that it judges and imports none of it: what a schedule owes comes from an oracle of its own
(cron.py's rules, written down a second time here), what a row and a file must be from SPEC sections 8 and 9.
"""

import csv
import hashlib
import json
import re
import zipfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import python_calamine

Query = Callable[[str], list[tuple[Any, ...]]]

END_STATES = ("succeeded", "failed", "timed_out", "cancelled", "missed", "skipped")
MINUTE = timedelta(minutes=1)
_ATTEMPT = re.compile(r"(\d+)-(\d+)")
_MONTH = re.compile(r"\d{4}-\d\d")


@dataclass(frozen=True, slots=True)
class Owed:
    """What a task's schedule owes: every instant of `cron` from `first` on; each export has `rows` rows of data."""

    cron: str
    timezone: str
    first: datetime
    rows: int


class Row(NamedTuple):
    """One execution as its table holds it; times are aware, `files` is the list of parts."""

    id: int
    task_name: str
    status: str
    scheduled_for: datetime | None
    range_start: datetime | None
    occurrences: int
    attempt: int
    slot_key: str | None
    source_slot: str | None
    finished_at: datetime | None
    rows_count: int | None
    file_size: int | None
    sha256: str
    files: list[dict[str, Any]]

    def __str__(self) -> str:
        return f"execution {self.id} of {self.task_name}"


def check(query: Query, output: Path, temp: Path, owed: Mapping[str, Owed], until: datetime) -> list[str]:
    """Everything that is wrong, in words; an empty list when nothing is.

    `owed`: the name of each scheduled task and what it owes up to `until`, inclusive. The schedules must have been
    stopped by then, and nobody may work any more.
    """
    rows = read_rows(query)
    return [
        *check_occurrences(rows, owed, until),
        *check_ends(rows),
        *check_files(rows, output, {name: task.rows for name, task in owed.items()}),
        *check_strays(rows, output, temp),
    ]


def read_rows(query: Query) -> list[Row]:
    """All executions."""
    found = []
    for values in query(f"SELECT {', '.join(Row._fields)} FROM tasks_execution ORDER BY id"):
        row = Row(*values)
        files: Any = row.files
        found.append(
            row._replace(
                scheduled_for=moment(row.scheduled_for),
                range_start=moment(row.range_start),
                finished_at=moment(row.finished_at),
                files=json.loads(files) if isinstance(files, (str, bytes)) else files,
            )
        )
    return found


def moment(value: Any) -> datetime | None:
    """A time as any of the three databases gives it: text, or a datetime with or without zone; in UTC."""
    if value is None:
        return None
    parsed = datetime.fromisoformat(value) if isinstance(value, str) else value
    assert isinstance(parsed, datetime)
    return parsed.astimezone(UTC) if parsed.tzinfo else parsed.replace(tzinfo=UTC)


# ---- occurrences


def check_occurrences(rows: Iterable[Row], owed: Mapping[str, Owed], until: datetime) -> Iterator[str]:
    """Each instant that a schedule owes stands in one row, or within one row of a range that states its count."""
    by_task: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if row.scheduled_for is not None:
            by_task[row.task_name].append(row)
    for name in sorted(by_task.keys() - owed.keys()):
        yield f"{name} owes nothing, but has {len(by_task[name])} rows"
    for name, task in owed.items():
        instants = occurrences(task.cron, task.timezone, task.first, until)
        covered: Counter[datetime] = Counter()
        for row in by_task[name]:
            assert row.scheduled_for is not None
            start = row.range_start or row.scheduled_for
            inside = [instant for instant in instants if start <= instant <= row.scheduled_for]
            covered.update(inside)
            if row.scheduled_for not in inside:
                yield f"{row}: its time {row.scheduled_for} is none that the schedule owes"
            elif len(inside) != row.occurrences:
                yield f"{row} states {row.occurrences} occurrences from {start} to {row.scheduled_for}, not {len(inside)}"
        for instant in instants:
            if covered[instant] != 1:
                yield f"{name}: {instant} has {covered[instant] or 'no'} row{'s' if covered[instant] > 1 else ''}"


@lru_cache(maxsize=1000)
def occurrences(cron: str, timezone: str, first: datetime, last: datetime) -> tuple[datetime, ...]:
    """The instants (UTC) from `first` to `last`, both inclusive, at which `cron` fires.

    A plain walk over the minutes. Hour and minute both fixed: a time that the clock skips fires at the first instant
    after the gap, a time that comes twice fires the first time. Otherwise the wall clock alone decides.
    """
    zone, schedule = ZoneInfo(timezone), Cron(cron)
    found = []
    instant = first.astimezone(UTC).replace(second=0, microsecond=0)
    if instant < first:
        instant += MINUTE
    while instant <= last:
        local = instant.astimezone(zone)
        wall = local.replace(tzinfo=None)
        if not schedule.is_fixed:
            fires = schedule.matches(wall)
        else:
            before = (instant - MINUTE).astimezone(zone).replace(tzinfo=None)
            fires = not local.fold and any(schedule.matches(each) for each in _minutes(before + MINUTE, wall))
        if fires:
            found.append(instant)
        instant += MINUTE
    return tuple(found)


def _minutes(first: datetime, last: datetime) -> Iterator[datetime]:
    while first <= last:
        yield first
        first += MINUTE


_MONTHS = ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"]
_DAYS = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"]


class Cron:
    """Five fields: numbers, English names, `*`, lists, ranges, steps."""

    def __init__(self, text: str) -> None:
        minute, hour, day, month, weekday = text.upper().split()
        self.is_fixed = not minute.startswith("*") and not hour.startswith("*")
        self._both_days = day.startswith("*") or weekday.startswith("*")
        self._minutes = _field(minute, 0, 59)
        self._hours = _field(hour, 0, 23)
        self._days = _field(day, 1, 31)
        self._months = _field(month, 1, 12, {name: number for number, name in enumerate(_MONTHS, 1)})
        self._weekdays = {
            number % 7 for number in _field(weekday, 0, 7, {name: number for number, name in enumerate(_DAYS)})
        }

    def matches(self, wall: datetime) -> bool:
        day, weekday = wall.day in self._days, wall.isoweekday() % 7 in self._weekdays
        return (
            wall.minute in self._minutes
            and wall.hour in self._hours
            and wall.month in self._months
            # crontab(5): two restricted days are alternatives.
            and (day and weekday if self._both_days else day or weekday)
        )


def _field(text: str, least: int, most: int, names: Mapping[str, int] | None = None) -> set[int]:
    def number(word: str) -> int:
        value = (names or {}).get(word)
        return int(word) if value is None else value

    found: set[int] = set()
    for item in text.split(","):
        span, _slash, step = item.partition("/")
        if span == "*":
            first, last = least, most
        else:
            start, dash, end = span.partition("-")
            first = number(start)
            last = number(end) if dash else most if step else first
        if not least <= first <= last <= most:
            raise ValueError(f"{text} is not a field of a schedule")
        found.update(range(first, last + 1, int(step or 1)))
    return found


# ---- states


def check_ends(rows: Iterable[Row]) -> Iterator[str]:
    """Each execution has one end state, and has let go of what it held."""
    for row in rows:
        if row.status not in END_STATES:
            yield f"{row} has not ended: {row.status}, attempt {row.attempt}"
        elif row.finished_at is None:
            yield f"{row} is {row.status}, but has no time of its end"
        if row.status != "running" and (row.slot_key or row.source_slot):
            yield f"{row} is {row.status}, but holds {row.slot_key or row.source_slot}"


# ---- files


def check_files(rows: Iterable[Row], output: Path, data_rows: Mapping[str, int]) -> Iterator[str]:
    """The files of succeeded executions are whole and are those that the row describes; others have none."""
    for row in rows:
        if row.status != "succeeded":
            if row.files:
                yield f"{row} is {row.status}, but names {len(row.files)} files"
            continue
        if not row.files:
            yield f"{row} succeeded without a file"
            continue
        if row.sha256 != row.files[0]["sha256"] or row.file_size != sum(part["size"] for part in row.files):
            yield f"{row}: size and checksum of the row are not those of its parts"
        wanted = data_rows.get(row.task_name, row.rows_count)
        if not wanted == row.rows_count == sum(part["rows"] for part in row.files):
            yield f"{row} states {row.rows_count} rows, its parts {[part['rows'] for part in row.files]}, not {wanted}"
        for part in row.files:
            yield from (f"{row}: {fault}" for fault in _faults_of_part(output, part))


def _faults_of_part(output: Path, part: Mapping[str, Any]) -> Iterator[str]:
    path = (output / part["path"]).resolve()
    if not path.is_relative_to(output.resolve()):
        yield f"{part['path']} lies outside the output directory"
        return
    if not path.is_file():
        yield f"{part['path']} does not exist"
        return
    content = path.read_bytes()
    if len(content) != part["size"]:
        yield f"{part['path']} has {len(content)} bytes, not {part['size']}"
    if hashlib.sha256(content).hexdigest() != part["sha256"]:
        yield f"{part['path']} has another SHA-256 than its row"
    try:
        found = count_data_rows(path)
    except Exception as exc:
        yield f"{part['path']} can't be read: {type(exc).__name__}: {exc}"
        return
    if found != part["rows"]:
        yield f"{part['path']} holds {found} rows, not {part['rows']}"


def count_data_rows(path: Path) -> int:
    """The rows below the header. Raises whatever its reader raises when the file is not whole."""
    if path.suffix == ".csv":
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = list(csv.reader(file, strict=True))
        if not path.read_bytes().endswith(b"\n"):
            raise ValueError("the last line has no end")
        if len({len(line) for line in lines}) != 1:
            raise ValueError("the lines have different numbers of fields")
        return len(lines) - 1
    with zipfile.ZipFile(path) as archive:
        if broken := archive.testzip():
            raise ValueError(f"{broken} is damaged")
    workbook = python_calamine.CalamineWorkbook.from_path(str(path))
    return sum(len(workbook.get_sheet_by_name(name).to_python()) - 1 for name in workbook.sheet_names)


def check_strays(rows: Iterable[Row], output: Path, temp: Path) -> Iterator[str]:
    """Nothing lies about that no succeeded execution owns, and no execution is visible twice."""
    owned = {(output / part["path"]) for row in rows if row.status == "succeeded" for part in row.files}
    places = {path.parent for path in owned}
    visible: Counter[str] = Counter()
    for path in sorted(output.rglob("*")):
        attempt = _ATTEMPT.fullmatch(path.name)
        if not path.is_dir():
            if path not in owned:
                yield f"output: {path.relative_to(output)} belongs to no succeeded execution"
        elif attempt and not _MONTH.fullmatch(path.relative_to(output).as_posix()):
            visible[attempt[1]] += 1
            if path not in places:
                yield f"output: the directory {path.relative_to(output)} belongs to no succeeded execution"
    for execution, count in visible.items():
        if count > 1:
            yield f"execution {execution} is visible in {count} directories"
    for path in sorted(temp.rglob("*")):
        yield f"temp: {path.relative_to(temp)} was left behind"
