from typing import Any

from django.conf import settings
from django.core.management.base import CommandParser
from django.utils import timezone
from django.utils.translation import gettext as _

from exporter_site.command import ExporterCommand
from exporter_site.config import resolve
from tasks import demo


class Command(ExporterCommand):
    help = "Makes what is missing of the demonstration: a shop's database, its data source, three tasks."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--refresh", action="store_true", help="make the shop's database anew, with orders up to yesterday"
        )
        self.add_json(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        # Beside the system database: data/ unless config.yaml says otherwise.
        file = resolve(settings.CONFIG.system_database.sqlite_path).parent / "demo_shop.db"
        loaded = demo.load(file, timezone.localdate(), refresh=options["refresh"])
        if options["as_json"]:
            self.print_json(
                {
                    "shop": str(loaded.shop) if loaded.shop else None,
                    "source": demo.SOURCE if loaded.source else None,
                    "tasks": loaded.tasks,
                }
            )
            return
        if loaded.shop:
            self.say(_("The demonstration shop was written to {path}.").format(path=loaded.shop))
        if loaded.source:
            self.say(_("“{name}” was added.").format(name=demo.SOURCE))
        for name in loaded.tasks:
            self.say(_("“{name}” was added.").format(name=name))
        if not (loaded.shop or loaded.source or loaded.tasks):
            self.say(_("The demonstration is there already; nothing was changed."))
