"""What must be ready before Django reads its settings: a configuration of the tests' own and the system database.

Loaded by `-p tests.plugin` (pyproject.toml). No test ever reads or writes the checkout's data, logs or exports.
"""

import atexit
import os
import shutil
import tempfile
from collections.abc import Generator
from pathlib import Path

import pytest
import yaml

from tests import servers

SESSION_DIR = Path(tempfile.mkdtemp(prefix="exporter-tests-"))
atexit.register(shutil.rmtree, SESSION_DIR, ignore_errors=True)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("data export system")
    group.addoption(
        "--system-db",
        choices=("sqlite", "mysql", "postgresql"),
        default="sqlite",
        help="the kind of system database that the whole session uses (a private server)",
    )
    group.addoption("--long", action="store_true", help="also run tests marked long: load and endurance")
    group.addoption(
        "--faults-long", action="store_true", help="also run tests marked faults_long: up to an hour of faults"
    )


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> Generator[None, None, None]:
    kind = early_config.known_args_namespace.system_db
    try:
        prepare_environment(kind)
    except servers.MissingServer as exc:
        raise pytest.UsageError(str(exc)) from None
    result = yield  # pytest-django imports the settings here
    from exporter_site import settings

    if kind == "sqlite":
        # In memory, as Django would have it, other processes and threads could not see it.
        settings.DATABASES["default"].setdefault("TEST", {})["NAME"] = str(SESSION_DIR / "test.db")
    # A test keeps its transaction open while it waits for something.
    settings.DATABASES["default"] |= settings.database_settings(settings.CONFIG.system_database, open_transaction=0)
    return result


def prepare_environment(kind: str) -> None:
    """Point EXPORTER_* to the session's directory and to a private system database of `kind`."""
    for name in foreign_names():
        del os.environ[name]
    os.environ.pop("LANGUAGE", None)  # Chinese, as users see it
    os.environ |= installation_environment(SESSION_DIR, database_settings(kind, "data_export_system"))


def foreign_names() -> list[str]:
    """The variables of the environment that would configure an installation."""
    ours = ("EXPORTER_TESTS_", "EXPORTER_FAULTS_")
    return [name for name in os.environ if name.startswith("EXPORTER_") and not name.startswith(ours)]


def database_settings(kind: str, database: str) -> dict[str, str]:
    """The system_database section for `kind`; for a server, `database` is its name and the server is started."""
    if kind == "sqlite":
        return {"type": kind}
    server = servers.shared(kind)
    return {
        "type": kind,
        "host": server.host,
        "port": str(server.port),
        "database": database,
        "username": server.admin.username,
        "password": server.admin.password,
    }


def installation_environment(home: Path, database: dict[str, str]) -> dict[str, str]:
    """The environment of an installation that keeps everything in `home`, with its config.yaml written there."""
    sections = {
        "system_database": {"sqlite_path": str(home / "data" / "system.db"), **database},
        "export": {"temp_dir": str(home / "temp"), "output_dir": str(home / "exports")},
        "logging": {"file": str(home / "logs" / "app.log")},
    }
    home.mkdir(parents=True, exist_ok=True)
    (home / "config.yaml").write_text(yaml.safe_dump(sections))
    # The variables say the same again, because a developer's .env would win over the file.
    return {
        "EXPORTER_CONFIG": str(home / "config.yaml"),
        "EXPORTER_KEYS_FILE": str(home / "data" / "keys.json"),
    } | {
        f"EXPORTER_{section}__{key}".upper(): value for section, keys in sections.items() for key, value in keys.items()
    }


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for marker, option in (("long", "--long"), ("faults_long", "--faults-long")):
        long = [item for item in items if item.get_closest_marker(marker)]
        if long and not config.getoption(option):
            config.hook.pytest_deselected(items=long)
            items[:] = [item for item in items if not item.get_closest_marker(marker)]


def pytest_report_header(config: pytest.Config) -> str:
    return f"system database: {config.getoption('--system-db')}"


@pytest.hookimpl(trylast=True)
def pytest_unconfigure() -> None:
    servers.stop_all()
    shutil.rmtree(SESSION_DIR, ignore_errors=True)
