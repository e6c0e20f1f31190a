"""Tasks: created, replaced, changed and deleted; their secrets, their rules, and whose change wins."""

import json
from typing import Any

import pytest
from rest_framework.test import APIClient

from datasources.models import DataSource
from exporter_site.access.models import Scope
from notifications.models import Channel
from tasks.models import ExportTask
from tests.api.conftest import client_of, error_of
from tests.factories import make_execution, make_source, make_task, make_user

pytestmark = pytest.mark.django_db

WEBHOOK = "https://oapi.dingtalk.com/robot/send?access_token=canary-token-of-the-robot"
SECRET = "SECcanary-of-the-secret"


def whole(shop: DataSource, **fields: Any) -> dict[str, Any]:
    return {"name": "daily", "data_source": shop.pk, "sql": "SELECT 1 AS one", **fields}


def made(answer: Any, status: int = 201) -> dict[str, Any]:
    assert answer.status_code == status, answer.content
    content: dict[str, Any] = answer.json()
    assert "canary" not in json.dumps(content)
    return content


def test_a_task_of_the_older_system(editor: APIClient, shop: DataSource) -> None:
    """Its flat fields, all of them."""
    answer = editor.post(
        "/api/tasks",
        whole(
            shop,
            cron="0 9 * * *",
            dingtalk_webhook=WEBHOOK,
            dingtalk_secret=SECRET,
            dingtalk_message_template="{task_name}: {rows_count}",
            email_recipients=["a@example.com", "b@example.com"],
        ),
        format="json",
    )
    shown = made(answer)
    assert shown["email_recipients"] == ["a@example.com", "b@example.com"]
    assert shown["dingtalk_message_template"] == "{task_name}: {rows_count}"
    assert (shown["has_dingtalk_webhook"], shown["has_dingtalk_secret"]) == (True, True)
    assert not {"dingtalk_webhook", "dingtalk_secret"} & set(shown)
    assert (shown["owner"], shown["timezone"], shown["format"]) == ("editor", "Asia/Shanghai", "xlsx")
    assert shown["next_run_at"].endswith("09:00:00+08:00")
    task = ExportTask.objects.get(pk=shown["id"])
    assert (task.dingtalk_webhook, task.dingtalk_secret) == (WEBHOOK, SECRET)
    assert answer["Location"] == f"http://testserver/api/tasks/{task.pk}"
    assert editor.get(answer["Location"]).json() == shown
    assert editor.get(answer["Location"])["ETag"] == answer["ETag"]


def test_what_is_read_can_be_put_back(editor: APIClient, shop: DataSource) -> None:
    address = editor.post("/api/tasks", whole(shop, dingtalk_webhook=WEBHOOK, cron="0 9 * * 1-5"), format="json")[
        "Location"
    ]
    before = editor.get(address).json()
    after = made(editor.put(address, before, format="json"), 200)
    assert {**after, "updated_at": ""} == {**before, "updated_at": ""}
    assert ExportTask.objects.get().dingtalk_webhook == WEBHOOK


def test_a_secret_that_is_left_out_stays_and_an_empty_one_goes(editor: APIClient, shop: DataSource) -> None:
    address = editor.post("/api/tasks", whole(shop, dingtalk_webhook=WEBHOOK, dingtalk_secret=SECRET), format="json")[
        "Location"
    ]
    assert made(editor.patch(address, {"description": "new"}, format="json"), 200)["has_dingtalk_secret"]
    assert made(editor.put(address, whole(shop), format="json"), 200)["has_dingtalk_secret"]
    assert not made(editor.patch(address, {"dingtalk_secret": ""}, format="json"), 200)["has_dingtalk_secret"]
    assert (
        made(editor.put(address, whole(shop, dingtalk_webhook=""), format="json"), 200)["has_dingtalk_webhook"] is False
    )
    error_of(editor.patch(address, {"dingtalk_secret": None}, format="json"), 400)


def test_put_needs_what_a_task_needs_and_leaves_the_rest(editor: APIClient, shop: DataSource) -> None:
    address = editor.post("/api/tasks", whole(shop, tags=["a"], cron="0 9 * * *"), format="json")["Location"]
    assert set(error_of(editor.put(address, {"description": "x"}, format="json"), 400)["fields"]) == {
        "name",
        "data_source",
        "sql",
    }
    after = made(editor.put(address, whole(shop, name="renamed"), format="json"), 200)
    assert (after["name"], after["tags"], after["cron"]) == ("renamed", ["a"], "0 9 * * *")


def test_patch_changes_what_it_names(editor: APIClient, orders: ExportTask) -> None:
    after = made(editor.patch(f"/api/tasks/{orders.pk}", {"cron": " 0  9 * * * ", "tags": ["x"]}, format="json"), 200)
    assert (after["cron"], after["tags"], after["sql"]) == ("0 9 * * *", ["x"], orders.sql)
    assert after["next_run_at"]
    assert made(editor.patch(f"/api/tasks/{orders.pk}", {"enabled": False}, format="json"), 200)["next_run_at"] is None
    same = made(
        editor.patch(f"/api/tasks/{orders.pk}", {"id": 99, "next_run_at": "2001-01-01T00:00Z"}, format="json"), 200
    )
    assert (same["id"], same["next_run_at"]) == (orders.pk, None)


