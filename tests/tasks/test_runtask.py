"""manage.py runtask as an operator and as cron use it: real processes, real signals, real servers."""

import errno
import json
import os
import pty
import shutil
import signal
import time
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import IO, Any

import pytest
from django.conf import LazySettings
from django.core.management import call_command

from exporter_site.command import Failed
from exporter_site.config import Notifications
from notifications.models import Delivery
from tasks import launch, runner
from tasks.models import Execution
from tasks.storage import StoredFile
from tests.factories import make_source, make_sqlite_file, make_task, paths_of
from tests.instance import Instance
from tests.servers.mariadb import MariaDB
from tests.servers.postgresql import PostgreSQL
from tests.servers.robots import Robots

SLOW = {
    "mysql": "SELECT a.seq, SLEEP(0.01) AS s, REPEAT('x', 2000) AS wide FROM seq_1_to_10000 a",
    "postgresql": "SELECT n, pg_sleep(0.01)::text AS s, repeat('x', 2000) AS wide FROM generate_series(1, 10000) AS n",
}


@pytest.fixture
def shop(instance: Instance, tmp_path: Path) -> Instance:
    """An installation with the task 每日订单 on an SQLite shop of three orders."""
    file = make_sqlite_file(tmp_path / "shop.db")
    instance.manage("datasource", "create", "shop", "sqlite", "-", "-", file, "-")
    add_task(instance, name="每日订单", data_source="shop", sql="SELECT * FROM orders ORDER BY id")
    return instance


def add_task(instance: Instance, **fields: object) -> None:
    instance.manage("task", "import", "-", input=json.dumps({"tasks": [fields]}, ensure_ascii=False))


def server_shop(instance: Instance, server: MariaDB | PostgreSQL, kind: str, **fields: object) -> str:
    """A source on `server` and a slow task “slow”. Returns the database's name."""
    database = server.new_database()
    instance.manage(
        *("datasource", "create", kind, kind, server.host, server.port, database, server.reader.username),
        "--password-env=PASSWORD",
        env={"PASSWORD": server.reader.password},
    )
    add_task(instance, name="slow", data_source=kind, sql=SLOW[kind], **fields)
    return database


def last_execution(instance: Instance, task: str = "slow") -> dict[str, Any]:
    found: dict[str, object] = json.loads(instance.manage("task", "logs", task, "--json").stdout)[0]
    return found


def files_below(*roots: Path) -> list[Path]:
    return [path for root in roots if root.exists() for path in root.rglob("*") if path.is_file()]


def eventually(check: Callable[[], bool], seconds: float = 20) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if check():
            return True
        time.sleep(0.1)
    return False


def wait_until_streaming(server: MariaDB | PostgreSQL, label: str = "exp:1:1") -> None:
    assert eventually(lambda: bool(server.running(label))), "the query never started"
    time.sleep(0.5)


def test_it_prints_a_summary_with_the_path_of_the_file(shop: Instance) -> None:
    done = shop.manage("runtask", "每日订单")
    path = Path(done.stdout.strip().splitlines()[-1])
    assert path.is_file()
    assert path.parent.parent.parent == shop.output_dir
    assert "每日订单" in done.stdout
    assert "成功" in done.stdout
    assert not files_below(shop.temp_dir)


def test_json_is_the_execution_with_its_paths(shop: Instance) -> None:
    found = json.loads(shop.manage("runtask", "1", "--json", "--no-notify").stdout)
    assert (found["status"], found["rows_count"], found["trigger"]) == ("succeeded", 3, "cli")
    assert Path(found["paths"][0]).stat().st_size == found["file_size"]
    assert len(found["sha256"]) == 64
    notify = shop.python("from tasks.models import Execution\nprint(Execution.objects.get().notify)")
    assert notify.strip() == "False"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("每日订单", "--date", "12.8.2025"), 2, "12.8.2025"),
        (("没有",), 2, "没有"),
        (("每日订单", "--format", "pdf"), 2, "xlsx, csv"),
        (("每日订单", "--param", "shop"), 2, "NAME=VALUE"),
        (("每日订单", "--output", "/nowhere/file.xlsx"), 1, "/nowhere"),
    ],
)
def test_wrong_use_is_one_sentence_and_an_exit_code(
    shop: Instance, arguments: tuple[str, ...], code: int, words: str
) -> None:
    done = shop.manage("runtask", *arguments, check=False)
    assert done.returncode == code
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert not files_below(shop.output_dir, shop.temp_dir)


def test_a_failure_has_exit_code_1_and_says_why_on_stderr(shop: Instance) -> None:
    add_task(shop, name="broken", data_source="shop", sql="SELECT nothing FROM orders")
    done = shop.manage("runtask", "broken", check=False)
    assert done.returncode == 1
    assert "nothing" in done.stderr
    assert "失败" in done.stderr


