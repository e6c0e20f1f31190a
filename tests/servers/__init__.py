"""Private database servers for the tests: own data directory, own port, gone when the tests end.

A server is started when a test first asks for it, and serves the whole session. Each of them runs as an
unprivileged user when the tests run as root: MariaDB and PostgreSQL refuse otherwise.
"""

import atexit
import ctypes
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Self

from datasources.connectors.base import ConnectionParams

START_TIMEOUT = 60  # seconds, for a machine that is busy with other things
_SEARCHED = ("/usr/sbin", "/usr/local/sbin", "/usr/local/bin")
_PR_SET_PDEATHSIG = 1  # prctl(2)


class MissingServer(Exception):
    """The machine lacks a program that the tests need; the text says which, and how to get it."""


@dataclass(frozen=True, slots=True)
class Account:
    username: str
    password: str


@dataclass(frozen=True, slots=True)
class Session:
    """One connection as the server sees it; `sql` is empty while nothing runs."""

    id: int
    user: str
    database: str
    sql: str


def find_binary(*names: str, package: str) -> Path:
    """The first of `names` on PATH, in the sbin directories or in Debian's PostgreSQL directories, newest first."""
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name), reverse=True)
    places = os.pathsep.join([os.environ.get("PATH", ""), *_SEARCHED, *map(str, versions)])
    for name in names:
        if found := shutil.which(name, path=places):
            return Path(found)
    raise MissingServer(
        f"The tests need {names[0]}, which is not on this machine. Install it: apt-get install {package}. "
        "EXPORTER_TESTS_ALLOW_MISSING=1 skips the tests that need it."
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def die_with_parent(ending: int) -> Callable[[], None]:
    """A preexec_fn: the new process gets the signal `ending` when the thread that started it ends, however it does."""
    libc = ctypes.CDLL(None)  # loaded before the fork: nothing may be imported behind it

    def ask() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, ending)

    return ask


@dataclass(frozen=True, slots=True)
class User:
    """Whom a server runs as; None means: as ourselves, who are not root."""

    name: str | None

    @classmethod
    def first_of(cls, *names: str) -> Self:
        if os.geteuid() != 0:
            return cls(None)
        known = {entry.pw_name for entry in pwd.getpwall()}
        return cls(next(name for name in (*names, "nobody") if name in known))

    @property
    def options(self) -> dict[str, Any]:
        """What subprocess needs to become this user."""
        if self.name is None:
            return {}
        return {"user": self.name, "group": pwd.getpwnam(self.name).pw_gid, "extra_groups": []}

    def own(self, path: Path) -> None:
        if self.name is not None:
            entry = pwd.getpwnam(self.name)
            os.chown(path, entry.pw_uid, entry.pw_gid)


@dataclass
class PrivateServer(ABC):
    """A database server of our own. `start()`, use, `stop()`; it also ends with this process, however that dies."""

    kind: ClassVar[str]
    users: ClassVar[tuple[str, ...]]
    # What ends it at once and leaves no children behind.
    death_signal: ClassVar[int] = signal.SIGKILL

    host: str = "127.0.0.1"
    port: int = 0
    admin: Account = field(default_factory=lambda: Account("exporter_admin", "admin-for-tests"))
    reader: Account = field(default_factory=lambda: Account("exporter_reader", "reader-for-tests"))

    def start(self) -> Self:
        """Raises MissingServer when its program is not installed, RuntimeError with its log when it does not start."""
        self.find_programs()
        self.user = User.first_of(*self.users)
        self.directory = Path(tempfile.mkdtemp(prefix=f"exporter-{self.kind}-"))
        self.user.own(self.directory)
        atexit.register(self.stop)
        # Between looking for a free port and using it, somebody else may take it.
        for _attempt in range(3):
            self.port = free_port()
            self._run_server()
            if self._wait_until_ready():
                self.create_accounts()
                return self
        log = self.log_file.read_text(errors="replace")[-2000:]
        self.stop()
        raise RuntimeError(f"{self.kind} did not start:\n{log}")

    @property
    def log_file(self) -> Path:
        return self.directory / "server.log"

    def _run_server(self) -> None:
        if not (self.directory / "data").exists():
            self.create_data_directory(self.directory / "data")
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                [*map(str, self.command(self.directory / "data"))],
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=die_with_parent(self.death_signal),
                umask=0o077,
                **self.user.options,
            )

    def _wait_until_ready(self) -> bool:
        deadline = time.monotonic() + START_TIMEOUT
        while time.monotonic() < deadline and self._process.poll() is None:
            if self.answers():
                return True
            time.sleep(0.05)
        self.kill()
        return False

    def run_as_user(self, *command: object) -> None:
        """Run a program of the server's package to its end. Raises RuntimeError with what it printed."""
        done = subprocess.run(
            [*map(str, command)], cwd=self.directory, capture_output=True, umask=0o077, **self.user.options
        )
        if done.returncode:
            raise RuntimeError(f"{command[0]} failed: {(done.stdout + done.stderr).decode(errors='replace')[-2000:]}")

    @property
    def pid(self) -> int:
        return self._process.pid

    def kill(self) -> None:
        """End the server without a word to its clients, as a power cut would."""
        if self._process.poll() is None:
            self._process.send_signal(self.death_signal)
        self._process.wait(30)

    def stop(self) -> None:
        """End the server and remove its data. May be called twice."""
        atexit.unregister(self.stop)
        if hasattr(self, "_process"):
            self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    def params(self, database: str = "", *, account: Account | None = None, **changes: Any) -> ConnectionParams:
        """How a connector reaches `database`, as the reader unless another account is given."""
        who = account or self.reader
        fields: dict[str, Any] = {
            "host": self.host,
            "port": self.port,
            "database": database,
            "username": who.username,
            "password": who.password,
        }
        return ConnectionParams(**fields | changes)

    def running(self, label: str) -> list[Session]:
        """The sessions that run a query which carries `label`."""
        return [session for session in self.processlist() if f"/* {label} */" in session.sql]

    @abstractmethod
    def find_programs(self) -> None:
        """Look up what is needed. Raises MissingServer."""

    @abstractmethod
    def create_data_directory(self, data: Path) -> None: ...

    @abstractmethod
    def command(self, data: Path) -> Sequence[object]: ...

    @abstractmethod
    def answers(self) -> bool:
        """Whether the administrator can log in."""

    @abstractmethod
    def create_accounts(self) -> None: ...

    @abstractmethod
    def execute(self, sql: str, *values: object, database: str = "") -> list[tuple[Any, ...]]:
        """Run one statement as the administrator, committed at once. Returns its rows, [] when it has none."""

    @abstractmethod
    def new_database(self) -> str:
        """An empty database that the reader may read. Returns its name."""

    @abstractmethod
    def processlist(self) -> list[Session]:
        """The sessions of all clients but this one."""


_started: dict[str, PrivateServer] = {}


@cache
def unused_name() -> Callable[[], str]:
    numbers = iter(range(1, 1_000_000))
    return lambda: f"t_{os.getpid()}_{next(numbers)}"


def shared(kind: str) -> PrivateServer:
    """The session's server of `kind` ("mysql" or "postgresql"), started on first use. Raises MissingServer."""
    if kind not in _started:
        from tests.servers.mariadb import MariaDB
        from tests.servers.postgresql import PostgreSQL

        classes: dict[str, type[PrivateServer]] = {"mysql": MariaDB, "postgresql": PostgreSQL}
        _started[kind] = classes[kind]().start()
    return _started[kind]


def stop_all() -> None:
    while _started:
        _started.popitem()[1].stop()
