"""One execution from source to published file, on every kind of database, and every way it can end."""

import csv
import errno
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

import openpyxl
import pytest
from django.conf import LazySettings
from django.db import OperationalError
from django.utils import translation

from datasources.connectors.base import ConnectorError
from datasources.models import DataSource
from exporter_site.config import Config
from tasks import files, runner
from tasks.models import Execution, ExportTask
from tasks.pipeline import SWITCH_INTERVAL
from tasks.states import ExecutionQuerySet, Status
from tasks.supervisor import Progress
from tests.factories import make_server_source, make_source, make_sqlite_file, make_task, paths_of
from tests.servers.mariadb import MariaDB
from tests.servers.postgresql import PostgreSQL

pytestmark = pytest.mark.django_db

ROWS = "CREATE TABLE numbers (n INTEGER, word VARCHAR(20))"


@pytest.fixture(autouse=True)
def _own_directories(settings: LazySettings, tmp_path: Path) -> None:
    configure(settings, temp_dir=tmp_path / "temp", output_dir=tmp_path / "exports")


def configure(settings: LazySettings, **export: Any) -> None:
    config: Config = settings.CONFIG
    settings.CONFIG = config.model_copy(update={"export": config.export.model_copy(update=export)})


@pytest.fixture(params=["sqlite", "mysql", "postgresql"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> DataSource:
    """A source with the table numbers (n, word) of 2,500 rows."""
    values = ", ".join(f"({n}, 'word {n}')" for n in range(2500))
    statements = (ROWS, f"INSERT INTO numbers VALUES {values}")
    if request.param == "sqlite":
        return make_source(database=str(make_sqlite_file(tmp_path / "numbers.db", statements)))
    server: MariaDB | PostgreSQL = request.getfixturevalue("mariadb" if request.param == "mysql" else "postgresql")
    found = make_server_source(server, request.param)
    for statement in statements:
        server.execute(statement, database=found.database)
    if request.param == "postgresql":
        server.execute(f"GRANT SELECT ON numbers TO {server.reader.username}", database=found.database)
    return found


def claimed(task: ExportTask, **fields: Any) -> Execution:
    from tasks.states import Trigger

    queued = Execution.objects.enqueue(task, trigger=Trigger.MANUAL, **fields)
    execution = Execution.objects.claim(queued.pk, worker="test:1")
    assert execution is not None
    return execution


def run(task: ExportTask, **fields: Any) -> Execution:
    return runner.run(claimed(task, **fields))


def leftovers() -> list[Path]:
    roots = (files.temp_root(), files.output_root())
    return [path for root in roots if root.exists() for path in root.rglob("*") if path.is_file()]


def slow_sql(kind: str) -> str:
    """A query that sends rows for minutes."""
    if kind == "postgresql":
        return "SELECT n, pg_sleep(0.01) FROM generate_series(1, 100000) AS n"
    if kind == "mysql":
        return "SELECT a.n, SLEEP(0.01) FROM numbers a CROSS JOIN numbers b"
    return "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r WHERE n < 500000000) SELECT max(n) FROM r"


def sessions(source: DataSource, request: pytest.FixtureRequest) -> Callable[[str], list[Any]]:
    if source.kind == "sqlite":
        return lambda label: []
    server = request.getfixturevalue("mariadb" if source.kind == "mysql" else "postgresql")
    return lambda label: server.running(label)


def test_the_file_holds_exactly_the_rows_of_the_database(source: DataSource) -> None:
    task = make_task(name="数字", data_source=source, sql="SELECT n, word FROM numbers ORDER BY n")
    execution = run(task)
    assert (execution.status, execution.reason, execution.rows_count) == (Status.SUCCEEDED, "", 2500)
    (path,) = paths_of(execution)
    with closing(openpyxl.load_workbook(path, read_only=True)) as workbook:
        rows = list(workbook.worksheets[0].iter_rows(values_only=True))
    assert rows[0] == ("n", "word")
    assert rows[1:] == [(n, f"word {n}") for n in range(2500)]
    assert execution.file_size == path.stat().st_size
    assert execution.filename == path.name
    assert execution.slot_key is None
    assert not files.temp_root().exists() or not list(files.temp_root().iterdir())


def test_dates_come_from_the_planned_time_and_stand_in_the_sql_as_it_ran(source: DataSource) -> None:
    from datetime import UTC, datetime

    task = make_task(
        data_source=source,
        format="csv",
        filename_template="日报_{{ ds_nodash }}_{{ params.shop }}",
        params={"shop": "007"},
        sql="SELECT '{{ yesterday }}' AS y, {{ params.shop }} AS shop, word FROM numbers WHERE word LIKE 'word 1%' AND n = 1",
    )
    execution = run(task, planned_at=datetime(2025, 3, 1, 17, 0, tzinfo=UTC))  # the 2nd in Shanghai
    (path,) = paths_of(execution)
    assert path.name == "日报_20250302_007.csv"
    content = list(csv.reader(path.read_text("utf-8-sig").splitlines()))
    assert content == [["y", "shop", "word"], ["2025-03-01", "007", "word 1"]]
    assert "'2025-03-01'" in execution.sql
    assert "{{" not in execution.sql


def test_an_empty_result_is_a_file_with_its_header(source: DataSource) -> None:
    execution = run(make_task(data_source=source, sql="SELECT n, word FROM numbers WHERE n < 0"))
    assert (execution.status, execution.rows_count) == (Status.SUCCEEDED, 0)
    (path,) = paths_of(execution)
    sheet = openpyxl.load_workbook(path).worksheets[0]
    assert [[cell.value for cell in row] for row in sheet.iter_rows()] == [["n", "word"]]


def test_a_large_result_goes_on_in_parts_that_hold_all_rows(source: DataSource, settings: LazySettings) -> None:
    configure(settings, max_file_size=20_000)
    execution = run(make_task(data_source=source, format="csv", sql="SELECT n, word FROM numbers ORDER BY n"))
    paths = paths_of(execution)
    assert len(paths) > 1
    assert paths[1].name == f"{paths[0].stem}_part2.csv"
    found = [int(row[0]) for path in paths for row in list(csv.reader(path.read_text("utf-8-sig").splitlines()))[1:]]
    assert found == list(range(2500))
    assert sum(part["rows"] for part in execution.files) == execution.rows_count == 2500


def test_what_a_source_is_faulted_for_is_said_in_the_language_of_who_runs_it(tmp_path: Path) -> None:
    words = {}
    for language in ("en", "zh-hans"):
        source = make_source(database=str(tmp_path / "gone.db"))
        with translation.override(language):
            with pytest.raises(ConnectorError) as caught:
                source.test()
            words[language] = run(make_task(data_source=source, sql="SELECT 1")).error
        assert words[language] == str(caught.value)
    assert words["en"] != words["zh-hans"]


def test_an_error_of_the_database_is_told_and_leaves_nothing(source: DataSource) -> None:
    execution = run(make_task(data_source=source, sql="SELECT missing FROM numbers"))
    assert (execution.status, execution.reason) == (Status.FAILED, "sql_error")
    assert "missing" in execution.error
    assert not leftovers()
    assert paths_of(execution) == []


def test_sql_that_was_made_unsafe_behind_the_form_is_refused_at_run(source: DataSource) -> None:
    execution = run(make_task(validate=False, data_source=source, sql="DELETE FROM numbers"))
    assert (execution.status, execution.reason) == (Status.FAILED, "sql_refused")
    counted = run(make_task(data_source=source, format="csv", sql="SELECT count(*) AS n FROM numbers"))
    assert "2500" in paths_of(counted)[0].read_text("utf-8-sig")


def test_a_source_that_is_switched_off_is_not_read(source: DataSource) -> None:
    source.is_active = False
    source.save()
    execution = run(make_task(data_source=source))
    assert (execution.status, execution.reason) == (Status.FAILED, "source_inactive")


@pytest.fixture
def ended_on_server(source: DataSource, request: pytest.FixtureRequest) -> Callable[[Execution], bool]:
    find = sessions(source, request)

    def gone(execution: Execution) -> bool:
        until = time.monotonic() + 5
        while find(execution.label) and time.monotonic() < until:
            time.sleep(0.1)
        return not find(execution.label)

    return gone


def test_a_query_that_takes_too_long_is_ended_here_and_on_the_server(
    source: DataSource, settings: LazySettings, ended_on_server: Callable[[Execution], bool]
) -> None:
    configure(settings, query_timeout=1)
    started = time.monotonic()
    execution = run(make_task(data_source=source, sql=slow_sql(source.kind)))
    assert (execution.status, execution.reason) == (Status.TIMED_OUT, "query_timeout")
    assert time.monotonic() - started < 15
    assert ended_on_server(execution)
    assert not leftovers()


def test_cancelling_ends_the_query_on_the_server(
    source: DataSource, ended_on_server: Callable[[Execution], bool]
) -> None:
    execution = claimed(make_task(data_source=source, sql=slow_sql(source.kind)))

    def cancel_soon(progress: Progress) -> None:
        if progress.elapsed > 0.5:
            Execution.objects.request_cancel(execution.pk)

    started = time.monotonic()
    ended = runner.run(execution, cancel_soon)
    assert (ended.status, ended.reason) == (Status.CANCELLED, "cancelled")
    assert time.monotonic() - started < 8
    assert ended_on_server(ended)
    assert not leftovers()


def test_a_worker_that_lost_its_run_stops_and_leaves_nothing(
    source: DataSource, ended_on_server: Callable[[Execution], bool]
) -> None:
    execution = claimed(make_task(data_source=source, sql=slow_sql(source.kind)))
    label = execution.label

    def take_over(progress: Progress) -> None:
        Execution.objects.filter(pk=execution.pk).update(attempt=2, worker="other:2")

    ended = runner.run(execution, take_over)
    assert (ended.status, ended.attempt, ended.worker) == (Status.RUNNING, 2, "other:2")
    ended.attempt = int(label.rpartition(":")[2])
    assert ended_on_server(ended)
    assert not leftovers()


def test_the_success_of_who_took_a_run_over_is_not_the_loser_s(source: DataSource) -> None:
    """Whoever has lost a run may hold a query that does not let go: its process takes no further one."""
    execution = claimed(make_task(data_source=source, sql=slow_sql(source.kind)))

    def take_over(progress: Progress) -> None:
        Execution.objects.filter(pk=execution.pk).update(attempt=2, worker="other:2", status=Status.SUCCEEDED)

    assert not runner.run_claimed(execution.pk, execution.attempt, take_over)
    assert not leftovers()


def test_a_worker_whose_database_does_not_answer_stops_all_the_same(
    source: DataSource, monkeypatch: pytest.MonkeyPatch, ended_on_server: Callable[[Execution], bool]
) -> None:
    execution = claimed(make_task(data_source=source, sql=slow_sql(source.kind)))
    cancel = source.connector_class.cancel
    stopped, hung = threading.Event(), threading.Event()

    def noting(self: Any) -> None:
        cancel(self)
        stopped.set()

    def hang(self: Any, *arguments: object) -> bool:
        hung.set()
        assert stopped.wait(20)  # while it waits for the database
        raise OperationalError("timed out")

    monkeypatch.setattr(source.connector_class, "cancel", noting)
    monkeypatch.setattr(ExecutionQuerySet, "heartbeat", hang)
    monkeypatch.setattr("tasks.supervisor.SELF_FENCE", 1.5)
    monkeypatch.setattr("tasks.supervisor.close_old_connections", lambda: None)  # this test's transaction lives in it
    runner.run(execution)
    assert hung.is_set()
    execution.refresh_from_db()
    assert (execution.status, execution.attempt) == (Status.RUNNING, 1)  # whoever takes it up decides
    assert ended_on_server(execution)
    assert not leftovers()


def test_a_file_becomes_visible_only_while_the_run_is_known_to_be_ours(
    source: DataSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    execution = claimed(make_task(data_source=source, sql="SELECT n FROM numbers"))
    published = []

    def take_over(progress: Progress) -> None:
        Execution.objects.filter(pk=execution.pk).update(attempt=2)

    monkeypatch.setattr("tasks.supervisor.FRESH", 0.0)
    monkeypatch.setattr(files, "publish", lambda *place: published.append(place))
    assert runner.run(execution, take_over).attempt == 2
    assert not published
    assert not leftovers()


@pytest.mark.parametrize("tries", [2, 100])
def test_a_whole_file_waits_for_a_database_that_is_away(
    source: DataSource, monkeypatch: pytest.MonkeyPatch, tries: int
) -> None:
    execution = claimed(make_task(data_source=source, sql="SELECT n FROM numbers"))
    heartbeat = ExecutionQuerySet.heartbeat
    failures = iter(range(tries))

    def away(self: Any, *arguments: Any) -> bool:
        if next(failures, None) is None:
            return heartbeat(self, *arguments)
        raise OperationalError("server has gone away")

    monkeypatch.setattr("tasks.supervisor.FRESH", 0.0)
    monkeypatch.setattr(ExecutionQuerySet, "heartbeat", away)
    monkeypatch.setattr("tasks.patience.WAITS", (0, 0, 0))
    monkeypatch.setattr("tasks.patience.connection.close", lambda: None)  # this test's transaction lives in it
    monkeypatch.setattr("tasks.supervisor.close_old_connections", lambda: None)
    runner.run(execution)
    execution.refresh_from_db()
    assert execution.status == (Status.SUCCEEDED if tries == 2 else Status.RUNNING)
    assert leftovers() == paths_of(execution)


def test_a_run_that_lost_its_place_at_the_very_end_withdraws_its_file(
    source: DataSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    execution = claimed(make_task(data_source=source, sql="SELECT n FROM numbers"))
    publish = files.publish

    def publish_too_late(directory: Path, planned_at: datetime) -> Path:
        place = publish(directory, planned_at)
        Execution.objects.filter(pk=execution.pk).update(attempt=2)
        return place

    monkeypatch.setattr(files, "publish", publish_too_late)
    assert runner.run(execution).status == Status.RUNNING
    assert not leftovers()


def test_the_switch_interval_is_short_while_rows_flow_and_as_before_afterwards(
    source: DataSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sys.getswitchinterval()
    seen = []
    stream = source.connector_class.stream

    def noting(self: Any, *args: Any, **options: Any) -> Any:
        seen.append(sys.getswitchinterval())
        return stream(self, *args, **options)

    monkeypatch.setattr(source.connector_class, "stream", noting)
    assert run(make_task(data_source=source, sql="SELECT n FROM numbers")).status == Status.SUCCEEDED
    assert seen == [pytest.approx(SWITCH_INTERVAL)]
    assert sys.getswitchinterval() == before


def test_too_little_free_disk_is_seen_before_the_query(source: DataSource, settings: LazySettings) -> None:
    configure(settings, min_free_disk=1 << 60)
    execution = run(make_task(data_source=source, sql="SELECT n FROM numbers"))
    assert (execution.status, execution.reason) == (Status.FAILED, "disk_full")


@pytest.mark.parametrize(
    ("number", "reason"), [(errno.ENOSPC, "disk_full"), (errno.EFBIG, "file_too_large"), (errno.EIO, "file_error")]
)
def test_a_disk_that_fails_while_rows_are_written(
    source: DataSource, monkeypatch: pytest.MonkeyPatch, number: int, reason: str
) -> None:
    from tasks.writers.outfile import HashedFile

    write = HashedFile.write

    def failing(self: HashedFile, data: bytes) -> None:
        if self.size:  # behind the header
            raise OSError(number, "injected")
        write(self, data)

    monkeypatch.setattr(HashedFile, "write", failing)
    execution = run(make_task(data_source=source, format="csv", sql="SELECT n, word FROM numbers"))
    assert (execution.status, execution.reason) == (Status.FAILED, reason)
    assert not leftovers()


def test_a_run_that_needs_too_much_memory_is_stopped(source: DataSource, settings: LazySettings) -> None:
    configure(settings, memory_limit=1_000_000)
    execution = run(make_task(data_source=source, sql=slow_sql(source.kind)))
    assert (execution.status, execution.reason) == (Status.FAILED, "out_of_memory")


def test_a_source_that_stops_sending_is_given_up(mariadb: MariaDB, settings: LazySettings) -> None:
    configure(settings, stall_timeout=1)
    source = make_server_source(mariadb, "mysql")
    mariadb.execute("CREATE TABLE numbers (n INTEGER)", database=source.database)
    mariadb.execute("INSERT INTO numbers SELECT seq FROM seq_1_to_20000", database=source.database)
    sql = "SELECT REPEAT('x', 1000) AS x, IF(n > 15000, SLEEP(30), 0) AS stalled FROM numbers"
    execution = run(make_task(data_source=source, sql=sql))
    assert (execution.status, execution.reason) == (Status.FAILED, "stalled")
    assert not leftovers()


def test_progress_is_stored_while_rows_flow(source: DataSource) -> None:
    execution = claimed(make_task(data_source=source, sql=slow_sql(source.kind)))
    seen: list[dict[str, Any]] = []

    def look(progress: Progress) -> None:
        row = Execution.objects.get(pk=execution.pk)
        seen.append({"backend": row.backend_id, **row.progress})
        if progress.elapsed > 1.6:
            Execution.objects.request_cancel(execution.pk)

    runner.run(execution, look)
    assert seen[-1].keys() == {"backend", "rows", "bytes", "rate"}
    assert bool(seen[-1]["backend"]) == (source.kind != "sqlite")


def test_the_source_thread_never_touches_the_system_database(
    source: DataSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    from django.db.backends.utils import CursorWrapper

    used: set[str] = set()
    execute = CursorWrapper.execute

    def noting(self: Any, *args: Any, **kwargs: Any) -> Any:
        used.add(threading.current_thread().name)
        return execute(self, *args, **kwargs)

    monkeypatch.setattr(CursorWrapper, "execute", noting)
    assert run(make_task(data_source=source, sql="SELECT n FROM numbers")).status == Status.SUCCEEDED
    assert used == {threading.main_thread().name}


def test_what_an_earlier_attempt_has_left_is_cleared_away(tmp_path: Path) -> None:
    source = make_source(database=str(make_sqlite_file(tmp_path / "numbers.db", (ROWS,))))
    execution = claimed(make_task(data_source=source, sql="SELECT n FROM numbers", format="csv"))
    Execution.objects.filter(pk=execution.pk).update(attempt=3)
    execution.refresh_from_db()
    for root in (files.temp_root(), files.month_directory(execution.planned_at)):
        for attempt in (1, 2):
            left = root / files.attempt_name(execution.pk, attempt)
            left.mkdir(parents=True)
            (left / "left.csv").write_text("1")
    assert runner.run(execution).status == Status.SUCCEEDED
    assert leftovers() == paths_of(execution)


def test_a_database_that_is_away_for_a_moment_fails_no_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    source = make_source(database=str(make_sqlite_file(tmp_path / "numbers.db", (ROWS,))))
    execution = claimed(make_task(data_source=source, sql="SELECT n FROM numbers", format="csv"))
    away = {"begin": 2, "finish": 2}

    def sometimes(name: str) -> Callable[..., object]:
        real = getattr(ExecutionQuerySet, name)

        def call(*args: object, **kwargs: object) -> object:
            if away[name]:
                away[name] -= 1
                raise OperationalError("server has gone away")
            return real(*args, **kwargs)

        return call

    monkeypatch.setattr("tasks.patience.WAITS", (0, 0, 0))
    monkeypatch.setattr("tasks.patience.connection.close", lambda: None)  # this test's transaction lives in it
    for name in away:
        monkeypatch.setattr(ExecutionQuerySet, name, sometimes(name))
    assert runner.run(execution).status == Status.SUCCEEDED
    assert away == {"begin": 0, "finish": 0}
