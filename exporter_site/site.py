"""The admin site: the management UI of the system."""

from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.utils.translation import gettext as _t
from django.utils.translation import gettext_lazy as _
from django.views.decorators.http import require_http_methods
from unfold.sites import UnfoldAdminSite


class ExporterAdminSite(UnfoldAdminSite):  # type: ignore[misc]  # untyped library
    site_title = _("Data Export System")
    site_header = _("Data Export System")
    index_title = _("Overview")

    def admin_view(self, view: Any, cacheable: bool = False) -> Any:
        """Pages are read and forms are sent; Django would take any other verb for reading."""
        return require_http_methods(["GET", "HEAD", "POST"])(super().admin_view(view, cacheable))

    def password_change_done(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        """On to the overview: whoever had to change their password wants to begin."""
        messages.success(request, _t("Your password was changed."))
        return redirect("admin:index")
