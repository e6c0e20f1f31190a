"""What would fill the disk in time: old files, old rows, and what dead runs left.

Everything goes in small pieces, so that nothing waits for it: `housework()` is a generator that the scheduler moves on
by one piece at a time, and that `system cleanup` runs to its end.
"""

import logging
import os
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from django.conf import settings
from django.utils import timezone

from tasks import files
from tasks.models import Execution, SchedulerProcess
from tasks.states import Status

logger = logging.getLogger(__name__)

BATCH = 200  # rows in one piece
KEEP_ROWS = timedelta(days=7)  # at least: an occurrence whose row is gone could not be told from one that never was
# What was touched so lately may belong to a run that is just being recorded.
YOUNG = 3600.0  # seconds
QUARANTINE = ".quarantine"
QUARANTINED_FOR = 7 * 86_400.0  # seconds
_ATTEMPT = re.compile(r"(\d+)-(\d+)")


@dataclass(slots=True)
class Removed:
    """What was removed, or would be: executions whose files went and their bytes, rows, unfinished files of dead runs,
    files without a row that were set aside."""

    files: int = 0
    bytes: int = 0
    rows: int = 0
    leftovers: int = 0
    orphans: int = 0

    def __bool__(self) -> bool:
        return any((self.files, self.rows, self.leftovers, self.orphans))


def housework(days: int | None = None, *, dry_run: bool = False, removed: Removed | None = None) -> Iterator[Removed]:
    """Remove what is older than `days` (export.retention_days) and what nobody owns. Yields after each piece what has
    been removed so far."""
    removed = Removed() if removed is None else removed
    keep = timedelta(days=settings.CONFIG.export.retention_days if days is None else days)
    for _piece in _old_files(timezone.now() - keep, removed, dry_run):
        yield removed
    for _piece in _old_rows(timezone.now() - max(keep, KEEP_ROWS), removed, dry_run):
        yield removed
    for _piece in _leftovers(removed, dry_run):
        yield removed
    for _piece in _orphans(removed, dry_run):
        yield removed
    if not dry_run:
        SchedulerProcess.objects.filter(seen_at__lt=timezone.now() - KEEP_ROWS).delete()


def _old_files(before: object, removed: Removed, dry_run: bool) -> Iterator[None]:
    """The files of runs that ended before `before`. Their rows stay, and say so."""
    old = Execution.objects.filter(status=Status.SUCCEEDED, finished_at__lt=before, files_removed_at=None)
    last = 0
    while rows := list(old.filter(pk__gt=last).order_by("pk")[:BATCH]):
        last = rows[-1].pk
        for row in rows:
            removed.files += 1
            removed.bytes += row.file_size or 0
            if not dry_run:
                # First the row: a file without its row is found as an orphan, a row without its file would lie.
                Execution.objects.filter(pk=row.pk).update(files_removed_at=timezone.now())
                _remove_files(row)
        yield


def _remove_files(row: Execution) -> None:
    for directory in {(files.output_root() / part["path"]).parent for part in row.files}:
        # Only ever the directory of this attempt.
        if directory.name == files.attempt_name(row.pk, row.attempt):
            shutil.rmtree(directory, ignore_errors=True)
            _remove_if_empty(directory.parent)


def _remove_if_empty(month: Path) -> None:
    try:
        month.rmdir()
    except OSError:
        pass  # It is not empty.


def _old_rows(before: object, removed: Removed, dry_run: bool) -> Iterator[None]:
    old = Execution.objects.finished().filter(finished_at__lt=before)
    if not dry_run:
        old = old.exclude(status=Status.SUCCEEDED, files_removed_at=None)
    last = 0
    while pks := list(old.filter(pk__gt=last).order_by("pk").values_list("pk", flat=True)[:BATCH]):
        last = pks[-1]
        removed.rows += len(pks)
        if not dry_run:
            Execution.objects.filter(pk__in=pks).delete()
        yield


def _leftovers(removed: Removed, dry_run: bool) -> Iterator[None]:
    """Temporary directories of attempts that do not run any more."""
    for directory in _attempts(files.temp_root()):
        if _is_young(directory) or _holds(directory, Status.RUNNING):
            continue
        removed.leftovers += 1
        if not dry_run:
            shutil.rmtree(directory, ignore_errors=True)
        yield


def _orphans(removed: Removed, dry_run: bool) -> Iterator[None]:
    """Files that no row knows, as after a backup of the database was restored: set aside, and removed a week later."""
    root = files.output_root()
    quarantine = root / QUARANTINE
    for month in sorted(root.glob("[0-9]*-[0-9]*")):
        for directory in _attempts(month):
            if _is_young(directory) or _holds(directory, Status.RUNNING, Status.SUCCEEDED):
                continue
            removed.orphans += 1
            if not dry_run:
                logger.warning("%s belongs to no execution and is set aside in %s", directory, quarantine)
                quarantine.mkdir(mode=0o700, exist_ok=True)
                os.utime(directory)  # From now on it counts.
                directory.rename(quarantine / directory.name)
            yield
    for directory in _attempts(quarantine):
        if not dry_run and _age(directory) > QUARANTINED_FOR:
            shutil.rmtree(directory, ignore_errors=True)
            yield


def _attempts(parent: Path) -> list[Path]:
    """The directories of attempts in `parent`."""
    if not parent.is_dir():
        return []
    return sorted(path for path in parent.iterdir() if _ATTEMPT.fullmatch(path.name) and path.is_dir())


def _holds(directory: Path, *statuses: Status) -> bool:
    """Whether the attempt of `directory` is the current one of an execution in one of `statuses`."""
    execution_id, attempt = map(int, directory.name.split("-"))
    return Execution.objects.filter(pk=execution_id, attempt=attempt, status__in=statuses).exists()


def _is_young(directory: Path) -> bool:
    return _age(directory) < YOUNG


def _age(directory: Path) -> float:
    try:
        return time.time() - directory.stat().st_mtime
    except OSError:
        return 0.0  # gone in this moment
