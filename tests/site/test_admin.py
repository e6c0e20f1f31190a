"""The admin as its users meet it: pages in both languages, secrets that never come back, actions that act."""

from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client
from django.urls import reverse

from datasources.models import DataSource
from tasks.models import Execution, ExportTask
from tasks.states import Status, Trigger
from tests.factories import make_admin, make_execution, make_source, make_sqlite_file, make_task, make_user

pytestmark = pytest.mark.django_db

SECRET = "canary-secret-0451"


@pytest.fixture
def admin() -> User:
    return make_admin()


@pytest.fixture
def browser(admin: User) -> Client:
    client = Client()
    client.force_login(admin)
    return client


def form_of(client: Client, url: str) -> dict[str, Any]:
    """What a browser would send back for the form at `url`, unchanged."""
    context = client.get(url).context
    counts = [field for inline in context["inline_admin_formsets"] for field in inline.formset.management_form]
    data: dict[str, Any] = {}
    for field in [*context["adminform"].form, *counts]:
        value = field.value()
        if value is True:
            data[field.html_name] = "on"
        elif value is not None and value is not False:
            data[field.html_name] = value
    return data


def test_the_root_leads_to_the_admin_and_health_is_open() -> None:
    assert Client().get("/").headers["Location"] == "/admin/"
    assert Client().get("/healthz/web").json() == {"status": "ok"}


def test_a_password_never_comes_back_and_an_empty_one_keeps_it(browser: Client) -> None:
    source = make_source(kind="mysql", host="db1", username="reporter", password=SECRET)
    url = reverse("admin:datasources_datasource_change", args=[source.pk])
    assert SECRET not in browser.get(url).content.decode()
    answer = browser.post(url, form_of(browser, url) | {"password": "", "description": "changed"})
    assert answer.status_code == 302
    source.refresh_from_db()
    assert (source.password, source.description) == (SECRET, "changed")
    browser.post(url, form_of(browser, url) | {"password": "another-secret"})
    source.refresh_from_db()
    assert source.password == "another-secret"


def test_a_source_of_config_yaml_is_read_only(browser: Client) -> None:
    source = make_source(config_managed=True)
    url = reverse("admin:datasources_datasource_change", args=[source.pk])
    assert browser.get(url).status_code == 200
    assert browser.post(url, {"name": "changed"}).status_code == 403
    source.refresh_from_db()
    assert source.name != "changed"


def test_saving_and_testing_says_what_was_found(browser: Client, tmp_path: Path) -> None:
    source = make_source(database=str(make_sqlite_file(tmp_path / "shop.db")))
    url = reverse("admin:datasources_datasource_change", args=[source.pk])
    page = browser.post(
        url, form_of(browser, url) | {"datasources_datasource_save_and_test": "1"}, follow=True
    ).content.decode()
    assert "SQLite 3" in page
    source.refresh_from_db()
    assert source.test_ok is True
    DataSource.objects.filter(pk=source.pk).update(database="/nowhere/x.db")
    action = {"action": "test_connections", "_selected_action": [source.pk]}
    page = browser.post(reverse("admin:datasources_datasource_changelist"), action, follow=True).content.decode()
    assert "/nowhere/x.db" in page
    source.refresh_from_db()
    assert source.test_ok is False


def test_a_bad_task_is_refused_at_its_field(browser: Client) -> None:
    url = reverse("admin:tasks_exporttask_add")
    data = form_of(browser, url) | {
        "name": "x",
        "data_source": make_source().pk,
        "sql": "DROP TABLE t",
        "cron": "0 25 * * *",
    }
    page = browser.post(url, data)
    assert page.status_code == 200
    assert set(page.context["adminform"].form.errors) == {"sql", "cron"}
    assert not ExportTask.objects.exists()


def test_a_task_is_made_in_the_browser_and_run(browser: Client, admin: User) -> None:
    url = reverse("admin:tasks_exporttask_add")
    data = form_of(browser, url) | {
        "name": "每日订单",
        "data_source": make_source().pk,
        "sql": "SELECT {{ ds }}",
        "cron": "0 9 * * 1-5",
        "tags": "财务, 每日",
        "tasks_exporttask_save_and_run": "1",
    }
    answer = browser.post(url, data)
    assert answer.status_code == 302, answer.context["adminform"].form.errors
    task = ExportTask.objects.get()
    assert (task.tags, task.owner) == (["财务", "每日"], admin)
    execution = Execution.objects.get()
    assert (execution.task, execution.trigger, execution.created_by) == (task, Trigger.MANUAL, admin)


