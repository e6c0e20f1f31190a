"""The checker finds what it is there for: each kind of violation is planted once. And its oracle of cron."""

import hashlib
import json
import random
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import openpyxl
import pytest
from cronsim import CronSim

from exporter_site.config import BASE_DIR
from tests.faults import checker
from tests.faults.checker import Owed, occurrences

NOON = datetime(2025, 8, 12, 12, 0, tzinfo=UTC)
OWED = {
    "orders": Owed("*/10 * * * *", "Asia/Shanghai", NOON, 2),
    "customers": Owed("5 * * * *", "UTC", NOON + timedelta(minutes=5), 2),
}
UNTIL = NOON + timedelta(minutes=59)


@dataclass
class World:
    """What an installation leaves behind, made by hand: as many violations can be planted as one likes."""

    home: Path

    def __post_init__(self) -> None:
        self.output, self.temp = self.home / "exports", self.home / "temp"
        self.temp.mkdir()
        with closing(sqlite3.connect(self.home / "system.db")) as connection:
            connection.execute(f"CREATE TABLE tasks_execution ({', '.join(checker.Row._fields)})")

    def sql(self, text: str, *values: object) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self.home / "system.db")) as connection, connection:
            return connection.execute(text, values).fetchall()

    def add(self, task: str, scheduled_for: datetime, *, suffix: str = ".csv", **fields: object) -> None:
        """A succeeded execution with its file."""
        number = self.sql("SELECT count(*) FROM tasks_execution")[0][0] + 1
        path = self.output / "2025-08" / f"{number}-1" / f"{task}{suffix}"
        path.parent.mkdir(parents=True)
        if suffix == ".csv":
            path.write_text("id,name\r\n1,a\r\n2,b\r\n", "utf-8-sig")
        else:
            workbook = openpyxl.Workbook()
            for line in (("id", "name"), (1, "a"), (2, "b")):
                workbook.worksheets[0].append(line)
            workbook.save(path)
        content = path.read_bytes()
        part = {
            "path": str(path.relative_to(self.output)),
            "rows": 2,
            "size": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
        }
        self.insert(
            **{
                "id": number,
                "task_name": task,
                "status": "succeeded",
                "scheduled_for": stored(scheduled_for),
                "occurrences": 1,
                "attempt": 1,
                "finished_at": stored(UNTIL),
                "rows_count": 2,
                "file_size": part["size"],
                "sha256": part["sha256"],
                "files": json.dumps([part]),
                **fields,
            }
        )

    def insert(self, **fields: object) -> None:
        names = ", ".join(fields)
        self.sql(f"INSERT INTO tasks_execution ({names}) VALUES ({', '.join('?' * len(fields))})", *fields.values())

    def update(self, number: int, **fields: object) -> None:
        changes = ", ".join(f"{name} = ?" for name in fields)
        self.sql(f"UPDATE tasks_execution SET {changes} WHERE id = ?", *fields.values(), number)

    def file(self, number: int) -> Path:
        (files,) = self.sql("SELECT files FROM tasks_execution WHERE id = ?", number)[0]
        return self.output / str(json.loads(files)[0]["path"])

    def check(self) -> list[str]:
        return checker.check(self.sql, self.output, self.temp, OWED, UNTIL)


