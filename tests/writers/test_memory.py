"""Memory does not grow with rows: measured in processes of their own, by the kernel."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from exporter_site.config import BASE_DIR
from tasks.writers import writers

PROGRAM = """
import re, sys
from pathlib import Path
from datasources.connectors.base import Batch, Column, ColumnType
from tests.writers.sheets import make_writer

directory, kind, rows = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
kinds = [ColumnType.INTEGER, ColumnType.INTEGER, ColumnType.TEXT, ColumnType.TEXT, ColumnType.DECIMAL, ColumnType.DATE,
         ColumnType.DATETIME, ColumnType.TEXT, ColumnType.BOOLEAN, ColumnType.FLOAT, ColumnType.TEXT, ColumnType.INTEGER]
writer = make_writer(directory, [Column(f"c{n}", kind, 2) for n, kind in enumerate(kinds)], kind)
for start in range(0, rows, 500):
    numbers = range(start, start + 500)
    ids = [b"%d" % n for n in numbers]
    days = [b"%d-%02d-%02d" % (1950 + n // 336 % 90, 1 + n // 28 % 12, 1 + n % 28) for n in numbers]
    moments = [b"%b %02d:%02d:%02d.%06d" % (day, n // 3600 % 24, n // 60 % 60, n % 60, n % 10**6) for n, day in zip(numbers, days)]
    names = [("客户 %d" % n).encode() for n in numbers]
    writer.write(Batch([ids, [b"%019d" % (10**18 + n) for n in numbers], names, names, [b"%d.%02d" % (n, n % 100) for n in numbers],
        days, moments, [None if n % 10 else b"=%d" % n for n in numbers], [b"t"] * 500, [b"%d.5" % n for n in numbers], names, ids], 500))
assert sum(part.rows for part in writer.finish()) == rows
# Not ru_maxrss: that goes on counting from the process that started this one.
print(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
"""


def peak(directory: Path, kind: str, rows: int) -> int:
    """The largest resident size, in KiB, of a process that writes `rows` rows of 12 columns."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(directory / str(rows)), kind, str(rows)],
        cwd=BASE_DIR,
        env=os.environ | {"DJANGO_SETTINGS_MODULE": "exporter_site.settings"},
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(writers))
def test_a_million_rows_take_no_more_memory_than_a_fifth_of_them(tmp_path: Path, kind: str) -> None:
    assert peak(tmp_path, kind, 1_000_000) <= 1.15 * peak(tmp_path, kind, 200_000)


@pytest.mark.long
@pytest.mark.parametrize("kind", list(writers))
def test_two_million_rows_take_no_more_memory_either(tmp_path: Path, kind: str) -> None:
    assert peak(tmp_path, kind, 2_000_000) <= 1.15 * peak(tmp_path, kind, 200_000)
