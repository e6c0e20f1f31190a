"""The thread in which rows flow from connector to writer."""

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import copy_context

from django.conf import settings
from django.utils import translation
from django.utils.translation import gettext as _

from datasources.connectors.base import Connector, Query
from tasks.writers.base import FilePart, Writer, WriterError

ABANDON = 30.0  # seconds that a cancelled query may take to let go
# Seconds until a thread that waits for Python's lock may have it. The thread that compresses and writes needs it a few
# times per megabyte, each time for a moment: with the usual 5 ms it would wait longer than it works.
SWITCH_INTERVAL = 0.0005


class Pipeline:
    """Moves the rows from connector to writer, in its own thread. Touches no system database."""

    patience = ABANDON

    def __init__(self, connector: Connector, query: Query, make_writer: Callable[..., Writer]) -> None:
        self.connector = connector
        self.query = query
        self.parts: list[FilePart] = []
        self.writer: Writer | None = None
        self.rows = 0
        self.error: BaseException | None = None
        self.done = threading.Event()
        self._make_writer = make_writer
        self._language = translation.get_language()  # a thread does not inherit it
        # A daemon: a driver that never lets go must not keep the process alive.
        self._thread = threading.Thread(target=copy_context().run, args=(self._run,), name="export", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def _run(self) -> None:
        try:
            with translation.override(self._language):
                self._export()
        except BaseException as exc:
            self.error = exc
            if self.writer is not None:
                self.writer.abort()
        finally:
            self.done.set()

    def _export(self) -> None:
        with short_switch_interval(), self.connector as connector:
            result = connector.stream(self.query, settings.CONFIG.export.chunk_size)
            self.writer = writer = self._make_writer(result.columns)
            for batch in result.batches:
                writer.write(batch)
                self.rows += batch.rows
            self.parts = writer.finish()
        written = sum(part.rows for part in self.parts)
        if not self.rows == writer.rows == written:
            raise WriterError(
                "row_count_mismatch",
                _("{received} rows were received and {written} written.").format(received=self.rows, written=written),
            )

    def cancel(self) -> None:
        self.connector.cancel()

    @property
    def backend_id(self) -> str:
        """The session on the server that runs the query, "" when it is over."""
        return "" if self.done.is_set() else self.connector.backend_id()

    @property
    def bytes(self) -> int:
        return self.writer.size if self.writer else 0


@contextmanager
def short_switch_interval() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_INTERVAL)
    try:
        yield
    finally:
        sys.setswitchinterval(before)
