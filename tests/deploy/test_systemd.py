"""deploy/systemd: what systemd itself says of the units, what they promise, and a scheduler that speaks to it."""

import os
import re
import shutil
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from exporter_site.config import BASE_DIR, Config, load_config
from tests import servers
from tests.conftest import missing_program
from tests.instance import Instance

UNITS = BASE_DIR / "deploy" / "systemd"
SERVICES = ("data-export-web.service", "data-export-scheduler.service")
INSTALLED = "/opt/data-export-system/current"


def values(name: str, key: str) -> list[str]:
    """What `key` is set to in a unit, each time it is."""
    return re.findall(rf"^{key}=(.*)$", (UNITS / name).read_text(), re.MULTILINE)


def value(name: str, key: str) -> str:
    (found,) = values(name, key)
    return found


@pytest.fixture(scope="module")
def analyze() -> Path:
    with missing_program():
        return servers.find_binary("systemd-analyze", package="systemd")


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """The units as they would be with this checkout at the place where they expect theirs."""
    for file in UNITS.iterdir():
        # A virtual environment may be a link: what is started is looked at through its end.
        text = file.read_text().replace(f"{INSTALLED}/.venv/bin/python", str(shutil.which("python3")))
        (tmp_path / file.name).write_text(text.replace(INSTALLED, str(BASE_DIR)))
    return tmp_path


def test_systemd_finds_nothing_wrong_with_them(analyze: Path, units: Path) -> None:
    names = [f"./{name}" for name in ("data-export.target", *SERVICES)]
    done = subprocess.run([str(analyze), "verify", "--man=no", *names], cwd=units, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", SERVICES)
def test_little_is_exposed(analyze: Path, units: Path, name: str) -> None:
    command = [str(analyze), "security", "--offline=true", "--threshold=30", "--no-pager", f"./{name}"]
    done = subprocess.run(command, cwd=units, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-300:] + done.stderr


def test_the_target_starts_both_and_they_belong_to_it() -> None:
    assert value("data-export.target", "Wants").split() == list(SERVICES)
    for name in SERVICES:
        assert value(name, "PartOf") == "data-export.target"


@pytest.mark.parametrize("name", SERVICES)
def test_what_they_start_is_in_this_checkout(name: str) -> None:
    program, *arguments = value(name, "ExecStart").split()
    assert program == f"{INSTALLED}/.venv/bin/python"
    for argument in arguments:
        assert not argument.endswith(".py") or (BASE_DIR / argument).is_file()


@pytest.mark.parametrize("name", SERVICES)
def test_one_that_ends_is_always_started_again(name: str) -> None:
    assert (value(name, "Restart"), value(name, "StartLimitIntervalSec")) == ("always", "0")
    assert value(name, "OOMPolicy") == "continue"


def test_a_stop_leaves_the_exports_the_time_that_they_have() -> None:
    name = "data-export-scheduler.service"
    assert value(name, "KillMode") == "process"
    assert int(value(name, "TimeoutStopSec")) > Config().scheduler.drain_timeout + 10 + 20
    graceful = re.findall(r"^graceful_timeout = (\d+)", (BASE_DIR / "deploy/gunicorn.conf.py").read_text(), re.M)
    assert int(value("data-export-web.service", "TimeoutStopSec")) > int(graceful[0])


def example() -> dict[str, str]:
    lines = (UNITS / "environment").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def test_the_environment_is_a_configuration_that_keeps_to_the_writable_directories(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").touch()
    config = load_config(environ=example() | {"EXPORTER_CONFIG": str(tmp_path / "config.yaml")})
    writable = [Path(place) for place in value(SERVICES[0], "ReadWritePaths").split()]
    written = [
        config.export.temp_dir,
        config.export.output_dir,
        config.logging.file,
        config.system_database.sqlite_path,
    ]
    for place in (*written, Path(example()["EXPORTER_KEYS_FILE"])):
        assert any(place.is_relative_to(directory) for directory in writable), place


def test_the_environment_says_what_nginx_expects() -> None:
    nginx = (BASE_DIR / "deploy/nginx/data-export.conf").read_text()
    found = example()
    assert f"location {found['EXPORTER_WEB__ACCEL_PREFIX']} {{" in nginx
    assert f"alias {found['EXPORTER_EXPORT__OUTPUT_DIR']}/;" in nginx
    assert f"server {found['EXPORTER_WEB__HOST']}:{Config().web.port};" in nginx
    assert f"server_name {found['EXPORTER_WEB__PUBLIC_URL'].removeprefix('https://')};" in nginx
    assert found["EXPORTER_WEB__TRUSTED_PROXIES"] == "127.0.0.1"


class Listener:
    """The end of a notification socket that systemd would hold."""

    def __init__(self, place: str) -> None:
        self.heard: list[str] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(place)
        self._socket.settimeout(60)

    def until(self, line: str) -> None:
        while line not in self.heard:
            self.heard += self._socket.recv(4096).decode().splitlines()

    def close(self) -> None:
        self._socket.close()


@pytest.mark.parametrize("abstract", [False, True])
def test_a_scheduler_says_that_it_is_ready_lives_and_stops(instance: Instance, tmp_path: Path, abstract: bool) -> None:
    place = f"@exporter-{os.getpid()}" if abstract else str(tmp_path / "notify")
    listener = Listener(place.replace("@", "\0"))
    process = instance.spawn("runscheduler", env={"NOTIFY_SOCKET": place})
    try:
        listener.until("READY=1")
        listener.heard.clear()
        listener.until("WATCHDOG=1")
        process.send_signal(signal.SIGTERM)
        listener.until("STOPPING=1")
        assert process.wait(60) == 0
    finally:
        listener.close()


def test_an_inline_scheduler_asks_not_to_be_watched(instance: Instance, tmp_path: Path) -> None:
    listener = Listener(str(tmp_path / "notify"))
    instance.spawn("runscheduler", "--executor=inline", env={"NOTIFY_SOCKET": str(tmp_path / "notify")})
    try:
        listener.until("READY=1")
        assert listener.heard[0] == "WATCHDOG_USEC=0"
    finally:
        listener.close()
