"""The way of finished bytes to the disk: a file that knows its checksum, and a thread that writes behind the maker."""

import hashlib
import os
import queue
import threading
from collections.abc import Callable
from contextvars import copy_context
from pathlib import Path

Data = bytes | memoryview


class HashedFile:
    """A file that is only appended to; knows its size and SHA-256 without being read again."""

    def __init__(self, path: Path) -> None:
        # O_EXCL and O_NOFOLLOW: never into something that is there already, nor through a link.
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
        # The umask takes the group's right away, unless a default ACL of the directory gives it to somebody (nginx).
        self._file = open(os.open(path, flags, 0o640), "wb", buffering=1 << 18)
        self._hash = hashlib.sha256()
        self.path = path
        self.size = 0

    def write(self, data: Data) -> None:
        self._file.write(data)
        self._hash.update(data)
        self.size += len(data)

    def finish(self) -> str:
        """Flush to the disk itself and close. Returns the SHA-256 in hexadecimal digits."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        return self._hash.hexdigest()

    def discard(self) -> None:
        try:
            self._file.close()
        except OSError:
            pass  # A full disk refuses the last buffer; the file goes anyway.
        self.path.unlink(missing_ok=True)


class WriteBehind:
    """Hands bytes to `consume` in pieces, in a thread of its own: compressing, hashing and writing release Python's
    lock, so they cost the maker of the bytes nothing while a second core is free.

    All pieces but the last are of one size, however the bytes come: what a compressor makes of them depends on that.
    Less than one piece needs no thread. Used by one thread.
    """

    # Large enough that waiting for the lock (up to sys.getswitchinterval() each time) does not matter.
    PIECE = 1 << 20  # bytes
    MOST_PENDING = 3 << 20  # bytes; then the maker waits

    def __init__(self, consume: Callable[[Data], None]) -> None:
        self._consume = consume
        self._collected: list[Data] = []
        self._collected_size = 0
        self._queue: queue.SimpleQueue[Data | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._changed = threading.Condition()
        self._handed_over = 0  # bytes that the thread has not finished with
        self._failure: BaseException | None = None

    @property
    def pending(self) -> int:
        """Bytes that have not been consumed yet."""
        return self._collected_size + self._handed_over

    def put(self, data: bytes) -> None:
        """Take `data`. Raises what `consume` raised, now or in an earlier piece."""
        self._collected.append(data)
        self._collected_size += len(data)
        if self._collected_size < self.PIECE:
            return
        collected = memoryview(self._take_collected())  # cut without copying
        whole = len(collected) - len(collected) % self.PIECE
        for start in range(0, whole, self.PIECE):
            self._hand_over(collected[start : start + self.PIECE])
        self._collected, self._collected_size = [collected[whole:]], len(collected) - whole

    def drain(self) -> None:
        """Wait for the pieces that were handed over; what is being collected stays. Raises what `consume` raised."""
        self._wait_until_handed_over_is(0)

    def flush(self) -> None:
        """Have everything consumed that was put so far. Raises what `consume` raised."""
        self.drain()
        data = self._take_collected()
        if data:
            self._consume_noting_failure(data)
            if self._failure is not None:
                raise self._failure

    def close(self) -> None:
        """flush(), and end the thread. Raises what `consume` raised."""
        self.flush()
        self._end()

    def abandon(self) -> None:
        """Forget what was not consumed and end the thread. Raises nothing."""
        self._failure = self._failure or RuntimeError("abandoned")
        self._end()

    def _hand_over(self, piece: Data) -> None:
        if self._thread is None:
            # A daemon: a disk that never answers must not keep the process alive.
            self._thread = threading.Thread(
                target=copy_context().run, args=(self._run,), name="write-behind", daemon=True
            )
            self._thread.start()
        self._wait_until_handed_over_is(self.MOST_PENDING)
        with self._changed:
            self._handed_over += len(piece)
        self._queue.put(piece)

    def _take_collected(self) -> bytes:
        data, self._collected, self._collected_size = b"".join(self._collected), [], 0
        return data

    def _wait_until_handed_over_is(self, most: int) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._handed_over <= most or self._failure is not None)
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        while (data := self._queue.get()) is not None:
            if self._failure is None:
                self._consume_noting_failure(data)
            with self._changed:
                self._handed_over -= len(data)
                self._changed.notify()

    def _consume_noting_failure(self, data: Data) -> None:
        try:
            self._consume(data)
        except BaseException as exc:
            self._failure = exc  # What was lost stays lost: nothing may succeed behind it.

    def _end(self) -> None:
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
            self._thread = None
