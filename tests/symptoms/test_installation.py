"""What is about processes, files and the start: produced in an installation of its own, by commands and signals."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import yaml

from exporter_site.config import BASE_DIR
from tests.factories import make_sqlite_file
from tests.faults.load import query_of
from tests.instance import Instance, _template
from tests.plugin import foreign_names
from tests.servers import free_port
from tests.servers.mariadb import MariaDB
from tests.servers.postgresql import PostgreSQL
from tests.servers.robots import Robots
from tests.symptoms.table import MESSAGES, ROWS, RUNS, SYSTEM, produces
from tests.tasks.test_daemon import lives, schedulers, started
from tests.tasks.test_executors import ENQUEUE
from tests.tasks.test_runtask import eventually, wait_until_streaming
from tests.tasks.test_watchdog import CRONTAB

# Waits half a second for each row as long as `busy` says so.
SLOW = "SELECT n, pg_sleep((SELECT seconds FROM busy))::text AS s FROM generate_series(1, 1000) AS n"
ADD = """
from datasources.models import *; from tasks.models import *
source = DataSource.objects.create(**{source!r})
ExportTask.objects.create(name={name!r}, data_source=source, sql={sql!r})
"""
# What a browser is answered at each of some addresses: the status, what the page says, and a line between two of them.
LOOK = """
from django.contrib.auth.models import User
from django.test import Client
from tests.site.pages import texts_of
client = Client(headers={{"accept-language": "zh-hans"}}, raise_request_exception=False)
if {cookie!r}:
    client.cookies["sessionid"] = {cookie!r}
elif {signed_in}:
    client.force_login(User.objects.get_or_create(username="looker", is_staff=True, is_superuser=True)[0])
for host, path in {pages!r}:
    answer = client.get(path, headers={{"host": host}})
    html = answer.content.decode()
    print(answer.status_code, *(texts_of(html) if "html" in answer.headers["Content-Type"] else [html]), sep="\\n")
    print("-" * 80)
