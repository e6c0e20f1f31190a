"""A zip archive written front to back (APPNOTE.TXT 6.3.9), without ever going back in the file.

Sizes and checksums follow each entry in a data descriptor (4.3.9). Zip64 only where nothing else will do: Excel offers
to repair files that have it without need, so writers keep every entry and the whole file below 4 GiB.
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
_VERSION, _VERSION_ZIP64 = 20, 45
_ZIP64 = 0x0001  # the extra field's id
_FULL = 0xFFFFFFFF  # in a field of 4 bytes: look into the extra field
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

    def begin(self, name: str, *, large: bool = False) -> None:
        """`large` entries may pass 4 GiB: they have Zip64 sizes (4.5.3)."""
        self._name = name.encode()
        self._large = large
        self._offset = self._sink.size - self._start
        extra = struct.pack("<HHQQ", _ZIP64, 16, 0, 0) if large else b""
        size = _FULL if large else 0
        header = struct.pack(
            "<4sHHHHHIIIHH",
            b"PK\3\4",
            _VERSION_ZIP64 if large else _VERSION,
            _STREAMED | _UTF8,
            8,
            _TIME,
            _DATE,
            0,
            size,
            size,
            len(self._name),
            len(extra),
        )
        self._sink.write(header + self._name + extra)
        self._data_start = self._sink.size
        self._crc = 0
        self.entry_size = 0
        self._compressor = deflate.compressobj(LEVEL, zlib.DEFLATED, -15)

    def write(self, data: bytes | memoryview) -> None:
        self._crc = deflate.crc32(data, self._crc)
        self.entry_size += len(data)
        compressed = self._compressor.compress(data)
        if compressed:
            self._sink.write(compressed)

    def end(self) -> None:
        self._sink.write(self._compressor.flush())
        compressed_size = self._sink.size - self._data_start
        self._sink.write(
            struct.pack("<4sIQQ" if self._large else "<4sIII", b"PK\7\10", self._crc, compressed_size, self.entry_size)
        )
        # Only the figures that do not fit stand in the extra field, in this order.
        figures = (self.entry_size, compressed_size, self._offset)
        big = [figure for figure in figures if figure >= _FULL]
        extra = struct.pack(f"<HH{len(big)}Q", _ZIP64, 8 * len(big), *big) if big else b""
        size, compressed_size, offset = (min(figure, _FULL) for figure in figures)
        version = _VERSION_ZIP64 if extra or self._large else _VERSION
        self._directory.append(
            struct.pack(
                "<4sHHHHHHIIIHHHHHII",
                b"PK\1\2",
                version,
                version,
                _STREAMED | _UTF8,
                8,
                _TIME,
                _DATE,
                self._crc,
                compressed_size,
                size,
                len(self._name),
                len(extra),
                0,
                0,
                0,
                0,
                offset,
            )
            + self._name
            + extra
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
        if offset >= _FULL:
            end = struct.pack(
                "<4sQHHIIQQQQ",
                b"PK\6\6",
                44,
                _VERSION_ZIP64,
                _VERSION_ZIP64,
                0,
                0,
                count,
                count,
                len(directory),
                offset,
            )
            self._sink.write(end + struct.pack("<4sIQI", b"PK\6\7", 0, offset + len(directory), 1))
        self._sink.write(
            struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, count, count, len(directory), min(offset, _FULL), 0)
        )
