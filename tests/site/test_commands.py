"""The older system's verbs: what they print, their exit codes, their JSON. Called in this process for speed."""

import json
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import yaml
from django.conf import LazySettings
from django.core.management import call_command
from django.core.management.base import CommandError

from datasources.models import DataSource
from exporter_site import keys
from exporter_site.command import display_width
from exporter_site.config import Config
from tasks.models import Execution, ExportTask
from tests.factories import make_execution, make_source, make_sqlite_file, make_task

pytestmark = pytest.mark.django_db


def manage(*arguments: object) -> str:
    out = StringIO()
    call_command(str(arguments[0]), *map(str, arguments[1:]), stdout=out, stderr=StringIO())
    return out.getvalue()


def manage_json(*arguments: object) -> Any:
    return json.loads(manage(*arguments, "--json"))


def failing(*arguments: object) -> tuple[str, int]:
    with pytest.raises(CommandError) as caught:
        manage(*arguments)
    return str(caught.value), caught.value.returncode


CREATE = ("datasource", "create", "shop", "mysql", "db1", "3306", "shop", "reporter", "s3cret-word")


def test_a_source_is_made_as_the_older_system_did() -> None:
    manage(*CREATE)
    source = DataSource.objects.get()
    assert (source.kind, source.host, source.port, source.password) == ("mysql", "db1", 3306, "s3cret-word")
    assert "s3cret-word" not in manage("datasource", "list", "--json") + manage("datasource", "list")


def test_a_source_is_changed_only_when_asked() -> None:
    manage(*CREATE)
    words, code = failing(*CREATE)
    assert (code, "--update" in words) == (1, True)
    manage(*CREATE[:4], "db2", *CREATE[5:], "--update")
    assert DataSource.objects.get().host == "db2"


@pytest.mark.parametrize(
    ("change", "words"),
    [((3, "oracle"), "mysql"), ((5, "http"), "http"), ((4, "mysql://db1"), "host"), ((4, "db1,db2"), "host")],
)
def test_a_wrong_source_is_wrong_use(change: tuple[int, str], words: str) -> None:
    arguments = list(CREATE)
    arguments[change[0]] = change[1]
    said, code = failing(*arguments)
    assert code == 2
    assert words in said
    assert not DataSource.objects.exists()


def test_testing_a_source_says_version_or_reason(tmp_path: Path) -> None:
    good = make_source(name="good", database=str(make_sqlite_file(tmp_path / "shop.db")))
    assert manage_json("datasource", "test", good.pk)["ok"] is True
    make_source(name="bad")
    words, code = failing("datasource", "test", "bad")
    assert (code, "/nowhere" in words) == (1, True)
    assert failing("datasource", "test", "999")[1] == 2


def with_sources(settings: LazySettings, text: str) -> None:
    settings.CONFIG = Config.model_validate({"data_sources": yaml.safe_load(text)})


def test_sync_follows_config_yaml(settings: LazySettings) -> None:
    with_sources(settings, "{a: {type: mysql, host: db1, database: shop, username: u, password: p4ssword}}")
    assert manage_json("datasource", "sync")["created"] == ["a"]
    assert manage_json("datasource", "sync") == {"created": [], "updated": [], "released": [], "errors": []}
    with_sources(settings, "{a: {type: mysql, host: db2, database: shop, username: u, password: p4ssword}}")
    assert manage_json("datasource", "sync")["updated"] == ["a"]
    source = DataSource.objects.get()
    assert (source.host, source.config_managed, source.password) == ("db2", True, "p4ssword")
    with_sources(settings, "{}")
    assert manage_json("datasource", "sync")["released"] == ["a"]
    assert DataSource.objects.get().config_managed is False


def test_sync_refuses_sample_values_and_goes_on_with_the_others(settings: LazySettings) -> None:
    with_sources(
        settings,
        "{a: {type: mysql, host: your_mysql_host, database: x, username: u, password: your_password},"
        " b: {type: sqlite, database: /x.db}, c: {type: oracle, host: h, database: x}}",
    )
    words, code = failing("datasource", "sync")
    assert code == 1
    assert "data_sources.a" in words
    assert "data_sources.c" in words
    assert [source.name for source in DataSource.objects.all()] == ["b"]


@pytest.fixture
def shop_task(tmp_path: Path) -> ExportTask:
    source = make_source(name="shop", database=str(make_sqlite_file(tmp_path / "shop.db")))
    sql = "SELECT id, customer FROM orders WHERE created < {{ ds }} ORDER BY id"
    return make_task(name="每日订单", data_source=source, sql=sql, cron="0 9 * * *")


def test_task_list_logs_and_test(shop_task: ExportTask) -> None:
    make_execution(shop_task)
    assert "每日订单" in manage("task", "list")
    assert manage_json("task", "list")[0]["cron"] == "0 9 * * *"
    assert manage_json("task", "logs", "每日订单")[0]["status"] == "queued"
    assert "排队中" in manage("task", "logs", shop_task.pk)
    found = manage_json("task", "test", shop_task.pk, "--date", "2025-02-01")
    assert [column["name"] for column in found["columns"]] == ["id", "customer"]
    assert found["rows"] == [["1", "张三"]]
    assert "张三" in manage("task", "test", shop_task.pk, "--date", "2025-02-01")
    assert Execution.objects.count() == 1


def test_task_test_shows_the_error_of_the_database(shop_task: ExportTask) -> None:
    ExportTask.objects.filter(pk=shop_task.pk).update(sql="SELECT nothing FROM orders")
    words, code = failing("task", "test", shop_task.pk)
    assert (code, "nothing" in words) == (1, True)


def test_tasks_go_through_a_file(shop_task: ExportTask, tmp_path: Path) -> None:
    file = tmp_path / "tasks.yaml"
    manage("task", "export", file)
    shop_task.delete()
    assert "每日订单" in manage("task", "import", file, "--dry-run")
    assert not ExportTask.objects.exists()
    manage("task", "import", file)
    assert ExportTask.objects.get().name == "每日订单"
    file.write_text("tasks: 1")
    assert failing("task", "import", file)[1] == 1


def test_rotated_keys_read_everything_and_old_ones_can_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: LazySettings
) -> None:
    monkeypatch.setenv("EXPORTER_KEYS_FILE", str(tmp_path / "keys.json"))
    monkeypatch.delenv("EXPORTER_ENCRYPTION_KEYS", raising=False)
    settings.FERNET_KEYS = list(keys.load_keys().encryption_keys)
    old = settings.FERNET_KEYS[0]
    source, task = make_source(kind="mysql", host="h", password="first-secret"), make_task(dingtalk_secret="SECxyz")
    manage("rotatekeys", "--forget-old")
    settings.FERNET_KEYS = list(keys.load_keys().encryption_keys)
    assert len(settings.FERNET_KEYS) == 1
    assert [old] != settings.FERNET_KEYS
    assert DataSource.objects.get(pk=source.pk).password == "first-secret"
    assert ExportTask.objects.get(pk=task.pk).dingtalk_secret == "SECxyz"
    settings.FERNET_KEYS = [old]
    assert DataSource.objects.get(pk=source.pk).password == ""


def test_columns_of_a_table_line_up_with_chinese() -> None:
    assert display_width("订单a") == 5