def test_date_format_parameters_and_output(shop: Instance, tmp_path: Path) -> None:
    sql = "SELECT {{ ds }} AS d, {{ params.shop }} AS s"
    add_task(shop, name="dated", data_source="shop", sql=sql, params={"shop": "001"}, filename_template="日报_{{ ds }}")
    target = tmp_path / "out"
    target.mkdir()
    shop.manage("runtask", "dated", "--date", "2025-08-12", "--param", "shop=007", "--format=csv", "--output", target)
    assert (target / "日报_2025-08-12.csv").read_text("utf-8-sig").splitlines() == ["d,s", "2025-08-12,007"]
    shop.manage("runtask", "dated", "--output", target / "named.xlsx")
    assert sorted(path.name for path in target.iterdir()) == ["named.xlsx", "日报_2025-08-12.csv"]


@pytest.mark.django_db
@pytest.mark.parametrize("as_json", [False, True])
def test_a_copy_that_cannot_be_made_keeps_no_message_from_going_out(
    settings: LazySettings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, as_json: bool
) -> None:
    export = {"output_dir": tmp_path / "exports", "temp_dir": tmp_path / "temp"}
    source = make_source(database=str(make_sqlite_file(tmp_path / "shop.db")))
    target = tmp_path / "out"
    target.mkdir()
    usual = runner.run

    def run(*args: Any) -> Execution:
        ended = usual(*args)
        target.rmdir()
        return ended

    monkeypatch.setattr(runner, "run", run)
    with Robots() as server:
        lists = Notifications(private_hosts=[server.place])
        changes = {"export": settings.CONFIG.export.model_copy(update=export), "notifications": lists}
        settings.CONFIG = settings.CONFIG.model_copy(update=changes)
        sql = "SELECT * FROM orders"
        make_task(name="每日订单", data_source=source, sql=sql, dingtalk_webhook=server.add("dingtalk").url)
        out = StringIO()
        with pytest.raises(Failed) as caught:
            call_command("runtask", "每日订单", output=target, as_json=as_json, stdout=out)
    assert caught.value.returncode == 1
    assert str(target) in str(caught.value)
    (path,) = paths_of(Execution.objects.get())
    assert path.is_file()
    assert str(path) in str(caught.value)
    assert str(path) in out.getvalue()
    assert [row.status for row in Delivery.objects.all()] == ["sent"]
    assert len(server.accepted) == 1
    # What was meant as a directory does not become the name of a file.
    assert not [left for left in tmp_path.iterdir() if left.name.startswith(("out", ".out"))]


def test_a_copy_is_whole_or_not_there(tmp_path: Path, settings: LazySettings, monkeypatch: pytest.MonkeyPatch) -> None:
    def copy(source: IO[bytes], target: IO[bytes]) -> None:
        target.write(source.read(2))
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copyfileobj", copy)
    exports, out = tmp_path / "exports", tmp_path / "out"
    for directory in (exports, out):
        directory.mkdir()
    (exports / "a.xlsx").write_bytes(b"whole")
    export = settings.CONFIG.export.model_copy(update={"output_dir": exports})
    settings.CONFIG = settings.CONFIG.model_copy(update={"export": export})
    with pytest.raises(OSError, match="No space"):
        launch.copy_to([StoredFile("local", "a.xlsx")], launch.Output.at(out))
    assert not list(out.iterdir())


def test_a_terminal_sees_the_rows_flow(instance: Instance, postgresql: PostgreSQL) -> None:
    server_shop(instance, postgresql, "postgresql")
    ours, theirs = pty.openpty()
    process = instance.spawn("runtask", "slow", stderr=theirs)
    os.close(theirs)
    wait_until_streaming(postgresql)
    time.sleep(1)
    shown = os.read(ours, 65536).decode()
    assert "\r" in shown
    assert "行" in shown
    process.send_signal(signal.SIGINT)
    process.wait(20)
    os.close(ours)


@pytest.mark.parametrize("kind", ["mysql", "postgresql"])
def test_ctrl_c_cancels_cleanly(instance: Instance, kind: str, request: pytest.FixtureRequest) -> None:
    server = request.getfixturevalue("mariadb" if kind == "mysql" else "postgresql")
    server_shop(instance, server, kind)
    process = instance.spawn("runtask", "slow")
    wait_until_streaming(server)
    process.send_signal(signal.SIGINT)
    _out, err = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "Traceback" not in err
    found = last_execution(instance)
    assert (found["status"], found["reason"]) == ("cancelled", "cancelled")
    assert eventually(lambda: not server.running("exp:1:1"))
    assert not files_below(instance.output_dir, instance.temp_dir)


