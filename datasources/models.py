"""A data source: a database we read from, with its secret encrypted."""

import threading
from typing import Any

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.utils import timezone
from django.utils.translation import gettext as _t
from django.utils.translation import gettext_lazy as _
from django.utils.translation import gettext_noop

from datasources.connectors import connector_choices, connectors
from datasources.connectors.base import ConnectionParams, ConnectionReport, Connector, ConnectorError
from exporter_site.access.scope import ScopedQuerySet
from exporter_site.fields import SecretField, Undecryptable
from exporter_site.redact import redact

REPORT_TIMEOUT = 5  # seconds that a server has, once it took the login, to say what a test asks


class SSLMode(models.TextChoices):
    DISABLE = "disable", _("never encrypt")
    PREFER = "prefer", _("encrypt if the server can")
    REQUIRE = "require", _("always encrypt, certificate not checked")
    VERIFY_CA = "verify-ca", _("always encrypt, known authority")
    VERIFY_FULL = "verify-full", _("always encrypt, known authority and host name")


class Charset(models.TextChoices):
    UTF8MB4 = "utf8mb4", "utf8mb4"
    UTF8 = "utf8", "utf8"
    GBK = "gbk", "gbk"
    GB2312 = "gb2312", "gb2312"
    GB18030 = "gb18030", "gb18030"
    BIG5 = "big5", "big5"
    LATIN1 = "latin1", "latin1"


class DataSourceQuerySet(ScopedQuerySet["DataSource"]):
    pass


