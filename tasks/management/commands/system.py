from typing import Any

from django.core.management.base import CommandParser
from django.utils.translation import gettext as _

from exporter_site.command import ExporterCommand, Failed, WrongUse
from exporter_site.formats import human_size
from tasks import status
from tasks.housekeeping import Removed, housework


class Command(ExporterCommand):
    help = "The whole system: status, cleanup."

    def add_arguments(self, parser: CommandParser) -> None:
        verbs = parser.add_subparsers(dest="verb", required=True)
        self.add_json(verbs.add_parser("status", help="is everything well, and what is going on"))
        cleanup = verbs.add_parser("cleanup", help="remove old logs and files, and what dead runs left")
        cleanup.add_argument("--days", type=int, help="older than so many days; export.retention_days when left out")
        cleanup.add_argument("--dry-run", action="store_true", help="only say what would be removed")
        self.add_json(cleanup)

    def handle_status(self, options: dict[str, Any]) -> None:
        found = status.system()
        if options["as_json"]:
            self.print_json(found.as_json())
        else:
            for line in found.lines():
                self.say(line)
        if problems := found.problems():
            raise Failed(" ".join(problems))

    def handle_cleanup(self, options: dict[str, Any]) -> None:
        if options["days"] is not None and options["days"] < 1:
            raise WrongUse(_("--days must be at least 1."))
        removed = Removed()
        for _piece in housework(options["days"], dry_run=options["dry_run"], removed=removed):
            pass
        if options["as_json"]:
            self.print_json({name: getattr(removed, name) for name in Removed.__slots__})
            return
        if options["dry_run"]:
            self.say(_("This would be removed:"))
        self.say(_("Files of executions: {count}, {size}").format(count=removed.files, size=human_size(removed.bytes)))
        self.say(_("Log entries: {count}").format(count=removed.rows))
        self.say(_("Unfinished files of dead runs: {count}").format(count=removed.leftovers))
        self.say(_("Files that no log entry knows, set aside: {count}").format(count=removed.orphans))
        self.say(_("Files that were set aside a week ago: {count}").format(count=removed.discarded))
