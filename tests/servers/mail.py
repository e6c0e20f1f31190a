"""A private mail server: it speaks real SMTP, misbehaves where a test says so, and remembers all it was given."""

import asyncio
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from email import message_from_bytes
from email.policy import default
from enum import Enum
from functools import cache, partial
from types import TracebackType
from typing import Any, Self

import trustme
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session
from django.conf import LazySettings
from pydantic import SecretStr

from tests.servers import Account

HOST = "127.0.0.1"
LOGIN = Account("exports@example.com", "password-for-tests")


@cache
def authority() -> trustme.CA:
    """Who signs the servers' certificates. Trusted by whom SSL_CERT_FILE leads to its `cert_pem`."""
    return trustme.CA()


@cache
def _tls_context(identity: str) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority().issue_cert(identity).configure_cert(context)
    return context


def configure(settings: LazySettings, server: "MailServer", **changes: object) -> None:
    """Make `server` the one of config.yaml, with the right account if it has one; `changes` are of the email section."""
    account = server.account or Account(LOGIN.username, "")
    values = {
        "smtp_server": HOST,
        "smtp_port": server.port,
        "username": account.username,
        "password": SecretStr(account.password),
    }
    email = settings.CONFIG.email.model_copy(update=values | changes)
    settings.CONFIG = settings.CONFIG.model_copy(update={"email": email})


def read(mail: "Accepted") -> tuple[str, list[str | None]]:
    """The plain text of a mail, and the names of its attachments."""
    parsed = message_from_bytes(mail.content, policy=default)
    body = parsed.get_body(("plain",))
    assert body is not None
    return body.get_content(), [part.get_filename() for part in parsed.iter_attachments()]


class Fault(Enum):
    """What the server does instead of answering."""

    SILENCE = "it says nothing more"
    CUT = "it cuts the connection"
    CUT_IN_BODY = "it asks for the mail, and cuts the connection after the first line"


@dataclass(frozen=True, slots=True)
class Accepted:
    """A mail that the server took over. `content`: the bytes as they came."""

    sender: str
    recipients: tuple[str, ...]
    content: bytes
    options: tuple[str, ...]
    encrypted: bool
    user: str


@dataclass(frozen=True, slots=True)
class Recipient:
    """A recipient that was asked for, and what the server said. `at`: time.monotonic()."""

    address: str
    reply: str
    at: float


@dataclass
class Log:
    mails: list[Accepted] = field(default_factory=list)
    recipients: list[Recipient] = field(default_factory=list)
    logins: list[tuple[LoginPassword, bool]] = field(default_factory=list)  # what was sent, and whether encrypted
    commands: list[str] = field(default_factory=list)  # their names, of all connections


class MailServer:
    """Listens on a free port while it is a context.

    `tls`: "" for none, "starttls", or "implicit". `account`: who must log in to send; None lets everybody.
    `offers_login_in_clear`: also offers AUTH on an open line, as one whose STARTTLS was stripped does.
    `mechanisms`: of AUTH. `size_limit`: bytes of a mail, checked as SIZE says and as it comes.
    """

    def __init__(
        self,
        *,
        tls: str = "",
        account: Account | None = None,
        offers_login_in_clear: bool = False,
        mechanisms: tuple[str, ...] = ("LOGIN", "PLAIN"),
        size_limit: int = 0,
        identity: str = HOST,
    ) -> None:
        self.tls = tls
        self.account = account
        self.offers_login_in_clear = offers_login_in_clear
        self.mechanisms = mechanisms
        self.size_limit = size_limit
        self.port = 0
        self.log = Log()
        self._identity = identity
        self._script: dict[str, list[str | Fault]] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._connections: list[_Protocol] = []

    def say(self, where: str, *replies: str | Fault) -> None:
        """Once each, in this order, instead of the usual reply to `where`: CONNECT, a command, BODY (the end of the
        mail), or a recipient's address. A 421 closes the connection as well."""
        self._script.setdefault(where, []).extend(replies)

    def next_reply(self, where: str) -> str | Fault | None:
        replies = self._script.get(where)
        return replies.pop(0) if replies else None

    def __enter__(self) -> Self:
        self._thread.start()
        self._listener = asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(10)
        self.port = self._listener.sockets[0].getsockname()[1]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _listen(self) -> asyncio.Server:
        context = _tls_context(self._identity) if self.tls == "implicit" else None
        return await self._loop.create_server(self._connected, HOST, 0, ssl=context)

    def _connected(self) -> "_Protocol":
        connection = _Protocol(self, self._loop, _tls_context(self._identity) if self.tls == "starttls" else None)
        self._connections.append(connection)
        return connection

    async def _close(self) -> None:
        self._listener.close()
        for connection in self._connections:
            connection.abort()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._listener.wait_closed()
        await asyncio.sleep(0)  # the transports' own last calls


