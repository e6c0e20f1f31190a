"""What the SQL editor asks for, on real databases: tables, previews, checks; who may ask, and when it ends."""

import socket
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import Permission
from django.core.cache import cache
from django.test import Client, RequestFactory

from datasources.connectors.base import ConnectorError
from datasources.models import DataSource
from exporter_site.access.models import AuditEvent
from exporter_site.config import BASE_DIR
from tasks import preview, sql_editor
from tasks.models import ExportTask
from tests.factories import make_admin, make_source, make_sqlite_file, make_task, make_user
from tests.servers import shared
from tests.site.test_sql_editor import ENDLESS, SHOP, wait_until


@pytest.fixture(autouse=True)
def _nothing_remembered() -> None:
    cache.clear()


def client_of(user: Any) -> Client:
    client = Client(headers={"accept-language": "en"})
    client.force_login(user)
    return client


def ask(what: str, source: DataSource, sql: str = "", *, user: Any = None, **fields: str) -> dict[str, Any]:
    client = client_of(user or make_admin())
    form = {"data_source": str(source.pk), "sql": sql, **fields}
    answer = client.post(f"/admin/tasks/exporttask/sql/{what}/", form)
    assert answer.status_code == 200, answer.status_code
    found: dict[str, Any] = answer.json()
    return found


@pytest.fixture
def sqlite_source(db: None, tmp_path: Path) -> DataSource:
    return make_source(database=str(make_sqlite_file(tmp_path / "shop.db", SHOP)))


@pytest.fixture(params=["sqlite", "mysql", "postgresql"])
def source(request: pytest.FixtureRequest, db: None) -> DataSource:
    """A database of each kind with the tables orders and "订单 明细"."""
    fixture = {"mysql": "mariadb_source", "postgresql": "postgresql_source"}.get(request.param, "sqlite_source")
    made: DataSource = request.getfixturevalue(fixture)
    if request.param != "sqlite":
        for statement in SHOP:
            fitting = (
                statement.replace('"订单 明细"', "`订单 明细`")
                .replace('"编号"', "`编号`")
                .replace('"group"', "`group`")
            )
            fitting = fitting.replace('"<img src=x onerror=alert(1)>"', "`<img src=x onerror=alert(1)>`")
            execute(made, fitting if request.param == "mysql" else statement)
    return made


def execute(source: DataSource, sql: str) -> None:
    shared(source.kind).execute(sql, database=source.database)


def quoted(name: str, source: DataSource) -> str:
    mark = "`" if source.kind == "mysql" else '"'
    return mark + name + mark


def test_the_tables_of_a_source_are_ready_to_be_written(source: DataSource) -> None:
    answer = ask("schema", source)
    tables = {table: dict(columns) for _schema, table, columns in answer["tables"]}
    strange = quoted("<img src=x onerror=alert(1)>", source)
    assert list(tables["orders"]) == ["id", "customer", "amount", "created"]
    strange_table = tables[quoted("订单 明细", source)]
    assert list(strange_table) == [quoted("编号", source), quoted("group", source), strange]
    assert tables["orders"]["amount"].lower().replace("numeric", "decimal") == "decimal(10,2)"
    assert (answer["count"], answer["more"], answer["problem"], answer["dialect"]) == (7, False, None, source.kind)
    # What is offered can be run.
    for table, columns in tables.items():
        assert "columns" in ask("preview", source, f"SELECT {', '.join(columns)} FROM {table}"), table


def test_a_table_of_another_schema_is_offered_with_it(postgresql_source: DataSource) -> None:
    execute(postgresql_source, 'CREATE SCHEMA "Sales 1"')
    execute(postgresql_source, 'CREATE TABLE "Sales 1".orders (id integer, secret text)')
    assert ask("schema", postgresql_source)["tables"] == []  # the account may not look there
    cache.clear()
    reader = shared("postgresql").reader.username
    execute(postgresql_source, f'GRANT USAGE ON SCHEMA "Sales 1" TO {reader}')
    execute(postgresql_source, f'REVOKE SELECT ON "Sales 1".orders FROM {reader}')
    execute(postgresql_source, f'GRANT SELECT (id) ON "Sales 1".orders TO {reader}')
    assert ask("schema", postgresql_source)["tables"] == [['"Sales 1"', "orders", [["id", "integer"]]]]


