from typing import Any

from django.core.management.base import CommandParser

from exporter_site.command import ExporterCommand, Failed
from tasks import runner
from tasks.models import Execution
from tasks.states import Status


class Command(ExporterCommand):
    help = "Internal: carries out one claimed execution. The scheduler starts it; people use runtask."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("execution", type=int)
        parser.add_argument("attempt", type=int)

    def handle(self, *args: Any, **options: Any) -> None:
        rows = Execution.objects.select_related("task", "task__data_source", "data_source")
        execution = rows.filter(pk=options["execution"], attempt=options["attempt"], status=Status.RUNNING).first()
        if execution is None:
            raise Failed("This attempt is not running any more.")
        runner.run(execution)
