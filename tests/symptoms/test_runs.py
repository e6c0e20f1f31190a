"""Every reason of an execution, produced: its page says it in the words of the document, and what these advise helps."""

import resource
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from io import StringIO
from pathlib import Path

import pytest
import time_machine
from django.core.management import call_command
from django.utils import timezone

from exporter_site.access.models import Grant
from exporter_site.command import Failed
from tasks import files
from tasks.models import Execution, ExportTask
from tasks.states import Status
from tasks.writers.csv import CsvWriter
from tests.factories import make_server_source, make_user, paths_of
from tests.servers import free_port
from tests.servers.proxy import Proxy
from tests.symptoms.room import Room, page_of, while_it_runs
from tests.symptoms.table import ROWS, RUNS, produces

# Yields what goes wrong (a task that is then run, or a run that has ended), and once more when the cure has been applied.
Tale = Generator[ExportTask | Execution | None, None, None]
Story = Callable[[Room], Tale]
STORIES: list[tuple[str, Story]] = []
STATUSES = {
    "query_timeout": Status.TIMED_OUT,
    "task_timeout": Status.TIMED_OUT,
    "cancelled": Status.CANCELLED,
    "unplannable": Status.MISSED,
    "overlap": Status.SKIPPED,
    "misfire": Status.MISSED,
    "coalesced": Status.MISSED,
}


def story(code: str) -> Callable[[Story], Story]:
    def added(tell: Story) -> Story:
        STORIES.append((code, tell))
        return produces(RUNS, code)(tell)

    return added


@pytest.mark.parametrize(("code", "tell"), STORIES, ids=lambda value: getattr(value, "__name__", value))
def test_a_reason_leads_to_its_cure(code: str, tell: Story, room: Room) -> None:
    row = ROWS[RUNS, code]
    with closing(tell(room)) as told:
        found = next(told)
        run = room.run(found) if isinstance(found, ExportTask) else found
        assert run is not None
        assert (run.status, run.reason) == (STATUSES.get(code, Status.FAILED), code), run.error
        assert room.verdict(run) == [row.meaning, row.cure]
        assert row.meaning in logs_of(run.task)
        next(told, None)
        again = room.run_again(run)
        assert (again.status, again.reason, again.error) == (Status.SUCCEEDED, "", "")
        assert again.planned_at == run.planned_at
        assert paths_of(again)
        next(told, None)


def logs_of(task: ExportTask | None) -> str:
    assert task is not None
    out = StringIO()
    call_command("task", "logs", str(task.pk), stdout=out)
    return out.getvalue()


# The source


@story("connection_failed")
def a_wrong_port(room: Room) -> Tale:
    source = make_server_source(room.mariadb, "mysql", port=free_port())
    yield room.export(source)
    room.change(source, port=room.mariadb.port, password=room.mariadb.reader.password)
    assert room.tested(source)


@story("connection_lost")
def a_line_that_is_cut(room: Room) -> Tale:
    server = room.postgresql
    with Proxy(server.host, server.port) as proxy:
        source = make_server_source(server, "postgresql", port=proxy.port)
        proxy.cut_after = 200_000
        yield room.export(source, "SELECT n, repeat('x', 100) AS t FROM generate_series(1, 20000) AS n")
        proxy.cut_after = None
        yield None


@story("auth_failed")
def a_wrong_password(room: Room) -> Tale:
    source = make_server_source(room.mariadb, "mysql", password="not-its-password")
    yield room.export(source)
    room.change(source, password=room.mariadb.reader.password)
    assert room.tested(source)


@story("unknown_database")
def a_misspelled_database(room: Room) -> Tale:
    source = make_server_source(room.postgresql, "postgresql", database="no_such_database")
    yield room.export(source)
    room.change(source, database=room.postgresql.new_database())
    assert room.tested(source)


