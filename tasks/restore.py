"""`system restore`: a backup becomes this installation, and nothing that has happened since runs or is sent again.

    look       every checksum, version, keys; nobody works here; what is here may go
    load       exporter_site/dump.py; from the first moment on the system is paused and owes no message
    migrate    forward, when the backup is older than this program
    settle     what may have happened between backup and now is put on record as `restored`, and does not happen again
    files      those of the backup come back, those that no row knows are set aside, rows without theirs say so
    resume     the pause ends: whatever dies before, nothing has started; the restore can be done again

The backup can't know which runs came after it, and whether the messages that it owes have been sent since. A run or a
message too many can't be taken back; one that is missing can be made up for by whoever reads the reason.
"""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cronsim import CronSimError
from cryptography.fernet import InvalidToken
from django.apps import apps
from django.contrib.auth import get_user_model
from django.contrib.contenttypes.models import ContentType
from django.contrib.sessions.models import Session
from django.core.management import call_command
from django.core.signing import BadSignature
from django.db import connection, models, transaction
from django.db.migrations.loader import MigrationLoader
from django.utils import timezone
from django.utils.translation import gettext as _

from datasources.models import DataSource
from exporter_site import __version__, fields, worker
from exporter_site.access import audit
from exporter_site.config import config_file
from exporter_site.dump import LABELS, MEMBERS, continue_numbers, load
from exporter_site.keys import keys_file
from notifications.models import Channel, Delivery
from notifications.states import OPEN, DeliveryStatus
from tasks import archive, files, schedule, storage
from tasks.archive import BackupError, Manifest
from tasks.backup import PROOF, our_tables, signer
from tasks.models import SILENT_AFTER, DownloadLink, Execution, ExportTask, Pause, SchedulerProcess
from tasks.scheduler import MOST_MISSED, set_aside
from tasks.states import Status
from tasks.status import local
from tasks.storage import StoredFile
from tasks.storage.base import StorageError

PAUSED_BY = "system restore"
CLOCK_OFF = timedelta(minutes=5)  # a backup from so far ahead means that a clock is wrong
# A number that was given after the backup must not be given again: it stands in messages, links and other programs.
NUMBERS_SKIPPED: dict[type[models.Model], int] = {
    **dict.fromkeys((Execution, DownloadLink), 1_000_000),
    **dict.fromkeys((ExportTask, DataSource, Channel, get_user_model()), 1000),
}
BATCH = 500  # executions looked at at once


class NotEmpty(BackupError):
    """What is here would be lost; the text says what that is."""


@dataclass(slots=True)
class Restored:
    """What was done. `missed`: task -> planned times between backup and now. `ended`: runs that were queued or running.
    `held_back`: messages. `missing`: executions whose files are gone. `unreadable`: secrets that no key can read."""

    taken_at: datetime
    version: str
    migrated: int = 0
    ended: int = 0
    missed: dict[str, int] = field(default_factory=dict)
    held_back: int = 0
    files: int = 0
    missing: int = 0
    quarantined: int = 0
    quarantine: str | None = None
    config: Path | None = None
    unreadable: int = 0
    links_valid: bool = True


def restore(file: Path, *, replace: bool = False) -> Restored:
    """Let the backup `file` be this installation. What is here goes only with `replace`.

    Raises BackupError, NotEmpty, DumpError; until the loading begins nothing has been changed.
    """
    with archive.scratch() as directory:
        manifest = archive.check(file, directory)
        check_fits(manifest)
        check_target(replace=replace)
        check_stores(directory)
        now = max(timezone.now(), manifest.taken_at)
        restored = Restored(manifest.taken_at, manifest.version)
        numbers = {model: _highest_number(model) for model in NUMBERS_SKIPPED}
        load(directory / MEMBERS[manifest.kind], our_tables(), _guard(now), ExportTask._meta.db_table)
        ContentType.objects.clear_cache()
        restored.migrated = _migrate(manifest)
        for model, gap in NUMBERS_SKIPPED.items():
            last = max(numbers[model], _highest_number(model)) + gap
            continue_numbers(model._meta.db_table, str(model._meta.pk.column), last)
        restored.held_back = Delivery.objects.filter(reason="restored", finished_at=now).count()
        _settle(now, restored)
        _put_files_right(file, manifest, now, restored)
        restored.config = _leave_config(directory / archive.CONFIG, now)
    restored.unreadable = sum(fields.unreadable(model) for model in apps.get_models() if fields.secret_names(model))
    restored.links_valid = _has_secret_key(manifest)
    audit.record(
        audit.Action.EDIT,
        note=_("Restored from the backup {file} of {time}").format(file=file.name, time=local(manifest.taken_at)),
    )
    Pause.objects.active().filter(begun_by=PAUSED_BY).update(
        active_key=None, ended_at=timezone.now(), ended_by=PAUSED_BY
    )
    return restored


