"""What an executor promises: it carries out queued runs, each once, and says when one has ended.

The row in the database is the truth, never what an executor remembers: a run counts as started when it is claimed
(tasks/states.py), and as ended when its state says so. An executor that forgets everything does no harm.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, NamedTuple

from exporter_site.worker import worker_name
from tasks.models import Execution


class Ended(NamedTuple):
    """A run that is no longer watched. `code` is its process's exit code, negative for the signal that killed it; None
    when nobody knows whether the process still lives."""

    execution_id: int
    attempt: int
    code: int | None


class ExecutorError(Exception):
    """This executor can't be used here; the text says why, and how to mend it."""


class Executor(ABC):
    """`kind`: its name in the registry. `on_this_machine`: whether its runs take from the workers of this machine.

    Making one raises ExecutorError where it can't be used.
    """

    kind: ClassVar[str]
    on_this_machine: ClassVar[bool] = True

    def __init__(self) -> None:
        self.on_busy: Callable[[], object] = lambda: None  # called now and then by a start() that takes long

    @property
    def running(self) -> int:
        """How many runs were started here and are not known to have ended."""
        return 0

    @abstractmethod
    def start(self, execution: Execution) -> bool:
        """Carry out a queued run. False when it may not start now, or is not queued any more."""

    def collect(self) -> list[Ended]:
        """The runs that ended since this was last asked. Their rows may still say running, if they were killed."""
        return []

    def wait(self, seconds: float) -> None:
        """Return when a run has ended, or after `seconds`."""
        time.sleep(seconds)

    def holds(self, execution_id: int, attempt: int) -> bool:
        """Whether this run is one of `running`."""
        return False

    def stop(self) -> None:  # noqa: B027  # there may be nothing to stop
        """Ask the running exports to stop. They are put back into the queue."""

    def close(self) -> None:  # noqa: B027
        """Let go of what is running; it goes on by itself."""

    def claim(self, execution: Execution) -> bool:
        """Make a queued run ours, until its own process makes itself known."""
        return Execution.objects.take(execution, worker=worker_name())
