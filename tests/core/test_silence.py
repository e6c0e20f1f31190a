"""Connections to the system database: a line that was cut is noticed on both sides, and its locks are let go."""

import os
import socket
from collections.abc import Iterator

import pytest
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.utils import ConnectionHandler
from pydantic import SecretStr

from exporter_site import settings, silence
from exporter_site.config import SystemDatabase
from tests.servers import PrivateServer

pytestmark = pytest.mark.django_db


@pytest.fixture(params=["mysql", "postgresql"])
def server(request: pytest.FixtureRequest) -> PrivateServer:
    found: PrivateServer = request.getfixturevalue("mariadb" if request.param == "mysql" else "postgresql")
    return found


@pytest.fixture
def connection(server: PrivateServer, request: pytest.FixtureRequest) -> Iterator[BaseDatabaseWrapper]:
    """As the product connects to its system database."""
    database = SystemDatabase(
        type=request.node.callspec.params["server"],
        host=server.host,
        port=server.port,
        database=server.new_database(),
        username=server.admin.username,
        password=SecretStr(server.admin.password),
    )
    made = ConnectionHandler({"default": settings.database_settings(database)})["default"]
    made.ensure_connection()
    yield made
    made.close()


def test_silence_ends_a_connection_in_seconds(connection: BaseDatabaseWrapper) -> None:
    with socket.socket(fileno=os.dup(connection.connection.fileno())) as line:
        assert line.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert line.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 1000 * silence.MOST_SILENCE
        idle, every, count = (
            line.getsockopt(socket.IPPROTO_TCP, option)
            for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
        )
        assert idle + every * count <= silence.MOST_SILENCE


# The server's settings as it says them.
LIMITS: dict[str, dict[str, object]] = {
    "mysql": {"SELECT @@SESSION.idle_transaction_timeout": 30, "SELECT @@SESSION.time_zone": "+00:00"},
    "postgresql": {
        "SHOW idle_in_transaction_session_timeout": "30s",
        "SHOW tcp_keepalives_idle": "30",
        "SHOW tcp_user_timeout": "60000",
    },
}


def test_the_server_ends_what_a_host_that_is_gone_has_left(
    connection: BaseDatabaseWrapper, request: pytest.FixtureRequest
) -> None:
    for sql, expected in LIMITS[request.node.callspec.params["server"]].items():
        with connection.cursor() as cursor:
            cursor.execute(sql)
            assert cursor.fetchone()[0] == expected
