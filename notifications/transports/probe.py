"""Whether somebody listens where messages go: a connection and TLS, and not one byte of a request."""

import os
import socket
import ssl
import time
from collections.abc import Sequence

from notifications.transports.addresses import Target, target_of
from notifications.transports.base import ACCEPTED, Answer, Verdict
from notifications.transports.http import plain_words


def reach(url: str, hosts: Sequence[str] | None, seconds: float) -> Answer:
    """ACCEPTED, or why no message could be sent to `url`. `hosts` as for post_json(). Takes `seconds` at most, but for
    the resolver."""
    try:
        target = target_of(url, hosts)
        addresses = target.resolve()
    except ValueError as exc:
        return Answer(Verdict.REFUSED, "address_refused", str(exc))
    except OSError as exc:
        return Answer(Verdict.DEFERRED, "unreachable", exc.strerror or "")
    ends_at = time.monotonic() + seconds
    answer = Answer(Verdict.DEFERRED, "timed_out")
    for address in addresses:
        left = ends_at - time.monotonic()
        if left <= 0:
            break
        answer = _connect(target, address, left)
        if answer.verdict == Verdict.ACCEPTED:
            break
    return answer


def _connect(target: Target, address: str, seconds: float) -> Answer:
    try:
        with socket.create_connection((address, target.port), seconds) as made:
            if target.tls:
                with ssl.create_default_context().wrap_socket(made, server_hostname=target.host):
                    return ACCEPTED
            return ACCEPTED
    except ssl.SSLError as exc:
        words = getattr(exc, "verify_message", "") or exc.reason or ""
        return Answer(Verdict.DEFERRED, "tls_failed", plain_words(str(words)))
    except TimeoutError:
        return Answer(Verdict.DEFERRED, "timed_out")
    except OSError as exc:
        return Answer(Verdict.DEFERRED, "unreachable", os.strerror(exc.errno) if exc.errno else "")
