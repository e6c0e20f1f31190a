"""What the parts of the dashboard are made of. Every figure has the address of the list that shows exactly its rows."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any
from urllib.parse import urlencode

from django.urls import reverse
from django.utils import timezone
from django.utils.functional import Promise

from tasks.models import Execution, Pause, SchedulerProcess
from tasks.states import ENDED, Status

BAD = (Status.FAILED, Status.TIMED_OUT)
OTHER = (Status.CANCELLED, Status.MISSED, Status.SKIPPED)


def runs_url(**filters: Any) -> str:
    """The list of executions with these filters."""
    return f"{reverse('admin:tasks_execution_changelist')}?{urlencode(filters)}"


def several(states: Iterable[Status]) -> str:
    return ",".join(state.value for state in states)


@dataclass(frozen=True, slots=True)
class Figure:
    """`state` is one of Status; for those that have ended it counts the ends of today."""

    state: str
    label: str | Promise
    count: int
    url: str


@dataclass(frozen=True, slots=True)
class Running:
    """`expected` is the number of rows of the task's last success, if there is one: all that can be compared with."""

    pk: int
    task_name: str
    source: str
    url: str
    attempt: int
    elapsed: float  # seconds
    rows: int
    rate: int  # rows a second
    bytes: int
    expected: int | None
    is_being_cancelled: bool

    @property
    def percent(self) -> int | None:
        """How far it is if it becomes as long as last time; None once it has become longer, or never was."""
        if not self.expected or self.rows > self.expected:
            return None
        return self.rows * 100 // self.expected


@dataclass(frozen=True, slots=True)
class Next:
    task_name: str
    source: str
    url: str
    at: datetime
    schedule: str
    is_today: bool
    is_overdue: bool
    is_blocked: bool  # its data source is switched off


@dataclass(frozen=True, slots=True)
class Disk:
    """In bytes; below `needed` exports are refused."""

    free: int
    total: int
    needed: int

    @property
    def used_percent(self) -> int:
        return 100 - self.free * 100 // self.total if self.total else 0

    @property
    def is_low(self) -> bool:
        return self.free < self.needed


@dataclass(frozen=True, slots=True)
class Live:
    """What changes while somebody looks. `figures` and `running` are empty for who may not see runs, `next` for who may
    not see tasks."""

    at: datetime
    sees_runs: bool
    sees_tasks: bool
    may_cancel: bool
    problems: list[str]
    pause: Pause | None
    schedulers: list[SchedulerProcess]
    figures: list[Figure]
    oldest_queued: datetime | None
    running: list[Running]
    next: list[Next]
    disk: Disk

    @property
    def day(self) -> date:
        return timezone.localdate(self.at, timezone.get_default_timezone())

    @property
    def counts(self) -> dict[str, int]:
        return {figure.state: figure.count for figure in self.figures}

    @property
    def urls(self) -> dict[str, str]:
        return {figure.state: figure.url for figure in self.figures}

    @property
    def bad_today(self) -> int:
        return sum(self.counts.get(state, 0) for state in BAD)

    @property
    def bad_today_url(self) -> str:
        return runs_url(status__in=several(BAD), ended=self.day.isoformat())

    @property
    def ended_today(self) -> int:
        return sum(self.counts.get(state, 0) for state in ENDED)

    @property
    def workers(self) -> int:
        return sum(process.workers for process in self.schedulers)

    @property
    def workers_busy(self) -> int:
        return sum(process.running for process in self.schedulers)

    @property
    def hidden_running(self) -> int:
        """Runs beyond those that are listed."""
        return max(0, self.counts.get(Status.RUNNING, 0) - len(self.running))

    @property
    def wait(self) -> int:
        """Milliseconds until it is worth looking again."""
        if self.counts.get(Status.RUNNING):
            return 1000
        starts_soon = self.counts.get(Status.QUEUED) and self.schedulers and not self.pause
        return 3000 if starts_soon else 15000


@dataclass(frozen=True, slots=True)
class Day:
    """One bar of the trend: runs by the day of their end. The heights are per cent of the highest bar."""

    date: date
    good: int
    bad: int
    other: int
    highest: int

    @property
    def total(self) -> int:
        return self.good + self.bad + self.other

    @property
    def heights(self) -> dict[str, float]:
        shares = {"good": self.good, "bad": self.bad, "other": self.other}
        return {name: round(count * 100 / self.highest, 2) if self.highest else 0 for name, count in shares.items()}

    @property
    def url(self) -> str:
        return runs_url(ended=self.date.isoformat())

    @property
    def bad_url(self) -> str:
        return runs_url(status__in=several(BAD), ended=self.date.isoformat())


@dataclass(frozen=True, slots=True)
class Trend:
    days: list[Day]

    @property
    def is_empty(self) -> bool:
        return not any(day.total for day in self.days)

    @property
    def sums(self) -> dict[str, int]:
        return {name: sum(getattr(day, name) for day in self.days) for name in ("good", "bad", "other")}

    @property
    def urls(self) -> dict[str, str]:
        groups = {"good": (Status.SUCCEEDED,), "bad": BAD, "other": OTHER}
        return {name: runs_url(status__in=several(states), ended="14d") for name, states in groups.items()}


@dataclass(frozen=True, slots=True)
class Failing:
    """A task with failures of late. `last` is its newest failure; `is_over` when a later run has succeeded."""

    last: Execution
    failures: int
    is_over: bool

    @property
    def url(self) -> str:
        return runs_url(task__id__exact=self.last.task_id, status__in=several(BAD), ended="7d")


@dataclass(frozen=True, slots=True)
class Slow:
    """A task by the average duration of its successes of late, in seconds."""

    task_name: str
    task_id: int
    average: float
    longest: float
    runs: int

    @property
    def url(self) -> str:
        return runs_url(task__id__exact=self.task_id, status__exact=Status.SUCCEEDED.value, ended="7d")


@dataclass(frozen=True, slots=True)
class Step:
    """One of the first steps on a new system: source, task, channel, run. `url` is "" for who may not take it."""

    name: str
    is_done: bool
    url: str
    is_next: bool = False  # the first that is not done


@dataclass(frozen=True, slots=True)
class Overview:
    """What changes slowly. `steps` is empty once there has been a run."""

    trend: Trend | None
    failing: list[Failing]
    slowest: list[Slow]
    steps: list[Step]

    @property
    def may_begin(self) -> bool:
        return any(step.url for step in self.steps)

    @property
    def failures_url(self) -> str:
        return runs_url(status__in=several(BAD), ended="7d")
