import signal
import threading
from typing import Any

from django.core.management.base import CommandParser
from django.db import Error, close_old_connections
from django.utils import timezone
from django.utils.translation import gettext as _

from exporter_site.command import ExporterCommand, Failed, WrongUse
from exporter_site.formats import human_duration, human_size
from exporter_site.redact import redact
from tasks import daemon, status
from tasks.models import Execution, Pause


class Command(ExporterCommand):
    help = "The scheduler in the background: start, stop, restart, status, monitor; pause and resume all runs."

    def add_arguments(self, parser: CommandParser) -> None:
        verbs = parser.add_subparsers(dest="verb", required=True)
        start = verbs.add_parser("start", help="start it in the background")
        start.add_argument("--foreground", action="store_true", help="in this terminal, until Ctrl-C")
        verbs.add_parser("stop", help="stop it, after the exports that are running (Ctrl-C: at once)")
        verbs.add_parser("restart", help="stop, then start")
        self.add_json(verbs.add_parser("status", help="process, figures, next run, log files"))
        monitor = verbs.add_parser("monitor", help="start it again whenever it is dead or silent")
        monitor.add_argument("--interval", type=int, default=60, help="seconds between two looks")
        monitor.add_argument("--once", action="store_true", help="look once, for cron")
        pause = verbs.add_parser("pause", help="start no runs until resume, for maintenance")
        pause.add_argument("--note", default="", help="why, for the others")
        verbs.add_parser("resume", help="start runs again")

    def handle_start(self, options: dict[str, Any]) -> None:
        try:
            if options["foreground"]:
                daemon.become_the_scheduler()
            pid = daemon.start()
        except daemon.DaemonError as exc:
            raise Failed(exc) from None
        self.say(_("The scheduler was started (PID {pid}).").format(pid=pid))

    def handle_stop(self, options: dict[str, Any]) -> None:
        try:
            pid = daemon.stop(self._say_what_runs())
        except daemon.DaemonError as exc:
            raise Failed(exc) from None
        if pid is None:
            self.say(_("The scheduler is not running."))
        else:
            self.say(_("The scheduler was stopped (PID {pid}).").format(pid=pid))

    def handle_restart(self, options: dict[str, Any]) -> None:
        self.handle_stop(options)
        self.handle_start({"foreground": False})

    def handle_status(self, options: dict[str, Any]) -> None:
        process, found = daemon.facts(), status.system()
        if options["as_json"]:
            facts = {name: getattr(process, name) for name in process.__slots__} if process else None
            files = [{"path": str(path), "size": size, "changed_at": at} for path, size, at in daemon.logs()]
            self.print_json({"process": facts, **found.as_json(), "logs": files})
        else:
            if process:
                self.say(_("Scheduler process: running (PID {pid})").format(pid=process.pid))
                self.say(_("  CPU: {cpu} %").format(cpu=process.cpu))
                self.say(_("  Memory: {memory}").format(memory=human_size(process.memory)))
                self.say(_("  Started at: {when}").format(when=status.local(process.started_at)))
                self.say(_("  Uptime: {duration}").format(duration=human_duration(process.uptime)))
            else:
                self.say(_("Scheduler process: not started by “scheduler start” on this machine"))
            for line in found.lines():
                self.say(line)
            for path, size, at in daemon.logs():
                self.say(
                    _("Log file {path}: {size}, last line {when}").format(
                        path=path, size=human_size(size), when=status.local(at)
                    )
                )
        if process and not daemon.is_seen(process.pid) and not found.schedulers:
            raise Failed(
                _(
                    "The scheduler (PID {pid}) gives no sign of life. “manage.py scheduler monitor --once” looks after it."
                ).format(pid=process.pid)
            )
        if problems := found.problems():
            raise Failed(" ".join(problems))

    def handle_monitor(self, options: dict[str, Any]) -> None:
        if options["interval"] < 1:
            raise WrongUse(_("--interval must be at least 1."))
        # A flag and no exception: that could come at a line where nobody hears it.
        interrupted = threading.Event()
        signal.signal(signal.SIGINT, lambda number, frame: interrupted.set())
        start_stopped = True  # Who calls it wants one; who stops it afterwards wants none.
        while True:
            try:
                done = daemon.watch(start_stopped=start_stopped)
                start_stopped = False
            except (daemon.DaemonError, Error) as exc:
                if options["once"]:
                    raise Failed(redact(str(exc)).strip()) from exc
                done = redact(str(exc)).strip()  # Next time it may be different.
            if done:
                self.say(f"{status.local(timezone.now())} {done}")
            if options["once"]:
                return
            if interrupted.wait(options["interval"]):
                raise KeyboardInterrupt

    def handle_pause(self, options: dict[str, Any]) -> None:
        if len(options["note"]) > (most := Pause._meta.get_field("note").max_length or 0):
            raise WrongUse(_("--note may have at most {count} characters.").format(count=most))
        if not Pause.objects.begin(_("command line"), options["note"]):
            raise Failed(_("All runs are paused already."))
        self.say(_("Paused: nothing is started until “manage.py scheduler resume”. Running exports go on."))

    def handle_resume(self, options: dict[str, Any]) -> None:
        if not Pause.objects.end(_("command line")):
            raise Failed(_("Nothing is paused."))
        self.say(_("Runs are started again."))

    def _say_what_runs(self) -> Any:
        told = False

        def say() -> None:
            nonlocal told
            if told:
                return
            try:
                running = Execution.objects.running().count()
            except Error:
                close_old_connections()
                return  # A stop needs no database.
            if running:
                told = True
                self.say(
                    _("Waiting for exports that are running ({count}). Ctrl-C stops them, too.").format(count=running)
                )

        return say
