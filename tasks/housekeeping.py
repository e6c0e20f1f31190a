"""What would fill the disk in time: old files, old rows, and what dead runs left.

Everything goes in small pieces, so that nothing waits for it: `housework()` is a generator that the scheduler moves on
by one piece at a time, and that `system cleanup` runs to its end.
"""

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice

from django.conf import settings
from django.db.models import Q
from django.utils import timezone

from tasks import files, storage
from tasks.models import Execution, SchedulerProcess
from tasks.states import Status
from tasks.storage.base import ATTEMPT, QUARANTINE, Place, Storage, StorageError

logger = logging.getLogger(__name__)

BATCH = 200  # rows, or places to look at, in one piece
FILES_BATCH = 20  # executions whose files go in one piece: a slow disk takes a second for them
KEEP_ROWS = timedelta(days=7)  # at least: an occurrence whose row is gone could not be told from one that never was
FOR_EVER = 36_500  # days; a date so long ago can still be reckoned
# What was touched so lately may belong to a run that is just being recorded.
YOUNG = 3600.0  # seconds
QUARANTINED_FOR = 7 * 86_400.0  # seconds


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
    # Only ever the place of this attempt. The month stays even when it is empty: a run may be about to publish into it.
    name = files.attempt_name(row.pk, row.attempt)
    stored = map(storage.StoredFile.of, row.files)
    for kind, place in {(file.kind, file.place) for file in stored if file.place.rpartition("/")[2] == name}:
        storage.get(kind).remove(place)


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
    root = files.temp_root()
    found = (Place(directory.name, files.age(directory)) for directory in files.directories(root, ATTEMPT))
    for places in _batches(found):
        for place in _without(places, Q(status=Status.RUNNING)):
            removed.leftovers += 1
            if not dry_run:
                files.remove(root / place.path)
        yield


def _orphans(removed: Removed, dry_run: bool) -> Iterator[None]:
    """Files that no row knows, as after a backup of the database was restored: set aside."""
    owned = Q(status=Status.RUNNING) | Q(status=Status.SUCCEEDED, files_removed_at=None)
    for store in storage.in_use():
        for places in _batches(store.places()):
            for place in _without(places, owned):
                removed.orphans += 1
                if not dry_run:
                    _set_aside(store, place)
            yield


def _set_aside(store: Storage, place: Place) -> None:
    try:
        target = store.move(place.path, f"{QUARANTINE}/{place.name}")
    except StorageError:
        raise  # It is away: the others would wait for it in vain.
    except OSError as exc:
        logger.warning("%s belongs to no execution and can't be set aside: %s", store.where(place.path), exc)
    else:
        logger.warning("%s belongs to no execution and is set aside: %s", store.where(place.path), target)


def _quarantined(removed: Removed, dry_run: bool) -> Iterator[None]:
    """What was set aside a week ago."""
    for store in storage.in_use():
        for place in store.quarantined():
            if place.age > QUARANTINED_FOR:
                removed.discarded += 1
                if not dry_run:
                    store.remove(place.path)
                yield


def _old_schedulers(before: datetime, dry_run: bool) -> Iterator[None]:
    if not dry_run and SchedulerProcess.objects.filter(seen_at__lt=before).delete()[0]:
        yield


def _batches(places: Iterable[Place]) -> Iterator[list[Place]]:
    """Those of `places` that are not young."""
    old = (place for place in places if place.age > YOUNG)
    while batch := list(islice(old, BATCH)):
        yield batch


def _without(places: list[Place], owned: Q) -> list[Place]:
    """Those of `places` that are not of the current attempt of an execution that is `owned`."""
    numbers = [place.attempt[0] for place in places if place.attempt]
    held = set(Execution.objects.filter(owned, pk__in=numbers).values_list("pk", "attempt"))
    return [place for place in places if place.attempt and place.attempt not in held]
