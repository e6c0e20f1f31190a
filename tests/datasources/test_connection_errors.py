"""What is wrong with a connection is said in words, with a reason of its own, within ten seconds."""

import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from datasources.connectors import base, connectors
from datasources.connectors.base import ConnectionParams, ConnectorError
from datasources.models import DataSource
from tests.datasources.benches import SERVER_FIXTURES, rows
from tests.servers import PrivateServer, free_port
from tests.servers.mariadb import MariaDB
from tests.servers.postgresql import PostgreSQL

LIMIT = 10  # seconds


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two seconds instead of eight: all these tests want to know is that the limit holds."""
    assert base.CONNECT_TIMEOUT < LIMIT
    monkeypatch.setattr(base, "CONNECT_TIMEOUT", 2)


@pytest.fixture(params=["mysql", "adb", "postgresql"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def server(kind: str, request: pytest.FixtureRequest) -> PrivateServer:
    found = request.getfixturevalue(SERVER_FIXTURES[kind])
    assert isinstance(found, PrivateServer)
    return found


@pytest.fixture
def params(server: PrivateServer) -> ConnectionParams:
    """Parameters that work."""
    return server.params(server.new_database())


@pytest.fixture
def black_hole() -> Iterator[int]:
    """The port of a server that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@pytest.fixture
def full_black_hole() -> Iterator[int]:
    """The port of a server whose queue is full: not even the connection is taken, as behind a dropping firewall."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        port = listener.getsockname()[1]
        waiting = []
        for _number in range(3):
            client = socket.socket()
            client.setblocking(False)
            client.connect_ex(("127.0.0.1", port))
            waiting.append(client)
        yield port
        for client in waiting:
            client.close()


def failure(kind: str, params: ConnectionParams, **changes: Any) -> ConnectorError:
    started = time.monotonic()
    with pytest.raises(ConnectorError) as caught, connectors.get(kind)(replace(params, **changes)):
        pass
    assert time.monotonic() - started < LIMIT
    assert params.password not in str(caught.value) + caught.value.detail
    return caught.value


def test_a_good_connection_tells_version_and_latency(kind: str, params: ConnectionParams) -> None:
    with connectors.get(kind)(params) as connector:
        assert connector.report().server_version


def test_a_wrong_password_is_a_refused_login(kind: str, params: ConnectionParams) -> None:
    error = failure(kind, params, password="wrong-secret")
    assert error.reason == "auth_failed"
    assert params.username in str(error)
    assert "wrong-secret" not in str(error) + error.detail


def test_an_unknown_user_is_a_refused_login(kind: str, params: ConnectionParams) -> None:
    assert failure(kind, params, username="nobody_here").reason == "auth_failed"


def test_a_closed_port_is_unreachable(kind: str, params: ConnectionParams) -> None:
    error = failure(kind, params, port=free_port())
    assert error.reason == "connection_failed"
    assert "127.0.0.1" in str(error)


def test_an_unknown_database_is_named(kind: str, server: PrivateServer, params: ConnectionParams) -> None:
    error = failure(kind, server.params("no_such_place", account=server.admin))
    assert error.reason == "unknown_database"
    assert "no_such_place" in str(error)


def test_an_unknown_host_is_named(kind: str, params: ConnectionParams) -> None:
    error = failure(kind, params, host="no-such-host.invalid")
    assert error.reason == "connection_failed"
    assert "no-such-host.invalid" in str(error)


@pytest.mark.parametrize(
    "host", ["/var/run/socket", "a,b", "user@host", "", " ", "host name", "a\nb", "\\\\share", "http://host", "a\tb"]
)
def test_what_is_no_host_name_never_reaches_the_driver(kind: str, params: ConnectionParams, host: str) -> None:
    assert failure(kind, params, host=host).reason == "connection_failed"


@pytest.mark.parametrize("mode", ["require", "verify-ca", "verify-full"])
def test_tls_required_of_a_server_without_tls_is_its_own_failure(
    kind: str, params: ConnectionParams, mode: str
) -> None:
    assert failure(kind, params, ssl_mode=mode).reason == "tls_failed"


@pytest.mark.parametrize("mode", ["disable", "prefer"])
def test_without_tls_on_the_server_the_modes_that_do_not_insist_connect(
    kind: str, params: ConnectionParams, mode: str
) -> None:
    with connectors.get(kind)(replace(params, ssl_mode=mode)) as connector:
        assert connector.backend_id()


def test_a_host_with_several_addresses_does_not_take_several_times_as_long(
    kind: str, params: ConnectionParams, black_hole: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    everywhere = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (f"127.0.0.{last}", black_hole)) for last in range(1, 5)]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: everywhere)
    addresses, seconds = base.resolve_host("four.example", 1)
    assert addresses == [f"127.0.0.{last}" for last in range(1, 5)]
    assert seconds * len(addresses) <= LIMIT


def test_a_server_that_never_answers_is_given_up(
    kind: str, params: ConnectionParams, black_hole: int, impatient: None
) -> None:
    started = time.monotonic()
    assert failure(kind, params, port=black_hole).reason == "connection_failed"
    assert 1 < time.monotonic() - started < 4


def test_an_address_that_takes_no_connection_is_given_up(
    kind: str, params: ConnectionParams, full_black_hole: int, impatient: None
) -> None:
    assert failure(kind, params, port=full_black_hole).reason == "connection_failed"


def test_a_server_that_speaks_another_protocol_is_no_database(
    kind: str, params: ConnectionParams, mariadb: PrivateServer, postgresql: PrivateServer, impatient: None
) -> None:
    other = mariadb if kind == "postgresql" else postgresql
    assert failure(kind, params, port=other.port).reason == "connection_failed"


def test_each_failure_has_a_sentence_of_its_own(kind: str, server: PrivateServer, params: ConnectionParams) -> None:
    errors = [
        failure(kind, params, password="wrong"),
        failure(kind, params, port=free_port()),
        failure(kind, server.params("no_such_place", account=server.admin)),
        failure(kind, params, host="no-such-host.invalid"),
        failure(kind, params, ssl_mode="require"),
    ]
    assert len({str(error) for error in errors}) == len(errors)
    assert all(str(error)[-1] in ".。" for error in errors)


def test_an_sqlite_file_that_is_missing_or_none_is_said(tmp_path: Any) -> None:
    text = tmp_path / "text.db"
    text.write_text("no database at all, but long enough to look like one" * 10)
    missing = ConnectionParams(database=str(tmp_path / "missing.db"))
    for params, reason in (
        (missing, "unknown_database"),
        (replace(missing, database=str(tmp_path)), "unknown_database"),
        (replace(missing, database=str(text)), "connection_failed"),
    ):
        with pytest.raises(ConnectorError) as caught, connectors.get("sqlite")(params):
            pass
        assert caught.value.reason == reason
    assert not (tmp_path / "missing.db").exists()


def test_a_saved_source_is_tested_with_its_own_account(
    mariadb_source: DataSource, postgresql_source: DataSource
) -> None:
    for source in (mariadb_source, postgresql_source):
        source.refresh_from_db()
        report = source.test()
        assert (report.server_version != "", report.warnings) == (True, ())


@pytest.fixture(scope="module")
def certificate() -> tuple[bytes, bytes]:
    """A self-signed certificate for "localhost", and its key, as PEM."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    encoding = serialization.Encoding.PEM
    private = key.private_bytes(encoding, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption())
    return made.public_bytes(encoding), private


