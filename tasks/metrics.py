"""What /metrics tells, read from the database at each scrape: every web process says the same.

Rows are removed by housekeeping, so what there is in the tables can't be a counter. Counters and histograms count what
has ended since 00:00 UTC of today, by the clock of whoever ended it: no row of today is ever removed
(housekeeping.KEEP_ROWS), so they only grow, and begin anew once a day, which Prometheus takes for a restart. What may
also become less (messages can be sent again) is a gauge, `_recent`: the last 24 hours.

Nine queries, a tenth once an hour. They look at what is open and at what has ended in the last hour or two; the hours
before are looked at once in the life of a process, and remembered: nothing ends in them any more.
"""

import platform
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import django
from django.conf import settings
from django.db import DatabaseError, InterfaceError, connection
from django.db.models import (
    BigIntegerField,
    Case,
    Count,
    F,
    FloatField,
    Func,
    IntegerField,
    Min,
    Q,
    Sum,
    Value,
    When,
)
from django.db.models.functions import Cast, Coalesce, Greatest, Now
from django.utils import timezone

from exporter_site import __version__
from exporter_site.exposition import Family, counter, gauge, histogram
from notifications.models import Delivery
from notifications.states import OPEN, DeliveryStatus
from tasks import files, storage
from tasks.models import SILENT_AFTER, Execution, ExportTask, Pause, SchedulerProcess
from tasks.reasons import REASONS
from tasks.states import ENDED, UNFINISHED, Status, Trigger

PREFIX = "data_export_"
DURATIONS = (1, 5, 15, 60, 300, 900, 1800, 3600, 7200, 14400)  # seconds
LAGS = (0.5, 1, 2, 5, 10, 30, 60, 300, 1800)  # seconds; two are promised
CLOSED = tuple(status for status in DeliveryStatus if status not in OPEN)
RECENT = timedelta(days=1)
SETTLED_AFTER = timedelta(hours=1)  # clocks of two hosts are not so far apart
FORGOTTEN_AFTER = timedelta(days=1)  # a scheduler that died so long ago is no news


class _SecondsBetween(Func):
    """From the second moment to the first; done by the database itself, Django's own way calls Python for each row on
    SQLite."""

    output_field = FloatField()
    arity = 2

    def as_sqlite(self, compiler: Any, connection: Any, **extra: Any) -> Any:
        return self.as_sql(compiler, connection, template="((%(expressions)s) * 86400.0)", arg_joiner=" - ", **extra)

    def as_mysql(self, compiler: Any, connection: Any, **extra: Any) -> Any:
        later, earlier = self.source_expressions
        flipped = type(self)(earlier, later)
        template = "(TIMESTAMPDIFF(MICROSECOND, %(expressions)s) / 1000000.0)"
        return flipped.as_sql(compiler, connection, template=template, **extra)

    def as_postgresql(self, compiler: Any, connection: Any, **extra: Any) -> Any:
        template = "EXTRACT(EPOCH FROM %(expressions)s)::double precision"
        return self.as_sql(compiler, connection, template=template, arg_joiner=" - ", **extra)


class _JulianDay(Func):
    """A moment as SQLite can reckon with it; elsewhere as it is."""

    template = "%(expressions)s"

    def as_sqlite(self, compiler: Any, connection: Any, **extra: Any) -> Any:
        return self.as_sql(compiler, connection, template="julianday(%(expressions)s)", **extra)


@dataclass(slots=True)
class _Ended:
    """What has ended today. `durations`, `lags`: how many fell into each bucket; the sums are in milliseconds."""

    states: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    durations: Counter[int] = field(default_factory=Counter)
    lags: Counter[int] = field(default_factory=Counter)
    duration_sum: int = 0
    lag_sum: int = 0
    rows: int = 0
    bytes: int = 0
    missed: int = 0

    def __add__(self, other: "_Ended") -> "_Ended":
        return _Ended(*(getattr(self, each.name) + getattr(other, each.name) for each in fields(self)))


@dataclass(frozen=True, slots=True)
class _Settled:
    """What ended from midnight to `until`, an hour that is long over."""

    midnight: datetime
    until: datetime
    ended: _Ended


_settled: _Settled | None = None


def collect() -> Iterator[Family]:
    """All families. With the database away, what can be said without it, and that it is away."""
    started = time.perf_counter()
    try:
        told = [family for part in _PARTS for family in part()]
        up = 1
    except (DatabaseError, InterfaceError):
        connection.close()
        told, up = [], 0
    yield gauge(f"{PREFIX}database_up", "Whether the system database answers.", up)
    yield from told
    yield from _disk()
    yield _build_info()
    seconds = time.perf_counter() - started
    yield gauge(f"{PREFIX}scrape_duration_seconds", "How long it took to collect all this.", round(seconds, 6))


