"""The process that forks exports: everything is imported once, and never touched.

It speaks with its scheduler (local.py) over one socket, in lines:

    <- run EXECUTION ATTEMPT
    <- stop                      SIGTERM for all that run
    -> EXECUTION ATTEMPT CODE    it ended; CODE is the exit code, negative for a signal

While it serves it holds no connection to any database: a connection can't be shared with forked processes. When the
scheduler is gone, so is the server; exports go on by themselves.

A process carries out one run at a time. One whose run succeeded, and that has stayed small, may be given the next: most
of what a small export costs is its fork and its connection to the system database. After anything else, it ends.
"""

import gc
import logging
import os
import selectors
import signal
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from django.db import DatabaseError, connections
from django.utils import timezone

from datasources import safety
from datasources.connectors import connectors
from exporter_site import logs
from exporter_site.redact import redact
from notifications.models import NotificationRule
from tasks import announce, runner, storage
from tasks.models import Execution, ExportTask
from tasks.states import Status
from tasks.storage.base import StorageError
from tasks.supervisor import resident_bytes
from tasks.writers import writers

logger = logging.getLogger(__name__)

FIRST_TO_GO = "500"  # when memory runs out, the system ends an export before it ends what starts exports
MOST_RUNS = 100  # that one process carries out
MOST_GROWTH = 32 << 20  # bytes by which a process may have grown, and yet take a further run
IDLE = 1.0  # seconds that a process, and its connection to the system database, waits for a further run


def preload() -> None:
    """Import what an export needs, so that a fork has it."""
    for kind in connectors:
        try:
            safety.check("SELECT 1", connectors.get(kind).dialect)
        except ImportError:
            logger.info("no driver for %s; exports from it will say so", kind)
    for format in writers:
        writers.get(format)
    try:
        storage.current()
    except StorageError as exc:
        logger.warning("finished files can't be kept: %s", exc)
    _rehearse()
    gc.collect()
    gc.freeze()  # A collection would write to every object, and each write costs a fork a page.


def _rehearse() -> None:
    """Ask what a run asks, about none: Django and the driver keep much of what they find out the first time, and each
    fork would find it out again."""
    nobody = Execution(pk=0, attempt=1, started_at=timezone.now())
    try:
        runner.claimed(nobody.pk, nobody.attempt)
        Execution.objects.begin(nobody, worker="", sql="")
        Execution.objects.heartbeat(nobody, {}, "")
        Execution.objects.finish(nobody, Status.SUCCEEDED, rows_count=0)
        announce.owe(nobody.pk)
        list(NotificationRule.objects.for_task(ExportTask(pk=0)))
    except DatabaseError as exc:
        logger.warning("the first runs will start more slowly: %s", redact(str(exc)).strip())
    finally:
        connections.close_all()


@dataclass(slots=True)
class Child:
    """A process that was forked here. `run`: (execution, attempt), None while it waits for one."""

    pid: int
    channel: socket.socket
    run: tuple[int, int] | None
    idle_since: float = 0.0  # of time.monotonic()


