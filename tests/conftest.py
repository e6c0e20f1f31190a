"""Fixtures that several folders share. Servers start when a test first asks for them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from django.utils import translation

from datasources.models import DataSource
from exporter_site import redact
from tasks import supervisor
from tests import factories, servers
from tests.instance import Instance
from tests.servers.mariadb import MariaDB
from tests.servers.postgresql import PostgreSQL

if TYPE_CHECKING:
    from tests.servers.objects import Objects


@contextmanager
def missing_program() -> Iterator[None]:
    """A program that is looked for inside and can't be had fails the test; nothing is skipped in silence, only for who
    asked for it."""
    try:
        yield
    except servers.MissingServer as exc:
        if os.environ.get("EXPORTER_TESTS_ALLOW_MISSING") == "1":
            pytest.skip(str(exc))
        pytest.fail(str(exc), pytrace=False)


def _server(kind: str) -> servers.PrivateServer:
    with missing_program():
        return servers.shared(kind)


@pytest.fixture(autouse=True)
def _language_of_the_next_test() -> Iterator[None]:
    """A request in English leaves English behind for the whole thread."""
    yield
    translation.deactivate()


@pytest.fixture(autouse=True)
def _secrets_of_the_next_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """A word that was a password in one test is a word in the next."""
    monkeypatch.setattr(redact, "_known", redact._known)


@pytest.fixture(scope="session", autouse=True)
def _memory_of_other_tests() -> Iterator[None]:
    """A process of thousands of tests holds more than an export may. A test that wants too much lowers the limit."""
    held = supervisor.resident_bytes
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(supervisor, "resident_bytes", lambda: min(held(), 256 << 20))
        yield


@pytest.fixture(scope="session")
def mariadb() -> MariaDB:
    server = _server("mysql")
    assert isinstance(server, MariaDB)
    return server


@pytest.fixture(scope="session")
def postgresql() -> PostgreSQL:
    server = _server("postgresql")
    assert isinstance(server, PostgreSQL)
    return server


@pytest.fixture(scope="session")
def objects() -> Iterator["Objects"]:
    """An object storage with nothing in it."""
    from tests.servers.objects import Objects  # boto3 is needed by few

    server = Objects().start()
    yield server
    server.stop()


@pytest.fixture
def mariadb_source(db: None, mariadb: MariaDB) -> DataSource:
    """A data source with an empty database and an account that may only read."""
    return factories.make_server_source(mariadb, "mysql")


@pytest.fixture
def postgresql_source(db: None, postgresql: PostgreSQL) -> DataSource:
    """A data source with an empty database and an account that may only read."""
    return factories.make_server_source(postgresql, "postgresql")


@pytest.fixture
def instance(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Instance]:
    """An installation of its own, for tests that need real processes; on the system database of --system-db."""
    made = Instance(tmp_path / "instance", request.config.getoption("--system-db"))
    yield made
    made.close()