class DataSource(models.Model):
    source_path = "pk"

    name = models.CharField(_("name"), max_length=100, unique=True)
    kind = models.CharField(_("kind"), max_length=30, choices=connector_choices)
    host = models.CharField(_("host"), max_length=255, blank=True)
    port = models.PositiveIntegerField(
        _("port"), null=True, blank=True, validators=[MinValueValidator(1), MaxValueValidator(65535)]
    )
    database = models.CharField(
        _("database"), max_length=255, help_text=_("Name of the database; for SQLite the path of the file.")
    )
    username = models.CharField(_("user name"), max_length=255, blank=True)
    password = SecretField(_("password"), blank=True, default="")
    charset = models.CharField(
        _("character set"),
        max_length=20,
        choices=Charset,
        default=Charset.UTF8MB4,
        help_text=_("For very old servers only: used where the server does not know utf8mb4."),
    )
    ssl_mode = models.CharField(_("TLS"), max_length=20, choices=SSLMode, default=SSLMode.PREFER)
    is_active = models.BooleanField(
        _("active"), default=True, help_text=_("Tasks of a source that is switched off do not run.")
    )
    max_concurrency = models.PositiveSmallIntegerField(
        _("runs at once"),
        default=2,
        validators=[MinValueValidator(1)],
        help_text=_("How many exports may read from it at the same time."),
    )
    description = models.TextField(_("description"), blank=True)
    config_managed = models.BooleanField(
        _("config-managed"), default=False, editable=False, help_text=_("Comes from config.yaml and is changed there.")
    )
    tested_at = models.DateTimeField(_("tested at"), null=True, editable=False)
    test_message = models.TextField(_("result of the last test"), blank=True, editable=False)
    test_ok = models.BooleanField(_("last test passed"), null=True, editable=False)
    created_at = models.DateTimeField(_("created"), auto_now_add=True)
    updated_at = models.DateTimeField(_("changed"), auto_now=True)

    objects = DataSourceQuerySet.as_manager()

    class Meta:
        verbose_name = _("data source")
        verbose_name_plural = _("data sources")
        ordering = ("name",)
        permissions = (
            ("all_datasources", gettext_noop("Can work with all data sources, granted or not")),
            ("test_datasource", gettext_noop("Can test connections")),
        )

    def __str__(self) -> str:
        return self.name

    @property
    def connector_class(self) -> type[Connector]:
        return connectors.get(self.kind)

    def clean(self) -> None:
        """Refuse what can't be connected to, and clear the fields that mean nothing for the kind."""
        if self.kind not in connectors:
            raise ValidationError({"kind": _("Unknown kind. Known are: {kinds}.").format(kinds=", ".join(connectors))})
        fields = self.connector_class.fields
        place = self.connector_class.place
        try:
            self.connector_class.check_place(getattr(self, place))
        except ValueError as exc:
            raise ValidationError({place: str(exc)}) from exc
        for name, empty in (("host", ""), ("port", None), ("username", ""), ("password", "")):
            if name not in fields:
                setattr(self, name, empty)

    def keep_password_of(self, stored: "DataSource") -> None:
        """Take over the password of `stored`, which is this source as it was before.

        Raises ValidationError where it would go to another server, to another account or over a connection that is less
        safe: whoever may change a source could otherwise have its password sent to a machine of their own.
        """
        if stored.password and "password" in self.connector_class.fields and self._leads_elsewhere(stored):
            raise ValidationError(
                {
                    "password": _(
                        "Enter the password again: the stored one is only sent where it was entered for, and the kind, the host, the port, the user name or a weaker TLS mode is new."
                    )
                }
            )
        self.password = stored.password

    def _leads_elsewhere(self, stored: "DataSource") -> bool:
        strength = SSLMode.values.index
        return self._target != stored._target or strength(self.ssl_mode) < strength(stored.ssl_mode)

    @property
    def _target(self) -> tuple[object, ...]:
        return self.kind, self.host.lower(), self.port or self.connector_class.default_port, self.username

    def params(self, *, timezone: str, label: str = "data-exporter", query_timeout: int = 3600) -> ConnectionParams:
        """How to connect. Raises ConnectorError when the stored password can't be decrypted."""
        if isinstance(self.password, Undecryptable):
            raise ConnectorError(
                "secret_unreadable",
                str(_("The password of “{name}” can't be decrypted. Restore the key file, or enter it again.")).format(
                    name=self.name
                ),
            )
        return ConnectionParams(
            host=self.host,
            port=self.port or self.connector_class.default_port,
            database=self.database,
            username=self.username,
            password=self.password,
            charset=self.charset,
            ssl_mode=self.ssl_mode,
            timezone=timezone,
            label=label,
            query_timeout=query_timeout,
        )

    def connector(self, **params: Any) -> Connector:
        """A connector for this source, not yet opened. `params` as for params(). Raises ConnectorError."""
        try:
            connector_class = self.connector_class
        except ImportError as exc:
            raise ConnectorError(
                "connection_failed", str(_("The driver for {kind} is not installed.")).format(kind=self.kind), str(exc)
            ) from exc
        return connector_class(self.params(**params))

    def probe(self) -> ConnectionReport:
        """Connect and log in, now, with the values that this object has, saved or not; nothing is stored.

        Raises ConnectorError; its text is the sentence to show.
        """
        with self.connector(timezone=settings.TIME_ZONE, query_timeout=REPORT_TIMEOUT) as connector:
            limit = threading.Timer(REPORT_TIMEOUT, connector.cancel)
            limit.daemon = True
            limit.start()
            try:
                return connector.report()
            except ConnectorError as exc:
                if exc.reason != "cancelled":
                    raise
                words = _t("The server took the login, and then said nothing for {seconds} seconds. Is it overloaded?")
                raise ConnectorError("connection_failed", words.format(seconds=REPORT_TIMEOUT)) from exc
            finally:
                limit.cancel()

    def test(self) -> ConnectionReport:
        """probe(), and what came out is kept for the list. Raises ConnectorError as that does."""
        try:
            report = self.probe()
        except ConnectorError as exc:
            self._record_test(ok=False, message=str(exc))
            raise
        self._record_test(ok=True, message=" ".join((report.sentence, *report.warnings)))
        return report

    def _record_test(self, *, ok: bool, message: str) -> None:
        self.test_ok, self.test_message, self.tested_at = ok, redact(message), timezone.now()
        # Nothing else of the row is touched: somebody may be editing it.
        type(self).objects.filter(pk=self.pk).update(
            test_ok=ok, test_message=self.test_message, tested_at=self.tested_at
        )