def test_rules_come_with_the_task(editor: APIClient, shop: DataSource) -> None:
    group, mails = (Channel.objects.create(name=name, kind="dingtalk") for name in ("group", "mails"))
    rules = [{"channel": group.pk, "events": ["failure"], "template": "{task_name}"}, {"channel": mails.pk}]
    shown = made(editor.post("/api/tasks", whole(shop, rules=rules), format="json"))
    assert [(rule["channel_name"], rule["events"], rule["template"]) for rule in shown["rules"]] == [
        ("group", ["failure"], "{task_name}"),
        ("mails", ["success", "empty", "failure", "missed", "recovered"], ""),
    ]
    address = f"/api/tasks/{shown['id']}"
    assert len(made(editor.patch(address, {"description": "x"}, format="json"), 200)["rules"]) == 2
    changed = made(editor.patch(address, {"rules": [{"channel": mails.pk, "events": []}]}, format="json"), 200)
    assert [(rule["channel"], rule["events"]) for rule in changed["rules"]] == [(mails.pk, [])]
    assert editor.get(address).json()["rules"] == changed["rules"]
    assert made(editor.put(address, whole(shop, rules=[]), format="json"), 200)["rules"] == []


def test_rules_that_can_not_be(editor: APIClient, orders: ExportTask) -> None:
    group = Channel.objects.create(name="group", kind="dingtalk")
    own = Channel.objects.of_task(orders, "email")
    address = f"/api/tasks/{orders.pk}"
    several: list[Any] = [
        [{"channel": group.pk}, {"channel": group.pk}],
        [{"channel": own.pk}],
        [{"channel": 2**63}],
        [{"channel": "x"}],
        [{"channel": True}],
        [{}],
        [{"events": ["failure"]}],
        [{"channel": None}],
        [{"channel": group.pk, "events": "failure"}],
        [{"channel": group.pk, "events": [{}]}],
        [{"channel": group.pk, "template": "{nothing}"}],
        {"channel": group.pk},
        "x",
        [None],
    ]
    for rules in several:
        found = error_of(editor.patch(address, {"rules": rules}, format="json"), 400)
        assert all(name.startswith("rules") for name in found["fields"]), (rules, found)
    assert not orders.rules.exists()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("data_source", 2**63), ("data_source", 2**64), ("data_source", 1.5), ("data_source", 1e300), ("data_source", "x"),
        ("data_source", {}), ("data_source", None), ("data_source", True), ("owner", 5), ("owner", {}), ("owner", "x" * 9000),
        ("name", "x" * 201), ("name", None), ("name", {}), ("sql", []), ("sql", ""), ("sql", "  "), ("params", []), ("params", "x"),
        ("format_options", {"encoding": "ebcdic"}), ("format_options", 1), ("tags", "x"), ("tags", [1, {}]), ("tags", ["x" * 101]),
        ("email_recipients", [None]), ("email_recipients", "a@example.com"), ("max_retries", -1), ("max_retries", 2**63),
        ("max_retries", 1.5), ("max_retries", "x" * 2000), ("retry_delay", -1), ("retry_delay", 2**63), ("retry_delay", 10**400),
        ("priority", 7), ("priority", 10**30), ("overlap", "x"), ("catch_up", 1), ("enabled", "perhaps"), ("enabled", None),
        ("cron", "x" * 101), ("cron", "* * * *"), ("cron", "99999999999999999999 * * * *"), ("cron", "٣ * * * *"), ("timezone", "x"),
        ("timezone", "../etc/passwd"), ("filename_template", "{{ nothing }}"), ("filename_template", "x" * 201),
        ("dingtalk_webhook", "http://169.254.169.254/"), ("dingtalk_webhook", "https://[::"), ("dingtalk_webhook", "x" * 2001),
        ("dingtalk_message_template", "{nothing}"),
    ],
    ids=lambda value: ascii(value)[:30],
)  # fmt: skip
def test_values_that_can_not_be(editor: APIClient, orders: ExportTask, field: str, value: Any) -> None:
    found = error_of(editor.patch(f"/api/tasks/{orders.pk}", {field: value}, format="json"), 400)
    assert any(name.partition(".")[0] == field for name in found["fields"]), found


def test_a_source_that_is_not_granted_is_no_choice(editor: APIClient, orders: ExportTask) -> None:
    hidden = make_source()
    one = error_of(editor.patch(f"/api/tasks/{orders.pk}", {"data_source": hidden.pk}, format="json"), 400)
    none = error_of(editor.patch(f"/api/tasks/{orders.pk}", {"data_source": 999_999}, format="json"), 400)
    assert one["message"].replace(str(hidden.pk), "?") == none["message"].replace("999999", "?")


