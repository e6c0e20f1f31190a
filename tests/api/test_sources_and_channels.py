"""Data sources and channels: their secrets go in and never come out; what config.yaml or a task holds on to stays."""

import json
from pathlib import Path
from typing import Any

import pytest
from rest_framework.test import APIClient

from datasources.models import DataSource
from notifications.models import Channel
from tasks.models import ExportTask
from tests.api.conftest import client_of, error_of
from tests.factories import make_execution, make_source, make_sqlite_file, make_user
from tests.servers.robots import Robots, says

pytestmark = pytest.mark.django_db

MYSQL = {"name": "warehouse", "kind": "mysql", "host": "db1", "port": 3306, "database": "stock", "username": "reader"}
TOKEN = "https://oapi.dingtalk.com/robot/send?access_token=canary0123456789"


def shown(answer: Any, status: int = 200) -> dict[str, Any]:
    assert answer.status_code == status, answer.content
    content: dict[str, Any] = answer.json()
    assert "canary" not in json.dumps(content)
    return content


class TestSources:
    def test_create_read_change_delete(self, admin: APIClient) -> None:
        answer = admin.post("/api/data-sources", MYSQL | {"password": "canary"}, format="json")
        made = shown(answer, 201)
        assert (made["has_password"], made["charset"], made["max_concurrency"], made["config_managed"]) == (
            True,
            "utf8mb4",
            2,
            False,
        )
        address = answer["Location"]
        assert shown(admin.get(address)) == made
        assert shown(admin.put(address, MYSQL | {"name": "renamed"}, format="json"))["name"] == "renamed"
        moved = {"port": 3307, "password": "canary"}
        assert shown(admin.patch(address, moved, format="json"))["port"] == 3307
        assert DataSource.objects.get().password == "canary"
        assert admin.delete(address).status_code == 204
        error_of(admin.get(address), 404)

    def test_a_password_that_is_left_out_stays_and_an_empty_one_goes(self, admin: APIClient) -> None:
        source = make_source(**MYSQL, password=" canary ")
        path = f"/api/data-sources/{source.pk}"
        assert shown(admin.put(path, shown(admin.get(path)), format="json"))["has_password"]
        source.refresh_from_db()
        assert source.password == " canary "
        assert shown(admin.patch(path, {"password": " canary2 "}, format="json"))["has_password"]
        source.refresh_from_db()
        assert source.password == " canary2 "
        assert shown(admin.patch(path, {"password": ""}, format="json"))["has_password"] is False

    def test_what_means_nothing_for_the_kind_is_cleared(self, admin: APIClient, tmp_path: Path) -> None:
        file = make_sqlite_file(tmp_path / "a.db")
        given = MYSQL | {"kind": "sqlite", "database": str(file), "password": "canary"}
        made = shown(admin.post("/api/data-sources", given, format="json"), 201)
        assert (made["host"], made["port"], made["username"], made["has_password"]) == ("", None, "", False)

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("name", ""), ("name", "x" * 101), ("kind", "oracle"), ("kind", None), ("kind", []), ("host", ""), ("host", "x" * 256), ("host", "a b"),
            ("port", 0), ("port", 65536), ("port", -1), ("port", 2**63), ("port", "x"), ("database", ""), ("database", "x" * 256),
            ("username", {}), ("password", "x" * 1001), ("password", None), ("charset", "ebcdic"), ("ssl_mode", "maybe"), ("is_active", "x"),
            ("max_concurrency", 0), ("max_concurrency", 2**70), ("description", None),
        ],
        ids=lambda value: ascii(value)[:20],
    )  # fmt: skip
    def test_values_that_can_not_be(self, admin: APIClient, field: str, value: Any) -> None:
        found = error_of(admin.post("/api/data-sources", MYSQL | {field: value}, format="json"), 400)
        assert set(found["fields"]) == {field}

    def test_one_that_tasks_read_stays(self, admin: APIClient, orders: ExportTask) -> None:
        assert error_of(admin.delete(f"/api/data-sources/{orders.data_source_id}"), 409)["code"] == "in_use"
        assert DataSource.objects.count() == 1

    def test_one_of_config_yaml_is_changed_there(self, admin: APIClient) -> None:
        source = make_source(**MYSQL, config_managed=True)
        path = f"/api/data-sources/{source.pk}"
        for answer in (
            admin.patch(path, {"port": 1}, format="json"),
            admin.put(path, MYSQL, format="json"),
            admin.delete(path),
        ):
            assert error_of(answer, 409)["code"] == "config_managed"
        made = shown(admin.post("/api/data-sources", MYSQL | {"name": "n", "config_managed": True}, format="json"), 201)
        assert made["config_managed"] is False

    def test_testing(self, admin: APIClient, shop: DataSource) -> None:
        good = shown(admin.post(f"/api/data-sources/{shop.pk}/test"))
        assert good["ok"] is True
        assert good["server_version"]
        assert good["latency_ms"] >= 0
        bad = shown(admin.post(f"/api/data-sources/{make_source(database='/nowhere/at/all.db').pk}/test"))
        assert bad["ok"] is False
        assert bad["reason"]
        assert bad["message"]
        assert shown(admin.get(f"/api/data-sources/{shop.pk}"))["test_ok"] is True

    def test_a_test_does_not_count_as_a_change(self, admin: APIClient, shop: DataSource) -> None:
        tag = admin.get(f"/api/data-sources/{shop.pk}")["ETag"]
        admin.post(f"/api/data-sources/{shop.pk}/test")
        assert (
            admin.patch(
                f"/api/data-sources/{shop.pk}", {"description": "x"}, format="json", HTTP_IF_MATCH=tag
            ).status_code
            == 200
        )

    def test_who_may_what(self, shop: DataSource) -> None:
        for role, statuses in {
            "viewer": (403, 403, 403),
            "operator": (200, 200, 403),
            "editor": (200, 200, 403),
            "admin": (200, 200, 200),
        }.items():
            client = client_of(make_user(role=role, sources=[shop]))
            path = f"/api/data-sources/{shop.pk}"
            found = (
                client.get(path).status_code,
                client.post(f"{path}/test").status_code,
                client.patch(path, {"description": role}, format="json").status_code,
            )
            assert found == statuses, role


