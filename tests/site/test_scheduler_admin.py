"""What the admin says of schedulers and pauses."""

from datetime import timedelta

import pytest
from django.test import Client
from django.utils import timezone

from tasks.models import Execution, Pause, SchedulerProcess
from tasks.states import Status
from tests.factories import make_admin, make_execution, make_scheduler, make_task, make_user

pytestmark = pytest.mark.django_db
PROBLEM = "没有调度器在运行"


@pytest.fixture
def admin() -> Client:
    client = Client()
    client.force_login(make_admin())
    return client


def shown(client: Client, path: str) -> str:
    response = client.get(path)
    assert response.status_code == 200
    return response.content.decode()


def test_a_dead_scheduler_is_seen_above_every_page_and_what_to_do(admin: Client) -> None:
    for path in ("/admin/", "/admin/tasks/exporttask/", "/admin/tasks/execution/"):
        text = shown(admin, path)
        assert PROBLEM in text
        assert "manage.py scheduler start" in text
    make_scheduler().care()
    assert PROBLEM not in shown(admin, "/admin/")
    SchedulerProcess.objects.update(seen_at=timezone.now() - timedelta(minutes=2))
    assert PROBLEM in shown(admin, "/admin/")


def test_a_full_disk_is_seen(admin: Client) -> None:
    make_scheduler().care()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("tasks.files.free_bytes", lambda: 1024)
        assert "磁盘仅剩 1.0KB" in shown(admin, "/admin/")


def test_nobody_else_is_told(client: Client) -> None:
    assert PROBLEM not in client.get("/admin/login/").content.decode()


def test_schedulers_are_listed(admin: Client) -> None:
    make_scheduler(7).care()
    text = shown(admin, "/admin/tasks/schedulerprocess/")
    assert SchedulerProcess.objects.get().name in text
    assert admin.post("/admin/tasks/schedulerprocess/add/").status_code == 403


def test_everything_can_be_paused_and_resumed(admin: Client) -> None:
    admin.post("/admin/tasks/pause/add/", {"note": "数据库升级"})
    pause = Pause.objects.get()
    assert (pause.active_key, pause.note) == (Pause.ACTIVE, "数据库升级")
    assert pause.begun_by.startswith("admin")
    assert "数据库升级" in shown(admin, "/admin/")
    assert admin.get("/admin/tasks/pause/add/").status_code == 403
    make_execution()
    assert make_scheduler().dispatch() == 0
    admin.post("/admin/tasks/pause/", {"action": "resume", "_selected_action": [pause.pk]})
    pause.refresh_from_db()
    assert (pause.active_key, pause.ended_by) == (None, pause.begun_by)
    assert make_scheduler().dispatch() == 1


def test_who_may_not_pause_can_not_resume() -> None:
    client = Client()
    client.force_login(make_user(is_staff=True))
    assert Pause.objects.begin("ops")
    client.post("/admin/tasks/pause/", {"action": "resume", "_selected_action": [Pause.objects.get().pk]})
    assert Pause.objects.active().exists()


def test_an_execution_shows_its_earlier_attempts_and_the_times_it_stands_for(admin: Client) -> None:
    task = make_task(max_retries=1)
    row = make_execution(task)
    claimed = Execution.objects.claim(row.pk, worker="elsewhere:1:x")
    assert claimed is not None
    assert Execution.objects.requeue(claimed, "connection_lost", error="gone away")
    text = shown(admin, f"/admin/tasks/execution/{row.pk}/change/")
    assert "gone away" in text
    assert "之后重试" in text
    missed = Execution.objects.record_missed(
        task, timezone.now(), "misfire", occurrences=1234, range_start=timezone.now() - timedelta(days=1)
    )
    assert missed.status == Status.MISSED
    assert "1,234" in shown(admin, f"/admin/tasks/execution/{missed.pk}/change/")
    Execution.objects.filter(pk=row.pk).update(
        status=Status.SUCCEEDED, files=[{"path": "x/y.csv", "rows": 1, "size": 2}], files_removed_at=timezone.now()
    )
    assert "已过保留期" in shown(admin, f"/admin/tasks/execution/{row.pk}/change/")
    english = admin.get(f"/admin/tasks/execution/{row.pk}/change/", headers={"accept-language": "en"})
    assert "after its retention time" in english.content.decode()
