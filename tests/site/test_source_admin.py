"""A data source in the admin: tried before it is saved, shown with the tasks that read from it, kept while they do."""

import re
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import Permission
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from datasources import models, usage
from datasources.connectors.mysql import MySQL
from datasources.models import DataSource
from exporter_site.access.models import AuditEvent, Grant
from tasks.models import ExportTask
from tasks.states import Status
from tests.access.world import form_of
from tests.factories import (
    make_admin,
    make_execution,
    make_server_source,
    make_source,
    make_sqlite_file,
    make_task,
    make_user,
)
from tests.servers import PrivateServer, free_port
from tests.servers.mariadb import MariaDB
from tests.servers.postgresql import PostgreSQL

pytestmark = pytest.mark.django_db

LIST = reverse("admin:datasources_datasource_changelist")
ADD = reverse("admin:datasources_datasource_add")
TRY_NEW = reverse("admin:datasources_datasource_try_new")
NASTY = "<script>window.hacked=1</script>"


def logged_in(user: Any) -> Client:
    client = Client(headers={"accept-language": "en"})
    client.force_login(user)
    return client


@pytest.fixture
def browser() -> Client:
    return logged_in(make_admin())


def page_of(source: DataSource) -> str:
    return reverse("admin:datasources_datasource_change", args=[source.pk])


def try_of(source: DataSource) -> str:
    return reverse("admin:datasources_datasource_try", args=[source.pk])


def right_to(codename: str) -> Permission:
    return Permission.objects.get(codename=codename)


def deletion_of(source: DataSource) -> str:
    return reverse("admin:datasources_datasource_delete", args=[source.pk])


def values(server: PrivateServer, kind: str, **changes: Any) -> dict[str, Any]:
    """What the form for a new source on `server` sends."""
    account = server.reader
    form = {"kind": kind, "host": server.host, "port": server.port, "database": "", "username": account.username}
    form |= {"password": account.password, "ssl_mode": "prefer", "charset": "utf8mb4"}
    return form | changes


