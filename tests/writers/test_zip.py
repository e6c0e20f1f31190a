"""The archives we write: whole parts for a browser, streamed, and larger than 4 GiB where they must be."""

import io
import random
import tracemalloc
import zipfile
import zlib
from pathlib import Path
from types import ModuleType

import pytest

from tasks import files
from tasks.writers import zipstream
from tasks.writers.zipstream import ZipStream


class Memory:
    def __init__(self) -> None:
        self.data = bytearray(b"before")  # An archive need not begin where its sink begins.
        self.size = len(self.data)

    def write(self, data: bytes) -> None:
        self.data += data
        self.size += len(data)


def member(path: Path) -> files.Member:
    return files.Member(path.name, path.stat().st_size, lambda: path.open("rb"))


def test_files_come_out_as_they_went_in(tmp_path: Path) -> None:
    contents = {
        "日报.xlsx": random.Random(1).randbytes(3_000_000),
        "日报_part2.csv": b"a,b\r\n" * 500_000,
        "empty.csv": b"",
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    archive = b"".join(files.zip_of([member(tmp_path / name) for name in contents], chunk_size=100_000))
    with zipfile.ZipFile(io.BytesIO(archive)) as opened:
        assert opened.testzip() is None
        assert {name: opened.read(name) for name in opened.namelist()} == contents
        assert all("/" not in name for name in opened.namelist())


def test_no_files_are_an_empty_archive() -> None:
    with zipfile.ZipFile(io.BytesIO(b"".join(files.zip_of([])))) as opened:
        assert opened.namelist() == []


def test_streaming_takes_memory_for_a_few_chunks_only(tmp_path: Path) -> None:
    path = tmp_path / "large.xlsx"
    path.write_bytes(random.Random(1).randbytes(30_000_000))
    tracemalloc.start()
    largest = max(len(chunk) for chunk in files.zip_of([member(path)]))
    _now, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert largest < 4_000_000
    assert peak < 8_000_000


@pytest.mark.parametrize("deflate", [zipstream.deflate, zlib])
def test_both_compressors_write_the_same_content(monkeypatch: pytest.MonkeyPatch, deflate: ModuleType) -> None:
    monkeypatch.setattr(zipstream, "deflate", deflate)
    chance = random.Random(1)
    pieces = [chance.randbytes(chance.randrange(5000)) * chance.randrange(4) for _piece in range(50)]
    memory = Memory()
    archive = ZipStream(memory)
    archive.begin("x")
    for piece in pieces:
        archive.write(piece)
    archive.end()
    archive.close()
    with zipfile.ZipFile(io.BytesIO(memory.data)) as opened:
        assert opened.read("x") == b"".join(pieces)


class Sparse:
    """A sink of any size: keeps what is small, and only counts the rest."""

    def __init__(self) -> None:
        self.size = 0
        self.pieces: dict[int, bytes] = {}

    def write(self, data: bytes) -> None:
        if len(data) < 1000:
            self.pieces[self.size] = data
        self.size += len(data)

    def save(self, path: Path) -> None:
        with path.open("wb") as file:
            for offset, data in self.pieces.items():
                file.seek(offset)
                file.write(data)
            file.truncate(self.size)


class Stored:
    """Compresses nothing and computes no checksum: 5 GiB in a moment."""

    def compressobj(self, *args: int) -> "Stored":
        return self

    def compress(self, data: bytes) -> bytes:
        return data

    def flush(self) -> bytes:
        return b""

    def crc32(self, data: bytes, value: int) -> int:
        return 0


def test_an_archive_beyond_4_gib_has_zip64_where_it_needs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zipstream, "deflate", Stored())
    sink = Sparse()
    archive = ZipStream(sink)
    megabyte = bytes(1 << 20)
    for name, megabytes, large in (("small", 1, False), ("huge", 4200, True), ("behind", 2, False)):
        archive.begin(name, large=large)
        for _number in range(megabytes):
            archive.write(megabyte)
        archive.end()
    archive.close()
    sink.save(tmp_path / "sparse.zip")
    with zipfile.ZipFile(tmp_path / "sparse.zip") as opened:
        sizes = {entry.filename: (entry.file_size >> 20, entry.compress_size >> 20) for entry in opened.infolist()}
        assert sizes == {"small": (1, 1), "huge": (4200, 4200), "behind": (2, 2)}
        offset = opened.getinfo("behind").header_offset
        assert offset > 1 << 32
        assert [entry.create_version for entry in opened.infolist()] == [20, 45, 45]
        with (tmp_path / "sparse.zip").open("rb") as file:
            file.seek(offset)
            assert file.read(4) == b"PK\3\4"


def test_a_large_entry_is_read_by_others(tmp_path: Path) -> None:
    memory = Memory()
    archive = ZipStream(memory)
    archive.begin("large", large=True)
    archive.write(b"content" * 1000)
    archive.end()
    archive.add("small", b"x")
    archive.close()
    with zipfile.ZipFile(io.BytesIO(memory.data)) as opened:
        assert opened.testzip() is None
        assert (opened.read("large"), opened.read("small")) == (b"content" * 1000, b"x")
