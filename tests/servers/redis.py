"""A private Redis: nothing is stored, and it ends with the tests."""

import atexit
import shutil
import signal
import socket
import subprocess
import tempfile
import time

from tests.servers import START_TIMEOUT, User, die_with_parent, find_binary, free_port


class Redis:
    """`url` is that of its first database. `stop()` and `start()` again keep the port."""

    def __init__(self) -> None:
        self._program = find_binary("redis-server", package="redis-server")
        self._directory = tempfile.mkdtemp(prefix="exporter-redis-")
        atexit.register(shutil.rmtree, self._directory, ignore_errors=True)
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> "Redis":
        """Raises RuntimeError when it does not answer."""
        user = User.first_of("redis")
        command = [self._program, "--port", self.port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        self._process = subprocess.Popen(
            [*map(str, command)],
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            preexec_fn=die_with_parent(signal.SIGKILL),
            **user.options,
        )
        end = time.monotonic() + START_TIMEOUT
        while time.monotonic() < end:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
            except OSError:
                time.sleep(0.05)
            else:
                return self
        raise RuntimeError("redis-server does not answer")

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
