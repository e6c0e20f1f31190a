"""One run after another in the scheduler's own process: for the smallest installations, and to debug."""

from tasks import runner
from tasks.executors.base import Executor
from tasks.models import Execution


class InlineExecutor(Executor):
    kind = "inline"

    def start(self, execution: Execution) -> bool:
        claimed = self.claim(execution)
        if claimed is None:
            return False
        runner.run(claimed, self._still_here)
        return True

    def _still_here(self, progress: runner.Progress) -> None:
        self.on_busy()