def _executions() -> Iterator[Family]:
    ended = _ended_today(datetime.now(UTC))
    states = counter(f"{PREFIX}executions_total", "Executions that ended since 00:00 UTC, by state.")
    for status in ENDED:
        states.add(ended.states[status], state=str(status.value))
    yield states
    reasons = counter(f"{PREFIX}execution_reasons_total", "Executions that ended since 00:00 UTC, by reason.")
    for reason in sorted({*REASONS, *ended.reasons}):
        reasons.add(ended.reasons[reason], reason=reason)
    yield reasons
    yield counter(f"{PREFIX}missed_times_total", "Planned times that were missed, since 00:00 UTC.", ended.missed)
    yield counter(f"{PREFIX}rows_total", "Rows of the files that were finished since 00:00 UTC.", ended.rows)
    yield counter(f"{PREFIX}file_bytes_total", "Bytes of the files that were finished since 00:00 UTC.", ended.bytes)
    yield histogram(
        f"{PREFIX}execution_duration_seconds",
        "How long executions ran that ended since 00:00 UTC.",
        DURATIONS,
        [ended.durations[bucket] for bucket in range(len(DURATIONS) + 1)],
        ended.duration_sum / 1000,
    )
    yield histogram(
        f"{PREFIX}execution_start_lag_seconds",
        "From the planned time (by hand: from the request) to the start, of executions that ended since 00:00 UTC and"
        " were started once.",
        LAGS,
        [ended.lags[bucket] for bucket in range(len(LAGS) + 1)],
        ended.lag_sum / 1000,
    )
    last = Execution.objects.filter(status=Status.SUCCEEDED, finished_at__isnull=False).order_by("-finished_at")
    yield _moment("last_success_timestamp_seconds", "When an execution succeeded last.", last, "finished_at")


def _ended_today(now: datetime) -> _Ended:
    global _settled
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    until = max(midnight, (now - SETTLED_AFTER).replace(minute=0, second=0, microsecond=0))
    known = _settled
    if known is None or known.midnight != midnight or known.until > until:
        known = _Settled(midnight, midnight, _Ended())
    if known.until < until:
        known = _Settled(midnight, until, known.ended + _ended(finished_at__gte=known.until, finished_at__lt=until))
    _settled = known  # whole, in one step: other threads read it
    return known.ended + _ended(finished_at__gte=until)


def _ended(**when: datetime) -> _Ended:
    due = Case(When(trigger=Trigger.SCHEDULE, then=F("planned_at")), default=F("queued_at"))
    waited = Greatest(_SecondsBetween(_JulianDay(F("started_at")), _JulianDay(due)), Value(0.0))
    # Of one that was tried again, the first start is not known any more.
    lag = Case(When(attempt=1, started_at__isnull=False, then=waited), output_field=FloatField())
    groups = (
        Execution.objects.filter(status__in=ENDED, **when)
        .order_by()
        .annotate(lag=lag)
        .values("status", "reason", d=_bucket("duration_seconds", DURATIONS), l=_bucket("lag", LAGS))
        .annotate(
            count=Count("pk"),
            duration=Sum(_milliseconds("duration_seconds")),
            waited=Sum(_milliseconds("lag")),
            rows=Sum("rows_count"),
            bytes=Sum("file_size"),
            times=Sum("occurrences"),
        )
    )
    found = _Ended()
    for group in groups:
        count = group["count"]
        found.states[group["status"]] += count
        if group["reason"]:
            found.reasons[group["reason"]] += count
        if group["d"] is not None:
            found.durations[group["d"]] += count
            found.duration_sum += int(group["duration"])
        if group["l"] is not None:
            found.lags[group["l"]] += count
            found.lag_sum += int(group["waited"])
        if group["status"] == Status.SUCCEEDED:
            found.rows += int(group["rows"] or 0)
            found.bytes += int(group["bytes"] or 0)
        elif group["status"] == Status.MISSED:
            found.missed += int(group["times"])
    return found


def _bucket(name: str, bounds: Sequence[float]) -> Case:
    """The number of the first of `bounds` that is not exceeded; NULL for NULL."""
    steps = [When(**{f"{name}__lte": bound}, then=Value(number)) for number, bound in enumerate(bounds)]
    above = When(**{f"{name}__gt": bounds[-1]}, then=Value(len(bounds)))
    return Case(*steps, above, output_field=IntegerField())


def _milliseconds(name: str) -> Cast:
    # Whole numbers: a sum of fractions depends on their order, and a counter must not become less by a millionth.
    return Cast(F(name) * 1000.0, BigIntegerField())


def _queue() -> Iterator[Family]:
    counts = dict(Execution.objects.unfinished().order_by().values_list("status").annotate(Count("pk")))
    for status in UNFINISHED:
        yield gauge(f"{PREFIX}executions_{status.value}", f"Executions that are {status.value}.", counts.get(status, 0))
    oldest = Execution.objects.ready().order_by("id").values_list(Coalesce("not_before", "queued_at"), flat=True)
    since = oldest.first()
    yield gauge(
        f"{PREFIX}queue_oldest_age_seconds",
        "For how long the first of the queue could have been started; 0 when nothing waits.",
        _age(since, timezone.now()) if since else 0,
    )