@pytest.mark.parametrize("kind", ["mysql", "postgresql"])
def test_a_killed_process_is_closed_by_the_next_one(
    instance: Instance, kind: str, request: pytest.FixtureRequest
) -> None:
    server = request.getfixturevalue("mariadb" if kind == "mysql" else "postgresql")
    server_shop(instance, server, kind)
    process = instance.spawn("runtask", "slow")
    wait_until_streaming(server)
    time.sleep(1)  # one heartbeat has stored the session's id
    process.kill()
    process.wait()
    assert files_below(instance.temp_dir)
    instance.manage("runscheduler", "--once")
    found = last_execution(instance)
    assert (found["status"], found["reason"]) == ("failed", "worker_lost")
    assert eventually(lambda: not server.running("exp:1:1"), 5)
    assert not files_below(instance.output_dir, instance.temp_dir)


@pytest.mark.parametrize("kind", ["mysql", "postgresql"])
def test_a_connection_that_is_killed_on_the_server_fails_the_run(
    instance: Instance, kind: str, request: pytest.FixtureRequest
) -> None:
    server = request.getfixturevalue("mariadb" if kind == "mysql" else "postgresql")
    server_shop(instance, server, kind)
    process = instance.spawn("runtask", "slow")
    wait_until_streaming(server)
    (session,) = server.running("exp:1:1")
    server.execute(f"KILL {session.id}" if kind == "mysql" else f"SELECT pg_terminate_backend({session.id})")
    process.communicate(timeout=30)
    assert process.returncode == 1
    found = last_execution(instance)
    assert found["status"] == "failed"
    assert found["reason"] in ("connection_lost", "killed_on_server")
    assert not files_below(instance.output_dir, instance.temp_dir)


@pytest.mark.parametrize("kind", ["mysql", "postgresql"])
def test_a_server_that_dies_fails_the_run(instance: Instance, kind: str) -> None:
    server = (MariaDB if kind == "mysql" else PostgreSQL)().start()
    try:
        server_shop(instance, server, kind)
        process = instance.spawn("runtask", "slow")
        wait_until_streaming(server)
        server.kill()
        process.communicate(timeout=30)
        assert process.returncode == 1
        found = last_execution(instance)
        assert (found["status"], found["reason"]) == ("failed", "connection_lost")
        assert not files_below(instance.output_dir, instance.temp_dir)
    finally:
        server.stop()


def test_a_task_that_is_running_is_not_started_twice(instance: Instance, mariadb: MariaDB) -> None:
    server_shop(instance, mariadb, "mysql")
    first = instance.spawn("runtask", "slow")
    wait_until_streaming(mariadb)
    second = instance.manage("runtask", "slow", check=False)
    assert second.returncode == 1
    assert "slow" in second.stderr
    found = last_execution(instance)
    assert (found["status"], found["reason"]) == ("skipped", "overlap")
    first.send_signal(signal.SIGINT)
    first.wait(20)


def test_no_password_is_found_where_it_does_not_belong(
    instance: Instance, mariadb: MariaDB, postgresql: PostgreSQL
) -> None:
    for kind, server in (("mysql", mariadb), ("postgresql", postgresql)):
        server_shop(instance, server, kind)
        instance.manage("datasource", "test", kind)
        instance.manage(
            "runtask", "slow", "--date", "2025-01-01", check=False, env={"EXPORTER_EXPORT__QUERY_TIMEOUT": "2"}
        )
    wrong = "wrong-canary-password"
    instance.manage(
        *("datasource", "create", "refused", "mysql", mariadb.host, mariadb.port, "x", "reader"),
        "--password-stdin",
        input=wrong,
    )
    refused = instance.manage("datasource", "test", "refused", check=False)
    assert refused.returncode == 1
    texts = [instance.database_text(), instance.log_file.read_bytes(), refused.stderr.encode()]
    texts += [path.read_bytes() for path in files_below(instance.output_dir)]
    for secret in (wrong, mariadb.reader.password, postgresql.reader.password):
        assert not any(secret.encode() in text for text in texts)


def test_exit_code_of_an_unreachable_system_database_is_1_with_one_sentence(instance: Instance) -> None:
    environment = {
        "EXPORTER_SYSTEM_DATABASE__TYPE": "postgresql",
        "EXPORTER_SYSTEM_DATABASE__HOST": "127.0.0.1",
        "EXPORTER_SYSTEM_DATABASE__PORT": "1",
        "EXPORTER_SYSTEM_DATABASE__PASSWORD": "x",
    }
    done = instance.manage("task", "list", check=False, env=environment)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
