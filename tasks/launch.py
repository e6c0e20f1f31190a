"""Runs a task in the foreground of a command: queue, claim, run, hand over the file."""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path, PurePath
from typing import Any, Self
from zoneinfo import ZoneInfo

from django.db import transaction
from django.utils.translation import gettext as _

from exporter_site.worker import worker_name
from tasks import runner
from tasks.executors.inline import InlineExecutor
from tasks.models import Execution, ExportTask
from tasks.scheduler import Scheduler
from tasks.states import Trigger
from tasks.storage import StoredFile
from tasks.supervisor import Progress
from tasks.writers import writers


class LaunchError(ValueError):
    """The run can't be started as asked; the text says why."""


@dataclass(frozen=True, slots=True)
class Output:
    """Where a copy of the file goes: into `directory`, with its own name unless there is another `name`."""

    directory: Path
    name: str = ""

    @classmethod
    def at(cls, path: Path) -> Self:
        """What `path` means now; the directory may be gone when the run has ended."""
        return cls(path) if path.is_dir() else cls(path.parent, path.name)

    def place_of(self, part: str, number: int) -> Path:
        """Where the part of this name goes, which has this number, counted from 1."""
        if not self.name:
            return self.directory / part
        first = self.directory / self.name
        suffix = first.suffix or PurePath(part).suffix
        return first.with_name(f"{first.stem}{f'_part{number}' if number > 1 else ''}{suffix}")


@dataclass(frozen=True, slots=True)
class Request:
    """`planned_at`: what the dates in SQL count from, in that is now when left out. `output`: where a copy goes."""

    task: ExportTask
    planned_at: datetime | None = None
    params: dict[str, str] = field(default_factory=dict)
    notify: bool = True
    output: Output | None = None
    format: str = ""


def find_task(id_or_name: str) -> ExportTask:
    """The task with this number, else with this name. Raises LaunchError with the nearest name."""
    tasks = ExportTask.objects.select_related("data_source")
    found = tasks.filter(pk=int(id_or_name)).first() if id_or_name.isdecimal() else None
    found = found or tasks.filter(name=id_or_name).first()
    if found is None:
        raise LaunchError(_("There is no task “{name}”. “manage.py task list” shows them all.").format(name=id_or_name))
    return found


def parse_date(text: str, timezone: str) -> datetime:
    """YYYY-MM-DD or YYYY-MM-DDTHH:MM in `timezone`, of the years 1970 to 2999. Raises LaunchError."""
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError:
        raise LaunchError(
            _("“{text}” is not a date. Write 2025-08-12 or 2025-08-12T09:00.").format(text=text[:100])
        ) from None
    # Every database holds these, and a zone or some days more or less do not lead out of the calendar.
    if not 1970 <= parsed.year < 3000:
        raise LaunchError(_("The year of “{text}” must be between 1970 and 2999.").format(text=text))
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=ZoneInfo(timezone))


def known_format(name: str) -> str:
    """`name`, if it is a format (or "" for the task's own). Raises LaunchError."""
    if name and name not in writers:
        raise LaunchError(_("Unknown format. Known are: {formats}.").format(formats=", ".join(writers)))
    return name


def typed_params(task: ExportTask, given: dict[str, str]) -> dict[str, Any]:
    """Values from a command line in the types of the task's defaults. Raises LaunchError."""
    values: dict[str, Any] = {}
    for name, text in given.items():
        default = task.params.get(name)
        try:
            values[name] = type(default)(text) if isinstance(default, (int, float)) else text
        except ValueError:
            raise LaunchError(_("The parameter “{name}” must be a number.").format(name=name)) from None
    return values


def launch(request: Request, on_progress: Callable[[Progress], None]) -> Execution:
    """Run the task now, in this process. Returns the ended execution; hand_over() makes the copies that are wanted.

    Raises LaunchError when it can't be started: another run holds the task, the output can't be written.
    """
    task = request.task
    if request.output:
        check_output(request.output)
    Scheduler(0, InlineExecutor()).reap()  # a run whose process was killed would otherwise hold the task for ever
    execution = _claim_new(request)
    if execution is None:
        raise LaunchError(
            _("“{name}” is running already. Wait for it, cancel it, or allow parallel runs in the task.").format(
                name=task.name
            )
        )
    return runner.run(execution, on_progress)


def hand_over(execution: Execution, output: Output | None) -> list[str]:
    """Where the files of `execution` are: the copies at `output`, or where it is None, the files themselves.

    Raises LaunchError when there can be no copies.
    """
    stored = execution.stored_files()
    if not stored or output is None:
        return [str(file) for file in stored]
    try:
        return [str(path) for path in copy_to(stored, output)]
    except OSError as exc:
        raise LaunchError(
            _(
                "The run succeeded, but its file could not be copied to {path}: {error}. It is kept as {original}."
            ).format(path=output.directory / output.name, error=exc.strerror or exc, original=stored[0])
        ) from exc


def _claim_new(request: Request) -> Execution | None:
    """A new run that this process holds; None, and a skipped row, when another run of the task is going on."""
    task = request.task
    # In one transaction: a scheduler must not see the row while it is queued, and take it.
    with transaction.atomic():
        queued = Execution.objects.enqueue(
            task,
            trigger=Trigger.CLI,
            planned_at=request.planned_at,
            params=typed_params(task, request.params),
            format=request.format,
            notify=request.notify,
        )
        # Whoever sits at the terminal decides for himself how many may read a source.
        execution = Execution.objects.claim(queued.pk, worker=worker_name(), limit_source=False)
        if execution is None:
            Execution.objects.skip(queued.pk, "overlap")
    return execution


def check_output(output: Output) -> None:
    """Refuse an output that can't be written, before an hour of work and not after it."""
    if not output.directory.is_dir() or not os.access(output.directory, os.W_OK):
        raise LaunchError(_("{path} is not a directory that can be written to.").format(path=output.directory))


def copy_to(stored: list[StoredFile], output: Output) -> list[Path]:
    """Copies of the parts at `output`, each whole or not there. Raises OSError."""
    copies = []
    for number, file in enumerate(stored, start=1):
        target = output.place_of(file.name, number)
        partial = target.with_name(f".{target.name}.part")
        try:
            with file.open() as source, partial.open("wb") as copy:
                shutil.copyfileobj(source, copy)
            partial.replace(target)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        copies.append(target)
    return copies
