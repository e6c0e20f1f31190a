"""Runs commands as processes of their own, and says what they cost: seconds, processor seconds, peak memory."""

import os
import select
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO

STEP = 0.02  # seconds between two looks at the memory
NOTABLE = 256 * 1024  # bytes that the resident set must have grown by for a closer look
PAGE = os.sysconf("SC_PAGE_SIZE")


class CommandFailed(Exception):
    """A measured command ended with an exit code other than 0; the text has what it printed."""


@dataclass(frozen=True, slots=True)
class Command:
    """`env`: the whole environment, ours when left out. `output`: a file for what the command prints."""

    args: tuple[str, ...]
    env: Mapping[str, str] | None = None
    output: Path | None = None
    cwd: Path | None = None


@dataclass(frozen=True, slots=True)
class Measured:
    """What a command cost, or several at once.

    `seconds`: from the first start to the last end. `cpu_seconds`: user and system time of the processes and of those
    that they started and waited for. `peak_bytes`: the most that all of them held at one moment. `printed`: what each
    command wrote to standard output, "" where that went into a file.
    """

    seconds: float
    cpu_seconds: float
    peak_bytes: int
    exit_code: int
    printed: tuple[str, ...]


def run(command: Command) -> Measured:
    """Run `command` to its end. Raises CommandFailed."""
    return run_together([command])


def run_together(commands: Sequence[Command]) -> Measured:
    """Start all `commands` at once and wait for the last of them. Raises CommandFailed."""
    with ExitStack() as stack:
        outputs = [stack.enter_context(_output(command)) for command in commands]
        errors = [stack.enter_context(tempfile.TemporaryFile()) for _command in commands]
        started = time.perf_counter()
        processes = [
            _start(command, output, error) for command, output, error in zip(commands, outputs, errors, strict=True)
        ]
        stack.callback(_end, processes)
        peak, cpu = _watch(processes)
        seconds = time.perf_counter() - started
        for command, process, error in zip(commands, processes, errors, strict=True):
            if process.returncode:
                error.seek(0)
                text = error.read().decode(errors="replace")[-4000:]
                raise CommandFailed(f"{' '.join(command.args)[:400]}\nended with {process.returncode}:\n{text}")
        printed = tuple(
            "" if command.output else _read(output) for command, output in zip(commands, outputs, strict=True)
        )
    return Measured(seconds, cpu, peak, 0, printed)


def _output(command: Command) -> IO[bytes]:
    return command.output.open("wb") if command.output else tempfile.TemporaryFile()


def _read(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")


def _start(command: Command, output: IO[bytes], error: IO[bytes]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command.args, env=command.env, cwd=command.cwd, stdin=subprocess.DEVNULL, stdout=output, stderr=error
    )


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        if process.returncode is None:
            process.kill()
            process.wait()


def _watch(processes: Sequence[subprocess.Popen[bytes]]) -> tuple[int, float]:
    """Wait for all of them. Returns the peak of their memory in bytes, and their processor seconds."""
    peak, cpu, highest = 0, 0.0, 0
    running = {os.pidfd_open(process.pid): process for process in processes}
    # A descriptor of the process, not a sleep: the end is seen when it comes, not up to 20 ms later.
    poll = select.poll()
    for descriptor in running:
        poll.register(descriptor, select.POLLIN)
    while running:
        for descriptor, _event in poll.poll(STEP * 1000):
            process = running.pop(descriptor)
            poll.unregister(descriptor)
            os.close(descriptor)
            _pid, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            cpu += usage.ru_utime + usage.ru_stime
        # A closer look takes 2 ms of a core for each process: only where the cheap figure says that there is more.
        resident = sum(_resident(member) for process in running.values() for member in tree(process.pid))
        if resident > highest + NOTABLE:
            highest = resident
            peak = max(peak, sum(tree_bytes(process.pid) for process in running.values()))
    return peak, cpu


def _resident(pid: int) -> int:
    fields = _text(Path(f"/proc/{pid}/statm")).split()
    return int(fields[1]) * PAGE if fields else 0


def tree_bytes(pid: int) -> int:
    """Memory that the process and everything below it hold now, in bytes."""
    return sum(map(_bytes_of, tree(pid)))


def tree(pid: int) -> Iterator[int]:
    """The process and all that descend from it."""
    yield pid
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in _text(children).split():
            yield from tree(int(child))


def _bytes_of(pid: int) -> int:
    """The proportional set size (pages shared with others count in part), or the resident set where that is hidden."""
    for name, field in (("smaps_rollup", "Pss:"), ("status", "VmRSS:")):
        for line in _text(Path(f"/proc/{pid}/{name}")).splitlines():
            if line.startswith(field):
                return int(line.split()[1]) * 1024
    return 0


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""  # The process has just ended, or is not ours to look at.
