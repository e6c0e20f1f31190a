import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from datasources.connectors import connectors
from tests.datasources.benches import SERVER_BENCHES, SERVER_FIXTURES, Bench, SQLiteBench


@pytest.fixture(scope="session", params=list(connectors))
def bench(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """A database of every registered kind in turn. A kind without a bench fails here: it has to pass the suite too."""
    return make_bench(request.param, request, tmp_path_factory.mktemp("sqlite"))


def make_bench(kind: str, request: pytest.FixtureRequest, directory: Path) -> Bench:
    if kind == "sqlite":
        return SQLiteBench(directory / "facts.db")
    return SERVER_BENCHES[kind](request.getfixturevalue(SERVER_FIXTURES[kind]))


@pytest.fixture
def later() -> Iterator[Callable[[float, Callable[[], object]], None]]:
    """Do something in another thread, so many seconds from now; the test's end waits for it."""
    timers: list[threading.Timer] = []

    def do_later(seconds: float, action: Callable[[], object]) -> None:
        timers.append(threading.Timer(seconds, action))
        timers[-1].start()

    yield do_later
    for timer in timers:
        timer.join(15)
