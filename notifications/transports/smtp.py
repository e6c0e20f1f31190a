"""Handing a mail over by SMTP (RFC 5321), with an answer for each recipient: smtplib's own sendmail() keeps the
temporary refusals of some to itself, and can't say whether a mail may have arrived.
"""

import base64
import os
import re
import smtplib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from typing import Any, BinaryIO, ParamSpec

from exporter_site.config import Email as Server
from exporter_site.redact import redact, remember_secret
from notifications.transports.base import ACCEPTED, Answer, Verdict
from notifications.transports.mime import Mail

_TEXT = 500  # characters kept of the server's words
_TOO_LARGE = re.compile(r"\b5\.3\.4\b|too (large|big)|size exceeds|exceeds .*size", re.IGNORECASE)  # RFC 3463

_GO_ON_LOGIN = 334
_GO_ON_BODY = 354
_CLOSING = 421
_LOGIN_CODES = (530, 534, 535, 538)  # RFC 4954, 6

Reply = tuple[int, bytes]
P = ParamSpec("P")


class _Ended(Exception):
    """The server does not want to go on: the answer for all who have none yet."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.text)
        self.answer = answer


class _Scissors:
    """Cut a connection at `moment` (time.monotonic()). `late`: they have.

    A timeout is only about the next byte: a server whose reply does not end would keep us for ever.
    """

    def __init__(self, moment: float) -> None:
        self.late = False
        self._moment = moment
        self._twin: socket.socket | None = None
        self._timer: threading.Timer | None = None

    def watch(self, connection: socket.socket) -> None:
        # TLS takes the socket over, and has none to spare for another thread: its twin ends the same connection.
        self._twin = socket.socket(fileno=os.dup(connection.fileno()))
        self._timer = threading.Timer(max(0.0, self._moment - time.monotonic()), self._cut, [self._twin])
        self._timer.daemon = True
        self._timer.start()

    def _cut(self, twin: socket.socket) -> None:
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


class _Watched:
    """smtplib's connections, given to `scissors` as soon as there is a socket: before the server has said a word."""

    def __init__(self, *args: Any, scissors: _Scissors, **kwargs: Any) -> None:
        self._scissors = scissors
        super().__init__(*args, **kwargs)

    def _get_socket(self, *args: Any) -> socket.socket:
        made: socket.socket = super()._get_socket(*args)  # type: ignore[misc]
        self._scissors.watch(made)
        return made


class _SMTP(_Watched, smtplib.SMTP):
    pass


class _TLS(_Watched, smtplib.SMTP_SSL):
    pass


