"""Every row of docs/troubleshooting.md is produced by a test of this folder, and every test is about a row that there is."""

from importlib import import_module
from pathlib import Path

import pytest

from tests.symptoms import table


def test_the_rows_of_the_document_are_those_that_are_produced() -> None:
    for file in Path(__file__).parent.glob("test_*.py"):
        import_module(f"tests.symptoms.{file.stem}")
    assert set(table.ROWS) == table.produced


@pytest.mark.parametrize("row", table.ROWS.values(), ids=lambda row: row.symptom)
def test_a_row_says_what_to_do(row: table.Row) -> None:
    assert row.cure


def test_each_table_is_there() -> None:
    assert {row.table for row in table.ROWS.values()} == {table.REPORTS, table.SYSTEM, table.RUNS, table.MESSAGES}
