"""Columns of cells -> rows, as bytes.

A chunk of rows is laid out as one flat list of pieces, row behind row: what all rows share stands in it once per row,
and each column is put into its places by one assignment to a slice with a step. One join then makes the chunk. Filling
a template row by row takes nearly twice as long.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

# Joining takes 80 bytes for each piece while it lasts; so many rows of a dozen columns leave room in the cache.
BLOCK_ROWS = 200

NUMBER = None  # in what stands before a cell: here goes the number of the row
_OWN = b""  # in a layout: here goes what each row has of its own


class Cells(NamedTuple):
    """The cells of one column: opening + value + closing each. What is bytes is the same for all of them; a sequence
    has an item per cell."""

    opening: bytes | list[bytes]
    values: Sequence[bytes]
    closing: bytes | list[bytes]

    def whole(self) -> list[bytes]:
        """Each cell in one piece."""
        openings, closings = (
            item if isinstance(item, list) else [item] * len(self.values) for item in (self.opening, self.closing)
        )
        return [b"".join(cell) for cell in zip(openings, self.values, closings, strict=True)]


class _Layout:
    """The pieces of one row: those that all rows share, and the places of the others."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.numbers: list[int] = []  # where the row's number goes
        self.own: list[int] = []  # where the cells' own pieces go, column by column
        self._shared = b""

    def share(self, piece: bytes) -> None:
        self._shared += piece

    def place(self, places: list[int]) -> None:
        self._end_shared()
        places.append(len(self.pieces))
        self.pieces.append(_OWN)

    def end(self, piece: bytes) -> "_Layout":
        self.share(piece)
        self._end_shared()
        return self

    def _end_shared(self) -> None:
        if self._shared:
            self.pieces.append(self._shared)
            self._shared = b""


_Shape = tuple[bytes | None, ...]


class RowAssembler:
    """`leads` has what stands before each column's cell, in parts; the part NUMBER is the number of the row. `end` is
    what stands behind the last cell."""

    MOST_LAYOUTS = 256

    def __init__(self, leads: Iterable[Iterable[bytes | None]], end: bytes) -> None:
        self._leads = [tuple(lead) for lead in leads]
        self._end = end
        self._layouts: dict[_Shape, _Layout] = {}

    def rows(self, columns: Sequence[Cells], first: int, count: int) -> bytes:
        """`count` rows, numbered from `first` on."""
        pieces = [item for cells in columns for item in cells]
        layout = self._layout(tuple([item if isinstance(item, bytes) else None for item in pieces]))
        own = [item for item in pieces if not isinstance(item, bytes)]
        blocks = range(0, count, BLOCK_ROWS)
        return b"".join([_block(layout, own, first, start, min(start + BLOCK_ROWS, count)) for start in blocks])

    def _layout(self, shape: _Shape) -> _Layout:
        """The layout for columns of this shape: openings, values and closings, None where each cell has its own."""
        layout = self._layouts.get(shape)
        if layout is None:
            if len(self._layouts) >= self.MOST_LAYOUTS:
                self._layouts.clear()
            layout = self._layouts[shape] = self._lay_out(shape)
        return layout

    def _lay_out(self, shape: _Shape) -> _Layout:
        layout = _Layout()
        for index, lead in enumerate(self._leads):
            for part in lead:
                if part is NUMBER:
                    layout.place(layout.numbers)
                else:
                    layout.share(part)
            for part in shape[3 * index : 3 * index + 3]:
                if part is None:
                    layout.place(layout.own)
                else:
                    layout.share(part)
        return layout.end(self._end)


def _block(layout: _Layout, own: Sequence[Sequence[bytes]], first: int, start: int, end: int) -> bytes:
    """The rows from `start` up to `end` of a chunk whose row 0 has the number `first`."""
    step = len(layout.pieces)
    flat = layout.pieces * (end - start)
    if layout.numbers:
        numbers = [b"%d" % number for number in range(first + start, first + end)]
        for place in layout.numbers:
            flat[place::step] = numbers
    for place, item in zip(layout.own, own, strict=True):
        flat[place::step] = item[start:end]
    return b"".join(flat)
