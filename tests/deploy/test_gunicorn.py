"""deploy/gunicorn.conf.py takes its sizes from the configuration, and the rest is what the documents say."""

import subprocess
import sys

from exporter_site.config import BASE_DIR
from tests.instance import Instance


def settings_of(instance: Instance, **web: str) -> dict[str, str]:
    """What gunicorn makes of the file."""
    variables = {f"EXPORTER_WEB__{key.upper()}": value for key, value in web.items()}
    done = subprocess.run(
        [sys.executable, "-m", "gunicorn", "-c", "deploy/gunicorn.conf.py", "--print-config", "exporter_site.wsgi"],
        cwd=BASE_DIR,
        env=instance.environment | variables,
        capture_output=True,
        text=True,
        check=True,
    )
    pairs = (line.partition("=") for line in done.stdout.splitlines())
    return {name.strip(): value.strip() for name, _equals, value in pairs}


def test_address_workers_and_threads_come_from_the_configuration(instance: Instance) -> None:
    found = settings_of(instance, host="::1", port="5123", workers="3", threads="7")
    assert (found["bind"], found["workers"], found["threads"]) == ("['[::1]:5123']", "3", "7")


def test_a_stop_lets_downloads_end_and_no_address_is_logged(instance: Instance) -> None:
    found = settings_of(instance)
    assert (found["workers"], found["threads"], found["worker_class"]) == ("2", "4", "gthread")
    assert (found["graceful_timeout"], found["max_requests"], found["accesslog"]) == ("30", "0", "None")
