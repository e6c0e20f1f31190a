from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class DatasourcesConfig(AppConfig):
    name = "datasources"
    verbose_name = _("data sources")

    def ready(self) -> None:
        from datasources.models import DataSource
        from exporter_site.access import audit

        audit.watch(DataSource, leave_out=("tested_at", "test_message", "test_ok"))
