"""The admin site: the management UI of the system."""

from django.utils.translation import gettext_lazy as _
from unfold.sites import UnfoldAdminSite


class ExporterAdminSite(UnfoldAdminSite):  # type: ignore[misc]  # untyped library
    site_title = _("Data Export System")
    site_header = _("Data Export System")
    index_title = _("Overview")
