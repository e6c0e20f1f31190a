"""“报表没来”: what people see when a report has not come, and that what the document advises brings it."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
import time_machine
from django.core.management import call_command
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from tasks.models import DownloadLink, Execution, ExportTask, SchedulerProcess
from tasks.states import Status
from tests.factories import make_scheduler, make_server_source, paths_of
from tests.notifications.runs import A, B, deliver
from tests.servers import free_port
from tests.servers.mail import read
from tests.symptoms.room import DIALOG, Room, sees_labels
from tests.symptoms.table import REPORTS, ROWS, produces

TASKS, RUNS = reverse("admin:tasks_exporttask_changelist"), reverse("admin:tasks_execution_changelist")
BANNER = "没有调度器在运行"
SLOW = "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r WHERE n < 20000000) SELECT max(n) AS n FROM r"


def act(room: Room, url: str, action: str, *rows: int) -> None:
    """An action of a list, for the rows that are ticked."""
    assert room.browser.post(url, {"action": action, "_selected_action": rows}).status_code == 302


# ---- 执行日志里没有这一次

CURES: dict[str, Callable[[Room, ExportTask], object]] = {
    "not enabled": lambda room, task: act(room, TASKS, "enable", task.pk),
    "no schedule": lambda room, task: room.change(task, cron="*/10 * * * *"),
    "no scheduler": lambda room, task: None,  # it is started below
}


@produces(REPORTS, "执行日志里没有这一次")
@pytest.mark.parametrize("why", CURES)
def test_there_is_no_run(room: Room, why: str) -> None:
    row = ROWS[REPORTS, "执行日志里没有这一次"]
    start = datetime(2026, 3, 10, 0, 58, tzinfo=UTC)
    with time_machine.travel(start):
        task = room.export(cron="" if why == "no schedule" else "*/10 * * * *", enabled=why != "not enabled")
    with time_machine.travel(start + timedelta(minutes=3)):
        if why != "no scheduler":
            make_scheduler().care()
            room.work()
        overview = room.read("/admin/")
        assert not Execution.objects.exists()
        assert any(BANNER in text for text in overview) == (why == "no scheduler")
        sees_labels(row, room.read_task(task), [BANNER])
        CURES[why](room, task)
    with time_machine.travel(start + timedelta(minutes=13)):
        room.work()
    assert {run.status for run in Execution.objects.all()} - {Status.MISSED} == {Status.SUCCEEDED}


# ---- 状态是“排队中”


def waits_for_its_next_try(room: Room) -> tuple[Execution, str]:
    source = make_server_source(room.mariadb, "mysql", port=free_port())
    run = room.run(room.export(source, max_retries=1, retry_delay=60))
    return run, "之后重试。"


def waits_for_the_end_of_a_pause(room: Room) -> tuple[Execution, str]:
    call_command("scheduler", "pause", "--note", "数据库升级")
    return room.run(room.export()), "恢复之前不会启动任何执行。"


def waits_for_a_scheduler(room: Room) -> tuple[Execution, str]:
    run = room.queue(room.export())
    SchedulerProcess.objects.all().delete()
    return run, "没有正在运行的调度器，因此不会启动任何执行。"


def waits_for_the_run_before(room: Room) -> tuple[Execution, str]:
    task = room.export(overlap="queue")
    assert Execution.objects.claim(room.queue(task).pk, worker="elsewhere:1:another")
    return room.run(task), "正在等待该任务的上一次执行结束。"


def waits_for_its_source(room: Room) -> tuple[Execution, str]:
    source = room.shop()
    room.change(source, max_concurrency=1)
    assert Execution.objects.claim(room.queue(room.export(source)).pk, worker="elsewhere:1:another")
    return room.run(room.export(source)), "正在等待数据源空出名额：同时读取它的导出已达并发上限。"


def waits_for_a_worker(room: Room) -> tuple[Execution, str]:
    busy = make_scheduler(1)
    room.queue(room.export())
    run = room.queue(room.export())
    assert busy.dispatch() == 1
    assert busy.dispatch() == 0
    return run, "正在等待空闲的工作进程。"


def start_a_second_worker(room: Room, run: Execution) -> None:
    """`scheduler.max_workers` is 2 now; the export that goes on is adopted."""
    restarted = make_scheduler(2)
    restarted.reap()
    assert (restarted.adopted, restarted.dispatch()) == (1, 1)
    run.refresh_from_db()
    assert run.status == Status.RUNNING
    Execution.objects.finish(run, Status.SUCCEEDED)


def reach_the_source(room: Room, run: Execution) -> None:
    assert run.data_source is not None
    room.change(run.data_source, port=room.mariadb.port, password=room.mariadb.reader.password)
    assert run.not_before is not None
    with time_machine.travel(run.not_before + timedelta(seconds=1)):
        room.work()


def raise_its_limit(room: Room, run: Execution) -> None:
    room.change(run.data_source, max_concurrency=2)
    room.work()


def end_the_run_before(room: Room, run: Execution) -> None:
    Execution.objects.finish(Execution.objects.running().get(), Status.SUCCEEDED)
    room.work()


def end_the_pause(room: Room, run: Execution) -> None:
    call_command("scheduler", "resume")
    room.work()


WAITS: dict[Callable[[Room], tuple[Execution, str]], Callable[[Room, Execution], None]] = {
    waits_for_its_next_try: reach_the_source,
    waits_for_the_end_of_a_pause: end_the_pause,
    waits_for_a_scheduler: lambda room, run: room.work(),
    waits_for_the_run_before: end_the_run_before,
    waits_for_its_source: raise_its_limit,
    waits_for_a_worker: start_a_second_worker,
}


@produces(REPORTS, "状态是“排队中”")
@pytest.mark.parametrize("wait", WAITS, ids=lambda wait: wait.__name__)
def test_a_queued_run_says_what_it_waits_for(room: Room, wait: Callable[[Room], tuple[Execution, str]]) -> None:
    if wait is not waits_for_a_scheduler:
        SchedulerProcess.objects.beat("another:1:x", executor="local", workers=1)
    run, words = wait(room)
    assert run.status == Status.QUEUED
    said = room.read_run(run)
    assert any(text.endswith(words) for text in said), said
    source = room.read(reverse("admin:datasources_datasource_change", args=[run.data_source_id]))
    sees_labels(ROWS[REPORTS, "状态是“排队中”"], said, source)
    WAITS[wait](room, run)
    run.refresh_from_db()
    assert run.status == Status.SUCCEEDED


# ---- 状态是“已错过”、“已跳过”、“失败”、“已超时”


@produces(REPORTS, "状态是“已错过”")
def test_a_missed_run_is_made_up_for_by_hand_or_with_its_neighbours(room: Room) -> None:
    task = room.export(sql="SELECT {{ ds }} AS day", cron="0 9 * * *")
    moment = timezone.now().replace(hour=1, minute=0, second=0, microsecond=0) - timedelta(days=1)
    ExportTask.objects.update(next_run_at=moment)
    room.work()
    missed = Execution.objects.filter(planned_at=moment).get()
    assert (missed.status, missed.reason) == (Status.MISSED, "misfire")
    sees_labels(ROWS[REPORTS, "状态是“已错过”"], room.read_run(missed), room.read_task(task))
    run = room.run_for(task, moment)
    assert (run.status, run.planned_at) == (Status.SUCCEEDED, moment)
    day = timezone.localtime(moment).date()
    assert str(day) in paths_of(run)[0].read_text("utf-8-sig")

    backfill = reverse("admin:tasks_exporttask_backfill", args=[task.pk])
    first, last = day - timedelta(days=3), day - timedelta(days=1)
    wish = DIALOG | {"start": str(first), "end": str(last), "confirmed": "3"}
    assert room.browser.post(backfill, wish).status_code == 302
    room.work()
    filled = Execution.objects.filter(trigger="backfill")
    assert [row.status for row in filled] == [Status.SUCCEEDED] * 3
    assert {timezone.localtime(row.planned_at).date() for row in filled} == {
        first,
        last,
        first + timedelta(days=1),
    }


@produces(REPORTS, "状态是“已跳过”")
@pytest.mark.parametrize("overlap", ["skip", "queue", "parallel"])
def test_a_skipped_run_comes_after_the_one_before_or_beside_it(room: Room, overlap: str) -> None:
    task = room.export()
    before = Execution.objects.claim(room.queue(task).pk, worker="elsewhere:1:another")
    assert before is not None
    skipped = room.run(task)
    assert skipped.status == Status.SKIPPED
    sees_labels(ROWS[REPORTS, "状态是“已跳过”"], room.read_run(skipped), room.read_task(task))
    if overlap == "skip":
        Execution.objects.finish(before, Status.SUCCEEDED)
        assert room.run_again(skipped).status == Status.SUCCEEDED
        return
    room.change(task, overlap=overlap)
    Execution.objects.finish(before, Status.SUCCEEDED)
    before = Execution.objects.claim(room.queue(task).pk, worker="elsewhere:1:another")
    assert before is not None
    beside = room.run_again(skipped)
    assert beside.status == (Status.QUEUED if overlap == "queue" else Status.SUCCEEDED)
    Execution.objects.finish(before, Status.SUCCEEDED)
    room.work()
    beside.refresh_from_db()
    assert beside.status == Status.SUCCEEDED


@produces(REPORTS, "状态是“失败”“已超时”")
@pytest.mark.parametrize(
    ("sql", "status", "label"), [("SELECT nothing", Status.FAILED, "失败"), (SLOW, Status.TIMED_OUT, "已超时")]
)
def test_a_failed_run_is_run_again_when_its_cause_is_mended(room: Room, sql: str, status: Status, label: str) -> None:
    room.configure("export", query_timeout=0)
    run = room.run(room.export(sql=sql))
    assert run.status == status
    said = room.read_run(run)
    assert label in said
    assert "重新执行" in said
    assert len(room.verdict(run)) == 2, "what happened and what to do"
    room.configure("export", query_timeout=60)
    assert run.task is not None
    room.change(run.task, sql="SELECT 1 AS one")
    assert room.run_again(run).status == Status.SUCCEEDED


# ---- 状态是“成功”，但……


@produces(REPORTS, "状态是“成功”，但没有通知")
def test_a_message_that_did_not_arrive_is_sent_again_without_a_query(room: Room) -> None:
    with room.mail_server() as server:
        server.say(B, "550 5.1.1 no such user")
        task = room.export(email_recipients=[A, B])
        run = room.run(task)
        assert run.status == Status.SUCCEEDED
        said = room.read_run(run)
        assert any(B in text and "邮件服务器拒绝了此地址" in text for text in said)
        assert any(A in text and "已送达" in text for text in said)
        sees_labels(ROWS[REPORTS, "状态是“成功”，但没有通知"], said)
        room.change(task, email_recipients=[A, "c@example.com"])
        room.send_again(run)
        assert [mail.recipients for mail in server.log.mails] == [(A,), ("c@example.com",)]


@produces(REPORTS, "状态是“成功”，但没有通知")
def test_a_run_without_messages_has_them_when_somebody_is_to_be_told(room: Room) -> None:
    with room.robots() as server:
        task = room.export()
        run = room.run(task)
        said = room.read_run(run)
        assert "成功" in said
        assert "重新发送" not in said
        channel = room.channel("dingtalk", webhook_url=server.add("dingtalk").url)
        room.change(task, rules=[{"channel": channel.pk}])
        assert room.run_again(run).deliveries.get().status == "sent"
        assert len(server.accepted) == 1


@produces(REPORTS, "成功，但文件已被删除")
def test_a_file_that_was_removed_is_made_anew_for_the_same_time(room: Room) -> None:
    run = room.run(room.export(sql="SELECT {{ ds }} AS day"))
    Execution.objects.update(
        finished_at=timezone.now() - timedelta(days=6), planned_at=timezone.now() - timedelta(days=6)
    )
    call_command("system", "cleanup", "--days", "5")
    run.refresh_from_db()
    assert paths_of(run) == []
    said = room.read_run(run)
    assert any(text.startswith("已过保留期") for text in said)
    sees_labels(ROWS[REPORTS, "成功，但文件已被删除"], said)
    again = room.run_again(run)
    assert again.planned_at == run.planned_at
    day = timezone.localtime(run.planned_at).date()
    assert str(day) in paths_of(again)[0].read_text("utf-8-sig")


@produces(REPORTS, "通知里没有下载链接")
def test_messages_have_links_when_the_address_is_known(room: Room) -> None:
    room.configure("web", public_url="")
    with room.mail_server() as server:
        task = room.export(email_recipients=[A])
        run = room.run(task)
        assert "/d/" not in read(server.log.mails[0])[0]
        room.configure("web", public_url="https://reports.example.com")
        room.run(task)
        assert "https://reports.example.com/d/" in read(server.log.mails[1])[0]
        sees_labels(ROWS[REPORTS, "通知里没有下载链接"], actions_of(room))
        act(room, RUNS, "send_again_to_everybody", run.pk)
        deliver()
        assert "https://reports.example.com/d/" in read(server.log.mails[2])[0]


def actions_of(room: Room) -> list[str]:
    """What may be chosen in the list of executions."""
    answer = room.browser.get(RUNS)
    return [label for _name, label in answer.context["action_form"].fields["action"].choices]


@produces(REPORTS, "链接打不开")
@pytest.mark.parametrize("why", ["expired", "revoked", "cut off", "removed"])
def test_a_link_that_does_not_open_is_replaced(room: Room, why: str) -> None:
    run = room.run(room.export())
    link = DownloadLink.objects.make(run)
    stranger = Client(headers={"accept-language": "zh-hans"})
    assert stranger.get(link.path).status_code == 200
    path = link.path
    if why == "expired":
        DownloadLink.objects.update(expires_at=timezone.now())
    elif why == "revoked":
        room.press(run, "revoke")
    elif why == "cut off":
        path = link.path[:-3]
    else:
        Execution.objects.update(finished_at=timezone.now() - timedelta(days=6))
        call_command("system", "cleanup", "--days", "5")
    answer = stranger.get(path)
    assert answer.status_code == 404
    sees_labels(ROWS[REPORTS, "链接打不开"], [answer.content.decode()], room.read_run(run))
    if why == "removed":
        run = room.run_again(run)
    room.press(run, "new_link")
    newest = DownloadLink.objects.order_by("id").last()
    assert newest is not None
    assert any(newest.url in text for text in room.read_run(run))
    assert stranger.get(newest.path).status_code == 200
