"""Waiting for a system database that is away."""

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from django.db import InterfaceError, OperationalError, connection

from exporter_site.redact import redact

logger = logging.getLogger(__name__)

# Seconds between tries to store something.
WAITS = (0.1, 0.5, 1, 2, 5, 5, 10, 10, 20)

T = TypeVar("T")


def patiently(execution_id: int, action: Callable[[], T]) -> T:
    """The result of `action`, tried again while the system database is away."""
    for wait in WAITS:
        try:
            return action()
        except (OperationalError, InterfaceError) as exc:
            logger.warning("execution %s waits for the system database: %s", execution_id, redact(str(exc)).strip())
            connection.close()
            time.sleep(wait)
    return action()
