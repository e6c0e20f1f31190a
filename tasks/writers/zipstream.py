"""A zip archive written front to back (APPNOTE.TXT 6.3.9), without ever going back in the file.

Sizes and checksums follow each entry in a data descriptor (4.3.9). No Zip64: Excel offers to repair files that have
it without need, so writers keep every entry and the whole file below 4 GiB.
"""

import struct
import zlib
from types import ModuleType
from typing import Protocol

try:
    from isal import isal_zlib

    deflate: ModuleType = isal_zlib  # the same interface, 3 to 4 times faster
except ImportError:
    deflate = zlib
LEVEL = 1

MAX_ENTRY = 0xFFFFFFFF - 64 * 1024 * 1024  # bytes; some room for the batch that is being written

_STREAMED = 0x0008  # sizes come behind the data
_UTF8 = 0x0800
_VERSION = 20
# A fixed time (1980-01-01): the same input gives the same bytes.
_TIME, _DATE = 0, 0x21


class Sink(Protocol):
    size: int

    def write(self, data: bytes) -> None: ...


class ZipStream:
    """begin(name), write(data)…, end() for each entry; then close()."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._directory: list[bytes] = []
        self._start = sink.size
        self.entry_size = 0  # uncompressed bytes of the entry so far

    def begin(self, name: str) -> None:
        self._name = name.encode()
        self._offset = self._sink.size - self._start
        header = struct.pack(
            "<4sHHHHHIIIHH", b"PK\3\4", _VERSION, _STREAMED | _UTF8, 8, _TIME, _DATE, 0, 0, 0, len(self._name), 0
        )
        self._sink.write(header + self._name)
        self._data_start = self._sink.size
        self._crc = 0
        self.entry_size = 0
        self._compressor = deflate.compressobj(LEVEL, zlib.DEFLATED, -15)

    def write(self, data: bytes) -> None:
        self._crc = deflate.crc32(data, self._crc)
        self.entry_size += len(data)
        compressed = self._compressor.compress(data)
        if compressed:
            self._sink.write(compressed)

    def end(self) -> None:
        self._sink.write(self._compressor.flush())
        compressed_size = self._sink.size - self._data_start
        self._sink.write(struct.pack("<4sIII", b"PK\7\10", self._crc, compressed_size, self.entry_size))
        self._directory.append(
            struct.pack(
                "<4sHHHHHHIIIHHHHHII",
                b"PK\1\2",
                _VERSION,
                _VERSION,
                _STREAMED | _UTF8,
                8,
                _TIME,
                _DATE,
                self._crc,
                compressed_size,
                self.entry_size,
                len(self._name),
                0,
                0,
                0,
                0,
                0,
                self._offset,
            )
            + self._name
        )

    def add(self, name: str, data: bytes) -> None:
        """A whole entry at once."""
        self.begin(name)
        self.write(data)
        self.end()

    def close(self) -> None:
        """Write the central directory. The sink stays open."""
        offset = self._sink.size - self._start
        directory = b"".join(self._directory)
        count = len(self._directory)
        self._sink.write(directory)
        self._sink.write(struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, count, count, len(directory), offset, 0))
