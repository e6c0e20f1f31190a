"""The name of a process that runs an export, and whether it still lives.

A name is `host:pid:machine`. Numbers of processes and names of hosts are used again, in containers all the time: only
where `machine` is ours, too, can anything be said about the process.
"""

import hashlib
import os
import signal
import socket
from functools import cache
from pathlib import Path

_MARK = "manage.py"  # in the command line of the processes that a scheduler starts


@cache
def machine() -> str:
    """This boot of this machine, and the space of process numbers in it (a container has its own)."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()
        space = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return "unknown"
    return hashlib.sha256(f"{boot}{space}".encode()).hexdigest()[:8]


def worker_name(pid: int | None = None) -> str:
    """The name of a process of this machine; of this one when no number is given."""
    return f"{socket.gethostname()}:{pid or os.getpid()}:{machine()}"


def local_pid(worker: str) -> int | None:
    """The number of the process that `worker` names, if it is or was one of this machine."""
    _host, _colon, rest = worker.rpartition(":")[0].rpartition(":")
    if worker.rpartition(":")[2] != machine() or machine() == "unknown" or not rest.isdigit():
        return None
    return int(rest)


def is_gone(worker: str) -> bool:
    """Whether `worker` was a process of this machine that does not exist any more. False when nobody can say."""
    pid = local_pid(worker)
    return pid is not None and not _lives(pid)


def kill(worker: str) -> bool:
    """End the process of `worker` if it is one of ours on this machine, however stuck. False when it is not."""
    pid = local_pid(worker)
    if pid is None or pid == os.getpid() or not _is_ours(pid):
        return False
    try:
        os.kill(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _is_ours(pid: int) -> bool:
    """Numbers of processes are used again: nobody else's must be killed."""
    try:
        return _MARK.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
