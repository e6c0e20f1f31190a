"""Writing behind: every byte arrives, in order, in the same pieces; no error is lost; memory and threads have an end."""

import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from datasources.connectors.base import Batch, Cell, ColumnType
from tasks.writers.outfile import Data, WriteBehind
from tasks.writers.zipstream import ZipStream
from tests.writers.sheets import columns_of, make_writer

PIECE, MOST = WriteBehind.PIECE, WriteBehind.MOST_PENDING
# Sizes that meet the end of a piece exactly, miss it by a byte, and pass it by much.
SIZES = [1, 700_000, PIECE - 700_001, PIECE, 0, PIECE - 1, 1, 3, 5 * PIECE // 2, *[300_000] * 20, 17]


@pytest.fixture(autouse=True)
def _no_thread_stays() -> Iterator[None]:
    yield
    assert threads() == []


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "write-behind"]


def chunks(sizes: list[int], seed: int = 1) -> list[bytes]:
    chance = random.Random(seed)
    return [chance.randbytes(size) for size in sizes]


class Disk:
    """What was consumed, piece by piece; `hold` keeps the consumer waiting, `fails_at` is the one piece that it refuses."""

    def __init__(self, *, seconds: float = 0, fails_at: int = -1) -> None:
        self.pieces: list[bytes] = []
        self.finished = 0  # bytes
        self.hold = threading.Event()
        self.hold.set()
        self.arrived = threading.Event()
        self._seconds = seconds
        self._fails_at = fails_at
        self._calls = 0

    def consume(self, data: Data) -> None:
        self.arrived.set()
        assert self.hold.wait(60)
        time.sleep(self._seconds)
        self._calls += 1
        if self._calls == self._fails_at + 1:
            raise OSError(28, "No space left on device")
        self.pieces.append(bytes(data))
        self.finished += len(data)

    @property
    def content(self) -> bytes:
        return b"".join(self.pieces)


def broken(pieces: int = 1) -> tuple[Disk, WriteBehind]:
    """A disk that has refused its first piece in the thread; nobody knows yet."""
    disk = Disk(fails_at=0)
    behind = WriteBehind(disk.consume)
    for data in chunks([PIECE] * pieces):
        behind.put(data)
    for thread in threads():
        while behind.pending and thread.is_alive():
            time.sleep(0.001)
    return disk, behind


def put_all(disk: Disk, sizes: list[int], pause: float = 0) -> None:
    behind = WriteBehind(disk.consume)
    for data in chunks(sizes):
        behind.put(data)
        time.sleep(pause)
    behind.close()


def test_everything_arrives_in_order_and_whole() -> None:
    disk = Disk()
    put_all(disk, SIZES)
    assert disk.content == b"".join(chunks(SIZES))


def test_flushes_in_between_lose_and_double_nothing() -> None:
    disk = Disk()
    behind = WriteBehind(disk.consume)
    done = b""
    for number, data in enumerate(chunks(SIZES)):
        behind.put(data)
        done += data
        if number % 3 == 0:
            behind.flush()
            assert disk.content == done
            assert behind.pending == 0
        elif number % 3 == 1:
            behind.drain()
            assert disk.content == done[: len(disk.content)]
            assert behind.pending == len(done) - len(disk.content) < PIECE
    behind.close()
    assert disk.content == done


def test_pieces_depend_on_the_bytes_and_never_on_time() -> None:
    disks = [Disk(), Disk(seconds=0.005), Disk()]
    for disk, pause in zip(disks, (0, 0, 0.002), strict=True):
        put_all(disk, SIZES, pause)
    fast, slow_disk, slow_maker = ([len(piece) for piece in disk.pieces] for disk in disks)
    assert fast == slow_disk == slow_maker
    assert min(fast[:-1]) >= PIECE


def test_less_than_a_piece_never_starts_a_thread() -> None:
    callers: list[threading.Thread] = []
    behind = WriteBehind(lambda data: callers.append(threading.current_thread()))
    for _number in range(3):
        behind.put(b"x" * (PIECE - 1))
        behind.drain()
        assert threads() == []
        behind.flush()
    behind.close()
    assert callers == [threading.current_thread()] * 3


