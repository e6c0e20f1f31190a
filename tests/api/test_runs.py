"""Runs: started, tried out, backfilled, cancelled, run again, their messages and files."""

import csv
import hashlib
import io
import json
import zipfile
from datetime import UTC, datetime
from typing import Any

import openpyxl
import pytest
from django.conf import LazySettings
from rest_framework.test import APIClient

from datasources.models import DataSource
from notifications.models import Channel, Delivery
from notifications.outbox import Outbox
from tasks import files, runner
from tasks.models import Download, Execution, ExportTask
from tasks.states import Status, Trigger
from tests.api.conftest import client_of, error_of
from tests.factories import make_execution, make_source, make_sqlite_file, make_task, make_user, paths_of
from tests.servers.robots import Robots

pytestmark = pytest.mark.django_db


def accepted(answer: Any) -> dict[str, Any]:
    assert answer.status_code == 202, answer.content
    content: dict[str, Any] = answer.json()
    return content


def carried_out(number: int) -> Execution:
    """The run, by whom schedulers would have given it to."""
    execution = Execution.objects.claim(number, worker="test")
    assert execution is not None
    return runner.run(execution)


def content(answer: Any) -> bytes:
    return b"".join(answer.streaming_content) if answer.streaming else bytes(answer.content)


def test_from_the_request_to_the_file(editor: APIClient, orders: ExportTask) -> None:
    answer = editor.post(f"/api/tasks/{orders.pk}/execute")
    run = accepted(answer)
    assert (run["status"], run["trigger"], run["task"], run["task_name"]) == ("queued", "api", orders.pk, "orders")
    assert run["url"] == answer["Location"] == f"http://testserver/api/logs/{run['id']}"
    assert Execution.objects.get().created_by.username == "editor"  # type: ignore[union-attr]
    carried_out(run["id"])
    ended = editor.get(run["url"]).json()
    assert (ended["status"], ended["rows_count"], ended["reason"], ended["error"]) == ("succeeded", 3, "", "")
    assert ended["sql"] == "SELECT * FROM orders ORDER BY id"
    download = editor.get(f"/api/logs/{run['id']}/download")
    body = content(download)
    assert (len(body), hashlib.sha256(body).hexdigest()) == (ended["file_size"], ended["sha256"])
    assert ended["filename"] in download["Content-Disposition"]
    assert download["Content-Type"] == "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
    assert "no-store" in download["Cache-Control"]
    sheet = openpyxl.load_workbook(io.BytesIO(body)).active
    assert [row[1].value for row in sheet.rows] == ["customer", "张三", "李四", None]  # type: ignore[union-attr]
    assert Download.objects.get().username == "editor"


def test_a_run_with_everything_that_can_be_asked_for(editor: APIClient, shop: DataSource) -> None:
    task = make_task(
        data_source=shop,
        sql="SELECT {{ ds }} AS day, {{ params.shop }} AS shop",
        timezone="America/New_York",
        params={"shop": "001"},
    )
    wish = {"date": "2025-08-12", "params": {"shop": "007"}, "notify": False, "format": "csv"}
    run = accepted(editor.post(f"/api/tasks/{task.pk}/execute", wish, format="json"))
    execution = Execution.objects.get(pk=run["id"])
    assert execution.planned_at == datetime(2025, 8, 12, 4, tzinfo=UTC)  # midnight in New York
    assert (execution.params, execution.notify, execution.format) == ({"shop": "007"}, False, "csv")
    carried_out(run["id"])
    body = content(editor.get(f"/api/logs/{run['id']}/download"))
    assert list(csv.reader(io.StringIO(body.decode("utf-8-sig")))) == [["day", "shop"], ["2025-08-12", "007"]]
    with_time = accepted(
        editor.post(f"/api/tasks/{task.pk}/execute", {"date": "2025-08-12T09:30+08:00"}, format="json")
    )
    assert Execution.objects.get(pk=with_time["id"]).planned_at == datetime(2025, 8, 12, 1, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("date", "tomorrow"), ("date", "0001-01-01"), ("date", "9999-12-31"), ("date", None), ("date", 5), ("date", "x" * 41), ("date", ""),
        ("params", []), ("params", {"a": {}}), ("params", {"a": None}), ("params", {"a": [1]}), ("notify", "perhaps"), ("notify", None),
        ("format", "pdf"), ("format", "x" * 21), ("format", None),
    ],
    ids=ascii,
)  # fmt: skip
def test_a_wish_that_can_not_be(editor: APIClient, orders: ExportTask, field: str, value: Any) -> None:
    found = error_of(editor.post(f"/api/tasks/{orders.pk}/execute", {field: value}, format="json"), 400)
    assert set(found["fields"]) == {field}
    assert not Execution.objects.exists()


