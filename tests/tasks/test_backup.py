"""A backup that is taken while the system works, and what is true after it was restored."""

import html
import json
import shutil
import signal
import tarfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.conf import LazySettings
from django.test import Client
from django.utils import timezone
from django.utils.translation import override

from exporter_site import dump
from notifications.messages import Event
from notifications.models import Delivery
from notifications.states import DeliveryStatus
from tasks import announce, archive, backup, restore
from tasks.archive import BackupError, Manifest
from tasks.housekeeping import housework
from tasks.models import Execution, SchedulerProcess
from tasks.reasons import REASONS
from tasks.states import Status
from tests import servers
from tests.factories import make_admin, make_execution, make_sqlite_file, make_task, paths_of
from tests.faults.checker import Owed, Row, moment, read_rows
from tests.faults.load import Fleet, add_source, add_tasks, query_of
from tests.instance import Instance
from tests.plugin import database_settings, installation_environment
from tests.tasks.test_runtask import eventually

TASKS = 150  # one a second: more than anybody waits for
STEP = timedelta(seconds=1)
NEW = 1_000_000  # below it, the numbers of the time before the backup


@pytest.fixture(autouse=True)
def _english() -> Iterator[None]:
    with override("en"):
        yield


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[Callable[[str], Instance]]:
    """Makes an installation with an empty system database of a kind: no table, keys of its own."""
    made: list[Instance] = []

    def make(kind: str) -> Instance:
        instance = Instance(tmp_path / f"bare-{len(made)}")
        made.append(instance)
        instance.database_file.unlink()
        if kind != "sqlite":
            instance.kind, instance.database = kind, servers.shared(kind).new_database()
            instance.environment |= installation_environment(
                instance.home, database_settings(kind, str(instance.database))
            )
        return instance

    yield make
    for instance in made:
        instance.close()


def system(instance: Instance, *args: object, check: bool = True) -> Any:
    """What `manage.py system … --json` says; without `check` the words of its failure."""
    done = instance.manage("system", *args, "--json", check=check, env={"LANGUAGE": "en"})
    if check:
        return json.loads(done.stdout)
    assert done.returncode == 1, done.stdout + done.stderr
    return done.stderr


def backed_up(instance: Instance, *args: object) -> tuple[Path, Path]:
    """A new backup: the archive and its keys."""
    made = system(instance, "backup", *args)
    return Path(made["archive"]), Path(made["keys"])


def give_keys(instance: Instance, keys: Path) -> None:
    target = Path(instance.environment["EXPORTER_KEYS_FILE"])
    target.parent.mkdir(exist_ok=True)
    shutil.copyfile(keys, target)
    target.chmod(0o600)


def files_of(instance: Instance) -> set[str]:
    """What lies below output_dir where people find it."""
    found = (path.relative_to(instance.output_dir) for path in instance.output_dir.rglob("*") if path.is_file())
    return {str(path) for path in found if not path.parts[0].startswith("quarantine-")}


def by_state(rows: list[Row], status: str) -> set[str]:
    return {row.task_name for row in rows if row.status == status}


