"""What a Celery worker does with a message."""

from exporter_site.celery import app
from exporter_site.worker import worker_name
from tasks import runner
from tasks.models import Execution


@app.task(name="tasks.run_execution", ignore_result=True)
def run_execution(execution_id: int) -> None:
    """Claim the execution and carry it out. Nothing happens when it is not queued any more, or may not start now."""
    claimed = Execution.objects.claim(execution_id, worker=worker_name())
    if claimed is not None:
        runner.run(claimed)
