"""Where claimed runs are carried out. A further way is one file here and one line in the registry."""

from django.utils.translation import gettext_lazy as _

from exporter_site.registry import Registry
from tasks.executors.base import Executor

executors: Registry[Executor] = Registry(
    {
        "local": (_("processes on this machine"), "tasks.executors.local.LocalExecutor"),
        "inline": (_("one after another in the scheduler itself"), "tasks.executors.inline.InlineExecutor"),
        "celery": (_("Celery workers"), "tasks.executors.celery.CeleryExecutor"),
    }
)
