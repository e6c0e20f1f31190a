"""No data source reads the files that belong to the system itself, by whatever path it comes to them."""

import os
import sqlite3
from pathlib import Path
from types import SimpleNamespace

import pytest
from django.conf import settings
from django.core.exceptions import ValidationError

from datasources import private_files
from datasources.connectors import connectors
from datasources.connectors.base import ConnectorError
from datasources.models import DataSource
from exporter_site.keys import keys_file
from tests.factories import make_sqlite_file


@pytest.fixture
def system_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A system database with a table, and what SQLite keeps beside it."""
    file = make_sqlite_file(tmp_path / "system.db")
    for suffix in ("-wal", "-shm", "-journal"):
        Path(f"{file}{suffix}").write_bytes(b"")
    databases = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": file}}
    monkeypatch.setattr(private_files, "settings", SimpleNamespace(DATABASES=databases))
    return file


def is_refused(path: str) -> bool:
    source = DataSource(name="own", kind="sqlite", database=path)
    with pytest.raises(ValidationError) as caught:
        source.clean()
    [sentence] = caught.value.message_dict["database"]
    with pytest.raises(ConnectorError) as unopened, connectors.get("sqlite")(source.params(timezone="UTC")):
        pass
    return (unopened.value.reason, str(unopened.value)) == ("connection_failed", sentence)


@pytest.mark.parametrize("suffix", ["", "-wal", "-shm", "-journal"])
def test_the_systems_own_database_is_no_source_by_whatever_path(
    system_file: Path, suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = Path(f"{system_file}{suffix}")
    (tmp_path / "link.db").symlink_to(own)
    (tmp_path / "link to link.db").symlink_to("link.db")
    (tmp_path / "hard.db").hardlink_to(own)
    (tmp_path / "there").symlink_to(tmp_path)
    monkeypatch.chdir(tmp_path)
    paths = [
        own,
        tmp_path / "link.db",
        tmp_path / "link to link.db",
        tmp_path / "hard.db",
        tmp_path / "there" / own.name,
        f"{tmp_path}/./there/../{tmp_path.name}/{own.name}",
        f"//{own}",
        own.name,
        f"./{own.name}",
        f"/proc/self/root{own}",
        f"/proc/self/cwd/{own.name}",
    ]
    with own.open("rb") as handle:
        for path in [*paths, f"/proc/self/fd/{handle.fileno()}"]:
            assert is_refused(str(path)), path


def test_a_path_that_sqlite_reads_as_more_than_a_path_is_refused(system_file: Path) -> None:
    for path in (f"file:{system_file}", f"FILE://{system_file}?mode=rw", f"file:{system_file}?vfs=unix", "a\0b"):
        assert is_refused(path), path


def test_the_systems_database_of_these_tests_is_no_source(request: pytest.FixtureRequest) -> None:
    if request.config.getoption("--system-db") == "sqlite":
        assert is_refused(str(settings.DATABASES["default"]["NAME"]))


def test_our_other_private_files_are_no_source(tmp_path: Path) -> None:
    for file in (keys_file(), Path(os.environ["EXPORTER_CONFIG"]), Path(settings.CONFIG.logging.file)):
        assert is_refused(str(file))
    (tmp_path / "keys.db").hardlink_to(keys_file())
    assert is_refused(str(tmp_path / "keys.db"))


def test_a_database_beside_the_systems_own_is_fine(system_file: Path) -> None:
    shop = make_sqlite_file(system_file.parent / "demo_shop.db")
    source = DataSource(name="demo", kind="sqlite", database=str(shop))
    source.clean()
    with source.connector(timezone="UTC") as connector:
        assert connector.report().server_version == f"SQLite {sqlite3.sqlite_version}"
