"""What somebody might try who has read the source: each of these once worked."""

import json
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import time_machine
from django.conf import LazySettings
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from datasources.models import DataSource
from datasources.sqltext import SQLITE
from exporter_site.access.audit import Via
from exporter_site.access.models import AuditEvent, PasswordChange
from exporter_site.access.permissions import LoginThrottle, PerAddress
from notifications.models import Delivery
from notifications.outbox import Outbox
from notifications.states import DeliveryStatus
from tasks import announce, dates, runner
from tasks.models import Download, DownloadLink, Execution, ExportTask
from tasks.states import Status
from tests.access.world import MARK, finished
from tests.factories import make_admin, make_execution, make_source, make_sqlite_file, make_task, make_user
from tests.servers.mail import MailServer, configure

pytestmark = pytest.mark.django_db
OWN, OTHERS = "team-a@example.com", "team-b@example.com"


def browser_of(user: User) -> Client:
    client = Client()
    client.force_login(user)
    return client


def api(user: User, verb: str, path: str, headers: dict[str, str] | None = None, **body: Any) -> Any:
    client = browser_of(user)
    return client.generic(verb, f"/api/{path}", json.dumps(body), content_type="application/json", headers=headers)


# ---- Being somebody else for each request


@pytest.mark.parametrize(
    ("throttle", "verb", "path", "status"),
    [(LoginThrottle, "POST", "token", 401), (PerAddress, "GET", "status", 200)],
    ids=["passwords", "requests"],
)
def test_a_header_that_anybody_can_write_does_not_reset_the_count(
    throttle: Any, verb: str, path: str, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(throttle, "get_rate", lambda self: "2/min")
    body = json.dumps({"username": "root", "password": "guess"})
    answers = [
        Client().generic(
            verb,
            f"/api/{path}",
            body,
            content_type="application/json",
            headers={"X-Forwarded-For": f"192.0.2.{number}"},
        )
        for number in range(3)
    ]
    assert [answer.status_code for answer in answers] == [status, status, 429]


@pytest.mark.parametrize("prefix", ["/static", "/i18n", "/healthz", "/d"])
def test_a_header_about_where_the_site_begins_opens_nothing(prefix: str) -> None:
    """Gunicorn takes SCRIPT_NAME from whoever connects from this machine, and that is the reverse proxy."""
    user = make_user(role="admin")
    PasswordChange.objects.create(user=user)
    client = browser_of(user)
    answer = client.get("/admin/auth/user/", SCRIPT_NAME=prefix)
    assert (answer.status_code, answer.headers["Location"]) == (302, reverse("admin:password_change"))
    assert client.get("/api/tasks", SCRIPT_NAME=prefix).json()["code"] == "password_change_required"
    body = {"username": user.username, "password": "guess"}
    Client().post("/api/token", body, content_type="application/json", SCRIPT_NAME=prefix)
    assert AuditEvent.objects.first().via == Via.API  # type: ignore[union-attr]  # there is one


# ---- Rows of one source, through a task that reads another one now


@pytest.fixture
def before(tmp_path: Path) -> DataSource:
    return make_source(name="before", database=str(make_sqlite_file(tmp_path / "before.db")))


@pytest.fixture
def after(tmp_path: Path) -> DataSource:
    return make_source(name="after", database=str(make_sqlite_file(tmp_path / "after.db")))


def move(task: ExportTask, source: DataSource) -> None:
    """By an administrator, who has both sources."""
    assert api(make_admin(), "PATCH", f"tasks/{task.pk}", data_source=source.pk).status_code == 200


def redirect_messages(task: ExportTask, source: DataSource) -> None:
    """By an editor who has the new source alone."""
    editor = make_user(role="editor", sources=[source])
    assert api(editor, "PATCH", f"tasks/{task.pk}", email_recipients=[OTHERS]).status_code == 200


def recipients(server: MailServer) -> set[str]:
    return {recipient for mail in server.log.mails for recipient in mail.recipients}


def test_what_a_moved_task_still_owes_goes_to_nobody_new(
    before: DataSource, after: DataSource, settings: LazySettings
) -> None:
    task = make_task(data_source=before, email_recipients=[OWN])
    execution = finished(task)
    move(task, after)
    redirect_messages(task, after)
    with MailServer() as server:
        configure(settings, server)
        Outbox(threads=0).deliver()
        announce.resend(execution, everybody=True)
        Outbox(threads=0).deliver()
    assert recipients(server) == set()
    assert Delivery.objects.get().status == DeliveryStatus.DEAD


def test_a_run_that_was_queued_before_its_task_moved_is_announced_to_nobody_new(
    before: DataSource, after: DataSource
) -> None:
    task = make_task(data_source=before, email_recipients=[OWN])
    execution = make_execution(task)
    move(task, after)
    redirect_messages(task, after)
    claimed = Execution.objects.claim(execution.pk, worker="a:1:b")
    assert claimed is not None
    runner.run(claimed)
    claimed.refresh_from_db()
    assert (claimed.status, claimed.data_source) == (Status.SUCCEEDED, before)
    assert not Delivery.objects.exists()


def test_a_task_that_was_moved_shows_nothing_of_its_runs_before(before: DataSource, after: DataSource) -> None:
    template = "{filename} {rows_count}"
    task = make_task(data_source=before, dingtalk_message_template=template)
    finished(task)
    Execution.objects.update(status=Status.SUCCEEDED)
    old, new = (browser_of(make_user(role="viewer", sources=[source])) for source in (before, after))
    page = reverse("admin:tasks_exporttask_change", args=[task.pk])
    assert f"{MARK}.xlsx" in old.get(page).content.decode()
    move(task, after)
    assert f"{MARK}.xlsx" not in new.get(page).content.decode()
    changelist: Any = new.get(reverse("admin:tasks_exporttask_changelist"))
    assert [row.last_runs for row in changelist.context_data["cl"].result_list] == [[]]


def test_an_idempotency_key_brings_back_no_run_of_a_source_that_was_left(before: DataSource, after: DataSource) -> None:
    task = make_task(data_source=before)
    editor = make_user(role="editor", sources=[before])
    key = {"Idempotency-Key": "once"}
    number = api(editor, "POST", f"tasks/{task.pk}/execute", key).json()["id"]
    assert api(editor, "POST", f"tasks/{task.pk}/execute", key).json()["id"] == number
    move(task, after)
    editor.grants.update(data_source=after)
    answer = api(editor, "POST", f"tasks/{task.pk}/execute", key)
    assert (answer.status_code, answer.json()["code"]) == (409, "idempotency_key_reused")


def test_a_queued_run_is_checked_in_the_words_of_the_source_that_it_reads(before: DataSource) -> None:
    task = make_task(
        data_source=before, sql="SELECT '\\' AS a, id FROM orders WHERE id < {{ params.n }}", params={"n": 2}
    )
    execution = make_execution(task)
    elsewhere = make_source(kind="mysql", host="db1.example.com", database="d", username="u")
    ExportTask.objects.filter(pk=task.pk).update(data_source=elsewhere)  # to MySQL, a literal that does not end
    claimed = Execution.objects.claim(execution.pk, worker="a:1:b")
    assert claimed is not None
    assert (runner.run(claimed).status, claimed.rows_count) == (Status.SUCCEEDED, 1)


# ---- Not on record


def test_the_rest_of_a_file_is_a_download_of_its_own_for_another_reader_or_another_day() -> None:
    execution = finished(make_task(), b"0123456789")
    address = f"{DownloadLink.objects.make(execution).path}/file"

    def fetch(first: int, browser: str = "one") -> int:
        answer: Any = Client().get(address, headers={"Range": f"bytes={first}-", "User-Agent": browser})
        assert len(b"".join(answer.streaming_content)) == 10 - first
        return Download.objects.count()

    assert fetch(0) == 1
    assert fetch(1) == 1  # goes on
    assert fetch(1, "two") == 2  # all but a byte that everybody knows, behind the same proxy
    with time_machine.travel(timezone.now() + timedelta(days=2)):
        assert fetch(1) == 3


# ---- A web process that thinks for ever


def test_braces_that_never_close_cost_no_time() -> None:
    began = time.process_time()
    assert dates.check_sql("SELECT '" + "{{" * 50_000 + "'", SQLITE) == []
    assert dates.check_sql("SELECT '{{ ds }}" + "{{ " * 50_000 + "'", SQLITE) == []
    assert time.process_time() - began < 5
