import os
from typing import Any

from django.apps import apps
from django.conf import settings
from django.core.management.base import CommandParser
from django.utils.translation import gettext as _

from exporter_site import keys
from exporter_site.command import ExporterCommand
from exporter_site.fields import rotate, secret_names


class Command(ExporterCommand):
    help = "Re-encrypts every stored secret with the newest key; makes a new key first when the key file is ours."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--forget-old",
            action="store_true",
            help="then remove the older keys (older backups can't be read any more)",
        )
        self.add_json(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        file = None if os.environ.get("EXPORTER_ENCRYPTION_KEYS") else keys.keys_file()
        if file is not None:
            settings.FERNET_KEYS = list(keys.add_encryption_key(file).encryption_keys)
        rotated = {}
        for model in apps.get_models():
            if secret_names(model):
                rotated[model._meta.label] = rotate(model)
        if file is not None and options["forget_old"]:
            keys.forget_old_encryption_keys(file)
        if options["as_json"]:
            self.print_json(rotated)
            return
        for label, count in rotated.items():
            self.say(_("{label}: {count} rows re-encrypted.").format(label=label, count=count))
        if file is None:
            self.say(_("The keys come from EXPORTER_ENCRYPTION_KEYS; its first one was used."))
        self.say(_("Restart web and scheduler now: ./start_all.sh --restart"))
