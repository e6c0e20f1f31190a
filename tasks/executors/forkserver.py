"""The process that forks exports: everything is imported once, and never touched.

It speaks with its scheduler (local.py) over one socket, in lines:

    <- run EXECUTION ATTEMPT
    <- stop                      SIGTERM for all that run
    -> EXECUTION ATTEMPT CODE    it ended; CODE is the exit code, negative for a signal

While it serves it holds no connection to any database: a connection can't be shared with forked processes. When the
scheduler is gone, so is the server; exports go on by themselves.
"""

import gc
import logging
import os
import selectors
import signal
import socket
import sys
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
from tasks.writers import writers

logger = logging.getLogger(__name__)

FIRST_TO_GO = "500"  # when memory runs out, the system ends an export before it ends what starts exports


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


class ForkServer:
    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._children: dict[int, tuple[int, int]] = {}  # process -> (execution, attempt)
        self._unread = b""
        self._wake_up, self._ended = socket.socketpair()
        self._ended.setblocking(False)

    def serve(self) -> None:
        """Return when the scheduler has gone."""
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.set_wakeup_fd(self._ended.fileno(), warn_on_full_buffer=False)
        with selectors.DefaultSelector() as selector:
            selector.register(self._channel, selectors.EVENT_READ)
            selector.register(self._wake_up, selectors.EVENT_READ)
            while True:
                for key, _events in selector.select():
                    if key.fileobj is self._wake_up:
                        self._wake_up.recv(4096)
                        self._reap()
                    elif not self._obey():
                        return

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
                self._fork(int(execution_id), int(attempt))
        return True

    def _fork(self, execution_id: int, attempt: int) -> None:
        try:
            pid = os.fork()
        except OSError as exc:  # no memory, or too many processes
            logger.error("no process for execution %s: %s", execution_id, exc)
            self._tell(execution_id, attempt, 1)
            return
        if pid == 0:
            self._be_a_run(execution_id, attempt)
        self._children[pid] = (execution_id, attempt)

    def _reap(self) -> None:
        while self._children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            execution_id, attempt = self._children.pop(pid)
            self._tell(execution_id, attempt, os.waitstatus_to_exitcode(status))

    def _tell(self, execution_id: int, attempt: int, code: int) -> None:
        try:
            self._channel.sendall(f"{execution_id} {attempt} {code}\n".encode())
        except OSError:
            pass  # The scheduler has gone; the next look at the channel says so.

    def _be_a_run(self, execution_id: int, attempt: int) -> None:
        """The rest of a forked process's life."""
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for inherited in (self._channel, self._wake_up, self._ended):
                inherited.close()
            os.setsid()  # A signal to the server's group is none to its exports.
            _offer_to_the_memory_killer()
            runner.run_claimed(execution_id, attempt)
            code = 0
        except BaseException:
            with logs.during(execution_id, attempt):
                logger.exception("execution %s ended in an unexpected way", execution_id)
        finally:
            logging.shutdown()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)


def _offer_to_the_memory_killer() -> None:
    try:
        Path("/proc/self/oom_score_adj").write_text(FIRST_TO_GO)
    except OSError:
        pass
