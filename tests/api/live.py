"""The system as programs meet it: gunicorn on a free port of this machine, over an installation of its own."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast
from urllib.error import URLError
from urllib.request import urlopen

from drf_spectacular.generators import SchemaGenerator

from exporter_site.config import BASE_DIR
from tests import servers
from tests.instance import Instance

PATIENCE = 30  # seconds


def free_port() -> int:
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        return int(place.getsockname()[1])


@contextmanager
def gunicorn(instance: Instance, *options: object, env: Mapping[str, str] | None = None) -> Iterator[str]:
    """The address (http://127.0.0.1:PORT) of a web server of `instance`, which is ended on leaving."""
    address, log = f"127.0.0.1:{free_port()}", instance.home / "gunicorn.log"
    command = [sys.executable, "-m", "gunicorn", "-c", "/dev/null", "-b", address, "--threads", "8", *options]
    with log.open("w") as output:
        process = subprocess.Popen(
            [*map(str, command), "exporter_site.wsgi"],
            cwd=BASE_DIR,
            env=instance.environment | {"EXPORTER_WEB__API_REQUESTS_PER_MINUTE": "0"} | dict(env or {}),
            stdout=output,
            stderr=output,
            stdin=subprocess.DEVNULL,
            preexec_fn=servers.die_with_parent(signal.SIGKILL),
        )
        try:
            _wait(f"http://{address}/healthz/web", process, log)
            yield f"http://{address}"
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)


def _wait(url: str, process: "subprocess.Popen[Any]", log: Path) -> None:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and process.poll() is None:
        try:
            with urlopen(url, timeout=5):
                return
        except (URLError, OSError):
            time.sleep(0.1)
    raise AssertionError(f"gunicorn does not answer:\n{log.read_text()}")


def prepare(instance: Instance, code: str) -> dict[str, Any]:
    """What `code`, run in a process of `instance`, has put into `result`."""
    found: dict[str, Any] = json.loads(
        instance.python(f"import json\nresult = {{}}\n{code}\nprint(json.dumps(result))").splitlines()[-1]
    )
    return found


def document() -> dict[str, Any]:
    """The OpenAPI document."""
    return cast("dict[str, Any]", cast("Any", SchemaGenerator)().get_schema(request=None, public=True))


def program(name: str) -> str:
    """The path of a program of this environment, or of the machine."""
    found = shutil.which(name, path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    assert found, f"{name} is needed for this test"
    return found