def test_a_huge_catalogue_is_cut_and_says_so(source: DataSource, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sql_editor, "MOST_COLUMNS", 3)
    answer = ask("schema", source)
    assert (answer["count"], answer["more"]) == (3, True)
    assert sum(len(columns) for _schema, _table, columns in answer["tables"]) == 3


def test_a_broken_view_does_not_hide_the_tables(sqlite_source: DataSource) -> None:
    make_sqlite_file(Path(sqlite_source.database), ["CREATE VIEW broken AS SELECT * FROM gone"])
    assert ask("schema", sqlite_source)["count"] == 7


def test_a_source_that_is_down_is_said_in_a_sentence(db: None) -> None:
    answer = ask("schema", make_source())
    assert "There is no SQLite file" in answer["problem"]["message"]
    assert answer["dialect"] == "sqlite"


def test_a_preview_has_types_and_tells_null_from_empty(source: DataSource) -> None:
    answer = ask("preview", source, "SELECT id, customer FROM orders ORDER BY id", name="neu")
    assert answer["rows"] == [["1", "张三"], ["2", ""], ["3", None]]
    assert [column["name"] for column in answer["columns"]] == ["id", "customer"]
    assert all(column["type"] for column in answer["columns"])
    assert answer["more"] is False
    event = AuditEvent.objects.filter(action="preview").get()
    assert (event.subject_type, event.subject_number, event.note) == ("datasources.datasource", source.pk, "neu")


WRONG = (
    ("SELECT id,\n  nowhere\nFROM orders", 2),
    ("SELECT id\nFROM orders o\nWHERE o.nowhere = 1", 3),
    ("SELECT id\nFROM\n  no_such_table", 3),
    ("/* a\n comment */ SELECT id\nFROM orders WHERE WHERE", 3),  # by our own parser
    ("SELECT id FROM orders\nWHERE created = {{ dss }}", 2),
    ("SELECT id\nFROM orders;\nSELECT 1", 2),
    ("SELECT 'never closed", 1),
)


@pytest.mark.parametrize("what", ["preview", "check"])
def test_a_fault_is_marked_at_its_line(source: DataSource, what: str) -> None:
    admin = make_admin()
    lines = [ask(what, source, sql, user=admin, database="1")["problem"]["line"] for sql, _line in WRONG]
    assert lines == [line for _sql, line in WRONG]


def test_the_databases_own_parser_says_the_line(source: DataSource) -> None:
    # The parser of ours takes it; PostgreSQL and MariaDB do not.
    answer = ask("check", source, "SELECT id,\n  count(*) OVER (ROWS BETWEEN 1 AND 2)\nFROM orders", database="1")
    assert answer["problem"]["line"] in (2, None)
    assert answer["problem"]["message"]


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT id FROM orders WHERE created < {{ ds }} AND customer = {{ params.shop }}",
        "WITH a AS (SELECT 1 AS n) SELECT n FROM a",
    ],
)
def test_a_check_accepts_what_runs(source: DataSource, sql: str) -> None:
    answer = ask("check", source, sql, params='{"shop": "001"}', database="1")
    assert answer["problem"] is None
    assert AuditEvent.objects.filter(action="preview").count() == 0


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"timezone": "Mars"}, "is not a time zone"),
        ({"params": "{"}, "must be an object"),
        ({"params": '{"a": [1]}'}, "must be an object"),
        ({"sql": "DELETE FROM orders"}, "begins with"),
        ({"sql": "SELECT {{ params.shop }}"}, "has no value"),
    ],
)
def test_what_cannot_be_run_is_refused_in_a_sentence(sqlite_source: DataSource, fields: Any, sentence: str) -> None:
    answer = ask("preview", sqlite_source, **{"sql": "SELECT 1"} | fields)
    assert sentence in answer["problem"]["message"]
    assert AuditEvent.objects.filter(action="preview").count() == 0