def stored(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M:%S")


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Seven occurrences, all as they should be: 1-6 of orders (5 and 6 as xlsx), 7 of customers."""
    made = World(tmp_path)
    for number in range(6):
        made.add("orders", NOON + timedelta(minutes=10 * number), suffix=".csv" if number < 4 else ".xlsx")
    made.add("customers", NOON + timedelta(minutes=5))
    return made


def test_a_world_in_order_has_no_violation(world: World) -> None:
    assert world.check() == []


def rewrite(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def forge(world: World, number: int, content: bytes, **part: object) -> None:
    """A file of other content whose row knows its size and checksum."""
    path = world.file(number)
    path.write_bytes(content)
    checksum = hashlib.sha256(content).hexdigest()
    facts = {"path": str(path.relative_to(world.output)), "rows": 2, "size": len(content), "sha256": checksum} | part
    world.update(number, files=json.dumps([facts]), sha256=checksum, file_size=len(content))


PLANTED: dict[str, Callable[[World], object]] = {
    "has no row": lambda w: w.sql("DELETE FROM tasks_execution WHERE id = 3"),
    "has 2 rows": lambda w: w.add("orders", NOON),
    "is none that the schedule owes": lambda w: w.add("orders", NOON + timedelta(minutes=3)),
    "owes nothing": lambda w: w.add("unknown", NOON),
    "has not ended: running": lambda w: w.update(7, status="running", files="[]"),
    "has not ended: queued": lambda w: w.update(7, status="queued", files="[]"),
    "has no time of its end": lambda w: w.update(7, finished_at=None),
    "but holds task:1": lambda w: w.update(7, slot_key="task:1"),
    "but holds source:1:0": lambda w: w.update(7, source_slot="source:1:0"),
    "but names 1 files": lambda w: w.update(7, status="failed"),
    "succeeded without a file": lambda w: w.update(7, files="[]"),
    "size and checksum of the row": lambda w: w.update(7, sha256="0" * 64),
    "states 3 rows": lambda w: w.update(7, rows_count=3),
    "lies outside": lambda w: forge(w, 7, b"x", path="../system.db"),
    "does not exist": lambda w: w.file(7).unlink(),
    "bytes, not": lambda w: rewrite(w.file(7), w.file(7).read_bytes() + b"3,c\r\n"),
    "another SHA-256": lambda w: rewrite(w.file(7), w.file(7).read_bytes().replace(b"a", b"z")),
    "can't be read": lambda w: forge(w, 6, w.file(6).read_bytes()[:-30]),
    "is damaged": lambda w: forge(w, 6, damaged(w.file(6).read_bytes())),
    "the last line has no end": lambda w: forge(w, 7, "id,name\r\n1,a\r\n2,b".encode("utf-8-sig")),
    "different numbers of fields": lambda w: forge(w, 7, "id,name\r\n1,a\r\n2\r\n".encode("utf-8-sig")),
    "holds 1 rows, not 2": lambda w: forge(w, 7, "id,name\r\n1,a\r\n".encode("utf-8-sig")),
    "belongs to no succeeded execution": lambda w: (w.output / "2025-08" / "other.csv").touch(),
    "output: the directory": lambda w: (w.output / "2025-08" / "9-1").mkdir(),
    "is visible in 2 directories": lambda w: shutil.copytree(w.file(7).parent, w.output / "2025-08" / "7-2"),
    "was left behind": lambda w: (w.temp / "7-1").mkdir(),
}


def damaged(content: bytes) -> bytes:
    """A workbook with one bit of a compressed sheet turned: the zip's checksum tells."""
    with_fault = bytearray(content)
    place = content.index(b"xl/worksheets/sheet1.xml") + 200
    with_fault[place] ^= 1
    return bytes(with_fault)


@pytest.mark.parametrize("words", PLANTED)
def test_a_planted_violation_is_found(world: World, words: str) -> None:
    PLANTED[words](world)
    found = world.check()
    assert any(words in violation for violation in found), found


def test_a_row_of_a_range_covers_its_count_and_no_other(world: World) -> None:
    for number in (1, 2, 3):
        shutil.rmtree(world.file(number).parent)
    world.sql("DELETE FROM tasks_execution WHERE id <= 3")
    fields = {"task_name": "orders", "status": "missed", "range_start": stored(NOON), "files": "[]"}
    last = NOON + timedelta(minutes=20)
    world.insert(id=1, scheduled_for=stored(last), occurrences=3, finished_at=stored(UNTIL), sha256="", **fields)
    assert world.check() == []
    world.update(1, occurrences=4)
    assert "states 4 occurrences" in " ".join(world.check())
    world.update(1, occurrences=4, scheduled_for=stored(last + timedelta(minutes=10)))
    assert "orders: 2025-08-12 12:30:00+00:00 has 2 rows" in world.check()


def test_the_checker_imports_nothing_of_what_it_judges() -> None:
    program = "import sys, tests.faults.checker; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=BASE_DIR, capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert not loaded & {"tasks", "datasources", "notifications", "exporter_site", "django", "cronsim"}


# ---- the oracle


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("cron", "zone", "first", "last", "expected"),
    [
        ("0 9 * * 1-5", "Asia/Shanghai", "2025-08-08", "2025-08-12", ["2025-08-08T01:00", "2025-08-11T01:00"]),
        ("30 0 1 * *", "UTC", "2025-01-31", "2025-03-02", ["2025-02-01T00:30", "2025-03-01T00:30"]),
        # Either day, when both are given; both, when one begins with a star.
        ("0 0 13 * FRI", "UTC", "2025-06-12", "2025-06-21", ["2025-06-13", "2025-06-20"]),
        ("0 0 */13 * SUN", "UTC", "2025-06-01", "2025-06-30", ["2025-06-01"]),
        ("0 0 29 2 *", "UTC", "2024-02-20", "2024-03-10", ["2024-02-29"]),
        # 02:30 does not exist on that day: at the first instant after it.
        ("30 2 * * *", "Europe/Berlin", "2025-03-30", "2025-03-31", ["2025-03-30T01:00"]),
        # 02:30 comes twice: the first one.
        ("30 2 * * *", "Europe/Berlin", "2025-10-26", "2025-10-27", ["2025-10-26T00:30"]),
        # Every half an hour stays so.
        ("*/30 2 * * *", "Europe/Berlin", "2025-10-26", "2025-10-27",
         ["2025-10-26T00:00", "2025-10-26T00:30", "2025-10-26T01:00", "2025-10-26T01:30"]),
        ("*/30 2 * * *", "Europe/Berlin", "2025-03-30", "2025-03-30T12:00", []),
    ],
)  # fmt: skip
def test_the_oracle_knows_the_calendar(cron: str, zone: str, first: str, last: str, expected: list[str]) -> None:
    assert occurrences(cron, zone, utc(first), utc(last)) == tuple(map(utc, expected))


