"""Data sources in the admin."""

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.translation import gettext as _t
from django.utils.translation import gettext_lazy as _
from unfold.admin import TabularInline
from unfold.decorators import action, display
from unfold.widgets import UnfoldAdminPasswordWidget, UnfoldAdminTextareaWidget

from datasources.connectors.base import ConnectorError
from datasources.models import DataSource
from exporter_site.access import audit
from exporter_site.access.models import Grant
from exporter_site.modeladmin import ScopedAdmin, SubmitActionsAdmin


class DataSourceForm(forms.ModelForm):  # type: ignore[type-arg]
    """The password is never sent to the browser; left empty, the stored one stays."""

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
        if self.instance.pk is None and "password" in self.fields:
            self.fields["password"].help_text = _("Stored encrypted and never shown again.")

    def clean_password(self) -> str:
        return str(self.cleaned_data["password"]) or self.instance.password


class GrantInline(TabularInline):  # type: ignore[misc]
    """Who may work with this source; what they may do, their role says."""

    model = Grant
    fields = ("user", "group")
    autocomplete_fields = ("user", "group")
    extra = 0


@admin.register(DataSource)
class DataSourceAdmin(ScopedAdmin, SubmitActionsAdmin):
    form = DataSourceForm
    list_display = ("name", "kind_shown", "place", "database", "active_shown", "test_shown", "tested_at")
    list_filter = ("kind", "is_active")
    search_fields = ("name", "host", "database", "description")
    readonly_fields = ("test_message", "tested_at")
    actions = ("test_connections",)
    actions_submit_line = ("save_and_test",)
    inlines = (GrantInline,)
    fieldsets = (
        (None, {"fields": ("name", "kind", "description", "is_active")}),
        (
            _("Connection"),
            {"fields": (("host", "port"), "database", ("username", "password"), ("ssl_mode", "charset"))},
        ),
        (_("Limits"), {"fields": ("max_concurrency",)}),
        (_("Last test"), {"fields": ("test_message", "tested_at")}),
    )

    def has_change_permission(self, request: HttpRequest, obj: DataSource | None = None) -> bool:
        if obj is not None and obj.config_managed:
            return False
        return bool(super().has_change_permission(request, obj))

    def has_delete_permission(self, request: HttpRequest, obj: DataSource | None = None) -> bool:
        if obj is not None and (obj.config_managed or obj.tasks.exists()):
            return False
        return bool(super().has_delete_permission(request, obj))

    @display(description=_("kind"), ordering="kind")
    def kind_shown(self, source: DataSource) -> str:
        kind = source.get_kind_display()
        return _t("{kind} · config-managed").format(kind=kind) if source.config_managed else str(kind)

    @display(description=_("host"))
    def place(self, source: DataSource) -> str:
        return f"{source.host}:{source.port or source.connector_class.default_port}" if source.host else "-"

    @display(description=_("active"), boolean=True, ordering="is_active")
    def active_shown(self, source: DataSource) -> bool:
        return source.is_active

    @display(description=_("last test"), label={"ok": "success", "bad": "danger", "": "info"}, ordering="test_ok")
    def test_shown(self, source: DataSource) -> tuple[str, str]:
        shown = {True: ("ok", _t("passed")), False: ("bad", _t("failed")), None: ("", _t("never tested"))}
        return shown[source.test_ok]

    @action(description=_("Test connection"), permissions=["test"])
    def test_connections(self, request: HttpRequest, queryset: QuerySet[DataSource]) -> None:
        for source in queryset:
            self._test(request, source)

    @action(description=_("Save and test connection"))
    def save_and_test(self, request: HttpRequest, obj: DataSource) -> None:
        self._test(request, obj)

    def has_test_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("datasources.test_datasource")

    def _test(self, request: HttpRequest, source: DataSource) -> None:
        audit.record(audit.Action.TEST, source)
        try:
            report = source.test()
        except ConnectorError as exc:
            messages.error(request, f"{source.name}: {exc}")
            return
        messages.success(request, _t("“{name}” is fine: {message}").format(name=source.name, message=report.sentence))
        for warning in report.warnings:
            messages.warning(request, f"{source.name}: {warning}")
