"""A line to the system database that is cut without a word is noticed in seconds.

A server that dies ends its connections. A cable that is pulled or a host that is gone says nothing: then what was sent is
sent again for a quarter of an hour, and whoever waits for an answer waits for two hours (tcp(7): tcp_retries2,
tcp_keepalive_time). So each connection gets limits of its own; the same for both drivers, which offer less.
"""

import os
import socket
from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created
from django.dispatch import receiver

# A worker gives its run up after 40 seconds without the database (tasks/runner.py); until then there must be time for a
# second try, which takes up to ten.
MOST_SILENCE = 15  # seconds in which the other side confirms nothing
PROBE_EVERY = 5  # seconds, when there is nothing to say


@receiver(connection_created)
def limit_silence(connection: BaseDatabaseWrapper, **others: Any) -> None:
    if connection.vendor == "sqlite":
        return
    with socket.socket(fileno=os.dup(connection.connection.fileno())) as line:
        if line.family == socket.AF_UNIX:
            return
        line.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, PROBE_EVERY)
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, PROBE_EVERY)
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, max(1, MOST_SILENCE // PROBE_EVERY - 1))
        # Counts for what is sent and for probes; in milliseconds.
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, MOST_SILENCE * 1000)
