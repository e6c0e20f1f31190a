"""One POST to an address that a user wrote, and what can be known of its fate."""

import json
import os
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError
from urllib3.util.connection import create_connection

from exporter_site.redact import redact
from notifications.transports.addresses import Target, target_of
from notifications.transports.base import Answer, Verdict

CONNECT_TIMEOUT = 10.0  # seconds, for one address
READ_TIMEOUT = 20.0  # seconds between two pieces of the answer
DEADLINE = 40.0  # seconds, for all of it but the resolver
ANSWER_LIMIT = 64 * 1024  # bytes
WORDS_LIMIT = 300  # characters
LONGEST_WAIT = 3600.0  # seconds: a mistaken Retry-After must not silence a channel for a week
USUAL_WAIT = 60.0  # seconds, where a server says "too many" and no more


@dataclass(frozen=True, slots=True)
class Reply:
    """`failure`: there was no answer, and that is what it means. Otherwise `status`, and of the answer's content
    `json` (None for anything else) and `words` (one line, without secrets), or in `broken_off` the reason why it did
    not come. `retry_after`: seconds, 0 if not said.
    """

    status: int = 0
    json: Any = None
    words: str = ""
    broken_off: str = ""
    retry_after: float = 0.0
    failure: Answer | None = None

    @property
    def refusal(self) -> Answer | None:
        """What HTTP says of the message; None for 2xx, where the content decides."""
        if self.failure is not None or 200 <= self.status < 300:
            return self.failure
        text = f"HTTP {self.status} {self.words}".rstrip()
        if self.status == 429:
            return Answer(Verdict.LIMITED, "rate_limited", text, wait=self.retry_after or USUAL_WAIT)
        if self.status >= 500 or self.status in (408, 425):
            return Answer(Verdict.DEFERRED, "server_error", text, wait=self.retry_after)
        return Answer(Verdict.REFUSED, "redirected" if 300 <= self.status < 400 else "rejected", text)


def encode(body: Mapping[str, Any]) -> bytes:
    # Half a surrogate pair, as a cut text may have it, is no reason to fail.
    return json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")


def plain_words(text: str) -> str:
    """The other side's words as they may be stored and shown: one line, no secrets, nothing a database refuses."""
    line = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return redact(line)[:WORDS_LIMIT]


def post_json(
    url: str,
    body: Mapping[str, Any] | bytes,
    *,
    headers: Mapping[str, str] | None = None,
    hosts: Sequence[str] | None,
) -> Reply:
    """POST `body` to `url`, if it may go there (see addresses.py). No proxies, no redirects, no second try.

    Never raises for what the other side or the network does. No URL is in the reply: it carries the token.
    """
    try:
        target = target_of(url, hosts)
    except ValueError as exc:
        return Reply(failure=Answer(Verdict.REFUSED, "address_refused", str(exc)))
    ends_at = time.monotonic() + DEADLINE
    try:
        line = _Line(target.resolve(), target.port, ends_at)
    except ValueError as exc:
        # Resolvers are wrong for a while, at times: the check is made again at the next try.
        return Reply(failure=Answer(Verdict.DEFERRED, "address_refused", str(exc)))
    except OSError as exc:
        return Reply(failure=Answer(Verdict.DEFERRED, "unreachable", exc.strerror or ""))
    with closing(line):
        try:
            return _exchange(url, body if isinstance(body, bytes) else encode(body), headers or {}, target, line)
        except (requests.RequestException, HTTPError, OSError) as exc:
            return Reply(failure=line.failure(exc))


def _exchange(url: str, body: bytes, headers: Mapping[str, str], target: Target, line: "_Line") -> Reply:
    ours = {
        "Content-Type": "application/json; charset=utf-8",
        "User-Agent": "data-export-system",
        "Accept-Encoding": "identity",  # it is read as it comes: 64 KB can unpack to 64 MB
        "Connection": "close",
    }
    request = requests.Request("POST", url, data=body, headers={**ours, **headers}).prepare()
    # Not Session.send(): it reads a redirect's whole body before anybody can look at its size.
    with closing(_Adapter(target, line)) as adapter:
        response = adapter.send(request, stream=True, timeout=(CONNECT_TIMEOUT, READ_TIMEOUT), verify=True, proxies={})
        with closing(response):
            return _read(response, line)