@story("unknown_database")
def a_database_that_the_account_may_not_use(room: Room) -> Tale:
    """MySQL tells such an account no more about one that does not exist."""
    source = make_server_source(room.mariadb, "mysql", database="no_such_database")
    yield room.export(source)
    server = room.mariadb
    server.execute("CREATE DATABASE IF NOT EXISTS no_such_database")
    server.execute(f"GRANT SELECT ON no_such_database.* TO '{server.reader.username}'@'%'")
    assert room.tested(source)
    yield None
    server.execute("DROP DATABASE no_such_database")
    server.execute(f"REVOKE SELECT ON no_such_database.* FROM '{server.reader.username}'@'%'")


@story("unknown_database")
def a_database_that_the_role_may_not_use(room: Room) -> Tale:
    server, database = room.postgresql, room.postgresql.new_database()
    server.execute(f"REVOKE CONNECT ON DATABASE {database} FROM PUBLIC")
    source = make_server_source(server, "postgresql", database=database)
    yield room.export(source)
    server.execute(f"GRANT CONNECT ON DATABASE {database} TO {server.reader.username}")
    assert room.tested(source)


@story("tls_failed")
def a_server_without_tls(room: Room) -> Tale:
    source = make_server_source(room.mariadb, "mysql", ssl_mode="require")
    yield room.export(source)
    room.change(source, ssl_mode="prefer", password=room.mariadb.reader.password)
    assert room.tested(source)


@story("secret_unreadable")
def a_lost_key(room: Room) -> Tale:
    source = make_server_source(room.mariadb, "mysql")
    room.settings.FERNET_KEYS = ["another key"]
    yield room.export(source)
    room.change(source, password=room.mariadb.reader.password)
    assert room.tested(source)


@story("secret_unreadable")
def a_key_that_comes_back(room: Room) -> Tale:
    source, keys = make_server_source(room.mariadb, "mysql"), room.settings.FERNET_KEYS
    room.settings.FERNET_KEYS = ["another key"]
    yield room.export(source)
    room.settings.FERNET_KEYS = keys


@story("permission_denied")
def a_table_of_others(room: Room) -> Tale:
    server = room.postgresql
    source = make_server_source(server, "postgresql")
    reader = server.reader.username
    for statement in ("CREATE TABLE orders (id INTEGER)", f"REVOKE ALL ON orders FROM {reader}"):
        server.execute(statement, database=source.database)
    yield room.export(source, "SELECT id FROM orders")
    server.execute(f"GRANT SELECT ON orders TO {reader}", database=source.database)


@story("source_inactive")
def a_source_that_is_switched_off(room: Room) -> Tale:
    source = room.shop()
    task = room.export(source)
    room.change(source, is_active=False)
    yield task
    room.change(source, is_active=True)


@story("source_inactive")
def another_source_instead(room: Room) -> Tale:
    source = room.shop()
    task = room.export(source)
    room.change(source, is_active=False)
    yield task
    room.change(task, data_source=room.shop().pk)


@story("owner_not_allowed")
def an_owner_without_a_grant(room: Room) -> Tale:
    source = room.shop()
    owner = make_user(role="editor")
    yield room.export(source, owner=owner)
    Grant.objects.create(data_source=source, user=owner)


@story("owner_not_allowed")
def another_owner(room: Room) -> Tale:
    task = room.export(owner=make_user(role="editor"))
    yield task
    room.change(task, owner=room.user.username)


# The SQL


@story("sql_refused")
def sql_that_writes(room: Room) -> Tale:
    task = room.export(sql="DELETE FROM orders", validate=False)
    yield task
    room.change(task, sql="SELECT * FROM orders")


@story("sql_refused")
def a_name_without_a_value(room: Room) -> Tale:
    task = room.export(sql="SELECT {{ params.shop }} AS shop")
    run = room.run(task)
    assert "参数“shop”没有值" in room.html(page_of(run))
    yield run
    room.change(task, params={"shop": "001"})


@story("sql_error")
def a_column_that_there_is_not(room: Room) -> Tale:
    task = room.export(sql="SELECT nothing FROM orders")
    yield task
    with pytest.raises(Failed, match="nothing"):
        call_command("task", "test", str(task.pk))
    room.change(task, sql="SELECT customer FROM orders")
    out = StringIO()
    call_command("task", "test", str(task.pk), stdout=out)
    assert "张三" in out.getvalue()