class TestIdempotencyKey:
    """The same request with the same key is the same run."""

    def test_sent_again(self, editor: APIClient, orders: ExportTask) -> None:
        wish = {"date": "2025-08-12", "params": {"a": 1}}
        first, second = (
            accepted(editor.post(f"/api/tasks/{orders.pk}/execute", wish, format="json", HTTP_IDEMPOTENCY_KEY="k1"))
            for _time in "12"
        )
        assert first == second
        other = accepted(editor.post(f"/api/tasks/{orders.pk}/execute", wish, format="json", HTTP_IDEMPOTENCY_KEY="k2"))
        assert other["id"] != first["id"]
        assert Execution.objects.count() == 2

    def test_still_the_same_when_the_run_has_ended_and_the_task_has_changed(
        self, editor: APIClient, orders: ExportTask
    ) -> None:
        def send() -> dict[str, Any]:
            return accepted(editor.post(f"/api/tasks/{orders.pk}/execute", HTTP_IDEMPOTENCY_KEY="k"))

        first = send()
        carried_out(first["id"])
        editor.patch(f"/api/tasks/{orders.pk}", {"format": "csv", "params": {"new": 1}}, format="json")
        again = send()
        assert (again["id"], again["status"]) == (first["id"], "succeeded")

    @pytest.mark.parametrize(
        "other",
        [
            {},
            {"date": "2025-08-13"},
            {"date": "2025-08-12", "notify": False},
            {"date": "2025-08-12", "params": {"a": 1}},
            {"date": "2025-08-12", "format": "csv"},
        ],
        ids=str,
    )
    def test_for_another_wish(self, editor: APIClient, orders: ExportTask, other: dict[str, Any]) -> None:
        accepted(
            editor.post(
                f"/api/tasks/{orders.pk}/execute", {"date": "2025-08-12"}, format="json", HTTP_IDEMPOTENCY_KEY="k"
            )
        )
        answer = editor.post(f"/api/tasks/{orders.pk}/execute", other, format="json", HTTP_IDEMPOTENCY_KEY="k")
        assert error_of(answer, 409)["code"] == "idempotency_key_reused"
        assert Execution.objects.count() == 1

    def test_for_another_task_or_another_run(self, editor: APIClient, orders: ExportTask) -> None:
        key: dict[str, Any] = {"HTTP_IDEMPOTENCY_KEY": "k"}
        other = make_task(data_source=orders.data_source)
        run = accepted(editor.post(f"/api/tasks/{orders.pk}/execute", **key))
        error_of(editor.post(f"/api/tasks/{other.pk}/execute", **key), 409)
        error_of(editor.post(f"/api/logs/{run['id']}/rerun", **key), 409)
        again, once_more = (
            accepted(editor.post(f"/api/logs/{run['id']}/rerun", HTTP_IDEMPOTENCY_KEY="r")) for _time in "12"
        )
        assert again == once_more
        error_of(editor.post(f"/api/logs/{again['id']}/rerun", HTTP_IDEMPOTENCY_KEY="r"), 409)
        assert Execution.objects.count() == 2

    def test_of_two_users(self, editor: APIClient, orders: ExportTask) -> None:
        other = client_of(make_user(role="operator", sources=[orders.data_source]))
        runs = [
            accepted(client.post(f"/api/tasks/{orders.pk}/execute", HTTP_IDEMPOTENCY_KEY="k"))["id"]
            for client in (editor, other)
        ]
        assert len(set(runs)) == 2

    def test_of_two_keys_of_one_user(self, orders: ExportTask) -> None:
        user = make_user(role="operator", sources=[orders.data_source])
        runs = [
            accepted(client_of(user).post(f"/api/tasks/{orders.pk}/execute", HTTP_IDEMPOTENCY_KEY="k"))["id"]
            for _time in "12"
        ]
        assert len(set(runs)) == 1

    def test_of_any_form(self, editor: APIClient, orders: ExportTask) -> None:
        for key in ("é", "\xff" * 255, "a b, c;d", '"'):
            accepted(editor.post(f"/api/tasks/{orders.pk}/execute", HTTP_IDEMPOTENCY_KEY=key))
        answer = editor.post(f"/api/tasks/{orders.pk}/execute", HTTP_IDEMPOTENCY_KEY="x" * 256)
        assert set(error_of(answer, 400)["fields"]) == {"Idempotency-Key"}

    def test_none_is_none(self, editor: APIClient, orders: ExportTask) -> None:
        runs = {
            accepted(editor.post(f"/api/tasks/{orders.pk}/execute", HTTP_IDEMPOTENCY_KEY=""))["id"] for _time in "12"
        }
        assert len(runs) == 2


