"""Runs under a scheduler that go on for too long or take too much: each ends by itself, the others go on."""

import time
from typing import Any

import pytest

from tests.instance import Instance
from tests.servers.mariadb import MariaDB
from tests.servers.postgresql import PostgreSQL
from tests.tasks.test_executors import ENQUEUE
from tests.tasks.test_runtask import add_task, eventually, files_below, last_execution

DEADLINE = 3  # seconds
WITHIN = 15  # seconds behind the deadline, until the row says so and the server is free

# What never ends by itself, each in its own way.
ENDLESS = {
    "mysql": {
        "sleeping": "SELECT SLEEP(600)",
        "cartesian": "SELECT COUNT(*) FROM seq_1_to_1000000 a, seq_1_to_1000000 b, seq_1_to_1000000 c",
        "trickle": "SELECT a.seq, SLEEP(0.2) FROM seq_1_to_100000 a",
    },
    "postgresql": {
        "sleeping": "SELECT pg_sleep(600)",
        "cartesian": "SELECT count(*) FROM generate_series(1, 1000000) a, generate_series(1, 1000000) b",
        "trickle": "SELECT n, pg_sleep(0.2) FROM generate_series(1, 100000) AS n",
    },
}
Server = MariaDB | PostgreSQL


@pytest.fixture(params=["mysql", "postgresql"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def server(kind: str, request: pytest.FixtureRequest) -> Server:
    found: Server = request.getfixturevalue("mariadb" if kind == "mysql" else "postgresql")
    return found


def add_source(instance: Instance, server: Server, kind: str) -> None:
    instance.manage(
        *("datasource", "create", kind, kind, server.host, server.port, server.new_database(), server.reader.username),
        "--password-env=PASSWORD",
        env={"PASSWORD": server.reader.password},
    )
    instance.python("from datasources.models import DataSource\nDataSource.objects.update(max_concurrency=10)")


def ended(instance: Instance, name: str) -> bool:
    return last_execution(instance, name)["status"] not in ("queued", "running")


def still_there(server: Server) -> list[Any]:
    return [session for number in range(1, 6) for session in server.running(f"exp:{number}:1")]


def test_what_never_ends_is_ended_at_its_deadline_here_and_on_the_server(
    instance: Instance, server: Server, kind: str
) -> None:
    instance.environment["EXPORTER_EXPORT__QUERY_TIMEOUT"] = str(DEADLINE)
    add_source(instance, server, kind)
    for name, sql in ENDLESS[kind].items():
        add_task(instance, name=name, data_source=kind, sql=sql, max_retries=3, retry_delay=1)
    instance.python(ENQUEUE)
    instance.spawn("runscheduler")
    assert eventually(lambda: len(still_there(server)) == 3)
    assert eventually(lambda: all(ended(instance, name) for name in ENDLESS[kind]), DEADLINE + WITHIN)
    assert eventually(lambda: not still_there(server), 5)
    for name in ENDLESS[kind]:
        row = last_execution(instance, name)
        # Trying again would burn as much time once more.
        assert (name, row["status"], row["reason"], row["attempt"]) == (name, "timed_out", "query_timeout", 1)
        assert row["duration_seconds"] < DEADLINE + WITHIN
    assert not files_below(instance.temp_dir, instance.output_dir)


def test_a_query_can_not_lift_its_own_deadline(instance: Instance, mariadb: MariaDB) -> None:
    instance.environment["EXPORTER_EXPORT__QUERY_TIMEOUT"] = str(DEADLINE)
    add_source(instance, mariadb, "mysql")
    sql = "SET STATEMENT max_statement_time=0 FOR SELECT SLEEP(600)"
    # The forms refuse it; so it comes the way of a row that was written by hand.
    instance.python(f"""
from tasks.models import *; from tasks.states import *; from datasources.models import *
task = ExportTask(name="lifted", data_source=DataSource.objects.get(), sql={sql!r}); task.save()
Execution.objects.enqueue(task, trigger=Trigger.MANUAL)
""")
    instance.spawn("runscheduler")
    assert eventually(lambda: ended(instance, "lifted"), DEADLINE + WITHIN)
    assert last_execution(instance, "lifted")["reason"] in ("sql_refused", "query_timeout")
    assert not still_there(mariadb)


def test_cancelling_takes_effect_at_once_and_frees_the_server(instance: Instance, server: Server, kind: str) -> None:
    add_source(instance, server, kind)
    for name, sql in ENDLESS[kind].items():
        add_task(instance, name=name, data_source=kind, sql=sql)
    instance.python(ENQUEUE)
    instance.spawn("runscheduler")
    assert eventually(lambda: len(still_there(server)) == 3)
    time.sleep(1)
    out = instance.python("""
import time
from tasks.models import *
for row in Execution.objects.all(): assert Execution.objects.request_cancel(row.pk)
asked = time.monotonic()
while Execution.objects.unfinished().exists() and time.monotonic() < asked + 20: time.sleep(0.05)
print(*Execution.objects.values_list("status", flat=True), time.monotonic() - asked)
""").split()
    assert out[:3] == ["cancelled"] * 3
    assert float(out[3]) < 3
    assert eventually(lambda: not still_there(server), 3)
    assert not files_below(instance.temp_dir, instance.output_dir)


def test_a_run_that_takes_too_much_memory_ends_and_its_neighbours_go_on(
    instance: Instance, postgresql: PostgreSQL
) -> None:
    # A worker without a task takes about 80 MB; one row of 100 MB is too much, and comes at once.
    instance.environment["EXPORTER_EXPORT__MEMORY_LIMIT"] = str(160 * 1024 * 1024)
    add_source(instance, postgresql, "postgresql")
    add_task(
        instance,
        name="huge",
        data_source="postgresql",
        format="csv",
        sql="SELECT repeat('x', 100000000) AS x, pg_sleep(0.3)::text AS s FROM generate_series(1, 50)",
    )
    add_task(
        instance,
        name="neighbour",
        data_source="postgresql",
        sql="SELECT n, pg_sleep(0.01)::text AS s FROM generate_series(1, 500) AS n",
    )
    instance.python(ENQUEUE)
    instance.spawn("runscheduler")
    assert eventually(lambda: ended(instance, "huge") and ended(instance, "neighbour"), 60)
    huge = last_execution(instance, "huge")
    assert (huge["status"], huge["reason"]) == ("failed", "out_of_memory")
    assert last_execution(instance, "neighbour")["status"] == "succeeded"
    assert len(files_below(instance.output_dir)) == 1
    assert eventually(lambda: not still_there(postgresql), 5)
