"""Data sources in the admin."""

from copy import copy
from typing import Any

from django.contrib import admin, messages
from django.db.models import Count, IntegerField, OuterRef, QuerySet, Subquery
from django.db.models.functions import Coalesce
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _t
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext
from unfold.admin import TabularInline
from unfold.decorators import action, display

from datasources import usage
from datasources.connectors import connectors
from datasources.connectors.base import ConnectorError
from datasources.forms import CONNECTION, DataSourceForm, facts_of_kinds, read_only_accounts
from datasources.models import DataSource
from exporter_site.access import audit
from exporter_site.access.models import Grant
from exporter_site.access.roles import LABELS
from exporter_site.modeladmin import ScopedAdmin, SubmitActionsAdmin
from exporter_site.redact import redact, remember_secret
from exporter_site.trial import Trial, TrialAdmin, faults

SEE_SERVER_WORDS = "tasks.view_sql"


class GrantInline(TabularInline):  # type: ignore[misc]
    """Who may work with this source; what they may do, their role says."""

    model = Grant
    fields = ("user", "group", "role_shown")
    readonly_fields = ("role_shown",)
    autocomplete_fields = ("user", "group")
    extra = 0
    template_before = "admin/datasources/datasource/grants.html"

    def get_queryset(self, request: HttpRequest) -> QuerySet[Grant]:
        queryset: QuerySet[Grant] = super().get_queryset(request)
        return queryset.select_related("user", "group").prefetch_related("user__groups")

    @display(description=_("role"))
    def role_shown(self, grant: Grant) -> str | SafeString:
        if grant.user is None:
            return str(LABELS.get(grant.group.name, _t("all members, each by their role"))) if grant.group else "-"
        if grant.user.is_superuser:
            return _t("all rights, with all sources")
        if roles := [str(LABELS.get(group.name, group.name)) for group in grant.user.groups.all()]:
            return ", ".join(roles)
        words = _t("no role: this grant gives nothing yet. Give the user a role.")
        url = reverse("admin:auth_user_change", args=[grant.user.pk])
        return format_html('<a class="exporter-warning underline" href="{}">{}</a>', url, words)


