"""`system doctor`: real faults, planted one at a time; each is found, and the cure is named."""

import json
import socket
import subprocess
import threading
from collections.abc import Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from django.conf import LazySettings
from django.utils import timezone, translation
from pydantic import SecretStr

from datasources.models import DataSource
from exporter_site.config import BASE_DIR, Config, Notifications
from notifications.models import Channel, Delivery, clean_settings
from notifications.states import DeliveryStatus
from tasks import daemon
from tasks.doctor import CHECKS, Finding, Level, examine, running
from tasks.doctor.base import Check, ok
from tasks.models import ExportTask, Pause, SchedulerProcess
from tasks.states import Status
from tests import servers
from tests.factories import (
    make_execution,
    make_scheduler,
    make_server_source,
    make_source,
    make_sqlite_file,
    make_task,
    make_user,
)
from tests.instance import Instance
from tests.servers.mail import LOGIN, MailServer, authority
from tests.servers.mail import configure as configure_mail
from tests.servers.mariadb import MariaDB
from tests.servers.robots import Robots
from tests.tasks.test_watchdog import CRONTAB

# The checks run in threads, with connections of their own.
in_threads = pytest.mark.django_db(transaction=True)
ENGLISH = {"LANGUAGE": "en"}


@pytest.fixture(autouse=True)
def _english() -> Iterator[None]:
    with translation.override("en"):
        yield


@pytest.fixture(autouse=True)
def _own_places(settings: LazySettings, tmp_path: Path) -> None:
    configure(settings, "export", temp_dir=tmp_path / "temp", output_dir=tmp_path / "exports")
    configure(settings, "system_database", sqlite_path=tmp_path / "data" / "system.db")


def configure(settings: LazySettings, section: str, **values: Any) -> None:
    changed = getattr(settings.CONFIG, section).model_copy(update=values)
    settings.CONFIG = settings.CONFIG.model_copy(update={section: changed})


def look(name: str, limit: float = 30.0) -> list[Finding]:
    found = list(examine([each for each in CHECKS if each.name == name], limit))
    assert found, "a check says something in any case"
    assert all(finding.remedy for finding in found if finding.level in (Level.WARNING, Level.FAILED))
    return found


def well(name: str) -> str:
    """What the check says, which must be all well."""
    found = look(name)
    assert {finding.level for finding in found} == {Level.OK}, found
    return " ".join(finding.sentence for finding in found)


def fault(name: str, level: Level = Level.FAILED, *, limit: float = 30.0) -> tuple[str, str]:
    """Sentence and remedy of the one finding that is not well."""
    (found,) = [finding for finding in look(name, limit) if finding.level != Level.OK]
    assert found.level == level, found
    return found.sentence, found.remedy


