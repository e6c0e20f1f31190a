"""deploy/docker, without Docker: what can be read is read, and what the containers would run is run here."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from exporter_site.config import BASE_DIR, load_config
from tests import servers
from tests.instance import Instance
from tests.servers import free_port

DOCKER = BASE_DIR / "deploy" / "docker"
OURS = ("web", "scheduler")


def instructions() -> list[tuple[str, str]]:
    """(INSTRUCTION, the rest) of the Dockerfile, continued lines as one."""
    text = re.sub(r"^#.*\n", "", (DOCKER / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    found = (line.split(None, 1) for line in text.splitlines() if line.strip())
    return [(name, re.sub(r"\s+", " ", rest)) for name, rest in found]


def of(name: str) -> list[str]:
    return [rest for instruction, rest in instructions() if instruction == name]


def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((DOCKER / "compose.yaml").read_text())
    return found


def test_what_is_copied_exists_and_is_let_in() -> None:
    let_in = {line[1:] for line in (BASE_DIR / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {source for rest in of("COPY") if not rest.startswith("--from") for source in rest.split()[:-1]}
    assert copied == let_in
    for source in copied:
        assert (BASE_DIR / source).exists(), source


def test_everything_that_the_system_imports_is_copied() -> None:
    packages = {path.parent.name for path in BASE_DIR.glob("*/apps.py")} | {"exporter_site"}
    assert packages <= {rest.split()[0] for rest in of("COPY")}


def test_packages_come_from_the_lock_and_nowhere_else() -> None:
    (install,) = [rest for rest in of("RUN") if " pip " in rest]
    assert "--require-hashes -r /build/requirements.lock" in install


def test_the_containers_run_as_an_ordinary_user_and_wait_for_a_signal() -> None:
    names = [name for name, _rest in instructions()]
    assert of("USER") == ["10001"]
    assert names.index("USER") > max(index for index, name in enumerate(names) if name in {"RUN", "COPY"})
    assert of("STOPSIGNAL") == ["SIGTERM"]
    assert json.loads(of("ENTRYPOINT")[0])[0] == "tini"


def test_the_build_of_the_image_makes_its_static_files(tmp_path: Path) -> None:
    """The command of the Dockerfile, with its variables, in a copy of what would be copied."""
    for rest in of("COPY"):
        if not rest.startswith("--from"):
            *sources, target = rest.split()
            for source in sources:
                into = tmp_path / target.removeprefix("/")
                if (BASE_DIR / source).is_dir():
                    shutil.copytree(BASE_DIR / source, into)
                else:
                    into.mkdir(parents=True, exist_ok=True)
                    shutil.copy(BASE_DIR / source, into)
    (command,) = [rest for rest in of("RUN") if "collectstatic" in rest]
    variables = dict(re.findall(r"(EXPORTER_\w+)=(\S+)", " ".join(of("ENV"))))
    environment = {name: value.replace("/data", str(tmp_path / "data")) for name, value in variables.items()}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = command.replace("/tmp/", f"{tmp_path}/").replace(" /app", f" {tmp_path}/app")
    subprocess.run(["sh", "-c", command], cwd=tmp_path / "app", env={"PATH": path, **environment}, check=True)
    assert (tmp_path / "app/staticfiles/exporter.css").is_file()
    assert not (tmp_path / "data/keys.json").exists()


@contextmanager
def container(instance: Instance, service: str, **variables: str) -> Iterator["subprocess.Popen[bytes]"]:
    """The process that the service's container would be, less tini."""
    entrypoint, command = BASE_DIR / "deploy/docker/entrypoint.sh", compose()["services"][service]["command"]
    assert json.loads(of("ENTRYPOINT")[0])[-1] == f"/app/{entrypoint.relative_to(BASE_DIR)}"
    process = subprocess.Popen(
        [entrypoint, *command],
        cwd=BASE_DIR,
        env=inside(instance) | variables,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=servers.die_with_parent(15),
    )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(60)


def inside(instance: Instance) -> dict[str, str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return instance.environment | {"PATH": path, "SECRETS_DIRECTORY": str(instance.home / "secrets")}


def healthy(instance: Instance, service: str, **variables: str) -> bool:
    """What the health check of the service says."""
    own = compose()["services"][service].get("healthcheck", {}).get("test")
    arguments = own[1:] if own else json.loads(of("HEALTHCHECK")[0].partition("CMD ")[2])
    assert arguments[1:] == ["deploy/docker/healthcheck.py", service]
    done = subprocess.run(arguments, cwd=BASE_DIR, env=inside(instance) | variables, capture_output=True)
    return done.returncode == 0


def becomes_healthy(instance: Instance, service: str, **variables: str) -> bool:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if healthy(instance, service, **variables):
            return True
        time.sleep(0.2)
    return False


def test_the_web_container_answers_and_its_health_is_seen(instance: Instance) -> None:
    port = {"EXPORTER_WEB__PORT": str(free_port()), "EXPORTER_WEB__HOST": "127.0.0.1"}
    assert not healthy(instance, "web", **port)
    with container(instance, "web", **port):
        assert becomes_healthy(instance, "web", **port)


def test_the_scheduler_container_works_and_its_health_is_seen(instance: Instance) -> None:
    assert not healthy(instance, "scheduler")
    with container(instance, "scheduler"):
        assert becomes_healthy(instance, "scheduler")


def test_other_words_are_commands_and_secrets_may_be_files(instance: Instance) -> None:
    (instance.home / "secrets").mkdir()
    (instance.home / "secrets/EXPORTER_EMAIL__PASSWORD").write_text("pass word\n")
    code = "from django.conf import settings; print(settings.CONFIG.email.password.get_secret_value())"
    command = [str(BASE_DIR / "deploy/docker/entrypoint.sh"), "shell", "-v", "0", "-c", code]
    done = subprocess.run(command, cwd=BASE_DIR, env=inside(instance), capture_output=True, text=True, check=True)
    assert done.stdout == "pass word\n"


def test_compose_has_no_password_and_does_not_start_without_one() -> None:
    text = (DOCKER / "compose.yaml").read_text()
    passwords = re.findall(r"^ *\w*PASSWORD\w*: (.*)$", text, re.MULTILINE)
    assert len(passwords) == 4
    for value in passwords:
        assert value == '"1"' or value.startswith("${EXPORTER_SYSTEM_DATABASE__PASSWORD:?"), value


@pytest.mark.parametrize("service", OURS)
def test_compose_gives_the_system_a_configuration_that_it_takes(service: str, tmp_path: Path) -> None:
    given = compose()["services"][service]["environment"]
    filled = {name: re.sub(r"\$\{[^}]*\}+", "", value) for name, value in given.items()}
    assert filled.pop("EXPORTER_SYSTEM_DATABASE__TYPE") == ""
    load_config(BASE_DIR / "config.yaml", filled)


def test_compose_waits_for_what_ends_in_peace() -> None:
    services = compose()["services"]
    assert services["scheduler"]["stop_grace_period"] == "11m"
    assert load_config(BASE_DIR / "config.yaml", {}).scheduler.drain_timeout + 30 <= 11 * 60
    assert services["web"]["stop_grace_period"] == "45s"


def test_a_database_starts_only_by_its_profile() -> None:
    services = compose()["services"]
    assert {name: service.get("profiles") for name, service in services.items()} == {
        "web": None,
        "scheduler": None,
        "mysql": ["mysql"],
        "postgresql": ["postgresql"],
        "redis": ["redis"],
    }
    for name in OURS:
        assert services[name]["cap_drop"] == ["ALL"]
        assert services[name]["read_only"] is True
