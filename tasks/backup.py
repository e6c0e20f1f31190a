"""`system backup`: the whole installation as one archive (archive.py), while it works; its keys as a second file."""

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.signing import Signer
from django.db import connection
from django.db.migrations.recorder import MigrationRecorder
from django.utils import timezone
from django.utils.translation import gettext as _

from exporter_site import __version__
from exporter_site.access import audit
from exporter_site.config import config_file, resolve
from exporter_site.dump import MEMBERS, dump
from exporter_site.fields import ciphers
from tasks import archive
from tasks.archive import BackupError, Manifest
from tasks.models import Execution, ExportTask
from tasks.states import Status
from tasks.storage import StoredFile
from tasks.storage.base import StorageError

SUFFIX = ".tar.gz"
KEYS_SUFFIX = "-keys.json"
PROOF = "data export system"  # what the proofs of the keys say
LISTED = ("path", "storage", "size", "sha256")  # of a file, in the archive's list
_BATCH = 500  # executions read at once


@dataclass(frozen=True, slots=True)
class Backup:
    """`keys` is None when they were not wanted; `files` counts what the archive holds, `bytes` is its own size."""

    archive: Path
    keys: Path | None
    taken_at: datetime
    files: int
    bytes: int


def signer() -> Signer:
    return Signer(salt="exporter.backup")


def our_tables() -> list[str]:
    """The tables of ours that there are. That of the tasks is last: without it no scheduler can do anything."""
    there = set(connection.introspection.django_table_names(only_existing=True, include_views=False))
    recorder = MigrationRecorder(connection)
    if recorder.has_table():
        there.add(recorder.Migration._meta.db_table)
    last = ExportTask._meta.db_table
    return sorted(there - {last}) + sorted(there & {last})


def make(output: Path | None = None, *, with_files: bool = False, with_keys: bool = True) -> Backup:
    """Back up into the directory, or as the file, `output`. Raises BackupError, DumpError."""
    taken_at = timezone.now()
    target = _target(output, taken_at)
    manifest = Manifest(
        version=__version__,
        taken_at=taken_at,
        kind=connection.vendor,
        migrations=sorted(MigrationRecorder(connection).applied_migrations()),
        keys=proof_of_keys(),
        with_files=with_files,
    )
    audit.record(audit.Action.DOWNLOAD, note=_("Backup: {file}").format(file=target))
    try:
        with archive.scratch() as directory, archive.write(target, manifest) as writer:
            count = _fill(writer, directory, with_files=with_files)
        keys = _write_keys(target) if with_keys else None
    except StorageError as exc:
        raise BackupError(str(exc)) from exc
    except OSError as exc:
        raise BackupError(
            _("The backup can't be written to {path}: {error}").format(path=target.parent, error=exc.strerror or exc)
        ) from exc
    return Backup(target, keys, taken_at, count, target.stat().st_size)


def proof_of_keys() -> dict[str, Any]:
    """What only the keys in force can make, and what tells them from others without telling them."""
    return {
        "encryption_keys": [cipher.encrypt(PROOF.encode()).decode() for cipher in ciphers()],
        "secret_key": signer().sign(PROOF),
    }


def _target(output: Path | None, taken_at: datetime) -> Path:
    name = f"backup-{timezone.localtime(taken_at):%Y%m%d-%H%M%S}{SUFFIX}"
    target = output or resolve(settings.CONFIG.system_database.sqlite_path).parent / "backups"
    if output is None:
        target.mkdir(parents=True, exist_ok=True, mode=0o700)
    if target.is_dir():
        target = target / name
    if not target.parent.is_dir():
        raise BackupError(_("{path} is no directory.").format(path=target.parent))
    if not target.name.endswith(SUFFIX):
        raise BackupError(_("The name of a backup must end with {suffix}: {file}").format(suffix=SUFFIX, file=target))
    for file in (target, _keys_beside(target)):
        if file.exists():
            raise BackupError(_("{file} exists already. Choose another name.").format(file=file))
    return target.absolute()


def _keys_beside(target: Path) -> Path:
    return target.with_name(target.name.removesuffix(SUFFIX) + KEYS_SUFFIX)


def _fill(writer: archive.Writer, directory: Path, *, with_files: bool) -> int:
    database = directory / MEMBERS[connection.vendor]
    dump(database, our_tables())
    with database.open("rb") as opened:
        writer.add(database.name, opened)
    database.unlink()  # half the space
    if config_file().is_file():
        with config_file().open("rb") as opened:
            writer.add(archive.CONFIG, opened)
    # After the snapshot: what it knows is there, unless it is gone by now. What came since is left out when it is
    # restored.
    count = 0
    with (directory / archive.FILES).open("w+b") as lines:
        for part in _parts():
            if with_files:
                facts = _add_file(writer, StoredFile.of(part))
                if facts is None:
                    continue
                part |= facts
            count += 1
            lines.write(json.dumps(part, ensure_ascii=False).encode() + b"\n")
        lines.seek(0)
        writer.add(archive.FILES, lines)
    return count if with_files else 0


def _parts() -> Iterator[dict[str, Any]]:
    """The files of all executions that are kept."""
    kept = Execution.objects.filter(status=Status.SUCCEEDED, files_removed_at=None).order_by("pk")
    for number, parts in kept.values_list("pk", "files").iterator(chunk_size=_BATCH):
        for part in parts:
            yield {"execution": number, **{name: part[name] for name in LISTED if name in part}}


def _add_file(writer: archive.Writer, file: StoredFile) -> dict[str, Any] | None:
    try:
        size = file.size()
        opened = file.open() if size is not None else None
    except FileNotFoundError:
        opened = None
    if size is None or opened is None:
        return None  # removed after its retention time, in this moment or by somebody
    with opened:
        return writer.add(archive.PREFIX + file.key, opened, size)


def _write_keys(target: Path) -> Path:
    """The keys in force, in the form of keys.json, wherever they come from."""
    note = _(
        "Keep this file elsewhere than {archive}: whoever has both can read every stored password. To restore, put it in the place of data/keys.json."
    ).format(archive=target.name)
    file = _keys_beside(target)
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as opened:
        json.dump({"note": note} | asdict(settings.KEYS), opened, indent=1, ensure_ascii=False)
        opened.flush()
        os.fsync(opened.fileno())
    return file