"""


def look(
    instance: Instance,
    *paths: str,
    host: str = "localhost",
    signed_in: bool = True,
    cookie: str = "",
    env: Mapping[str, str] | None = None,
) -> list[list[str]]:
    """The pages at `paths` (or at host and path, with a blank between), each as its status and its texts."""
    pages = [tuple(path.split()) if " " in path else (host, path) for path in paths]
    told = instance.python(LOOK.format(pages=pages, signed_in=signed_in, cookie=cookie), env=env)
    return [page.strip("\n").split("\n") for page in told.split("-" * 80 + "\n")[:-1]]


def add_task(instance: Instance, name: str, sql: str, **source: object) -> None:
    instance.python(ADD.format(name=name, sql=sql, source={"name": "source", **source}))


def add_slow_task(instance: Instance, server: PostgreSQL) -> str:
    """The task “slow”, which never ends unless the database that is returned is less busy."""
    database = server.new_database()
    for statement in ("CREATE TABLE busy (seconds FLOAT)", "INSERT INTO busy VALUES (0.5)"):
        server.execute(statement, database=database)
    account = {"username": server.reader.username, "password": server.reader.password}
    add_task(
        instance, "slow", SLOW, kind="postgresql", host=server.host, port=server.port, database=database, **account
    )
    return database


# ---- The scheduler


@produces(SYSTEM, "红色横幅“没有调度器在运行”")
@produces(RUNS, "worker_lost")
def test_a_scheduler_is_started_and_a_run_whose_process_was_killed_is_run_again(
    instance: Instance, postgresql: PostgreSQL
) -> None:
    (label,) = ROWS[SYSTEM, "红色横幅“没有调度器在运行”"].labels
    stopped = instance.manage("system", "status", check=False)
    assert stopped.returncode == 1
    assert label in stopped.stderr
    [overview] = look(instance, "/admin/")
    assert any(label in text for text in overview)
    database = add_slow_task(instance, postgresql)
    instance.python(ENQUEUE)
    started(instance)
    wait_until_streaming(postgresql)
    query = query_of(instance)
    [(worker,)] = query("SELECT worker FROM tasks_execution")
    os.kill(int(worker.split(":")[1]), signal.SIGKILL)  # as the kernel does it when there is no memory left
    assert eventually(lambda: query("SELECT status, reason FROM tasks_execution") == [("failed", "worker_lost")])
    overview, run = look(instance, "/admin/", "/admin/tasks/execution/1/change/")
    assert not any(label in text for text in overview)
    row = ROWS[RUNS, "worker_lost"]
    assert row.meaning in run
    assert row.cure in run
    postgresql.execute("UPDATE busy SET seconds = 0", database=database)
    assert "成功" in instance.manage("task", "execute", "slow").stdout


@produces(SYSTEM, "红色横幅“没有调度器在运行”")
def test_the_crontab_starts_a_scheduler_again_that_has_died(instance: Instance, tmp_path: Path) -> None:
    """The line that `crontab add` writes, done as cron does it."""
    program = tmp_path / "crontab"
    program.write_text(CRONTAB.format(dir=tmp_path))
    program.chmod(0o755)
    begin = (
        f"from django.conf import settings; settings.CRONTAB_EXECUTABLE = {str(program)!r}\n"
        "from django.core.management import call_command\n"
    )
    instance.python(f"{begin}call_command('crontab', 'add')")
    digest = (tmp_path / "table").read_text().split(" crontab run ")[1].split()[0]
    old = started(instance)
    os.kill(old, signal.SIGKILL)
    assert eventually(lambda: not lives(old))
    instance.python(f"{begin}call_command('crontab', 'run', {digest!r})")
    assert schedulers(instance) not in ([], [old])


@produces(RUNS, "interrupted")
def test_a_run_that_was_stopped_with_the_system_is_run_again(instance: Instance, postgresql: PostgreSQL) -> None:
    database = add_slow_task(instance, postgresql)
    process = instance.spawn("runtask", "slow")
    wait_until_streaming(postgresql)
    process.send_signal(signal.SIGTERM)
    _out, err = process.communicate(timeout=60)
    row = ROWS[RUNS, "interrupted"]
    assert process.returncode == 1
    assert row.meaning in err
    [run] = look(instance, "/admin/tasks/execution/1/change/")
    assert row.meaning in run
    assert row.cure in run
    postgresql.execute("UPDATE busy SET seconds = 0", database=database)
    assert "成功" in instance.manage("runtask", "slow").stdout


# ---- Start, addresses, configuration


@pytest.fixture
def copy(tmp_path: Path) -> Iterator[Path]:
    """The whole system in a directory of its own, as start_all.sh finds it when everything is installed."""
    place = tmp_path / "system"
    unwanted = (".git", ".venv*", "tests", "benchmarks", "frontend", "docs", "data", "temp", "exports", "logs")
    shutil.copytree(BASE_DIR, place, ignore=shutil.ignore_patterns(*unwanted, "__pycache__", ".*_cache", "*.po"))
    # Packages are those of this environment: nothing is installed, whatever start_all.sh thinks of them.
    environment = place / ".venv"
    environment.mkdir()
    for name in ("bin", "lib", "pyvenv.cfg"):
        (environment / name).symlink_to(Path(sys.prefix) / name)
    run_in(place, "source deploy/bootstrap.sh; requirements_digest requirements.lock >.venv/.installed-runtime")
    (place / "data").mkdir()
    shutil.copy(_template("sqlite"), place / "data" / "system.db")
    yield place
    run_in(place, "./start_all.sh --stop")


def run_in(place: Path, script: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if name not in foreign_names()}
    inherited.pop("LANGUAGE", None)
    inherited.pop("DJANGO_SETTINGS_MODULE", None)
    return subprocess.run(
        ["bash", "-c", script],
        cwd=place,
        env=inherited | {"PIP_DRY_RUN": "1", "PIP_NO_INDEX": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )


def status_of(port: int) -> int:
    """What a browser gets at this port; 0 when there is nobody."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"http://127.0.0.1:{port}/admin/login/", timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as exc:
        return exc.code
    except OSError:
        return 0


