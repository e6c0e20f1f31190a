"""What every file format promises; each kind in the registry must pass."""

import csv
import hashlib
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from datasources.connectors.base import Batch, Column, ColumnType
from exporter_site.config import BASE_DIR
from tasks.writers import writers
from tasks.writers.base import FilePart
from tests.writers.sheets import batches, calamine_rows, columns_of, encoded, make_writer, write

COLUMNS = columns_of(ColumnType.INTEGER, ColumnType.TEXT)

pytestmark = pytest.mark.parametrize("kind", list(writers))


def read(part: FilePart) -> list[list[Any]]:
    if part.path.suffix == ".xlsx":
        return calamine_rows(part.path)
    with part.path.open(newline="", encoding="utf-8-sig") as file:
        return list(csv.reader(file))


def noise(rows: int, width: int, seed: int) -> Batch:
    """Rows that do not compress."""
    source = random.Random(seed)
    texts = encoded(source.randbytes(width // 2).hex() for _row in range(rows))
    return Batch([[b"%d" % row for row in range(rows)], texts], rows)


def test_all_rows_come_back_in_their_order(tmp_path: Path, kind: str) -> None:
    writer = make_writer(tmp_path, COLUMNS, kind)
    for batch in batches(2, 1234):
        writer.write(batch)
    (part,) = writer.finish()
    header, *rows = read(part)
    assert header == ["c1", "c2"]
    assert [int(row[1]) for row in rows] == list(range(1234))
    assert part.rows == writer.rows == 1234


def test_size_and_checksum_are_those_of_the_file_on_the_disk(tmp_path: Path, kind: str) -> None:
    written = write(tmp_path, COLUMNS, [["1", "2"], ["a", "b"]], kind=kind)
    (part,) = written.parts
    content = part.path.read_bytes()
    assert (part.size, part.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    assert part.path.stat().st_mode & 0o077 == 0


def test_an_empty_result_is_a_file_with_its_header(tmp_path: Path, kind: str) -> None:
    (part,) = make_writer(tmp_path, COLUMNS, kind).finish()
    assert (read(part), part.rows) == ([["c1", "c2"]], 0)


def test_an_empty_batch_changes_nothing(tmp_path: Path, kind: str) -> None:
    writer = make_writer(tmp_path, COLUMNS, kind)
    for batch in (Batch([[], []], 0), Batch([[b"1"], [b"x"]], 1), Batch([[], []], 0)):
        writer.write(batch)
    (part,) = writer.finish()
    assert len(read(part)) == 2


@pytest.mark.parametrize("limit", [600_000, 1_000_000, 3_000_000])
def test_parts_are_whole_files_within_the_limit(tmp_path: Path, kind: str, limit: int) -> None:
    writer = make_writer(tmp_path, COLUMNS, kind, max_file_size=limit)
    # As connectors do it: the first batch is small, the next ones grow, then the rows turn out to be wide.
    for number, (rows, width) in enumerate(
        [(64, 20), (256, 20), (1024, 20), (3000, 20), *[(3000, 170)] * 9, (300, 9000)]
    ):
        writer.write(noise(rows, width, number))
    parts = writer.finish()
    assert len(parts) > 1
    suffix = writer.extension
    assert [part.path.name for part in parts] == [
        f"result{suffix}",
        *(f"result_part{number}{suffix}" for number in range(2, len(parts) + 1)),
    ]
    assert max(part.size for part in parts) <= limit
    assert min(part.size for part in parts[:-1]) > limit / 4
    contents = [read(part) for part in parts]
    assert all(rows[0] == ["c1", "c2"] for rows in contents)
    assert [len(rows) - 1 for rows in contents] == [part.rows for part in parts]
    assert sum(part.rows for part in parts) == writer.rows == 64 + 256 + 1024 + 10 * 3000 + 300
    assert sum(part.size for part in parts) == writer.size


def test_one_row_larger_than_the_limit_is_a_part_of_its_own(tmp_path: Path, kind: str) -> None:
    writer = make_writer(tmp_path, COLUMNS, kind, max_file_size=300_000)
    writer.write(noise(5, 30_000, 1))
    writer.write(noise(40, 30_000, 2))
    parts = writer.finish()
    assert sum(part.rows for part in parts) == 45
    assert all(part.rows for part in parts)


@pytest.mark.parametrize("stage", ["before", "header", "midway", "between parts", "finished", "twice"])
def test_abort_leaves_nothing_at_any_time(tmp_path: Path, kind: str, stage: str) -> None:
    writer = make_writer(tmp_path, COLUMNS, kind, max_file_size=600_000 if stage == "between parts" else 1 << 30)
    if stage != "before":
        writer.write(noise(1 if stage == "header" else 9000 if stage == "between parts" else 500, 200, 1))
    if stage == "finished":
        writer.finish()
    writer.abort()
    if stage == "twice":
        writer.abort()
    assert list(tmp_path.iterdir()) == []
    assert writer.parts == []


def test_a_file_that_is_there_already_is_never_written_into(tmp_path: Path, kind: str) -> None:
    precious = tmp_path / f"result{writers.get(kind).extension}"
    precious.write_text("precious")
    writer = make_writer(tmp_path, COLUMNS, kind)
    with pytest.raises(FileExistsError):
        writer.write(noise(1, 10, 1))
    writer.abort()
    assert precious.read_text() == "precious"


@pytest.mark.parametrize("exists", [True, False])
def test_a_link_is_never_followed(tmp_path: Path, kind: str, exists: bool) -> None:
    target, inside = tmp_path / "target", tmp_path / "inside"
    inside.mkdir()
    if exists:
        target.write_text("precious")
    (inside / f"result{writers.get(kind).extension}").symlink_to(target)
    writer = make_writer(inside, COLUMNS, kind)
    with pytest.raises(FileExistsError):
        writer.write(noise(1, 10, 1))
    assert target.exists() is exists
    assert not exists or target.read_text() == "precious"


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from tests.writers.test_contract import COLUMNS, noise
from tests.writers.sheets import make_writer

directory, kind, late = Path(sys.argv[1]), sys.argv[2], sys.argv[3] == "late"
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # then write() fails with an OSError, as on a full disk
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
writer = make_writer(directory, COLUMNS, kind)
try:
    for number in range(1 if late else 50):
        writer.write(noise(600, 300, number))
    writer.finish()
except OSError as exc:
    print(type(exc).__name__, exc.errno)
writer.abort()
print(list(directory.iterdir()))
"""


@pytest.mark.parametrize("when", ["early", "late"])
def test_a_full_disk_is_an_oserror_and_abort_leaves_nothing(tmp_path: Path, kind: str, when: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", FULL_DISK, str(tmp_path), kind, when],
        cwd=BASE_DIR,
        env=os.environ | {"DJANGO_SETTINGS_MODULE": "exporter_site.settings"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == ["OSError 27", "[]"]
    assert done.stderr == ""


def test_options_are_checked_by_name_and_value(tmp_path: Path, kind: str) -> None:
    writer = writers.get(kind)
    for name, (default, allowed) in writer.option_values.items():
        assert default in allowed
        for value in allowed:
            writer.check_options({name: value})
        with pytest.raises(ValueError, match=name):
            writer.check_options({name: "nonsense"})
    with pytest.raises(ValueError, match="colour"):
        writer.check_options({"colour": "red"})


def test_every_code_of_fidelity_has_words(tmp_path: Path, kind: str) -> None:
    from tasks.writers.base import FIDELITY

    strange: list[str | bytes | None] = ["\x00", "=1", "", "1" * 40000, b"\xff", "_x0041_\x01", "9" * 20]
    types = list(ColumnType)
    columns = [Column(type_.value, type_) for type_ in types]
    written = write(tmp_path, columns, [strange for _type in types], kind=kind)
    assert written.fidelity.keys() <= FIDELITY.keys()
    assert all(written.fidelity.values())
    assert all(str(words) for words in FIDELITY.values())
