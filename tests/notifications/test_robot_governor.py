"""One robot and many messages, many senders, dying senders: the robot's own log of what it accepted is the judge."""

import signal
import subprocess
import time
from collections import Counter, deque
from datetime import UTC, datetime, timedelta

import pytest
from django.conf import LazySettings
from django.utils import timezone
from pydantic import SecretStr

from notifications import outbox
from notifications.models import Delivery, SendingLimit
from notifications.outbox import Outbox
from notifications.states import DeliveryStatus
from tasks.models import Execution
from tasks.states import Status
from tests.factories import make_execution, make_task
from tests.faults.load import add_source, add_tasks, configure, due_once
from tests.instance import Instance
from tests.servers.mail import Fault, MailServer
from tests.servers.mail import configure as configure_mail
from tests.servers.robots import Robots, answers, cut, says

FINISHED_RUNS = """
from django.db import transaction
from datasources.models import DataSource
from tasks.models import ExportTask, Execution
from tasks.states import Status, Trigger
source = DataSource.objects.get_or_create(name="source", defaults={{"kind": "sqlite", "database": "/nowhere.db"}})[0]
for number in range({count}):
    task = ExportTask.objects.create(name=f"任务{{number:04d}}号", data_source=source, sql="SELECT 1", **{fields})
    with transaction.atomic():  # no scheduler shall see it queued
        row = Execution.objects.enqueue(task, trigger=Trigger.MANUAL)
        Execution.objects.finish(Execution.objects.claim(row.pk, worker="a:1:b"), Status.FAILED, reason="sql_error")
"""
# One sender after another; each dies before or after its n-th step to the outside. Then somebody else takes over.
DYING_SENDERS = """
import os, signal, sys
from django.db import connection
from notifications import outbox
from notifications.models import Delivery, SendingLimit
from notifications.outbox import Outbox
from notifications.states import DeliveryStatus

STEPS = ("connect", "sendall", "send", "write", "recv_into", "read", "execute", "query", "commit", "close")

def die_at(step):
    count = 0
    def look(frame, event, function):
        nonlocal count
        if event in ("c_call", "c_return") and getattr(function, "__name__", "") in STEPS:
            count += 1
            if count == step:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.setprofile(look)

killed = 0
for step, row in enumerate(Delivery.objects.order_by("id"), start=1):
    Delivery.objects.exclude(pk=row.pk).filter(status="pending").update(status="cancelled")
    Delivery.objects.filter(pk=row.pk).update(status="pending")
    SendingLimit.objects.all().delete()
    connection.close()
    pid = os.fork()
    if pid == 0:
        die_at({first} + (step - 1) * {stride})
        Outbox(threads=0).deliver()
        sys.setprofile(None)
        os._exit(0)
    status = os.waitpid(pid, 0)[1]
    killed += os.WIFSIGNALED(status)
    SendingLimit.objects.all().delete()
    box = Outbox(threads=0)
    box.reap()
    Delivery.objects.filter(pk=row.pk, status="retry").update(next_at="2000-01-01T00:00Z")
    while box.deliver():
        pass
    row.refresh_from_db()
    assert row.status == "sent", (step, row.status, row.reason)
    if not os.WIFSIGNALED(status):
        break
print(killed, step)
"""


def with_robot(settings: LazySettings, server: Robots, url: str) -> None:
    dingtalk = settings.CONFIG.dingtalk.model_copy(update={"webhook_url": SecretStr(url)})
    notifications = settings.CONFIG.notifications.model_copy(update={"private_hosts": [server.place]})
    settings.CONFIG = settings.CONFIG.model_copy(update={"dingtalk": dingtalk, "notifications": notifications})


def fail_runs(count: int, first: int = 0) -> None:
    for number in range(first, first + count):
        execution = Execution.objects.claim(make_execution(make_task(name=f"任务{number:04d}号")).pk, worker="a:1:b")
        assert execution is not None
        Execution.objects.finish(execution, Status.FAILED, reason="sql_error")


def deliver() -> None:
    box = Outbox(threads=0)
    while box.deliver():
        pass