def test_nothing_at_all_is_not_consumed() -> None:
    disk = Disk()
    behind = WriteBehind(disk.consume)
    behind.put(b"")
    behind.flush()
    behind.close()
    assert disk.pieces == []


def test_one_thread_serves_all_pieces_and_ends_with_close() -> None:
    disk = Disk()
    behind = WriteBehind(disk.consume)
    seen = set()
    for data in chunks([PIECE] * 8):
        behind.put(data)
        seen.update(threads())
    assert len(seen) == 1
    assert all(thread.daemon for thread in seen)
    behind.close()
    assert threads() == []


def test_what_is_pending_is_never_underestimated() -> None:
    disk = Disk(seconds=0.001)
    behind = WriteBehind(disk.consume)
    put = 0
    for data in chunks(SIZES * 2):
        behind.put(data)
        put += len(data)
        for _look in range(20):
            pending = behind.pending  # first this: what is consumed after it only lowers the other side
            assert pending >= put - disk.finished
    behind.close()
    assert behind.pending == 0
    assert disk.finished == put


def test_memory_in_flight_has_a_limit_however_slow_the_disk_is() -> None:
    disk = Disk()
    disk.hold.clear()
    behind = WriteBehind(disk.consume)
    step = 100_000
    put = [0]
    returned = threading.Event()
    most_pending = [0]

    def make() -> None:
        for _number in range(200):
            put[0] += step
            behind.put(bytes(step))
            most_pending[0] = max(most_pending[0], behind.pending)
        behind.close()
        returned.set()

    maker = threading.Thread(target=make)
    maker.start()
    limit = MOST + 2 * (PIECE + step)  # handed over, and the piece in the hands of the maker
    still, last = 0, -1
    while still < 20:  # until the maker has come to a halt
        still, last = (still + 1, last) if put[0] == last else (0, put[0])
        time.sleep(0.005)
    assert MOST < put[0] <= limit
    assert not returned.is_set()
    disk.hold.set()
    maker.join(60)
    assert returned.is_set()
    assert disk.finished == put[0] == 200 * step
    assert most_pending[0] <= MOST + 2 * (PIECE + step)


@pytest.mark.parametrize("call", ["put", "drain", "flush", "close"])
def test_an_error_in_the_thread_is_raised_by_the_next_call_and_by_all_behind_it(call: str) -> None:
    disk, behind = broken()
    calls: dict[str, Callable[[], None]] = {
        "put": lambda: behind.put(bytes(PIECE)),
        "drain": behind.drain,
        "flush": behind.flush,
        "close": behind.close,
    }
    for name in (call, call, "put", "drain", "flush", "close"):
        with pytest.raises(OSError, match="No space left"):
            calls[name]()
    behind.abandon()
    assert disk.pieces == []


def test_behind_a_piece_that_was_refused_nothing_is_written() -> None:
    disk = Disk(fails_at=1)
    behind = WriteBehind(disk.consume)
    data = chunks([PIECE] * 3)
    disk.hold.clear()
    for piece in data:  # all three are on their way before the second one fails
        behind.put(piece)
    disk.hold.set()
    with pytest.raises(OSError, match="No space left"):
        behind.close()
    behind.abandon()
    assert disk.pieces == data[:1]


def test_a_maker_that_waits_for_a_broken_disk_wakes_up() -> None:
    disk = Disk(fails_at=0)
    disk.hold.clear()
    behind = WriteBehind(disk.consume)

    def fail_when_the_maker_waits() -> None:
        while behind.pending <= MOST:
            time.sleep(0.001)
        disk.hold.set()

    failing = threading.Thread(target=fail_when_the_maker_waits)
    failing.start()

    def fill() -> None:
        for data in chunks([PIECE] * 20):
            behind.put(data)

    with pytest.raises(OSError, match="No space left"):
        fill()
    failing.join(60)
    behind.abandon()