ZONES = ("Asia/Shanghai", "Asia/Kathmandu", "Europe/Berlin", "America/New_York", "America/St_Johns", "UTC")


def test_the_oracle_and_the_library_agree() -> None:
    """Two implementations of the same rules, on random schedules over days with and without a change of the clock."""
    chance = random.Random(2025)
    fields = (
        ("*", "*/7", "0", "30", "5,50", "10-20/3"),
        ("*", "*/5", "0", "2", "1-3", "1,2,23"),
        ("*", "1", "*/2", "26-31"),
        ("*", "3", "10,11", "MAR-NOV"),
        ("*", "0", "SUN", "1-5", "6,7"),
    )
    days = ("2025-03-09", "2025-03-30", "2025-10-26", "2025-11-02", "2025-07-01")
    compared = 0
    for _ in range(120):
        cron, zone = " ".join(chance.choice(field) for field in fields), chance.choice(ZONES)
        first = utc(chance.choice(days)) - timedelta(hours=10)
        last = first + timedelta(days=2)
        ours = occurrences(cron, zone, first, last)
        theirs = []
        for moment in CronSim(cron, (first - timedelta(minutes=1)).astimezone(ZoneInfo(zone))):
            instant = moment.astimezone(UTC)
            if instant > last:
                break
            if instant >= first:
                theirs.append(instant)
        assert ours == tuple(theirs), (cron, zone, first)
        compared += len(ours)
    assert compared > 500