def check_fits(manifest: Manifest) -> None:
    """Refuse a backup that this program, this database or these keys can't go on with. Raises BackupError."""
    if manifest.kind != connection.vendor:
        raise BackupError(
            _(
                "The backup is of {theirs}, and system_database.type of config.yaml is {ours}. Restore it into a system database of the same kind."
            ).format(theirs=LABELS[manifest.kind], ours=LABELS[connection.vendor])
        )
    ours = MigrationLoader(None, ignore_no_migrations=True).disk_migrations
    known = set(ours).union(*(migration.replaces for migration in ours.values()))
    if unknown := set(manifest.migrations) - known:
        raise BackupError(
            _(
                "The backup was made by the newer version {theirs}; this is {ours}. Upgrade this installation first ({example} is not known here)."
            ).format(theirs=manifest.version, ours=__version__, example=".".join(min(unknown)))
        )
    if manifest.taken_at > timezone.now() + CLOCK_OFF:
        raise BackupError(
            _("The backup was made at {time}, which is still to come. Set this machine's clock.").format(
                time=local(manifest.taken_at)
            )
        )
    try:
        proofs = {fields.fernet().decrypt(token.encode()) for token in manifest.keys["encryption_keys"]}
    except (InvalidToken, KeyError):
        proofs = set()
    if proofs != {PROOF.encode()}:
        raise BackupError(
            _(
                "The keys of this installation can't read the secrets of the backup. Put the file …-keys.json that was made with it (or the data/keys.json of that time) in the place of {file}, with mode 0600, and restore again."
            ).format(file=keys_file())
        )


def check_target(*, replace: bool) -> None:
    """Refuse while somebody works here, and unless `replace` when there is something to lose. Raises BackupError."""
    if SchedulerProcess._meta.db_table not in connection.introspection.table_names():
        return
    names = [process.name for process in SchedulerProcess.objects.alive()]
    names = [name for name in names if not worker.is_gone(name)]
    if names:
        raise BackupError(
            _("The scheduler {name} is running. Stop it first: manage.py scheduler stop").format(name=names[0])
        )
    lately = timezone.now() - SILENT_AFTER
    for run in Execution.objects.running():
        here = worker.local_pid(run.worker) is not None
        if not worker.is_gone(run.worker) and (here or (run.heartbeat_at is not None and run.heartbeat_at > lately)):
            raise BackupError(
                _(
                    "The export {execution} is running. Wait for it, or cancel it first: manage.py task cancel {id}"
                ).format(execution=run, id=run.pk)
            )
    if not replace and (found := _contents()):
        last = Execution.objects.order_by("-pk").values_list("queued_at", flat=True).first()
        raise NotEmpty(
            _(
                "This installation is not empty, and all of it would be replaced by the backup: {contents}; the last run is of {time}. Back it up first (manage.py system backup), then restore with --yes."
            ).format(
                contents=", ".join(found), time=timezone.localtime(last).strftime("%Y-%m-%d %H:%M") if last else "-"
            )
        )


def check_stores(directory: Path) -> None:
    """Refuse while the files of the backup can't be compared with those that are there. Raises BackupError."""
    kinds = {StoredFile.of(part).kind for part in archive.listed(directory)}
    try:
        for kind in kinds | {store.kind for store in storage.in_use()}:
            next(storage.get(kind).places(), None)
    except StorageError as exc:
        raise BackupError(
            _(
                "{error} Files of executions are kept there: set export.s3_bucket and its keys in config.yaml first."
            ).format(error=exc)
        ) from exc


def _contents() -> list[str]:
    """What people or schedules have made here, counted in words."""
    kinds: tuple[type[models.Model], ...] = (ExportTask, DataSource, Channel, Execution, get_user_model())
    counts = ((model._meta.verbose_name_plural, model._default_manager.count()) for model in kinds)
    return [f"{name} {count}" for name, count in counts if count]


def _highest_number(model: type[models.Model]) -> int:
    """Of the rows, and of the files that there are."""
    numbers = [0]
    if model._meta.db_table in connection.introspection.table_names():
        numbers.append(model._default_manager.aggregate(most=models.Max("pk"))["most"] or 0)
    if model is Execution:
        numbers += [place.attempt[0] for store in storage.in_use() for place in store.places() if place.attempt]
    return max(numbers)


def _guard(now: datetime) -> list[str]:
    """The statements that come with the tables: nothing starts and nothing is sent, whoever is there first."""
    moment = now.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")
    note = _("A backup is being restored. If that has failed, restore again.").replace("'", "''")
    mysql = connection.vendor == "mysql"
    insert, ending = ("INSERT IGNORE", "") if mysql else ("INSERT", " ON CONFLICT DO NOTHING")
    states = ", ".join(f"'{status.value}'" for status in OPEN)
    return [
        f"{insert} INTO tasks_pause (active_key, begun_at, begun_by, note, ended_by) "
        f"VALUES ('{Pause.ACTIVE}', '{moment}', '{PAUSED_BY}', '{note}', ''){ending}",
        # Each may have arrived since: whoever sends it again sends it as one that may come twice.
        f"UPDATE notifications_delivery SET status = '{DeliveryStatus.DEAD.value}', reason = 'restored', error = '', "  # noqa: S608  # constants of ours
        f"answer_lost = TRUE, slot_key = NULL, finished_at = '{moment}', beats = beats + 1 WHERE status IN ({states})",
    ]


