import signal
import time
from collections.abc import Callable
from typing import Any

from django.conf import settings
from django.core.management.base import CommandParser
from django.utils.translation import gettext as _

from exporter_site.command import ExporterCommand, Failed, WrongUse
from exporter_site.systemd import notify
from tasks.executors import executors
from tasks.executors.base import ExecutorError
from tasks.scheduler import Scheduler

PAUSE = 0.5  # seconds between two steps, unless a run ends before
STOPPING = 10.0  # seconds that exports get to stop before the scheduler leaves them
SENDING = 20.0  # seconds that messages on their way get to arrive; what is cut off goes out again, marked


class Command(ExporterCommand):
    help = "Starts due and queued runs until it is told to stop. SIGTERM: no new runs, wait for the running ones."

    stopping = 0

    def add_arguments(self, parser: CommandParser) -> None:
        configured = settings.CONFIG.scheduler
        parser.add_argument("--workers", type=int, default=configured.max_workers)
        parser.add_argument("--executor", default=configured.executor, help=", ".join(executors))
        parser.add_argument("--once", action="store_true", help="do what is due now, wait for it, and end")

    def handle(self, *args: Any, **options: Any) -> None:
        if options["workers"] < 1:
            raise WrongUse(_("--workers must be at least 1."))
        if options["executor"] not in executors:
            raise WrongUse(
                _("There is no executor “{name}” in this version. Known are: {known}.").format(
                    name=options["executor"], known=", ".join(executors)
                )
            )
        try:
            executor = executors.get(options["executor"])()
        except ImportError as exc:
            raise Failed(
                _(
                    "The executor “{name}” needs packages that are not installed ({error}): pip install -r {file}"
                ).format(name=options["executor"], error=exc, file="requirements-celery.txt")
            ) from None
        except ExecutorError as exc:
            raise Failed(exc) from None
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        scheduler = Scheduler(options["workers"], executor)
        self.say(_("Scheduler started, {workers} workers.").format(workers=scheduler.workers))
        if scheduler.executor.kind == "inline":
            notify("WATCHDOG_USEC=0")  # an export is one long step there
        while not self.stopping:
            done = scheduler.step()
            notify("READY=1", "WATCHDOG=1")
            busy = scheduler.executor.running or scheduler.outbox.in_flight
            if options["once"] and not done and not busy and not scheduler.deliver():
                break
            scheduler.executor.wait(PAUSE)
        notify("STOPPING=1")
        self._drain(scheduler)
        scheduler.finish(SENDING)
        self.say(_("Scheduler stopped."))

    def _stop(self, number: int, frame: Any) -> None:
        self.stopping += 1

    def _drain(self, scheduler: Scheduler) -> None:
        """Let running exports finish; after drain_timeout, or at the second signal, put them back into the queue."""
        end = time.monotonic() + settings.CONFIG.scheduler.drain_timeout
        self._wait(scheduler, lambda: self.stopping < 2 and time.monotonic() < end)
        if scheduler.executor.running:
            scheduler.executor.stop()
            end = time.monotonic() + STOPPING
            self._wait(scheduler, lambda: time.monotonic() < end)

    def _wait(self, scheduler: Scheduler, may_go_on: Callable[[], bool]) -> None:
        while scheduler.executor.running and may_go_on():
            scheduler.care()
            notify("WATCHDOG=1")
            scheduler.executor.wait(0.1)
