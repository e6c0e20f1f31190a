"""Each run alone in a process of this machine, forked from a server process that has everything imported (forkserver.py).

Only a process can be stopped at its deadline, be capped in memory and crash alone. A fresh interpreter costs half a
second of processor time, a fork a fiftieth of that. The runs outlive the scheduler, and the server process: whoever
schedules next sees in the database that they live.
"""

import logging
import select
import socket
import subprocess
import sys
import time

from exporter_site.config import BASE_DIR
from tasks.executors.base import Ended, Executor
from tasks.models import Execution

logger = logging.getLogger(__name__)


class LocalExecutor(Executor):
    kind = "local"

    def __init__(self) -> None:
        super().__init__()
        self._server: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None
        self._unread = b""
        self._started: set[tuple[int, int]] = set()  # (execution, attempt)
        self._left_alone: list[tuple[int, int]] = []  # by a server that is gone and can't tell any more

    @property
    def running(self) -> int:
        return len(self._started) + len(self._left_alone)

    def holds(self, execution_id: int, attempt: int) -> bool:
        return (execution_id, attempt) in self._started

    def wait(self, seconds: float) -> None:
        if self._channel is None:
            time.sleep(seconds)
        else:
            select.select([self._channel], [], [], seconds)

    def start(self, execution: Execution) -> bool:
        channel = self._connected()
        if not self.claim(execution):
            return False
        self._started.add((execution.pk, execution.attempt))
        self._send(channel, f"run {execution.pk} {execution.attempt}\n")
        return True

    def collect(self) -> list[Ended]:
        ended = []
        for line in self._lines():
            execution_id, attempt, code = map(int, line.split())
            self._started.discard((execution_id, attempt))
            ended.append(Ended(execution_id, attempt, code))
        ended += [Ended(*run, code=None) for run in self._left_alone]
        self._left_alone.clear()
        return ended

    def stop(self) -> None:
        if self._channel is not None:
            self._send(self._channel, "stop\n")

    def close(self) -> None:
        if self._channel is not None:
            self._channel.close()  # The server ends when its channel does.
            self._channel = None
        if self._server is not None:
            self._server.wait()
            self._server = None

    def _connected(self) -> socket.socket:
        if self._channel is None:
            self.close()
            ours, theirs = socket.socketpair()
            with theirs:
                number = theirs.fileno()
                # Its own session: a Ctrl-C for the scheduler is none for the exports.
                self._server = subprocess.Popen(
                    [sys.executable, str(BASE_DIR / "manage.py"), "forkserver", str(number)],
                    pass_fds=[number],
                    stdin=subprocess.DEVNULL,
                    start_new_session=True,
                )
            self._channel, self._unread = ours, b""
        return self._channel

    def _send(self, channel: socket.socket, line: str) -> None:
        try:
            channel.sendall(line.encode())
        except OSError:
            self._lose_server()

    def _lines(self) -> list[bytes]:
        """The whole lines that the server has sent."""
        while self._channel is not None:
            try:
                received = self._channel.recv(1 << 16, socket.MSG_DONTWAIT)
            except BlockingIOError:
                break
            except OSError:
                received = b""
            if not received:
                self._lose_server()
            self._unread += received
        *lines, self._unread = self._unread.split(b"\n")
        return lines

    def _lose_server(self) -> None:
        logger.error("the process that starts exports is gone; a new one takes its place")
        # Now, not when somebody looks: by then a new server may have taken its place.
        self._left_alone += self._started
        self._started.clear()
        if self._channel is not None:
            self._channel.close()
            self._channel = None
