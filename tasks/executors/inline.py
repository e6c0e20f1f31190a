"""One run after another in the scheduler's own process: for the smallest installations, and to debug."""

from tasks import runner
from tasks.executors.base import Executor
from tasks.models import Execution
from tasks.supervisor import Progress


class InlineExecutor(Executor):
    kind = "inline"

    def start(self, execution: Execution) -> bool:
        if not self.claim(execution):
            return False
        runner.run_claimed(execution.pk, execution.attempt, self._still_here)
        return True

    def _still_here(self, progress: Progress) -> None:
        self.on_busy()
