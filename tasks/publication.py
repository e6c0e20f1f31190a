"""The way of finished files into a store that is not this machine's: minutes, in which the run must stay stoppable."""

import threading
from contextvars import copy_context
from datetime import datetime
from pathlib import Path

from django.utils import translation

from tasks import files, storage
from tasks.storage.base import Storage


class _Stop(BaseException):
    """The upload is not wanted any more."""


class Publication:
    """Publishes `directory` in its own thread. Touches no system database.

    Once `done`: `place` says where the files are; it is "" when there are none, and then `error` says why, unless the
    publication was cancelled. `bytes`: how many have arrived. `patience`: seconds that a cancelled one may take to end;
    it ends between two pieces, but not while it waits for an answer.
    """

    patience = 1.0

    def __init__(self, store: Storage, directory: Path, planned_at: datetime) -> None:
        self.place = ""
        self.error: Exception | None = None
        self.bytes = 0
        self.done = threading.Event()
        self._store, self._directory, self._planned_at = store, directory, planned_at
        self._cancelled = threading.Event()
        self._language = translation.get_language()  # a thread does not inherit it
        # A daemon: a store that never lets go must not keep the process alive.
        self._thread = threading.Thread(target=copy_context().run, args=(self._run,), name="upload", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def cancel(self) -> None:
        self._cancelled.set()

    def take_back(self) -> None:
        """After cancel(): remove what it was too late for, and what has arrived of one that still waits for an answer."""
        if self.place or not self.done.is_set():
            storage.withdraw(self._store, files.place_of(self._directory.name, self._planned_at))

    def _run(self) -> None:
        try:
            with translation.override(self._language):
                self.place = self._store.publish(self._directory, self._planned_at, self._watch)
        except _Stop:
            pass  # the store has removed what was there
        except Exception as exc:
            self.error = exc
        finally:
            self.done.set()

    def _watch(self, arrived: int) -> None:
        self.bytes = arrived
        if self._cancelled.is_set():
            raise _Stop