class TestTrial:
    """POST /api/tasks/{id}/test."""

    def test_columns_and_rows(self, editor: APIClient, orders: ExportTask) -> None:
        answer = editor.post(f"/api/tasks/{orders.pk}/test", {"limit": 2}, format="json")
        assert answer.status_code == 200
        shown = answer.json()
        assert [column["name"] for column in shown["columns"]] == ["id", "customer", "amount", "paid", "created"]
        assert shown["rows"] == [["1", "张三", "12.5", "t", "2025-01-31"], ["2", "李四", "99.99", "f", "2025-02-01"]]
        assert (shown["more"], shown["sql"]) == (True, orders.sql)
        everything = editor.post(f"/api/tasks/{orders.pk}/test").json()
        assert (len(everything["rows"]), everything["more"], everything["rows"][2]) == (
            3,
            False,
            ["3", None, None, None, None],
        )
        assert not Execution.objects.exists()

    def test_with_date_and_params(self, editor: APIClient, shop: DataSource) -> None:
        task = make_task(data_source=shop, sql="SELECT {{ ds }}, {{ params.shop }}")
        shown = editor.post(
            f"/api/tasks/{task.pk}/test", {"date": "2025-08-12", "params": {"shop": "7"}}, format="json"
        ).json()
        assert shown["rows"] == [["2025-08-12", "7"]]

    @pytest.mark.parametrize(
        ("sql", "code"),
        [
            ("SELECT nothing FROM orders", "sql_error"),
            ("SELECT {{ params.none }}", "sql_refused"),
            ("SELECT {{ ds + 99999 }}, {{ ds + 99999 }}", ""),
        ],
    )
    def test_sql_that_does_not_run(self, editor: APIClient, shop: DataSource, sql: str, code: str) -> None:
        task = make_task(data_source=shop, sql=sql)
        answer = editor.post(f"/api/tasks/{task.pk}/test")
        if code:
            found = error_of(answer, 422)
            assert found["code"] == code
            assert "Traceback" not in found["message"]
        else:
            assert answer.status_code == 200

    def test_a_source_that_can_not_be_reached(self) -> None:
        task = make_task(data_source=make_source())
        client = client_of(make_user(role="editor", sources=[task.data_source]))
        assert error_of(client.post(f"/api/tasks/{task.pk}/test"), 422)["code"] in (
            "connection_failed",
            "unknown_database",
        )

    @pytest.mark.parametrize(
        "wish",
        [{"limit": 0}, {"limit": 101}, {"limit": "x"}, {"limit": 1e300}, {"date": "x"}, {"params": [1]}],
        ids=str,
    )
    def test_a_wish_that_can_not_be(self, editor: APIClient, orders: ExportTask, wish: dict[str, Any]) -> None:
        assert set(error_of(editor.post(f"/api/tasks/{orders.pk}/test", wish, format="json"), 400)["fields"]) == set(
            wish
        )


