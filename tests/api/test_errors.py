"""Whatever is wrong with a request: a status that says so, one shape, words in the reader's language, and never a 500."""

import json
from typing import Any, cast

import pytest
from django.conf import LazySettings
from django.test import Client
from rest_framework.test import APIClient

from datasources.models import DataSource
from exporter_site import rest_input
from tasks import preview
from tasks.models import ExportTask
from tests.api.conftest import client_of, error_of
from tests.factories import make_user

pytestmark = pytest.mark.django_db


def send(client: APIClient, path: str, body: bytes | str, content_type: str = "application/json", **more: Any) -> Any:
    return client.generic("POST", path, cast("Any", body), content_type, **more)


@pytest.mark.parametrize(
    "path", ["/api/nothing", "/api/nothing/", "/api/tasks/abc", "/api/tasks/-1", "/api/", "/api/a%0Ab"]
)
@pytest.mark.parametrize("method", ["get", "post", "put", "patch", "delete", "head", "options"])
def test_an_unknown_address(path: str, method: str) -> None:
    answer = getattr(APIClient(), method)(path)
    assert answer.status_code == 404
    if method != "head":
        assert error_of(answer, 404)["code"] == "not_found"


@pytest.mark.parametrize("noun", ["tasks", "data-sources", "channels", "logs"])
@pytest.mark.parametrize("number", [999_999, 2**31, 2**63 - 1, 2**63, 10**30, "9" * 5000])
def test_a_row_that_does_not_exist(admin: APIClient, noun: str, number: object) -> None:
    error_of(admin.get(f"/api/{noun}/{number}"), 404)


def test_a_method_that_an_address_does_not_know(admin: APIClient, orders: ExportTask) -> None:
    answer = admin.delete("/api/tasks")
    assert error_of(answer, 405)["code"] == "method_not_allowed"
    assert set(answer["Allow"].split(", ")) >= {"GET", "POST"}
    error_of(admin.get(f"/api/tasks/{orders.pk}/execute"), 405)
    error_of(admin.patch("/api/logs/1", {}, format="json"), 405)


def test_an_answer_in_another_form_than_json(admin: APIClient) -> None:
    error_of(admin.get("/api/tasks", HTTP_ACCEPT="text/html"), 406)
    for accept in ("application/json", "application/*", "*/*", "text/html, */*;q=0.1"):
        assert admin.get("/api/tasks", HTTP_ACCEPT=accept).status_code == 200


@pytest.mark.parametrize(
    "content_type",
    [
        "application/x-www-form-urlencoded",
        "text/plain",
        "multipart/form-data; boundary=x",
        "application/xml",
        "nonsense",
    ],
)
def test_a_body_that_is_no_json(editor: APIClient, orders: ExportTask, content_type: str) -> None:
    for path in ("/api/tasks", f"/api/tasks/{orders.pk}/execute"):
        assert error_of(send(editor, path, "name=x", content_type), 415)["code"] == "unsupported_media_type"