def _read(response: requests.Response, line: "_Line") -> Reply:
    content, broken_off = b"", ""
    try:
        content = response.raw.read(ANSWER_LIMIT + 1, decode_content=False)
    except (HTTPError, OSError) as exc:  # the status is known all the same
        broken_off = line.failure(exc).reason
    text = content.decode("utf-8", "replace")
    return Reply(
        status=response.status_code,
        json=_parse_json(content),
        words="" if text.lstrip().startswith("<") else plain_words(text),
        broken_off="timed_out" if line.late else broken_off,
        retry_after=_seconds(response.headers.get("Retry-After", "")),
    )


def _parse_json(content: bytes) -> Any:
    if len(content) > ANSWER_LIMIT:
        return None
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None


def _seconds(retry_after: str) -> float:
    """RFC 9110, 10.2.3: a number of seconds or a date."""
    try:
        seconds = float(retry_after) if retry_after.isdecimal() else _until(retry_after)
    except (ValueError, OverflowError):
        return 0.0
    return min(max(seconds, 0.0), LONGEST_WAIT)


def _until(date: str) -> float:
    return parsedate_to_datetime(date).timestamp() - time.time()


class _Line:
    """The connection of one request: to one of the checked addresses, and cut at the deadline.

    `ready`: somebody is there and TLS is done; from here on the message may have arrived. `late`: it was cut.
    """

    def __init__(self, addresses: Sequence[str], port: int, ends_at: float) -> None:
        self.ready = self.late = False
        self._places = [(address, port) for address in addresses]
        self._ends_at = ends_at
        self._twin: socket.socket | None = None
        self._timer: threading.Timer | None = None

    def open(self) -> socket.socket:
        error: OSError = TimeoutError()
        for place in self._places:
            seconds = self._ends_at - time.monotonic()
            if seconds <= 0:
                break
            try:
                made = create_connection(
                    place, min(CONNECT_TIMEOUT, seconds), socket_options=HTTPConnection.default_socket_options
                )
            except OSError as exc:
                error = exc
                continue
            # TLS takes the socket over; its twin stays ours and ends the same connection.
            self._twin = made.dup()
            self._timer = threading.Timer(max(0.0, self._ends_at - time.monotonic()), self._cut, [self._twin])
            self._timer.daemon = True
            self._timer.start()
            return made
        raise error

    def _cut(self, twin: socket.socket) -> None:
        """A timeout is only about the next byte: who sends one every 19 seconds would keep us for ever."""
        self.late = True
        try:
            twin.shutdown(socket.SHUT_RDWR)
        except OSError:  # the other side was faster
            pass

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._twin is not None:
            self._twin.close()

    def failure(self, exc: BaseException) -> Answer:
        """What an exception means for the message. Its own text has the URL in it: only parts known good are told."""
        causes = list(_causes(exc))
        late = self.late or any(isinstance(cause, TimeoutError) for cause in causes)
        if self.ready:
            return Answer(Verdict.UNKNOWN, "timed_out" if late else "answer_lost")
        if late:
            return Answer(Verdict.DEFERRED, "timed_out")
        for cause in causes:
            if isinstance(cause, ssl.SSLError):
                words = getattr(cause, "verify_message", "") or cause.reason or ""
                return Answer(Verdict.DEFERRED, "tls_failed", plain_words(str(words)))
        errno = next((cause.errno for cause in causes if isinstance(cause, OSError) and cause.errno), 0)
        return Answer(Verdict.DEFERRED, "unreachable", os.strerror(errno) if errno else "")


def _causes(exc: BaseException | None) -> Iterator[BaseException]:
    while exc is not None:
        yield exc
        exc = exc.__cause__ or exc.__context__


class _Connection(HTTPConnection):
    def __init__(self, *args: Any, line: _Line, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._line = line

    def _new_conn(self) -> socket.socket:
        return self._line.open()

    def connect(self) -> None:
        super().connect()
        self._line.ready = True


class _TLSConnection(_Connection, HTTPSConnection):
    """The name stays what SNI and the certificate are about; only the way there is ours."""


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _TLSPool(HTTPSConnectionPool):
    ConnectionCls = _TLSConnection


class _Adapter(HTTPAdapter):
    """Gives requests the one connection that was checked, whatever else it reads in the URL."""

    def __init__(self, target: Target, line: _Line) -> None:
        super().__init__()
        # The system's authorities beside those of requests: a company's own one is installed there.
        self._pool = (
            _TLSPool(target.host, target.port, line=line, ssl_context=ssl.create_default_context())
            if target.tls
            else _Pool(target.host, target.port, line=line)
        )

    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> HTTPConnectionPool:
        return self._pool

    def close(self) -> None:
        self._pool.close()
        super().close()
