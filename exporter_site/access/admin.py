"""Users, roles, API keys and the audit in the admin."""

from datetime import timedelta
from typing import Any

from django import forms
from django.apps import apps
from django.contrib import admin, messages
from django.contrib.auth.admin import GroupAdmin as DjangoGroupAdmin
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.contrib.auth.models import Group, Permission, User
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _t
from django.utils.translation import gettext_lazy as _
from unfold.admin import ModelAdmin, TabularInline
from unfold.decorators import action, display
from unfold.forms import AdminPasswordChangeForm, UserChangeForm, UserCreationForm

from exporter_site.access.models import ApiKey, AuditEvent, Grant
from exporter_site.access.roles import LABELS, SUMMARIES
from exporter_site.modeladmin import LogAdmin, TimesFilter

admin.site.unregister(User)
admin.site.unregister(Group)

USUAL_LIFETIME = timedelta(days=365)


class GrantInline(TabularInline):  # type: ignore[misc]
    model = Grant
    fields = ("data_source",)
    autocomplete_fields = ("data_source",)
    extra = 0


def role_label(group: Group) -> str:
    """A role in words, any other group by its name."""
    return f"{LABELS[group.name]} ({group.name})" if group.name in LABELS else group.name


class RolesField(forms.ModelMultipleChoiceField):  # type: ignore[type-arg]
    def label_from_instance(self, group: Any) -> str:
        summary = SUMMARIES.get(group.name)
        return f"{role_label(group)}: {summary}" if summary else role_label(group)


