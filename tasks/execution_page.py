"""What the page of one run shows, as figures and words: for templates/admin/tasks/execution/."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any

from django.db.models import QuerySet
from django.urls import reverse
from django.utils import timezone
from django.utils.functional import Promise
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _

from exporter_site.formats import human_size
from notifications.admin import COLOURS, recipient_lines, state_words
from notifications.messages import Event
from notifications.models import Delivery
from tasks import reasons
from tasks.download_admin import reader_of
from tasks.downloads import has_files
from tasks.models import Download, DownloadLink, Execution, ExportTask, Pause, SchedulerProcess
from tasks.states import Overlap, Status
from tasks.writers.base import FIDELITY

SEE_SQL = "tasks.view_sql"
OPERATE = "tasks.run_exporttask"
MOST_SHOWN = 20  # links and downloads
# Milliseconds from one look to the next.
SOON, LATER, MUCH_LATER = 800, 3000, 15000
FRESH = timedelta(minutes=2)  # after its end, what messages become is worth looking at often
ICONS = {
    Status.QUEUED: "hourglass_empty",
    Status.RUNNING: "play_circle",
    Status.SUCCEEDED: "check_circle",
    Status.FAILED: "error",
    Status.TIMED_OUT: "timer_off",
    Status.CANCELLED: "cancel",
    Status.MISSED: "event_busy",
    Status.SKIPPED: "skip_next",
}
STATUS_COLOURS = {
    Status.QUEUED.value: "info",
    Status.RUNNING.value: "primary",
    Status.SUCCEEDED.value: "success",
    Status.FAILED.value: "danger",
    Status.TIMED_OUT.value: "danger",
    Status.CANCELLED.value: "warning",
    Status.MISSED.value: "warning",
    Status.SKIPPED.value: "warning",
}


@dataclass(frozen=True, slots=True)
class Message:
    """One message of the run: `recipients` is a line of HTML for each of them."""

    pk: int
    url: str
    channel: str
    event: str
    state: str
    colour: str
    reason: str
    recipients: str | SafeString
    is_open: bool  # on its way
    may_be_sent: bool


@dataclass(frozen=True, slots=True)
class Attempt:
    number: int
    started_at: datetime | None
    ended_at: datetime
    reason: str | Promise
    error: str  # "" for who may not see the database's words
    worker: str


@dataclass(frozen=True, slots=True)
class Part:
    """A file of the run as it was written; `url` is "" when it can't be fetched."""

    name: str
    rows: int
    size: int
    url: str


def elapsed_of(execution: Execution, now: datetime) -> float:
    """Seconds that the run has been going on, or took."""
    if execution.duration_seconds is not None:
        return execution.duration_seconds
    return max(0.0, (now - execution.started_at).total_seconds()) if execution.started_at else 0.0


