"""Old files and rows go, what dead runs left goes, and nothing else does; how the system says that it is well."""

import json
import logging
import os
import shutil
import time
from collections.abc import Iterator
from datetime import timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.conf import LazySettings
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import OperationalError, connection
from django.test import Client
from django.urls import reverse
from django.utils import timezone, translation

from tasks import files, housekeeping
from tasks.housekeeping import BATCH, FILES_BATCH, Removed, housework
from tasks.models import Execution, ExportTask, SchedulerProcess
from tasks.states import UNFINISHED, Status
from tasks.storage.base import QUARANTINE
from tests.factories import make_admin, make_execution, make_scheduler, make_source, make_task, paths_of

pytestmark = pytest.mark.django_db

HOUR = 3600.0
DAY = 24 * HOUR


@pytest.fixture(autouse=True)
def root(settings: LazySettings, tmp_path: Path) -> Path:
    """The parent of output_dir (exports) and temp_dir (temp), both empty; files are kept for 30 days."""
    export = {"output_dir": tmp_path / "exports", "temp_dir": tmp_path / "temp", "retention_days": 30}
    configure(settings, **export)
    return tmp_path


def configure(settings: LazySettings, **export: Any) -> None:
    settings.CONFIG = settings.CONFIG.model_copy(update={"export": settings.CONFIG.export.model_copy(update=export)})


def clean(days: int | None = None, *, dry_run: bool = False) -> Removed:
    removed = Removed()
    for _piece in housework(days, dry_run=dry_run, removed=removed):
        pass
    return removed


def ended(days: float, status: Status = Status.SUCCEEDED, task: ExportTask | None = None, **fields: Any) -> Execution:
    """A run that ended so many days ago; one that succeeded has a file of 7 bytes."""
    execution = make_execution(
        task, status=status, attempt=1, finished_at=timezone.now() - timedelta(days=days), **fields
    )
    if status == Status.SUCCEEDED:
        name = f"2025-08/{files.attempt_name(execution.pk, 1)}/report.csv"
        make_file(files.output_root() / name)
        parts = [{"path": name, "rows": 1, "size": 7, "sha256": ""}]
        Execution.objects.filter(pk=execution.pk).update(files=parts, filename="report.csv", file_size=7)
        execution.refresh_from_db()
    return execution