class TestBackfill:
    def test_each_planned_time_of_the_range(self, editor: APIClient, shop: DataSource) -> None:
        task = make_task(data_source=shop, cron="0 9 * * *")
        path = f"/api/tasks/{task.pk}/backfill"
        found = accepted(editor.post(path, {"start": "2025-08-01", "end": "2025-08-03"}, format="json"))
        assert found["queued"] == 3
        runs = Execution.objects.order_by("id")
        assert [run.pk for run in runs] == found["executions"]
        assert [run.planned_at for run in runs] == [datetime(2025, 8, day, 1, tzinfo=UTC) for day in (1, 2, 3)]
        started = runs.values_list("trigger", "notify", "created_by__username")
        assert set(started) == {(Trigger.BACKFILL, True, "editor")}
        # What is on its way is not queued once more, unless it shall.
        assert accepted(editor.post(path, {"start": "2025-08-01", "end": "2025-08-04"}, format="json"))["queued"] == 1
        again = {"start": "2025-08-01", "end": "2025-08-04T08:59", "again": True, "notify": False}
        assert accepted(editor.post(path, again, format="json"))["queued"] == 3
        assert Execution.objects.filter(notify=False).count() == 3

    def test_each_day_without_a_schedule(self, editor: APIClient, orders: ExportTask) -> None:
        found = accepted(
            editor.post(f"/api/tasks/{orders.pk}/backfill", {"start": "20250801", "end": "20250802"}, format="json")
        )
        assert found["queued"] == 2

    @pytest.mark.parametrize(
        ("start", "end", "field"),
        [
            ("x", "2025-08-01", "start"), ("2025-08-01", "x", "end"), ("2025-08-02", "2025-08-01", "start"),
            ("1970-01-01", "2999-12-31", "start"), ("0001-01-01", "2025-08-01", "start"), ("2025-08-01", "9999-12-31", "end"),
            (None, "2025-08-01", "start"), ("2025-08-01", 7, "end"),
        ],
    )  # fmt: skip
    def test_a_range_that_can_not_be(
        self, editor: APIClient, orders: ExportTask, start: Any, end: Any, field: str
    ) -> None:
        answer = editor.post(f"/api/tasks/{orders.pk}/backfill", {"start": start, "end": end}, format="json")
        assert set(error_of(answer, 400)["fields"]) == {field}
        assert not Execution.objects.exists()

    def test_both_ends_are_needed(self, editor: APIClient, orders: ExportTask) -> None:
        assert set(error_of(editor.post(f"/api/tasks/{orders.pk}/backfill"), 400)["fields"]) == {"start", "end"}


class TestCancel:
    def test_a_queued_run(self, editor: APIClient, orders: ExportTask) -> None:
        run = make_execution(orders)
        found = accepted(editor.post(f"/api/logs/{run.pk}/cancel"))
        assert (found["status"], found["reason"]) == ("cancelled", "cancelled")
        assert error_of(editor.post(f"/api/logs/{run.pk}/cancel"), 409)["code"] == "ended"

    def test_a_running_one_is_asked_to_stop(self, editor: APIClient, orders: ExportTask) -> None:
        run = Execution.objects.claim(make_execution(orders).pk, worker="w")
        assert run is not None
        assert accepted(editor.post(f"/api/logs/{run.pk}/cancel"))["status"] == "running"
        assert Execution.objects.cancel_requested(run)
        accepted(editor.post(f"/api/logs/{run.pk}/cancel"))

    @pytest.mark.parametrize("status", [status for status in Status if status not in ("queued", "running")])
    def test_an_ended_one(self, editor: APIClient, orders: ExportTask, status: Status) -> None:
        run = make_execution(orders, status=status)
        error_of(editor.post(f"/api/logs/{run.pk}/cancel"), 409)


class TestRerun:
    def test_the_same_time_and_parameters_and_the_sql_of_now(self, editor: APIClient, orders: ExportTask) -> None:
        wish = {"date": "2025-08-12", "params": {"a": 1}, "format": "csv"}
        first = accepted(editor.post(f"/api/tasks/{orders.pk}/execute", wish, format="json"))
        editor.patch(f"/api/tasks/{orders.pk}", {"sql": "SELECT 2"}, format="json")
        second = accepted(editor.post(f"/api/logs/{first['id']}/rerun"))
        assert second["id"] != first["id"]
        for name in ("scheduled_for", "params", "task"):
            assert second[name] == first[name]
        again = Execution.objects.get(pk=second["id"])
        assert (again.format, again.trigger, again.sql_template) == ("csv", Trigger.API, "SELECT 2")

    def test_of_a_task_that_is_gone(self, editor: APIClient, orders: ExportTask) -> None:
        run = make_execution(orders)
        editor.delete(f"/api/tasks/{orders.pk}")
        keys: list[dict[str, Any]] = [{}, {"HTTP_IDEMPOTENCY_KEY": "k"}]
        for key in keys:
            assert error_of(editor.post(f"/api/logs/{run.pk}/rerun", **key), 409)["code"] == "task_deleted"

    def test_of_a_task_that_reads_another_source_now(self, editor: APIClient, orders: ExportTask) -> None:
        run = make_execution(orders)
        ExportTask.objects.update(data_source=make_source())
        error_of(editor.post(f"/api/logs/{run.pk}/rerun"), 409)
        assert Execution.objects.count() == 1


