"""How a run shows itself on a terminal: one line while it goes, a few when it has ended."""

import sys
from typing import TextIO

from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from exporter_site.formats import human_duration, human_size
from tasks.models import Execution
from tasks.supervisor import Progress
from tasks.writers.base import FIDELITY


class ProgressLine:
    """A bar on a terminal, nothing elsewhere: logs and pipes get only the summary. The number of rows is not known
    beforehand, so the bar moves and the figures grow."""

    WIDTH = 20

    def __init__(self, stream: TextIO = sys.stderr) -> None:
        self._stream = stream
        self._shown = stream.isatty()
        self._step = 0

    def __call__(self, progress: Progress) -> None:
        if not self._shown:
            return
        self._step += 1
        place = self._step % (2 * self.WIDTH - 6)
        place = min(place, 2 * self.WIDTH - 6 - place)
        bar = "░" * place + "███" + "░" * (self.WIDTH - 3 - place)
        figures = _("{rows} rows · {rate} rows/s · {size} · {elapsed}").format(
            rows=f"{progress.rows:,}",
            rate=f"{progress.rate:,.0f}",
            size=human_size(progress.bytes),
            elapsed=human_duration(progress.elapsed),
        )
        self._stream.write(f"\r{bar} {figures}\x1b[K")
        self._stream.flush()

    def end(self) -> None:
        if self._shown:
            self._stream.write("\r\x1b[K")
            self._stream.flush()


def summary(execution: Execution, paths: list[str]) -> str:
    """What an operator wants to read when a run has ended."""
    lines = [f"{execution.task_name} · #{execution.pk} · {execution.get_status_display()}"]
    if execution.reason:
        lines.append(f"{execution.reason_sentence} {execution.reason_remedy}".strip())
    if execution.error:
        lines.append(execution.error)
    if paths:
        rows = execution.rows_count or 0
        counted = ngettext("{count} row", "{count} rows", rows).format(count=f"{rows:,}")
        size, duration = human_size(execution.file_size or 0), human_duration(execution.duration_seconds or 0)
        lines.append(f"{counted} · {size} · {duration}")
        for code, count in execution.fidelity.items():
            lines.append(f"  {count:,} {FIDELITY.get(code, code)}")
        lines += paths
    return "\n".join(lines)
