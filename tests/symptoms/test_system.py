"""“系统”: what can be seen within one process; what is about processes is in test_installation.py."""

from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
import time_machine
from django.contrib.auth.models import Group
from django.core.cache import cache
from django.core.management import call_command
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from exporter_site.command import Failed
from tasks.models import Execution
from tests.access.world import form_of
from tests.factories import PASSWORD, make_scheduler, make_user
from tests.site.pages import texts_of
from tests.symptoms.room import Room, sees_labels
from tests.symptoms.table import ROWS, SYSTEM, produces

LOGIN = reverse("admin:login")


def doctor(*checks: str) -> str:
    """What the doctor prints when all is well."""
    out = StringIO()
    call_command("system", "doctor", *checks, stdout=out)
    return out.getvalue()


def complaint(*checks: str) -> str:
    """What the doctor prints when something is not: the findings, and below each what to do."""
    out = StringIO()
    with pytest.raises(Failed):
        call_command("system", "doctor", *checks, stdout=out)
    return out.getvalue()


# ---- 登录页显示“登录已锁定”


def log_in(password: str, *, person: str = "203.0.113.7") -> Any:
    """`wang` logs in, behind a proxy on this machine."""
    client = Client(REMOTE_ADDR="127.0.0.1", headers={"accept-language": "zh-hans", "X-Forwarded-For": person})
    return client.post(LOGIN, {"username": "wang", "password": password})


@produces(SYSTEM, "登录页显示“登录已锁定”")
@pytest.mark.parametrize("cure", ["wait", "trusted_proxies"])
def test_whoever_is_locked_out_waits_or_is_told_from_others(room: Room, cure: str) -> None:
    make_user("wang", role="viewer")
    begun = timezone.now()
    with time_machine.travel(begun, tick=False):
        for _guess in range(10):
            answer = log_in("a guess of somebody else")
        assert answer.status_code == 429
        sees_labels(ROWS[SYSTEM, "登录页显示“登录已锁定”"], texts_of(answer.content.decode()))
        assert log_in(PASSWORD, person="198.51.100.1").status_code == 429, "behind a proxy all are one"
        if cure == "trusted_proxies":
            room.configure("web", trusted_proxies=["127.0.0.1/32"])
            assert log_in(PASSWORD, person="198.51.100.1").status_code == 302
            return
    cache.clear()
    with time_machine.travel(begun + timedelta(minutes=15, seconds=1), tick=False):
        assert log_in(PASSWORD).status_code == 302


# ---- 用户登录后什么都看不到


@produces(SYSTEM, "用户登录后什么都看不到")
@pytest.mark.parametrize("place", ["auth_user", "datasources_datasource"])
def test_a_user_without_role_or_grant_sees_nothing(room: Room, place: str) -> None:
    user = make_user("wang", is_staff=True)
    task = room.export(name="每日订单")
    run = room.run(task)
    browser = Client(headers={"accept-language": "zh-hans"})
    browser.force_login(user)
    executions = reverse("admin:tasks_execution_changelist")
    assert browser.get(executions).status_code == 403

    change = reverse("admin:auth_user_change", args=[user.pk])
    role = form_of(room.browser, change) | {"groups": [Group.objects.get(name="viewer").pk]}
    assert room.browser.post(change, role).status_code == 302
    seen = browser.get(executions)
    assert seen.status_code == 200
    assert "每日订单" not in seen.content.decode(), "a role without a grant shows no rows"

    assert task.data_source_id is not None
    row = user.pk if place == "auth_user" else task.data_source_id
    other = {"data_source": task.data_source_id} if place == "auth_user" else {"user": user.pk}
    change = reverse(f"admin:{place}_change", args=[row])
    grant = form_of(room.browser, change) | {"grants-TOTAL_FORMS": 1}
    grant |= {f"grants-0-{name}": value for name, value in other.items()}
    assert room.browser.post(change, grant).status_code == 302
    assert "每日订单" in browser.get(executions).content.decode()
    assert browser.get(reverse("admin:tasks_execution_change", args=[run.pk])).status_code == 200


# ---- 磁盘不足, 时间不对, 内存不足


@produces(SYSTEM, "磁盘不足")
@pytest.mark.parametrize("retention", [0, 5])
def test_a_full_disk_is_cleaned_up(room: Room, retention: int) -> None:
    make_scheduler().care()
    room.small_disk(150_000)
    room.run(room.export(sql="SELECT hex(zeroblob(50000)) AS x"))
    Execution.objects.update(finished_at=timezone.now() - timedelta(days=6 if retention else 8))
    room.configure("export", min_free_disk=100_000)
    assert any(text.startswith("磁盘仅剩") for text in room.read("/admin/"))
    refused = room.run(room.export())
    assert refused.reason == "disk_full"
    if retention:
        room.configure("export", retention_days=retention)
        call_command("system", "cleanup", stdout=StringIO())
    else:
        call_command("system", "cleanup", "--days", "7", stdout=StringIO())
    assert not any(text.startswith("磁盘仅剩") for text in room.read("/admin/"))
    assert room.run_again(refused).status == "succeeded"


def test_the_doctor_finds_a_full_disk(room: Room) -> None:
    room.configure("export", min_free_disk=1 << 60)
    assert "export.min_free_disk" in complaint("disk")
    room.configure("export", min_free_disk=1)
    assert "→" not in doctor("disk")


@produces(SYSTEM, "时间不对")
def test_a_task_of_another_zone(room: Room) -> None:
    task = room.export(cron="0 9 * * *", timezone="UTC")
    shown = room.read_task(task)
    sees_labels(ROWS[SYSTEM, "时间不对"], shown)
    assert any("17:00" in text for text in shown), "what the plan means on the system's clock"
    room.change(task, timezone="Asia/Shanghai")
    assert task.next_run_at is not None
    assert timezone.localtime(task.next_run_at).hour == 9
    assert "Asia/Shanghai" in doctor("clock", "time_zones")


@produces(SYSTEM, "内存不足，进程被系统杀死")
@pytest.mark.parametrize("cure", [{"scheduler": {"max_workers": 1}}, {"export": {"memory_limit": 1 << 10}}])
def test_more_memory_than_the_machine_has(room: Room, cure: dict[str, dict[str, int]]) -> None:
    room.configure("scheduler", max_workers=10_000)
    room.configure("export", memory_limit=1 << 28)
    warned = doctor("memory")
    assert "scheduler.max_workers" in warned
    assert "export.memory_limit" in warned
    for section, values in cure.items():
        room.configure(section, **values)
    assert "→" not in doctor("memory")
