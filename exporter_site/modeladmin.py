"""What our model admins share."""

from typing import Any

from django.http import HttpRequest
from unfold.admin import ModelAdmin


class SubmitActionsAdmin(ModelAdmin):  # type: ignore[misc]  # untyped library
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
