"""A backup as one .tar.gz file: how it is written, and read without believing it.

    manifest.json     version, time, migrations, what proves that the keys are the right ones; size and SHA-256 of the rest
    database.*        the system database, in the form of its own kind
    config.yaml       as it was
    files.jsonl       one line for each file of an execution: {"execution", "path", "size", "sha256"}, and "storage"
                      where that is not a directory
    files/<path>      those files themselves, if they were wanted

The keys that the secrets in the database are encrypted with are never in it.
"""

import hashlib
import io
import json
import os
import shutil
import tarfile
import tempfile
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from django.utils.translation import gettext as _

from exporter_site.dump import MEMBERS
from tasks.files import sync_directory, temp_root
from tasks.storage.base import Readable

FORMAT = 1
MANIFEST, CONFIG, FILES = "manifest.json", "config.yaml", "files.jsonl"
PREFIX = "files/"
LEVEL = 5  # of gzip: exports are compressed already
_CHUNK = 1 << 20  # bytes
_SCRATCH = ".backup-"
_LEFT_FOR = 86_400.0  # seconds
_MOST_MANIFEST = 1 << 24  # bytes


class BackupError(Exception):
    """A backup can't be made or used; the text says why and what to do."""


@dataclass(slots=True)
class Manifest:
    """`parts`: member -> {"size", "sha256"}, without the files of executions: those are in files.jsonl.

    `keys`: what the keys of then have made, each readable with one of them only.
    """

    version: str
    taken_at: datetime
    kind: str
    migrations: list[tuple[str, str]]
    keys: dict[str, Any]
    with_files: bool
    parts: dict[str, dict[str, Any]] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        names = ("version", "kind", "migrations", "keys", "with_files", "parts")
        return {"format": FORMAT, "taken_at": self.taken_at.isoformat()} | {name: getattr(self, name) for name in names}

    @classmethod
    def of(cls, content: Any) -> "Manifest":
        """Raises BackupError, KeyError, TypeError or ValueError when it is none of ours."""
        if content["format"] != FORMAT:
            raise BackupError(_("The backup was made by a newer version. Upgrade this installation first."))
        manifest = cls(
            version=str(content["version"]),
            taken_at=datetime.fromisoformat(content["taken_at"]),
            kind=content["kind"],
            migrations=[(app, name) for app, name in content["migrations"]],
            keys=dict(content["keys"]),
            with_files=bool(content["with_files"]),
            parts={
                name: {"size": int(part["size"]), "sha256": part["sha256"]} for name, part in content["parts"].items()
            },
        )
        if MEMBERS[manifest.kind] not in manifest.parts or manifest.taken_at.tzinfo is None:
            raise ValueError(manifest.kind)
        return manifest


class _Hashed:
    """Reads `source` and knows what went through."""

    def __init__(self, source: Readable) -> None:
        self._source = source
        self._digest = hashlib.sha256()
        self.size = 0

    def read(self, size: int = -1, /) -> bytes:
        data = self._source.read(size)
        self._digest.update(data)
        self.size += len(data)
        return data

    @property
    def facts(self) -> dict[str, Any]:
        return {"size": self.size, "sha256": self._digest.hexdigest()}


class Writer:
    """Puts members into an archive, and their sizes and checksums into its manifest."""

    def __init__(self, tar: tarfile.TarFile, manifest: Manifest) -> None:
        self._tar, self._manifest = tar, manifest

    def add(self, name: str, file: IO[bytes], size: int | None = None) -> dict[str, Any]:
        """{"size", "sha256"} of what was added, from an open file; `size`: its own, when it is none of a disk's. Raises
        OSError when it shrinks meanwhile."""
        facts = self._add(name, file, os.fstat(file.fileno()).st_size if size is None else size)
        if not name.startswith(PREFIX):
            self._manifest.parts[name] = facts
        return facts

    def end(self) -> None:
        text = json.dumps(self._manifest.as_json(), indent=1).encode()
        self._add(MANIFEST, io.BytesIO(text), len(text))

    def _add(self, name: str, source: Readable, size: int) -> dict[str, Any]:
        member, hashed = tarfile.TarInfo(name), _Hashed(source)
        member.size, member.mode, member.mtime = size, 0o600, int(self._manifest.taken_at.timestamp())
        self._tar.addfile(member, hashed)
        return hashed.facts


