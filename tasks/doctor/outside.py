"""What is asked over the network: sources, mail server, robots, our own public address. Nothing is sent to anybody."""

import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator

from django.conf import settings
from django.core.exceptions import ValidationError
from django.utils.translation import gettext as _

from datasources.connectors.base import ConnectorError, Query
from datasources.models import DataSource
from exporter_site.config import is_placeholder
from notifications import reasons as message_reasons
from notifications.models import OF_CONFIG, Channel, ChannelError
from notifications.transports.base import Verdict
from notifications.transports.probe import reach
from notifications.transports.robot import WebTransport
from notifications.transports.smtp import Conversation
from tasks import reasons, storage
from tasks.doctor.base import LIMIT, Finding, check, failed, ok, warning
from tasks.doctor.database import clocks_differ
from tasks.models import ExportTask
from tasks.storage.base import StorageError

ANSWER = LIMIT - 2  # seconds for the other side, so that what it did is told, and not only that it was slow
# What is asked for the time, in seconds since 1970. SQLite has no clock of its own.
_TIMES = {"mysql": "SELECT UNIX_TIMESTAMP(NOW(6))", "postgres": "SELECT extract(epoch FROM clock_timestamp())"}


def active_sources() -> Iterator[DataSource]:
    return DataSource.objects.filter(is_active=True).iterator()


@check(subjects=active_sources, needs_database=True)
def sources(source: DataSource) -> Iterator[Finding]:
    """Connect and log in, as “Test connection” does."""
    try:
        report = source.test()
    except ConnectorError as exc:
        detail = f" ({exc.detail})" if exc.detail and exc.detail not in str(exc) else ""
        remedy = str(reasons.remedy(exc.reason)) or _("Correct the data source, then test the connection.")
        yield failed(_("Data source “{name}”: {error}").format(name=source, error=f"{exc}{detail}"), remedy)
        return
    for words in report.warnings:
        yield warning(
            _("Data source “{name}”: {error}").format(name=source, error=words),
            _("Use an account that may only SELECT."),
        )
    yield ok(_("Data source “{name}”: {report}").format(name=source, report=report.sentence))


@check(subjects=active_sources, needs_database=True)
def source_clocks(source: DataSource) -> Iterator[Finding]:
    """“Now” in the SQL is the source's clock, the planned time is ours. One that can't be reached is told above."""
    try:
        query = _TIMES.get(source.connector_class.dialect.sqlglot)
        if query is None:
            return
        with source.connector(timezone="UTC") as connector:
            before = time.time()
            batches = list(connector.stream(Query((query,)), 1).batches)
            after = time.time()
    except (ConnectorError, ImportError):
        return
    there = float(batches[0].columns[0][0] or b"0")
    what = _("the data source “{name}”").format(name=source)
    yield from clocks_differ(what, there - (before + after) / 2, bad=float("inf"))


@check(needs_database=True)
def mail_server() -> Iterator[Finding]:
    """Connect, encrypt and log in; no mail is sent."""
    server = settings.CONFIG.email
    wanted = (
        Channel.objects.filter(is_active=True, kind="email", user=None).exists()
        or ExportTask.objects.exclude(email_recipients=[]).exists()
    )
    if not server.smtp_server or is_placeholder(server.smtp_server):
        if wanted:
            yield warning(
                _("There are mails to send, and no mail server is set."),
                _("Set email.smtp_server, email.username and email.password in config.yaml."),
            )
        else:
            yield ok(_("No mail server is set, and nobody wants mails"))
        return
    where = {"host": server.smtp_server, "port": server.smtp_port}
    quick = server.model_copy(update={"smtp_timeout": min(server.smtp_timeout, int(ANSWER))})
    answer = Conversation(quick, time.monotonic() + ANSWER).try_login()
    if answer.verdict == Verdict.ACCEPTED:
        yield ok(_("Mail server {host}:{port}: login works (no mail was sent)").format(**where))
        return
    sentence, remedy = message_reasons.sentence(answer.reason), message_reasons.remedy(answer.reason)
    yield failed(
        _("Mail server {host}:{port}: {error}").format(**where, error=f"{sentence} {answer.text}".strip()),
        str(remedy) or _("Check the section email of config.yaml, and that this machine may go there."),
    )


