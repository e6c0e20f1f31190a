"""What our model admins share."""

from typing import Any

from django.http import HttpRequest
from unfold.admin import ModelAdmin, TabularInline

from exporter_site.fields import SecretField


class WriteOnlySecrets:
    """Where nothing can be changed, the admin shows what is stored: secrets are left out there."""

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        fieldsets = super().get_fieldsets(request, obj)  # type: ignore[misc]
        if obj is None or self.has_change_permission(request, obj):  # type: ignore[attr-defined]
            return fieldsets
        secret = {field.name for field in obj._meta.fields if isinstance(field, SecretField)}
        return [(title, {**options, "fields": _without(secret, options["fields"])}) for title, options in fieldsets]


def _without(names: set[str], fields: Any) -> tuple[Any, ...]:
    """`fields` of a fieldset, also within its lines, without `names`."""
    lines = (field if isinstance(field, str) else _without(names, field) for field in fields)
    return tuple(line for line in lines if line and line not in names)


class SubmitActionsAdmin(WriteOnlySecrets, ModelAdmin):  # type: ignore[misc]  # untyped library
    """Shows the buttons of `actions_submit_line` on the page of a new object too; the theme has them only later."""

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> Any:
        context = dict(extra_context or {})
        if object_id is None:
            context["actions_submit_line"] = self.get_actions_submit_line(request, None)
        return super().changeform_view(request, object_id, form_url, context)


class ViewOnly:
    """Nobody adds, changes or removes a row here."""

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


class LogAdmin(ViewOnly, ModelAdmin):  # type: ignore[misc]
    pass


class LogInline(ViewOnly, TabularInline):  # type: ignore[misc]
    per_page = 20
    hide_title = True