def deliver() -> None:
    Outbox(threads=0).deliver()


class TestResend:
    def test_to_whom_it_did_not_reach_and_to_everybody(
        self, editor: APIClient, orders: ExportTask, robots: Robots
    ) -> None:
        for name in ("good", "bad"):
            channel = Channel(name=name, kind="webhook")
            channel.set_settings({"url": robots.add("webhook").url, "secret": ""})
            channel.save()
            orders.rules.create(channel=channel)
        run = carried_out(make_execution(orders).pk).pk
        deliver()
        assert Delivery.objects.filter(status="sent").count() == 2
        Delivery.objects.filter(channel_name="bad").update(status="dead", recipients={}, reason="rejected")
        shown = editor.get(f"/api/logs/{run}").json()
        assert shown["delivered"] == "some"
        assert {(row["channel_name"], row["status"]) for row in shown["deliveries"]} == {
            ("good", "sent"),
            ("bad", "dead"),
        }
        found = accepted(editor.post(f"/api/logs/{run}/resend"))
        assert found["resent"] == 1
        assert {(row["channel_name"], row["status"]) for row in found["deliveries"]} == {
            ("good", "sent"),
            ("bad", "pending"),
        }
        assert accepted(editor.post(f"/api/logs/{run}/resend", {}, format="json"))["resent"] == 0
        deliver()
        assert len(robots.accepted) == 3
        assert accepted(editor.post(f"/api/logs/{run}/resend", {"everybody": True}, format="json"))["resent"] == 2
        deliver()
        assert len(robots.accepted) == 5
        error_of(editor.post(f"/api/logs/{run}/resend", {"everybody": "perhaps"}, format="json"), 400)

    def test_a_run_without_messages(self, editor: APIClient, orders: ExportTask) -> None:
        found = accepted(editor.post(f"/api/logs/{make_execution(orders).pk}/resend"))
        assert found == {"resent": 0, "deliveries": []}