class RunPage:
    """`execution` as `user` may see it. What needs a query of its own is looked up when a template first asks for it."""

    def __init__(self, execution: Execution, user: Any) -> None:
        self.execution = execution
        self.now = timezone.now()
        self.zone = timezone.get_current_timezone_name()
        self.sees_sql = user.has_perm(SEE_SQL)
        self.may_operate = user.has_perm(OPERATE)
        self._user = user

    @property
    def icon(self) -> str:
        return ICONS[Status(self.execution.status)]

    @property
    def colour(self) -> str:
        return STATUS_COLOURS[self.execution.status]

    @property
    def is_live(self) -> bool:
        return not self.execution.is_finished

    @property
    def wait(self) -> int:
        """Milliseconds until it is worth looking again; 0 when nothing changes any more."""
        if self.is_live:
            return SOON
        ended = self.execution.finished_at
        if not any(message.is_open for message in self.messages):
            return 0
        return LATER if ended and self.now - ended < FRESH else MUCH_LATER

    # What may be done

    @property
    def is_being_cancelled(self) -> bool:
        return self.is_live and self.execution.cancel_requested_at is not None

    @property
    def may_cancel(self) -> bool:
        return self.may_operate and self.is_live and not self.is_being_cancelled

    @property
    def may_run_again(self) -> bool:
        return self.may_operate and not self.is_live and self._has_task

    @property
    def task_url(self) -> str:
        """ "" when the task is gone, or not there for the user."""
        if not self._user.has_perm("tasks.view_exporttask") or not self._has_task:
            return ""
        return reverse("admin:tasks_exporttask_change", args=[self.execution.task_id])

    @cached_property
    def _has_task(self) -> bool:
        if self.execution.task_id is None:
            return False
        # It may read another source by now, which is not granted.
        return ExportTask.objects.for_user(self._user).filter(pk=self.execution.task_id).exists()

    @property
    def may_send_again(self) -> bool:
        return self.may_operate and not self.is_live and any(message.may_be_sent for message in self.messages)

    @cached_property
    def may_download(self) -> bool:
        return self._user.has_perm("tasks.download_execution") and has_files(self.execution)

    # How it stands

    @property
    def phase(self) -> str:
        """What happens at the moment."""
        execution = self.execution
        if self.is_being_cancelled:
            return _("It is being cancelled.")
        if execution.status == Status.RUNNING:
            if "uploaded" in execution.progress:
                return _("The file goes into the object storage: {done} of {all}.").format(
                    done=human_size(execution.progress["uploaded"]), all=human_size(execution.progress["bytes"])
                )
            if execution.progress.get("rows"):
                return _("Rows are read and written to the file.")
            return _("The query runs; the database has sent no row yet.")
        if execution.not_before and execution.not_before > self.now:
            when = timezone.localtime(execution.not_before).strftime("%H:%M:%S")
            return _("It is tried again after {when}.").format(when=when)
        if Pause.objects.active().exists():
            return _("Nothing is started until somebody resumes.")
        if not SchedulerProcess.objects.alive().exists():
            return _("No scheduler runs, so nothing is started.")
        return self._waits_for()

    def _waits_for(self) -> str:
        """What keeps a queued run from starting while a scheduler lives."""
        running, task, source = Execution.objects.running(), self.execution.task, self.execution.data_source
        before = running.filter(task=task).exclude(slot_key=None)
        if task is not None and task.overlap != Overlap.PARALLEL and before.exists():
            return _("It waits for the end of the task's run before it.")
        if source is not None and running.filter(data_source=source).count() >= source.max_concurrency:
            return _("It waits for its data source, which is read by as many exports as may be at once.")
        return _("It waits for a free worker.")

    @property
    def waited(self) -> float:
        """Seconds since it was queued."""
        return max(0.0, (self.now - self.execution.queued_at).total_seconds())

    @property
    def elapsed(self) -> float:
        return elapsed_of(self.execution, self.now)

    @property
    def progress(self) -> dict[str, int]:
        return {name: self.execution.progress.get(name) or 0 for name in ("rows", "rate", "bytes")}

    @property
    def rate(self) -> int | None:
        """Rows a second over the whole run, when there are figures for one."""
        rows, seconds = self.execution.rows_count, self.execution.duration_seconds
        return round(rows / seconds) if rows and seconds else None

    @property
    def box(self) -> str:
        """The colour of the words about the end: "" when there is nothing to say."""
        if not self.execution.reason:
            return ""
        if self.is_live:
            return "warn"
        return "bad" if self.execution.status in (Status.FAILED, Status.TIMED_OUT) else "warn"

    @property
    def error(self) -> str:
        return self.execution.error if self.sees_sql else ""

    @property
    def fidelity(self) -> list[tuple[int, str | Promise]]:
        return [(count, FIDELITY.get(code, code)) for code, count in self.execution.fidelity.items()]

    @property
    def attempts(self) -> list[Attempt]:
        return [
            Attempt(
                number=entry["attempt"],
                started_at=datetime.fromisoformat(entry["started_at"]) if entry.get("started_at") else None,
                ended_at=datetime.fromisoformat(entry["ended_at"]),
                reason=reasons.sentence(entry["reason"]),
                error=entry["error"] if self.sees_sql else "",
                worker=entry.get("worker", ""),
            )
            for entry in self.execution.history
        ]

    # What came of it

    @property
    def parts(self) -> list[Part]:
        several = len(self.execution.files) > 1
        address = reverse("tasks:download", args=[self.execution.pk])
        return [
            Part(
                name=part["path"].rpartition("/")[2],
                rows=part["rows"],
                size=part["size"],
                url=(f"{address}?part={number}" if several else address) if self.may_download else "",
            )
            for number, part in enumerate(self.execution.files, start=1)
        ]

    @cached_property
    def messages(self) -> list[Message]:
        if not self._user.has_perm("notifications.view_delivery"):
            return []
        rows = self.execution.deliveries.defer("payload", "history").order_by("pk")
        return [self._message(delivery) for delivery in rows]

    def _message(self, delivery: Delivery) -> Message:
        ended = delivery.is_finished and delivery.event != Event.UNDELIVERED
        missing = not delivery.recipients or len(delivery.reached) < len(delivery.recipients)
        return Message(
            pk=delivery.pk,
            url=reverse("admin:notifications_delivery_change", args=[delivery.pk]),
            channel=delivery.channel_name,
            event=str(delivery.get_event_display()),
            state=state_words(delivery),
            colour=COLOURS[delivery.status] if delivery.status != "cancelled" else "default",
            reason=delivery.reason_sentence,
            recipients=recipient_lines(delivery),
            is_open=not delivery.is_finished,
            may_be_sent=self.may_operate and ended and missing,
        )

    @cached_property
    def links(self) -> list[DownloadLink]:
        return self._newest("tasks.view_downloadlink", self.execution.links.select_related("revoked_by"))

    @cached_property
    def downloads(self) -> list[tuple[Download, str]]:
        rows: list[Download] = self._newest("tasks.view_download", self.execution.downloads.select_related("link"))
        return [(row, reader_of(row)) for row in rows]

    @property
    def downloads_url(self) -> str:
        return f"{reverse('admin:tasks_download_changelist')}?execution__id__exact={self.execution.pk}"

    def _newest(self, right: str, rows: QuerySet[Any]) -> list[Any]:
        found: Iterable[Any] = rows.order_by("-pk")[:MOST_SHOWN] if self._user.has_perm(right) else ()
        return list(found)
