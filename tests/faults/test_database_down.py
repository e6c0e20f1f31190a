"""The system database's server is killed under load and comes back: the schedulers live on, and nothing is lost."""

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests import servers
from tests.conftest import _server
from tests.faults.load import MOST_RECOVERY, InstanceOn, Load, make_load, seed
from tests.servers import PrivateServer
from tests.servers.mariadb import MariaDB
from tests.servers.postgresql import PostgreSQL


class LastingMariaDB(MariaDB):
    """A commit that was confirmed is there after the death of the server, as a production server's settings have it."""

    def command(self, data: Path) -> Sequence[object]:
        # The accounts are made by the first start only.
        first_statements = self.directory / "init.sql"
        if self.log_file.exists() and self.log_file.stat().st_size:
            first_statements.write_text("")
        return [*super().command(data), "--innodb-flush-log-at-trx-commit=2"]


class LastingPostgreSQL(PostgreSQL):
    """A commit that was confirmed is there after the death of the server, as a production server's settings have it."""

    def command(self, data: Path) -> Sequence[object]:
        return [*super().command(data), "-c", "synchronous_commit=on", "-c", "full_page_writes=on"]


SERVERS: dict[str, type[PrivateServer]] = {"mysql": LastingMariaDB, "postgresql": LastingPostgreSQL}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Both servers, unless the whole session is one of them's."""
    if "server" in metafunc.fixturenames:
        chosen = metafunc.config.getoption("--system-db")
        metafunc.parametrize("server", [chosen] if chosen in SERVERS else list(SERVERS), indirect=True)


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Iterator[PrivateServer]:
    """A server of its own, which may be killed."""
    kind: str = request.param
    _server(kind)  # the session's: says what is missing, and the template of the installation lies there
    made = SERVERS[kind]().start()
    yield made
    made.stop()


@pytest.fixture
def installation(tmp_path: Path, server: PrivateServer, request: pytest.FixtureRequest) -> Iterator[InstanceOn]:
    kind = next(kind for kind, made in SERVERS.items() if isinstance(server, made))
    made = InstanceOn(tmp_path / "instance", kind, server)
    yield made
    made.close()


def kill_server(server: PrivateServer) -> None:
    """SIGKILL for the server and its children: none of them says a word to its clients."""
    children = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
    for pid in (server.pid, *map(int, children)):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # ended with its parent
    server._process.wait(30)


def start_again(server: PrivateServer) -> None:
    """The same data on the same port."""
    deadline = time.monotonic() + servers.START_TIMEOUT
    while time.monotonic() < deadline:
        server._run_server()
        if server._wait_until_ready():
            return
        time.sleep(0.2)  # what is left of the old one still holds the data
    raise AssertionError(server.log_file.read_text(errors="replace")[-2000:])


def lines_by_process(log: Path, start: int) -> Counter[int]:
    """How many lines each process has written to the log behind the byte `start`."""
    with log.open("rb") as file:
        file.seek(start)
        text = file.read().decode()
    found: Counter[int] = Counter()
    pid = 0
    for line in text.splitlines():
        _before, bracket, rest = line.partition(" [")
        # A traceback's lines belong to the process that began it.
        pid = int(rest.partition("]")[0]) if bracket and not line.startswith(" ") else pid
        found[pid] += 1
    return found


def outage(load: Load, server: PrivateServer, seconds: float) -> dict[str, Any]:
    """Kill the server, let it be away for `seconds`, and bring it back. Returns what was seen."""
    pids = [process.pid for process in load.fleet.processes]
    size = load.instance.log_file.stat().st_size
    began = time.monotonic()
    kill_server(server)
    time.sleep(seconds)
    start_again(server)
    away = time.monotonic() - began
    ended = load.ended()
    back = time.monotonic()
    while load.ended() == ended and load.unfinished() and time.monotonic() - back < MOST_RECOVERY:
        time.sleep(0.1)
    lines = lines_by_process(load.instance.log_file, size)
    return {
        "away": away,
        "resumed after": time.monotonic() - back,
        "lines": max(lines[pid] for pid in pids),
        "lines of exports": sum(count for pid, count in lines.items() if pid not in pids),
        "dead": [process.pid for process in load.fleet.processes if process.poll() is not None],
    }


def survive(installation: InstanceOn, server: PrivateServer, *, tasks: int, minutes: int, outages: int) -> None:
    chance = random.Random(seed())
    load = make_load(installation, schedulers=3, workers=6, tasks=tasks, minutes=minutes)
    total = load.total
    started = time.monotonic()
    seen = []
    for number in range(outages):
        reached = 1 + total * (number + 1) // (outages + 2)
        load.work_until(lambda reached=reached: load.ended() >= reached)  # type: ignore[misc]
        seen.append(outage(load, server, chance.uniform(4, 6)))
    last = time.monotonic()
    load.finish()
    ended = time.monotonic()
    found = load.violations()
    for facts in seen:
        print(facts)
    print(
        f"{installation.kind}: {outages} outages, {load.total} occurrences {dict(load.statuses())}, "
        f"{ended - started:.1f} s, {ended - last:.1f} s from the last one to the end, {len(found)} violations"
    )
    assert not found, "\n".join(found[:50])
    assert set(load.statuses()) == {"succeeded"}
    assert load.fleet.started == load.fleet.size, "a scheduler died"
    for facts in seen:
        assert not facts["dead"]
        assert facts["lines"] <= facts["away"] + facts["resumed after"], "the log is flooded"


def test_a_server_that_is_killed_twice_costs_nothing(installation: InstanceOn, server: PrivateServer) -> None:
    survive(installation, server, tasks=15, minutes=16, outages=2)


@pytest.mark.faults_long
def test_a_server_that_is_killed_twenty_times_costs_nothing(installation: InstanceOn, server: PrivateServer) -> None:
    survive(installation, server, tasks=60, minutes=40, outages=20)