def doctor(instance: Instance, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return instance.manage("system", "doctor", *arguments, check=False, env=ENGLISH | env)


class TestCommand:
    def test_a_healthy_installation(self, instance: Instance, tmp_path: Path) -> None:
        shop = make_sqlite_file(tmp_path / "shop.db")
        instance.python(
            "from datasources.models import DataSource\n"
            f"DataSource.objects.create(name='shop', kind='sqlite', database={str(shop)!r})"
        )
        for directory in (instance.temp_dir, instance.output_dir):
            directory.mkdir(mode=0o700)
        instance.manage("scheduler", "start")
        try:
            done = doctor(instance)
            assert (done.returncode, done.stderr) == (0, ""), done.stdout
            assert "✗" not in done.stdout
            assert "✓ Data source “shop”: " in done.stdout
            assert done.stdout.splitlines()[-1].endswith(" 0 failed, 0 not looked at")
            found = json.loads(doctor(instance, "--json").stdout)
        finally:
            instance.manage("scheduler", "stop")
        assert found["healthy"] is True
        silent = {"source_clocks", "robots"}  # SQLite has no clock, and there is no robot
        assert {finding["check"] for finding in found["findings"]} | silent == {each.name for each in CHECKS}
        assert found["counts"]["failed"] == found["counts"]["skipped"] == 0
        assert not list(instance.temp_dir.iterdir()) + list(instance.output_dir.iterdir()), "it leaves nothing behind"

    def test_faults_are_told_on_both_ways_with_exit_code_1(self, instance: Instance) -> None:
        (instance.home / "data" / "keys.json").parent.mkdir(exist_ok=True)
        doctor(instance, "versions")  # makes the key file
        (instance.home / "data" / "keys.json").chmod(0o644)
        done = doctor(instance, "key_file", "disk")
        assert (done.returncode, done.stderr) == (1, "1 fault was found; what to do is written below it.\n")
        lines = done.stdout.splitlines()
        assert lines[0].startswith("✗ The key file ")
        assert lines[1] == f"    → chmod 600 {instance.home / 'data' / 'keys.json'}"
        told = doctor(instance, "key_file", "--json")
        assert told.returncode == 1
        (finding,) = json.loads(told.stdout)["findings"]
        assert (finding["level"], finding["check"]) == ("failed", "key_file")

    def test_wrong_use(self, instance: Instance) -> None:
        done = doctor(instance, "nothing")
        assert done.returncode == 2
        assert "system_database" in done.stderr
        assert doctor(instance, "--wrong").returncode == 2

    @pytest.mark.parametrize(
        ("variable", "value", "words"),
        [
            ("EXPORTER_EXPORT__CHUNK_SISE", "5", "Did you mean `export.chunk_size`?"),
            ("EXPORTER_WEB__PORT", "many", "Expected: a whole number."),
        ],
    )
    def test_an_unknown_key_or_a_wrong_value(self, instance: Instance, variable: str, value: str, words: str) -> None:
        done = doctor(instance, **{variable: value})
        assert (done.returncode, done.stdout) == (1, "")
        assert words in done.stderr

    def test_a_sample_password_of_the_system_database(self, instance: Instance) -> None:
        sample = {"EXPORTER_SYSTEM_DATABASE__TYPE": "mysql", "EXPORTER_SYSTEM_DATABASE__PASSWORD": "your_password"}
        done = doctor(instance, **sample)
        assert done.returncode == 1
        assert "EXPORTER_SYSTEM_DATABASE__PASSWORD" in done.stderr

    def test_a_database_that_is_away_leaves_out_what_needs_it(self, instance: Instance) -> None:
        away = {
            "EXPORTER_SYSTEM_DATABASE__TYPE": "postgresql",
            "EXPORTER_SYSTEM_DATABASE__HOST": "127.0.0.1",
            "EXPORTER_SYSTEM_DATABASE__PORT": str(servers.free_port()),
            "EXPORTER_SYSTEM_DATABASE__PASSWORD": "a-secret-word",
        }
        done = doctor(instance, "--json", **away)
        assert done.returncode == 1
        assert "a-secret-word" not in done.stdout
        found = json.loads(done.stdout)["findings"]
        (failure,) = [finding for finding in found if finding["check"] == "system_database"]
        assert "can't be reached" in failure["sentence"]
        assert "system_database in config.yaml" in failure["remedy"]
        left_out = {finding["check"] for finding in found if finding["level"] == "skipped"}
        assert left_out == {each.name for each in CHECKS if each.needs_database}

    def test_a_migration_that_was_not_applied(self, instance: Instance) -> None:
        recorder = "from django.db.migrations.recorder import MigrationRecorder as R\n"
        last = "R.Migration.objects.filter(app='tasks').order_by('id').last()"
        name = instance.python(f"{recorder}row = {last}\nprint(row.name)\nrow.delete()").strip()
        done = doctor(instance, "system_database")
        # On a server, other installations of the session use this database, too.
        instance.python(f"{recorder}R.Migration.objects.create(app='tasks', name={name!r})")
        assert done.returncode == 1
        assert f"1 migrations are not applied, the first is tasks.{name}" in done.stdout
        assert "manage.py migrate" in done.stdout

    def test_a_mysql_database_of_another_character_set(self, instance: Instance, mariadb: MariaDB) -> None:
        name = servers.unused_name()()
        mariadb.execute(f"CREATE DATABASE `{name}` CHARACTER SET latin1")
        where = {"type": "mysql", "host": mariadb.host, "port": str(mariadb.port), "database": name}
        account = {"username": mariadb.admin.username, "password": mariadb.admin.password}
        env = {f"EXPORTER_SYSTEM_DATABASE__{key}".upper(): value for key, value in (where | account).items()}
        done = doctor(instance, "system_database", "clock", **env)
        assert done.returncode == 1
        assert "stored as latin1" in done.stdout
        assert f"ALTER DATABASE `{name}` CHARACTER SET utf8mb4" in done.stdout
        assert "migrations are not applied" in done.stdout

    def test_a_log_file_that_can_not_be_written(self, instance: Instance) -> None:
        done = doctor(instance, "log_file", EXPORTER_LOGGING__FILE="/proc/nothing/app.log")
        assert done.returncode == 1
        assert "logging.file: /proc/nothing/app.log can't be written to." in done.stdout

    def test_debug_where_others_can_see_it(self, instance: Instance) -> None:
        done = doctor(instance, "security", EXPORTER_DEBUG="1")
        assert done.returncode == 1
        assert "Remove EXPORTER_DEBUG" in done.stdout
        assert doctor(instance, "security").returncode == 0


class TestInstallation:
    def test_sample_values(self, settings: LazySettings) -> None:
        well("configuration")
        configure(settings, "email", password=SecretStr("your_password"))
        sentence, remedy = fault("configuration", Level.WARNING)
        assert "email.password" in sentence
        assert "config.yaml" in remedy
        source = {"a": {"type": "mysql", "host": "your_mysql_host", "database": "x"}}
        settings.CONFIG = Config.model_validate({"data_sources": source})
        assert "data_sources.a" in fault("configuration", Level.WARNING)[0]

    def test_passwords_that_everybody_can_read(
        self, settings: LazySettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        file = tmp_path / "config.yaml"
        file.write_text("email: {password: a-real-secret-word}")
        file.chmod(0o644)
        monkeypatch.setenv("EXPORTER_CONFIG", str(file))
        configure(settings, "email", password=SecretStr("a-real-secret-word"))
        assert fault("configuration", Level.WARNING)[1] == f"chmod 600 {file}"
        file.chmod(0o600)
        well("configuration")

    def test_a_missing_directory(self, tmp_path: Path) -> None:
        (tmp_path / "temp").mkdir()
        sentence, remedy = fault("directories", Level.WARNING)
        assert f"export.output_dir: {tmp_path / 'exports'} does not exist" in sentence
        assert "mount" in remedy
        (tmp_path / "exports").mkdir()
        assert "can be written to" in well("directories")

    @pytest.mark.parametrize("place", ["/proc/nothing/exports", "{file}/exports"])
    def test_a_directory_that_can_not_be_made(self, settings: LazySettings, tmp_path: Path, place: str) -> None:
        (tmp_path / "temp").mkdir()
        (tmp_path / "file").touch()
        configure(settings, "export", output_dir=Path(place.format(file=tmp_path / "file")))
        sentence, remedy = fault("directories")
        assert "can't be made" in sentence
        assert "mkdir -p" in remedy

    def test_a_directory_that_can_not_be_written_to(self, settings: LazySettings, tmp_path: Path) -> None:
        (tmp_path / "temp").mkdir()
        configure(settings, "export", output_dir=Path("/proc/self/task"))  # not even by root
        sentence, remedy = fault("directories")
        assert "can't be written to" in sentence
        assert "right to write" in remedy

    def test_two_file_systems(self, settings: LazySettings, tmp_path: Path) -> None:
        shm = Path("/dev/shm")
        if shm.stat().st_dev == tmp_path.stat().st_dev:
            pytest.fail("this test needs two file systems: /dev/shm is none of its own")
        (tmp_path / "temp").mkdir()
        configure(settings, "export", output_dir=shm)
        assert "file system" in fault("directories")[0]

    def test_a_full_disk(self, settings: LazySettings) -> None:
        well("disk")
        configure(settings, "export", min_free_disk=2**60)
        sentence, remedy = fault("disk")
        assert "export.min_free_disk" in sentence
        assert "export.retention_days" in remedy

    def test_more_memory_than_there_is(self, settings: LazySettings) -> None:
        configure(settings, "export", memory_limit=2**20)
        well("memory")
        configure(settings, "export", memory_limit=2**50)
        assert "export.memory_limit" in fault("memory")[1]
        configure(settings, "export", memory_limit=2**30)
        configure(settings, "scheduler", max_workers=10_000)
        assert "scheduler.max_workers" in fault("memory", Level.WARNING)[1]

    def test_versions_and_zones(self) -> None:
        assert "Django 5.2" in well("versions")
        assert "Asia/Shanghai" in well("time_zones")


@in_threads
class TestSecrets:
    def test_the_row_that_can_not_be_decrypted_is_named(self, settings: LazySettings) -> None:
        keys = settings.FERNET_KEYS
        make_source(kind="mysql", host="h", password="readable")
        settings.FERNET_KEYS = ["a key that is lost", *keys]
        lost = make_source(name="shop", kind="mysql", host="h", password="unreadable")
        assert "All 2 stored secrets" in well("secrets")
        settings.FERNET_KEYS = keys
        sentence, remedy = fault("secrets")
        assert sentence.startswith("1 stored secrets can't be decrypted: ")
        assert f"“shop” (#{lost.pk}): password" in sentence
        assert "backup" in remedy


@in_threads
class TestRunning:
    @pytest.fixture
    def dead(self) -> int:
        """The number of a process that is gone."""
        process = subprocess.Popen(["true"])
        process.wait()
        return process.pid

    def test_no_scheduler_a_dead_one_and_one_elsewhere(self, dead: int) -> None:
        sentence, remedy = fault("scheduler")
        assert sentence.startswith("No scheduler is running")
        assert "scheduler start" in remedy
        daemon.pid_file().write_text(f"{dead}\n")
        SchedulerProcess.objects.create(
            name="h:1:x", seen_at=timezone.now() - timedelta(minutes=5), executor="local", workers=1
        )
        sentence, remedy = fault("scheduler")
        assert str(daemon.pid_file()) in sentence
        assert "scheduler start" in remedy
        make_scheduler().care()
        assert "another scheduler lives" in fault("scheduler", Level.WARNING)[0]
        daemon.pid_file().unlink()
        well("scheduler")

    def test_a_forgotten_pause(self) -> None:
        make_scheduler().care()
        Pause.objects.begin("boss")
        sentence, remedy = fault("scheduler", Level.WARNING)
        assert "boss" in sentence
        assert "scheduler resume" in remedy

    def test_nobody_who_starts_it_again(
        self, settings: LazySettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(running, "CONTAINER_MARKS", ())
        monkeypatch.setattr(running, "UNITS", (tmp_path / "units",))
        settings.CRONTAB_EXECUTABLE = "/nowhere/crontab"
        assert "apt-get install cron" in fault("watchdog_line", Level.WARNING)[0]
        program = tmp_path / "crontab"
        program.write_text(CRONTAB.format(dir=tmp_path))
        program.chmod(0o755)
        settings.CRONTAB_EXECUTABLE = str(program)
        assert "crontab add" in fault("watchdog_line", Level.WARNING)[1]
        (tmp_path / "table").write_text(f"* * * * * x # {settings.CRONTAB_COMMENT}\n")
        assert "crontab" in well("watchdog_line")
        (tmp_path / "table").unlink()
        (tmp_path / "units").mkdir()
        unit = tmp_path / "units" / "data-export.service"
        unit.write_text(f"ExecStart={BASE_DIR}/manage.py runscheduler")
        assert "data-export.service" in well("watchdog_line")

    def test_files_that_are_gone(self, tmp_path: Path) -> None:
        execution = make_execution(status=Status.SUCCEEDED, files=[{"path": "2025-01/1-1/a.csv", "rows": 1, "size": 1}])
        sentence, remedy = fault("kept_files")
        assert f"execution {execution.pk}: {tmp_path / 'exports' / '2025-01/1-1/a.csv'}" in sentence
        assert "mounted" in remedy
        (tmp_path / "exports/2025-01/1-1").mkdir(parents=True)
        (tmp_path / "exports/2025-01/1-1/a.csv").touch()
        well("kept_files")

    def test_messages_that_nobody_got(self) -> None:
        channel = Channel.objects.create(name="team", kind="webhook")
        now = timezone.now()
        row = Delivery.objects.create(
            execution=make_execution(), channel=channel, channel_name="team", event="success", key="1", payload={},
            status=DeliveryStatus.DEAD, finished_at=now, next_at=now,
        )  # fmt: skip
        sentence, remedy = fault("deliveries", Level.WARNING)
        assert "1 messages were not delivered since yesterday, to: team" in sentence
        assert "Deliveries" in remedy
        Delivery.objects.filter(pk=row.pk).update(
            status=DeliveryStatus.PENDING, finished_at=None, created_at=now - timedelta(hours=2)
        )
        assert "waiting for more than an hour" in fault("deliveries", Level.WARNING)[0]

    def test_an_owner_without_the_right(self) -> None:
        source = make_source()
        owner = make_user("lisi", role="editor", sources=[source])
        task = make_task(name="daily", data_source=source, owner=owner)
        well("owners")
        owner.grants.all().delete()
        sentence, remedy = fault("owners")
        assert "“daily”: The data source" in sentence
        assert "another owner" in remedy
        ExportTask.objects.filter(pk=task.pk).update(enabled=False)
        well("owners")


@in_threads
class TestSources:
    def test_one_that_is_down(self) -> None:
        make_source(name="down", kind="mysql", host="127.0.0.1", port=servers.free_port(), database="d", username="u")
        sentence, remedy = fault("sources")
        assert "“down”" in sentence
        assert "Check host, port and network" in remedy

    def test_a_wrong_password_and_an_account_that_may_write(self, mariadb: MariaDB) -> None:
        source = make_server_source(mariadb, "mysql", name="shop")
        well("sources")
        DataSource.objects.filter(pk=source.pk).delete()
        make_server_source(mariadb, "mysql", name="locked", password="wrong-password-1")
        sentence, remedy = fault("sources")
        assert "“locked”" in sentence
        assert "wrong-password-1" not in sentence
        assert "Correct them on the data source" in remedy
        DataSource.objects.all().delete()
        admin = mariadb.admin
        make_server_source(mariadb, "mysql", username=admin.username, password=admin.password)
        assert "SELECT" in fault("sources", Level.WARNING)[1]

    def test_one_that_never_answers_holds_up_nobody(self, tmp_path: Path) -> None:
        make_source(name="good", database=str(make_sqlite_file(tmp_path / "shop.db")))
        with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections, and says nothing
            port = silent.getsockname()[1]
            make_source(name="stuck", kind="mysql", host="127.0.0.1", port=port, database="d", username="u")
            sentence, remedy = fault("sources", limit=1.0)
        assert sentence == "stuck: No answer within 1 seconds."
        assert "firewall" in remedy

    def test_one_whose_clock_is_wrong(self, mariadb: MariaDB) -> None:
        make_server_source(mariadb, "mysql", name="shop")
        assert "agrees" in well("source_clocks")
        # For accounts that may only read, the server's own clock is two hours behind.
        mariadb.execute("SET GLOBAL init_connect = 'SET timestamp = UNIX_TIMESTAMP() - 7200'")
        try:
            sentence, remedy = fault("source_clocks", Level.WARNING)
        finally:
            mariadb.execute("SET GLOBAL init_connect = ''")
        assert sentence in [
            f"The clock of the data source “shop” is {n} s behind this machine's." for n in range(7195, 7206)
        ]
        assert "NTP" in remedy


@in_threads
class TestMessages:
    def test_a_mail_server_that_refuses_the_login(
        self, settings: LazySettings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        authority().cert_pem.write_to_path(str(tmp_path / "authority.pem"))
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
        with MailServer(tls="starttls", account=LOGIN) as server:
            configure_mail(settings, server)
            assert "login works" in well("mail_server")
            configure_mail(settings, server, password=SecretStr("not-its-password"))
            sentence, remedy = fault("mail_server")
            assert f"127.0.0.1:{server.port}" in sentence
            assert "535" in sentence
            assert remedy
            assert server.log.mails == []
            assert not {"MAIL", "RCPT", "DATA"} & set(server.log.commands)
        assert "could not be reached" in fault("mail_server")[0]

    def test_mails_and_nobody_to_send_them(self, settings: LazySettings) -> None:
        settings.CONFIG = settings.CONFIG.model_copy(update={"email": Config().email})
        well("mail_server")
        make_task(email_recipients=["a@example.com"])
        assert "email.smtp_server" in fault("mail_server", Level.WARNING)[1]

    def test_a_robot_that_can_not_be_reached(self, settings: LazySettings) -> None:
        with Robots() as server:
            settings.CONFIG = settings.CONFIG.model_copy(
                update={"notifications": Notifications(private_hosts=[server.place])}
            )
            channel = Channel(name="team", kind="dingtalk")
            robot = server.add("dingtalk")
            channel.set_settings(clean_settings("dingtalk", {"webhook_url": robot.url}))
            channel.save()
            assert "no message was sent" in well("robots")
            assert server.requests == []
        sentence, remedy = fault("robots")
        assert "“team”" in sentence
        assert robot.token not in sentence
        assert "Check its address" in remedy
        settings.CONFIG = settings.CONFIG.model_copy(update={"notifications": Notifications()})
        assert "https://" in fault("robots")[0]

    def test_the_robots_of_config_and_of_tasks(self, settings: LazySettings) -> None:
        with Robots() as server:
            settings.CONFIG = settings.CONFIG.model_copy(
                update={"notifications": Notifications(private_hosts=[server.place])}
            )
            configure(settings, "dingtalk", webhook_url=SecretStr(server.add("dingtalk").url))
            make_task(name="daily", dingtalk_webhook=server.add("dingtalk").url)
            said = well("robots")
        assert "config.yaml" in said
        assert "daily" in said
        assert not Channel.objects.exists(), "to look makes nothing"

    def test_links_that_lead_nowhere(self, settings: LazySettings) -> None:
        well("public_url")
        make_task(email_recipients=["a@example.com"])
        assert "web.public_url" in fault("public_url", Level.WARNING)[1]
        configure(settings, "web", public_url=f"http://127.0.0.1:{servers.free_port()}")
        assert "does not answer" in fault("public_url", Level.WARNING)[0]

    def test_links_that_lead_to_somebody_else(self, settings: LazySettings) -> None:
        class Page(BaseHTTPRequestHandler):
            answer = b'{"status": "ok"}'

            def do_GET(self) -> None:
                self.send_response(200)
                self.end_headers()
                self.wfile.write(self.answer)

            def log_message(self, *_args: Any) -> None:
                pass

        with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
            threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
            configure(settings, "web", public_url=f"http://127.0.0.1:{server.server_port}")
            assert "leads here" in well("public_url")
            Page.answer = b'{"it": "works"}'
            assert "somewhere else" in fault("public_url", Level.WARNING)[0]
            server.shutdown()


def test_a_check_that_fails_itself_is_told_and_the_others_go_on() -> None:
    def broken() -> Iterator[Finding]:
        yield ok("so far")
        raise RuntimeError("a fault of ours, password=hunter22")

    def stuck() -> Iterator[Finding]:
        threading.Event().wait()
        yield ok("never")

    table = [Check(each.__name__, each) for each in (broken, stuck, lambda: iter([ok("at last")]))]
    found = list(examine(table, 0.2))
    assert [finding.level for finding in found] == [Level.OK, Level.FAILED, Level.FAILED, Level.OK]
    assert "RuntimeError: a fault of ours" in found[1].sentence
    assert "hunter22" not in found[1].sentence
    assert "No answer within" in found[2].sentence