class ForkServer:
    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._children: dict[int, Child] = {}  # by the number of the process
        self._unread = b""
        self._wake_up, self._ended = socket.socketpair()
        self._ended.setblocking(False)
        self._selector = selectors.DefaultSelector()

    def serve(self) -> None:
        """Return when the scheduler has gone."""
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.set_wakeup_fd(self._ended.fileno(), warn_on_full_buffer=False)
        self._selector.register(self._channel, selectors.EVENT_READ)
        self._selector.register(self._wake_up, selectors.EVENT_READ)
        while True:
            ready = [key for key, _events in self._selector.select(IDLE if self._idle() else None)]
            # First of all what has ended: it may be free for what is asked for.
            for key in ready:
                if isinstance(key.data, Child):
                    self._hear(key.data)
            for key in ready:
                if key.fileobj is self._wake_up:
                    self._wake_up.recv(4096)
                    self._reap()
                elif key.fileobj is self._channel and not self._obey():
                    return
            self._dismiss()

    def _idle(self) -> list[Child]:
        return [child for child in self._children.values() if child.run is None]

    def _obey(self) -> bool:
        """Do what the scheduler asks. False when it has gone."""
        try:
            received = self._channel.recv(1 << 16)
        except ConnectionResetError:
            received = b""
        if not received:
            return False
        *lines, self._unread = (self._unread + received).split(b"\n")
        for line in lines:
            if line == b"stop":
                for pid in self._children:
                    os.kill(pid, signal.SIGTERM)  # not reaped yet, so the number is still its own
            else:
                _word, execution_id, attempt = line.split()
                self._begin((int(execution_id), int(attempt)))
        return True

    def _begin(self, run: tuple[int, int]) -> None:
        for child in self._idle():
            if child.channel.fileno() >= 0 and _say(child.channel, run):
                child.run = run
                return
        self._fork(run)

    def _fork(self, run: tuple[int, int]) -> None:
        try:
            ours, theirs = socket.socketpair()
            with theirs:
                pid = os.fork()
                if pid == 0:
                    ours.close()
                    self._be_a_child(run, theirs)
        except OSError as exc:  # no memory, or too many processes or open files
            logger.error("no process for execution %s: %s", run[0], exc)
            self._tell(run, 1)
            return
        self._children[pid] = child = Child(pid, ours, run)
        self._selector.register(ours, selectors.EVENT_READ, child)

    def _hear(self, child: Child) -> None:
        """A child says that its run is over and that it could take a further one; or that it is about to end."""
        try:
            said = child.channel.recv(1)
        except OSError:
            said = b""
        if not said:
            self._hang_up(child)
        elif child.run is not None:
            self._tell(child.run, 0)
            child.run, child.idle_since = None, time.monotonic()

    def _hang_up(self, child: Child) -> None:
        """A child that waits for a run ends when its channel does."""
        if child.channel.fileno() >= 0:
            self._selector.unregister(child.channel)
            child.channel.close()

    def _dismiss(self) -> None:
        """Let those go that have waited long enough."""
        now = time.monotonic()
        for child in self._idle():
            if now - child.idle_since >= IDLE:
                self._hang_up(child)

    def _reap(self) -> None:
        while self._children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            child = self._children.pop(pid)
            self._hang_up(child)
            if child.run is not None:
                self._tell(child.run, os.waitstatus_to_exitcode(status))

    def _tell(self, run: tuple[int, int], code: int) -> None:
        try:
            self._channel.sendall(f"{run[0]} {run[1]} {code}\n".encode())
        except OSError:
            pass  # The scheduler has gone; the next look at the channel says so.

    def _be_a_child(self, run: tuple[int, int], channel: socket.socket) -> None:
        """The rest of a forked process's life."""
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            self._selector.close()
            # Also those to its siblings: they end when nobody holds the other side any more.
            siblings = [child.channel for child in self._children.values()]
            for inherited in (self._channel, self._wake_up, self._ended, *siblings):
                inherited.close()
            os.setsid()  # A signal to the server's group is none to its exports.
            _offer_to_the_memory_killer()
            small_enough = resident_bytes() + MOST_GROWTH
            runs_left = MOST_RUNS
            while runner.run_claimed(*run):
                runs_left -= 1
                following = _next(channel) if runs_left and resident_bytes() <= small_enough else None
                if following is None:
                    break
                run = following
            code = 0
        except BaseException:
            with logs.during(*run):
                logger.exception("execution %s ended in an unexpected way", run[0])
        finally:
            logging.shutdown()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)


def _say(channel: socket.socket, run: tuple[int, int]) -> bool:
    """Give a run to a child. False when that has ended."""
    try:
        channel.sendall(f"{run[0]} {run[1]}\n".encode())
    except OSError:
        return False
    return True


def _next(channel: socket.socket) -> tuple[int, int] | None:
    """Tell the server that a run is over, and wait for a further one. None when there is none."""
    line = b""
    try:
        channel.sendall(b".")
        while not line.endswith(b"\n"):
            received = channel.recv(64)
            if not received:
                return None
            line += received
    except OSError:
        return None  # The server has gone.
    execution_id, attempt = map(int, line.split())
    return execution_id, attempt


def _offer_to_the_memory_killer() -> None:
    try:
        Path("/proc/self/oom_score_adj").write_text(FIRST_TO_GO)
    except OSError:
        pass