@pytest.mark.slow
def test_nothing_runs_twice_after_a_backup_under_load_was_restored(
    instance: Instance, bare: Callable[[str], Instance]
) -> None:
    """Many tasks, each due once, one after another; the backup is taken in their midst. What has run after it is not
    run again: neither elsewhere, nor in the same place."""
    add_source(instance)
    first = datetime.now(UTC)
    owed = {f"task {n}": Owed("0 0 1 1 *", "Asia/Shanghai", first + n * STEP, 1) for n in range(TASKS)}
    add_tasks(instance, owed)
    query = query_of(instance)
    fleet = Fleet(instance, 1, 2)
    fleet.keep()
    assert eventually(lambda: len(by_state(read_rows(query), "succeeded")) >= 4, seconds=60)
    file, keys = backed_up(instance)
    at_least = len(read_rows(query)) + 4
    assert eventually(lambda: len(by_state(read_rows(query), "succeeded")) >= at_least, seconds=90)
    query("UPDATE tasks_exporttask SET enabled = FALSE")
    fleet.stop()
    before = {row.task_name: row for row in read_rows(query)}
    made = files_of(instance)

    other = bare(instance.kind)
    give_keys(other, keys)
    for root, more in ((other, ()), (instance, ("--yes",))):
        done = system(root, "restore", file, *more)
        root.manage("runscheduler", "--once")
        rows = read_rows(query_of(root))
        known = {row.task_name for row in rows if row.id < NEW and row.status == "succeeded"}
        again = {row.task_name for row in rows if row.id > NEW and row.status != "missed"}
        missed = by_state(rows, "missed")
        assert len(rows) == len({row.task_name for row in rows}) == len(known) + len(again) + len(missed)
        # What is due only now runs. What was due since the backup is on record, all of it and nothing else.
        assert again.isdisjoint(before)
        assert by_state(list(before.values()), "succeeded") - known <= missed
        assert len(missed) == sum(done["missed"].values()) + done["ended"] >= 4
        reasons = query_of(root)("SELECT DISTINCT reason FROM tasks_execution WHERE status = 'missed'")
        assert reasons == [("restored",)]
        assert all(row.scheduled_for == owed[row.task_name].first for row in rows)
        open_tasks = query_of(root)("SELECT next_run_at FROM tasks_exporttask WHERE enabled ORDER BY next_run_at")
        assert len(open_tasks) == TASKS
        following = moment(open_tasks[0][0])
        assert following is not None
        assert following > first + (len(rows) - 1) * STEP
        kept = {part["path"] for row in rows if row.id < NEW for part in row.files}
        new = {part["path"] for row in rows if row.id > NEW for part in row.files}
        if root is other:
            assert (done["missing"], files_of(root)) == (len(known), new)
        else:
            assert (done["missing"], files_of(root)) == (0, kept | new)
            aside = {str(path.relative_to(done["quarantine"])) for path in Path(done["quarantine"]).rglob("*.*")}
            assert aside == made - kept
        assert query_of(root)("SELECT count(*) FROM tasks_pause WHERE active_key IS NOT NULL") == [(0,)]


@pytest.mark.parametrize("kind", ["sqlite", "mysql", "postgresql"])
def test_all_of_it_comes_back_in_an_empty_database(bare: Callable[[str], Instance], tmp_path: Path, kind: str) -> None:
    """With the files, with a password full of characters that mean something to each of the programs on the way."""
    instance, other = Instance(tmp_path / "source", kind), bare(kind)
    if kind != "sqlite":
        server, password = servers.shared(kind), "p'a\"s\\s:#w;o=r d$\\"
        user = f"owner_{other.database}"
        if kind == "mysql":
            server.execute(f"CREATE USER '{user}'@'%%' IDENTIFIED BY %s", password)
            for root in (instance, other):
                server.execute(f"GRANT ALL ON `{root.database}`.* TO '{user}'@'%'")
        else:
            server.execute(f"CREATE ROLE {user} SUPERUSER LOGIN PASSWORD '{password.replace(chr(39), chr(39) * 2)}'")
        for root in (instance, other):
            root.environment |= {
                "EXPORTER_SYSTEM_DATABASE__USERNAME": user,
                "EXPORTER_SYSTEM_DATABASE__PASSWORD": password,
            }
    source = make_sqlite_file(instance.home / "source.db")
    instance.python(
        "from tasks.models import *; from datasources.models import *\n"
        f"source = DataSource.objects.create(name='source', kind='sqlite', database={str(source)!r})\n"
        "ExportTask.objects.create(name='报表 \\'1\\\\', sql='SELECT 1 -- \\n；', data_source=source,"
        " dingtalk_secret='4711-robot-token')"
    )
    run = json.loads(instance.manage("runtask", "1", "--json").stdout)
    file, keys = backed_up(instance, "--with-files")
    assert file.stat().st_mode & 0o777 == keys.stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in file.parent.iterdir()) == sorted([file.name, keys.name])
    assert list(instance.temp_dir.iterdir()) == []

    refused = system(other, "restore", file, check=False)
    assert "keys of this installation can't read" in refused
    assert other.environment["EXPORTER_KEYS_FILE"] in refused
    give_keys(other, keys)
    done = system(other, "restore", file)
    assert (done["files"], done["missing"], done["unreadable"], done["links_valid"]) == (1, 0, 0, True)
    told = other.python(
        "from tasks.models import *\ntask = ExportTask.objects.get()\nprint(repr((task.name, task.sql)), task.dingtalk_secret)\n"
        "print(Execution.objects.get().stored_files()[0].open().read().hex())\n"
        "from tasks.states import *\nprint(Execution.objects.enqueue(task, trigger=Trigger.MANUAL).pk)"
    ).split("\n")
    assert told[0] == f"{('报表 ' + chr(39) + '1' + chr(92), 'SELECT 1 -- ' + chr(10) + '；')!r} 4711-robot-token"
    assert bytes.fromhex(told[1]) == Path(run["paths"][0]).read_bytes()
    # A number of the time after the backup is in somebody's hands, with a link to another file.
    assert int(told[2]) > 1_000_000


