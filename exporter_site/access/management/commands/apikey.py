from datetime import timedelta
from typing import Any

from django.contrib.auth.models import User
from django.core.management.base import CommandParser
from django.utils import timezone
from django.utils.translation import gettext as _

from exporter_site.access.models import ApiKey, Scope
from exporter_site.command import ExporterCommand, Failed, WrongUse


class Command(ExporterCommand):
    help = "API keys for programs: list, create, revoke."

    def add_arguments(self, parser: CommandParser) -> None:
        verbs = parser.add_subparsers(dest="verb", required=True)
        self.add_json(verbs.add_parser("list", help="all keys; not their secrets, nobody has those"))
        create = verbs.add_parser("create", help="make a key and print it, this once")
        create.add_argument("user", metavar="USER", help="whose rights it has")
        create.add_argument("name", metavar="NAME", help="what it is for")
        create.add_argument("--scope", choices=Scope.values, default=Scope.READ.value)
        create.add_argument("--days", type=int, default=365, help="how long it is valid")
        self.add_json(create)
        revoke = verbs.add_parser("revoke", help="let a key open nothing any more")
        revoke.add_argument("key", metavar="ID", type=int)

    def handle_list(self, options: dict[str, Any]) -> None:
        keys = ApiKey.objects.select_related("user")
        if options["as_json"]:
            self.print_json([_facts(key) for key in keys])
            return
        heads = (_("ID"), _("name"), _("user"), _("scope"), _("valid until"), _("last used"), _("state"))
        self.print_table(heads, (_row(key) for key in keys))

    def handle_create(self, options: dict[str, Any]) -> None:
        user = User.objects.filter(username=options["user"], is_active=True).first()
        if user is None:
            raise Failed(_("There is no active user “{name}”.").format(name=options["user"]))
        if options["days"] < 1:
            raise WrongUse(_("--days must be at least 1."))
        expires_at = timezone.now() + timedelta(days=options["days"])
        key, text = ApiKey.objects.make(user, options["name"], options["scope"], expires_at)
        if options["as_json"]:
            self.print_json({**_facts(key), "key": text})
            return
        self.say(text)
        self.stderr.write(_("It is shown this once. Send it as “Authorization: Bearer …”."))

    def handle_revoke(self, options: dict[str, Any]) -> None:
        key = ApiKey.objects.filter(pk=options["key"]).first()
        if key is None:
            raise Failed(
                _("There is no key {number}. “manage.py apikey list” shows them all.").format(number=options["key"])
            )
        key.revoke()
        self.say(_("{key} is revoked.").format(key=key))


def _facts(key: ApiKey) -> dict[str, Any]:
    names = ("name", "scope", "prefix", "created_at", "expires_at", "last_used_at", "revoked_at")
    return {"id": key.pk, "user": key.user.get_username(), **{name: getattr(key, name) for name in names}}


def _row(key: ApiKey) -> tuple[Any, ...]:
    def day(moment: Any) -> str:
        return timezone.localtime(moment).strftime("%Y-%m-%d") if moment else "-"

    state = _("revoked") if key.revoked_at else _("valid") if key.is_valid else _("expired")
    return (key.pk, key.name, key.user, key.get_scope_display(), day(key.expires_at), day(key.last_used_at), state)
