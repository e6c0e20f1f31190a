"""A source leads to a database server and nowhere else: what its host may be, and where a connection goes."""

import socket
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path
from queue import Queue
from typing import Any

import MySQLdb
import psycopg
import pytest
from django.core.exceptions import ValidationError
from django.core.management import CommandError, call_command

from datasources import hosts
from datasources.config_sync import sync
from datasources.connectors import connectors
from datasources.connectors.base import ConnectionParams, ConnectorError
from datasources.models import DataSource
from exporter_site.config import SourceConfig
from tests.datasources.test_connection_errors import certificate, tls_server
from tests.servers import PrivateServer

__all__ = ["certificate", "tls_server"]

# All of those that lead anywhere lead to this machine, where a listener waits.
HOSTILE = {
    "a decimal number": "2130706433",
    "a hexadecimal number": "0x7f000001",
    "a hexadecimal part": "0x7f.0.0.1",
    "a hexadecimal end": "127.0.0.0x1",
    "an octal part": "0177.0.0.1",
    "leading zeros": "127.000.000.001",
    "two parts": "127.1",
    "three parts": "127.0.1",
    "the number nought": "0",
    "five parts": "127.0.0.1.1",
    "a part too large": "127.0.0.256",
    "a dot behind an address": "127.0.0.1.",
    "digits of full width": "１２７.0.0.1",
    "an ideographic full stop": "127。0。0。1",
    "letters in circles": "ⓛⓞⓒⓐⓛⓗⓞⓢⓣ",
    "an international name": "数据库.example",
    "IPv4 mapped": "::ffff:127.0.0.1",
    "IPv4 mapped in hexadecimal": "::ffff:7f00:1",
    "IPv4 compatible": "::127.0.0.1",
    "IPv4 translated": "::ffff:0:7f00:1",
    "NAT64": "64:ff9b::7f00:1",
    "NAT64 of a local network": "64:ff9b:1::7f00:1",
    "6to4": "2002:7f00:1::",
    "Teredo": "2001:0:7f00:1::80ff:fffe",
    "ISATAP": "fd00::5efe:7f00:1",
    "IPv6 with leading zeros": "0:0:0:0:0:0:0:1",
    "IPv6 in brackets": "[::1]",
    "IPv6 with a scope": "::1%lo",
    "link-local": "169.254.1.1",
    "metadata of most clouds": "169.254.169.254",
    "metadata of Aliyun": "100.100.100.200",
    "metadata of Azure": "168.63.129.16",
    "metadata of Oracle": "192.0.0.192",
    "metadata of AWS over IPv6": "fd00:ec2::254",
    "metadata of Google over IPv6": "fd20:ce::254",
    "link-local IPv6": "fe80::1",
    "link-local IPv6 with a scope": "fe80::1%lo",
    "site-local IPv6": "fec0::1",
    "unspecified": "0.0.0.0",
    "this network": "0.1.2.3",
    "unspecified IPv6": "::",
    "multicast": "224.0.0.1",
    "multicast IPv6": "ff02::1",
    "reserved": "240.0.0.1",
    "broadcast": "255.255.255.255",
    "a socket": "/var/run/mysqld/mysqld.sock",
    "a directory of sockets": "/var/run/postgresql",
    "an abstract socket": "@postgres",
    "a relative path": "../run/postgresql",
    "a share": "\\\\server\\share",
    "a pipe": "\\\\.\\pipe\\mysql",
    "a list": "localhost,127.0.0.1",
    "a list with nothing first": ",localhost",
    "a list of ports": "localhost:1,localhost:2",
    "a port": "127.0.0.1:3306",
    "a port behind IPv6": "[::1]:3306",
    "a URL": "mysql://localhost/db",
    "a URL with a password": "postgresql://user:secret-word@localhost/db",
    "a login": "user:secret-word@localhost",
    "settings for libpq": "localhost port=1",
    "settings without a blank": "host=localhost",
    "a quotation mark": "localhost'",
    "a percent code": "local%68ost",
    "a percent code of a dot": "127%2e0%2e0%2e1",
    "a blank in front": " localhost",
    "a blank behind": "localhost ",
    "a line end": "localhost\n",
    "two lines": "localhost\r\nhost: x",
    "a tabulator": "local\thost",
    "NUL": "localhost\0.example.com",
    "a control character": "localhost\x7f",
    "no-break space": "localhost\u00a0",
    "ideographic space": "localhost\u3000",
    "no width": "local\u200bhost",
    "a joiner": "local\u200dhost",
    "a soft hyphen": "local\u00adhost",
    "turned direction": "\u202etsohlacol",
    "isolated direction": "\u2066localhost\u2069",
    "a byte order mark": "\ufefflocalhost",
    "half a surrogate pair": "localhost\ud800",
    "an empty label": "db..localhost",
    "a dot in front": ".localhost",
    "a dot behind": "localhost.",
    "only a dot": ".",
    "a hyphen in front": "-localhost",
    "a hyphen behind": "localhost-",
    "a long label": "a" * 64 + ".localhost",
    "a long name": ".".join(["a" * 63] * 4) + ".localhost",
    "an asterisk": "*",
    "nothing": "",
}
LEGITIMATE = (
    "localhost",
    "LOCALHOST",
    "127.0.0.1",
    "::1",
    "10.0.0.5",
    "172.16.0.5",
    "192.168.1.5",
    "100.64.0.5",
    "8.8.8.8",
    "fd00::5",
    "2001:db8::5",
    "2001:DB8::A",
    "db1",
    "db.example.internal",
    "my_database",
    "_db._tcp.example.com",
    "3306-db.example.com",
    "1db",
    "a.b-c.d",
    "rm-bp1xxxxxxxxxx.mysql.rds.aliyuncs.com",
    "xn--dxty1ibyb.example",
    "face.cafe",
    "a" * 63 + ".example",
)
KINDS = ("mysql", "adb", "postgresql")


