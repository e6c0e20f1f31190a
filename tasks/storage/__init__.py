"""The kinds of stores for finished files, and how a file is found in the one that has it.

A new kind is one file and one line here.
"""

import logging
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from shutil import copyfileobj
from typing import Any, BinaryIO

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from exporter_site.registry import Registry
from tasks import files
from tasks.storage.base import Storage, StorageError

logger = logging.getLogger(__name__)

LOCAL, S3 = "local", "s3"
AWAY = 60.0  # seconds that sweep() does not ask a store again which could not be reached: a scheduler waits for it
_away_since = float("-inf")

stores: Registry[Storage] = Registry(
    {
        LOCAL: (gettext_lazy("directory"), "tasks.storage.local.LocalStorage"),
        S3: (gettext_lazy("object storage"), "tasks.storage.s3.ObjectStorage"),
    }
)


def get(kind: str) -> Storage:
    """The store of `kind`, as config.yaml describes it. Raises StorageError when it can't be had."""
    try:
        return stores.get(kind)()
    except KeyError:
        raise StorageError(_("There is no kind of storage “{kind}”.").format(kind=kind)) from None
    except (ImportError, ImproperlyConfigured) as exc:  # the second is what django-storages says without boto3
        raise StorageError(
            _("Object storage needs packages that are not installed: {command}").format(
                command=".venv/bin/pip install -r requirements-s3.txt"
            )
        ) from exc


def current() -> Storage:
    """Where new files go: export.storage. Raises StorageError."""
    return get(settings.CONFIG.export.storage)


def in_use() -> Iterator[Storage]:
    """Every store that may hold files of ours: also one that new files do not go to any more. Raises StorageError."""
    yield get(LOCAL)
    if settings.CONFIG.export.s3_bucket:
        yield get(S3)


def withdraw(store: Storage, place: str) -> None:
    """Remove what a run published that turned out to have lost its place; at worst housekeeping finds it."""
    try:
        store.remove(place)
    except StorageError as exc:
        logger.warning("%s could not be removed: %s", store.where(place), exc)


def sweep(execution_id: int, attempts: Iterable[int], planned_at: datetime) -> None:
    """Remove what dead attempts left: unfinished files, and files that were published but never recorded."""
    places = []
    for attempt in attempts:
        files.sweep(execution_id, attempt, planned_at)
        places.append(files.place_of(files.attempt_name(execution_id, attempt), planned_at))
    global _away_since
    if not places or time.monotonic() - _away_since < AWAY:
        return  # Housekeeping finds what is left.
    try:
        for store in in_use():
            for place in places if store.is_remote else ():
                store.remove(place)
    except StorageError as exc:
        _away_since = time.monotonic()
        logger.warning("execution %s: what it left could not be removed: %s", execution_id, exc)


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file of a run, wherever it is. Nothing is looked up before it is asked for; then StorageError may be raised."""

    kind: str
    key: str

    @classmethod
    def of(cls, part: Mapping[str, Any]) -> "StoredFile":
        """From one of the `files` of an execution; those without `storage` are local."""
        return cls(part.get("storage", LOCAL), part["path"])

    @property
    def name(self) -> str:
        return self.key.rpartition("/")[2]

    @property
    def place(self) -> str:
        return self.key.rpartition("/")[0]

    @property
    def store(self) -> Storage:
        return get(self.kind)

    def __str__(self) -> str:
        return self.store.where(self.key)

    def size(self) -> int | None:
        """Bytes; None when it is gone."""
        return self.store.size(self.key)

    def is_kept(self) -> bool:
        """Whether it is there, as far as can be told without asking anybody over the network."""
        return self.kind != LOCAL or self.size() is not None

    def open(self, span: range | None = None) -> BinaryIO:
        """As Storage.open()."""
        return self.store.open(self.key, span)

    def at_hand(self) -> BinaryIO:
        """The whole file on this machine's disk, for who can't have the network fail while it is read."""
        store = self.store
        if not store.is_remote:
            return store.open(self.key)
        files.temp_root().mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            copy = stack.enter_context(tempfile.TemporaryFile(dir=files.temp_root()))
            with store.open(self.key) as source:
                copyfileobj(source, copy)
            copy.seek(0)
            stack.pop_all()  # it is open for the caller
        return copy


def entry(part: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """`part` as it is stored in the `files` of an execution."""
    return dict(part) if kind == LOCAL else {**part, "storage": kind}