def test_the_owner_is_who_makes_it_unless_one_may_name_others(
    editor: APIClient, admin: APIClient, shop: DataSource
) -> None:
    make_user("other", role="editor")
    for owner in ("other", None, "nobody"):
        assert set(error_of(editor.post("/api/tasks", whole(shop, owner=owner), format="json"), 400)["fields"]) == {
            "owner"
        }
    task = made(admin.post("/api/tasks", whole(shop, owner="other"), format="json"))
    assert task["owner"] == "other"
    # Who edits it for another does not become its owner.
    assert (
        made(editor.patch(f"/api/tasks/{task['id']}", {"owner": "other", "tags": ["x"]}, format="json"), 200)["owner"]
        == "other"
    )
    error_of(editor.patch(f"/api/tasks/{task['id']}", {"owner": None}, format="json"), 400)


def test_a_name_that_is_taken(editor: APIClient, shop: DataSource, orders: ExportTask) -> None:
    assert set(error_of(editor.post("/api/tasks", whole(shop, name=orders.name), format="json"), 400)["fields"]) == {
        "name"
    }
    other = make_task(data_source=shop)
    error_of(editor.patch(f"/api/tasks/{other.pk}", {"name": orders.name}, format="json"), 400)
    assert (
        made(editor.patch(f"/api/tasks/{orders.pk}", {"name": orders.name}, format="json"), 200)["name"] == orders.name
    )


def test_an_answer_about_a_webhook_does_not_repeat_its_token(editor: APIClient, orders: ExportTask) -> None:
    wrong = "https://evil.example.com/robot/send?access_token=canary1234567890"
    answer = editor.patch(f"/api/tasks/{orders.pk}", {"dingtalk_webhook": wrong}, format="json")
    error_of(answer, 400)
    assert b"canary" not in answer.content


def test_deleting(editor: APIClient, orders: ExportTask) -> None:
    run = make_execution(orders)
    answer = editor.delete(f"/api/tasks/{orders.pk}")
    assert (answer.status_code, answer.content) == (204, b"")
    error_of(editor.get(f"/api/tasks/{orders.pk}"), 404)
    error_of(editor.delete(f"/api/tasks/{orders.pk}"), 404)
    assert editor.get(f"/api/logs/{run.pk}").json()["task"] is None


def test_a_change_builds_on_what_was_read(editor: APIClient, orders: ExportTask) -> None:
    address = f"/api/tasks/{orders.pk}"
    first = editor.get(address)["ETag"]
    second = editor.patch(address, {"description": "one"}, format="json", HTTP_IF_MATCH=first)["ETag"]
    assert second != first
    for method, body in (("patch", {"description": "two"}), ("put", whole(orders.data_source)), ("delete", None)):
        answer = getattr(editor, method)(address, body, format="json", HTTP_IF_MATCH=first)
        assert error_of(answer, 412)["code"] == "changed_meanwhile"
    assert editor.get(address).json()["description"] == "one"
    for form in ("{}", '"other", {}', "W/{}", "*"):
        answer = editor.patch(address, {"description": "two"}, format="json", HTTP_IF_MATCH=form.format(second))
        assert answer.status_code == 200, form
        second = answer["ETag"]
    for bad in ("x", '""', second.strip('"'), '"' + "x" * 5000 + '"', ",,,"):
        error_of(editor.patch(address, {"description": "no"}, format="json", HTTP_IF_MATCH=bad), 412)
    assert editor.delete(address, HTTP_IF_MATCH=second).status_code == 204


def test_the_etag_changes_with_the_rules(editor: APIClient, orders: ExportTask) -> None:
    group = Channel.objects.create(name="group", kind="dingtalk")
    address = f"/api/tasks/{orders.pk}"
    before = editor.get(address)["ETag"]
    assert editor.patch(address, {"rules": [{"channel": group.pk}]}, format="json")["ETag"] != before


def test_who_may_not_see_sql_gets_none(orders: ExportTask) -> None:
    ExportTask.objects.update(params={"shop": "001"})
    viewer = client_of(make_user(role="viewer", sources=[orders.data_source]))
    shown = viewer.get(f"/api/tasks/{orders.pk}").json()
    assert (shown["sql"], shown["params"]) == (None, {})
    assert viewer.get("/api/tasks").json()["results"][0]["sql"] is None


@pytest.mark.parametrize(
    ("scope", "read", "run", "write"),
    [(Scope.READ, 200, 403, 403), (Scope.RUN, 200, 202, 403), (Scope.WRITE, 200, 202, 200)],
)
def test_scopes_of_keys(orders: ExportTask, scope: str, read: int, run: int, write: int) -> None:
    client = client_of(make_user(role="editor", sources=[orders.data_source]), scope=scope)
    assert client.get(f"/api/tasks/{orders.pk}").status_code == read
    assert client.post(f"/api/tasks/{orders.pk}/execute").status_code == run
    assert client.patch(f"/api/tasks/{orders.pk}", {"tags": []}, format="json").status_code == write