@story("killed_on_server")
def an_administrator_who_ends_it(room: Room) -> Tale:
    server = room.postgresql
    source = make_server_source(server, "postgresql")
    task = room.export(source, "SELECT n, pg_sleep(0.05)::text AS s FROM generate_series(1, 20) AS n")
    with while_it_runs(server, source.database, lambda pid: server.execute(f"SELECT pg_cancel_backend({pid})")):
        run = room.run(task)
    yield run


# Limits


def slow(room: Room, seconds: float) -> ExportTask:
    """A task whose query takes so long; the first row comes at once."""
    source = make_server_source(room.postgresql, "postgresql")
    return room.export(source, f"SELECT n, pg_sleep(0.1)::text AS s FROM generate_series(1, {seconds * 10:.0f}) AS n")


@story("query_timeout")
def a_slow_query_marked_as_long(room: Room) -> Tale:
    room.configure("export", query_timeout=1)
    task = slow(room, 1.6)
    yield task
    room.change(task, long_running=True)


@story("query_timeout")
def a_slow_query_with_more_time(room: Room) -> Tale:
    room.configure("export", query_timeout=1)
    yield slow(room, 1.6)
    room.configure("export", query_timeout=60)


@story("task_timeout")
def a_slow_run_with_more_time(room: Room) -> Tale:
    room.configure("scheduler", task_timeout=1)
    yield slow(room, 1.6)
    room.configure("scheduler", task_timeout=60)


@story("stalled")
def a_busy_server(room: Room) -> Tale:
    room.configure("export", stall_timeout=1)
    server = room.mariadb
    source = make_server_source(server, "mysql")
    for statement in (
        "CREATE TABLE numbers (n INTEGER)",
        "INSERT INTO numbers SELECT seq FROM seq_1_to_20000",
        "CREATE TABLE busy (seconds INTEGER)",
        "INSERT INTO busy VALUES (30)",
    ):
        server.execute(statement, database=source.database)
    stalling = "IF(n > 15000, SLEEP((SELECT seconds FROM busy)), 0)"
    yield room.export(source, f"SELECT REPEAT('x', 1000) AS x, {stalling} AS s FROM numbers")
    server.execute("UPDATE busy SET seconds = 0", database=source.database)


@story("out_of_memory")
def too_little_memory(room: Room) -> Tale:
    room.configure("export", memory_limit=1_000_000)
    yield slow(room, 0.6)
    room.configure("export", memory_limit=1 << 40)


@story("disk_full")
def a_small_disk_that_is_cleaned_up(room: Room) -> Tale:
    room.small_disk(150_000)
    big = room.run(room.export(sql="SELECT hex(zeroblob(50000)) AS x"))
    Execution.objects.filter(pk=big.pk).update(finished_at=timezone.now() - timedelta(days=20))
    room.configure("export", min_free_disk=100_000)
    yield room.export()
    call_command("system", "cleanup", "--days", "7", stdout=StringIO())
    assert not Path(paths_of(big)[0]).exists()


@story("disk_full")
def a_small_disk_with_a_shorter_retention(room: Room) -> Tale:
    room.small_disk(150_000)
    big = room.run(room.export(sql="SELECT hex(zeroblob(50000)) AS x"))
    Execution.objects.filter(pk=big.pk).update(finished_at=timezone.now() - timedelta(days=20))
    room.configure("export", min_free_disk=100_000)
    yield room.export()
    room.configure("export", retention_days=15)
    call_command("system", "cleanup", stdout=StringIO())


# The file


@story("file_error")
def a_directory_that_can_not_be_made(room: Room) -> Tale:
    blocked = room.directory / "blocked"
    blocked.touch()
    room.configure("export", output_dir=blocked / "exports")
    yield room.export()
    blocked.unlink()