def make_file(path: Path, age: float = 0.0) -> Path:
    """A file of 7 bytes in a directory that is so many seconds old. Returns the directory."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("content")
    grow_old(path.parent, age)
    return path.parent


def grow_old(directory: Path, age: float) -> None:
    os.utime(directory, (time.time() - age,) * 2)


def everything(root: Path) -> list[tuple[str, float]]:
    return sorted((str(path.relative_to(root)), path.stat().st_mtime) for path in root.rglob("*"))


class TestFiles:
    def test_files_go_after_their_time_and_no_sooner(self) -> None:
        old, young = ended(30.1), ended(29.9)
        assert clean().files == 1
        assert not (files.output_root() / old.files[0]["path"]).exists()
        assert paths_of(young)[0].read_text() == "content"
        young.refresh_from_db()
        assert young.files_removed_at is None

    def test_a_row_stays_for_a_week_when_its_files_go_sooner(self) -> None:
        execution = ended(3)
        removed = clean(1)
        assert (removed.files, removed.bytes, removed.rows) == (1, 7, 0)
        execution.refresh_from_db()
        assert execution.files_removed_at is not None
        assert timezone.now() - execution.files_removed_at < timedelta(minutes=1)
        assert paths_of(execution) == []
        assert execution.files
        assert (execution.status, execution.filename) == (Status.SUCCEEDED, "report.csv")
        assert not (files.output_root() / execution.files[0]["path"]).parent.exists()
        assert clean(1) == Removed()

    def test_a_removed_file_is_not_found_and_the_admin_says_why(self) -> None:
        execution = ended(3)
        client = Client()
        client.force_login(make_admin())
        url = reverse("tasks:download", args=[execution.pk])
        pages = (
            reverse("admin:tasks_execution_changelist"),
            reverse("admin:tasks_execution_change", args=[execution.pk]),
        )
        assert b"".join(client.get(url).streaming_content) == b"content"  # type: ignore[attr-defined]
        clean(1)
        assert client.get(url).status_code == 404
        day = timezone.localtime().strftime("%Y-%m-%d")
        for page in pages:
            text = client.get(page, headers={"accept-language": "en"}).content.decode()
            assert f"removed on {day}, after its retention time" in text
            assert f'href="{url}"' not in text

    def test_all_parts_of_a_file_go(self, root: Path) -> None:
        execution = ended(3)
        second = files.output_root() / f"2025-08/{execution.pk}-1/report_part2.csv"
        second.write_text("content")
        parts = [*execution.files, {**execution.files[0], "path": str(second.relative_to(files.output_root()))}]
        Execution.objects.filter(pk=execution.pk).update(files=parts)
        clean(1)
        assert not [path for path in root.rglob("*") if path.is_file()]

    def test_only_ever_the_directory_of_the_attempt_is_removed(self, root: Path) -> None:
        kept = make_file(root / "exports" / "2025-08" / "archive" / "report.csv")
        execution = ended(3)
        parts = [{**execution.files[0], "path": "2025-08/archive/report.csv"}]
        Execution.objects.filter(pk=execution.pk).update(files=parts)
        clean(1)
        assert (kept / "report.csv").exists()

    def test_the_month_of_a_removed_file_stays_for_the_run_that_is_about_to_publish_there(self) -> None:
        ended(3)
        clean(1)
        assert (files.output_root() / "2025-08").is_dir()

    def test_many_go_piece_by_piece(self) -> None:
        task = make_task()
        rows = [ended(3, task=task) for _ in range(2 * FILES_BATCH + 1)]
        removed = Removed()
        counts = [removed.files for _piece in housework(1, removed=removed)]
        assert counts[:3] == [FILES_BATCH, 2 * FILES_BATCH, 2 * FILES_BATCH + 1]
        assert counts[-1] == len(rows)
        assert not any((files.output_root() / row.files[0]["path"]).exists() for row in rows)

    def test_a_file_that_cannot_be_removed_is_told_and_stops_nothing(
        self, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        stuck, other = ended(3), ended(3)
        place = files.output_root() / f"2025-08/{stuck.pk}-1"
        real = shutil.rmtree

        def refuse(path: Path, **options: Any) -> None:
            if path != place:
                real(path, **options)

        monkeypatch.setattr(shutil, "rmtree", refuse)
        clean(1)
        assert f"{place} can't be removed" in caplog.text
        assert not (files.output_root() / other.files[0]["path"]).exists()

    def test_what_a_crash_between_row_and_file_left_is_found_as_an_orphan(self) -> None:
        execution = ended(3, files_removed_at=timezone.now())
        place = files.output_root() / f"2025-08/{execution.pk}-1"
        grow_old(place, 2 * HOUR)
        assert clean(1).orphans == 1
        assert not place.exists()


class TestRows:
    @pytest.mark.parametrize("status", [status for status in Status if status not in UNFINISHED])
    def test_a_row_goes_after_the_retention_time_but_never_within_a_week(self, status: Status) -> None:
        task = make_task()
        young, old = ended(6.9, status, task), ended(7.1, status, task)
        assert clean(1).rows == 1
        assert list(Execution.objects.all()) == [young]
        assert old.pk != young.pk

    def test_longer_retention_keeps_rows_longer(self) -> None:
        task = make_task()
        young, _old = ended(29.9, Status.FAILED, task), ended(30.1, Status.FAILED, task)
        assert clean().rows == 1
        assert list(Execution.objects.all()) == [young]

    @pytest.mark.parametrize("status", UNFINISHED)
    def test_a_run_that_has_not_ended_never_goes(self, status: Status) -> None:
        execution = make_execution(status=status, attempt=1)
        long_ago = timezone.now() - timedelta(days=400)
        # finished_at as well: only the state may count.
        Execution.objects.update(queued_at=long_ago, started_at=long_ago, finished_at=long_ago)
        working = make_file(files.temp_root() / f"{execution.pk}-1" / "report.csv", 400 * DAY)
        published = make_file(files.output_root() / "2025-08" / f"{execution.pk}-1" / "report.csv", 400 * DAY)
        removed = clean(1)
        assert (removed.rows, removed.files) == (0, 0)
        assert Execution.objects.get() == execution
        running = status == Status.RUNNING
        assert (working.exists(), published.exists()) == (running, running)

    def test_more_rows_than_a_batch_go_piece_by_piece(self) -> None:
        task = make_task()
        model = make_execution(task)
        long_ago = timezone.now() - timedelta(days=40)
        row = {field.attname: getattr(model, field.attname) for field in Execution._meta.concrete_fields}
        del row["id"]
        row |= {"status": Status.FAILED, "finished_at": long_ago}
        Execution.objects.bulk_create(Execution(**row) for _ in range(2 * BATCH + 1))
        removed = Removed()
        assert [removed.rows for _piece in housework(removed=removed)] == [BATCH, 2 * BATCH, 2 * BATCH + 1]
        assert list(Execution.objects.all()) == [model]

    def test_schedulers_of_long_ago_are_forgotten(self) -> None:
        now = timezone.now()
        for name, days in (("old", 7.1), ("young", 6.9)):
            SchedulerProcess.objects.create(name=name, seen_at=now - timedelta(days=days), workers=1)
        clean(dry_run=True)
        assert SchedulerProcess.objects.count() == 2
        clean()
        assert [process.name for process in SchedulerProcess.objects.all()] == ["young"]

    def test_a_row_never_goes_before_its_files(self, monkeypatch: pytest.MonkeyPatch) -> None:
        execution, other = ended(40), ended(40, Status.FAILED)

        def fail(*arguments: object) -> Iterator[None]:
            yield from ()
            raise RuntimeError("a fault")

        with monkeypatch.context() as patched:
            patched.setattr(housekeeping, "_old_files", fail)
            with pytest.raises(RuntimeError, match="a fault"):
                clean()
        assert paths_of(execution)[0].exists()
        assert list(Execution.objects.all()) == [execution]
        assert other.pk != execution.pk

    @pytest.mark.parametrize("days", [1_000_000, 10**12])
    def test_for_ever_is_long_enough(self, settings: LazySettings, days: int) -> None:
        execution = ended(400)
        configure(settings, retention_days=days)
        assert clean() == clean(days) == Removed()
        assert paths_of(execution)[0].exists()


class TestLeftovers:
    def test_what_a_dead_attempt_left_goes_after_an_hour(self) -> None:
        execution = make_execution(status=Status.FAILED, attempt=1, finished_at=timezone.now())
        old = make_file(files.temp_root() / f"{execution.pk}-1" / "report.csv", HOUR + 60)
        assert clean().leftovers == 1
        assert not old.exists()

    def test_what_is_young_stays(self) -> None:
        execution = make_execution(status=Status.FAILED, attempt=1, finished_at=timezone.now())
        young = make_file(files.temp_root() / f"{execution.pk}-1" / "report.csv", HOUR - 60)
        assert clean().leftovers == 0
        assert young.exists()

    def test_what_a_running_attempt_writes_stays_and_what_its_earlier_one_left_goes(self) -> None:
        execution = make_execution(status=Status.RUNNING, attempt=2)
        earlier, current = (
            make_file(files.temp_root() / f"{execution.pk}-{attempt}" / "report.csv", 10 * HOUR) for attempt in (1, 2)
        )
        assert clean().leftovers == 1
        assert not earlier.exists()
        assert (current / "report.csv").exists()

    def test_what_no_row_knows_goes(self) -> None:
        old = make_file(files.temp_root() / "4711-1" / "report.csv", 10 * HOUR)
        assert clean().leftovers == 1
        assert not old.exists()

    def test_many_are_looked_at_piece_by_piece_with_one_query_each(
        self, monkeypatch: pytest.MonkeyPatch, django_assert_max_num_queries: Any
    ) -> None:
        monkeypatch.setattr(housekeeping, "BATCH", 10)
        for number in range(1, 26):
            make_file(files.temp_root() / f"{number}-1" / "report.csv", 10 * HOUR)
        removed = Removed()
        with django_assert_max_num_queries(6):
            counts = [removed.leftovers for _piece in housework(removed=removed, dry_run=True)]
        assert counts == [10, 20, 25]


class TestOrphans:
    def test_a_file_without_a_row_is_set_aside_and_removed_a_week_later(self) -> None:
        orphan = make_file(files.output_root() / "2025-08" / "4711-1" / "report.csv", 10 * HOUR)
        assert clean() == Removed(orphans=1)
        assert not orphan.exists()
        aside = files.output_root() / QUARANTINE / "4711-1"
        assert (aside / "report.csv").read_text() == "content"
        grow_old(aside, 7 * DAY - 60)
        assert clean() == Removed()
        assert aside.exists()
        grow_old(aside, 7 * DAY + 60)
        assert clean() == Removed(discarded=1)
        assert not aside.exists()

    def test_the_week_begins_when_it_is_set_aside_however_old_it_is(self) -> None:
        make_file(files.output_root() / "2025-08" / "4711-1" / "report.csv", 400 * DAY)
        clean()
        assert (files.output_root() / QUARANTINE / "4711-1" / "report.csv").exists()

    def test_a_file_with_a_row_stays_and_so_does_one_that_was_just_published(self) -> None:
        execution = ended(1, task=make_task())
        grow_old(files.output_root() / f"2025-08/{execution.pk}-1", 10 * HOUR)
        running = make_execution(status=Status.RUNNING, attempt=1)
        published = make_file(files.output_root() / "2025-08" / f"{running.pk}-1" / "report.csv", 10 * HOUR)
        young = make_file(files.output_root() / "2025-08" / "4711-1" / "report.csv", HOUR - 60)
        assert clean() == Removed()
        assert paths_of(execution)[0].exists()
        assert published.exists()
        assert young.exists()

    def test_an_earlier_attempt_of_a_run_that_succeeded_is_an_orphan(self) -> None:
        execution = ended(1, task=make_task())
        Execution.objects.update(attempt=2)
        grow_old(files.output_root() / f"2025-08/{execution.pk}-1", 10 * HOUR)
        assert clean().orphans == 1

    def test_one_of_the_same_name_as_an_earlier_one_is_set_aside_beside_it(self) -> None:
        for month in ("2025-07", "2025-08", "2025-09"):
            make_file(files.output_root() / month / "4711-1" / f"{month}.csv", 10 * HOUR)
        assert clean().orphans == 3
        quarantine = files.output_root() / QUARANTINE
        assert sorted(path.name for path in quarantine.rglob("*.csv")) == ["2025-07.csv", "2025-08.csv", "2025-09.csv"]
        for aside in quarantine.iterdir():
            grow_old(aside, 8 * DAY)
        assert clean() == Removed(discarded=3)

    def test_one_that_cannot_be_moved_does_not_hold_up_the_others(
        self, root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        stuck = make_file(files.output_root() / "2025-08" / "1-1" / "report.csv", 10 * HOUR)
        other = make_file(files.output_root() / "2025-08" / "2-1" / "report.csv", 10 * HOUR)
        real = Path.rename

        def refuse(path: Path, target: Path) -> Path:
            if path == stuck:
                raise PermissionError(1, "not yours")
            return real(path, target)

        monkeypatch.setattr(Path, "rename", refuse)
        clean()
        assert stuck.exists()
        assert not other.exists()
        assert f"{stuck} belongs to no execution and can't be set aside" in caplog.text


@pytest.mark.parametrize(
    "name",
    [
        "exports/notes.txt",
        "exports/2025-08/notes.txt",
        "exports/2025-08/archive/report.csv",
        "exports/2025-08/01-15/report.csv",
        "exports/2025-08/15-1-old/report.csv",
        "exports/2025-2026/15-1/report.csv",
        "exports/2025-08-old/15-1/report.csv",
        "exports/15-1/report.csv",
        "exports/.quarantine/notes/report.csv",
        "exports/.quarantine/notes.txt",
        "temp/notes.txt",
        "temp/upload/report.csv",
        "temp/15-1.bak/report.csv",
        "temp/a/15-1/report.csv",
        "temp/99999999999999999999999-1/report.csv",
        "temp/0-1/report.csv",
    ],
)
def test_files_of_other_people_are_never_touched(root: Path, name: str) -> None:
    make_file(root / name, 400 * DAY)
    before = everything(root)
    assert clean(1) == Removed()
    assert everything(root) == before


@pytest.mark.parametrize("link", ["temp/15-1", "exports/2025-08/15-1", "exports/2025-08", "exports/.quarantine/15-1"])
def test_links_are_never_followed(root: Path, link: str) -> None:
    elsewhere = make_file(root / "elsewhere" / "report.csv", 400 * DAY)
    make_file(elsewhere / "15-1" / "report.csv", 400 * DAY)
    grow_old(elsewhere, 400 * DAY)
    (root / link).parent.mkdir(parents=True, exist_ok=True)
    (root / link).symlink_to(elsewhere)
    before = everything(root)
    assert clean(1) == Removed()
    assert everything(root) == before


@pytest.fixture
def disorder(root: Path) -> Removed:
    """Some of everything. Returns what a clean-up after 30 days removes."""
    task = make_task()
    for days in (31, 32, 3):
        ended(days, task=task)
    for status in (Status.FAILED, Status.MISSED, Status.SKIPPED):
        ended(31, status, task)
    make_execution(task)
    make_file(files.temp_root() / "4711-1" / "report.csv", 10 * HOUR)
    make_file(files.output_root() / "2025-08" / "4711-1" / "report.csv", 10 * HOUR)
    make_file(files.output_root() / "2025-08" / "4711-2" / "report.csv", 10 * HOUR)
    make_file(files.output_root() / QUARANTINE / "1-1" / "report.csv", 8 * DAY)
    return Removed(files=2, bytes=14, rows=5, leftovers=1, orphans=2, discarded=1)


def test_a_dry_run_changes_nothing_and_tells_the_truth(root: Path, disorder: Removed) -> None:
    rows, before = list(Execution.objects.values()), everything(root)
    assert clean(dry_run=True) == disorder
    assert (list(Execution.objects.values()), everything(root)) == (rows, before)
    assert clean() == disorder
    assert not clean()


def test_directories_that_do_not_exist_yet_are_clean(root: Path) -> None:
    assert not clean()
    assert list(root.iterdir()) == []


def manage(*arguments: object) -> str:
    out = StringIO()
    with translation.override("en"):
        call_command(*map(str, arguments), stdout=out, stderr=StringIO())
    return out.getvalue()


def failing(*arguments: object) -> tuple[str, int]:
    with pytest.raises(CommandError) as caught:
        manage(*arguments)
    return str(caught.value), caught.value.returncode


class TestCleanupCommand:
    def test_it_says_what_it_did(self, disorder: Removed) -> None:
        told = [
            "Files of executions: 2, 14B",
            "Log entries: 5",
            "Unfinished files of dead runs: 1",
            "Files that no log entry knows, set aside: 2",
            "Files that were set aside a week ago: 1",
        ]
        assert manage("system", "cleanup", "--dry-run").splitlines() == ["This would be removed:", *told]
        assert manage("system", "cleanup").splitlines() == told
        assert Execution.objects.count() == 2

    def test_json_has_the_figures(self, disorder: Removed) -> None:
        expected = {name: getattr(disorder, name) for name in Removed.__slots__}
        assert json.loads(manage("system", "cleanup", "--dry-run", "--json")) == expected
        assert json.loads(manage("system", "cleanup", "--json")) == expected
        assert set(json.loads(manage("system", "cleanup", "--json")).values()) == {0}

    def test_days_count_instead_of_the_configured_ones(self, disorder: Removed) -> None:
        assert json.loads(manage("system", "cleanup", "--days=32", "--json"))["files"] == 1
        assert json.loads(manage("system", "cleanup", "--days", 2, "--json"))["files"] == 2

    @pytest.mark.parametrize("days", ["0", "-1"])
    def test_no_days_at_all_is_wrong_use(self, disorder: Removed, days: str) -> None:
        assert failing("system", "cleanup", f"--days={days}") == ("--days must be at least 1.", 2)
        assert Execution.objects.count() == 7

    @pytest.mark.parametrize("arguments", [("cleanup", "--days=soon"), ("wash",), ()])
    def test_what_it_does_not_know_is_wrong_use(self, arguments: tuple[str, ...]) -> None:
        with pytest.raises(CommandError):
            manage("system", *arguments)


class TestStep:
    @pytest.fixture
    def clock(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
        clock = [1000.0]
        with monkeypatch.context() as patched:
            patched.setattr("tasks.scheduler.time.monotonic", lambda: clock[0])
            yield clock

    def test_it_moves_on_by_one_piece_at_a_time_once_an_hour(
        self, clock: list[float], caplog: pytest.LogCaptureFixture
    ) -> None:
        task = make_task()
        rows = [ended(40, task=task) for _ in range(FILES_BATCH + 1)]
        scheduler = make_scheduler()
        assert scheduler.housekeep() == 1
        assert sum((files.output_root() / row.files[0]["path"]).exists() for row in rows) == 1
        assert Execution.objects.count() == len(rows)
        assert scheduler.housekeep() == 1
        assert sum((files.output_root() / row.files[0]["path"]).exists() for row in rows) == 0
        assert Execution.objects.count() == len(rows)
        assert scheduler.housekeep() == 1
        assert Execution.objects.count() == 0
        with caplog.at_level(logging.INFO):
            assert scheduler.housekeep() == 0
        assert f"files={FILES_BATCH + 1}" in caplog.text
        ended(40, task=task)
        clock[0] += HOUR - 1
        assert scheduler.housekeep() == 0
        clock[0] += 1
        assert scheduler.housekeep() == 1

    def test_it_survives_a_piece_that_fails_and_begins_anew_an_hour_later(
        self, clock: list[float], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        execution = ended(40)
        left = make_file(files.temp_root() / "4711-1" / "report.csv", 10 * HOUR)

        def fail(*arguments: object) -> Iterator[None]:
            yield from ()
            raise RuntimeError("a fault")

        scheduler = make_scheduler()
        with monkeypatch.context() as patched:
            patched.setattr(housekeeping, "_old_rows", fail)
            for _ in range(10):
                scheduler.care()
                clock[0] += 10
        assert caplog.text.count("RuntimeError: a fault") == 1
        assert not (files.output_root() / execution.files[0]["path"]).exists(), "the part before it"
        assert not left.exists(), "the part behind it"
        assert SchedulerProcess.objects.alive().exists(), "the other steps"
        scheduler.care()
        assert Execution.objects.exists()
        clock[0] += HOUR
        for _ in range(10):
            scheduler.care()
            clock[0] += 10
        assert not Execution.objects.exists()


class TestStatusCommand:
    def test_it_tells_what_is_going_on(self) -> None:
        task = make_task(name="每日订单", cron="0 9 * * *")
        disabled = make_task(enabled=False, data_source=task.data_source)
        ExportTask.objects.filter(pk=disabled.pk).update(next_run_at=timezone.now())
        make_source(is_active=False)
        for status in (*Status, Status.RUNNING, Status.QUEUED, Status.QUEUED, Status.SUCCEEDED):
            make_execution(task, status=status, finished_at=timezone.now())
        make_execution(task, status=Status.SUCCEEDED, finished_at=timezone.now() - timedelta(days=1))
        make_scheduler(3).care()
        out = manage("system", "status")
        (process,) = SchedulerProcess.objects.all()
        for words in (
            f"Scheduler: {process.name}, 0 of 3 workers busy",
            "Tasks: 1 enabled of 2; data sources: 1",
            "Executions: 2 running, 3 queued",
            "Today: 2 of 4 succeeded",
            "Next run: 20",
            "“每日订单”",
            "Free disk space: ",
        ):
            assert words in out, words
        found = json.loads(manage("system", "status", "--json"))
        assert (found["healthy"], found["problems"], found["paused"]) == (True, [], False)
        assert (found["running"], found["queued"], found["tasks"], found["data_sources"]) == (2, 3, 2, 1)
        assert found["today"]["succeeded"] == 2
        assert found["next_run"]["task"] == "每日订单"
        assert [scheduler["name"] for scheduler in found["schedulers"]] == [process.name]
        assert found["disk_free"] > 0

    def test_without_a_scheduler_it_fails_in_words(self) -> None:
        words, code = failing("system", "status")
        assert code == 1
        assert words.startswith("No scheduler is running")
        assert "scheduler start" in words

    def test_json_comes_with_the_same_exit_code(self, capsys: pytest.CaptureFixture[str]) -> None:
        out = StringIO()
        with translation.override("en"), pytest.raises(CommandError) as caught:
            call_command("system", "status", "--json", stdout=out)
        assert caught.value.returncode == 1
        found = json.loads(out.getvalue())
        assert found["healthy"] is False
        assert found["problems"] == [str(caught.value)]

    def test_a_full_disk_is_a_problem(self, settings: LazySettings) -> None:
        make_scheduler().care()
        assert manage("system", "status")
        configure(settings, min_free_disk=2**60)
        words, code = failing("system", "status")
        assert code == 1
        assert "exports are refused" in words
        assert "export.retention_days" in words


class TestHealth:
    def test_the_whole_system_needs_a_scheduler(self) -> None:
        answer = Client().get("/healthz")
        assert (answer.status_code, answer.json()) == (503, {"status": "no scheduler"})
        scheduler = make_scheduler()
        scheduler.care()
        answer = Client().get("/healthz")
        assert (answer.status_code, answer.json()) == (200, {"status": "ok"})
        scheduler.stop()
        assert Client().get("/healthz").status_code == 503

    def test_the_web_server_alone_needs_none(self) -> None:
        answer = Client().get("/healthz/web")
        assert (answer.status_code, answer.json()) == (200, {"status": "ok"})

    @pytest.mark.parametrize("path", ["/healthz", "/healthz/web"])
    def test_both_need_the_database(self, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
        make_scheduler().care()

        def fail() -> None:
            raise OperationalError("db1 is away")

        with monkeypatch.context() as patched:
            patched.setattr(connection, "ensure_connection", fail)
            answer = Client().get(path)
        assert (answer.status_code, answer.json()) == (503, {"status": "unavailable"})
