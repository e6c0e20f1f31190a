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
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

import psutil
from django.conf import settings
from django.db import Error, close_old_connections
from django.utils import timezone
from django.utils.translation import gettext as _

from exporter_site.config import BASE_DIR, resolve
from exporter_site.worker import worker_name
from tasks.models import SILENT_AFTER, Execution, SchedulerProcess

READY_WITHIN = 30.0  # seconds until a new scheduler must have been seen in the database
KILLED_AFTER = 30.0  # seconds beyond drain_timeout after which a scheduler that was told to stop is killed
SECOND_LOOK = 15.0  # seconds: a scheduler that lives is seen every 10, also after a sleep of the whole machine
LAST_LINES = 15  # of its log, shown when it does not start

_COMMAND = [str(BASE_DIR / "manage.py"), "runscheduler"]  # the end of its command line; start_all.sh looks for it, too


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
        return process if process.cmdline()[-2:] == _COMMAND else None  # that of a zombie is empty
    except (OSError, ValueError, psutil.Error):
        return None


def start() -> int:
    """Start it in the background and wait until it is seen. Returns its PID. Raises DaemonError."""
    with _alone():
        _refuse_a_second()
        is_seen(0)  # A database that can't be used is told now, by its own error, and not found out by waiting.
        log_file().parent.mkdir(parents=True, exist_ok=True)
        with log_file().open("ab") as log:
            before = log.tell()
            process = subprocess.Popen(
                [sys.executable, "-u", *_COMMAND],
                cwd=BASE_DIR,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        _write_pid(process.pid)
        if not _wait(READY_WITHIN, lambda: process.poll() is not None or _may_be_seen(process.pid)):
            raise DaemonError(
                _(
                    "The scheduler was started (PID {pid}), but is not seen in the system database. Look at {log}."
                ).format(pid=process.pid, log=log_file())
            )
        if process.poll() is not None:
            raise DaemonError(
                _("The scheduler did not start. The last lines of {log}:").format(log=log_file())
                + "\n"
                + _last_lines(before)
            )
    return process.pid


def become_the_scheduler() -> NoReturn:
    """Go on as the scheduler, in this process and terminal, noted in the PID file. Raises DaemonError."""
    with _alone():
        _refuse_a_second()
        _write_pid(os.getpid())
        # The same command line as in the background, so that everybody knows it. The lock ends with the exec.
        os.execv(sys.executable, [sys.executable, "-u", *_COMMAND])  # noqa: S606  # there is no shell on purpose


def stop(on_wait: Callable[[], None]) -> int | None:
    """Stop it when its exports have finished. Returns its PID, None when it does not run. Raises DaemonError.

    `on_wait` is called every second. Ctrl-C is its second signal: the exports are stopped, too.
    """
    process = find()
    if process is None:
        _forget()
        return None
    end = time.monotonic() + settings.CONFIG.scheduler.drain_timeout + KILLED_AFTER

    def hurry() -> None:
        nonlocal end
        _signal(process, signal.SIGTERM)
        end = time.monotonic() + KILLED_AFTER

    with _on_interrupt(hurry):
        _signal(process, signal.SIGTERM)
        while not _has_ended(process, within=1):
            if time.monotonic() > end:
                _signal(process, signal.SIGKILL)
            on_wait()
    _forget()
    return process.pid


def watch(*, start_stopped: bool) -> str:
    """Restart a scheduler that is dead or silent. Returns what was done, in words; "" when all is well.

    Without `start_stopped`, one that was never started or was stopped on purpose stays so: then there is no PID file.

    Raises DaemonError, and what the system database raises when a scheduler can't be started for its sake.
    """
    close_old_connections()
    process = find()
    if process is None:
        if not start_stopped and not pid_file().exists():
            return ""
        return _("The scheduler was not running and has been started (PID {pid}).").format(pid=start())
    if _age(process) < READY_WITHIN + SILENT_AFTER.total_seconds():
        return ""
    try:
        # It may be silent because the database was away, or the machine asleep, until just now.
        if is_seen(process.pid) or _wait(SECOND_LOOK, lambda: is_seen(process.pid)):
            return ""
    except Error:
        return ""  # Nobody can say; a new process would fare no better.
    if find() != process:
        return ""  # Somebody has just stopped it, or started another.
    _signal(process, signal.SIGKILL)
    if not _has_ended(process, within=10):
        raise DaemonError(_("The scheduler (PID {pid}) can't be killed.").format(pid=process.pid))
    return _("The scheduler (PID {old}) gave no sign of life; it was killed and started again (PID {pid}).").format(
        old=process.pid, pid=start()
    )


def is_seen(pid: int) -> bool:
    """Whether the scheduler with this number on this machine has lately shown in the database that it lives."""
    name = worker_name(pid)
    if SchedulerProcess.objects.alive().filter(name=name).exists():
        return True
    # One that runs exports itself (executor inline) has no time for signs of its own.
    beaten = timezone.now() - SILENT_AFTER
    return Execution.objects.running().filter(worker=name, heartbeat_at__gt=beaten).exists()


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


def _may_be_seen(pid: int) -> bool:
    try:
        return is_seen(pid)
    except Error:
        return False  # asked again


def _refuse_a_second() -> None:
    if (running := find()) is not None:
        raise DaemonError(_("The scheduler is running already (PID {pid}).").format(pid=running.pid))


def _write_pid(pid: int) -> None:
    """In one step: whoever reads meanwhile must not find an empty file."""
    new = pid_file().with_suffix(".new")
    new.write_text(f"{pid}\n")
    new.replace(pid_file())


def _forget() -> None:
    """Remove the PID file, unless another scheduler has been started meanwhile."""
    with _alone():
        if find() is None:
            pid_file().unlink(missing_ok=True)


def _signal(process: psutil.Process, number: int) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        pass  # It has ended by itself.
    except psutil.AccessDenied:
        raise DaemonError(
            _("The scheduler (PID {pid}) belongs to another user ({user}).").format(
                pid=process.pid, user=process.username()
            )
        ) from None


def _has_ended(process: psutil.Process, within: float) -> bool:
    """Whether it ends in so many seconds; a zombie whose parent does not care has ended, too."""
    try:
        with suppress(psutil.TimeoutExpired):
            process.wait(within)
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@contextmanager
def _on_interrupt(action: Callable[[], None]) -> Iterator[None]:
    """Ctrl-C calls `action`, at whatever line; as an exception it would be lost between two of them."""
    before = signal.signal(signal.SIGINT, lambda number, frame: action())
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _wait(seconds: float, condition: Callable[[], bool]) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


def _last_lines(since: int) -> str:
    """What the log says from byte `since` on: what earlier schedulers wrote explains nothing."""
    with log_file().open("rb") as log:
        log.seek(since)
        return "\n".join(log.read().decode(errors="replace").splitlines()[-LAST_LINES:])


@contextmanager
def _alone() -> Iterator[None]:
    """Two starts at the same moment would start two."""
    with (run_directory() / "scheduler.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