@admin.register(DataSource)
class DataSourceAdmin(TrialAdmin, ScopedAdmin, SubmitActionsAdmin):
    form = DataSourceForm
    list_display = ("name", "kind_shown", "place", "database", "tasks_shown", "active_shown", "test_shown", "tested_at")
    list_filter = ("kind", "is_active")
    list_before_template = "admin/datasources/datasource/empty_list.html"
    search_fields = ("name", "host", "database", "description")
    actions = ("test_connections",)
    actions_submit_line = ("save_and_test",)
    inlines = (GrantInline,)
    fieldsets = (
        (None, {"fields": ("kind", "name", "description", ("max_concurrency", "is_active"))}),
        (
            _("Connection"),
            {"fields": (("host", "port"), "database", ("username", "password"), ("ssl_mode", "charset"))},
        ),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[DataSource]:
        queryset: QuerySet[DataSource] = super().get_queryset(request)
        tasks = DataSource.tasks.rel.related_model._default_manager.filter(data_source=OuterRef("pk")).order_by()
        count = Subquery(tasks.values("data_source").annotate(count=Count("pk")).values("count"), IntegerField())
        return queryset.annotate(tasks_count=Coalesce(count, 0))

    def get_fieldsets(self, request: HttpRequest, obj: DataSource | None = None) -> Any:
        fieldsets = super().get_fieldsets(request, obj)
        if obj is None or self.has_change_permission(request, obj) or obj.kind not in connectors:
            return fieldsets  # static/source_form.js shows what matters for the kind
        foreign = set(CONNECTION) - set(obj.connector_class.fields)
        lines = [field if isinstance(field, tuple) else (field,) for field in fieldsets[1][1]["fields"]]
        kept = [tuple(name for name in line if name not in foreign) for line in lines]
        return [fieldsets[0], (fieldsets[1][0], {"fields": [line for line in kept if line]}), *fieldsets[2:]]

    def has_change_permission(self, request: HttpRequest, obj: DataSource | None = None) -> bool:
        if obj is not None and obj.config_managed:
            return False
        return bool(super().has_change_permission(request, obj))

    def form_context(self, request: HttpRequest, obj: DataSource | None) -> dict[str, Any]:
        context = super().form_context(request, obj)
        if obj is not None:
            context["usage"] = usage.usage_of(obj, request.user)
            context["may_add_task"] = request.user.has_perm("tasks.add_exporttask")
        if obj is None or self.has_change_permission(request, obj):
            context |= {"kinds": facts_of_kinds(), "accounts": read_only_accounts()}
        return context

    def save_model(self, request: HttpRequest, obj: DataSource, form: Any, change: bool) -> None:
        super().save_model(request, obj, form, change)
        if not change or obj.is_active or "is_active" not in form.changed_data:
            return
        if count := obj.tasks.filter(enabled=True).count():
            words = ngettext(
                "“{name}” is switched off, and {count} enabled task reads from it: its runs fail until it is switched on again. Disable it if you do not want that.",
                "“{name}” is switched off, and {count} enabled tasks read from it: their runs fail until it is switched on again. Disable them if you do not want that.",
                count,
            )
            messages.warning(request, words.format(name=obj.name, count=count))

    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> Any:
        """Nothing is deleted while something holds on to it; the page says what, and how to go on."""
        shown, counts, needed, _protected = super().get_deleted_objects(objs, request)
        sentences = (usage.why_not_deleted(source, request.user) for source in objs)
        return shown, counts, needed, [sentence for sentence in sentences if sentence]

    @display(description=_("kind"), ordering="kind")
    def kind_shown(self, source: DataSource) -> str:
        kind = source.get_kind_display()
        return _t("{kind} · config-managed").format(kind=kind) if source.config_managed else str(kind)

    @display(description=_("host"))
    def place(self, source: DataSource) -> str:
        return f"{source.host}:{source.port or source.connector_class.default_port}" if source.host else "-"

    @display(description=_("tasks"), ordering="tasks_count")
    def tasks_shown(self, source: DataSource) -> str | SafeString:
        count: int = getattr(source, "tasks_count", 0)
        if not count:
            return "0"
        return format_html('<a class="underline" href="{}">{}</a>', usage.tasks_url(source), count)

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

    def may_try(self, request: HttpRequest, obj: DataSource | None) -> bool:
        return self.has_test_permission(request) and (obj is not None or self.has_add_permission(request))

    def try_out(self, request: HttpRequest, obj: DataSource | None) -> Trial:
        if obj is not None and not self.has_change_permission(request, obj):
            audit.record(audit.Action.TEST, obj)
            return _tried(obj, request, stored=True)
        stored = copy(obj)
        form = self.get_form(request, obj, change=obj is not None)(request.POST, instance=obj)
        if wrong := faults(form, ("kind", *CONNECTION)):
            return wrong
        source: DataSource = form.instance
        if stored is not None and not form.changes_connection:
            audit.record(audit.Action.TEST, stored)
            return _tried(stored, request, stored=True)
        remember_secret(source.password)
        place = f"{source.host}:{source.port or source.connector_class.default_port}" if source.host else ""
        note = f"{source.kind} {source.username}@{place}/{source.database}" if place else source.database
        audit.record(audit.Action.TEST, stored, note=_t("Values that are not saved: {values}").format(values=note))
        return _tried(source, request, stored=False)


def _tried(source: DataSource, request: HttpRequest, *, stored: bool) -> Trial:
    """Connect and log in. What comes out is kept for the list if the values are `stored` ones."""
    try:
        report = source.test() if stored else source.probe()
    except ConnectorError as exc:
        titles = {
            "connection_failed": _t("Not reachable"),
            "auth_failed": _t("Login refused"),
            "unknown_database": _t("Unknown database"),
            "tls_failed": _t("No encrypted connection"),
            "secret_unreadable": _t("The stored password can't be read"),
        }
        lines = [str(exc)]
        if exc.detail and request.user.has_perm(SEE_SERVER_WORDS):
            lines.append(_t("The server's own words: {words}").format(words=exc.detail))
        return Trial("bad", titles.get(exc.reason, _t("The test failed")), tuple(map(redact, lines)))
    state = "warn" if report.warnings else "good"
    return Trial(state, _t("The connection works."), (report.sentence, *report.warnings))
