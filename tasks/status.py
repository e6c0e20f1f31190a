"""How the system is: for `system status`, `scheduler status`, /healthz and the admin's banner."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db.models import Count, QuerySet
from django.utils import timezone
from django.utils.translation import gettext as _

from datasources.models import DataSource
from exporter_site.formats import human_size
from exporter_site.worker import local_pid
from notifications.models import Delivery
from tasks import files
from tasks.models import Execution, ExportTask, Pause, SchedulerProcess
from tasks.states import ENDED, UNFINISHED, Status

ENDED_BADLY = (Status.FAILED, Status.TIMED_OUT)


@dataclass(frozen=True, slots=True)
class NextRun:
    task: str
    at: datetime


@dataclass(frozen=True, slots=True)
class SystemStatus:
    """`today` counts the runs that ended since midnight, by state. `disk_free` is in bytes."""

    schedulers: list[SchedulerProcess]
    pause: Pause | None
    tasks: int
    tasks_enabled: int
    sources: int
    running: int
    queued: int
    today: dict[str, int]
    next_run: NextRun | None
    disk_free: int
    waiting: int  # messages
    undelivered: int  # messages that were given up since yesterday

    def problems(self) -> list[str]:
        """What somebody must do something about, in words; empty when all is well."""
        return _problems(alive=bool(self.schedulers), disk_free=self.disk_free, undelivered=self.undelivered)

    def lines(self) -> Iterator[str]:
        for scheduler in self.schedulers:
            yield _("Scheduler: {name}, {running} of {workers} workers busy").format(
                name=scheduler.name, running=scheduler.running, workers=scheduler.workers
            )
        if self.pause:
            yield (
                _("Paused since {when} by {who}. {note}")
                .format(when=local(self.pause.begun_at), who=self.pause.begun_by, note=self.pause.note)
                .strip()
            )
        yield _("Tasks: {enabled} enabled of {count}; data sources: {sources}").format(
            enabled=self.tasks_enabled, count=self.tasks, sources=self.sources
        )
        yield _("Executions: {running} running, {queued} queued").format(running=self.running, queued=self.queued)
        ended = sum(self.today.get(status, 0) for status in (Status.SUCCEEDED, *ENDED_BADLY))
        yield _("Today: {good} of {ended} succeeded").format(good=self.today.get(Status.SUCCEEDED, 0), ended=ended)
        yield _("Messages: {waiting} waiting, {undelivered} not delivered since yesterday").format(
            waiting=self.waiting, undelivered=self.undelivered
        )
        if self.next_run:
            yield _("Next run: {when} “{task}”").format(when=local(self.next_run.at), task=self.next_run.task)
        else:
            yield _("Next run: none is planned")
        yield _("Free disk space: {free}").format(free=human_size(self.disk_free))

    def as_json(self) -> dict[str, Any]:
        names = ("name", "started_at", "seen_at", "executor", "workers", "running")
        return {
            "healthy": not self.problems(),
            "problems": self.problems(),
            "schedulers": [{name: getattr(scheduler, name) for name in names} for scheduler in self.schedulers],
            "paused": bool(self.pause),
            "tasks": self.tasks,
            "tasks_enabled": self.tasks_enabled,
            "data_sources": self.sources,
            "running": self.running,
            "queued": self.queued,
            "today": self.today,
            "next_run": {"task": self.next_run.task, "at": self.next_run.at} if self.next_run else None,
            "disk_free": self.disk_free,
            "messages_waiting": self.waiting,
            "messages_undelivered": self.undelivered,
        }


def system() -> SystemStatus:
    midnight = timezone.localtime().replace(hour=0, minute=0, second=0, microsecond=0)
    unfinished = _by_status(Execution.objects.unfinished())
    today = _by_status(Execution.objects.filter(status__in=ENDED, finished_at__gte=midnight))
    first = ExportTask.objects.filter(enabled=True, next_run_at__isnull=False).order_by("next_run_at").first()
    return SystemStatus(
        schedulers=list(SchedulerProcess.objects.alive()),
        pause=Pause.objects.active().first(),
        tasks=ExportTask.objects.count(),
        tasks_enabled=ExportTask.objects.filter(enabled=True).count(),
        sources=DataSource.objects.filter(is_active=True).count(),
        running=unfinished.get(Status.RUNNING, 0),
        queued=unfinished.get(Status.QUEUED, 0),
        today=today,
        next_run=NextRun(first.name, first.next_run_at) if first and first.next_run_at else None,
        disk_free=files.free_bytes(),
        waiting=Delivery.objects.waiting().count(),
        undelivered=Delivery.objects.undelivered().count(),
    )


def for_api(user: Any) -> dict[str, Any]:
    """What GET /api/status tells `user`: counts of what there is for that user, and how the scheduler is."""
    now = timezone.now()
    alive = list(SchedulerProcess.objects.alive())
    first = alive[0] if alive else None
    tasks, runs = ExportTask.objects.for_user(user), Execution.objects.for_user(user)
    unfinished = _by_status(runs.filter(status__in=UNFINISHED))
    ended = _by_status(
        runs.filter(finished_at__gte=now - timedelta(days=1), status__in=(Status.SUCCEEDED, *ENDED_BADLY))
    )
    planned = tasks.filter(enabled=True, next_run_at__isnull=False).order_by("next_run_at")
    return {
        "scheduler": {
            "alive": bool(alive),
            "pid": local_pid(first.name) if first else None,
            "uptime_seconds": int((now - first.started_at).total_seconds()) if first else None,
            "heartbeat_at": first.seen_at if first else None,
            "running": unfinished.get(Status.RUNNING, 0),
            "queued": unfinished.get(Status.QUEUED, 0),
            "next_run_at": planned.values_list("next_run_at", flat=True).first(),
        },
        "tasks": tasks.count(),
        "data_sources": DataSource.objects.for_user(user).filter(is_active=True).count(),
        "last_day": {"succeeded": ended.get(Status.SUCCEEDED, 0), "ended": sum(ended.values())},
        "disk": {"free": files.free_bytes(), "needed": settings.CONFIG.export.min_free_disk},
    }


def _by_status(executions: QuerySet[Execution]) -> dict[str, int]:
    return dict(executions.order_by().values_list("status").annotate(Count("pk")))


def local(moment: datetime) -> str:
    return timezone.localtime(moment).strftime("%Y-%m-%d %H:%M:%S %Z")


def problems(user: Any = None) -> list[str]:
    """SystemStatus.problems() without looking at anything else. To `user` only those messages count that are theirs to
    see."""
    undelivered = Delivery.objects.undelivered()
    return _problems(
        alive=SchedulerProcess.objects.alive().exists(),
        disk_free=files.free_bytes(),
        undelivered=(undelivered if user is None else undelivered.for_user(user)).count(),
    )


def _problems(*, alive: bool, disk_free: int, undelivered: int) -> list[str]:
    found = []
    if not alive:
        found.append(_("No scheduler is running: nothing starts by itself. Run “manage.py scheduler start”."))
    if disk_free < settings.CONFIG.export.min_free_disk:
        found.append(
            _("Only {free} of disk are free: exports are refused. Free space, or lower export.retention_days.").format(
                free=human_size(disk_free)
            )
        )
    if undelivered:
        found.append(
            _(
                "{count} messages were not delivered since yesterday: see “Deliveries”, mend the cause, send again."
            ).format(count=undelivered)
        )
    return found
