import signal
import time
from typing import Any

from django.conf import settings
from django.core.management.base import CommandParser
from django.db import close_old_connections
from django.utils.translation import gettext as _

from exporter_site.command import ExporterCommand, Failed, WrongUse
from tasks.scheduler import Scheduler

PAUSE = 0.5  # seconds between two ticks


class Command(ExporterCommand):
    help = "Starts due and queued runs until it is told to stop. SIGTERM: no new runs, wait for the running ones."

    stopping = 0

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--workers", type=int, default=settings.CONFIG.scheduler.max_workers)
        parser.add_argument("--once", action="store_true", help="do what is due now, wait for it, and end")

    def handle(self, *args: Any, **options: Any) -> None:
        if options["workers"] < 1:
            raise WrongUse(_("--workers must be at least 1."))
        if settings.CONFIG.scheduler.executor != "local":
            raise Failed(_("scheduler.executor: celery is not available in this version. Use local."))
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        scheduler = Scheduler(options["workers"])
        self.say(_("Scheduler started, {workers} workers.").format(workers=scheduler.workers))
        while not self.stopping:
            scheduler.tick()
            if options["once"]:
                break
            time.sleep(PAUSE)
            close_old_connections()
        self._drain(scheduler)

    def _stop(self, number: int, frame: Any) -> None:
        self.stopping += 1

    def _drain(self, scheduler: Scheduler) -> None:
        """Let running exports finish; after drain_timeout, or at the second signal, stop them."""
        give_up_at = time.monotonic() + settings.CONFIG.scheduler.drain_timeout
        while scheduler.running and self.stopping < 2 and time.monotonic() < give_up_at:
            scheduler.collect()
            time.sleep(0.1)
        scheduler.stop_workers()
        self.say(_("Scheduler stopped."))