@admin.register(User)
class UserAdmin(DjangoUserAdmin, ModelAdmin):  # type: ignore[misc, type-arg]  # two bases with one interface
    """Rights come from roles and groups; single rights of a user, which nobody finds again, are not offered."""

    form = UserChangeForm
    add_form = UserCreationForm
    change_password_form = AdminPasswordChangeForm
    inlines = (GrantInline,)
    list_display = ("username", "name_shown", "email", "roles_shown", "is_active", "last_login")
    list_filter = ("is_active", "groups")
    filter_horizontal = ()
    fieldsets = (
        (None, {"fields": ("username", "password")}),
        (_("Person"), {"fields": (("last_name", "first_name"), "email")}),
        (_("Rights"), {"fields": ("is_active", "is_superuser", "groups")}),
        (_("Times"), {"fields": (("last_login", "date_joined"),)}),
    )
    readonly_fields = ("last_login", "date_joined")

    def get_queryset(self, request: HttpRequest) -> QuerySet[User]:
        queryset: QuerySet[User] = super().get_queryset(request)
        return queryset.prefetch_related("groups")

    def get_readonly_fields(self, request: HttpRequest, obj: User | None = None) -> Any:
        # Only who has all rights may give them all.
        return self.readonly_fields if request.user.is_superuser else (*self.readonly_fields, "is_superuser")

    def has_change_permission(self, request: HttpRequest, obj: User | None = None) -> bool:
        return super().has_change_permission(request, obj) and _may_manage(request, obj)

    def has_delete_permission(self, request: HttpRequest, obj: User | None = None) -> bool:
        return super().has_delete_permission(request, obj) and _may_manage(request, obj)

    def formfield_for_manytomany(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        if db_field.name == "groups":
            return RolesField(
                Group.objects.all(),
                required=False,
                widget=forms.CheckboxSelectMultiple,
                label=_("Roles and groups"),
                help_text=_("With which data sources, grants say: below, or of a whole group on the data source."),
            )
        return super().formfield_for_manytomany(db_field, request, **kwargs)

    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> Any:
        """A user's keys go with the user; by themselves they are revoked, and stay to be seen. That the user is in groups
        no more is not worth a line."""
        shown, counts, needed, protected = super().get_deleted_objects(objs, request)
        membership = str(User.groups.through._meta.verbose_name)
        shown = _without(shown, membership)
        counts.pop(str(User.groups.through._meta.verbose_name_plural), None)
        return shown, counts, needed - {str(ApiKey._meta.verbose_name)}, protected

    def save_model(self, request: HttpRequest, obj: User, form: Any, change: bool) -> None:
        if not change:
            obj.is_staff = True  # everybody works in this admin
        super().save_model(request, obj, form, change)

    @display(description=_("person's name"))
    def name_shown(self, user: User) -> str:
        return f"{user.last_name}{user.first_name}" if not user.get_full_name().isascii() else user.get_full_name()

    @display(description=_("roles"))
    def roles_shown(self, user: User) -> str:
        roles = [role_label(group) for group in user.groups.all()]
        return ", ".join([str(_t("all rights"))] * user.is_superuser + roles) or "-"


def _without(lines: Any, start: str) -> list[Any]:
    """Nested `lines` without those that begin with `start`."""
    kept = (_without(line, start) if isinstance(line, list) else line for line in lines)
    return [
        line
        for line in kept
        if line != [] and not (isinstance(line, str) and line.casefold().startswith(start.casefold()))
    ]


def _may_manage(request: HttpRequest, user: User | None) -> bool:
    """Who has not all rights changes nobody who has: a new password for a superuser would be a way to them."""
    return user is None or request.user.is_superuser or not user.is_superuser


VERBS = {"view": _("View"), "add": _("Add"), "change": _("Change"), "delete": _("Delete")}


class PermissionsField(forms.ModelMultipleChoiceField):  # type: ignore[type-arg]
    """The permissions over what the admin shows; a model's own ones by their words."""

    def __init__(self) -> None:
        shown = Q()
        for model, model_admin in admin.site._registry.items():
            about = Q(content_type__app_label=model._meta.app_label, content_type__model=model._meta.model_name)
            usual = [f"{verb}_{model._meta.model_name}" for verb in VERBS if not isinstance(model_admin, LogAdmin)]
            own = [codename for codename, _words in model._meta.permissions]
            shown |= about & Q(codename__in={*usual, *own, f"view_{model._meta.model_name}"})
        permissions = Permission.objects.filter(shown).select_related("content_type")
        super().__init__(
            permissions.order_by("content_type__app_label", "content_type__model", "id"),
            required=False,
            widget=forms.CheckboxSelectMultiple,
            label=_("Permissions"),
        )

    def label_from_instance(self, permission: Any) -> str:
        verb, _underline, model = permission.codename.partition("_")
        usual = verb in VERBS and model == permission.content_type.model
        words = VERBS[verb] if usual else _t(permission.name)
        return f"{permission.content_type.name} · {words}"


@admin.register(Group)
class GroupAdmin(DjangoGroupAdmin, ModelAdmin):  # type: ignore[misc]
    list_display = ("role_shown", "summary_shown")
    inlines = (GrantInline,)
    filter_horizontal = ()

    def formfield_for_manytomany(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:  # type: ignore[override]
        if db_field.name == "permissions":
            return PermissionsField()
        return super().formfield_for_manytomany(db_field, request, **kwargs)

    @display(description=_("role or group"), ordering="name")
    def role_shown(self, group: Group) -> str:
        return role_label(group)

    @display(description=_("what it may"))
    def summary_shown(self, group: Group) -> str:
        return str(SUMMARIES.get(group.name, "-"))


class ApiKeyForm(forms.ModelForm):  # type: ignore[type-arg]
    class Meta:
        model = ApiKey
        fields = ("name", "user", "scope", "expires_at")

    def clean_expires_at(self) -> Any:
        when = self.cleaned_data["expires_at"]
        if when <= timezone.now():
            raise forms.ValidationError(_t("This time has passed."))
        return when


@admin.register(ApiKey)
class ApiKeyAdmin(ModelAdmin):  # type: ignore[misc]
    """A key is shown once, when it is made; it can be revoked, and not be changed."""

    form = ApiKeyForm
    list_display = ("name", "user", "scope", "begins", "state_shown", "expires_at", "last_used_at")
    list_select_related = ("user",)
    autocomplete_fields = ("user",)
    actions = ("revoke",)
    fields = ("name", "user", "scope", "expires_at")

    def get_queryset(self, request: HttpRequest) -> QuerySet[ApiKey]:
        queryset: QuerySet[ApiKey] = super().get_queryset(request)
        return queryset if request.user.is_superuser else queryset.exclude(user__is_superuser=True)

    def formfield_for_foreignkey(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        if db_field.name == "user":
            users = User.objects.filter(is_active=True)
            # A key for a superuser would be a way to all rights.
            kwargs["queryset"] = users if request.user.is_superuser else users.filter(is_superuser=False)
        return super().formfield_for_foreignkey(db_field, request, **kwargs)

    def get_changeform_initial_data(self, request: HttpRequest) -> dict[str, Any]:
        return {"user": request.user.pk, "expires_at": timezone.now() + USUAL_LIFETIME}

    def has_change_permission(self, request: HttpRequest, obj: ApiKey | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: ApiKey | None = None) -> bool:
        return False

    def save_model(self, request: HttpRequest, obj: ApiKey, form: Any, change: bool) -> None:
        key, text = ApiKey.objects.make(obj.user, obj.name, obj.scope, obj.expires_at)
        obj.pk, obj.prefix = key.pk, key.prefix
        messages.warning(
            request,
            format_html(
                '{} <code class="exporter-code">{}</code>', _t("Copy the key now, it is not shown again:"), text
            ),
        )

    @display(description=_("begins with"))
    def begins(self, key: ApiKey) -> str:
        return f"exp_{key.prefix}…"

    @display(description=_("state"), label={"valid": "success", "expired": "warning", "revoked": "danger"})
    def state_shown(self, key: ApiKey) -> tuple[str, str]:
        if key.revoked_at:
            return "revoked", _t("revoked")
        return ("valid", _t("valid")) if key.is_valid else ("expired", _t("expired"))

    @action(description=_("Revoke"), permissions=["revoke"])
    def revoke(self, request: HttpRequest, queryset: QuerySet[ApiKey]) -> None:
        for key in queryset:
            key.revoke()
        messages.success(request, _t("{count} keys revoked.").format(count=len(queryset)))

    def has_revoke_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("access.change_apikey")


@admin.register(AuditEvent)
class AuditEventAdmin(LogAdmin):
    list_display = ("at", "username", "action", "subject_name", "kind_shown", "via", "address")
    list_display_links = ("at", "subject_name")
    list_filter = ("action", "via", ("at", TimesFilter))
    list_filter_submit = True
    search_fields = ("username", "subject_name", "note", "address")
    show_full_result_count = False
    fields = (
        "at",
        "username",
        ("via", "address"),
        "action",
        ("subject_name", "kind_shown", "subject_number"),
        "note",
        "changes_shown",
    )
    readonly_fields = ("kind_shown", "changes_shown")

    @display(description=_("kind"))
    def kind_shown(self, event: AuditEvent) -> str:
        return kind_words(event.subject_type)

    @display(description=_("changes"))
    def changes_shown(self, event: AuditEvent) -> str | SafeString:
        if not event.changes:
            return "-"
        names = field_words(event.subject_type)
        rows = (
            (names.get(name, name), _shown(before), _shown(after)) for name, (before, after) in event.changes.items()
        )
        line = '<tr><th class="exporter-audit">{}</th><td><pre class="exporter-code">{}</pre></td><td><pre class="exporter-code">{}</pre></td></tr>'
        head = format_html("<tr><th></th><th>{}</th><th>{}</th></tr>", _t("before"), _t("after"))
        return format_html('<table class="exporter-audit">{}{}</table>', head, format_html_join("", line, rows))


def kind_words(label: str) -> str:
    """The name of the model with this label; the label itself for one that there is no more."""
    try:
        return str(apps.get_model(label)._meta.verbose_name) if label else "-"
    except LookupError:
        return label


def field_words(label: str) -> dict[str, str]:
    """The fields of the model with this label, as its forms call them."""
    try:
        fields = apps.get_model(label)._meta.get_fields() if label else ()
    except LookupError:
        return {}
    named = [field for field in fields if hasattr(field, "verbose_name")]
    return {
        name: str(field.verbose_name) for field in named for name in (field.name, getattr(field, "attname", field.name))
    }


def _shown(value: Any) -> str:
    if value in (None, "", [], {}):
        return "-"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return str(value)
