from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class TasksConfig(AppConfig):
    name = "tasks"
    verbose_name = _("Exports")

    def ready(self) -> None:
        from exporter_site.access import audit
        from tasks.models import ExportTask, Pause

        audit.watch(ExportTask, leave_out=("next_run_at",))
        audit.watch(Pause, leave_out=("active_key",))