class Resolver:
    """A name service that says what the test wants: each answer once, the last one for ever."""

    def __init__(self) -> None:
        self.answers: list[list[str]] = []
        self.asked: list[str] = []

    def getaddrinfo(self, host: str, port: int, *args: Any, **kwargs: Any) -> list[Any]:
        self.asked.append(host)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return [(family(address), socket.SOCK_STREAM, 6, "", (address, port)) for address in answer]


def family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Resolver:
    made = Resolver()
    monkeypatch.setattr(socket, "getaddrinfo", made.getaddrinfo)
    return made


class Listener:
    """Waits on every address of this machine, on one port, for connections that must not come."""

    def __init__(self) -> None:
        self.socket = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
        self.socket.setblocking(False)
        self.port = int(self.socket.getsockname()[1])

    def was_called(self) -> bool:
        try:
            self.socket.accept()[0].close()
        except BlockingIOError:
            return False
        return True


@pytest.fixture(scope="module")
def listener() -> Iterator[Listener]:
    made = Listener()
    yield made
    made.socket.close()


@pytest.fixture
def dialled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What reached the drivers. They go on from there: it is the listener that knows of packets."""
    calls: list[str] = []
    for module in (MySQLdb, psycopg):

        def connect(*args: Any, original: Any = module.connect, **fields: Any) -> Any:
            calls.append(str(fields.get("hostaddr") or fields["host"]))
            return original(*args, **fields)

        monkeypatch.setattr(module, "connect", connect)
    return calls


def refused(kind: str, params: ConnectionParams) -> ConnectorError:
    with pytest.raises(ConnectorError) as caught, connectors.get(kind)(params):
        pass
    return caught.value


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("host", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_host_is_refused_when_saved_and_when_connecting_without_a_packet(
    kind: str, host: str, listener: Listener, dialled: list[str], resolver: Resolver
) -> None:
    source = DataSource(name="hostile", kind=kind, host=host, port=listener.port, database="d", username="u")
    with pytest.raises(ValidationError) as caught:
        source.clean()
    [sentence] = caught.value.message_dict["host"]
    assert sentence[-1] in ".。"
    assert "secret-word" not in sentence
    error = refused(kind, source.params(timezone="UTC"))
    assert (error.reason, str(error)) == ("connection_failed", sentence)
    assert not listener.was_called()
    assert (dialled, resolver.asked) == ([], [])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("host", ["2130706433", "127.1", "::ffff:127.0.0.1"])
def test_without_the_check_the_listener_of_these_tests_hears_a_packet(
    kind: str, host: str, listener: Listener, monkeypatch: pytest.MonkeyPatch, later: Callable[..., None]
) -> None:
    monkeypatch.setattr(hosts, "check_host", lambda host: None)
    monkeypatch.setattr(hosts, "_address", lambda host: None)
    monkeypatch.setattr(hosts, "_objection", lambda address: "")
    heard: Queue[bool] = Queue()
    later(0.2, lambda: heard.put(listener.was_called()))
    refused(kind, ConnectionParams(host=host, port=listener.port, database="d", username="u"))
    assert heard.get(timeout=5)


@pytest.mark.parametrize("host", LEGITIMATE)
def test_hosts_of_private_networks_and_this_machine_are_welcome(host: str) -> None:
    hosts.check_host(host)


METADATA = ("169.254.169.254", "100.100.100.200", "fd00:ec2::254", "fe80::1%lo", "::ffff:127.0.0.1", "0.0.0.0", "::")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("address", METADATA)
@pytest.mark.parametrize("mode", ["prefer", "verify-full"])
def test_a_name_that_leads_where_no_database_is_is_refused(
    kind: str, address: str, mode: str, listener: Listener, dialled: list[str], resolver: Resolver
) -> None:
    for answer in ([address], ["127.0.0.1", address], [address, "127.0.0.1"]):
        resolver.answers = [answer]
        params = ConnectionParams(host="db.example", port=listener.port, database="d", username="u", ssl_mode=mode)
        error = refused(kind, params)
        assert error.reason == "connection_failed"
        assert "db.example" in str(error)
        assert address in str(error)
        assert not listener.was_called()
    assert dialled == []


@pytest.mark.parametrize("kind", ["mysql", "postgresql"])
def test_a_name_that_changes_its_mind_behind_the_check_changes_nothing(
    kind: str, request: pytest.FixtureRequest, dialled: list[str], resolver: Resolver
) -> None:
    source: DataSource = request.getfixturevalue({"mysql": "mariadb_source"}.get(kind, "postgresql_source"))
    source.host = "db.example"
    resolver.answers = [["127.0.0.1"], ["169.254.169.254"]]
    assert source.test().server_version
    # Asked once; the driver was given the address that was checked, with nothing left to look up.
    assert resolver.asked == ["db.example"]
    assert set(dialled) == {"127.0.0.1"}
    # The next connection asks anew, and is refused.
    with pytest.raises(ConnectorError, match=r"169\.254\.169\.254"):
        source.test()
    assert set(dialled) == {"127.0.0.1"}


@pytest.mark.parametrize("kind", ["mysql", "postgresql"])
def test_of_several_good_addresses_the_first_that_answers_is_taken(
    kind: str, request: pytest.FixtureRequest, resolver: Resolver
) -> None:
    source: DataSource = request.getfixturevalue({"mysql": "mariadb_source"}.get(kind, "postgresql_source"))
    source.host = "db.example"
    resolver.answers = [["127.0.0.77", "::1", "127.0.0.1"]]  # the servers listen at the last one only
    assert source.test().server_version


def test_a_kill_goes_to_the_server_that_runs_the_query(
    mariadb_source: DataSource, dialled: list[str], resolver: Resolver
) -> None:
    mariadb_source.host = "db.example"
    resolver.answers = [["127.0.0.1"], ["127.0.0.2", "127.0.0.1"]]
    with mariadb_source.connector(timezone="UTC") as connector:
        del dialled[:]
        connector.cancel()
    assert set(dialled) == {"127.0.0.1"}


@pytest.mark.parametrize("kind", ["mysql", "postgresql"])
@pytest.mark.parametrize("host", ["localhost", "LocalHost", "127.0.0.1"])
def test_legitimate_hosts_connect(kind: str, host: str, request: pytest.FixtureRequest) -> None:
    source: DataSource = request.getfixturevalue({"mysql": "mariadb_source"}.get(kind, "postgresql_source"))
    source.host = host
    source.clean()
    assert source.test().server_version


@pytest.mark.parametrize("name", ["db.example.internal", "my_database", "db1"])
def test_names_of_a_private_network_connect(
    name: str, mariadb_source: DataSource, postgresql_source: DataSource, resolver: Resolver
) -> None:
    resolver.answers = [["127.0.0.1"]]
    for source in (mariadb_source, postgresql_source):
        source.host = name
        source.clean()
        assert source.test().server_version


def test_the_certificate_is_checked_for_the_name_and_not_for_the_address(
    tls_server: tuple[str, PrivateServer],
    certificate: tuple[bytes, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kind, server = tls_server
    authority = tmp_path / "authority.pem"
    authority.write_bytes(certificate[0])
    monkeypatch.setenv("PGSSLROOTCERT", str(authority))
    monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    database = server.new_database()
    with connectors.get(kind)(server.params(database, host="localhost", ssl_mode="verify-full")) as connector:
        assert connector.report().server_version
    assert refused(kind, server.params(database, host="127.0.0.1", ssl_mode="verify-full")).reason == "tls_failed"


def test_a_name_that_is_not_known_or_not_answered_is_said_as_before(
    monkeypatch: pytest.MonkeyPatch, dialled: list[str]
) -> None:
    for failure in (socket.gaierror(-2, "unknown"), UnicodeError("label too long")):

        def fail(*args: object, failure: Exception = failure, **kwargs: object) -> None:
            raise failure

        monkeypatch.setattr(socket, "getaddrinfo", fail)
        error = refused("mysql", ConnectionParams(host="db.example", port=3306))
        assert error.reason == "connection_failed"
        assert "db.example" in str(error)
    assert dialled == []


@pytest.mark.parametrize(
    "database",
    ["postgresql://127.0.0.1:{port}/x", "host=127.0.0.1 port={port}", "x' hostaddr='127.0.0.1' port='{port}"],
)
def test_the_database_and_the_user_are_names_and_lead_nowhere(
    database: str, postgresql_source: DataSource, mariadb_source: DataSource, listener: Listener
) -> None:
    text = database.format(port=listener.port)
    for source in (postgresql_source, mariadb_source):
        for field in ("database", "username"):
            source.refresh_from_db()
            setattr(source, field, text)
            with pytest.raises(ConnectorError) as caught:
                source.test()
            assert caught.value.reason in ("unknown_database", "auth_failed", "sql_error"), field
            assert not listener.was_called()


@pytest.mark.django_db
def test_a_source_of_the_configuration_goes_through_the_same_check() -> None:
    config = SourceConfig(type="mysql", host="169.254.169.254", database="d", username="u")
    assert len(sync({"metadata": config}).errors) == 1
    assert not DataSource.objects.exists()


@pytest.mark.django_db
def test_a_source_of_the_command_line_goes_through_the_same_check() -> None:
    for host in ("169.254.169.254", "127.1", "/var/run/mysqld/mysqld.sock"):
        with pytest.raises(CommandError):
            call_command("datasource", "create", "shop", "mysql", host, "3306", "d", "u", "p", stderr=StringIO())
    assert not DataSource.objects.exists()