@pytest.mark.slow
@produces(SYSTEM, "网页打不开")
def test_a_page_that_can_not_be_reached(copy: Path) -> None:
    def listen_at(port: int) -> None:
        (copy / "config.yaml").write_text(yaml.safe_dump({"web": {"host": "127.0.0.1", "port": port}}))

    with socket.create_server(("127.0.0.1", 0)) as another:
        taken, port = another.getsockname()[1], free_port()
        listen_at(taken)
        stopped = run_in(copy, "./start_all.sh --status")
        assert stopped.returncode == 1
        assert "web        没有运行" in stopped.stderr
        refused = run_in(copy, "./start_all.sh")
        assert refused.returncode == 1
        assert f"端口 {taken} 无法使用" in refused.stderr
        assert "web.port" in refused.stderr
        listen_at(port)
        done = run_in(copy, "./start_all.sh")
        assert done.returncode == 0, done.stdout + done.stderr
    assert status_of(port) == 200
    running = run_in(copy, "./start_all.sh --status")
    assert running.returncode == 0
    assert "web        PID" in running.stdout
    for name in ("web", "scheduler"):
        assert (copy / "logs" / f"{name}.log").is_file()


@produces(SYSTEM, "浏览器显示 400")
def test_a_host_that_is_not_that_of_the_public_address(instance: Instance) -> None:
    wrong, right = "192.0.2.7 /admin/login/", "reports.example.com /admin/login/"
    before = look(
        instance, wrong, right, signed_in=False, env={"EXPORTER_WEB__PUBLIC_URL": "http://reports.example.com"}
    )
    assert [page[0] for page in before] == ["400", "200"]
    [after] = look(instance, wrong, signed_in=False, env={"EXPORTER_WEB__PUBLIC_URL": "http://192.0.2.7:5001"})
    assert after[0] == "200"


AWAY = {
    "EXPORTER_SYSTEM_DATABASE__TYPE": "postgresql",
    "EXPORTER_SYSTEM_DATABASE__HOST": "127.0.0.1",
    "EXPORTER_SYSTEM_DATABASE__PORT": "1",
    "EXPORTER_SYSTEM_DATABASE__PASSWORD": "a-secret-word",
}
FULL = {"EXPORTER_EXPORT__MIN_FREE_DISK": str(1 << 60)}


@produces(SYSTEM, "/healthz 返回 503")
def test_health_says_which_part_is_not_well_and_the_doctor_what_to_do(instance: Instance) -> None:
    instance.environment["EXPORTER_EXPORT__MIN_FREE_DISK"] = "1"

    def is_not_well(word: str, check: str, **fault: str) -> str:
        health, page = look(instance, "/healthz", "/admin/", cookie="of-a-session", env=fault)
        assert (health[0], word in json.loads(health[1])["status"]) == ("503", True)
        told = instance.manage("system", "doctor", check, check=False, env=fault)
        assert told.returncode == 1
        assert told.stdout.startswith("✗")
        assert "    → " in told.stdout
        return page[0]

    assert is_not_well("no scheduler", "scheduler") == "302", "pages come all the same: this one leads to the login"
    assert is_not_well("unavailable", "system_database", **AWAY) == "500"
    assert is_not_well("low disk", "disk", **FULL) == "302"
    started(instance)
    assert look(instance, "/healthz", signed_in=False) == [["200", '{"status": "ok"}']]
    instance.manage("system", "doctor", "system_database", "disk", "scheduler")


@produces(SYSTEM, "启动时报配置错误")
def test_a_mistake_in_the_configuration(instance: Instance) -> None:
    right = instance.config_file.read_text()
    instance.config_file.write_text(f"{right}\nscheduler: {{max_wrokers: 3}}\n")
    refused = instance.manage("scheduler", "start", check=False)
    assert refused.returncode == 1
    for words in ("`scheduler.max_wrokers`", "`scheduler.max_workers`", "config.yaml"):
        assert words in refused.stderr
    instance.config_file.write_text(f"{right}\nscheduler: {{max_workers: 3}}\n")
    started(instance)


# ---- Passwords and keys


