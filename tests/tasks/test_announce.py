"""Which messages a run owes when it ends: to whom, about what, in one transaction with its end."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.conf import LazySettings
from django.contrib.auth.models import User
from django.core.exceptions import ValidationError
from django.db import connection, transaction
from django.utils import timezone
from pydantic import SecretStr

from notifications.models import Channel, Delivery, NotificationRule
from notifications.states import DeliveryStatus
from tasks import announce, files
from tasks.models import DownloadLink, Execution, ExportTask
from tasks.scheduler import enqueue_occurrences
from tasks.states import Status
from tests.factories import make_execution, make_scheduler, make_task, make_user

pytestmark = pytest.mark.django_db

WEBHOOK = "https://oapi.dingtalk.com/robot/send?access_token=own-robot-of-the-task"


@pytest.fixture(autouse=True)
def _own_configuration(settings: LazySettings, tmp_path: Path) -> None:
    export = settings.CONFIG.export.model_copy(update={"output_dir": tmp_path / "exports"})
    web = settings.CONFIG.web.model_copy(update={"public_url": "https://reports.example.com"})
    settings.CONFIG = settings.CONFIG.model_copy(update={"export": export, "web": web})


def configure_robot(settings: LazySettings) -> None:
    dingtalk = settings.CONFIG.dingtalk.model_copy(update={"webhook_url": SecretStr(WEBHOOK + "-of-config")})
    settings.CONFIG = settings.CONFIG.model_copy(update={"dingtalk": dingtalk})


def end(task: ExportTask, status: Status = Status.SUCCEEDED, *, rows: int = 3, **fields: Any) -> Execution:
    """A run of `task` that has ended so, with its file."""
    execution = Execution.objects.claim(make_execution(task).pk, worker="a:1:b")
    assert execution is not None
    if status == Status.SUCCEEDED:
        place = files.output_root() / "2026-11" / f"{execution.pk}-1"
        place.mkdir(parents=True)
        (place / "订单.xlsx").write_bytes(b"12345")
        part = {"path": f"2026-11/{execution.pk}-1/订单.xlsx", "rows": rows, "size": 5, "sha256": "ab"}
        fields = {"files": [part], "filename": "订单.xlsx", "rows_count": rows, "file_size": 5} | fields
    assert Execution.objects.finish(execution, status, **fields)
    return Execution.objects.get(pk=execution.pk)


def owed(execution: Execution) -> dict[str, str]:
    """Channel -> event."""
    return {str(row.channel): row.event for row in Delivery.objects.filter(execution=execution)}


def test_nothing_is_owed_where_nobody_listens() -> None:
    assert owed(end(make_task())) == {}


def test_a_tasks_own_robot_and_mailboxes_hear_of_success() -> None:
    task = make_task(name="每日订单", dingtalk_webhook=WEBHOOK, email_recipients=["a@example.com"])
    execution = end(task)
    assert owed(execution) == {"每日订单 · 钉钉机器人": "success", "每日订单 · 电子邮件": "success"}
    for row in Delivery.objects.all():
        assert row.status == DeliveryStatus.PENDING
        assert row.payload["files"] == [{"path": execution.files[0]["path"], "name": "订单.xlsx", "size": 5}]
        assert row.payload["link"] == DownloadLink.objects.get().pk


def test_the_end_and_its_messages_are_stored_together() -> None:
    task = make_task(dingtalk_webhook=WEBHOOK)
    execution = Execution.objects.claim(make_execution(task).pk, worker="a:1:b")
    assert execution is not None
    with transaction.atomic():
        Execution.objects.finish(execution, Status.FAILED, reason="sql_error")
        assert Delivery.objects.exists()
        transaction.set_rollback(True)
    execution.refresh_from_db()
    assert execution.status == Status.RUNNING
    assert not Delivery.objects.exists()


def test_a_worker_that_lost_its_run_owes_nothing() -> None:
    task = make_task(dingtalk_webhook=WEBHOOK)
    stale = Execution.objects.claim(make_execution(task).pk, worker="a:1:b")
    assert stale is not None
    Execution.objects.filter(pk=stale.pk).update(attempt=2)
    assert not Execution.objects.finish(stale, Status.SUCCEEDED)
    assert not Delivery.objects.exists()


def test_a_message_that_cannot_be_made_does_not_keep_the_run_from_ending(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(announce, "targets_of", lambda task: 1 / 0)
    assert end(make_task(dingtalk_webhook=WEBHOOK)).status == Status.SUCCEEDED


def test_the_robot_of_config_hears_of_tasks_without_one(settings: LazySettings) -> None:
    configure_robot(settings)
    assert list(owed(end(make_task())).values()) == ["success"]
    channel = Channel.objects.get(config_managed=True)
    assert owed(end(make_task(dingtalk_webhook=WEBHOOK))).keys() != {str(channel)}
    # A rule of the task comes before: without events it keeps the task out.
    quiet = make_task()
    NotificationRule.objects.create(task=quiet, channel=channel, events=[])
    assert owed(end(quiet)) == {}


def test_rules_point_to_shared_channels() -> None:
    shared = Channel.objects.create(name="运营群", kind="webhook")
    off = Channel.objects.create(name="停用", kind="webhook", is_active=False)
    task = make_task()
    NotificationRule.objects.create(channel=shared, events=["failure"])
    NotificationRule.objects.create(channel=off, events=["success", "failure"])
    assert owed(end(task)) == {}
    assert owed(end(task, Status.FAILED, reason="sql_error")) == {"运营群": "failure"}
    NotificationRule.objects.create(channel=shared, task=task, events=["success"], template="{task_name} 好了")
    execution = end(task)
    assert owed(execution) == {"运营群": "success"}
    assert Delivery.objects.get(execution=execution).payload["text"] == f"{task.name} 好了"


@pytest.mark.parametrize("status", [Status.FAILED, Status.TIMED_OUT])
def test_failures_reach_the_owner(status: Status) -> None:
    owner = make_user(email="owner@example.com")
    task = make_task(owner=owner)
    execution = end(task, status, reason="sql_error", error="near SELEC")
    assert list(owed(execution).values()) == ["failure"]
    delivery = Delivery.objects.get()
    assert delivery.channel is not None
    assert delivery.channel.transport().recipients == ["owner@example.com"]
    facts = dict(delivery.payload["facts"])
    assert "near SELEC" in facts["原因"]
    assert delivery.payload["files"] == []


def test_an_owner_who_is_a_recipient_hears_it_once() -> None:
    task = make_task(owner=make_user(email="Owner@example.com"), email_recipients=["owner@EXAMPLE.com"])
    assert len(owed(end(task, Status.FAILED, reason="sql_error"))) == 1


@pytest.mark.django_db(transaction=True)
def test_an_owner_who_is_deleted_in_this_moment_takes_no_message_with_him(monkeypatch: pytest.MonkeyPatch) -> None:
    if connection.vendor == "sqlite":
        return  # It has one writer at a time: nobody deletes a user while a run is ended.
    owner, heir = make_user(email="owner@example.com"), make_user()
    task = make_task(dingtalk_webhook=WEBHOOK, owner=owner)
    execution = Execution.objects.claim(make_execution(task).pk, worker="a:1:b")
    assert execution is not None
    usual = announce.targets_of

    def delete_owner() -> None:
        ExportTask.objects.update(owner=heir)
        User.objects.filter(pk=owner.pk).delete()
        connection.close()

    def meanwhile(task: ExportTask) -> Iterator[announce.Target]:
        with ThreadPoolExecutor(1) as elsewhere:
            elsewhere.submit(delete_owner).result(10)
        return usual(task)

    monkeypatch.setattr(announce, "targets_of", meanwhile)
    assert Execution.objects.finish(execution, Status.FAILED, reason="sql_error")
    assert owed(execution) == {f"{task.name} · 钉钉机器人": "failure"}


def test_an_owner_does_not_hear_of_success_but_of_recovery() -> None:
    task = make_task(owner=make_user(email="owner@example.com"))
    assert owed(end(task)) == {}
    end(task, Status.FAILED, reason="sql_error")
    assert list(owed(end(task)).values()) == ["recovered"]
    assert owed(end(task)) == {}


def test_who_hears_of_everything_gets_one_message_for_a_recovery() -> None:
    task = make_task(dingtalk_webhook=WEBHOOK)
    end(task, Status.FAILED, reason="sql_error")
    assert list(owed(end(task)).values()) == ["recovered"]
    assert list(owed(end(task)).values()) == ["success"]


@pytest.mark.parametrize(("on_empty", "event", "has_file"), [("send", "empty", True), ("notice", "empty", False)])
def test_an_empty_result_is_told_as_the_task_says(on_empty: str, event: str, has_file: bool) -> None:
    execution = end(make_task(dingtalk_webhook=WEBHOOK, on_empty=on_empty), rows=0)
    assert list(owed(execution).values()) == [event]
    payload = Delivery.objects.get().payload
    assert bool(payload["files"]) == bool(payload["link"]) == has_file


def test_an_empty_result_can_be_kept_silent() -> None:
    assert owed(end(make_task(dingtalk_webhook=WEBHOOK, on_empty="silent"), rows=0)) == {}


def test_a_cancelled_run_and_one_that_shall_be_quiet_say_nothing() -> None:
    task = make_task(dingtalk_webhook=WEBHOOK)
    assert owed(end(task, Status.CANCELLED, reason="cancelled")) == {}
    execution = Execution.objects.claim(make_execution(task, notify=False).pk, worker="a:1:b")
    assert execution is not None
    Execution.objects.finish(execution, Status.SUCCEEDED)
    assert owed(execution) == {}


def test_a_run_whose_worker_died_is_told() -> None:
    task = make_task(dingtalk_webhook=WEBHOOK)
    execution = Execution.objects.claim(make_execution(task).pk, worker="a:1:b")
    assert execution is not None
    assert Execution.objects.end_lost(execution)
    assert owed(execution) == {f"{task.name} · 钉钉机器人": "failure"}


def test_one_message_for_many_missed_times() -> None:
    task = make_task(cron="* * * * *", dingtalk_webhook=WEBHOOK)
    ExportTask.objects.filter(pk=task.pk).update(next_run_at=timezone.now() - timedelta(days=30))
    task.refresh_from_db()
    enqueue_occurrences(task, timezone.now())
    assert Execution.objects.filter(status=Status.MISSED, reason="misfire").count() > 50
    assert Delivery.objects.get().event == "missed"


def test_a_stored_message_holds_no_secret(settings: LazySettings) -> None:
    configure_robot(settings)
    task = make_task(dingtalk_webhook=WEBHOOK, dingtalk_secret="SECcanary", email_recipients=["a@example.com"])
    end(task)
    link = DownloadLink.objects.get()
    token = link.url.rpartition("/")[2]
    stored = "".join(str(row) for row in Delivery.objects.values_list("payload", "recipients", "error"))
    assert token
    for secret in ("own-robot-of-the-task", "SECcanary", token):
        assert secret not in stored


def test_one_channel_that_is_broken_takes_no_other_with_it() -> None:
    NotificationRule.objects.create(channel=Channel.objects.create(name="坏", kind="unknown"))
    task = make_task(dingtalk_webhook=WEBHOOK)
    assert owed(end(task)) == {f"{task.name} · 钉钉机器人": "success"}


def test_a_task_that_cannot_be_planned_is_announced_and_stops_no_other() -> None:
    broken = make_task(cron="0 9 * * *", email_recipients=["a@example.com"])
    other = make_task(cron="0 9 * * *")
    past = timezone.now() - timedelta(minutes=1)
    ExportTask.objects.filter(pk=broken.pk).update(timezone="Mars/Olympus", next_run_at=past)
    ExportTask.objects.filter(pk=other.pk).update(next_run_at=past)
    make_scheduler().enqueue_due()
    assert Execution.objects.filter(task=other).exists()
    assert Delivery.objects.get().event == "missed"


def test_a_lost_key_does_not_send_a_tasks_messages_to_another_group(settings: LazySettings) -> None:
    configure_robot(settings)
    task = make_task(dingtalk_webhook=WEBHOOK)
    settings.FERNET_KEYS = ["another key, of at least some length"]
    task.refresh_from_db()
    assert owed(end(task)) == {f"{task.name} · 钉钉机器人": "success"}


def test_lateness_alone_is_no_fault_to_recover_from() -> None:
    task = make_task(owner=make_user(email="owner@example.com"), cron="* * * * *")
    Execution.objects.record_missed(task, timezone.now(), "coalesced")
    assert owed(end(task)) == {}


class TestResend:
    def test_only_those_it_did_not_reach(self) -> None:
        execution = end(make_task(email_recipients=["a@example.com", "b@example.com", "c@example.com"]))
        entries = {
            "a@example.com": {"verdict": "accepted"},
            "b@example.com": {"verdict": "deferred"},
            "c@example.com": {"verdict": "refused"},
        }
        Delivery.objects.update(status=DeliveryStatus.DEAD, recipients=entries)
        [again] = announce.resend(execution)
        again.refresh_from_db()
        assert again.status == DeliveryStatus.PENDING
        assert list(again.recipients) == ["a@example.com"]
        assert again.history[0]["recipients"] == entries
        assert announce.resend(execution) == []  # It is on its way.

    def test_to_everybody_it_is_a_new_message(self) -> None:
        execution = end(make_task(email_recipients=["a@example.com"]))
        Delivery.objects.update(status=DeliveryStatus.SENT, recipients={"a@example.com": {"verdict": "accepted"}})
        before = Delivery.objects.get().key
        assert announce.resend(execution) == []
        assert len(announce.resend(execution, everybody=True)) == 1
        assert Delivery.objects.get().key != before

    def test_the_link_is_a_valid_one(self) -> None:
        execution = end(make_task(email_recipients=["a@example.com"]))
        Delivery.objects.update(status=DeliveryStatus.DEAD)
        old = DownloadLink.objects.get()
        DownloadLink.objects.update(revoked_at=timezone.now())
        announce.resend(execution)
        assert Delivery.objects.get().payload["link"] == DownloadLink.objects.exclude(pk=old.pk).get().pk

    def test_no_query_runs_and_no_run_is_queued(self) -> None:
        execution = end(make_task(email_recipients=["a@example.com"]))
        Delivery.objects.update(status=DeliveryStatus.DEAD)
        announce.resend(execution)
        assert Execution.objects.count() == 1

    def test_a_file_that_is_gone_is_not_offered(self) -> None:
        execution = end(make_task(email_recipients=["a@example.com"]))
        Delivery.objects.update(status=DeliveryStatus.DEAD)
        Execution.objects.update(files_removed_at=timezone.now())
        execution.refresh_from_db()
        announce.resend(execution)
        assert Delivery.objects.get().payload["link"] is None


def test_a_preview_shows_the_last_run_or_an_example() -> None:
    task = make_task(name="每日订单")
    assert "1,000 行" in announce.preview(task, "{rows_count} 行")["text"]
    end(task, rows=7)
    assert announce.preview(task, "{rows_count} 行")["text"] == "7 行"


def test_a_task_refuses_a_template_with_unknown_names() -> None:
    with pytest.raises(ValidationError) as caught:
        make_task(dingtalk_message_template="{rows}")
    assert "dingtalk_message_template" in caught.value.message_dict


def test_a_tasks_own_addresses_are_checked_and_tidied() -> None:
    task = make_task(
        dingtalk_webhook=f"  {WEBHOOK}&timestamp=1690000000000&sign=abc%3D ", email_recipients=["A@x.cn", "a@x.cn"]
    )
    assert task.dingtalk_webhook == WEBHOOK
    assert task.email_recipients == ["A@x.cn"]
    with pytest.raises(ValidationError) as caught:
        make_task(dingtalk_webhook="https://example.com/?access_token=x", email_recipients=["nobody"])
    assert set(caught.value.message_dict) == {"dingtalk_webhook", "email_recipients"}
