from typing import Any

from django.core.management.base import CommandParser
from django.utils.translation import gettext as _

from exporter_site.command import ExporterCommand, Failed
from tasks.watchdog import CrontabError, SafeCrontab


class Command(ExporterCommand):
    help = "The line in this user's crontab that starts a dead scheduler again: add, remove, show. For machines without systemd."

    def add_arguments(self, parser: CommandParser) -> None:
        verbs = parser.add_subparsers(dest="verb", required=True)
        verbs.add_parser("add", help="add the line, or bring it up to date")
        verbs.add_parser("remove", help="remove it; other lines stay as they are")
        verbs.add_parser("show", help="show it")
        run = verbs.add_parser("run", help="internal: what the line does")
        run.add_argument("job", help="its number in the settings, as a hash")

    def handle_add(self, options: dict[str, Any]) -> None:
        self._change(add=True)
        self.handle_show(options)

    def handle_remove(self, options: dict[str, Any]) -> None:
        self._change(add=False)
        self.say(_("The crontab has no line of this installation."))

    def handle_show(self, options: dict[str, Any]) -> None:
        try:
            with SafeCrontab(readonly=True) as crontab:
                lines = crontab.ours
        except CrontabError as exc:
            raise Failed(exc) from None
        for line in lines:
            self.say(line)
        if not lines:
            raise Failed(_("The crontab has no line of this installation."))

    def handle_run(self, options: dict[str, Any]) -> None:
        try:
            SafeCrontab(readonly=True).run_job(options["job"])
        except RuntimeError:
            raise Failed(_("This line of the crontab is out of date. Run “manage.py crontab add”.")) from None

    def _change(self, *, add: bool) -> None:
        try:
            with SafeCrontab() as crontab:
                crontab.remove_jobs()
                if add:
                    crontab.add_jobs()
        except CrontabError as exc:
            raise Failed(exc) from None