@pytest.fixture(scope="module", params=["mysql", "postgresql"])
def tls_server(
    request: pytest.FixtureRequest, certificate: tuple[bytes, bytes], mariadb: PrivateServer, postgresql: PrivateServer
) -> Iterator[tuple[str, PrivateServer]]:
    """A server that can encrypt."""
    server = MariaDBWithTLS(certificate) if request.param == "mysql" else PostgreSQLWithTLS(certificate)
    server.start()
    yield request.param, server
    server.stop()


def put_certificate(server: PrivateServer, certificate: tuple[bytes, bytes]) -> None:
    for name, content in zip(("cert.pem", "key.pem"), certificate, strict=True):
        file = server.directory / name
        file.write_bytes(content)
        file.chmod(0o600)
        server.user.own(file)


class MariaDBWithTLS(MariaDB):
    def __init__(self, certificate: tuple[bytes, bytes]) -> None:
        super().__init__()
        self._certificate = certificate

    def command(self, data: Path) -> Sequence[object]:
        put_certificate(self, self._certificate)
        files = (f"--ssl-cert={self.directory / 'cert.pem'}", f"--ssl-key={self.directory / 'key.pem'}")
        return [*super().command(data), *files]


class PostgreSQLWithTLS(PostgreSQL):
    def __init__(self, certificate: tuple[bytes, bytes]) -> None:
        super().__init__()
        self._certificate = certificate

    def command(self, data: Path) -> Sequence[object]:
        put_certificate(self, self._certificate)
        files = {"ssl_cert_file": self.directory / "cert.pem", "ssl_key_file": self.directory / "key.pem"}
        settings = ("ssl=on", *(f"{name}={file}" for name, file in files.items()))
        return [*super().command(data), *(part for setting in settings for part in ("-c", setting))]


ENCRYPTED = {
    "mysql": "SELECT VARIABLE_VALUE <> '' FROM information_schema.SESSION_STATUS WHERE VARIABLE_NAME = 'Ssl_cipher'",
    "postgresql": "SELECT ssl::int FROM pg_stat_ssl WHERE pid = pg_backend_pid()",
}


@pytest.mark.parametrize(("mode", "encrypted"), [("disable", b"0"), ("prefer", b"1"), ("require", b"1")])
def test_a_server_that_can_encrypt_does_unless_told_not_to(
    tls_server: tuple[str, PrivateServer], mode: str, encrypted: bytes
) -> None:
    kind, server = tls_server
    params = server.params(server.new_database(), ssl_mode=mode)
    assert rows(connectors.get(kind)(params), ENCRYPTED[kind]) == [(encrypted,)]


@pytest.mark.parametrize("mode", ["verify-ca", "verify-full"])
def test_a_certificate_that_nobody_vouches_for_is_refused_when_it_is_to_be_checked(
    tls_server: tuple[str, PrivateServer], mode: str
) -> None:
    kind, server = tls_server
    assert failure(kind, server.params(server.new_database()), ssl_mode=mode).reason == "tls_failed"
