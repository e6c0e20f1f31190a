"""The clock of the machine jumps by hours under a running scheduler: nothing runs twice, nothing living is taken for dead."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.factories import make_sqlite_file
from tests.instance import Instance
from tests.servers.mariadb import MariaDB
from tests.tasks.test_runtask import add_task, eventually, last_execution, server_shop

HOURS = 6
MINUTELY = ("one", "two", "three")
SLOW = "SELECT a.seq, SLEEP(0.05) AS s FROM seq_1_to_600 a"  # 30 seconds
ROWS = """
import json
from tasks.models import *
print(json.dumps([
    [task.name, [[row.status, row.reason, row.occurrences, row.scheduled_for.timestamp(), row.attempt]
                 for row in Execution.objects.filter(task=task, scheduled_for__isnull=False).order_by("scheduled_for")]]
    for task in ExportTask.objects.exclude(name="slow")]))
"""


@pytest.fixture
def jump(instance: Instance, tmp_path: Path) -> Callable[[int], None]:
    """Sets the clock of every process of this installation to so many hours from now."""
    library = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)
    if library is None:
        missing = "libfaketime is missing: apt-get install faketime"
        if os.environ.get("EXPORTER_TESTS_ALLOW_MISSING") == "1":
            pytest.skip(missing)
        pytest.fail(missing, pytrace=False)
    offset = tmp_path / "offset"
    offset.write_text("+0")
    instance.environment |= {
        "LD_PRELOAD": str(library),
        "FAKETIME_TIMESTAMP_FILE": str(offset),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",  # it never jumps on a real machine either
    }

    def set_to(hours: int) -> None:
        offset.write_text(f"{hours:+d}h")

    return set_to


def test_a_clock_that_jumps_forwards_and_back(
    instance: Instance, jump: Callable[[int], None], mariadb: MariaDB, tmp_path: Path
) -> None:
    server_shop(instance, mariadb, "mysql")
    file = make_sqlite_file(tmp_path / "shop.db")
    instance.manage("datasource", "create", "shop", "sqlite", "-", "-", file, "-")
    add_task(instance, name="slow", data_source="mysql", sql=SLOW)
    for name in MINUTELY:
        add_task(instance, name=name, data_source="shop", sql="SELECT * FROM orders", cron="* * * * *")
    instance.python(
        "from tasks.models import *; from tasks.states import *\n"
        "Execution.objects.enqueue(ExportTask.objects.get(name='slow'), trigger=Trigger.MANUAL)"
    )
    scheduler = instance.spawn("runscheduler")
    assert eventually(lambda: bool(mariadb.running("exp:1:1")))

    jump(HOURS)
    assert eventually(lambda: all(len(rows) > 100 for _name, rows in occurrences(instance)), 30)
    jump(0)
    time.sleep(5)
    jump(HOURS)
    assert eventually(lambda: last_execution(instance)["status"] != "running", 60)
    jump(0)
    time.sleep(3)

    assert scheduler.poll() is None
    slow = last_execution(instance)
    assert (slow["status"], slow["attempt"]) == ("succeeded", 1)
    for name, rows in occurrences(instance):
        assert all(attempt <= 1 for *_rest, attempt in rows), name
        assert {status for status, *_rest in rows} <= {"succeeded", "missed", "skipped", "queued", "running"}
        # Each minute from the first to the last is in exactly one row.
        first = rows[0][3] - (rows[0][2] - 1) * 60
        assert sum(count for _status, _reason, count, *_rest in rows) == (rows[-1][3] - first) / 60 + 1, name
        # Of all that came due in the jump, one ran.
        assert [status for status, *_rest in rows].count("succeeded") <= 4


def occurrences(instance: Instance) -> list[tuple[str, list[tuple[str, str, int, float, int]]]]:
    return [(name, [tuple(row) for row in rows]) for name, rows in json.loads(instance.python(ROWS))]