def test_a_restore_that_breaks_off_leaves_a_system_that_starts_and_sends_nothing(instance: Instance) -> None:
    """Killed as soon as the old tables are there again, before anything of them is settled."""
    add_source(instance)
    add_tasks(instance, {"task": Owed("0 0 1 1 *", "Asia/Shanghai", datetime.now(UTC), 1)})
    instance.python(
        "from tasks.models import *; from tasks.states import *; from notifications.models import *\n"
        "run = Execution.objects.enqueue(ExportTask.objects.get(), trigger=Trigger.MANUAL)\n"
        "channel = Channel.objects.of_task(run.task, 'email')\n"
        "Delivery.objects.owe(run.pk, 'success', channel, {})"
    )
    file, _keys = backed_up(instance)
    instance.python(
        "import os, pathlib; from tasks import restore\n"
        "try:\n    restore._settle = lambda *args: 1 / 0\n"
        f"    restore.restore(pathlib.Path({str(file)!r}), replace=True)\n"
        "except ZeroDivisionError: os._exit(0)"
    )
    instance.manage("runscheduler", "--once")
    query = query_of(instance)
    assert query("SELECT status, attempt FROM tasks_execution") == [("queued", 0)]
    assert query("SELECT status, reason, attempt FROM notifications_delivery") == [("dead", "restored", 0)]
    done = system(instance, "restore", file, "--yes")
    assert (done["missed"], done["ended"], done["held_back"]) == ({"task": 1}, 1, 1)
    assert query("SELECT DISTINCT status, reason FROM tasks_execution") == [("missed", "restored")]
    assert query("SELECT count(*) FROM tasks_pause WHERE active_key IS NOT NULL") == [(0,)]


def test_the_archive_has_no_key_and_the_keys_say_that_they_belong_elsewhere(instance: Instance) -> None:
    file, keys = backed_up(instance, "--output", instance.home)
    stored = json.loads(keys.read_text())
    with tarfile.open(file) as tar:
        contents = b"".join(tar.extractfile(member).read() for member in tar)  # type: ignore[union-attr]
        names = sorted(tar.getnames())
    assert names == sorted(["manifest.json", "config.yaml", "files.jsonl", dump.MEMBERS[instance.kind]])
    for key in (stored["secret_key"], stored["jwt_key"], *stored["encryption_keys"]):
        assert key.encode() not in contents
    assert file.name in stored["note"]
    assert "exists already" in system(instance, "backup", "--output", file, check=False)


def test_a_scheduler_that_lives_is_not_robbed_of_its_database(instance: Instance) -> None:
    file, _keys = backed_up(instance)
    process = instance.spawn("runscheduler", "--workers=1")
    alive = "from tasks.models import *\nprint(SchedulerProcess.objects.alive().count())"
    eventually(lambda: instance.python(alive).strip() == "1", seconds=30)
    assert "manage.py scheduler stop" in system(instance, "restore", file, "--yes", check=False)
    process.send_signal(signal.SIGTERM)
    process.wait(30)
    assert system(instance, "restore", file, "--yes")["missed"] == {}


