"""Hosts on one machine: each with a network, a host name and process numbers of its own; all with the same files.

    host-a                     hub                     host-b
    system  --------  [bridge 10.77.1.1/24]  --------  system      the system database
    outside --------  [bridge 10.77.2.1/24]  --------  outside     sources, robots

All of it lies in network namespaces: no interface of the machine is touched, nothing here can be reached from outside, and
when the process that made it ends, everything is gone.
"""

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from exporter_site.config import BASE_DIR
from tests import servers
from tests.instance import Instance
from tests.servers import PrivateServer
from tests.servers.mariadb import MariaDB
from tests.servers.postgresql import PostgreSQL

NETWORKS = {"system": "10.77.1", "outside": "10.77.2"}  # a line of each host -> the network behind it
SYSTEM, OUTSIDE = (f"{network}.1" for network in NETWORKS.values())  # the addresses of the hub
_CLONE_NEWNET = 0x40000000  # sched.h


class NoNamespaces(Exception):
    """This machine lets us make no network namespaces; the text says why."""


@cache
def program(name: str, package: str) -> str:
    return str(servers.find_binary(name, package=package))


def _ip(*words: str) -> None:
    done = subprocess.run([program("ip", "iproute2"), *words], capture_output=True, text=True)
    if done.returncode:
        raise NoNamespaces(f"ip {' '.join(words)}: {done.stderr.strip()}")


class _Holder:
    """A process that does nothing but keep new namespaces alive; with it they go, and all that runs in them."""

    def __init__(self, *kinds: str, first: str = "true") -> None:
        script = f"{first} && echo ready && exec sleep infinity"
        self._process = subprocess.Popen(
            [program("unshare", "util-linux"), *kinds, "sh", "-c", script],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            preexec_fn=servers.die_with_parent(signal.SIGKILL),
        )
        assert self._process.stdout is not None
        words = self._process.stdout.readline().strip()
        if words != "ready":
            self.close()
            raise NoNamespaces(words or "unshare failed")
        self.pid = self._process.pid
        if "--fork" in kinds:
            self.pid = int(Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text())

    def close(self) -> None:
        self._process.kill()
        self._process.wait(10)
        assert self._process.stdout is not None
        self._process.stdout.close()


class Hub:
    """The network in the middle: `with Hub(2) as hub:`. The thread that enters it is in it, and so is whatever it starts.

    Raises NoNamespaces, or MissingServer when a program is not installed.
    """

    def __init__(self, hosts: int) -> None:
        self._count = hosts
        self.hosts: list[Host] = []
        self._exit = ExitStack()

    def __enter__(self) -> Self:
        if os.geteuid() != 0:
            raise NoNamespaces("network namespaces can be made by root only")
        with self._exit:
            self._enter()
            for number in range(self._count):
                self.hosts.append(Host(f"host-{'abcdefgh'[number]}", 10 + number))
                self._exit.callback(self.hosts[-1].close)
            self._exit = self._exit.pop_all()
        return self

    def _enter(self) -> None:
        before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        self._exit.callback(os.close, before)
        holder = _Holder("--net")
        self._exit.callback(holder.close)
        self._exit.callback(_set_network, before)
        inside = os.open(f"/proc/{holder.pid}/ns/net", os.O_RDONLY)
        _set_network(inside)
        os.close(inside)
        _ip("link", "set", "lo", "up")
        for line, network in NETWORKS.items():
            _ip("link", "add", line, "type", "bridge")
            _ip("addr", "add", f"{network}.1/24", "dev", line)
            _ip("link", "set", line, "up")

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._exit.close()


def _set_network(descriptor: int) -> None:
    """Move this thread into the network namespace that `descriptor` stands for."""
    libc = ctypes.CDLL(None, use_errno=True)  # os.setns() came with Python 3.12
    if libc.setns(descriptor, _CLONE_NEWNET):
        raise NoNamespaces(f"setns: {os.strerror(ctypes.get_errno())}")


