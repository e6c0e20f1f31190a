"""A table with a column of every type of an engine, and what its cells must be when they leave the connector."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasources.connectors.base import Cell, Column, ColumnType, Connector, Query
from tasks.writers import writers
from tasks.writers.base import Writer, WriterOptions


@dataclass(frozen=True, slots=True)
class Kind:
    """One column: its declaration, what it must arrive as, and pairs of SQL literal and expected cell."""

    name: str
    declaration: str
    type: ColumnType
    scale: int | None
    values: Sequence[tuple[str, str | bytes]]

    def literal(self, row: int) -> str:
        return self.values[row % len(self.values)][0]

    def cell(self, row: int) -> Cell:
        cell = self.values[row % len(self.values)][1]
        return cell.encode() if isinstance(cell, str) else cell


def statements(kinds: Sequence[Kind], quote: str, prefix: str = "") -> list[str]:
    """CREATE and INSERTs for the table `every_type`: as many rows as the longest column has values, then one of NULLs."""
    columns = ", ".join(f"{quote}{kind.name}{quote} {kind.declaration}" for kind in kinds)
    rows = [", ".join(kind.literal(row) for kind in kinds) for row in range(row_count(kinds))]
    rows.append(", ".join("NULL" for _kind in kinds))
    return [
        f"CREATE TABLE every_type (row_number_ INT, {columns})",
        *(f"{prefix}INSERT INTO every_type VALUES ({number}, {row})" for number, row in enumerate(rows)),
    ]


def row_count(kinds: Sequence[Kind]) -> int:
    return max(len(kind.values) for kind in kinds)


def read_all(connector: Connector) -> tuple[tuple[Column, ...], list[list[Cell]]]:
    """The table without its first column."""
    with connector:
        result = connector.stream(Query(("SELECT * FROM every_type ORDER BY row_number_",)), 1000)
        cells: list[list[Cell]] = [[] for _column in result.columns]
        for batch in result.batches:
            for column, more in zip(cells, batch.columns, strict=True):
                column += more
        return result.columns[1:], cells[1:]


def differences(kinds: Sequence[Kind], columns: Sequence[Column], cells: Sequence[Sequence[Cell]]) -> list[str]:
    """What is not as promised, in words."""
    found = []
    for kind, column, values in zip(kinds, columns, cells, strict=True):
        if (column.name, column.type, column.scale) != (kind.name, kind.type, kind.scale):
            found.append(f"{kind.declaration}: is {column}, not {kind.type} with scale {kind.scale}")
        wanted = [*(kind.cell(row) for row in range(row_count(kinds))), None]
        found += [
            f"{kind.declaration}: {got!r} instead of {want!r}"
            for got, want in dict.fromkeys(zip(values, wanted, strict=True))
            if got != want
        ]
    return found


def export(connector: Connector, format: str, directory: Path, **extra: Any) -> Writer:
    """The table as a finished file, the way an export makes it."""
    with connector:
        result = connector.stream(Query(("SELECT * FROM every_type ORDER BY row_number_",)), 1000)
        options = WriterOptions("every type", 100_000_000, extra)
        writer = writers.get(format)(directory, "every_type", result.columns, options)
        try:
            for batch in result.batches:
                writer.write(batch)
            writer.finish()
        except BaseException:
            writer.abort()
            raise
    return writer
