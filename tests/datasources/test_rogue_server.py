"""A MySQL server that answers with a request for a local file gets nothing, wherever in the session it asks."""

import contextlib
from pathlib import Path
from typing import Any

import MySQLdb
import pytest
from MySQLdb.constants import CLIENT

from datasources.connectors import connectors
from datasources.connectors.base import ConnectionParams, ConnectorError, Query
from exporter_site.keys import keys_file
from tasks import runner
from tasks.models import Execution
from tasks.states import Status, Trigger
from tests.datasources.benches import rows
from tests.datasources.rogue_mysql import RogueMySQL
from tests.factories import make_source, make_task

SQL = "SELECT v FROM facts"
MODES = ("disable", "prefer")  # the others insist on a certificate, or on TLS, which it has not
# The queries of a session: SET NAMES, reading and setting sql_mode, net_write_timeout, time_zone, two timeouts, TRANSACTION
# READ ONLY and its START, and the task's own one.
QUERIES = 10


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    file = tmp_path / "secret.txt"
    file.write_text("what nobody may have\n" * 1000)
    return file


def params(rogue: RogueMySQL, **changes: Any) -> ConnectionParams:
    return ConnectionParams(
        host="127.0.0.1", port=rogue.port, database="shop", username="reporter", password="hidden-word", **changes
    )


def failure(kind: str, rogue: RogueMySQL) -> ConnectorError | None:
    """How a run ends; well, too, where only a setting that is not needed was answered with the request."""
    try:
        rows(connectors.get(kind)(params(rogue)), SQL)
    except ConnectorError as exc:
        return exc
    return None


@pytest.mark.parametrize("kind", ["mysql", "adb"])
@pytest.mark.parametrize("mode", MODES)
def test_an_honest_run_asks_what_the_other_tests_expect(kind: str, mode: str) -> None:
    with RogueMySQL("/etc/passwd", None) as server:
        connector = connectors.get(kind)(params(server, ssl_mode=mode))
        assert rows(connector, SQL) == [(b"5.7.0-rogue",)]
    assert len(server.queries) == QUERIES - (kind == "adb")
    assert SQL.encode() in server.queries[-1]
    assert not server.capabilities & CLIENT.LOCAL_FILES
    assert not server.capabilities & CLIENT.MULTI_STATEMENTS


@pytest.mark.parametrize("kind", ["mysql", "adb"])
@pytest.mark.parametrize("before", [False, True], ids=["at once", "as a second result"])
@pytest.mark.parametrize("position", range(-1, QUERIES))
def test_a_server_that_asks_for_a_file_gets_nothing_of_it(kind: str, position: int, before: bool, secret: Path) -> None:
    for file in (secret, keys_file()):
        with RogueMySQL(str(file), position, before) as server:
            error = failure(kind, server)
        if error is not None:
            assert error.reason in ("connection_failed", "connection_lost", "sql_error")
            assert "hidden-word" not in str(error) + error.detail
        assert server.asked or position == QUERIES - (kind == "adb")
        assert server.stolen == b""


def test_the_connection_test_gives_nothing_either(secret: Path) -> None:
    for position in (QUERIES - 1, QUERIES):  # the version, the grants
        with (
            RogueMySQL(str(secret), position) as server,
            connectors.get("mysql")(params(server)) as connector,
            contextlib.suppress(ConnectorError),
        ):
            connector.report()
        assert server.asked
        assert server.stolen == b""


def test_in_the_middle_of_a_session_that_streams_nothing_is_given(secret: Path) -> None:
    with RogueMySQL(str(secret), QUERIES) as server, connectors.get("mysql")(params(server)) as connector:
        assert list(connector.stream(Query((SQL,)), 100).batches)
        with pytest.raises(ConnectorError):
            connector.stream(Query((SQL,)), 100)
        assert server.asked
    assert server.stolen == b""


def test_switching_the_protection_off_gives_the_file_away(secret: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    connect = MySQLdb.connect
    monkeypatch.setattr(MySQLdb, "connect", lambda **fields: connect(**fields | {"local_infile": 1}))
    with RogueMySQL(str(secret), QUERIES - 1) as server, pytest.raises(ConnectorError):
        rows(connectors.get("mysql")(params(server)), SQL)
    assert server.stolen == secret.read_bytes()


@pytest.mark.django_db
def test_a_run_against_such_a_server_ends_in_a_plain_error(secret: Path, settings: Any, tmp_path: Path) -> None:
    export = settings.CONFIG.export.model_copy(
        update={"temp_dir": tmp_path / "temp", "output_dir": tmp_path / "exports"}
    )
    settings.CONFIG = settings.CONFIG.model_copy(update={"export": export})
    with RogueMySQL(str(secret), QUERIES - 1) as server:
        where = {"host": "127.0.0.1", "port": server.port, "username": "u", "password": "hidden-word"}
        task = make_task(data_source=make_source(kind="mysql", database="shop", **where), sql=SQL)
        queued = Execution.objects.enqueue(task, trigger=Trigger.MANUAL)
        execution = Execution.objects.claim(queued.pk, worker="test:1")
        assert execution is not None
        ended = runner.run(execution)
    assert server.stolen == b""
    assert (ended.status, ended.reason) == (Status.FAILED, "sql_error")
    assert "hidden-word" not in ended.error
    assert not [file for file in (tmp_path / "exports").rglob("*") if file.is_file()]