class Host:
    """One host, with a line to each network of the hub. It shares the machine's files: one path means the same on all."""

    def __init__(self, name: str, number: int) -> None:
        self.name = name
        kinds = ("--net", "--uts", "--ipc", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
        self._holder = _Holder(*kinds, first=f"hostname {name}")
        self._identity = Path(f"/proc/{self._holder.pid}/ns/uts").readlink()
        try:
            self._ip("link", "set", "lo", "up")
            for line, network in NETWORKS.items():
                far_end = ("peer", "name", line, "netns", str(self._holder.pid))
                _ip("link", "add", self._port(line), "type", "veth", *far_end)
                _ip("link", "set", self._port(line), "master", line, "up")
                self._ip("addr", "add", f"{network}.{number}/24", "dev", line)
                self._ip("link", "set", line, "up")
        except BaseException:
            self.close()
            raise

    def _port(self, line: str) -> str:
        """The interface of the hub that this line ends in."""
        return f"{self.name}-{line}"

    def command(self, *words: object) -> list[str]:
        """What runs a program on this host."""
        places = ("--net", "--uts", "--ipc", "--mount", "--pid")
        enter = (program("nsenter", "util-linux"), "--target", str(self._holder.pid), *places)
        return [*enter, "--", *map(str, words)]

    def _ip(self, *words: str) -> None:
        subprocess.run(self.command(program("ip", "iproute2"), *words), check=True, capture_output=True)

    def cut(self, *lines: str, at_the_far_end: bool = False) -> None:
        """Cut `lines`: whatever is sent is lost, and nobody is told. The host's own end of a pulled cable sees that it is
        gone; one that is cut `at_the_far_end`, behind the next switch, does not even see that."""
        for line in lines:
            _ip("link", "set", self._port(line), *(["nomaster"] if at_the_far_end else ["down"]))

    def mend(self, *lines: str) -> None:
        for line in lines:
            _ip("link", "set", self._port(line), "master", line, "up")

    def spawn(self, instance: Instance, *args: object, **options: Any) -> subprocess.Popen[str]:
        """Start `manage.py *args` on this host, with a log of its own. It ends with the host, or the installation."""
        work = instance.home / self.name
        work.mkdir(exist_ok=True)
        process = subprocess.Popen(
            self.command(sys.executable, BASE_DIR / "manage.py", *args),
            env=instance.environment | {"EXPORTER_LOGGING__FILE": str(self.log_file(instance))},
            text=True,
            start_new_session=True,
            preexec_fn=servers.die_with_parent(signal.SIGKILL),
            **{"stdin": subprocess.DEVNULL, **options},
        )
        instance._spawned.append(process)
        return process

    def log_file(self, instance: Instance) -> Path:
        return instance.home / self.name / "app.log"

    def of(self, pids: Iterable[int]) -> dict[int, int]:
        """Those of the machine's processes that run on this host, with the numbers that they have there."""
        found = {}
        for pid in pids:
            try:
                if Path(f"/proc/{pid}/ns/uts").readlink() == self._identity:
                    status = Path(f"/proc/{pid}/status").read_text()
                    found[pid] = int(status.partition("NSpid:")[2].split("\n")[0].split()[-1])
            except (OSError, IndexError):
                pass  # it ended in this moment
        return found

    def close(self) -> None:
        self._holder.close()


class HubPostgreSQL(PostgreSQL):
    """Listens on all addresses of the hub, and lets its hosts in."""

    def create_data_directory(self, data: Path) -> None:
        super().create_data_directory(data)
        with (data / "pg_hba.conf").open("a") as access:
            access.writelines(f"host all all {network}.0/24 scram-sha-256\n" for network in NETWORKS.values())

    def command(self, data: Path) -> Sequence[object]:
        return [*super().command(data), "-c", "listen_addresses=*"]


class HubMariaDB(MariaDB):
    """Listens on all addresses of the hub."""

    def command(self, data: Path) -> Sequence[object]:
        return [*super().command(data), "--bind-address=0.0.0.0"]


SERVERS: dict[str, type[PrivateServer]] = {"postgresql": HubPostgreSQL, "mysql": HubMariaDB}