class Conversation:
    """One connection to the mail server, for one mail. `end`: when nothing new is begun (time.monotonic()); what has
    begun has one timeout more."""

    def __init__(self, server: Server, end: float) -> None:
        self._server = server
        self._end = end
        self._scissors = _Scissors(end + server.smtp_timeout)
        self._handed_over = False

    def deliver(self, mail: Mail, addresses: Mapping[str, str]) -> dict[str, Answer]:
        """Hand `mail` to `addresses` (recipient: as on the wire). An answer for each recipient.

        Raises OSError when a file of ours can't be opened; nothing was sent then.
        """
        if not addresses:
            return {}
        refused: dict[str, Answer] = {}
        with ExitStack() as stack:
            stack.enter_context(closing(self._scissors))
            contents = [stack.enter_context(file.open()) for file in mail.files]
            try:
                with closing(self._connect()) as self._smtp:
                    answer = self._converse(mail, contents, addresses, refused)
            except (smtplib.SMTPException, OSError, UnicodeError) as exc:
                answer = self._answer_for(exc)
        return {name: refused.get(name, answer) for name in addresses}

    def try_login(self) -> Answer:
        """Connect, encrypt and log in as for a mail, and leave without one. ACCEPTED, or why it would not be taken."""
        with closing(self._scissors):
            try:
                with closing(self._connect()) as self._smtp:
                    self._greet()
                    self._log_in()
                    self._smtp.quit()
                    return ACCEPTED
            except _Ended as ended:
                return ended.answer
            except (smtplib.SMTPException, OSError, UnicodeError) as exc:
                return self._answer_for(exc)

    def _connect(self) -> smtplib.SMTP:
        self._check_time()
        host, port, timeout = self._server.smtp_server, self._server.smtp_port, self._server.smtp_timeout
        self._encrypted = port == smtplib.SMTP_SSL_PORT
        if self._encrypted:
            context = ssl.create_default_context()
            return _TLS(host, port, timeout=timeout, context=context, scissors=self._scissors)
        return _SMTP(host, port, timeout=timeout, scissors=self._scissors)

    def _converse(
        self,
        mail: Mail,
        contents: Sequence[BinaryIO],
        addresses: Mapping[str, str],
        refused: dict[str, Answer],
    ) -> Answer:
        """The answer for all who are not in `refused` afterwards."""
        try:
            self._greet()
            self._log_in()
            answer = self._hand_over(mail, contents, addresses, refused)
        except _Ended as ended:
            answer = ended.answer
        try:
            self._ask(self._smtp.quit)
        except (_Ended, smtplib.SMTPException, OSError):
            pass  # the mail has its answer already
        return answer

    def _greet(self) -> None:
        self._say_hello()
        if self._encrypted or not self._smtp.has_extn("starttls"):
            return
        try:
            self._ask(self._smtp.starttls, context=ssl.create_default_context())
        except smtplib.SMTPResponseException as exc:
            reason = "server_error" if exc.smtp_code == _CLOSING else "tls_failed"
            raise _Ended(Answer(Verdict.DEFERRED, reason, _said(exc.smtp_code, exc.smtp_error))) from exc
        self._encrypted = True
        self._say_hello()

    def _say_hello(self) -> None:
        if not _is_yes(self._ask(self._smtp.ehlo)[0]):
            self._expect_yes(self._ask(self._smtp.helo), "rejected")

    def _log_in(self) -> None:
        name, password = self._server.username, self._server.password.get_secret_value()
        if not (name and password):
            return
        if not self._encrypted:
            raise _Ended(Answer(Verdict.REFUSED, "tls_missing"))
        offered = self._smtp.esmtp_features.get("auth", "").upper().split()
        # smtplib's own login() knows no password beyond ASCII, and tries a wrong one up to three times.
        if "PLAIN" in offered:
            reply = self._ask(self._smtp.docmd, "AUTH", "PLAIN " + _secret_base64(f"\0{name}\0{password}"))
        elif "LOGIN" in offered:
            reply = self._ask(self._smtp.docmd, "AUTH", "LOGIN " + _secret_base64(name))
            if reply[0] == _GO_ON_LOGIN:
                reply = self._ask(self._smtp.docmd, _secret_base64(password))
        else:
            raise _Ended(Answer(Verdict.REFUSED, "auth_failed", " ".join(["AUTH", *offered])))
        self._expect_yes(reply, "auth_failed")

    def _hand_over(
        self,
        mail: Mail,
        contents: Sequence[BinaryIO],
        addresses: Mapping[str, str],
        refused: dict[str, Answer],
    ) -> Answer:
        options = [f"SIZE={mail.size}"] if self._smtp.has_extn("size") else []
        self._expect_yes(self._ask(self._smtp.mail, mail.sender, options), "sender_refused")
        for name, address in addresses.items():
            code, words = self._ask(self._smtp.rcpt, address)
            if not _is_yes(code):
                refused[name] = _refusal(code, words, "recipient_refused", "mailbox_busy")
        if len(refused) == len(addresses):
            return ACCEPTED  # by nobody
        code, words = self._ask(self._smtp.docmd, "DATA")
        if code != _GO_ON_BODY:
            return _refusal(code, words, "content_refused")
        return self._send_body(mail, contents)

    def _send_body(self, mail: Mail, contents: Sequence[BinaryIO]) -> Answer:
        for block in mail.blocks(contents):
            self._check_time()
            self._smtp.send(block)
        # Without this line it is no mail, and the server drops what it has (RFC 5321, 4.1.1.4).
        self._handed_over = True
        self._smtp.send(b".\r\n")
        code, words = self._smtp.getreply()
        if _is_yes(code):
            return Answer(Verdict.ACCEPTED, text=_said(code, words))
        if 400 <= code < 600:
            return _refusal(code, words, "content_refused")
        return Answer(Verdict.UNKNOWN, "unreadable_answer", _said(code, words))

    def _check_time(self) -> None:
        if time.monotonic() > self._end:
            raise TimeoutError

    def _ask(self, command: Callable[P, Reply], *args: P.args, **kwargs: P.kwargs) -> Reply:
        """The server's reply to `command`. Raises _Ended when it says that it closes the connection."""
        self._check_time()
        code, words = command(*args, **kwargs)
        if code == _CLOSING:
            raise _Ended(_refusal(code, words, ""))
        return code, words

    def _expect_yes(self, reply: Reply, reason: str) -> None:
        if not _is_yes(reply[0]):
            raise _Ended(_refusal(*reply, reason))

    def _answer_for(self, exc: Exception) -> Answer:
        """What it means that the conversation broke off."""
        if self._handed_over:
            return Answer(Verdict.UNKNOWN, "answer_lost", _cut(str(exc)))
        if isinstance(exc, smtplib.SMTPResponseException):
            return _refusal(exc.smtp_code, exc.smtp_error, "rejected")
        # smtplib hides the socket's own error.
        cause = exc.__context__ if isinstance(exc, smtplib.SMTPServerDisconnected) else exc
        if self._scissors.late or isinstance(cause, TimeoutError):
            reason = "timed_out"
        elif isinstance(cause, ssl.SSLError):
            reason = "tls_failed"
        else:
            reason = "unreachable"
        return Answer(Verdict.DEFERRED, reason, _cut(str(exc)))


def _is_yes(code: int) -> bool:
    return 200 <= code < 300


def _refusal(code: int, words: bytes | str, reason: str, later: str = "server_error") -> Answer:
    """The answer that a reply means which is no yes. `reason`: of a permanent refusal; `later`: of a temporary one."""
    said = _said(code, words)
    if code in _LOGIN_CODES:
        return Answer(Verdict.REFUSED, "auth_failed", said)
    if not 500 <= code < 600:
        return Answer(Verdict.DEFERRED, "server_error" if code == _CLOSING else later, said)
    # Said of a recipient, 552 means a full mailbox.
    if reason in ("sender_refused", "content_refused") and (code == 552 or _TOO_LARGE.search(said)):
        reason = "message_too_large"
    return Answer(Verdict.REFUSED, reason, said)


def _said(code: int, words: bytes | str) -> str:
    text = words if isinstance(words, str) else words.decode(errors="replace")
    return _cut(f"{code} {text}" if code > 0 else text)


def _cut(text: str) -> str:
    return redact(text)[:_TEXT]


def _secret_base64(text: str) -> str:
    """`text` for AUTH (RFC 4954). Some servers say back what they do not understand: it is masked there."""
    encoded = base64.b64encode(text.encode()).decode()
    remember_secret(encoded)
    return encoded