@pytest.mark.parametrize("call", ["flush", "close"])
def test_an_error_of_a_result_without_a_thread_is_raised_too(call: str) -> None:
    behind = WriteBehind(Disk(fails_at=0).consume)
    behind.put(b"short")
    with pytest.raises(OSError, match="No space left"):
        getattr(behind, call)()


def test_once_something_was_lost_closing_never_succeeds() -> None:
    disk = Disk(fails_at=0)
    behind = WriteBehind(disk.consume)
    behind.put(b"lost")
    with pytest.raises(OSError, match="No space left"):
        behind.flush()
    behind.put(b"and more")
    try:
        with pytest.raises(OSError, match="No space left"):
            behind.close()
    finally:
        behind.abandon()
    assert disk.pieces == []


def test_abandoning_ends_the_thread_and_writes_nothing_more() -> None:
    disk = Disk()
    disk.hold.clear()
    behind = WriteBehind(disk.consume)
    first, *rest = chunks([PIECE, PIECE, PIECE, 10])
    for data in (first, *rest):
        behind.put(data)
    assert disk.arrived.wait(60)
    ending = threading.Thread(target=behind.abandon)
    ending.start()
    while behind._failure is None:
        time.sleep(0.001)
    disk.hold.set()
    ending.join(60)
    assert threads() == []
    assert disk.pieces == [first]  # it was being written at that moment
    with pytest.raises(RuntimeError, match="abandoned"):
        behind.flush()


def test_abandoning_raises_nothing_at_any_time() -> None:
    WriteBehind(Disk().consume).abandon()
    behind = WriteBehind(Disk().consume)
    behind.put(b"short")
    behind.abandon()
    behind.abandon()
    _disk, behind = broken()
    behind.abandon()
    closed = WriteBehind(Disk().consume)
    closed.put(bytes(2 * PIECE))
    closed.close()
    closed.abandon()


def dirty_rows(count: int, seed: int) -> Batch:
    chance = random.Random(seed)
    texts: list[Cell] = [
        chance.choice([b"=1+1", None, b"", b"\x01", "订单".encode(), b"x"]) or chance.randbytes(60).hex().encode()
        for _row in range(count)
    ]
    return Batch([[b"%d" % row for row in range(count)], texts], count)


@pytest.mark.parametrize("kind", ["xlsx", "csv"])
def test_the_same_rows_give_the_same_file_however_slow_the_disk_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    def export(name: str, pause: float = 0) -> str:
        writer = make_writer(tmp_path / name, columns_of(ColumnType.INTEGER, ColumnType.TEXT), kind)
        for number in range(60):
            writer.write(dirty_rows(1_000, number))
            time.sleep(pause)
        (part,) = writer.finish()
        assert part.size > PIECE / 4
        return part.sha256

    fast, slow_maker = export("fast"), export("slow maker", 0.003)
    begin = WriteBehind.__init__

    def slow(self: WriteBehind, consume: Callable[[Data], None]) -> None:
        def later(data: Data) -> None:
            time.sleep(0.05)
            consume(data)

        begin(self, later)

    monkeypatch.setattr(WriteBehind, "__init__", slow)
    assert export("slow disk") == fast == slow_maker


def test_the_compressor_gets_the_same_pieces_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = ZipStream.write
    seen: list[list[int]] = []

    def noted(self: ZipStream, data: bytes) -> None:
        seen[-1].append(len(data))
        time.sleep(0.02 * (len(seen) - 1))
        real(self, data)

    monkeypatch.setattr(ZipStream, "write", noted)
    for name in ("first", "second"):
        seen.append([])
        writer = make_writer(tmp_path / name, columns_of(ColumnType.INTEGER, ColumnType.TEXT))
        for number in range(40):
            writer.write(dirty_rows(1_000, number))
        writer.finish()
    assert seen[0] == seen[1]
    assert max(seen[0]) >= PIECE
