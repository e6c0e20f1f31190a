"""What watches a run while its rows flow, and then while its files are on their way.

It sleeps most of the time (a busy thread beside the driver would slow it 50 times), beats the heart, watches deadline,
stall, disk and memory, and answers signals at once although the driver may wait for its server for hours.
"""

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import InterfaceError, OperationalError, close_old_connections

from tasks import files
from tasks.models import Execution
from tasks.patience import patiently
from tasks.pipeline import Pipeline
from tasks.publication import Publication

logger = logging.getLogger(__name__)

TICK = 0.2  # seconds between two looks
HEARTBEAT = 1.0  # seconds; also how often progress is stored
SELF_FENCE = 40.0  # seconds without a heartbeat after which a worker must not go on
FRESH = 5.0  # seconds after a heartbeat in which nobody can have taken the run over


@dataclass(frozen=True, slots=True)
class Progress:
    rows: int = 0
    bytes: int = 0
    elapsed: float = 0.0  # seconds

    @property
    def rate(self) -> float:
        """Rows per second since the start."""
        return self.rows / self.elapsed if self.elapsed > 0 else 0.0


class Supervisor:
    """Watches a pipeline, and then the publication of its files, until they are done, and stops them when it has to.

    `lost`: another worker has taken the run over. `fenced`: it may have, as far as can be known from here.
    """

    def __init__(
        self, execution: Execution, pipeline: Pipeline, on_progress: Callable[[Progress], None] | None
    ) -> None:
        self.execution = execution
        self.pipeline = pipeline
        self.publication: Publication | None = None
        self.stop_reason = ""
        self.lost = self.fenced = False
        self._on_progress = on_progress
        self._signalled = ""
        self._started = self._beaten = self._moved = time.monotonic()
        self._last_beat = 0.0
        self._seen = (0, 0)  # rows and signs of life of the source

    @contextmanager
    def signals_answered(self) -> Iterator[None]:
        """SIGINT cancels the run, SIGTERM interrupts it; a second signal acts as it did before."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

        def note(number: int, frame: Any) -> None:
            self._signalled = "cancelled" if number == signal.SIGINT else "interrupted"
            signal.signal(number, before[signal.Signals(number)])

        for number in before:
            signal.signal(number, note)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @property
    def has_stopped(self) -> bool:
        return self.lost or self.fenced or bool(self.stop_reason)

    def watch(self, job: Pipeline | Publication) -> None:
        """Return when `job` has ended, by itself or because it was stopped."""
        threading.Thread(target=copy_context().run, args=(self._fence, job), name="fence", daemon=True).start()
        while not job.done.wait(TICK):
            self._beat()
            self._report()
            reason = self._reason_to_stop(reading=job is self.pipeline)
            if reason:
                self._stop(job, reason)
                return
        self._report()

    def _fence(self, job: Pipeline | Publication) -> None:
        """Stop `job` after SELF_FENCE without a heartbeat. In a thread of its own: the one that beats may be waiting for a
        database that does not answer."""
        while not job.done.wait(max(0.0, self._beaten + SELF_FENCE - time.monotonic())):
            if time.monotonic() - self._beaten >= SELF_FENCE:
                self.fenced = True
                job.cancel()
                return

    def _stop(self, job: Pipeline | Publication, reason: str) -> None:
        self.stop_reason = reason
        logger.info("execution %s is stopped: %s", self.execution.pk, reason)
        job.cancel()
        if not job.done.wait(job.patience):
            logger.error("execution %s: the other side did not let go", self.execution.pk)

    def _reason_to_stop(self, *, reading: bool) -> str:
        task = self.execution.task
        assert task is not None
        now = time.monotonic()
        elapsed = now - self._started
        if self.lost or self.fenced:
            return "fenced"
        if self._signalled:
            return self._signalled
        if reading and elapsed > task.query_timeout:
            return "query_timeout"
        if elapsed > task.task_timeout:
            return "task_timeout"
        seen = (self.pipeline.rows, self.pipeline.connector.activity)
        if seen != self._seen:
            self._seen, self._moved = seen, now
        # Before the first row a server may think for hours; only the deadline counts then.
        elif reading and any(seen) and now - self._moved > settings.CONFIG.export.stall_timeout:
            return "stalled"
        if resident_bytes() > settings.CONFIG.export.memory_limit:
            return "out_of_memory"
        if now - self._last_beat < TICK:  # with the heartbeat, once a second
            if reading and files.free_bytes() < settings.CONFIG.export.min_free_disk:
                return "disk_full"
            if self._cancel_requested():
                return "cancelled"
        return ""

    def _beat(self) -> None:
        now = time.monotonic()
        if now - self._last_beat < HEARTBEAT:
            return
        self._last_beat = now
        try:
            self._renew_lease()
        except (OperationalError, InterfaceError) as exc:
            logger.warning("execution %s could not store its heartbeat: %s", self.execution.pk, exc)
            close_old_connections()

    def _renew_lease(self) -> None:
        now = time.monotonic()
        progress = self.progress()
        stored = {"rows": progress.rows, "bytes": progress.bytes, "rate": round(progress.rate)}
        if self.publication is not None:
            stored["uploaded"] = self.publication.bytes
        self.lost = not Execution.objects.heartbeat(self.execution, stored, self.pipeline.backend_id)
        self._beaten = now

    def make_sure(self) -> None:
        """Ask before the file becomes visible, unless a heartbeat has just said so, whether the run is still ours."""
        if time.monotonic() - self._beaten > FRESH:
            try:
                patiently(self.execution.pk, self._renew_lease)
            except (OperationalError, InterfaceError):
                self.fenced = True

    def _cancel_requested(self) -> bool:
        try:
            return Execution.objects.cancel_requested(self.execution)
        except (OperationalError, InterfaceError):
            return False  # asked again in a second

    def _report(self) -> None:
        if self._on_progress:
            self._on_progress(self.progress())

    def progress(self) -> Progress:
        return Progress(self.pipeline.rows, self.pipeline.bytes, time.monotonic() - self._started)


def resident_bytes() -> int:
    """Memory that this process holds now; 0 where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * 4096