def _schedulers() -> Iterator[Family]:
    rows = SchedulerProcess.objects.filter(stopped_at=None, seen_at__gt=Now() - FORGOTTEN_AFTER).annotate(now=Now())
    age = gauge(f"{PREFIX}scheduler_heartbeat_age_seconds", "Since a scheduler gave its last sign of life.")
    workers = gauge(f"{PREFIX}scheduler_workers", "How many executions a scheduler runs at once.")
    busy = gauge(f"{PREFIX}scheduler_workers_busy", "How many of its workers are running one.")
    alive = 0
    row: Any  # with `now`
    for row in rows.order_by("name"):
        seconds = _age(row.seen_at, row.now)
        alive += seconds < SILENT_AFTER.total_seconds()
        age.add(seconds, scheduler=row.name)
        workers.add(row.workers, scheduler=row.name)
        busy.add(row.running, scheduler=row.name)
    yield gauge(f"{PREFIX}schedulers_alive", "Schedulers that live.", alive)
    yield from (age, workers, busy)


def _tasks() -> Iterator[Family]:
    enabled = Q(enabled=True)
    found = ExportTask.objects.aggregate(
        on=Count("pk", filter=enabled), off=Count("pk", filter=~enabled), coming=Min("next_run_at", filter=enabled)
    )
    tasks = gauge(f"{PREFIX}tasks", "Export tasks.")
    yield tasks.add(found["on"], enabled="true").add(found["off"], enabled="false")
    coming = found["coming"].timestamp() if found["coming"] else None
    yield gauge(f"{PREFIX}next_run_timestamp_seconds", "The next planned time of all tasks.", coming)
    yield gauge(f"{PREFIX}paused", "Whether all runs are paused.", int(Pause.objects.active().exists()))


def _deliveries() -> Iterator[Family]:
    rows = Delivery.objects.order_by()
    # `next_at` of one that is closed is when it was tried last: the index that finds what is due finds these, too.
    recent = rows.filter(status__in=CLOSED, next_at__gte=timezone.now() - RECENT)
    opened = dict(rows.filter(status__in=OPEN).values_list("status").annotate(Count("pk")))
    closed: Counter[str] = Counter()
    dead: Counter[str] = Counter()
    for status, reason, count in recent.values_list("status", "reason").annotate(Count("pk")):
        closed[status] += count
        if status == DeliveryStatus.DEAD:
            dead[reason] += count
    yield _by("deliveries_open", "Messages that are still to be sent, by state.", "state", opened, OPEN)
    yield _by("deliveries_recent", "Messages of the last 24 hours, by what became of them.", "state", closed, CLOSED)
    yield _by("deliveries_dead_recent", "Messages of the last 24 hours that were given up, by reason.", "reason", dead)


def _by(name: str, help: str, label: str, counts: Mapping[str, int], always: Sequence[str] = ()) -> Family:
    """A gauge with a sample for each of `counts`, and a 0 for those of `always` that are not among them."""
    family = gauge(f"{PREFIX}{name}", help)
    for key in dict.fromkeys([*map(str, always), *sorted(counts)]):
        family.add(counts.get(key, 0), **{label: key})
    return family


def _moment(name: str, help: str, rows: Any, column: str) -> Family:
    found = rows.values_list(column, flat=True).first()
    return gauge(f"{PREFIX}{name}", help, found.timestamp() if found else None)


def _age(since: datetime, now: datetime) -> float:
    return max(0.0, round((now - since).total_seconds(), 3))


def _disk() -> Iterator[Family]:
    free = gauge(f"{PREFIX}disk_free_bytes", "Free space where files are written, and where they are kept.")
    size = gauge(f"{PREFIX}disk_size_bytes", "Size of these file systems.")
    places = {"temp_dir": files.temp_root()}
    if settings.CONFIG.export.storage == storage.LOCAL:
        places["output_dir"] = files.output_root()
    for label, directory in places.items():
        try:
            usage = shutil.disk_usage(_nearest(directory))
        except OSError:
            continue
        free.add(usage.free, directory=label)
        size.add(usage.total, directory=label)
    yield from (free, size)
    needed = settings.CONFIG.export.min_free_disk
    yield gauge(f"{PREFIX}disk_needed_bytes", "Below so much free space no execution starts or goes on.", needed)


def _nearest(directory: Path) -> Path:
    """The directory, or the one that it will be made in."""
    return next(path for path in (directory, *directory.parents) if path.exists())


def _build_info() -> Family:
    family = gauge(f"{PREFIX}build_info", "What runs here; always 1.")
    return family.add(
        1,
        version=__version__,
        python=platform.python_version(),
        django=django.get_version(),
        database=connection.vendor,
    )


_PARTS: Sequence[Callable[[], Iterator[Family]]] = (_executions, _queue, _schedulers, _tasks, _deliveries)