class TestDownload:
    @pytest.fixture
    def run(self, editor: APIClient, orders: ExportTask) -> Execution:
        return carried_out(make_execution(orders).pk)

    def test_part_of_a_file(self, editor: APIClient, run: Execution) -> None:
        path = f"/api/logs/{run.pk}/download"
        whole = content(editor.get(path))
        for asked, status, expected in (
            ("bytes=0-9", 206, whole[:10]),
            ("bytes=-5", 206, whole[-5:]),
            (f"bytes={len(whole) - 1}-", 206, whole[-1:]),
            ("bytes=0-0,5-6", 200, whole),
            ("pages=1-2", 200, whole),
            ("bytes=5-2", 200, whole),
        ):
            answer = editor.get(path, HTTP_RANGE=asked)
            assert (answer.status_code, content(answer)) == (status, expected), asked
        beyond = editor.get(path, HTTP_RANGE=f"bytes={len(whole)}-")
        assert error_of(beyond, 416)["code"] == "no_such_range"
        assert beyond["Content-Range"] == f"bytes */{len(whole)}"

    def test_going_on_where_it_broke_off(self, editor: APIClient, run: Execution) -> None:
        path = f"/api/logs/{run.pk}/download"
        first = editor.get(path)
        whole = content(first)
        for tag, status, expected in ((first["ETag"], 206, whole[5:]), ('"other"', 200, whole)):
            answer = editor.get(path, HTTP_RANGE="bytes=5-", HTTP_IF_RANGE=tag)
            assert (answer.status_code, content(answer)) == (status, expected)

    def test_its_size_beforehand(self, editor: APIClient, run: Execution) -> None:
        answer = editor.head(f"/api/logs/{run.pk}/download")
        assert (answer.status_code, answer["Content-Length"], content(answer)) == (200, str(run.file_size), b"")
        assert not Download.objects.exists()

    @pytest.mark.parametrize(
        "accept", ["*/*", "text/csv", "application/octet-stream", "text/html,application/xhtml+xml", "nonsense"]
    )
    def test_whatever_accept_says(self, editor: APIClient, run: Execution, accept: str) -> None:
        answer = editor.get(f"/api/logs/{run.pk}/download", HTTP_ACCEPT=accept)
        assert (answer.status_code, len(content(answer))) == (200, run.file_size)

    def test_a_removed_file(self, editor: APIClient, run: Execution) -> None:
        paths_of(run)[0].unlink()
        for method in (editor.get, editor.head):
            answer = method(f"/api/logs/{run.pk}/download")
            assert answer.status_code == 404
        assert error_of(editor.get(f"/api/logs/{run.pk}/download"), 404)["code"] == "no_file"

    def test_a_run_without_a_file(self, editor: APIClient, orders: ExportTask) -> None:
        assert error_of(editor.get(f"/api/logs/{make_execution(orders).pk}/download"), 404)["code"] == "no_file"

    def test_several_parts(self, editor: APIClient, shop: DataSource, settings: LazySettings) -> None:
        export = settings.CONFIG.export.model_copy(update={"max_file_size": 200_000})
        settings.CONFIG = settings.CONFIG.model_copy(update={"export": export})
        sql = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000) SELECT i, hex(randomblob(16)) AS text FROM n"
        run = carried_out(make_execution(make_task(name="many", data_source=shop, sql=sql, format="csv")).pk)
        shown = editor.get(f"/api/logs/{run.pk}").json()
        assert len(shown["files"]) > 2
        path = f"/api/logs/{run.pk}/download"
        whole = editor.get(path)
        assert whole["Content-Type"] == "application/zip"
        with zipfile.ZipFile(io.BytesIO(content(whole))) as archive:
            bodies = [archive.read(name) for name in archive.namelist()]
        for number, body in enumerate(bodies, start=1):
            part = editor.get(f"{path}?part={number}")
            assert (content(part), part["Content-Type"].partition(";")[0]) == (body, "text/csv")
        assert b"".join(bodies).count(b"\n") == 20000 + len(bodies)
        for wrong in ("0", "99", "x", "-1", "1.5", "%00", "9" * 5000):
            error_of(editor.get(f"{path}?part={wrong}"), 404)


def test_a_run_says_everything_that_is_promised(editor: APIClient, orders: ExportTask) -> None:
    promised = [
        "id",
        "task",
        "task_name",
        "scheduled_for",
        "queued_at",
        "started_at",
        "finished_at",
        "duration_seconds",
        "attempt",
        "rows_count",
        "file_size",
        "filename",
        "sha256",
        "files",
        "progress",
        "sql",
        "params",
        "worker",
        "error",
        "fidelity",
        "deliveries",
        "status",
        "reason",
        "trigger",
    ]
    assert set(promised) <= set(editor.get(f"/api/logs/{make_execution(orders).pk}").json())


def test_who_may_not_see_sql_sees_no_words_that_quote_it(orders: ExportTask) -> None:
    run = make_execution(
        orders,
        sql="SELECT canary",
        error='near "canary": syntax error',
        history=[{"error": "canary"}],
        params={"a": "canary"},
    )
    viewer = client_of(make_user(role="viewer", sources=[orders.data_source]))
    for path in (f"/api/logs/{run.pk}", "/api/logs"):
        assert "canary" not in json.dumps(viewer.get(path).json())


def test_files_of_others_are_not_found(run_of_another: Execution, editor: APIClient) -> None:
    for action, method in (
        ("download", editor.get),
        ("cancel", editor.post),
        ("rerun", editor.post),
        ("resend", editor.post),
    ):
        error_of(method(f"/api/logs/{run_of_another.pk}/{action}"), 404)


@pytest.fixture
def run_of_another(db: None, tmp_path: Any) -> Execution:
    source = make_source(database=str(make_sqlite_file(tmp_path / "other.db")))
    run = carried_out(make_execution(make_task(data_source=source)).pk)
    assert files.output_root() in paths_of(run)[0].parents
    return run
