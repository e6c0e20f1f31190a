import gc

from django.apps import AppConfig
from django.contrib.admin.apps import SimpleAdminConfig
from django.utils.translation import gettext_lazy as _


class AdminConfig(SimpleAdminConfig):
    """The admin's modules are imported with the URLs: commands start in two thirds of the time without them."""

    default_site = "exporter_site.site.ExporterAdminSite"


class ExporterSiteConfig(AppConfig):
    name = "exporter_site"
    verbose_name = _("Data Export System")

    def ready(self) -> None:
        from exporter_site import checks, silence  # noqa: F401  # they register themselves

        # What is loaded now stays: it need never be looked at again. See manage.py.
        gc.freeze()
        gc.enable()
