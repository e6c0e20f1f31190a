"""A query that somebody waits for: it ends with its limit, or when nobody waits any more."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from django.utils.translation import gettext as _

from datasources.connectors.base import Connector, ConnectorError

LOOK_EVERY = 0.25  # seconds


@contextmanager
def ended_in_time(
    connector: Connector, seconds: float, abandoned: Callable[[], bool] = lambda: False
) -> Iterator[None]:
    """Cancel what `connector` runs in this block after `seconds`, or as soon as `abandoned` says so; it is asked in
    another thread.

    Raises ConnectorError: query_timeout for the first, cancelled for the second.
    """
    done = threading.Event()
    late = threading.Event()

    def watch() -> None:
        until = time.monotonic() + seconds
        while not done.wait(LOOK_EVERY):
            if time.monotonic() > until:
                late.set()
            if late.is_set() or abandoned():
                connector.cancel()
                return

    watcher = threading.Thread(target=watch, name="deadline", daemon=True)
    watcher.start()
    try:
        yield
    except ConnectorError as exc:
        if late.is_set():
            words = _("There was no answer within {seconds} seconds, so the query was ended.")
            raise ConnectorError("query_timeout", words.format(seconds=int(seconds))) from exc
        raise
    finally:
        done.set()
        watcher.join()
