"""The form of a data source, and what its page must know of each kind to show the fields that matter."""

from copy import copy
from typing import Any

from django import forms
from django.core.exceptions import ValidationError
from django.utils.html import format_html
from django.utils.translation import gettext as _t
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext
from unfold.widgets import UnfoldAdminPasswordWidget, UnfoldAdminTextareaWidget

from datasources.connectors import connectors
from datasources.connectors.base import Connector
from datasources.models import DataSource

# What a connection is made of; some kinds need only a part.
CONNECTION = ("host", "port", "database", "username", "password", "ssl_mode", "charset")


class DataSourceForm(forms.ModelForm):  # type: ignore[type-arg]
    """The password is never sent to the browser; left empty, the stored one stays where it was entered for."""

    password = forms.CharField(
        label=_("Password"),
        required=False,
        strip=False,
        widget=UnfoldAdminPasswordWidget(attrs={"autocomplete": "new-password"}),
        help_text=_("Stored encrypted and never shown again. Leave empty to keep the stored one."),
    )

    class Meta:
        model = DataSource
        fields = "__all__"  # noqa: DJ007  # the admin names them
        widgets = {"description": UnfoldAdminTextareaWidget(attrs={"rows": 2})}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._stored = copy(self.instance)
        if "kind" not in self.fields:
            return  # nothing can be changed here
        self.fields["database"].help_text = format_html(
            '<span data-kind-help="database">{}</span>', self.fields["database"].help_text
        )
        self.fields["host"].help_text = _("Name or address of the server, for example 10.0.0.5.")
        self.fields["port"].help_text = _("Empty: the usual one.")
        if self.instance.pk is None:
            self.fields["password"].help_text = _("Stored encrypted and never shown again.")
        elif count := self.instance.tasks.filter(enabled=True).count():
            words = ngettext(
                "{count} enabled task reads from it: switched off, its runs fail.",
                "{count} enabled tasks read from it: switched off, their runs fail.",
                count,
            )
            self.fields["is_active"].help_text = words.format(count=count)

    @property
    def changes_connection(self) -> bool:
        """Whether it says another connection than the stored one."""
        typed = bool(self.data.get("password"))
        return typed or not {"kind", *CONNECTION}.difference({"password"}).isdisjoint(self.changed_data)

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        if self._stored.pk and not cleaned.get("password") and {"kind", "ssl_mode"} <= cleaned.keys():
            wanted = copy(self._stored)
            for name in ("kind", *CONNECTION):
                if name in cleaned:
                    setattr(wanted, name, cleaned[name])
            try:
                wanted.keep_password_of(self._stored)
            except ValidationError as exc:
                self.add_error(None, exc)
            else:
                cleaned["password"] = wanted.password
        return cleaned


def facts_of_kinds() -> dict[str, dict[str, Any]]:
    """What static/source_form.js needs to know, by kind: `fields` that matter, the usual `port`, the `label` and `help`
    of the field `database`."""
    return {kind: _facts(connector) for kind, connector in _usable()}


def read_only_accounts() -> list[dict[str, str]]:
    """How an account that may only read is made, by kind: {"kind", "label", "sql" with {user} and {database} in it}."""
    return [
        {"kind": kind, "label": str(connectors.label(kind)), "sql": "\n".join(connector.read_only_account)}
        for kind, connector in _usable()
        if connector.read_only_account
    ]


def _usable() -> list[tuple[str, type[Connector]]]:
    found = []
    for kind in connectors:
        try:
            found.append((kind, connectors.get(kind)))
        except ImportError:
            pass  # Its driver is not installed: its fields are all shown, and the test says so.
    return found


def _facts(connector: type[Connector]) -> dict[str, Any]:
    is_file = connector.place == "database"
    words = _t("The path of the file on this machine, for example /data/shop.db. It is only read, never changed.")
    return {
        "fields": connector.fields,
        "port": str(connector.default_port or ""),
        "label": _t("Path of the file") if is_file else _t("Database"),
        "help": words if is_file else _t("The name of the database on the server."),
    }
