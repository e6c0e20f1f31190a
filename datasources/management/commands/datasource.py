import getpass
import os
import sys
from copy import copy
from typing import Any

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.management.base import CommandParser
from django.utils.translation import gettext as _

from datasources.config_sync import sync
from datasources.connectors import connectors
from datasources.connectors.base import ConnectorError
from datasources.models import DataSource, SSLMode
from exporter_site.access import audit
from exporter_site.command import ExporterCommand, Failed, WrongUse, sentences


class Command(ExporterCommand):
    help = "Data sources: list, create, test, sync."

    def add_arguments(self, parser: CommandParser) -> None:
        verbs = parser.add_subparsers(dest="verb", required=True)
        self.add_json(verbs.add_parser("list", help="all data sources"))
        create = verbs.add_parser(
            "create", help="a new data source; the password also by prompt, --password-stdin or --password-env"
        )
        for name in ("name", "kind", "host", "port", "database", "user"):
            create.add_argument(name)
        create.add_argument("password", nargs="?")
        create.add_argument("--password-stdin", action="store_true", help="read the password from standard input")
        create.add_argument("--password-env", metavar="VAR", help="read the password from this environment variable")
        create.add_argument("--ssl-mode", default=SSLMode.PREFER, choices=SSLMode.values)
        create.add_argument(
            "--update",
            action="store_true",
            help="change the source when its name exists; an empty password keeps the stored one, for the same server and user",
        )
        self.add_json(create)
        test = verbs.add_parser("test", help="connect and log in")
        test.add_argument("source", metavar="ID_OR_NAME")
        self.add_json(test)
        self.add_json(verbs.add_parser("sync", help="load data_sources of config.yaml"))

    def handle_list(self, options: dict[str, Any]) -> None:
        sources = DataSource.objects.all()
        if options["as_json"]:
            self.print_json([as_json(source) for source in sources])
            return
        heads = (_("ID"), _("name"), _("kind"), _("host"), _("database"), _("active"), _("last test"))
        self.print_table(heads, (_row(source) for source in sources))

    def handle_create(self, options: dict[str, Any]) -> None:
        if options["kind"] not in connectors:
            raise WrongUse(_("Unknown kind. Known are: {kinds}.").format(kinds=", ".join(connectors)))
        port = options["port"]
        if port not in ("", "-") and not port.isdecimal():
            raise WrongUse(_("The port must be a number, not “{port}”.").format(port=port))
        existing = DataSource.objects.filter(name=options["name"]).first()
        if existing and not options["update"]:
            raise Failed(_("“{name}” exists already. Add --update to change it.").format(name=existing.name))
        if existing and existing.config_managed:
            raise Failed(
                _("“{name}” comes from config.yaml. Change it there, then run datasource sync.").format(
                    name=existing.name
                )
            )
        stored = copy(existing)
        source = existing or DataSource(name=options["name"])
        source.kind, source.host, source.database = options["kind"], options["host"], options["database"]
        source.port = int(port) if port.isdecimal() else None
        source.username, source.ssl_mode = options["user"], options["ssl_mode"]
        if "password" in connectors.get(source.kind).fields:
            source.password = self._password(options)
        try:
            if stored and not source.password:
                source.keep_password_of(stored)
            source.full_clean()
        except ValidationError as exc:
            raise WrongUse(sentences(exc)) from None
        source.save()
        if options["as_json"]:
            self.print_json(as_json(source))
        else:
            self.say(
                _("Data source {id} “{name}” is stored. Test it: manage.py datasource test {id}").format(
                    id=source.pk, name=source.name
                )
            )

    def _password(self, options: dict[str, Any]) -> str:
        if options["password"] is not None:
            self.stderr.write(
                _(
                    "A password on the command line can be read by others on this machine. Better: --password-stdin or --password-env."
                )
            )
            return str(options["password"])
        if options["password_env"]:
            try:
                return os.environ[options["password_env"]]
            except KeyError:
                raise WrongUse(
                    _("There is no environment variable {name}.").format(name=options["password_env"])
                ) from None
        if options["password_stdin"] or not sys.stdin.isatty():
            return sys.stdin.readline().rstrip("\r\n")
        return getpass.getpass(_("Password: "))

    def handle_test(self, options: dict[str, Any]) -> None:
        source = find_source(options["source"])
        audit.record(audit.Action.TEST, source)
        try:
            report = source.test()
        except ConnectorError as exc:
            if options["as_json"]:
                self.print_json({"ok": False, "reason": exc.reason, "message": str(exc)})
            raise Failed(exc) from None
        if options["as_json"]:
            self.print_json(
                {
                    "ok": True,
                    "server_version": report.server_version,
                    "latency_ms": report.latency_ms,
                    "warnings": report.warnings,
                }
            )
            return
        self.say(_("“{name}” is fine: {message}").format(name=source.name, message=report.sentence))
        for warning in report.warnings:
            self.say(f"⚠ {warning}")

    def handle_sync(self, options: dict[str, Any]) -> None:
        result = sync(settings.CONFIG.data_sources)
        if options["as_json"]:
            self.print_json(
                {
                    "created": result.created,
                    "updated": result.updated,
                    "released": result.released,
                    "errors": result.errors,
                }
            )
        else:
            for name in result.created:
                self.say(_("“{name}” was added.").format(name=name))
            for name in result.updated:
                self.say(_("“{name}” was brought up to date.").format(name=name))
            for name in result.released:
                self.say(
                    _("“{name}” is no longer in config.yaml; it can be edited in the admin now.").format(name=name)
                )
        if result.errors:
            raise Failed("\n".join(result.errors))


def find_source(id_or_name: str) -> DataSource:
    """The source with this number, else with this name. Raises WrongUse."""
    found = DataSource.objects.filter(pk=int(id_or_name)).first() if id_or_name.isdecimal() else None
    found = found or DataSource.objects.filter(name=id_or_name).first()
    if found is None:
        raise WrongUse(
            _("There is no data source “{name}”. “manage.py datasource list” shows them all.").format(name=id_or_name)
        )
    return found


def as_json(source: DataSource) -> dict[str, Any]:
    """A source for programs; the password is never part of it."""
    names = (
        "id",
        "name",
        "kind",
        "host",
        "port",
        "database",
        "username",
        "charset",
        "ssl_mode",
        "is_active",
        "max_concurrency",
        "description",
        "config_managed",
        "test_ok",
        "tested_at",
        "test_message",
    )
    return {name: getattr(source, name) for name in names}


def _row(source: DataSource) -> tuple[object, ...]:
    place = f"{source.host}:{source.port or source.connector_class.default_port}" if source.host else "-"
    tested = {True: _("passed"), False: _("failed"), None: "-"}[source.test_ok]
    active = _("yes") if source.is_active else _("no")
    return source.pk, source.name, source.get_kind_display(), place, source.database, active, tested
