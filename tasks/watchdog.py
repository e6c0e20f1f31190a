"""A line in the system's crontab that starts a dead or silent scheduler again, for machines without systemd.

django-crontab builds the lines. It reads and writes the crontab through a shell whose exit code nobody looks at: a
crontab that could not be read would be replaced by our lines alone. Here, reading and writing either work or raise.
"""

import logging
import subprocess
from typing import Any

from django.conf import settings
from django.db import DatabaseError
from django.utils.translation import gettext as _
from django_crontab.crontab import Crontab

from exporter_site.redact import redact
from tasks import daemon

logger = logging.getLogger(__name__)

TIMEOUT = 30  # seconds
_NONE_YET = "no crontab for"


class CrontabError(Exception):
    """The crontab was left as it is; the text says why."""


class SafeCrontab(Crontab):  # type: ignore[misc]  # untyped library
    """As a context manager: read, change, write back when nothing was raised and something has changed."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"verbosity": 0, **options})
        self._before: list[str] = []

    def __exit__(self, kind: Any, exc: Any, trace: Any) -> None:
        if exc is None and self.crontab_lines != self._before and not self.readonly:
            self.write()

    def read(self) -> None:
        done = _crontab("-l")
        if done.returncode and _NONE_YET not in done.stderr:
            raise CrontabError(_("The crontab can't be read: {error}").format(error=done.stderr.strip()))
        self.crontab_lines = done.stdout.splitlines(keepends=True) if not done.returncode else []
        if self.crontab_lines and not self.crontab_lines[-1].endswith("\n"):
            self.crontab_lines[-1] += "\n"  # or our line would become a part of it
        self._before = list(self.crontab_lines)

    def write(self) -> None:
        done = _crontab("-", text="".join(self.crontab_lines))
        if done.returncode:
            raise CrontabError(_("The crontab can't be written: {error}").format(error=done.stderr.strip()))

    @property
    def ours(self) -> list[str]:
        """Our lines that are there now."""
        ending = f"# {self.settings.CRONTAB_COMMENT}"
        return [line.rstrip("\n") for line in self.crontab_lines if line.rstrip("\n").endswith(ending)]


def _crontab(*arguments: str, text: str = "") -> "subprocess.CompletedProcess[str]":
    command = [settings.CRONTAB_EXECUTABLE, *arguments]
    try:
        # The messages that are looked for are English.
        return subprocess.run(
            command,
            input=text,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            env={"LC_ALL": "C", "PATH": "/usr/bin:/bin"},
        )
    except FileNotFoundError:
        raise CrontabError(
            _("There is no {program}. Install it: apt-get install cron").format(program=command[0])
        ) from None
    except subprocess.TimeoutExpired:
        raise CrontabError(_("{program} does not answer.").format(program=command[0])) from None


def watch() -> None:
    """What the line of the crontab does, each minute."""
    try:
        done = daemon.watch(start_stopped=False)
    except (daemon.DaemonError, DatabaseError) as exc:
        logger.error("watchdog: %s", redact(str(exc)))
    else:
        if done:
            logger.warning("watchdog: %s", done)