def _migrate(manifest: Manifest) -> int:
    """Returns how many migrations the backup lacked."""
    call_command("migrate", verbosity=0, interactive=False)
    loader = MigrationLoader(connection)
    return len(set(loader.applied_migrations) - set(manifest.migrations))


def _settle(now: datetime, restored: Restored) -> None:
    with transaction.atomic():
        restored.ended = Execution.objects.close_restored()
        for task in ExportTask.objects.filter(enabled=True, next_run_at__lte=now):
            restored.missed[task.name] = miss_until(task, now)
        SchedulerProcess.objects.all().delete()
        # Whoever has logged out since would be in again.
        Session.objects.all().delete()


def miss_until(task: ExportTask, now: datetime) -> int:
    """Put the times that `task` owes until `now` on record as missed, and move its next run on. Returns how many."""
    if task.next_run_at is None or task.next_run_at > now:
        return 0
    try:
        due = schedule.due(task.cron, task.timezone, task.next_run_at, now, MOST_MISSED)
    except (CronSimError, ValueError, KeyError):
        set_aside(task)
        return 1
    wanted = [moment for moment in (due.older_to, *due.newest) if moment is not None]
    known = set(Execution.objects.filter(task=task, scheduled_for__in=wanted).values_list("scheduled_for", flat=True))
    ExportTask.objects.filter(pk=task.pk).update(next_run_at=due.following)
    if due.older_to is not None and due.older_to not in known:
        Execution.objects.record_missed(
            task, due.older_to, "restored", occurrences=due.older, range_start=due.older_from
        )
    for moment in due.newest:
        if moment not in known:
            Execution.objects.record_missed(task, moment, "restored")
    return due.older + len(due.newest)


def _put_files_right(file: Path, manifest: Manifest, now: datetime, restored: Restored) -> None:
    """Files and rows become what each other say. A file counts as the row's when it has its name and size."""
    wanted: dict[StoredFile, int] = {}
    for row in _kept_rows():
        wanted |= {StoredFile.of(part): part["size"] for part in row.files}
    there = _quarantine(wanted, now, restored)
    if manifest.with_files:
        by_path = {wanted_file.key: wanted_file for wanted_file in wanted}
        for path, content in archive.stored_files(file):
            found = by_path.get(path)
            if found is not None and found not in there and _leads_inside(found):
                found.store.put(found.key, content)
                restored.files += 1
                if found.size() == wanted[found]:
                    there.add(found)
    for row in _kept_rows():
        if not all(StoredFile.of(part) in there for part in row.files):
            Execution.objects.filter(pk=row.pk).update(files_removed_at=now, reason="file_missing")
            restored.missing += 1


def _leads_inside(file: StoredFile) -> bool:
    """Whether its key leads to a place in output_dir: neither a backup nor a link in there is believed."""
    root = files.output_root().resolve()
    return file.kind != storage.LOCAL or (root / file.key).resolve().is_relative_to(root)


def _kept_rows() -> Iterator[Execution]:
    """The executions that should have files, with little more than those."""
    kept = Execution.objects.filter(status=Status.SUCCEEDED, files_removed_at=None).only("files").order_by("pk")
    last = 0
    while rows := list(kept.filter(pk__gt=last)[:BATCH]):
        last = rows[-1].pk
        yield from rows


def _quarantine(wanted: dict[StoredFile, int], now: datetime, restored: Restored) -> set[StoredFile]:
    """Set aside what no row knows, where housekeeping removes nothing: they are files that were made after the backup,
    and somebody may have been sent a link to them. Returns those of `wanted` that are there."""
    target = f"quarantine-{timezone.localtime(now):%Y-%m-%d-%H%M%S}"
    there: set[StoredFile] = set()
    used = []
    for store in storage.in_use():
        before = restored.quarantined
        for place, sizes in store.contents():
            found = {StoredFile(store.kind, key): size for key, size in sizes.items()}
            if found and all(wanted.get(file) == size for file, size in found.items()):
                there.update(found)
                continue
            store.move(place, f"{target}/{place}")
            restored.quarantined += 1
        if restored.quarantined > before:
            used.append(store.where(target))
    restored.quarantine = ", ".join(used) or None
    return there


def _leave_config(stored: Path, now: datetime) -> Path | None:
    """Put the backup's config.yaml beside ours, where it differs: ours names this machine's database and directories.
    Returns where it is."""
    ours = config_file()
    if not stored.is_file() or (ours.is_file() and ours.read_bytes() == stored.read_bytes()):
        return None
    target = ours.with_name(f"{ours.name}.restored-{timezone.localtime(now):%Y%m%d-%H%M%S}")
    shutil.copyfile(stored, target)
    return target


def _has_secret_key(manifest: Manifest) -> bool:
    """Whether what was signed then (links to files) is still valid."""
    try:
        return signer().unsign(manifest.keys["secret_key"]) == PROOF
    except (BadSignature, KeyError):
        return False