class TestTrying:
    @pytest.mark.parametrize("kind", ["mysql", "postgresql"])
    def test_what_it_came_to_is_said_in_words(self, browser: Client, kind: str, request: pytest.FixtureRequest) -> None:
        server: PrivateServer = request.getfixturevalue("mariadb" if kind == "mysql" else "postgresql")
        known = {"database": server.new_database()}
        right = values(server, kind, **known)
        admin = {"username": server.admin.username, "password": server.admin.password}
        expected: list[tuple[dict[str, Any], str, str, str]] = [
            ({}, "good", "The connection works.", "answered in"),
            (admin, "warn", "The connection works.", "may do more than read"),
            ({"password": "wrong-secret"}, "bad", "Login refused", "Check user name and password"),
            (admin | {"database": "no_such_place"}, "bad", "Unknown database", "no_such_place"),
            ({"port": free_port()}, "bad", "Not reachable", "Check host and port"),
            ({"host": "no-such-host.invalid"}, "bad", "Not reachable", "no-such-host.invalid"),
            ({"ssl_mode": "verify-full"}, "bad", "No encrypted connection", "Check the TLS mode"),
        ]
        for change, state, title, words in expected:
            found = browser.post(TRY_NEW, right | change).json()
            assert (found["state"], found["title"], found["fields"]) == (state, title, {}), (change, found)
            assert words in " ".join(found["lines"]), (change, found)
            assert "wrong-secret" not in str(found)
        assert not DataSource.objects.exists()

    def test_what_is_wrong_is_said_at_its_field_and_nothing_is_sent(
        self, browser: Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delattr(DataSource, "connector")
        right = {"kind": "mysql", "host": "db1", "database": "shop", "ssl_mode": "prefer", "charset": "utf8mb4"}
        for change, field in (
            ({"host": "http://db1"}, "host"),
            ({"host": "169.254.169.254"}, "host"),
            ({"host": ""}, "host"),
            ({"port": "99999"}, "port"),
            ({"database": ""}, "database"),
            ({"kind": "oracle"}, "kind"),
            ({"ssl_mode": "maybe"}, "ssl_mode"),
        ):
            found = browser.post(TRY_NEW, right | change).json()
            assert (found["state"], set(found["fields"])) == ("bad", {field}), found
        assert not AuditEvent.objects.filter(action="test").exists()

    def test_our_own_files_are_no_sources(self, browser: Client, tmp_path: Path) -> None:
        form = {"kind": "sqlite", "database": f"file:{tmp_path}/x", "ssl_mode": "prefer", "charset": "utf8mb4"}
        assert set(browser.post(TRY_NEW, form).json()["fields"]) == {"database"}

    def test_unsaved_values_leave_the_stored_source_and_its_result_alone(
        self, browser: Client, mariadb_source: DataSource
    ) -> None:
        before = DataSource.objects.values().get()
        form = form_of(browser, page_of(mariadb_source)) | {"name": "x", "password": "wrong-secret"}
        assert browser.post(try_of(mariadb_source), form).json()["title"] == "Login refused"
        assert DataSource.objects.values().get() == before
        event = AuditEvent.objects.get(action="test")
        assert (event.subject_number, event.subject_name) == (mariadb_source.pk, mariadb_source.name)
        assert mariadb_source.host in event.note
        assert "wrong-secret" not in event.note

    def test_the_stored_values_are_tried_with_the_stored_password_and_the_result_is_kept(
        self, browser: Client, mariadb_source: DataSource
    ) -> None:
        form = form_of(browser, page_of(mariadb_source))
        assert browser.post(try_of(mariadb_source), form | {"description": "new"}).json()["state"] == "good"
        mariadb_source.refresh_from_db()
        assert (mariadb_source.test_ok, mariadb_source.description) == (True, "")
        assert "Last test passed" in browser.get(page_of(mariadb_source)).content.decode()

    def test_a_server_that_falls_silent_is_given_up(
        self, browser: Client, mariadb_source: DataSource, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(models, "REPORT_TIMEOUT", 0.3)
        monkeypatch.setattr(MySQL, "_warnings", lambda connector: connector._rows("SELECT SLEEP(60)"))
        found = browser.post(try_of(mariadb_source), form_of(browser, page_of(mariadb_source))).json()
        assert found["title"] == "Not reachable"
        assert "said nothing" in " ".join(found["lines"])

    def test_the_servers_own_words_are_for_those_who_may_see_sql(self, mariadb_source: DataSource) -> None:
        DataSource.objects.update(password="wrong-secret")
        DataSource.objects.get().save()
        mariadb_source = DataSource.objects.get()
        operator = make_user(role="operator", sources=[mariadb_source])
        assert "Access denied" in str(logged_in(operator).post(try_of(mariadb_source)).json()["lines"])
        tester = make_user(role="operator", sources=[mariadb_source])
        tester.groups.clear()
        for name in ("view_datasource", "test_datasource"):
            tester.user_permissions.add(right_to(name))
        found = logged_in(tester).post(try_of(mariadb_source)).json()
        assert found["title"] == "Login refused"
        assert "Access denied" not in str(found)

    def test_who_may_not_change_tries_what_is_stored_whatever_is_sent(self, mariadb_source: DataSource) -> None:
        client = logged_in(make_user(role="operator", sources=[mariadb_source]))
        found = client.post(try_of(mariadb_source), {"kind": "mysql", "host": "db.attacker.example"}).json()
        assert found["state"] == "good"
        assert client.post(TRY_NEW, {"kind": "mysql"}).status_code == 403
        assert client.post(try_of(make_source())).status_code == 404

    def test_a_page_has_the_button_for_those_who_may(self) -> None:
        source = make_source()
        for role, offered in (("operator", True), ("admin", True)):
            page = logged_in(make_user(role=role, sources=[source])).get(page_of(source)).content.decode()
            assert ("data-trial" in page) is offered
        looker = make_user(is_staff=True, sources=[source])
        looker.user_permissions.add(right_to("view_datasource"))
        assert "data-trial" not in logged_in(looker).get(page_of(source)).content.decode()


class TestForm:
    def test_without_javascript_all_fields_are_there(self, browser: Client) -> None:
        page = browser.get(ADD).content.decode()
        for name in ("kind", "host", "port", "database", "username", "password", "ssl_mode", "charset"):
            assert f'name="{name}"' in page, name
        assert page.index('name="kind"') < page.index('name="name"') < page.index('name="host"')

    def test_the_page_knows_the_kinds(self, browser: Client) -> None:
        kinds = browser.get(ADD).context["kinds"]
        assert list(kinds["sqlite"]["fields"]) == ["database"]
        assert "charset" in kinds["mysql"]["fields"]
        assert "charset" not in kinds["postgresql"]["fields"]
        assert (kinds["mysql"]["port"], kinds["postgresql"]["port"], kinds["sqlite"]["port"]) == ("3306", "5432", "")

    def test_a_source_of_config_yaml_says_where_it_comes_from(self, browser: Client) -> None:
        source = make_source(name="warehouse", kind="mysql", host="db1", config_managed=True)
        page = browser.get(page_of(source)).content.decode()
        assert "data_sources.warehouse" in page
        assert "manage.py datasource sync" in page
        assert 'name="host"' not in page
        assert "data-trial" in page
        assert "db1" in page

    def test_a_page_that_is_only_read_shows_what_matters_for_the_kind(self, browser: Client) -> None:
        server, file = make_source(kind="postgresql", host="db1", config_managed=True), make_source(config_managed=True)
        shown = [
            [
                field
                for _title, options in browser.get(page_of(source)).context["adminform"].fieldsets
                for field in options["fields"]
            ]
            for source in (server, file)
        ]
        assert shown[0][-4:] == [("host", "port"), ("database",), ("username",), ("ssl_mode",)]
        assert shown[1][-1] == ("database",)

    def test_names_are_never_markup(self, browser: Client) -> None:
        source = make_source(name=NASTY, description=NASTY)
        make_task(name=NASTY, data_source=source)
        for url in (LIST, page_of(source), deletion_of(source)):
            assert NASTY not in browser.get(url).content.decode(), url
        DataSource.objects.update(config_managed=True)
        assert NASTY not in browser.get(page_of(source)).content.decode()

    def test_what_a_grant_is_worth_depends_on_the_role(self, browser: Client) -> None:
        source = make_source()
        for name, role in (("ann", "viewer"), ("bob", "")):
            Grant.objects.create(data_source=source, user=make_user(name, role=role))
        page = browser.get(page_of(source)).content.decode()
        assert "Administrators need no grant" in page
        assert "Viewer" in page
        assert page.count("no role: this grant gives nothing yet") == 1


class TestUsage:
    def test_the_tasks_are_listed_with_what_became_of_them(self, browser: Client) -> None:
        source = make_source()
        task = make_task(name="daily orders", data_source=source, cron="0 9 * * *")
        make_execution(task, status=Status.FAILED, reason="sql_error")
        make_task(name="someone else's")
        page = browser.get(page_of(source)).content.decode()
        section = page[page.index('id="usage"') :]
        assert reverse("admin:tasks_exporttask_change", args=[task.pk]) in section
        assert "daily orders" in section
        assert "Failed" in section or "failed" in section
        assert "someone else" not in section
        assert timezone.localtime(task.next_run_at).strftime("%Y-%m-%d %H:%M") in section

    def test_fifty_are_shown_and_the_rest_is_a_link_away(self, browser: Client) -> None:
        source = make_source()
        queries = []
        for count in (1, 60):
            rows = [ExportTask(name=f"t{count} {n}", data_source=source, sql="SELECT 1") for n in range(count)]
            ExportTask.objects.bulk_create(rows)
            browser.get(page_of(source))
            with CaptureQueriesContext(connection) as captured:
                page = browser.get(page_of(source))
            queries.append(len(captured))
        assert queries[0] == queries[1]
        assert len(page.context["usage"].rows) == 50
        url = page.context["usage"].url
        assert f'href="{url}"' in page.content.decode()
        assert browser.get(url).context["cl"].result_count == 61

    def test_who_may_not_see_tasks_sees_their_number_only(self) -> None:
        source = make_task(name="daily orders").data_source
        user = make_user(is_staff=True, sources=[source])
        user.user_permissions.add(right_to("view_datasource"))
        page = logged_in(user).get(page_of(source)).content.decode()
        assert "1 task" in page
        assert "daily orders" not in page

    def test_the_list_counts_them_in_as_many_queries_for_ten_as_for_a_thousand(self, browser: Client) -> None:
        queries = []
        for count in (10, 1000):
            sources = [DataSource(name=f"{count} {n}", kind="sqlite", database="/x.db") for n in range(count)]
            DataSource.objects.bulk_create(sources)
            ExportTask.objects.bulk_create(
                ExportTask(name=f"{source.name}", data_source=source, sql="SELECT 1")
                for source in DataSource.objects.filter(name__startswith=f"{count} ")
            )
            browser.get(LIST)
            with CaptureQueriesContext(connection) as captured:
                page = browser.get(LIST)
            queries.append(len(captured))
        assert queries[0] == queries[1]
        assert {row.tasks_count for row in page.context["cl"].result_list} == {1}

    def test_one_that_is_read_from_stays_and_the_page_says_why(self, browser: Client) -> None:
        task = make_task(name="daily orders")
        source = task.data_source
        assert deletion_of(source) in browser.get(page_of(source)).content.decode()
        for page in (
            browser.get(deletion_of(source)),
            browser.post(deletion_of(source), {"post": "yes"}),
            browser.post(LIST, {"action": "delete_selected", "_selected_action": [source.pk], "post": "yes"}),
        ):
            text = page.content.decode()
            assert page.status_code == 200
            assert "daily orders" in text
            assert "Choose another data source for them" in text
            assert usage.tasks_url(source) in text
        assert DataSource.objects.count() == 1
        task.delete()
        assert browser.post(deletion_of(source), {"post": "yes"}).status_code == 302
        assert not DataSource.objects.exists()

    def test_one_of_config_yaml_is_deleted_there_first(self, browser: Client) -> None:
        source = make_source(name="warehouse", config_managed=True)
        for page in (
            browser.post(deletion_of(source), {"post": "yes"}),
            browser.post(LIST, {"action": "delete_selected", "_selected_action": [source.pk], "post": "yes"}),
        ):
            assert "data_sources.warehouse" in page.content.decode()
        assert DataSource.objects.count() == 1

    def test_switching_off_says_whose_runs_will_fail(self, browser: Client) -> None:
        source = make_source()
        for enabled in (True, True, False):
            make_task(data_source=source, enabled=enabled)
        form = form_of(browser, page_of(source))
        assert "2 enabled tasks read from it" in browser.get(page_of(source)).content.decode()
        form.pop("is_active")
        page = browser.post(page_of(source), form, follow=True).content.decode()
        assert "2 enabled tasks read from it: their runs fail until it is switched on again" in page
        assert "is switched off" not in browser.post(page_of(source), form, follow=True).content.decode()


class TestEmptyLists:
    @pytest.mark.parametrize(
        ("name", "words"),
        [
            ("datasources_datasource", "There is no data source yet"),
            ("notifications_channel", "There is no channel yet"),
            ("notifications_delivery", "No run has owed anybody a message yet"),
        ],
    )
    def test_it_says_what_to_do_next(self, browser: Client, name: str, words: str) -> None:
        url = reverse(f"admin:{name}_changelist")
        assert words in browser.get(url).content.decode()
        assert "reset the search" in browser.get(url, {"q": "nothing"}).content.decode()

    def test_who_has_no_source_is_told_whom_to_ask(self) -> None:
        make_source()
        assert "Ask an administrator" in logged_in(make_user(role="operator")).get(LIST).content.decode()


@pytest.mark.parametrize("kind", ["mysql", "postgresql"])
def test_the_account_that_the_page_proposes_can_read_and_nothing_else(
    browser: Client, kind: str, mariadb: MariaDB, postgresql: PostgreSQL
) -> None:
    server: PrivateServer = mariadb if kind == "mysql" else postgresql
    source = make_server_source(server, kind)
    server.execute("CREATE TABLE t (n INTEGER)", database=source.database)
    [sql] = [account["sql"] for account in browser.get(ADD).context["accounts"] if account["kind"] == kind]
    name = f"proposed_{source.pk}"
    filled = re.sub(r"\{(\w+)\}", lambda match: {"user": name, "database": source.database}[match[1]], sql)
    for statement in filled.replace(";\n", ";").split(";"):
        if statement.strip():
            server.execute(statement, database=source.database)
    try:
        found = browser.post(
            TRY_NEW, values(server, kind, database=source.database, username=name, password="*" * 8)
        ).json()
        assert found["state"] == "good", found
    finally:
        if kind == "mysql":
            server.execute(f"DROP USER {name}")


def test_an_sqlite_file_is_tried(browser: Client, tmp_path: Path) -> None:
    file = make_sqlite_file(tmp_path / "shop.db")
    form = {"kind": "sqlite", "database": str(file), "ssl_mode": "prefer", "charset": "utf8mb4"}
    assert "SQLite 3" in browser.post(TRY_NEW, form).json()["lines"][0]