@contextmanager
def scratch() -> Iterator[Path]:
    """A private directory beside the unfinished exports: on a disk of this machine, which SQLite needs, and with room.
    What those left that were killed goes first."""
    root = temp_root()
    root.mkdir(parents=True, exist_ok=True)
    for left in root.glob(f"{_SCRATCH}*"):
        if time.time() - left.stat().st_mtime > _LEFT_FOR:
            shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=root, prefix=_SCRATCH) as name:
        yield Path(name)


@contextmanager
def write(target: Path, manifest: Manifest) -> Iterator[Writer]:
    """A new archive of mode 0600 at `target`, which appears there when it is whole and has been read back."""
    descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=".backup-", suffix=".part")
    partial = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as raw:
            with tarfile.open(fileobj=raw, mode="w:gz", compresslevel=LEVEL) as tar:
                writer = Writer(tar, manifest)
                yield writer
                writer.end()
            raw.flush()
            os.fsync(raw.fileno())
        with scratch() as directory:
            check(partial, directory)
        partial.rename(target)
        sync_directory(target.parent)
    finally:
        partial.unlink(missing_ok=True)


def check(archive: Path, directory: Path) -> Manifest:
    """Read all of `archive`, compare every checksum, and leave the members that are no files of executions in
    `directory`. Raises BackupError."""
    found: dict[str, dict[str, Any]] = {}
    with _opened(archive) as tar:
        for member in tar:
            source = _Hashed(_content(tar, member))
            keep = not member.name.startswith(PREFIX)
            if keep and member.name not in (MANIFEST, CONFIG, FILES, *MEMBERS.values()):
                raise _broken(archive, member.name)
            if member.name == MANIFEST and member.size > _MOST_MANIFEST:
                raise _broken(archive, member.name)
            with (directory / member.name if keep else Path(os.devnull)).open("wb") as target:
                while chunk := source.read(_CHUNK):
                    target.write(chunk)
            found[member.name] = source.facts
    manifest = _manifest(archive, directory)
    found.pop(MANIFEST)
    # First the members that the manifest vouches for; one of them then vouches for the files of executions.
    _compare(archive, manifest.parts, {name: found.pop(name, None) for name in manifest.parts})
    files = {PREFIX + part["path"]: part for part in listed(directory)} if manifest.with_files else {}
    _compare(archive, files, found)
    return manifest


def _compare(archive: Path, expected: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    for name in expected.keys() | found.keys():
        facts = expected.get(name)
        if facts is None or found.get(name) != {"size": facts["size"], "sha256": facts["sha256"]}:
            raise _broken(archive, name)


def listed(directory: Path) -> Iterator[dict[str, Any]]:
    """The lines of files.jsonl that check() has left in `directory`."""
    with (directory / FILES).open(encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def stored_files(archive: Path) -> Iterator[tuple[str, Readable]]:
    """The files of executions, as path below output_dir and content, one after another. Raises BackupError."""
    with _opened(archive) as tar:
        for member in tar:
            if member.name.startswith(PREFIX):
                yield member.name.removeprefix(PREFIX), _content(tar, member)


def _manifest(archive: Path, directory: Path) -> Manifest:
    try:
        return Manifest.of(json.loads((directory / MANIFEST).read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise BackupError(
            _("{file} is no backup of this system: it has no manifest.").format(file=archive.name)
        ) from None
    except (KeyError, TypeError, ValueError):
        raise _broken(archive, MANIFEST) from None


@contextmanager
def _opened(archive: Path) -> Iterator[tarfile.TarFile]:
    try:
        with tarfile.open(archive, mode="r|gz") as tar:  # front to back
            yield tar
    except (tarfile.TarError, zlib.error, EOFError, OSError) as exc:
        words = getattr(exc, "strerror", None) or exc
        raise BackupError(_("{file} can't be read: {error}").format(file=archive, error=words)) from exc


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    content = tar.extractfile(member) if member.isreg() else None
    if content is None:
        raise BackupError(_("The backup holds something that is no file: {name}").format(name=member.name))
    return content


def _broken(archive: Path, name: str) -> BackupError:
    return BackupError(
        _("{file} is damaged: {name} is not as it was written. Use another backup.").format(
            file=archive.name, name=name
        )
    )