def test_tasks_are_switched_in_bulk_and_their_next_run_follows(browser: Client) -> None:
    tasks = [make_task(cron="0 9 * * *") for _ in range(3)]
    url = reverse("admin:tasks_exporttask_changelist")
    selected = [task.pk for task in tasks]
    browser.post(url, {"action": "disable", "_selected_action": selected})
    assert not ExportTask.objects.filter(enabled=True).exists()
    assert not ExportTask.objects.filter(next_run_at__isnull=False).exists()
    browser.post(url, {"action": "enable", "_selected_action": selected})
    assert ExportTask.objects.filter(enabled=True, next_run_at__isnull=False).count() == 3


def test_executions_are_cancelled_and_run_again(browser: Client) -> None:
    execution = make_execution()
    url = reverse("admin:tasks_execution_changelist")
    browser.post(url, {"action": "cancel", "_selected_action": [execution.pk]})
    execution.refresh_from_db()
    assert execution.status == Status.CANCELLED
    browser.post(url, {"action": "run_again", "_selected_action": [execution.pk]})
    again = Execution.objects.exclude(pk=execution.pk).get()
    assert (again.status, again.planned_at) == (Status.QUEUED, execution.planned_at)


def test_the_log_can_not_be_changed(browser: Client) -> None:
    execution = make_execution()
    url = reverse("admin:tasks_execution_change", args=[execution.pk])
    assert browser.post(url, {"status": "succeeded"}).status_code == 403
    assert browser.post(reverse("admin:tasks_execution_delete", args=[execution.pk])).status_code == 403
    assert browser.get(reverse("admin:tasks_execution_add")).status_code == 403


def client_who_may(*codenames: str) -> Client:
    user = make_user(is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=codenames))
    client = Client()
    client.force_login(user)
    return client


def test_who_may_only_look_can_not_run_switch_or_test(tmp_path: Path) -> None:
    client = client_who_may("view_exporttask", "view_datasource")
    task = make_task(cron="0 9 * * *")
    for url, action, pk in (
        ("admin:tasks_exporttask_changelist", "run_now", task.pk),
        ("admin:tasks_exporttask_changelist", "disable", task.pk),
        ("admin:datasources_datasource_changelist", "test_connections", task.data_source_id),
    ):
        assert client.get(reverse(url)).status_code == 200
        client.post(reverse(url), {"action": action, "_selected_action": [pk]})
    task.refresh_from_db()
    assert task.enabled
    assert task.data_source.test_ok is None
    assert not Execution.objects.exists()
    change = reverse("admin:tasks_exporttask_change", args=[task.pk])
    assert client.post(change, {"tasks_exporttask_save_and_run": "1"}).status_code == 403


def test_who_may_only_look_can_not_cancel() -> None:
    client = client_who_may("view_execution")
    execution = make_execution()
    url = reverse("admin:tasks_execution_changelist")
    assert client.get(url).status_code == 200
    client.post(url, {"action": "cancel", "_selected_action": [execution.pk]})
    execution.refresh_from_db()
    assert execution.status == Status.QUEUED


def test_text_of_users_and_databases_is_never_markup(browser: Client) -> None:
    evil = "<script>alert(1)</script>"
    task = make_task(name=evil, description=evil)
    execution = make_execution(task, error=evil, sql=evil, status=Status.FAILED, reason="sql_error", params={"a": evil})
    for name, pk in (("exporttask", task.pk), ("execution", execution.pk)):
        for url in (reverse(f"admin:tasks_{name}_changelist"), reverse(f"admin:tasks_{name}_change", args=[pk])):
            assert evil not in browser.get(url).content.decode()
    page = browser.post(
        reverse("admin:tasks_exporttask_changelist"), {"action": "run_now", "_selected_action": [task.pk]}, follow=True
    )
    assert evil not in page.content.decode()


def test_a_visit_to_the_form_for_a_new_source_leaves_the_others_as_they_are(browser: Client) -> None:
    change = reverse("admin:datasources_datasource_change", args=[make_source().pk])
    before = "留空则保留原密码" in browser.get(change).content.decode()
    assert "留空则保留原密码" not in browser.get(reverse("admin:datasources_datasource_add")).content.decode()
    assert before
    assert "留空则保留原密码" in browser.get(change).content.decode()