BROKEN = {
    "cut off": b'{"name": ',
    "two": b"{} {}",
    "not UTF-8": b'{"name": "\xff"}',
    "NaN": b'{"retry_delay": NaN}',
    "infinity": b'{"retry_delay": -Infinity}',
    "too deep": b"[" * 200_000,
    "digits": b'{"retry_delay": ' + b"9" * 6000 + b"}",
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_json(editor: APIClient, name: str) -> None:
    found = error_of(send(editor, "/api/tasks", BROKEN[name]), 400)
    assert found["code"] == "parse_error"


@pytest.mark.parametrize("body", ["null", "[]", "1", '"text"', "[{}]", "true"])
def test_json_that_is_no_object(editor: APIClient, orders: ExportTask, body: str) -> None:
    for path in ("/api/tasks", f"/api/tasks/{orders.pk}/execute", f"/api/tasks/{orders.pk}/backfill", "/api/token"):
        found = error_of(send(editor, path, body), 400)
        assert found["code"] == "invalid"
        assert found["fields"]["non_field_errors"]


UNSTORABLE = ["\0", "a\0b", "\ud800", "ok \udfff", 1e400]


@pytest.mark.parametrize("value", UNSTORABLE, ids=ascii)
@pytest.mark.parametrize(
    "field", ["name", "sql", "description", "tags", "params", "format_options", "owner", "dingtalk_webhook"]
)
def test_what_a_database_can_not_hold(editor: APIClient, shop: DataSource, field: str, value: Any) -> None:
    shaped = {"tags": [value], "params": {"shop": {"deep": [value]}}, "format_options": {"encoding": value}}.get(
        field, value
    )
    body = json.dumps({"name": "t", "data_source": shop.pk, "sql": "SELECT 1", field: shaped}).replace(
        "Infinity", "1e400"
    )
    found = error_of(send(editor, "/api/tasks", body), 400)
    assert any(name.startswith(field) for name in found["fields"]), found


def test_a_name_in_json_may_not_hold_it_either(editor: APIClient, shop: DataSource) -> None:
    body = json.dumps({"name": "t", "data_source": shop.pk, "sql": "SELECT 1", "params": {"a\0\ud800": 1}})
    error_of(send(editor, "/api/tasks", body), 400)


def test_what_is_nested_too_deeply(editor: APIClient, shop: DataSource) -> None:
    for depth in (30, 100, 900, 2000):
        nested = "[" * depth + "]" * depth
        body = f'{{"name": "t", "data_source": {shop.pk}, "sql": "SELECT 1", "params": {{"a": {nested}}}}}'
        found = error_of(send(editor, "/api/tasks", body), 400)
        assert depth > 100 or set(found["fields"]) == {"params"}


def test_a_body_that_is_too_large(editor: APIClient, settings: LazySettings) -> None:
    settings.DATA_UPLOAD_MAX_MEMORY_SIZE = 1000
    small = json.dumps({"name": "x" * 900})
    error_of(send(editor, "/api/tasks", small), 400)
    found = error_of(send(editor, "/api/tasks", json.dumps({"name": "x" * 1000})), 413)
    assert found["code"] == "too_large"
    assert "1,000" in found["message"]


def test_a_body_without_its_length_is_not_taken_for_none(editor: APIClient, orders: ExportTask) -> None:
    answer = send(editor, f"/api/tasks/{orders.pk}/execute", "", HTTP_TRANSFER_ENCODING="chunked")
    assert error_of(answer, 411)["code"] == "length_required"
    assert not orders.executions.exists()


def test_without_a_login(orders: ExportTask) -> None:
    for path in ("/api/tasks", "/api/tasks/1", "/api/logs", "/api/data-sources", "/api/channels"):
        answer = APIClient().get(path)
        error_of(answer, 401)
        assert answer["WWW-Authenticate"].startswith("Bearer")


@pytest.mark.parametrize(
    "header",
    [
        "Bearer",
        "Bearer a b",
        "Bearer x.y.z",
        "Bearer exp_",
        "Bearer exp_\xe9\xff",
        "Bearer \xff\xfe",
        "Bearer exp_" + "x" * 9000,
        "bearer ¶",
    ],
)
def test_credentials_that_are_none(db: None, header: str) -> None:
    error_of(APIClient().get("/api/tasks", HTTP_AUTHORIZATION=header), 401)


def test_another_scheme_is_no_login(db: None) -> None:
    error_of(APIClient().get("/api/tasks", HTTP_AUTHORIZATION="Basic YTpi"), 401)


def test_who_may_not(orders: ExportTask) -> None:
    viewer = client_of(make_user(role="viewer", sources=[orders.data_source]))
    found = error_of(viewer.post(f"/api/tasks/{orders.pk}/execute"), 403)
    assert "tasks.run_exporttask" in found["message"]


def test_chinese_unless_english_is_asked_for(admin: APIClient) -> None:
    assert error_of(admin.get("/api/nothing"), 404)["message"] != "There is no such thing, or not for you."
    english = admin.get("/api/nothing", HTTP_ACCEPT_LANGUAGE="en")
    assert error_of(english, 404)["message"] == "There is no such thing, or not for you."
    assert "必填" in error_of(admin.post("/api/data-sources", {}, format="json"), 400)["message"]
    required = admin.post("/api/data-sources", {}, format="json", HTTP_ACCEPT_LANGUAGE="en-GB,en;q=0.9")
    assert "required" in error_of(required, 400)["message"]


def test_each_field_says_what_is_wrong_with_it(editor: APIClient, shop: DataSource) -> None:
    wrong = {
        "name": "",
        "data_source": shop.pk,
        "sql": "DROP TABLE orders",
        "cron": "61 * * * *",
        "timezone": "Mars",
        "format": "pdf",
        "max_retries": 99,
        "email_recipients": ["nobody"],
        "rules": [{"channel": 12345}, {"events": ["never"]}],
    }
    fields = error_of(editor.post("/api/tasks", wrong, format="json"), 400)["fields"]
    assert {"name", "format", "max_retries", "rules.0.channel", "rules.1.channel", "rules.1.events.0"} <= set(fields)
    right = wrong | {"name": "t", "format": "csv", "max_retries": 1, "rules": []}
    fields = error_of(editor.post("/api/tasks", right, format="json"), 400)["fields"]
    assert set(fields) == {"sql", "cron", "timezone", "email_recipients"}


def test_with_and_without_a_slash_at_the_end(admin: APIClient, orders: ExportTask) -> None:
    for path in ("/api/tasks", "/api/status", f"/api/tasks/{orders.pk}", "/api/schema", "/api/logs?page_size=5"):
        address, mark, query = path.partition("?")
        with_slash, without = admin.get(f"{address}/{mark}{query}"), admin.get(path)
        assert with_slash.status_code == without.status_code == 200, path
    made = admin.post(f"/api/tasks/{orders.pk}/execute/")
    assert made.status_code == 202
    assert admin.get(made["Location"]).json()["id"] == made.json()["id"]


def test_a_fault_of_ours_has_the_same_shape(orders: ExportTask, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_args: object, **_options: object) -> None:
        raise KeyError("nobody thought of this")

    monkeypatch.setattr(preview, "preview", broken)
    client = client_of(make_user(role="editor", sources=[orders.data_source]))
    client.raise_request_exception = False
    found = error_of(client.post(f"/api/tasks/{orders.pk}/test"), 500)
    assert found["code"] == "internal_error"
    assert "nobody thought" not in json.dumps(found)


def test_a_host_that_is_not_ours(settings: LazySettings) -> None:
    settings.ALLOWED_HOSTS = ["export.example.com"]
    error_of(Client(raise_request_exception=False).get("/api/status", headers={"host": "evil.example.com"}), 400)


def test_whole_numbers() -> None:
    assert rest_input.whole_number("page", "0007") == 7
    assert rest_input.whole_number("page", "9" * 400) == rest_input.LAST_ID
    for text in ("", "0", "-1", "1.5", "x", "１", "٣", " 1", "00000"):
        with pytest.raises(Exception, match="page"):
            rest_input.whole_number("page", text)