@produces(SYSTEM, "忘记管理员密码")
def test_a_forgotten_password(instance: Instance) -> None:
    instance.manage("ensureadmin")
    new = "a new word 4711"
    process = instance.spawn("changepassword", "admin", stdin=subprocess.PIPE)
    _out, err = process.communicate(f"{new}\n{new}\n", timeout=60)
    assert process.returncode == 0, err
    told = instance.python(
        "from django.test import Client\nclient = Client()\n"
        f"answer = client.post('/admin/login/', {{'username': 'admin', 'password': {new!r}}}, headers={{'host': 'localhost'}})\n"
        "print(answer.status_code, client.get('/admin/', headers={'host': 'localhost'}).status_code)"
    )
    assert told.split() == ["302", "200"]


@produces(SYSTEM, "提示密码无法解密（secret_unreadable）")
def test_a_lost_key_file(instance: Instance, mariadb: MariaDB) -> None:
    place = ("shop", "mysql", mariadb.host, mariadb.port, mariadb.new_database(), mariadb.reader.username)
    password = {"PASSWORD": mariadb.reader.password}
    instance.manage("datasource", "create", *place, "--password-env=PASSWORD", env=password)
    keys = Path(instance.environment["EXPORTER_KEYS_FILE"])
    kept = keys.with_name("kept.json")
    keys.rename(kept)
    lost = instance.manage("datasource", "test", "shop", check=False)
    assert lost.returncode == 1
    assert "无法解密" in lost.stderr
    told = instance.manage("system", "doctor", "secrets", check=False)
    assert told.returncode == 1
    assert "“shop”" in told.stdout
    new = keys.read_bytes()

    kept.replace(keys)
    instance.manage("datasource", "test", "shop")

    keys.write_bytes(new)
    instance.manage("datasource", "create", *place, "--update", "--password-env=PASSWORD", env=password)
    instance.manage("datasource", "test", "shop")


# ---- A backup


@produces(RUNS, "restored", "file_missing")
@produces(MESSAGES, "restored")
def test_what_a_backup_does_not_know_is_made_up_for(instance: Instance, tmp_path: Path) -> None:
    """A file that is not there any more, a message and a run that waited when the backup was taken."""
    add_task(
        instance,
        "每日订单",
        "SELECT * FROM orders",
        kind="sqlite",
        database=str(make_sqlite_file(tmp_path / "shop.db")),
    )
    with Robots() as server:
        instance.environment["EXPORTER_NOTIFICATIONS__PRIVATE_HOSTS"] = server.place
        instance.environment["EXPORTER_EXPORT__MIN_FREE_DISK"] = "1"
        instance.manage("runtask", "1", "--no-notify")
        instance.python(WAITING.format(url=server.add("dingtalk").url))
        [(planned,)] = query_of(instance)("SELECT planned_at FROM tasks_execution WHERE id = 3")
        backup = json.loads(instance.manage("system", "backup", "--json").stdout)["archive"]
        shutil.rmtree(instance.output_dir)
        instance.manage("system", "restore", backup, "--yes")

        pages = look(instance, *(f"/admin/tasks/execution/{number}/change/" for number in (1, 2, 3)))
        for row, page in ((ROWS[RUNS, "file_missing"], pages[0]), (ROWS[RUNS, "restored"], pages[2])):
            assert row.meaning in page
            assert row.cure in page
        assert ROWS[MESSAGES, "restored"].words in pages[1]
        assert server.accepted == []

        date = str(planned).replace(" ", "T").partition(".")[0].partition("+")[0] + "+00:00"
        done = json.loads(instance.manage("runtask", "1", "--date", date, "--no-notify", "--json").stdout)
        assert (done["status"], Path(done["paths"][0]).is_file()) == ("succeeded", True)
        instance.manage("task", "resend", "2")
        assert len(server.accepted) == 1


# Number 2 has succeeded and owes a message, number 3 is queued.
WAITING = """
from tasks.models import *; from tasks.states import *
task = ExportTask.objects.get()
task.dingtalk_webhook = {url!r}
task.save()
run = Execution.objects.claim(Execution.objects.enqueue(task, trigger=Trigger.MANUAL).pk, worker="a:1:b")
assert Execution.objects.finish(run, Status.SUCCEEDED, rows_count=3)
Execution.objects.enqueue(task, trigger=Trigger.MANUAL)
"""
