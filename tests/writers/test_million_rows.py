"""The dirty rows of the benchmarks, from a server to a file and back: every cell is the generator's, or is counted."""

import csv
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import datetime
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import openpyxl
import pytest
from python_calamine import CalamineWorkbook

from benchmarks import orders
from datasources.connectors import connectors
from datasources.connectors.base import Cell, Column, ColumnType, Query
from tasks.writers.base import Writer
from tests.readback import in_csv, in_excel, same_value
from tests.servers.mariadb import MariaDB
from tests.servers.postgresql import PostgreSQL
from tests.writers.sheets import make_writer

Server = MariaDB | PostgreSQL
MOST_SHOWN = 20  # of the differences


class Source(NamedTuple):
    """A server whose `database` holds the table `orders` with so many rows."""

    kind: str
    server: Server
    database: str
    rows: int


def load(server: Server, database: str, count: int) -> None:
    rows = orders.rows(count)
    if isinstance(server, PostgreSQL):
        server.execute(orders.POSTGRESQL_TABLE, database=database)
        with server.connect(database) as connection, connection.cursor().copy("COPY orders FROM STDIN") as copy:
            for row in rows:
                copy.write_row(row)
        return
    server.execute(orders.MYSQL_TABLE, database=database)
    places = ", ".join(["%s"] * len(orders.COLUMNS))
    with closing(server.connect(database)) as connection, connection.cursor() as cursor:
        while some := list(islice(rows, 2_000)):
            cursor.executemany(f"INSERT INTO orders VALUES ({places})", some)


@pytest.fixture(
    scope="module",
    params=[
        ("mysql", 8_000),
        ("postgresql", 8_000),
        pytest.param(("mysql", 1_000_000), marks=pytest.mark.long),
        pytest.param(("postgresql", 1_000_000), marks=pytest.mark.long),
    ],
    ids=lambda param: f"{param[0]}-{param[1]}",
)
def source(request: pytest.FixtureRequest) -> Iterator[Source]:
    kind, count = request.param
    server = request.getfixturevalue("mariadb" if kind == "mysql" else "postgresql")
    database = server.new_database()
    load(server, database, count)
    yield Source(kind, server, database, count)
    server.execute("DROP TABLE orders", database=database)


def export(source: Source, directory: Path, format: str, **extra: Any) -> Writer:
    with connectors.get(source.kind)(source.server.params(source.database)) as connector:
        result = connector.stream(Query(("SELECT * FROM orders ORDER BY id",)), 10_000)
        writer = make_writer(directory, result.columns, format, title="订单", **extra)
        for batch in result.batches:
            writer.write(batch)
        writer.finish()
    return writer


class Comparison:
    """Cells as they are read against cells as they were made, row by row; nothing is kept but what differs."""

    def __init__(self) -> None:
        self.wrong: list[str] = []
        self.fidelity: Counter[str] = Counter()

    def row(
        self, columns: Sequence[Column], made: Sequence[str | None], read: dict[str, Sequence[Any]], format: str
    ) -> None:
        for index, (column, text) in enumerate(zip(columns, made, strict=True)):
            cell = text.encode() if text is not None else None
            expected = (in_excel if format == "xlsx" else in_csv)(column, cell)
            self.fidelity.update(expected.codes)
            for reader, cells in read.items():
                found = cells[index]
                if format == "csv":
                    same = _same_in_csv(column, found, cell, expected.value)
                else:
                    same = same_value(found, expected.value)
                if not same and len(self.wrong) < MOST_SHOWN:
                    self.wrong.append(f"id {made[0]} {column.name}: {reader} reads {found!r}, made was {text!r}")


def _same_in_csv(column: Column, read: str, cell: Cell, expected: object) -> bool:
    """The servers write 0.50 as 0.5 and whole seconds without a fraction; texts and exact numbers stay letter by letter."""
    if cell is None or column.type in (ColumnType.TEXT, ColumnType.INTEGER, ColumnType.DATE):
        return read == (expected or "")
    if column.type is ColumnType.FLOAT:
        return float(read) == float(cell)
    if column.type is ColumnType.DECIMAL:
        return read == str(Decimal(cell.decode()))
    return datetime.fromisoformat(read) == datetime.fromisoformat(cell.decode())


def assert_counted(writer: Writer, comparison: Comparison, rows: int) -> None:
    assert comparison.wrong == []
    assert dict(writer.fidelity) == dict(comparison.fidelity)
    assert writer.rows == sum(part.rows for part in writer.parts) == rows


def assert_holds_the_orders(path: Path, writer: Writer, rows: int) -> None:
    comparison = Comparison()
    with CalamineWorkbook.from_path(path) as second, closing(openpyxl.load_workbook(path, read_only=True)) as first:
        assert first.sheetnames == second.sheet_names == ["订单"]
        with_openpyxl = first.worksheets[0].iter_rows(values_only=True)
        with_calamine = second.get_sheet_by_index(0).iter_rows()
        assert list(next(with_openpyxl)) == next(with_calamine) == list(orders.COLUMNS)
        for made, one, other in zip(orders.rows(rows), with_openpyxl, with_calamine, strict=True):
            comparison.row(writer.columns, made, {"openpyxl": one, "calamine": other}, "xlsx")
    assert_counted(writer, comparison, rows)


@pytest.mark.slow
def test_an_excel_file_of_dirty_rows_reads_back_cell_by_cell(source: Source, tmp_path: Path) -> None:
    writer = export(source, tmp_path, "xlsx")
    (part,) = writer.parts
    assert_holds_the_orders(part.path, writer, source.rows)


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["utf-8", "gb18030"])
def test_a_csv_file_of_dirty_rows_reads_back_cell_by_cell(source: Source, tmp_path: Path, encoding: str) -> None:
    writer = export(source, tmp_path, "csv", encoding=encoding)
    (part,) = writer.parts
    comparison = Comparison()
    with part.path.open(encoding=encoding.replace("utf-8", "utf-8-sig"), newline="") as file:
        read = csv.reader(file, strict=True)
        assert next(read) == list(orders.COLUMNS)
        for made, line in zip(orders.rows(source.rows), read, strict=True):
            comparison.row(writer.columns, made, {"csv": line}, "csv")
    assert_counted(writer, comparison, source.rows)


@pytest.mark.slow
def test_the_rows_are_as_dirty_as_they_should_be(source: Source, tmp_path: Path) -> None:
    fidelity = export(source, tmp_path, "xlsx").fidelity
    assert fidelity["long_number_as_text"] == source.rows  # each order number has 19 digits
    assert 0.38 < fidelity["empty_text_as_blank"] / source.rows < 0.42
    assert 0.17 < fidelity["sub_millisecond"] / source.rows < 0.20
    assert 0.003 < fidelity["escaped_characters"] / source.rows < 0.006
    assert fidelity.keys() == {"long_number_as_text", "empty_text_as_blank", "sub_millisecond", "escaped_characters"}
