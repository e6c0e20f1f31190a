"""Whatever breaks while rows stream ends in a ConnectorError with the right reason: never in a normal end."""

from collections.abc import Callable, Iterator

import pytest

from datasources.connectors import base, connectors
from datasources.connectors.base import Batch, ConnectionParams, Connector, ConnectorError, Query
from tests.datasources.benches import SERVER_FIXTURES
from tests.servers import PrivateServer
from tests.servers.mariadb import MariaDB
from tests.servers.postgresql import PostgreSQL
from tests.servers.proxy import Proxy

ROWS = 3_000_000
SERIES = {
    "mysql": f"SELECT seq AS n, REPEAT('x', 50) AS t FROM seq_1_to_{ROWS}",
    "postgresql": f"SELECT generate_series(1, {ROWS}) AS n, repeat('x', 50) AS t",
}
SERIES["adb"] = SERIES["mysql"]
Break = Callable[[str], object]


@pytest.fixture(params=["mysql", "adb", "postgresql"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def server(kind: str, request: pytest.FixtureRequest) -> PrivateServer:
    found = request.getfixturevalue(SERVER_FIXTURES[kind])
    assert isinstance(found, PrivateServer)
    return found


def break_after_the_first_batch(connector: Connector, sql: str, breaking: Break) -> ConnectorError:
    """Read one batch, break something, read on. Returns the error that came; fails when none does."""
    rows = 0

    def read() -> None:
        nonlocal rows
        batches = connector.stream(Query((sql,)), 1000).batches
        rows += next(batches).rows
        breaking(connector.backend_id())
        for batch in batches:
            rows += batch.rows

    with connector, pytest.raises(ConnectorError) as caught:
        read()
    assert 0 < rows < ROWS
    assert str(caught.value)
    return caught.value


@pytest.mark.parametrize(
    ("kind", "statement"),
    [
        ("mysql", "KILL QUERY {}"),
        ("mysql", "KILL {}"),
        ("adb", "KILL QUERY {}"),
        ("postgresql", "SELECT pg_cancel_backend({})"),
        ("postgresql", "SELECT pg_terminate_backend({})"),
    ],
)
def test_a_query_that_an_administrator_ends_is_never_whole(kind: str, server: PrivateServer, statement: str) -> None:
    connector = connectors.get(kind)(server.params(server.new_database()))
    error = break_after_the_first_batch(
        connector, SERIES[kind], lambda backend: server.execute(statement.format(backend))
    )
    assert error.reason in ("killed_on_server", "connection_lost")


@pytest.mark.parametrize(
    ("kind", "statement", "waiting"),
    [
        ("mysql", "KILL QUERY {}", "SELECT SUM(a.seq * b.seq) FROM seq_1_to_100000 a, seq_1_to_100000 b"),
        ("mysql", "KILL {}", "SELECT SLEEP(60)"),
        ("postgresql", "SELECT pg_cancel_backend({})", "SELECT 1 FROM pg_sleep(60)"),
        ("postgresql", "SELECT pg_terminate_backend({})", "SELECT 1 FROM pg_sleep(60)"),
    ],
)
def test_a_query_that_is_ended_before_its_first_row_says_who_ended_it(
    kind: str, server: PrivateServer, statement: str, waiting: str, later: Callable[[float, Callable[[], object]], None]
) -> None:
    with connectors.get(kind)(server.params(server.new_database())) as connector:
        backend = connector.backend_id()
        later(0.3, lambda: server.execute(statement.format(backend)))
        with pytest.raises(ConnectorError) as caught:
            list(connector.stream(Query((waiting,)), 1000).batches)
    assert caught.value.reason in ("killed_on_server", "connection_lost")


def test_a_sleep_that_is_ended_is_not_taken_for_its_result(
    mariadb: MariaDB, later: Callable[[float, Callable[[], object]], None]
) -> None:
    # MariaDB answers a killed SLEEP() with the value 1, as if nothing had happened; only alone, and only KILL QUERY.
    with connectors.get("mysql")(mariadb.params(mariadb.new_database())) as connector:
        backend = connector.backend_id()
        later(0.3, lambda: mariadb.execute(f"KILL QUERY {backend}"))
        with pytest.raises(ConnectorError) as caught:
            list(connector.stream(Query(("SELECT seq, SLEEP(5) FROM seq_1_to_3",)), 1000).batches)
    assert caught.value.reason == "killed_on_server"


@pytest.mark.parametrize(
    ("kind", "slow"),
    [
        ("mysql", "SELECT SUM(a.seq * b.seq) FROM seq_1_to_100000 a, seq_1_to_100000 b"),
        ("postgresql", "SELECT 1 FROM pg_sleep(60)"),
    ],
)
def test_the_servers_own_time_limit_is_told_apart(kind: str, server: PrivateServer, slow: str) -> None:
    # Five seconds are added to the task's own limit, which decides first.
    params = server.params(server.new_database(), query_timeout=-4)
    with connectors.get(kind)(params) as connector, pytest.raises(ConnectorError) as caught:
        list(connector.stream(Query((slow,)), 1000).batches)
    assert caught.value.reason == "query_timeout"


@pytest.mark.parametrize("server_class", [MariaDB, PostgreSQL])
def test_a_server_that_dies_while_rows_stream_is_a_lost_connection(server_class: type[PrivateServer]) -> None:
    kind = "mysql" if server_class is MariaDB else "postgresql"
    server = server_class().start()
    try:
        connector = connectors.get(kind)(server.params(server.new_database()))
        error = break_after_the_first_batch(connector, SERIES[kind], lambda _backend: server.kill())
    finally:
        server.stop()
    assert error.reason in ("connection_lost", "killed_on_server")


OFFSETS = (0, 1, 3, 4, 5, 100, 4_096, 16_383, 16_384, 65_536, 1_000_000)


@pytest.mark.parametrize("how", ["fin", "rst"])
@pytest.mark.parametrize("offset", OFFSETS)
def test_a_line_that_is_cut_is_a_lost_connection_wherever_it_is_cut(
    kind: str, server: PrivateServer, how: str, offset: int
) -> None:
    with Proxy(server.host, server.port, how=how) as proxy:
        params = server.params(server.new_database(), port=proxy.port)

        def cut(_backend: str) -> None:
            proxy.cut_after = proxy.passed + offset

        error = break_after_the_first_batch(connectors.get(kind)(params), SERIES[kind], cut)
    assert error.reason == "connection_lost"


def test_a_line_cut_at_any_byte_of_a_small_result_never_gives_a_whole_one(kind: str, server: PrivateServer) -> None:
    database = server.new_database()
    sql = {"postgresql": "SELECT generate_series(1, 20) AS n"}.get(kind, "SELECT seq AS n FROM seq_1_to_20")
    with Proxy(server.host, server.port) as proxy:
        params = server.params(database, port=proxy.port)
        with connectors.get(kind)(params) as connector:
            before = proxy.passed
            assert count_rows(connector, sql) == 20
            answer = proxy.passed - before
    # The last bytes matter most: rows are all there, only the end is not confirmed.
    for offset in (*range(0, answer, max(1, answer // 12)), *range(answer - 8, answer)):
        outcome = outcome_of_cut(kind, server, params, sql, offset)
        assert outcome in ("connection_lost", 20), f"cut after {offset} of {answer} bytes: {outcome}"
        assert outcome == "connection_lost" or offset >= answer - 6, f"{offset} of {answer}"


def outcome_of_cut(kind: str, server: PrivateServer, params: ConnectionParams, sql: str, offset: int) -> object:
    """The number of rows, or the reason of the error, when the line is cut `offset` bytes into the answer."""
    with Proxy(server.host, server.port) as proxy:
        through = server.params(params.database, port=proxy.port)
        with connectors.get(kind)(through) as connector:
            proxy.cut_after = proxy.passed + offset
            try:
                return count_rows(connector, sql)
            except ConnectorError as exc:
                return exc.reason


def count_rows(connector: Connector, sql: str) -> int:
    return sum(batch.rows for batch in connector.stream(Query((sql,)), 1000).batches)


def test_a_server_that_falls_silent_can_still_be_cancelled(
    kind: str,
    server: PrivateServer,
    later: Callable[[float, Callable[[], object]], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(base, "CONNECT_TIMEOUT", 2)
    with Proxy(server.host, server.port, how="silent") as proxy:
        params = server.params(server.new_database(), port=proxy.port)
        with connectors.get(kind)(params) as connector:
            batches: Iterator[Batch] = connector.stream(Query((SERIES[kind],)), 1000).batches
            next(batches)
            proxy.cut_after = proxy.passed + 10_000
            later(0.5, connector.cancel)
            with pytest.raises(ConnectorError) as caught:
                sum(batch.rows for batch in batches)
    assert caught.value.reason == "cancelled"
