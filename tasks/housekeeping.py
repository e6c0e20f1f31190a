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
from datetime import datetime, timedelta
from itertools import chain
from pathlib import Path

from django.conf import settings
from django.db.models import Q
from django.utils import timezone

from tasks import files
from tasks.models import Execution, SchedulerProcess
from tasks.states import Status

logger = logging.getLogger(__name__)

BATCH = 200  # rows, or directories to look at, in one piece
FILES_BATCH = 20  # executions whose files go in one piece: a slow disk takes a second for them
KEEP_ROWS = timedelta(days=7)  # at least: an occurrence whose row is gone could not be told from one that never was
FOR_EVER = 36_500  # days; a date so long ago can still be reckoned
# What was touched so lately may belong to a run that is just being recorded.
YOUNG = 3600.0  # seconds
QUARANTINE = ".quarantine"
QUARANTINED_FOR = 7 * 86_400.0  # seconds
# As tasks/files.py and runner.py make them, and nothing that only looks similar: `01-15` is somebody else's.
_MONTH = re.compile(r"\d{4}-\d{2}")
_ATTEMPT = re.compile(r"([1-9]\d{0,17})-([1-9]\d{0,8})")
_SET_ASIDE = re.compile(rf"{_ATTEMPT.pattern}(?:\.[1-9]\d*)?")


@dataclass(slots=True)
class Removed:
    """What was removed, or would be: executions whose files went and their bytes, rows, unfinished files of dead runs,
    files without a row that were set aside, and those that had been set aside long enough."""

    files: int = 0
    bytes: int = 0
    rows: int = 0
    leftovers: int = 0
    orphans: int = 0
    discarded: int = 0

    def __bool__(self) -> bool:
        return any((self.files, self.rows, self.leftovers, self.orphans, self.discarded))


def housework(days: int | None = None, *, dry_run: bool = False, removed: Removed | None = None) -> Iterator[Removed]:
    """Remove what is older than `days` (export.retention_days) and what nobody owns. Yields after each piece what has
    been removed so far. What one part of the work raises comes at the end: the others are done all the same."""
    removed = Removed() if removed is None else removed
    keep = timedelta(days=min(settings.CONFIG.export.retention_days if days is None else days, FOR_EVER))
    now = timezone.now()
    failures = []
    for part in (
        _old_files(now - keep, removed, dry_run),
        _old_rows(now - max(keep, KEEP_ROWS), removed, dry_run),
        _leftovers(removed, dry_run),
        _orphans(removed, dry_run),
        _quarantined(removed, dry_run),
        _old_schedulers(now - KEEP_ROWS, dry_run),
    ):
        try:
            for _piece in part:
                yield removed
        except Exception as exc:
            failures.append(exc)
    if failures:
        raise failures[0]


def _old_files(before: datetime, removed: Removed, dry_run: bool) -> Iterator[None]:
    """The files of runs that ended before `before`. Their rows stay, and say so."""
    old = Execution.objects.filter(status=Status.SUCCEEDED, finished_at__lt=before, files_removed_at=None)
    last = 0
    while rows := list(old.filter(pk__gt=last).order_by("pk")[:FILES_BATCH]):
        last = rows[-1].pk
        for row in rows:
            removed.files += bool(row.files)
            removed.bytes += row.file_size or 0
            if not dry_run:
                # First the row: a file without its row is found as an orphan, a row without its file would lie.
                Execution.objects.filter(pk=row.pk).update(files_removed_at=timezone.now())
                _remove_files(row)
        yield


def _remove_files(row: Execution) -> None:
    # The month stays even when it is empty: a run may be about to publish into it.
    for directory in {(files.output_root() / part["path"]).parent for part in row.files}:
        # Only ever the directory of this attempt.
        if directory.name == files.attempt_name(row.pk, row.attempt):
            _remove(directory)


def _old_rows(before: datetime, removed: Removed, dry_run: bool) -> Iterator[None]:
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
    for directories in _batches(_attempts(files.temp_root())):
        for directory in _without(directories, Q(status=Status.RUNNING)):
            removed.leftovers += 1
            if not dry_run:
                _remove(directory)
        yield


def _orphans(removed: Removed, dry_run: bool) -> Iterator[None]:
    """Files that no row knows, as after a backup of the database was restored: set aside."""
    owned = Q(status=Status.RUNNING) | Q(status=Status.SUCCEEDED, files_removed_at=None)
    months = _directories(files.output_root(), _MONTH)
    for directories in chain.from_iterable(_batches(_attempts(month)) for month in months):
        for directory in _without(directories, owned):
            removed.orphans += 1
            if not dry_run:
                _set_aside(directory)
        yield


def _set_aside(directory: Path) -> None:
    quarantine = files.output_root() / QUARANTINE
    target, number = quarantine / directory.name, 1
    while target.exists():  # from before the database began to count anew
        target, number = quarantine / f"{directory.name}.{number}", number + 1
    try:
        quarantine.mkdir(mode=0o700, exist_ok=True)
        os.utime(directory)  # From now on it counts.
        directory.rename(target)
    except OSError as exc:
        logger.warning("%s belongs to no execution and can't be set aside: %s", directory, exc)
    else:
        logger.warning("%s belongs to no execution and is set aside in %s", directory, quarantine)


def _quarantined(removed: Removed, dry_run: bool) -> Iterator[None]:
    """What was set aside a week ago."""
    for directory in _directories(files.output_root() / QUARANTINE, _SET_ASIDE):
        if _age(directory) > QUARANTINED_FOR:
            removed.discarded += 1
            if not dry_run:
                _remove(directory)
            yield


def _old_schedulers(before: datetime, dry_run: bool) -> Iterator[None]:
    if not dry_run and SchedulerProcess.objects.filter(seen_at__lt=before).delete()[0]:
        yield


def published() -> Iterator[Path]:
    """The directories of all attempts below output_dir, whether or not a row knows them."""
    for month in _directories(files.output_root(), _MONTH):
        yield from _directories(month, _ATTEMPT)


def _attempts(parent: Path) -> list[Path]:
    """The directories of attempts in `parent` that are not young."""
    return [directory for directory in _directories(parent, _ATTEMPT) if _age(directory) > YOUNG]


def _directories(parent: Path, name: re.Pattern[str]) -> list[Path]:
    """Never a link: where it leads is not ours."""
    if not parent.is_dir():
        return []
    found = (path for path in parent.iterdir() if name.fullmatch(path.name))
    return sorted(path for path in found if path.is_dir() and not path.is_symlink())


def _batches(directories: list[Path]) -> Iterator[list[Path]]:
    for start in range(0, len(directories), BATCH):
        yield directories[start : start + BATCH]


def _without(directories: list[Path], owned: Q) -> list[Path]:
    """Those of `directories` that are not the current attempt of an execution that is `owned`."""
    attempts = {
        directory: (int(match[1]), int(match[2]))
        for directory in directories
        if (match := _ATTEMPT.fullmatch(directory.name))
    }
    known = Execution.objects.filter(owned, pk__in=[pk for pk, _attempt in attempts.values()])
    held = set(known.values_list("pk", "attempt"))
    return [directory for directory, attempt in attempts.items() if attempt not in held]


def _remove(directory: Path) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    if directory.exists():
        logger.warning("%s can't be removed; is it another user's?", directory)


def _age(directory: Path) -> float:
    """Seconds since something was made in it."""
    try:
        return time.time() - directory.stat().st_mtime
    except OSError:
        return 0.0  # gone in this moment
