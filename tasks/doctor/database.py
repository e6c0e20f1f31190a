"""The system database: there, new enough, migrated, set up as our promises need it; its clock; the secrets in it."""

import time
from collections.abc import Iterator
from typing import Any

from django.apps import apps
from django.db import Error, NotSupportedError, connection, models
from django.db.migrations.executor import MigrationExecutor
from django.utils.translation import gettext as _

from exporter_site.checks import check_system_database
from exporter_site.fields import SecretField, Undecryptable
from tasks.doctor.base import Finding, check, failed, from_messages, ok, warning

SKEW_TOLD, SKEW_BAD = 5.0, 60.0  # seconds
MOST_NAMED = 10


@check()
def system_database() -> Iterator[Finding]:
    try:
        connection.ensure_connection()
    except NotSupportedError as exc:  # the version
        yield failed(str(exc), _("Upgrade the database server, or name another in system_database of config.yaml."))
        return
    except Error as exc:
        yield failed(
            _("The system database can't be reached: {error}").format(error=str(exc).strip()),
            _("Check system_database in config.yaml, and that the server runs and lets this machine in."),
        )
        return
    release = ".".join(map(str, connection.get_database_version()))
    missing = _unapplied()
    if missing:
        yield failed(
            _("{count} migrations are not applied, the first is {name}.").format(count=len(missing), name=missing[0]),
            _("Run: .venv/bin/python manage.py migrate"),
        )
    trouble = list(_set_up())
    yield from trouble
    if not trouble and not missing:
        yield ok(
            _("System database: {kind} {version}, all migrations applied").format(
                kind=connection.display_name, version=release
            )
        )


def _unapplied() -> list[str]:
    executor = MigrationExecutor(connection)
    plan = executor.migration_plan(executor.loader.graph.leaf_nodes())
    return [f"{migration.app_label}.{migration.name}" for migration, _backwards in plan]


def _set_up() -> Iterator[Finding]:
    yield from from_messages(check_system_database(None, databases=["default"]))
    if connection.vendor != "mysql":
        return
    charset = _value("SELECT @@character_set_database")
    if charset != "utf8mb4":
        yield failed(
            _("The system database is stored as {charset}: rare Chinese characters and emoji are lost.").format(
                charset=charset
            ),
            _("ALTER DATABASE `{name}` CHARACTER SET utf8mb4, and convert its tables the same way.").format(
                name=connection.settings_dict["NAME"]
            ),
        )
    if _value("SELECT CONVERT_TZ('2025-01-01 00:00:00', 'UTC', 'Asia/Shanghai')") is None:
        yield warning(
            _("The MySQL server of the system database knows no time zones."),
            _("Load them: mysql_tzinfo_to_sql /usr/share/zoneinfo | mysql -u root mysql"),
        )


def _value(sql: str) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetchone()[0]


@check(needs_database=True)
def clock() -> Iterator[Finding]:
    """Ours against that of the system database. SQLite has none of its own."""
    query = {"mysql": "SELECT UNIX_TIMESTAMP(NOW(6))", "postgresql": "SELECT extract(epoch FROM clock_timestamp())"}
    if connection.vendor not in query:
        yield ok(_("The system database has the clock of this machine"))
        return
    before = time.time()
    there = float(_value(query[connection.vendor]))
    yield from clocks_differ(_("the system database"), there - (before + time.time()) / 2, bad=SKEW_BAD)


def clocks_differ(what: str, skew: float, *, bad: float) -> Iterator[Finding]:
    """`skew`: by how many seconds the clock of `what` is ahead of ours. At `bad` it is a failure."""
    seconds = abs(skew)
    if seconds < SKEW_TOLD:
        yield ok(_("The clock of {what} agrees with this machine's").format(what=what))
        return
    if skew > 0:
        sentence = _("The clock of {what} is {seconds} s ahead of this machine's.")
    else:
        sentence = _("The clock of {what} is {seconds} s behind this machine's.")
    say = failed if seconds >= bad else warning
    yield say(
        sentence.format(what=what, seconds=round(seconds)),
        _(
            "Have both clocks set by NTP: timedatectl set-ntp true, or chrony. Times of runs and their dates depend on it."
        ),
    )


@check(needs_database=True)
def secrets() -> Iterator[Finding]:
    """Whether every stored secret can be decrypted."""
    count, lost = 0, []
    for model in apps.get_models():
        names = [field.name for field in model._meta.concrete_fields if isinstance(field, SecretField)]
        for row in model._base_manager.iterator() if names else ():
            values = {name: getattr(row, name) for name in names}
            count += sum(bool(value) for value in values.values())
            lost += [_place(row, name) for name, value in values.items() if isinstance(value, Undecryptable)]
    if lost:
        yield failed(
            _("{count} stored secrets can't be decrypted: {places}").format(
                count=len(lost), places="; ".join(lost[:MOST_NAMED]) + (" …" if len(lost) > MOST_NAMED else "")
            ),
            _("Restore the key file (or EXPORTER_ENCRYPTION_KEYS) from the backup, or enter these secrets again."),
        )
    else:
        yield ok(_("All {count} stored secrets can be decrypted").format(count=count))


def _place(row: models.Model, name: str) -> str:
    meta = type(row)._meta
    return f"{meta.verbose_name} “{row}” (#{row.pk}): {meta.get_field(name).verbose_name}"  # type: ignore[union-attr]  # a field of the row itself
