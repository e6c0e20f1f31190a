"""The scheduler as a background process: started, stopped, watched. For machines without systemd, and for
start_all.sh, which uses the same PID file.

A PID file is believed only when the process is really a scheduler of this installation: numbers are used again.
"""

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import psutil
from django.conf import settings
from django.db import DatabaseError, close_old_connections
from django.utils.translation import gettext as _

from exporter_site.config import BASE_DIR, resolve
from tasks.models import SILENT_AFTER, SchedulerProcess
from tasks.worker import worker_name

READY_WITHIN = 30.0  # seconds until a new scheduler must have been seen in the database
KILLED_AFTER = 30.0  # seconds beyond drain_timeout after which a scheduler that was told to stop is killed
LAST_LINES = 15  # of its log, shown when it does not start


class DaemonError(Exception):
    """It could not be done; the text says why."""


@dataclass(frozen=True, slots=True)
class ProcessFacts:
    """`cpu` in percent of one core, `memory` in bytes (with the processes of exports), `uptime` in seconds."""

    pid: int
    cpu: float
    memory: int
    started_at: datetime
    uptime: float


def run_directory() -> Path:
    """Beside the system's own data: data/run unless config.yaml says otherwise."""
    directory = resolve(settings.CONFIG.system_database.sqlite_path).parent / "run"
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    return directory


def pid_file() -> Path:
    return run_directory() / "scheduler.pid"


def log_file() -> Path:
    """What the scheduler prints; its log proper is logging.file."""
    return resolve(settings.CONFIG.logging.file).parent / "scheduler.log"


def find() -> psutil.Process | None:
    """The scheduler that the PID file names, if it lives."""
    try:
        process = psutil.Process(int(pid_file().read_text()))
        command = process.cmdline()
        if str(BASE_DIR / "manage.py") in command and process.status() != psutil.STATUS_ZOMBIE:
            return process if {"runscheduler", "scheduler"} & set(command) else None
    except (OSError, ValueError, psutil.Error):
        pass
    return None


def start() -> int:
    """Start it in the background and wait until it is seen. Returns its PID. Raises DaemonError."""
    with _alone():
        if (running := find()) is not None:
            raise DaemonError(_("The scheduler is running already (PID {pid}).").format(pid=running.pid))
        log_file().parent.mkdir(parents=True, exist_ok=True)
        with log_file().open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-u", str(BASE_DIR / "manage.py"), "runscheduler"],
                cwd=BASE_DIR,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        pid_file().write_text(f"{process.pid}\n")
        if not _wait(READY_WITHIN, lambda: process.poll() is not None or _is_seen(process.pid)):
            raise DaemonError(
                _(
                    "The scheduler was started (PID {pid}), but is not seen in the system database. Look at {log}."
                ).format(pid=process.pid, log=log_file())
            )
        if process.poll() is not None:
            pid_file().unlink(missing_ok=True)
            raise DaemonError(
                _("The scheduler did not start. The last lines of {log}:").format(log=log_file()) + "\n" + _last_lines()
            )
    return process.pid


def be_the_scheduler() -> None:
    """Note this process as the one that the PID file names. Raises DaemonError."""
    with _alone():
        if (running := find()) is not None:
            raise DaemonError(_("The scheduler is running already (PID {pid}).").format(pid=running.pid))
        pid_file().write_text(f"{os.getpid()}\n")


def stop(on_wait: Callable[[], None]) -> int | None:
    """Stop it when its exports have finished. Returns its PID, None when it does not run.

    `on_wait` is called every second. A KeyboardInterrupt is its second signal: the exports are stopped, too.
    """
    process = find()
    if process is None:
        pid_file().unlink(missing_ok=True)
        return None
    process.send_signal(signal.SIGTERM)
    end = time.monotonic() + settings.CONFIG.scheduler.drain_timeout + KILLED_AFTER
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        try:
            if time.monotonic() > end:
                process.kill()
            process.wait(1)
        except psutil.TimeoutExpired:
            on_wait()
        except KeyboardInterrupt:
            process.send_signal(signal.SIGTERM)
            end = time.monotonic() + KILLED_AFTER
        except psutil.NoSuchProcess:
            break
    pid_file().unlink(missing_ok=True)
    return process.pid


def watch() -> str:
    """Restart a scheduler that is dead or silent. Returns what was done, in words; "" when all is well."""
    process = find()
    if process is None:
        return _("The scheduler was not running and has been started (PID {pid}).").format(pid=start())
    if _age(process) < READY_WITHIN + SILENT_AFTER.total_seconds():
        return ""
    close_old_connections()
    try:
        seen = _is_seen(process.pid)
    except DatabaseError:
        return ""  # Nobody can say; a new process would fare no better.
    if seen:
        return ""
    process.kill()
    process.wait(10)
    return _("The scheduler (PID {old}) gave no sign of life; it was killed and started again (PID {pid}).").format(
        old=process.pid, pid=start()
    )


def facts() -> ProcessFacts | None:
    """What the system knows of the running scheduler; None when it does not run."""
    process = find()
    if process is None:
        return None
    try:
        memory = sum(_memory(each) for each in (process, *process.children(recursive=True)))
        started_at = datetime.fromtimestamp(process.create_time(), UTC)
        return ProcessFacts(process.pid, process.cpu_percent(0.2), memory, started_at, _age(process))
    except psutil.Error:
        return None  # gone in this moment


def logs() -> Iterator[tuple[Path, int, datetime]]:
    """The log files with their size in bytes and the time of their last line."""
    for file in (log_file(), resolve(settings.CONFIG.logging.file)):
        if file.exists():
            found = file.stat()
            yield file, found.st_size, datetime.fromtimestamp(found.st_mtime, UTC)


def _memory(process: psutil.Process) -> int:
    try:
        return int(process.memory_full_info().pss)  # a page that two processes share counts half in each
    except (psutil.Error, AttributeError):
        return 0


def _age(process: psutil.Process) -> float:
    return max(0.0, time.time() - process.create_time())


def _is_seen(pid: int) -> bool:
    return SchedulerProcess.objects.alive().filter(name=worker_name(pid)).exists()


def _wait(seconds: float, condition: Callable[[], bool]) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


def _last_lines() -> str:
    try:
        return "\n".join(log_file().read_text(errors="replace").splitlines()[-LAST_LINES:])
    except OSError:
        return ""


@contextmanager
def _alone() -> Iterator[None]:
    """Two starts at the same moment would start two."""
    with (run_directory() / "scheduler.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