def names_in(server: Robots) -> Counter[str]:
    """The task names that readers have seen, and how often."""
    pieces = "\n".join(server.texts()).split("任务")[1:]
    return Counter(piece[:4] for piece in pieces if piece[4:5] == "号")


@pytest.mark.django_db
class TestGovernor:
    def test_a_few_messages_come_one_by_one_in_order(self, settings: LazySettings) -> None:
        with Robots() as server:
            with_robot(settings, server, server.add("dingtalk").url)
            fail_runs(10)
            deliver()
            assert [text.split("任务")[1][:4] for text in server.texts()] == [f"{n:04d}" for n in range(10)]

    def test_the_nineteenth_of_a_minute_waits(self, settings: LazySettings) -> None:
        with Robots() as server:
            with_robot(settings, server, server.add("dingtalk").url)
            for number in range(25):
                fail_runs(1, number)
                deliver()
            assert len(server.requests) == 18
            waiting = Delivery.objects.filter(status=DeliveryStatus.PENDING)
            assert waiting.count() == 7
            assert set(waiting.values_list("attempt", flat=True)) == {0}
            server.ahead = 61  # A minute later.
            limit = SendingLimit.objects.get()
            SendingLimit.objects.update(times=[moment - 61 for moment in limit.times])
            deliver()
            assert names_in(server) == {f"{n:04d}": 1 for n in range(25)}

    def test_many_that_wait_become_one(self, settings: LazySettings) -> None:
        with Robots() as server:
            with_robot(settings, server, server.add("dingtalk").url)
            fail_runs(40)
            deliver()
            assert len(server.accepted) == 1
            assert names_in(server) == {f"{n:04d}": 1 for n in range(40)}
            assert set(Delivery.objects.values_list("status", "merged")) == {("sent", True)}

    def test_a_digest_is_cut_where_dingtalk_would_refuse_it(self, settings: LazySettings) -> None:
        with Robots() as server:
            with_robot(settings, server, server.add("dingtalk").url)
            fail_runs(500)
            deliver()
            assert all(len(request.body) < 20_000 for request in server.requests)
            assert 3 <= len(server.accepted) <= 9
            assert names_in(server) == {f"{n:04d}": 1 for n in range(500)}

    def test_a_robot_that_says_too_much_is_left_alone_for_ten_minutes(self, settings: LazySettings) -> None:
        with Robots() as server:
            with_robot(settings, server, server.add("dingtalk").url)
            server.script(says(130101, "send too fast, exceed 20 times per minute"))
            fail_runs(2)
            deliver()
            assert len(server.requests) == 1
            [first, _second] = Delivery.objects.order_by("id")
            assert (first.status, first.tries, first.reason) == (DeliveryStatus.RETRY, 0, "rate_limited")
            limit = SendingLimit.objects.get()
            assert limit.blocked_until is not None
            assert timedelta(seconds=590) < limit.blocked_until - timezone.now() < timedelta(seconds=610)
            Delivery.objects.update(next_at=timezone.now())
            deliver()
            assert len(server.requests) == 1
            SendingLimit.objects.update(blocked_until=timezone.now(), times=[])
            deliver()
            assert names_in(server) == {"0000": 1, "0001": 1}

    def test_a_robot_that_is_left_alone_keeps_no_mail_waiting(
        self, settings: LazySettings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(outbox, "MOST_DUE", 5)
        with Robots() as server, MailServer() as mail:
            with_robot(settings, server, server.add("dingtalk").url)
            configure_mail(settings, mail)
            server.script(says(130101, "send too fast, exceed 20 times per minute"))
            fail_runs(9)
            task = make_task(email_recipients=["a@example.com"])
            execution = Execution.objects.claim(make_execution(task).pk, worker="a:1:b")
            assert execution is not None
            Execution.objects.finish(execution, Status.FAILED, reason="sql_error")
            box = Outbox(threads=0)
            for _look in range(3):
                box.deliver()
            assert len(mail.log.mails) == 1

    def test_a_digest_holds_only_messages_of_one_channel(self, settings: LazySettings) -> None:
        with Robots() as server:
            robot = server.add("dingtalk", secret="SEC0123456789")
            with_robot(settings, server, "")
            for number in range(12):
                secret = "SEC-wrong" if number == 0 else "SEC0123456789"
                task = make_task(name=f"任务{number:04d}号", dingtalk_webhook=robot.url, dingtalk_secret=secret)
                execution = Execution.objects.claim(make_execution(task).pk, worker="a:1:b")
                assert execution is not None
                Execution.objects.finish(execution, Status.FAILED, reason="sql_error")
            deliver()
            assert names_in(server) == {f"{n:04d}": 1 for n in range(1, 12)}
            dead = Delivery.objects.get(status=DeliveryStatus.DEAD)
            assert dead.reason == "bad_signature"

    def test_what_a_robot_never_takes_is_not_sent_twice(self, settings: LazySettings) -> None:
        with Robots() as server:
            with_robot(settings, server, server.add("dingtalk", enabled=False).url)
            fail_runs(1)
            for _round in range(3):
                deliver()
                Delivery.objects.waiting().update(next_at=timezone.now())
            assert len(server.requests) == 1
            row = Delivery.objects.get()
            assert (row.status, row.reason) == (DeliveryStatus.DEAD, "robot_disabled")

    def test_a_cut_answer_is_sent_once_more_and_marked(self, settings: LazySettings) -> None:
        with Robots() as server:
            with_robot(settings, server, server.add("dingtalk").url)
            server.script(cut(accepting=True))
            fail_runs(1)
            deliver()
            Delivery.objects.waiting().update(next_at=timezone.now())
            deliver()
            row = Delivery.objects.get()
            assert (row.status, row.possibly_duplicate) == (DeliveryStatus.SENT, True)
            assert names_in(server) == {"0000": 2}

    def test_a_fault_of_the_server_is_tried_again_later(self, settings: LazySettings) -> None:
        with Robots() as server:
            with_robot(settings, server, server.add("dingtalk").url)
            server.script(answers(502, "<html>bad gateway</html>"))
            fail_runs(1)
            deliver()
            row = Delivery.objects.get()
            assert (row.status, row.reason, row.answer_lost) == (DeliveryStatus.RETRY, "server_error", False)
            assert timedelta(seconds=14) < row.next_at - timezone.now() < timedelta(seconds=46)


def in_any_minute(moments: list[float]) -> int:
    """The most of `moments` that lie within 60 seconds."""
    ordered = sorted(moments)
    return max(sum(1 for other in ordered if 0 <= other - moment < 60) for moment in ordered)


def many_schedulers(instance: Instance, *, processes: int, runs: int) -> None:
    with Robots() as server:
        configure(
            instance,
            dingtalk={"webhook_url": server.add("dingtalk").url},
            notifications={"private_hosts": [server.place]},
        )
        schedulers = [
            instance.spawn("runscheduler", "--workers", 1, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            for _number in range(processes)
        ]
        instance.python(FINISHED_RUNS.format(count=runs, fields={}))
        started = time.monotonic()
        wanted = {f"{number:04d}" for number in range(runs)}
        while set(names_in(server)) != wanted:
            assert time.monotonic() - started < 300, f"{len(names_in(server))} of {runs} names arrived"
            time.sleep(0.2)
        took = time.monotonic() - started
        for scheduler in schedulers:
            scheduler.send_signal(signal.SIGTERM)
        for scheduler in schedulers:
            assert scheduler.wait(60) == 0
        counted, posts = names_in(server), [request.at for request in server.requests]
        print(
            f"{instance.kind}: {processes} processes, {runs} runs, {len(posts)} posts, "
            f"at most {in_any_minute(posts)} in 60 s, the last name after {took:.1f} s"
        )
        assert set(counted.values()) == {1}
        assert in_any_minute(posts) <= 20
        assert took <= 180


def test_many_schedulers_share_one_robot(instance: Instance) -> None:
    many_schedulers(instance, processes=3, runs=60)


@pytest.mark.long
def test_eight_schedulers_send_five_hundred_messages_through_one_robot(instance: Instance) -> None:
    many_schedulers(instance, processes=8, runs=500)


def die_at_every_step(instance: Instance, fields: dict[str, object], *, first: int, stride: int, runs: int) -> int:
    """Returns how many senders died."""
    instance.python(FINISHED_RUNS.format(count=runs, fields=fields))
    killed, steps = map(
        int, instance.python(DYING_SENDERS.format(first=first, stride=stride), timeout=300).split()[-2:]
    )
    assert steps < runs, "there were more steps than senders"
    return killed


def possibly_twice(instance: Instance) -> set[str]:
    """The names of the tasks whose message says that it may come twice."""
    code = """
from notifications.models import Delivery
print(*(row.execution.task_name[2:6] for row in Delivery.objects.filter(possibly_duplicate=True)))
"""
    return set(instance.python(code).split())


@pytest.mark.parametrize("stride", [5, pytest.param(1, marks=pytest.mark.faults_long)])
def test_a_sender_may_die_at_any_step_of_a_post(instance: Instance, stride: int) -> None:
    with Robots() as server:
        robot = server.add("dingtalk")
        robot.posts = deque(maxlen=0)  # It does not count.
        fields: dict[str, object] = {"dingtalk_webhook": robot.url}
        configure(instance, notifications={"private_hosts": [server.place]})
        killed = die_at_every_step(instance, fields, first=1, stride=stride, runs=400 // stride)
        print(f"{instance.kind}: {killed} senders died over a post")
        assert killed > 25 // stride
        seen, doubtful = names_in(server), possibly_twice(instance)
        assert set(seen) == {f"{number:04d}" for number in range(killed + 1)}
        assert {name for name, count in seen.items() if count > 1} <= doubtful
        assert max(seen.values()) <= 2


@pytest.mark.parametrize("stride", [5, pytest.param(1, marks=pytest.mark.faults_long)])
def test_a_sender_may_die_at_any_step_of_a_mail(instance: Instance, stride: int) -> None:
    with MailServer() as server:
        configure(instance, email={"smtp_server": "127.0.0.1", "smtp_port": server.port})
        fields: dict[str, object] = {"email_recipients": ["a@example.com"]}
        killed = die_at_every_step(instance, fields, first=1, stride=stride, runs=400 // stride)
        print(f"{instance.kind}: {killed} senders died over a mail")
        assert killed > 25 // stride
        numbers = Counter(
            line for mail in server.log.mails for line in mail.content.split(b"\r\n") if line.startswith(b"Message-ID")
        )
        assert len(numbers) == killed + 1
        assert sum(count > 1 for count in numbers.values()) <= len(possibly_twice(instance))
        assert max(numbers.values()) <= 2


@pytest.mark.django_db(transaction=True)
def test_a_mail_server_that_hangs_keeps_no_robot_waiting(settings: LazySettings) -> None:
    with Robots() as server, MailServer() as mail:
        with_robot(settings, server, server.add("dingtalk").url)
        configure_mail(settings, mail, smtp_timeout=3)
        mail.say("CONNECT", *[Fault.SILENCE] * 10)
        for _number in range(5):
            task = make_task(email_recipients=["a@example.com"], dingtalk_webhook=server.add("dingtalk").url)
            execution = Execution.objects.claim(make_execution(task).pk, worker="a:1:b")
            assert execution is not None
            Execution.objects.finish(execution, Status.FAILED, reason="sql_error")
        box = Outbox(threads=3)
        until = time.monotonic() + 30
        while len(server.accepted) < 5 and time.monotonic() < until:
            box.deliver()
            time.sleep(0.05)
        arrived_while_hanging = len(server.accepted) == 5 and box.in_flight > 0
        box.finish(60)
        box.close()
        assert arrived_while_hanging
        assert not mail.log.mails


@pytest.mark.parametrize("options", [("--once",), ("--once", "--executor=inline")])
def test_once_also_sends_what_its_runs_owe(instance: Instance, options: tuple[str, ...]) -> None:
    with Robots() as server:
        configure(
            instance,
            dingtalk={"webhook_url": server.add("dingtalk").url},
            notifications={"private_hosts": [server.place]},
        )
        add_source(instance)
        add_tasks(instance, due_once(3, datetime.now(UTC)))
        instance.manage("runscheduler", *options)
        states = "from notifications.models import *\nprint(*sorted(row.status for row in Delivery.objects.all()))"
        assert instance.python(states).split() == ["sent"] * 3
        assert len(server.accepted) == 3
        assert all("执行时间" in text for text in server.texts())
