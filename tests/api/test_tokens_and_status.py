"""Tokens, the state of the system, how often one may ask, and the documents about the API."""

import json

import pytest
from django.conf import LazySettings
from django.test import Client
from rest_framework.test import APIClient

from datasources.models import DataSource
from exporter_site.access.permissions import PerAddress, PerUser
from tasks.models import Execution, ExportTask, SchedulerProcess
from tasks.states import Status
from tests.api.conftest import client_of, error_of
from tests.factories import PASSWORD, make_execution, make_source, make_task, make_user

pytestmark = pytest.mark.django_db


def test_a_token_for_name_and_password(orders: ExportTask) -> None:
    make_user("zhang", role="viewer", sources=[orders.data_source])
    program = APIClient()
    answer = program.post("/api/token", {"username": "zhang", "password": PASSWORD}, format="json")
    assert (answer.status_code, set(answer.json())) == (200, {"access", "refresh"})
    program.credentials(HTTP_AUTHORIZATION=f"Bearer {answer.json()['access']}")
    assert program.get("/api/tasks").json()["count"] == 1
    # A stale or odd header does not stand in the way of a new one.
    program.credentials(HTTP_AUTHORIZATION="Bearer nonsense")
    fresh = program.post("/api/token/refresh", {"refresh": answer.json()["refresh"]}, format="json")
    assert fresh.status_code == 200
    program.credentials(HTTP_AUTHORIZATION=f"Bearer {fresh.json()['access']}")
    assert program.get("/api/tasks").status_code == 200


@pytest.mark.parametrize(
    "body", [{}, {"username": "zhang"}, {"username": {}, "password": []}, {"username": "x" * 151, "password": "y"}]
)
def test_a_request_for_a_token_that_is_none(db: None, body: object) -> None:
    assert error_of(APIClient().post("/api/token", body, format="json"), 400)["fields"]


def test_wrong_credentials_are_401(db: None) -> None:
    make_user("zhang", role="viewer")
    for name, password in (("zhang", "wrong"), ("nobody", PASSWORD), ("zhang", " " + PASSWORD)):
        answer = APIClient().post("/api/token", {"username": name, "password": password}, format="json")
        assert error_of(answer, 401)["code"] == "login_failed"
        assert PASSWORD.encode() not in answer.content
    for token in ("x", "a.b.c", "é", "x" * 4096):
        assert (
            error_of(APIClient().post("/api/token/refresh", {"refresh": token}, format="json"), 401)["code"]
            == "token_invalid"
        )


def test_an_access_token_is_no_refresh_token_nor_the_other_way_round(db: None) -> None:
    make_user("zhang", role="viewer")
    pair = APIClient().post("/api/token", {"username": "zhang", "password": PASSWORD}, format="json").json()
    error_of(APIClient().post("/api/token/refresh", {"refresh": pair["access"]}, format="json"), 401)
    error_of(APIClient().get("/api/tasks", HTTP_AUTHORIZATION=f"Bearer {pair['refresh']}"), 401)


def test_a_login_of_the_browser_needs_the_form_s_token_to_change_something(orders: ExportTask) -> None:
    browser = Client(enforce_csrf_checks=True)
    browser.force_login(make_user(role="editor", sources=[orders.data_source]))
    assert browser.get("/api/tasks").status_code == 200
    error_of(browser.post(f"/api/tasks/{orders.pk}/execute"), 403)


def test_status_without_a_login(db: None) -> None:
    answer = APIClient().get("/api/status")
    assert (answer.status_code, answer.json()) == (200, {"status": "degraded"})  # there is no scheduler
    SchedulerProcess.objects.beat("host:1:x", executor="local", workers=1)
    assert APIClient().get("/api/status").json()["status"] == "ok"


def test_status_after_login(editor: APIClient, orders: ExportTask) -> None:
    make_task(data_source=make_source())
    SchedulerProcess.objects.beat("host:1:x", executor="local", workers=1)
    ExportTask.objects.filter(pk=orders.pk).update(next_run_at="2030-01-01T00:00Z")
    make_execution(orders)
    for status in (Status.SUCCEEDED, Status.SUCCEEDED, Status.FAILED, Status.SKIPPED):
        run = make_execution(orders)
        Execution.objects.filter(pk=run.pk).update(status=status, finished_at=run.queued_at)
    shown = editor.get("/api/status").json()
    assert set(shown) == {"status", "problems", "version", "scheduler", "tasks", "data_sources", "last_day", "disk"}
    assert (shown["status"], shown["problems"]) == ("ok", [])
    assert (shown["tasks"], shown["data_sources"]) == (1, 1)
    assert shown["last_day"] == {"succeeded": 2, "ended": 3}
    scheduler = shown["scheduler"]
    assert (scheduler["alive"], scheduler["running"], scheduler["queued"]) == (True, 0, 1)
    assert scheduler["uptime_seconds"] >= 0
    assert scheduler["next_run_at"] == "2030-01-01T08:00:00+08:00"
    assert scheduler["heartbeat_at"].endswith("+08:00")
    assert shown["disk"]["free"] > 0


def test_too_many_requests(orders: ExportTask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PerUser, "get_rate", lambda self: "3/min")
    one, other = (client_of(make_user(role="viewer", sources=[orders.data_source])) for _number in range(2))
    assert [one.get("/api/tasks").status_code for _time in range(4)] == [200, 200, 200, 429]
    answer = one.get("/api/tasks")
    assert error_of(answer, 429)["code"] == "throttled"
    assert 0 < int(answer["Retry-After"]) <= 60
    assert answer["Retry-After"] in answer.json()["message"]
    assert other.get("/api/tasks").status_code == 200


def test_too_many_requests_of_nobody(db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PerAddress, "get_rate", lambda self: "2/min")
    assert [APIClient().get("/api/status").status_code for _time in range(3)] == [200, 200, 429]


def test_too_many_tries_for_a_token(db: None) -> None:
    for _time in range(30):
        error_of(APIClient().post("/api/token", {"username": "", "password": ""}, format="json"), 400)
    answer = APIClient().post("/api/token", {"username": "", "password": ""}, format="json")
    error_of(answer, 429)
    assert int(answer["Retry-After"]) > 0


def test_the_document_and_its_page(db: None, settings: LazySettings) -> None:
    document = APIClient().get("/api/schema", HTTP_ACCEPT="application/json")
    assert document.status_code == 200
    assert json.loads(document.content)["openapi"].startswith("3.")
    assert b"/api/tasks/{id}/execute" in APIClient().get("/api/schema").content
    page = APIClient().get("/api/docs", HTTP_ACCEPT="text/html")
    assert page.status_code == 200
    assert page["Content-Type"].startswith("text/html")


@pytest.mark.parametrize("noun", ["tasks", "data-sources", "channels", "logs", "status"])
def test_options_and_head(admin: APIClient, noun: str) -> None:
    assert admin.options(f"/api/{noun}").status_code == 200
    head = admin.head(f"/api/{noun}")
    assert (head.status_code, head.content) == (200, b"")


def test_what_a_secret_is_never_in_an_answer(admin: APIClient, shop: DataSource) -> None:
    make_source(kind="mysql", host="db1", database="d", username="u", password="canary-1")
    make_task(
        data_source=shop,
        dingtalk_webhook="https://oapi.dingtalk.com/robot/send?access_token=canary-2-xxxxxxxxxxxx",
        dingtalk_secret="SECcanary-3",
    )
    for path in ("tasks", "tasks/1", "data-sources", "data-sources/1", "data-sources/2", "logs", "channels", "status"):
        for method in (admin.get, admin.options):
            assert b"canary" not in method(f"/api/{path}").content