def robots_and_webhooks() -> Iterator[Channel]:
    """The shared channels that post to an address, the robot of config.yaml, and those of tasks."""
    yield from (row for row in Channel.objects.shared().filter(is_active=True) if _posts(row))
    config = settings.CONFIG.dingtalk.webhook_url.get_secret_value()
    if config and not is_placeholder(config) and not Channel.objects.filter(config_managed=True).exists():
        yield Channel(name=OF_CONFIG, kind="dingtalk", config_managed=True)
    for task in ExportTask.objects.filter(enabled=True).iterator():
        if task.dingtalk_webhook:
            yield Channel(task=task, kind="dingtalk")


def _posts(channel: Channel) -> bool:
    return issubclass(channel.transport_class, WebTransport)


@check(subjects=robots_and_webhooks, needs_database=True)
def robots(channel: Channel) -> Iterator[Finding]:
    """Whether the address is one, and somebody answers there; only a message would show that the token is right."""
    transport_class = channel.transport_class
    assert issubclass(transport_class, WebTransport)
    try:
        transport = channel.transport()
        values = dict(transport.settings)
        transport_class.clean(values)
    except ChannelError as exc:
        yield failed(
            _("Channel “{name}”: {error}").format(name=channel, error=exc), str(message_reasons.remedy(exc.reason))
        )
        return
    except ValidationError as exc:
        yield failed(
            _("Channel “{name}”: {error}").format(name=channel, error=" ".join(exc.messages)),
            _("Copy the robot's address again, and check notifications in config.yaml."),
        )
        return
    answer = reach(values[transport_class.address], transport_class.hosts, ANSWER)
    if answer.verdict == Verdict.ACCEPTED:
        yield ok(_("Channel “{name}”: its server can be reached (no message was sent)").format(name=channel))
        return
    sentence = f"{message_reasons.sentence(answer.reason)} {answer.text}".strip()
    yield failed(
        _("Channel “{name}”: {error}").format(name=channel, error=sentence),
        str(message_reasons.remedy(answer.reason)) or _("Check the network of this machine."),
    )


@check()
def object_storage() -> Iterator[Finding]:
    """Put, read, list and delete a small file, as runs, readers and housekeeping do."""
    export = settings.CONFIG.export
    if export.storage != storage.S3 and not export.s3_bucket:
        yield ok(_("Files are kept in a directory, and no object storage is used"))
        return
    where = {"bucket": export.s3_bucket, "endpoint": export.s3_endpoint or "Amazon S3"}
    try:
        store = storage.get(storage.S3)
        store.probe()
    except StorageError as exc:
        yield failed(str(exc), str(reasons.remedy("storage_unavailable")))
        return
    if store.keeps_removed():
        yield warning(
            _("The bucket {bucket} keeps old versions: removed files stay in it.").format(**where),
            _("Switch versioning off, or let a rule of the bucket remove old versions after some days."),
        )
    yield ok(_("Object storage: files can be put into {bucket} at {endpoint}, read and removed").format(**where))


@check(needs_database=True)
def public_url() -> Iterator[Finding]:
    """Whether the links in messages lead here."""
    url = settings.CONFIG.public_url
    if not url:
        if any(True for _channel in robots_and_webhooks()) or ExportTask.objects.exclude(email_recipients=[]).exists():
            yield warning(
                _("web.public_url is empty: messages carry no link to the file."),
                _("Set web.public_url in config.yaml to the address at which people open this system."),
            )
        else:
            yield ok(_("web.public_url is empty, and no messages need it"))
        return
    remedy = _("Check web.public_url, the reverse proxy, and whether this machine may go there.")
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{url}/healthz/web", timeout=ANSWER) as answer:
            told = json.loads(answer.read(10_000))
    except (OSError, ValueError, urllib.error.URLError) as exc:
        yield warning(_("web.public_url ({url}) does not answer: {error}").format(url=url, error=exc), remedy)
        return
    if told == {"status": "ok"}:
        yield ok(_("web.public_url ({url}) leads here").format(url=url))
    else:
        yield warning(_("web.public_url ({url}) leads somewhere else.").format(url=url), remedy)