@story("file_too_large")
def a_file_system_with_a_limit(room: Room) -> Tale:
    """As FAT has one, or `ulimit -f`."""
    source = make_server_source(room.postgresql, "postgresql")
    task = room.export(source, "SELECT repeat('x', 1000000) AS x FROM generate_series(1, 30)")
    with largest_file(20_000_000):
        yield room.run(task)
        room.configure("export", max_file_size=10_000_000)
        yield None


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """No file of this process may grow beyond `size`."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@story("storage_unavailable")
def an_object_storage_that_is_away(room: Room) -> Tale:
    endpoint = room.keep_in_a_bucket()
    room.configure("export", s3_endpoint=f"http://127.0.0.1:{free_port()}")
    yield room.export()
    room.configure("export", s3_endpoint=endpoint)


@story("row_count_mismatch")
def a_writer_that_loses_a_row(room: Room) -> Tale:
    task = room.export(sql="SELECT * FROM orders")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(CsvWriter, "_put", lambda self, part, data, rows: None)
        yield room.run(task)
    assert not [path for path in files.output_root().rglob("*") if path.is_file()]


# The run


@story("cancelled")
def a_run_that_somebody_cancels(room: Room) -> Tale:
    run = room.queue(room.export())
    room.press(run, "cancel")
    run.refresh_from_db()
    yield run


@story("overlap")
def a_run_before_that_goes_on(room: Room) -> Tale:
    task = room.export()
    before = Execution.objects.claim(room.queue(task).pk, worker="elsewhere:1:another")
    assert before is not None
    yield room.run(task)
    assert Execution.objects.finish(before, Status.SUCCEEDED)


@story("overlap")
def runs_side_by_side(room: Room) -> Tale:
    task = room.export()
    before = Execution.objects.claim(room.queue(task).pk, worker="elsewhere:1:another")
    assert before is not None
    yield room.run(task)
    room.change(task, overlap="parallel")
    assert Execution.objects.finish(before, Status.SUCCEEDED)
    assert Execution.objects.claim(room.queue(task).pk, worker="elsewhere:1:another")


def due(room: Room, late: timedelta, cron: str) -> ExportTask:
    """A task whose next run was to be `late` ago, when no scheduler was there."""
    task = room.export(cron=cron)
    ExportTask.objects.filter(pk=task.pk).update(next_run_at=timezone.now().replace(second=0, microsecond=0) - late)
    return task


@story("misfire")
def a_scheduler_that_came_too_late(room: Room) -> Tale:
    task = due(room, timedelta(hours=2), "0 0 1 1 *")
    room.work()
    yield Execution.objects.get(task=task)


@story("coalesced")
def a_scheduler_that_came_late(room: Room) -> Tale:
    task = due(room, timedelta(minutes=2), "* * * * *")
    room.work()
    newest, *older = Execution.objects.filter(task=task)
    assert newest.status == Status.SUCCEEDED
    yield older[0]


@story("unplannable")
def a_schedule_that_nobody_can_read(room: Room) -> Tale:
    task = due(room, timedelta(0), "0 9 * * *")
    ExportTask.objects.update(cron="nonsense")
    room.work()
    run = Execution.objects.get()
    yield run
    assert ExportTask.objects.get().next_run_at is None
    room.change(task, cron="* * * * *")
    assert task.next_run_at is not None
    with time_machine.travel(task.next_run_at + timedelta(seconds=1)):
        room.work()
    planned = Execution.objects.get(scheduled_for=task.next_run_at)
    assert planned.status == Status.SUCCEEDED
    # What somebody asks for does not depend on it.
    yield None


@story("internal_error")
def a_fault_of_ours(room: Room) -> Tale:
    task = room.export(sql="SELECT * FROM orders")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(CsvWriter, "_put", lambda self, part, data, rows: 1 / 0)
        yield room.run(task)
    yield None


def test_the_log_has_the_details_of_a_fault_of_ours(room: Room, caplog: pytest.LogCaptureFixture) -> None:
    with closing(a_fault_of_ours(room)) as told:
        next(told)
    assert "ZeroDivisionError" in caplog.text
    assert "Traceback" in caplog.text


def test_a_task_that_was_set_aside_is_planned_anew_when_it_is_saved(room: Room) -> None:
    """Its zone was unknown here until somebody installed the data: in the task itself nothing has to change."""
    task = room.export(cron="0 9 * * *")
    ExportTask.objects.update(next_run_at=None)
    room.change(task, description="时区数据已安装")
    assert task.next_run_at is not None