class TestChannels:
    def test_create_read_change_delete(self, admin: APIClient) -> None:
        given = {
            "name": "group",
            "kind": "dingtalk",
            "settings": {"webhook_url": TOKEN, "secret": "SECcanary", "at_mobiles": ["13800138000"]},
        }
        answer = admin.post("/api/channels", given, format="json")
        made = shown(answer, 201)
        assert made["secrets_set"] == ["secret", "webhook_url"]
        assert made["settings"] == {
            "keyword": "",
            "at_mobiles": ["13800138000"],
            "at_all": False,
            "message_type": "markdown",
        }
        address = answer["Location"]
        assert shown(admin.get(address)) == made
        changed = shown(admin.patch(address, {"settings": {"at_all": True}}, format="json"))
        assert changed["settings"] == made["settings"] | {"at_all": True}
        assert changed["secrets_set"] == made["secrets_set"]
        assert shown(admin.patch(address, {"is_active": False}, format="json"))["settings"] == changed["settings"]
        assert admin.delete(address).status_code == 204
        assert shown(admin.get("/api/channels"))["count"] == 0

    def test_put_replaces_the_settings_and_keeps_the_secrets(self, admin: APIClient) -> None:
        channel = Channel(name="group", kind="dingtalk")
        channel.set_settings({"webhook_url": TOKEN, "secret": "SECcanary", "keyword": "报表", "at_all": True})
        channel.save()
        path = f"/api/channels/{channel.pk}"
        same = {"name": "group", "kind": "dingtalk"}
        kept = shown(admin.put(path, same, format="json"))
        assert (kept["settings"]["keyword"], kept["settings"]["at_all"]) == ("报表", True)
        replaced = shown(admin.put(path, same | {"settings": {"keyword": "日报"}}, format="json"))
        assert (replaced["settings"]["keyword"], replaced["settings"]["at_all"]) == ("日报", False)
        assert replaced["secrets_set"] == ["secret", "webhook_url"]
        gone = shown(admin.patch(path, {"settings": {"secret": ""}}, format="json"))
        assert gone["secrets_set"] == ["webhook_url"]
        needed = error_of(admin.patch(path, {"settings": {"webhook_url": ""}}, format="json"), 400)
        assert set(needed["fields"]) == {"settings.webhook_url"}
        assert Channel.objects.get().stored_secrets == {"webhook_url": TOKEN}

    @pytest.mark.parametrize(
        ("kind", "given", "field"),
        [
            ("dingtalk", {}, "settings.webhook_url"),
            ("dingtalk", {"webhook_url": "http://127.0.0.1/?access_token=canary0123456789"}, "settings.webhook_url"),
            ("dingtalk", {"webhook_url": TOKEN, "at_mobiles": [1]}, "settings.at_mobiles"),
            ("dingtalk", {"webhook_url": TOKEN, "at_mobiles": [{}]}, "settings.at_mobiles"),
            ("dingtalk", {"webhook_url": TOKEN, "at_all": "yes"}, "settings.at_all"),
            ("dingtalk", {"webhook_url": TOKEN, "message_type": "x"}, "settings.message_type"),
            ("dingtalk", {"webhook_url": TOKEN, "message_type": []}, "settings.message_type"),
            ("dingtalk", {"webhook_url": 7}, "settings.webhook_url"),
            ("dingtalk", {"webhook_url": TOKEN, "colour": "red"}, "settings.colour"),
            ("dingtalk", {"webhook_url": TOKEN, "": 1}, "settings."),
            ("email", {"recipients": []}, "settings.recipients"),
            ("email", {"recipients": ["nobody", None]}, "settings.recipients"),
            ("email", {"recipients": ["nobody"]}, "settings.recipients"),
            ("email", None, "settings"),
            ("email", [], "settings"),
            ("webhook", {"url": "https://[::"}, "settings.url"),
            ("pigeon", {}, "kind"),
        ],
        ids=lambda value: ascii(value)[:30],
    )
    def test_settings_that_can_not_be(self, admin: APIClient, kind: str, given: Any, field: str) -> None:
        answer = admin.post("/api/channels", {"name": "c", "kind": kind, "settings": given}, format="json")
        assert any(name.startswith(field) for name in error_of(answer, 400)["fields"]), answer.json()
        assert b"canary" not in answer.content
        assert not Channel.objects.exists()

    def test_its_kind_stays(self, admin: APIClient) -> None:
        channel = Channel.objects.create(name="list", kind="email", settings={"recipients": ["a@example.com"]})
        assert set(
            error_of(admin.patch(f"/api/channels/{channel.pk}", {"kind": "dingtalk"}, format="json"), 400)["fields"]
        ) == {"kind"}

    def test_one_of_config_yaml_is_changed_there(self, admin: APIClient) -> None:
        channel = Channel.objects.create(name="config", kind="dingtalk", config_managed=True)
        for method in (admin.patch, admin.put, admin.delete):
            error_of(method(f"/api/channels/{channel.pk}", {"name": "x", "kind": "dingtalk"}, format="json"), 409)

    def test_a_test_message(self, admin: APIClient, robots: Robots) -> None:
        robot = robots.add("dingtalk", secret="SECcanary")
        settings = {"webhook_url": robot.url, "secret": "SECcanary"}
        made = shown(
            admin.post("/api/channels", {"name": "group", "kind": "dingtalk", "settings": settings}, format="json"), 201
        )
        found = shown(admin.post(f"/api/channels/{made['id']}/test"))
        assert found == {"ok": True, "recipients": [{"recipient": "", "ok": True, "reason": "", "message": ""}]}
        assert len(robots.accepted) == 1
        robots.script(says(310000, "sign not match"))
        refused = shown(admin.post(f"/api/channels/{made['id']}/test"))
        assert (refused["ok"], refused["recipients"][0]["reason"]) == (False, "bad_signature")
        assert refused["recipients"][0]["message"]

    def test_a_test_of_one_that_is_switched_off(self, admin: APIClient) -> None:
        channel = Channel.objects.create(name="off", kind="dingtalk", is_active=False)
        found = shown(admin.post(f"/api/channels/{channel.pk}/test"))
        assert (found["ok"], found["recipients"][0]["reason"]) == (False, "channel_inactive")

    def test_a_run_keeps_the_name_of_a_channel_that_is_gone(self, admin: APIClient, orders: ExportTask) -> None:
        channel = Channel.objects.create(name="group", kind="dingtalk")
        orders.rules.create(channel=channel)
        run = make_execution(orders)
        run.deliveries.create(
            event="success", channel=channel, channel_name="group", payload={}, next_at=run.queued_at, key="k"
        )
        assert admin.delete(f"/api/channels/{channel.pk}").status_code == 204
        assert [
            (row["channel"], row["channel_name"]) for row in shown(admin.get(f"/api/logs/{run.pk}"))["deliveries"]
        ] == [(None, "group")]
        assert shown(admin.get(f"/api/tasks/{orders.pk}"))["rules"] == []