def test_a_source_that_is_switched_off_is_not_read(sqlite_source: DataSource) -> None:
    DataSource.objects.update(is_active=False)
    for what in ("preview", "schema"):
        assert "switched off" in ask(what, sqlite_source, "SELECT 1")["problem"]["message"]


def waiting_task(source: DataSource) -> ExportTask:
    endless = {"mysql": "SELECT SLEEP(50)", "postgresql": "SELECT 1 FROM pg_sleep(50)"}
    return ExportTask(name="t", data_source=source, sql=endless.get(source.kind, ENDLESS), timezone="Asia/Shanghai")


def is_gone(source: DataSource) -> bool:
    return source.kind == "sqlite" or not shared(source.kind).running("exp:preview")


def test_a_preview_ends_at_its_limit(source: DataSource, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preview, "PREVIEW_TIMEOUT", 1)
    with pytest.raises(ConnectorError, match=r"1|limit") as caught:
        preview.preview(waiting_task(source))
    assert caught.value.reason == "query_timeout"
    wait_until(lambda: is_gone(source))


def test_a_preview_that_nobody_waits_for_ends(source: DataSource) -> None:
    ours, theirs = socket.socketpair()
    request = RequestFactory().post("/")
    request.META["gunicorn.socket"] = ours
    hung_up = sql_editor._hung_up(request)
    theirs.send(b"the next request")
    assert not hung_up()
    ours.recv(100)
    assert not hung_up()
    theirs.close()
    with pytest.raises(ConnectorError) as caught:
        preview.preview(waiting_task(source), abandoned=hung_up)
    assert caught.value.reason == "cancelled"
    wait_until(lambda: is_gone(source))
    ours.close()


def test_rights(sqlite_source: DataSource) -> None:
    other = make_source()
    viewer = make_user(role="viewer", sources=[sqlite_source])
    operator = make_user(role="operator", sources=[sqlite_source])
    editor = make_user(role="editor", sources=[sqlite_source])
    writer = make_user(role="viewer", sources=[sqlite_source])
    writer.user_permissions.set(Permission.objects.filter(codename__in=["add_exporttask", "view_sql"]))
    blind = make_user(role="viewer", sources=[sqlite_source])
    blind.user_permissions.set(Permission.objects.filter(codename="change_exporttask"))
    made = {"sql": "SELECT 1", "data_source": sqlite_source.pk}
    wanted = {viewer: (403, 403, 403), operator: (403, 403, 403), blind: (403, 403, 403)}
    wanted |= {editor: (200, 200, 200), writer: (200, 200, 403)}
    for user, codes in wanted.items():
        for what, code in zip(("schema", "check", "preview"), codes, strict=True):
            url = f"/admin/tasks/exporttask/sql/{what}/"
            assert client_of(user).post(url, made).status_code == code, (user.groups.get().name, what)
    for number in (other.pk, "", "x", "-1", "9" * 30, "²"):
        for what in ("schema", "check", "preview"):
            answer = client_of(editor).post(f"/admin/tasks/exporttask/sql/{what}/", made | {"data_source": number})
            assert answer.status_code == 404
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(editor)
    assert strict.post("/admin/tasks/exporttask/sql/preview/", made).status_code == 403


def test_the_sql_of_a_page_is_escaped(sqlite_source: DataSource) -> None:
    task = make_task(data_source=sqlite_source, sql="SELECT '</pre><script>alert(1)</script>' AS a")
    editor, viewer = make_admin(), make_user(role="viewer", sources=[sqlite_source])
    viewer.user_permissions.add(Permission.objects.get(codename="view_sql"))
    for user in (editor, viewer):
        page = client_of(user).get(f"/admin/tasks/exporttask/{task.pk}/change/").content.decode()
        assert "&lt;/pre&gt;&lt;script&gt;alert(1)" in page
        assert "<script>alert(1)" not in page


def test_the_libraries_are_there_with_their_licences() -> None:
    vendor = BASE_DIR / "static" / "vendor"
    assert sum(file.stat().st_size for file in vendor.glob("*.js")) < 700_000
    licences = (vendor / "licences.txt").read_text()
    assert "codemirror 6.0.2 (MIT)" in licences
    assert "sql-formatter" in licences