class _Protocol(SMTP):
    """One connection. Each command first looks into the server's script."""

    def __init__(self, owner: MailServer, loop: asyncio.AbstractEventLoop, context: ssl.SSLContext | None) -> None:
        self._owner = owner
        super().__init__(
            _Handler(owner),
            loop=loop,
            hostname="mail.test",
            tls_context=context,
            enable_SMTPUTF8=True,
            data_size_limit=owner.size_limit or None,
            # Whether AUTH is offered, and needed, is decided in _Handler: aiosmtpd warns of a server without TLS.
            auth_require_tls=False,
            auth_exclude_mechanism={"LOGIN", "PLAIN"}.difference(owner.mechanisms),
            authenticator=_authenticator(owner),
        )
        self._smtp_methods = {
            name: partial(self._as_scripted, name, method) for name, method in self._smtp_methods.items()
        }

    @property
    def is_encrypted(self) -> bool:
        return self._tls_protocol is not None or self._owner.tls == "implicit"

    def abort(self) -> None:
        for transport in (self.transport, self._original_transport):
            if isinstance(transport, asyncio.Transport):
                try:
                    transport.abort()
                except AttributeError:  # a TLS one that is closed already, until Python 3.11.3
                    pass

    async def _handle_client(self) -> None:
        if not await self.act(self._owner.next_reply("CONNECT")):
            await super()._handle_client()

    async def _as_scripted(self, name: str, method: Callable[[str | None], Any], arg: str | None) -> None:
        self._owner.log.commands.append(name)
        if not await self.act(self._owner.next_reply(name)):
            await method(arg)

    async def act(self, reply: str | Fault | None) -> bool:
        """Do as the script says. False if it says nothing."""
        if reply is None:
            return False
        if reply is Fault.SILENCE:
            await asyncio.Event().wait()  # until the client goes away
        if reply is Fault.CUT_IN_BODY:
            await self.push("354 go on")
            await self._reader.readline()
        if isinstance(reply, str):
            await self.push(reply)
        if isinstance(reply, Fault) or str(reply).startswith("421"):
            await self.hang_up()
        return True

    async def hang_up(self) -> None:
        assert self.transport is not None
        self.transport.close()
        assert self._handler_coroutine is not None
        self._handler_coroutine.cancel()
        await asyncio.sleep(0)  # the cancellation arrives here


def _authenticator(owner: MailServer) -> Callable[..., AuthResult]:
    def authenticate(
        connection: _Protocol, session: Session, envelope: Envelope, mechanism: str, data: LoginPassword
    ) -> AuthResult:
        owner.log.logins.append((data, connection.is_encrypted))
        known = owner.account
        right = known is not None and data == (known.username.encode(), known.password.encode())
        return AuthResult(success=right, handled=False, auth_data=data)

    return authenticate


class _Handler:
    """aiosmtpd's hooks: what is offered, who may send to whom, and what is remembered."""

    def __init__(self, owner: MailServer) -> None:
        self._owner = owner

    async def handle_EHLO(
        self, server: _Protocol, session: Session, envelope: Envelope, hostname: str, responses: list[str]
    ) -> list[str]:
        session.host_name = hostname
        account, in_clear = self._owner.account, self._owner.offers_login_in_clear
        if account is None or not (server.is_encrypted or in_clear):
            return [line for line in responses if not line.startswith("250-AUTH")]
        return responses

    async def handle_MAIL(
        self, server: _Protocol, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if self._owner.account is not None and not session.authenticated:
            return "530 5.7.0 Authentication required"
        envelope.mail_from = address
        envelope.mail_options.extend(options)
        return "250 2.1.0 Ok"

    async def handle_RCPT(
        self, server: _Protocol, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        scripted = self._owner.next_reply(address)
        reply = scripted if isinstance(scripted, str) else "250 2.1.5 Ok"
        self._owner.log.recipients.append(Recipient(address, reply, time.monotonic()))
        if isinstance(scripted, Fault) or reply.startswith("421"):
            await server.act(scripted)
        if reply.startswith("250"):
            envelope.rcpt_tos.append(address)
        return reply

    async def handle_DATA(self, server: _Protocol, session: Session, envelope: Envelope) -> str:
        scripted = self._owner.next_reply("BODY")
        if isinstance(scripted, str) and not scripted.startswith("250"):
            if scripted.startswith("421"):
                await server.act(scripted)
            return scripted
        self._remember(server, session, envelope)
        if isinstance(scripted, Fault):
            await server.act(scripted)
        return scripted if isinstance(scripted, str) else "250 2.0.0 Ok: queued as 4711"

    def _remember(self, server: _Protocol, session: Session, envelope: Envelope) -> None:
        assert envelope.mail_from is not None
        assert envelope.original_content is not None
        user = session.auth_data.login.decode() if session.auth_data else ""
        self._owner.log.mails.append(
            Accepted(
                envelope.mail_from,
                tuple(envelope.rcpt_tos),
                envelope.original_content,
                tuple(envelope.mail_options),
                server.is_encrypted,
                user,
            )
        )
