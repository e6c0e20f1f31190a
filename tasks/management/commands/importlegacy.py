from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from django.core.management.base import CommandParser
from django.utils import dateformat
from django.utils.translation import gettext as _

from exporter_site.command import ExporterCommand, Failed
from tasks import legacy
from tasks.legacy_cron import WeekdayBase
from tasks.transfer import TransferError


class Command(ExporterCommand):
    help = "Takes over the older system's tasks from a dump of them: YAML, JSON or CSV (UTF-8 or GBK)."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("file", type=Path)
        parser.add_argument(
            "--weekday-base",
            choices=[base.value for base in WeekdayBase],
            help="who counts the weekdays that are numbers: apscheduler (0 is Monday) or cron (0 is Sunday)",
        )
        parser.add_argument("--dry-run", action="store_true", help="only show what would change")
        self.add_json(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        base = WeekdayBase(options["weekday_base"]) if options["weekday_base"] else None
        try:
            imported = legacy.load(options["file"], base, dry_run=options["dry_run"])
        except TransferError as exc:
            raise Failed(exc) from None
        if options["as_json"]:
            self.print_json([_as_json(task) for task in imported])
            return
        for task in imported:
            self._show(task)
        done = _("{count} tasks would change.") if options["dry_run"] else _("{count} tasks changed.")
        self.say(done.format(count=sum(task.change is not None for task in imported)))

    def _show(self, task: legacy.Imported) -> None:
        if task.change is None:
            self.say(f"= {task.name}")
        else:
            for line in task.change.lines():
                self.say(line)
        if not task.legacy_cron:
            return
        self.say("    " + _("schedule: {before} → {after}").format(before=task.legacy_cron, after=task.cron))
        zone = ZoneInfo(task.timezone)
        for head, runs in ((_("next runs there"), task.before), (_("next runs here"), task.after)):
            self.say(
                f"    {head}: " + ", ".join(dateformat.format(run.astimezone(zone), "Y-m-d H:i D") for run in runs)
            )


def _as_json(task: legacy.Imported) -> dict[str, Any]:
    names = ("row", "name", "legacy_cron", "cron", "timezone", "before", "after")
    return {name: getattr(task, name) for name in names} | {
        "change": None if task.change is None else task.change.as_json()
    }
