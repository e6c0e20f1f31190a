"""System checks: what is legal but will not work, or not safely, with how to mend it."""

import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, Warning, register
from django.db import connection
from django.utils.translation import gettext as _

from exporter_site.config import is_placeholder, resolve
from exporter_site.keys import keys_file


def _existing_parent(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path


@register(Tags.files)
def check_directories(app_configs: Any, **kwargs: Any) -> Sequence[CheckMessage]:
    export = settings.CONFIG.export
    temp, output = resolve(export.temp_dir), resolve(export.output_dir)
    found: list[CheckMessage] = []
    places = {"export.temp_dir": temp} | ({"export.output_dir": output} if export.storage == "local" else {})
    for key, directory in places.items():
        parent = _existing_parent(directory)
        if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
            found.append(
                Error(
                    _("{key}: {directory} can't be written to.").format(key=key, directory=directory),
                    hint=_("Give the user that runs the system the right to write there, or name another directory."),
                    id="exporter.E001",
                )
            )
    if (
        export.storage == "local"
        and not found
        and _existing_parent(temp).stat().st_dev != _existing_parent(output).stat().st_dev
    ):
        found.append(
            Error(
                _("export.temp_dir and export.output_dir lie on different file systems."),
                hint=_(
                    "A finished file becomes visible by one rename, which needs one file system. Put temp_dir beside output_dir."
                ),
                id="exporter.E002",
            )
        )
    return found


@register(Tags.files)
def check_object_storage(app_configs: Any, **kwargs: Any) -> Sequence[CheckMessage]:
    """What can be seen without asking it: `system doctor object_storage` does that."""
    export = settings.CONFIG.export
    if export.storage != "s3" and not export.s3_bucket:
        return []
    found: list[CheckMessage] = []
    if not all(map(find_spec, ("boto3", "storages"))):
        found.append(
            Error(
                _("Object storage needs packages that are not installed."),
                hint=".venv/bin/pip install -r requirements-s3.txt",
                id="exporter.E010",
            )
        )
    if not export.s3_bucket:
        found.append(
            Error(
                _("export.storage is s3, and export.s3_bucket names no bucket."),
                hint=_("Set export.s3_bucket, s3_endpoint, s3_access_key and s3_secret_key in config.yaml."),
                id="exporter.E011",
            )
        )
    if bool(export.s3_access_key) != bool(export.s3_secret_key.get_secret_value()):
        found.append(
            Error(
                _("Only one of export.s3_access_key and export.s3_secret_key is set."),
                hint=_("Set both, or none where the machine has a role that may use the bucket."),
                id="exporter.E012",
            )
        )
    return found


@register(Tags.files)
def check_log_file(app_configs: Any, **kwargs: Any) -> Sequence[CheckMessage]:
    if "file" in settings.LOGGING["handlers"]:
        return []
    return [
        Error(
            _("logging.file: {file} can't be written to.").format(file=resolve(settings.CONFIG.logging.file)),
            hint=_("Until then log lines of level WARNING and above go to standard error only."),
            id="exporter.E003",
        )
    ]


@register(Tags.security)
def check_key_file(app_configs: Any, **kwargs: Any) -> Sequence[CheckMessage]:
    file = keys_file()
    if file.exists() and file.stat().st_mode & 0o077:
        return [
            Error(
                _("The key file {file} can be read by other users.").format(file=file),
                hint=f"chmod 600 {file}",
                id="exporter.E004",
            )
        ]
    return []


@register(Tags.security)
def check_placeholders(app_configs: Any, **kwargs: Any) -> Sequence[CheckMessage]:
    config = settings.CONFIG
    values = {
        "web.jwt_secret_key": config.web.jwt_secret_key,
        "email.password": config.email.password,
        "dingtalk.secret": config.dingtalk.secret,
        "dingtalk.webhook_url": config.dingtalk.webhook_url,
    }
    return [
        Warning(
            _("{key} still has its sample value and is not used.").format(key=key),
            hint=_("Put the real value into config.yaml or the environment, or remove the key."),
            id="exporter.W001",
        )
        for key, value in values.items()
        if is_placeholder(value.get_secret_value())
    ]


@register(Tags.security, deploy=True)
def check_public_url(app_configs: Any, **kwargs: Any) -> Sequence[CheckMessage]:
    if settings.CONFIG.public_url.startswith("https://"):
        return []
    return [
        Warning(
            _("web.public_url is no https:// address: passwords and files cross the network in clear text."),
            hint=_("Put a reverse proxy with HTTPS in front, and its address into web.public_url."),
            id="exporter.W002",
        )
    ]


@register(Tags.database)
def check_system_database(app_configs: Any, databases: Any = None, **kwargs: Any) -> Sequence[CheckMessage]:
    """The settings that our promises rest on, asked of the database itself (only with `check --database default`)."""
    if not databases or "default" not in databases:
        return []
    if connection.vendor == "sqlite":
        query, wanted = "PRAGMA journal_mode", "wal"
        hint = _("The database must lie on a local disk: WAL does not work on network file systems.")
    elif connection.vendor == "mysql":
        query, wanted = "SELECT @@SESSION.transaction_isolation", "READ-COMMITTED"
        hint = _("Let nothing change the isolation level that the system sets for its sessions.")
        if connection.mysql_is_mariadb:  # type: ignore[attr-defined]  # of the MySQL backend
            query = "SELECT @@SESSION.tx_isolation"
    else:
        return []
    with connection.cursor() as cursor:
        cursor.execute(query)
        found = cursor.fetchone()[0]
    if str(found).lower() == wanted.lower():
        return []
    return [
        Error(
            _("The system database says “{found}” where “{wanted}” is needed.").format(found=found, wanted=wanted),
            hint=hint,
            id="exporter.E005",
        )
    ]
