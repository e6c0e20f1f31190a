"""A TCP proxy between a client and a server that cuts the line where a test says so, or makes it slow."""

import contextlib
import selectors
import socket
import struct
import threading
from types import TracebackType
from typing import Self

_RESET = struct.pack("ii", 1, 0)  # SO_LINGER with 0 seconds: close() sends RST instead of FIN


class Proxy:
    """Listens on a free port and passes everything on to host:port.

    After `cut_after` bytes from the server it ends every connection: "fin" politely, "rst" with a reset, "silent" by
    passing nothing more. Until then `cut_after` may still be changed; None cuts nothing. `pause`: seconds that each piece
    from a client takes.
    """

    def __init__(
        self, host: str, port: int, *, cut_after: int | None = None, how: str = "fin", pause: float = 0.0
    ) -> None:
        self.cut_after = cut_after
        self.how = how
        self.pause = pause
        self.passed = 0  # bytes from the server to its clients
        self._target = (host, port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(5)
        self._listener.close()

    def _accept(self) -> None:
        self._listener.settimeout(0.05)
        while not self._stop.is_set():
            try:
                client, _address = self._listener.accept()
            except TimeoutError:
                continue
            thread = threading.Thread(target=self._serve, args=(client,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.create_connection(self._target) as server, selectors.DefaultSelector() as selector:
            selector.register(client, selectors.EVENT_READ, server)
            selector.register(server, selectors.EVENT_READ, client)
            with contextlib.suppress(OSError):
                while not self._stop.is_set() and self._pass_on(selector, client):
                    pass
            if self.how == "rst":
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            if self.how == "silent":
                self._stop.wait()

    def _pass_on(self, selector: selectors.BaseSelector, client: socket.socket) -> bool:
        """Pass on what has come. False when the line is to be cut, or was by one of the two."""
        for key, _events in selector.select(timeout=0.05):
            source, target = key.fileobj, key.data
            assert isinstance(source, socket.socket)
            data = source.recv(16384)
            if target is not client and self.pause:
                self._stop.wait(self.pause)
            if target is client and self.cut_after is not None:
                rest = max(0, self.cut_after - self.passed)
                self.passed += min(rest, len(data))
                target.sendall(data[:rest])
                if len(data) >= rest:
                    return False
            else:
                # Counted first: who has received the bytes must find them counted.
                self.passed += len(data) if target is client else 0
                target.sendall(data)
            if not data:
                return False
        return True
