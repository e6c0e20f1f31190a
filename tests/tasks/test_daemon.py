"""The scheduler as a background process: real processes on an installation of their own."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
import pytest

from exporter_site.config import BASE_DIR
from tests.instance import Instance
from tests.servers.mariadb import MariaDB
from tests.tasks.test_runtask import eventually, files_below, last_execution, server_shop, wait_until_streaming

IN_ENGLISH = {"LANGUAGE": "en"}
ENQUEUE = (
    "from tasks.models import *; from tasks.states import *\n"
    "Execution.objects.enqueue(ExportTask.objects.get(), trigger=Trigger.MANUAL)"
)
# A process age that nobody has to wait for, and a second look that is over soon.
WATCH_AN_OLD_ONE = "from tasks import daemon\ndaemon._age = lambda process: 91.0\ndaemon.SECOND_LOOK = 1.0\nprint(repr(daemon.watch(start_stopped=False)))"
MAKE_SILENT = "from datetime import timedelta\nfrom tasks.models import *\nSchedulerProcess.objects.update(seen_at=models.F('seen_at') - timedelta(minutes=5))"


def scheduler(
    instance: Instance, *args: object, check: bool = True, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return instance.manage("scheduler", *args, check=check, env=IN_ENGLISH | (env or {}))


def pid_file(instance: Instance) -> Path:
    return instance.home / "data" / "run" / "scheduler.pid"


def started(instance: Instance) -> int:
    """Start the scheduler; its PID."""
    scheduler(instance, "start")
    return int(pid_file(instance).read_text())


def seen(instance: Instance) -> list[int]:
    """The numbers of the schedulers that the database takes for alive."""
    code = "from tasks.models import *\nfor each in SchedulerProcess.objects.alive(): print(each.name.split(':')[-2])"
    return [int(line) for line in instance.python(code).split()]


def schedulers(instance: Instance) -> list[int]:
    """The numbers of all scheduler processes of the installation, whoever started them."""
    return [pid for pid in instance.processes() if lives(pid) and "runscheduler" in psutil.Process(pid).cmdline()]


def lives(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def has_open(pid: int, file: Path) -> bool:
    return any(Path(opened.path) == file for opened in psutil.Process(pid).open_files())


@pytest.fixture
def foreigner() -> Iterator[subprocess.Popen[bytes]]:
    """A living process that is no scheduler of the installation, although it says so."""
    process = subprocess.Popen([sys.executable, "-c", "input()", "manage.py", "runscheduler"], stdin=subprocess.PIPE)
    yield process
    process.communicate(b"\n", timeout=10)


class TestStart:
    def test_it_writes_the_pid_file_and_is_seen_in_the_database(self, instance: Instance) -> None:
        done = scheduler(instance, "start")
        pid = int(pid_file(instance).read_text())
        assert f"started (PID {pid})" in done.stdout
        assert seen(instance) == [pid]
        assert schedulers(instance) == [pid]
        assert os.getsid(pid) == pid, "it would end with the terminal"
        assert pid_file(instance).parent.stat().st_mode & 0o077 == 0

    def test_a_second_start_is_refused_in_words(self, instance: Instance) -> None:
        pid = started(instance)
        done = scheduler(instance, "start", check=False)
        assert (done.returncode, done.stderr) == (1, f"The scheduler is running already (PID {pid}).\n")
        assert schedulers(instance) == [pid]
        foreground = scheduler(instance, "start", "--foreground", check=False)
        assert (foreground.returncode, foreground.stderr) == (1, done.stderr)
        assert int(pid_file(instance).read_text()) == pid

    def test_a_pid_file_of_a_dead_process_is_not_believed(self, instance: Instance) -> None:
        old = started(instance)
        os.kill(old, signal.SIGKILL)
        assert eventually(lambda: not lives(old))
        assert pid_file(instance).read_text() == f"{old}\n"
        new = started(instance)
        assert new != old
        assert schedulers(instance) == [new]

    @pytest.mark.parametrize("text", ["", "nonsense", "-1", "99999999999999999999"])
    def test_a_pid_file_that_says_nothing_is_not_believed(self, instance: Instance, text: str) -> None:
        pid_file(instance).parent.mkdir(parents=True)
        pid_file(instance).write_text(text)
        assert "is not running" in scheduler(instance, "stop").stdout
        assert not pid_file(instance).exists()

    def test_a_pid_file_of_a_foreign_process_is_not_believed(
        self, instance: Instance, foreigner: subprocess.Popen[bytes]
    ) -> None:
        pid_file(instance).parent.mkdir(parents=True)
        pid_file(instance).write_text(f"{foreigner.pid}\n")
        assert "is not running" in scheduler(instance, "stop").stdout
        pid_file(instance).write_text(f"{foreigner.pid}\n")
        pid = started(instance)
        assert schedulers(instance) == [pid]
        assert foreigner.poll() is None

    def test_a_command_about_the_scheduler_is_no_scheduler(self, instance: Instance) -> None:
        # As in a container, where the new process gets the number that the old one had.
        pid_file(instance).parent.mkdir(parents=True)
        code = (
            "import os, sys\nfrom pathlib import Path\nfrom django.core.management import call_command\n"
            f"Path({str(pid_file(instance))!r}).write_text(str(os.getpid()))\n"
            f"sys.argv = [{str(BASE_DIR / 'manage.py')!r}, 'scheduler', 'start', '--foreground']\n"
            "os.execv(sys.executable, [sys.executable, *sys.argv])"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", code], cwd=BASE_DIR, env=instance.environment, stdout=subprocess.DEVNULL
        )
        try:
            assert eventually(lambda: seen(instance) == [process.pid], 30)
        finally:
            process.terminate()
            assert process.wait(20) == 0

    def test_two_starts_at_once_start_one(self, instance: Instance) -> None:
        processes = [instance.spawn("scheduler", "start", env=IN_ENGLISH) for _ in range(2)]
        said = [process.communicate(timeout=60) for process in processes]
        assert sorted(process.returncode for process in processes) == [0, 1], said
        (pid,) = schedulers(instance)
        assert int(pid_file(instance).read_text()) == pid
        assert sum(f"is running already (PID {pid})" in err for _out, err in said) == 1

    def test_a_start_waits_for_one_that_is_under_way(self, instance: Instance) -> None:
        go, lock = instance.home / "go", pid_file(instance).with_name("scheduler.lock")
        # It has looked, and found none, and takes its time.
        code = (
            "import time, django\nfrom pathlib import Path\ndjango.setup()\nfrom tasks import daemon\n"
            "look = daemon._refuse_a_second\n"
            f"def look_and_linger():\n    look()\n    while not Path({str(go)!r}).exists(): time.sleep(0.2)\n"
            "daemon._refuse_a_second = look_and_linger\ndaemon.start()"
        )
        first = subprocess.Popen([sys.executable, "-c", code], cwd=BASE_DIR, env=instance.environment)
        try:
            assert eventually(lambda: has_open(first.pid, lock))
            second = instance.spawn("scheduler", "start", env=IN_ENGLISH)
            assert eventually(lambda: has_open(second.pid, lock))
            go.touch()
            assert first.wait(40) == 0
        finally:
            first.kill()
            first.wait()
        (pid,) = schedulers(instance)
        assert second.communicate(timeout=40)[1] == f"The scheduler is running already (PID {pid}).\n"
        assert second.returncode == 1

    def test_one_that_cannot_start_shows_the_end_of_its_log(self, instance: Instance) -> None:
        log = instance.home / "logs" / "scheduler.log"
        log.parent.mkdir(exist_ok=True)
        log.write_text("what an earlier scheduler wrote\n")
        # Known to config.yaml, but not to this version.
        done = scheduler(instance, "start", check=False, env={"EXPORTER_SCHEDULER__EXECUTOR": "celery"})
        assert done.returncode == 1
        first, *rest = done.stderr.splitlines()
        assert first == f"The scheduler did not start. The last lines of {log}:"
        assert any("celery" in line for line in rest)
        assert "earlier" not in done.stderr
        assert schedulers(instance) == []

    def test_a_mistake_in_config_yaml_is_told_before_anything_starts(self, instance: Instance) -> None:
        instance.config_file.write_text("scheduler: {max_worker: 3}")
        done = scheduler(instance, "start", check=False)
        assert done.returncode == 1
        assert "`scheduler.max_workers`" in done.stderr
        assert "Traceback" not in done.stderr
        assert not pid_file(instance).exists()

    def test_a_database_that_is_away_starts_nothing(self, instance: Instance) -> None:
        environment = {
            "EXPORTER_SYSTEM_DATABASE__TYPE": "postgresql",
            "EXPORTER_SYSTEM_DATABASE__HOST": "127.0.0.1",
            "EXPORTER_SYSTEM_DATABASE__PORT": "1",
            "EXPORTER_SYSTEM_DATABASE__PASSWORD": "x",
        }
        for verb in (("start",), ("monitor", "--once")):
            done = scheduler(instance, *verb, check=False, env=environment)
            assert done.returncode == 1
            assert "Traceback" not in done.stderr
            assert "127.0.0.1" in done.stderr
        assert not pid_file(instance).exists()
        assert not schedulers(instance)


class TestForeground:
    def test_it_holds_the_pid_file_and_ends_well_by_sigterm(self, instance: Instance) -> None:
        process = instance.spawn("scheduler", "start", "--foreground", env=IN_ENGLISH)
        assert eventually(lambda: seen(instance) == [process.pid], 30)
        assert pid_file(instance).read_text() == f"{process.pid}\n"
        assert f"running (PID {process.pid})" in scheduler(instance, "status").stdout
        assert scheduler(instance, "start", check=False).returncode == 1
        process.terminate()
        out, err = process.communicate(timeout=20)
        assert process.returncode == 0, err
        assert "Scheduler started" in out
        assert "Scheduler stopped" in out
        assert seen(instance) == []

    def test_it_is_known_however_manage_py_was_called(self, instance: Instance) -> None:
        process = subprocess.Popen(
            [sys.executable, "manage.py", "scheduler", "start", "--foreground"],
            cwd=BASE_DIR,
            env=instance.environment,
            stdout=subprocess.DEVNULL,
        )
        try:
            assert eventually(lambda: seen(instance) == [process.pid], 30)
            assert f"was stopped (PID {process.pid})" in scheduler(instance, "stop").stdout
            assert process.wait(10) == 0
        finally:
            process.kill()
            process.wait()


class TestStop:
    def test_it_stops_and_says_so_twice(self, instance: Instance) -> None:
        pid = started(instance)
        assert scheduler(instance, "stop").stdout == f"The scheduler was stopped (PID {pid}).\n"
        assert not lives(pid)
        assert not pid_file(instance).exists()
        assert seen(instance) == []
        assert scheduler(instance, "stop").stdout == "The scheduler is not running.\n"

    def test_restart_is_another_process(self, instance: Instance) -> None:
        old = started(instance)
        out = scheduler(instance, "restart").stdout
        (new,) = schedulers(instance)
        assert out == f"The scheduler was stopped (PID {old}).\nThe scheduler was started (PID {new}).\n"
        assert new != old
        assert seen(instance) == [new]

    def test_an_export_may_finish(self, instance: Instance, mariadb: MariaDB) -> None:
        server_shop(instance, mariadb, "mysql")
        instance.python(
            "from tasks.models import *\nExportTask.objects.update(sql='SELECT seq, SLEEP(0.02) AS s FROM seq_1_to_300')"
        )
        instance.python(ENQUEUE)
        pid = started(instance)
        wait_until_streaming(mariadb)
        done = scheduler(instance, "stop")
        assert "Waiting for exports that are running (1)." in done.stdout
        assert not lives(pid)
        found = last_execution(instance)
        assert (found["status"], found["rows_count"], found["attempt"]) == ("succeeded", 300, 1)
        assert len(files_below(instance.output_dir)) == 1

    def test_ctrl_c_puts_the_export_back_into_the_queue(self, instance: Instance, mariadb: MariaDB) -> None:
        server_shop(instance, mariadb, "mysql")
        instance.python(ENQUEUE)
        pid = started(instance)
        wait_until_streaming(mariadb)
        stop = instance.spawn("scheduler", "stop", env=IN_ENGLISH)
        assert stop.stdout is not None
        assert "Ctrl-C stops them, too" in stop.stdout.readline()
        assert lives(pid)
        assert mariadb.running("exp:1:1")
        stop.send_signal(signal.SIGINT)
        out, err = stop.communicate(timeout=30)
        assert (stop.returncode, out, err) == (0, f"The scheduler was stopped (PID {pid}).\n", "")
        assert not lives(pid)
        found = last_execution(instance)
        assert (found["status"], found["reason"]) == ("queued", "interrupted")
        assert eventually(lambda: not mariadb.running("exp:1:1"))
        assert not files_below(instance.temp_dir, instance.output_dir)

    def test_one_that_does_not_listen_is_killed(self, instance: Instance) -> None:
        pid = started(instance)
        os.kill(pid, signal.SIGSTOP)
        instance.python("from tasks import daemon\ndaemon.KILLED_AFTER = -600.0\ndaemon.stop(lambda: None)")
        assert not lives(pid)
        assert not pid_file(instance).exists()


class TestStatus:
    def test_it_tells_all_about_one_that_lives(self, instance: Instance) -> None:
        pid = started(instance)
        out = scheduler(instance, "status").stdout
        for words in (
            f"Scheduler process: running (PID {pid})",
            "CPU:",
            "Memory:",
            "Started at: 20",
            "Uptime:",
            "0 of 10 workers busy",
            "Tasks: 0 enabled of 0; data sources: 0",
            "Executions: 0 running, 0 queued",
            "Today: 0 of 0 succeeded",
            "Next run: none is planned",
            "Free disk space:",
            f"Log file {instance.home / 'logs' / 'scheduler.log'}: ",
            f"Log file {instance.log_file}: ",
        ):
            assert words in out, words

    def test_json_has_the_same_figures(self, instance: Instance, tmp_path: Path) -> None:
        code = (
            "from tests.factories import *; from tasks.states import *; from django.utils import timezone\n"
            "task = make_task(name='每日订单', cron='0 9 * * *', sql='SELECT 1 AS one')\n"
            "make_task(enabled=False, data_source=task.data_source)\n"
            "for status in ('succeeded', 'failed', 'failed'): make_execution(task, status=status, finished_at=timezone.now())\n"
        )
        instance.python(code)
        pid = started(instance)
        found: dict[str, Any] = json.loads(scheduler(instance, "status", "--json").stdout)
        process = found["process"]
        real = psutil.Process(pid)
        assert process["pid"] == pid
        assert process["cpu"] >= 0
        assert 10_000_000 < process["memory"] < 500_000_000
        assert datetime.fromisoformat(process["started_at"]).timestamp() == pytest.approx(real.create_time(), abs=2)
        assert 0 < process["uptime"] < 120
        assert found["healthy"] is True
        assert (found["tasks"], found["tasks_enabled"], found["data_sources"]) == (2, 1, 1)
        assert found["today"] == {"succeeded": 1, "failed": 2}
        assert found["next_run"]["task"] == "每日订单"
        assert [scheduler["workers"] for scheduler in found["schedulers"]] == [10]
        assert {Path(log["path"]).name for log in found["logs"]} == {"scheduler.log", "app.log"}
        assert all(log["size"] == Path(log["path"]).stat().st_size for log in found["logs"])
        assert "Next run: 20" in (out := scheduler(instance, "status").stdout)
        assert "“每日订单”" in out
        assert "Today: 1 of 3 succeeded" in out

    def test_without_a_scheduler_it_says_so_and_fails(self, instance: Instance) -> None:
        done = scheduler(instance, "status", check=False)
        assert done.returncode == 1
        assert done.stderr.count("\n") == 1
        assert "No scheduler is running" in done.stderr
        assert "not started by" in done.stdout
        done = scheduler(instance, "status", "--json", check=False)
        assert done.returncode == 1
        found = json.loads(done.stdout)
        assert (found["process"], found["healthy"], found["schedulers"]) == (None, False, [])

    def test_a_killed_one_is_not_running(self, instance: Instance) -> None:
        pid = started(instance)
        os.kill(pid, signal.SIGKILL)
        assert eventually(lambda: not lives(pid))
        instance.python(MAKE_SILENT)
        done = scheduler(instance, "status", check=False)
        assert done.returncode == 1
        assert "No scheduler is running" in done.stderr

    def test_a_silent_one_is_told_from_a_dead_one(self, instance: Instance) -> None:
        pid = started(instance)
        os.kill(pid, signal.SIGSTOP)
        instance.python(MAKE_SILENT)
        done = scheduler(instance, "status", check=False)
        assert done.returncode == 1
        assert f"The scheduler (PID {pid}) gives no sign of life." in done.stderr

    def test_one_that_somebody_else_started_is_well(self, instance: Instance) -> None:
        process = instance.spawn("runscheduler")
        assert eventually(lambda: seen(instance) == [process.pid], 30)
        done = scheduler(instance, "status")
        assert "not started by" in done.stdout
        assert f":{process.pid}:" in done.stdout


class TestMonitor:
    def test_a_dead_one_is_started_again(self, instance: Instance) -> None:
        old = started(instance)
        os.kill(old, signal.SIGKILL)
        assert eventually(lambda: not lives(old))
        out = scheduler(instance, "monitor", "--once").stdout
        (new,) = schedulers(instance)
        assert f"was not running and has been started (PID {new})" in out
        assert int(pid_file(instance).read_text()) == new
        assert new in seen(instance)

    def test_a_healthy_one_is_left_alone(self, instance: Instance) -> None:
        pid = started(instance)
        assert scheduler(instance, "monitor", "--once").stdout == ""
        assert instance.python(WATCH_AN_OLD_ONE) == "''\n"
        assert schedulers(instance) == [pid]

    def test_the_line_of_the_crontab_revives_the_dead_but_not_what_was_stopped_on_purpose(
        self, instance: Instance
    ) -> None:
        look = "from tasks import daemon\nprint(bool(daemon.watch(start_stopped=False)))"
        assert instance.python(look) == "False\n"  # nobody has ever started it
        pid = started(instance)
        scheduler(instance, "stop")
        assert instance.python(look) == "False\n"
        assert schedulers(instance) == []
        pid = started(instance)
        os.kill(pid, signal.SIGKILL)
        assert eventually(lambda: not lives(pid))
        assert instance.python(look) == "True\n"
        assert schedulers(instance) not in ([], [pid])

    def test_a_silent_one_is_killed_and_started_again(self, instance: Instance) -> None:
        old = started(instance)
        os.kill(old, signal.SIGSTOP)
        instance.python(MAKE_SILENT)
        said = instance.python(WATCH_AN_OLD_ONE)
        (new,) = schedulers(instance)
        assert new != old
        assert f"PID {old}" in said or f"PID {old}" in said.replace("（", " ")
        assert seen(instance) == [new]

    def test_a_young_one_has_time_to_become_visible(self, instance: Instance) -> None:
        pid = started(instance)
        os.kill(pid, signal.SIGSTOP)
        instance.python(MAKE_SILENT)
        assert scheduler(instance, "monitor", "--once").stdout == ""
        assert schedulers(instance) == [pid]

    def test_one_that_shows_itself_at_the_second_look_lives(self, instance: Instance) -> None:
        """As after a sleep of the whole machine, or a database that was away: it needs a moment."""
        pid = started(instance)
        instance.python(MAKE_SILENT)
        said = instance.python(WATCH_AN_OLD_ONE.replace("SECOND_LOOK = 1.0", "SECOND_LOOK = 20.0"))
        assert said == "''\n"
        assert schedulers(instance) == [pid]
        assert seen(instance) == [pid]

    def test_one_that_is_busy_with_an_export_of_its_own_lives(self, instance: Instance, mariadb: MariaDB) -> None:
        server_shop(instance, mariadb, "mysql")
        instance.python(ENQUEUE)
        scheduler(instance, "start", env={"EXPORTER_SCHEDULER__EXECUTOR": "inline"})
        (pid,) = schedulers(instance)
        wait_until_streaming(mariadb)
        instance.python(MAKE_SILENT)
        assert seen(instance) == []
        assert instance.python(WATCH_AN_OLD_ONE) == "''\n"
        assert schedulers(instance) == [pid]
        assert mariadb.running("exp:1:1")

    def test_it_looks_again_and_again(self, instance: Instance) -> None:
        monitor = instance.spawn("scheduler", "monitor", "--interval=1", env=IN_ENGLISH)
        assert eventually(lambda: len(schedulers(instance)) == 1, 30)
        assert monitor.stdout is not None
        assert "has been started" in monitor.stdout.readline()
        (old,) = schedulers(instance)
        os.kill(old, signal.SIGKILL)
        assert "has been started" in monitor.stdout.readline()
        (new,) = schedulers(instance)
        assert new != old
        monitor.send_signal(signal.SIGINT)
        assert monitor.wait(10) == 1
        assert schedulers(instance) == [new], "the scheduler must not end with its monitor"

    def test_it_outlives_a_scheduler_that_cannot_start(self, instance: Instance) -> None:
        celery = {"EXPORTER_SCHEDULER__EXECUTOR": "celery"}
        done = scheduler(instance, "monitor", "--once", check=False, env=celery)
        assert done.returncode == 1
        assert "The scheduler did not start." in done.stderr
        monitor = instance.spawn("scheduler", "monitor", "--interval=1", env=IN_ENGLISH | celery)
        assert monitor.stdout is not None
        lines: list[str] = []
        while sum("The scheduler did not start." in line for line in lines) < 2:
            lines.append(monitor.stdout.readline())
            assert lines[-1], "the monitor has ended"


class TestPause:
    def test_a_pause_is_seen_and_ends(self, instance: Instance) -> None:
        assert "Paused" in scheduler(instance, "pause", "--note", "数据库维护").stdout
        out = scheduler(instance, "status", check=False).stdout
        assert "Paused since 20" in out
        assert "数据库维护" in out
        assert json.loads(scheduler(instance, "status", "--json", check=False).stdout)["paused"] is True
        assert "started again" in scheduler(instance, "resume").stdout
        assert "Paused" not in scheduler(instance, "status", check=False).stdout

    def test_nothing_is_started_until_resume(self, instance: Instance, tmp_path: Path) -> None:
        instance.python(
            f"from tests.factories import *\nmake_execution(make_task(data_source=make_source(database={str(tmp_path / 'none.db')!r})))"
        )
        scheduler(instance, "pause")
        instance.manage("runscheduler", "--once")
        status = "from tasks.models import *\nprint(Execution.objects.get().status)"
        assert instance.python(status) == "queued\n"
        scheduler(instance, "resume")
        instance.manage("runscheduler", "--once")
        assert instance.python(status) == "failed\n"

    def test_what_is_so_already_fails_in_words(self, instance: Instance) -> None:
        done = scheduler(instance, "resume", check=False)
        assert (done.returncode, done.stderr) == (1, "Nothing is paused.\n")
        scheduler(instance, "pause")
        done = scheduler(instance, "pause", check=False)
        assert (done.returncode, done.stderr) == (1, "All runs are paused already.\n")
        scheduler(instance, "resume")
        assert scheduler(instance, "resume", check=False).returncode == 1

    def test_a_note_that_does_not_fit_is_wrong_use(self, instance: Instance) -> None:
        done = scheduler(instance, "pause", "--note", "x" * 201, check=False)
        assert (done.returncode, done.stderr) == (2, "--note may have at most 200 characters.\n")
        assert scheduler(instance, "resume", check=False).returncode == 1
        scheduler(instance, "pause", "--note", "维" * 200)


@pytest.mark.parametrize(
    "arguments", [(), ("begin",), ("start", "now"), ("monitor", "--interval=0"), ("monitor", "--interval=soon")]
)
def test_wrong_use_is_told_in_words(instance: Instance, arguments: tuple[str, ...]) -> None:
    done = scheduler(instance, *arguments, check=False)
    assert done.returncode == 2
    assert done.stderr
    assert "Traceback" not in done.stderr
