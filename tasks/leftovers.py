"""What a dead attempt left behind: files, and its query on the server."""

import logging
import time

from django.conf import settings

from datasources.connectors.base import ConnectorError
from tasks import storage
from tasks.models import Execution

logger = logging.getLogger(__name__)

# A server that can't be reached holds its caller up for seconds, and a scheduler may have many queries to end there.
LEFT_ALONE = 60.0  # seconds

_left_alone_until: dict[tuple[str, int | None], float] = {}  # host and port -> of time.monotonic()


def clear_away(execution: Execution) -> None:
    """Remove the files of a dead attempt, and end its query."""
    storage.sweep(execution.pk, [execution.attempt], execution.planned_at)
    if execution.backend_id and execution.data_source is not None:
        try:
            _end_query(execution)
        except ConnectorError as exc:
            logger.warning("execution %s: its query could not be ended on the server: %s", execution.pk, exc)


def _end_query(execution: Execution) -> None:
    source = execution.data_source
    assert source is not None
    server = (source.host, source.port)
    if time.monotonic() < _left_alone_until.get(server, 0.0):
        logger.warning("execution %s: its query is left to the server, which could not be reached", execution.pk)
        return
    connector = source.connector(timezone=settings.TIME_ZONE, label=execution.label)
    try:
        connector.kill(execution.backend_id)
    except ConnectorError as exc:
        if exc.reason == "connection_failed":
            _left_alone_until[server] = time.monotonic() + LEFT_ALONE
        raise