def test_a_program_that_is_missing_is_named(instance: Instance) -> None:
    done = instance.manage("system", "backup", check=False, env={"PATH": "/nowhere", "LANGUAGE": "en"})
    if instance.kind == "sqlite":  # It needs none.
        assert done.returncode == 0
    else:
        assert (done.returncode, "apt-get install" in done.stderr) == (1, True)


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A small archive that is whole."""
    manifest = Manifest("0.1.0", timezone.now(), "sqlite", [("tasks", "0001_initial")], {}, with_files=True)
    (tmp_path / "database.sqlite3").write_bytes(b"d" * 100_000)
    (tmp_path / "report.csv").write_bytes(b"a,b\r\n")
    target = tmp_path / "made.tar.gz"
    with archive.write(target, manifest) as writer:
        with (tmp_path / "database.sqlite3").open("rb") as opened:
            writer.add("database.sqlite3", opened)
        with (tmp_path / "report.csv").open("rb") as opened:
            facts = writer.add("files/2025-08/1-1/report.csv", opened)
        line = {"execution": 1, "path": "2025-08/1-1/report.csv"} | facts
        (tmp_path / "files.jsonl").write_text(json.dumps(line) + "\n")
        with (tmp_path / "files.jsonl").open("rb") as opened:
            writer.add("files.jsonl", opened)
    return target


class TestArchive:
    def test_it_is_read_as_it_was_written(self, made: Path, tmp_path: Path) -> None:
        (tmp_path / "out").mkdir()
        assert archive.check(made, tmp_path / "out").migrations == [("tasks", "0001_initial")]
        assert (tmp_path / "out" / "database.sqlite3").read_bytes() == b"d" * 100_000
        assert [(path, content.read()) for path, content in archive.stored_files(made)] == [
            ("2025-08/1-1/report.csv", b"a,b\r\n")
        ]
        assert made.stat().st_mode & 0o777 == 0o600

    @pytest.mark.parametrize("name", ["database.sqlite3", "files/2025-08/1-1/report.csv", "files.jsonl"])
    @pytest.mark.parametrize("fault", ["changed", "missing"])
    def test_a_member_that_is_not_as_it_was_is_found(self, made: Path, tmp_path: Path, name: str, fault: str) -> None:
        self.rewrite(made, tmp_path, name, {"changed": b"something else", "missing": None}[fault])
        (tmp_path / "out").mkdir()
        with pytest.raises(BackupError, match="damaged"):
            archive.check(made, tmp_path / "out")

    @pytest.mark.parametrize("name", ["../out.txt", "/tmp/out.txt", "files/../../x", "notes.txt"])
    def test_a_member_that_is_none_of_ours_is_refused(self, made: Path, tmp_path: Path, name: str) -> None:
        self.rewrite(made, tmp_path, name, b"harm")
        (tmp_path / "out").mkdir()
        with pytest.raises(BackupError, match="damaged"):
            archive.check(made, tmp_path / "out")
        assert not (tmp_path / "out.txt").exists()

    def test_one_that_ends_too_soon_or_is_none_is_refused(self, made: Path, tmp_path: Path) -> None:
        (tmp_path / "out").mkdir()
        for content in (made.read_bytes()[:-100], b"no archive", b""):
            made.write_bytes(content)
            with pytest.raises(BackupError, match=r"can't be read|no manifest"):
                archive.check(made, tmp_path / "out")

    @staticmethod
    def rewrite(made: Path, tmp_path: Path, name: str, content: bytes | None) -> None:
        """The same archive with another member `name`, or without it."""
        with tarfile.open(made) as tar:
            members = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
        members = {known: data for known, data in members.items() if known != name}
        if content is not None:
            members[name] = content
        with tarfile.open(made, "w:gz") as tar:
            for known, data in members.items():
                (tmp_path / "member").write_bytes(data)
                tar.add(tmp_path / "member", known)


@pytest.mark.django_db
class TestRefusals:
    def manifest(self, **changes: Any) -> Manifest:
        from django.db import connection

        keys = backup.proof_of_keys()
        fields = {"version": "0.1.0", "taken_at": timezone.now(), "kind": connection.vendor, "migrations": []}
        return Manifest(**{**fields, "keys": keys, "with_files": False, **changes})

    def test_one_that_fits_is_taken(self) -> None:
        restore.check_fits(self.manifest(migrations=[("tasks", "0001_initial")]))
        restore.check_target(replace=False)

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"kind": "other"}, "same kind"),
            ({"migrations": [("tasks", "9999_future")]}, "Upgrade this installation first"),
            ({"taken_at": timezone.now() + timedelta(hours=1)}, "clock"),
            ({"keys": {"encryption_keys": ["gAAAAA"]}}, "keys of this installation"),
            ({"keys": {}}, "keys of this installation"),
        ],
    )
    def test_what_does_not_fit_is_refused_with_what_to_do(
        self, changes: dict[str, Any], words: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(dump.LABELS, "other", "another kind")
        with pytest.raises(BackupError, match=words):
            restore.check_fits(self.manifest(**changes))

    def test_what_would_be_lost_is_named(self) -> None:
        make_execution()
        with pytest.raises(restore.NotEmpty, match=r"export tasks 1, data sources 1, executions 1.*--yes"):
            restore.check_target(replace=False)
        restore.check_target(replace=True)

    def test_a_scheduler_that_was_seen_lately_is_asked_to_stop_first(self) -> None:
        SchedulerProcess.objects.create(name="elsewhere:1:x", seen_at=timezone.now(), workers=1)
        with pytest.raises(BackupError, match="scheduler stop"):
            restore.check_target(replace=True)


@pytest.mark.django_db
class TestSettling:
    def test_every_time_since_the_backup_has_a_row_and_the_next_one_is_to_come(self) -> None:
        now = timezone.now().replace(second=30, microsecond=0)
        task = make_task(cron="* * * * *")
        task.next_run_at = now - timedelta(minutes=200, seconds=30)
        type(task).objects.filter(pk=task.pk).update(next_run_at=task.next_run_at)
        assert restore.miss_until(task, now) == 201
        task.refresh_from_db()
        assert task.next_run_at == now + timedelta(seconds=30)
        rows = list(Execution.objects.filter(task=task, status=Status.MISSED, reason="restored"))
        assert sum(row.occurrences for row in rows) == 201
        assert not Delivery.objects.exists()
        assert restore.miss_until(task, now) == 0

    def test_runs_that_wait_or_run_do_not_go_on(self) -> None:
        queued, running = make_execution(), make_execution(status=Status.RUNNING, attempt=1, slot_key="x")
        done = make_execution(status=Status.SUCCEEDED, attempt=1)
        assert Execution.objects.close_restored() == 2
        for row in (queued, running, done):
            row.refresh_from_db()
        assert (queued.status, running.status, done.status) == (Status.MISSED, Status.MISSED, Status.SUCCEEDED)
        assert (queued.reason, running.slot_key) == ("restored", None)
        assert str(REASONS["restored"].remedy)

    def test_what_nobody_knows_is_no_failure_that_is_over_with_the_next_success(self) -> None:
        task = make_task()
        make_execution(task, status=Status.MISSED, reason="restored", finished_at=timezone.now())
        done = make_execution(task, status=Status.SUCCEEDED, attempt=1, finished_at=timezone.now(), rows_count=1)
        assert announce._events_of(done) == [Event.SUCCESS]

    def test_a_row_without_its_file_says_so_and_a_file_without_its_row_is_set_aside(
        self, settings: LazySettings, tmp_path: Path
    ) -> None:
        export = settings.CONFIG.export.model_copy(update={"output_dir": tmp_path})
        settings.CONFIG = settings.CONFIG.model_copy(update={"export": export})
        rows = [make_execution(status=Status.SUCCEEDED, attempt=1) for _number in range(3)]
        for row in rows:
            parts = [{"path": f"2025-08/{row.pk}-1/a.csv", "size": 7, "sha256": "", "rows": 1}]
            Execution.objects.filter(pk=row.pk).update(files=parts, filename="a.csv")
        kept, other, missing = rows
        # The second has a file of another run that had the same number after the backup.
        for name, text in ((f"{kept.pk}-1", "content"), (f"{other.pk}-1", "other content"), ("4711-1", "content")):
            (tmp_path / "2025-08" / name).mkdir(parents=True)
            (tmp_path / "2025-08" / name / "a.csv").write_text(text)
        now = timezone.now()
        done = restore.Restored(now, "0.1.0")
        manifest = Manifest("0.1.0", now, "sqlite", [], {}, with_files=False)
        restore._put_files_right(tmp_path / "unused", manifest, now, done)
        assert (done.missing, done.quarantined) == (2, 2)
        assert done.quarantine is not None
        quarantine = Path(done.quarantine)
        aside = sorted(str(path.relative_to(quarantine)) for path in quarantine.rglob("*.csv"))
        assert aside == sorted([f"2025-08/{other.pk}-1/a.csv", "2025-08/4711-1/a.csv"])
        for row in rows:
            row.refresh_from_db()
        assert paths_of(kept) == [tmp_path / "2025-08" / f"{kept.pk}-1" / "a.csv"]
        assert (missing.reason, missing.files_removed_at, paths_of(other)) == ("file_missing", now, [])
        client = Client()
        client.force_login(make_admin())
        page = client.get(f"/admin/tasks/execution/{missing.pk}/change/", headers={"accept-language": "en"})
        assert str(REASONS["file_missing"].sentence) in html.unescape(page.content.decode())
        assert "after its retention time" not in page.content.decode()
        for _piece in housework():
            pass
        assert len(list(quarantine.rglob("*.csv"))) == 2

    def test_messages_that_may_have_arrived_wait_for_somebody_who_says_send_again(self) -> None:
        from django.db import connection

        now = timezone.now()
        row = Delivery.objects.create(
            execution=make_execution(), event="success", key="k", payload={}, next_at=now, channel_name="群"
        )
        with connection.cursor() as cursor:
            for statement in restore._guard(now):
                cursor.execute(statement.replace("%", "%%"))
        row.refresh_from_db()
        assert (row.status, row.reason, row.finished_at) == (DeliveryStatus.DEAD, "restored", now)
        assert Delivery.objects.resend(row, link=None)
        row.refresh_from_db()
        assert (row.status, row.possibly_duplicate) == (DeliveryStatus.PENDING, True)
