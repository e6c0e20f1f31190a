"""The page of a run and what can be done on it: figures in words, buttons by right and state, nothing that is not theirs."""

from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from django.conf import LazySettings
from django.contrib.auth.models import Permission, User
from django.contrib.sessions.models import Session
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from exporter_site.access.models import AuditEvent
from notifications.models import Delivery
from notifications.states import DeliveryStatus
from tasks import reasons
from tasks.models import Download, DownloadLink, Execution, ExportTask, Pause, SchedulerProcess
from tasks.states import Status
from tests.access.world import finished
from tests.factories import make_admin, make_execution, make_source, make_task, make_user

pytestmark = pytest.mark.django_db
ENGLISH = {"accept-language": "en"}
LIST = reverse("admin:tasks_execution_changelist")


def client_of(user: User) -> Client:
    client = Client(headers=ENGLISH)
    client.force_login(user)
    return client


def client_with(role: str, row: Execution | ExportTask) -> Client:
    """Of a user to whom the source of `row` is granted."""
    assert row.data_source is not None
    return client_of(make_user(role=role, sources=[row.data_source]))


@pytest.fixture(autouse=True)
def _own_files(settings: LazySettings, tmp_path: Path) -> None:
    export = settings.CONFIG.export.model_copy(update={"output_dir": tmp_path / "exports"})
    settings.CONFIG = settings.CONFIG.model_copy(update={"export": export})


@pytest.fixture
def admin() -> Client:
    return client_of(make_admin())


def url_of(execution: Execution, what: str = "change") -> str:
    return reverse(f"admin:tasks_execution_{what}", args=[execution.pk])


def page_of(client: Client, execution: Execution, what: str = "change") -> str:
    answer = client.get(url_of(execution, what))
    assert answer.status_code == 200
    return str(answer.content.decode())


def owing(**fields: Any) -> Delivery:
    """A message of a run that has failed."""
    execution = Execution.objects.claim(make_execution(make_task(email_recipients=["a@x.cn"])).pk, worker="a:1:b")
    assert execution is not None
    Execution.objects.finish(execution, Status.FAILED, reason="sql_error")
    Delivery.objects.update(**{"status": DeliveryStatus.DEAD, "reason": "recipient_refused"} | fields)
    return Delivery.objects.get()


class TestPage:
    def test_a_failure_is_a_sentence_with_its_remedy_and_the_raw_text_is_folded(self, admin: Client) -> None:
        run = make_execution(
            status=Status.FAILED, reason="sql_error", error="near FORM: syntax error", sql="SELECT 4711"
        )
        page = page_of(admin, run)
        assert str(reasons.REASONS["sql_error"].sentence) in page
        assert "exporter-verdict-bad" in page
        details = page.partition("<details")[2].partition("</details>")[0]
        assert "near FORM: syntax error" in details
        assert page.count("near FORM: syntax error") == 1
        assert "SELECT 4711" in page.partition('<pre id="run-sql"')[2].partition("</pre>")[0]

    def test_figures_files_and_changed_cells_are_in_words(self, admin: Client) -> None:
        run = finished(make_task(name="订单"), b"12345")
        fidelity = {"long_number_as_text": 12345}
        Execution.objects.filter(pk=run.pk).update(
            rows_count=1234567, duration_seconds=10.0, fidelity=fidelity, planned_at="2026-03-09T16:00:00Z"
        )
        page = page_of(admin, run)
        for words in ("1,234,567", "123,457", "10.0 s", "5B", "12,345", "written as text", "2026-03-10 00:00:00"):
            assert words in page, words
        assert "Times (Asia/Shanghai)" in page
        assert f'href="/executions/{run.pk}/download"' in page

    def test_each_of_several_parts_has_its_line(self, admin: Client) -> None:
        run = finished(make_task())
        part = run.files[0]
        Execution.objects.filter(pk=run.pk).update(files=[part | {"rows": 1048576}, part | {"rows": 17}])
        page = page_of(admin, run)
        assert "1,048,576" in page
        for address in (f"/executions/{run.pk}/download?part=2", f'"/executions/{run.pk}/download"'):
            assert address in page, address
        Execution.objects.filter(pk=run.pk).update(files_removed_at=timezone.now())
        page = page_of(admin, run)
        assert "after its retention time" in page
        assert "/download" not in page.partition('id="run"')[2].partition('id="run-access"')[0]

    def test_earlier_attempts_are_a_table(self, admin: Client) -> None:
        run = make_execution()
        for _attempt in range(2):
            claimed = Execution.objects.claim(run.pk, worker="host:1:a")
            assert claimed is not None
            ExportTask.objects.update(max_retries=5)
            claimed.refresh_from_db()
            assert Execution.objects.requeue(claimed, "connection_lost", error="server has gone away")
        page = page_of(admin, run).partition('id="run-attempts"')[2].partition("</section>")[0]
        assert page.count(str(reasons.REASONS["connection_lost"].sentence)) == 2
        assert page.count("server has gone away") == 2

    def test_what_a_run_waits_for_is_said(self, admin: Client) -> None:
        run = make_execution()
        assert "No scheduler runs" in page_of(admin, run)
        SchedulerProcess.objects.beat("a:1:b", executor="local", workers=1)
        assert "waits for a free worker" in page_of(admin, run)
        Pause.objects.begin("root")
        assert "until somebody resumes" in page_of(admin, run)
        Execution.objects.filter(pk=run.pk).update(not_before=timezone.now() + timedelta(minutes=1))
        assert "It is tried again after" in page_of(admin, run)

    def test_links_and_downloads_are_shown_to_who_may_see_them(self, admin: Client) -> None:
        run = finished(make_task())
        link = DownloadLink.objects.make(run)
        Download.objects.create(execution=run, task_name="x", filename="was-fetched.xlsx", username="somebody")
        page = page_of(admin, run)
        assert link.path in page
        assert "was-fetched.xlsx" in page
        viewer = client_with("viewer", run)
        page = page_of(viewer, run)
        assert link.path not in page
        assert "was-fetched.xlsx" not in page

    @pytest.mark.parametrize("what", ["change", "live"])
    def test_who_may_not_see_sql_sees_neither_it_nor_the_databases_words(self, what: str) -> None:
        run = make_execution(
            status=Status.FAILED,
            reason="sql_error",
            error="canary-error",
            sql="canary-sql",
            params={"a": "canary-param"},
        )
        history = [
            {
                "attempt": 1,
                "started_at": None,
                "ended_at": timezone.now().isoformat(),
                "reason": "sql_error",
                "error": "canary-history",
            }
        ]
        Execution.objects.filter(pk=run.pk).update(history=history)
        viewer = client_with("viewer", run)
        page = page_of(viewer, run, what)
        assert str(reasons.REASONS["sql_error"].sentence) in page
        assert "canary" not in page
        assert page_of(client_of(make_admin()), run, what).count("canary-") >= 4

    @pytest.mark.parametrize("nasty", ["<script>alert(1)</script>", "\"><img src=x onerror='alert(1)'>", "{{ 7*7 }}"])
    def test_whatever_users_and_servers_write_is_text(self, admin: Client, nasty: str) -> None:
        delivery = owing(
            channel_name=nasty,
            error=nasty,
            recipients={nasty: {"verdict": "refused", "at": timezone.now().isoformat(), "reason": "", "text": nasty}},
        )
        run = delivery.execution
        history = [
            {
                "attempt": 1,
                "started_at": None,
                "ended_at": timezone.now().isoformat(),
                "reason": nasty,
                "error": nasty,
                "worker": nasty,
            }
        ]
        files = [{"path": f"2026/{nasty.replace('/', '')}", "rows": 1, "size": 1, "sha256": ""}]
        Execution.objects.filter(pk=run.pk).update(
            task_name=nasty,
            error=nasty,
            sql=nasty,
            params={nasty: nasty},
            history=history,
            files=files,
            filename=nasty,
            fidelity={nasty: 1},
            reason=nasty[:40],
            worker=nasty,
        )
        for url in (url_of(run), url_of(run, "live"), LIST, f"{reverse('admin:tasks_execution_watch')}?ids={run.pk}"):
            page = admin.get(url).content.decode()
            assert "<script>alert" not in page
            assert "<img src=x" not in page
            assert ">49<" not in page


class TestLive:
    def test_the_parts_change_until_the_end_and_then_all_come_once(self, admin: Client) -> None:
        run = make_execution()
        waiting = page_of(admin, run, "live")
        assert 'data-wait="800"' in waiting
        assert 'data-figure="waited"' in waiting
        claimed = Execution.objects.claim(run.pk, worker="a:1:b")
        assert claimed is not None
        Execution.objects.heartbeat(claimed, {"rows": 4500, "bytes": 2048, "rate": 1500}, "")
        running = page_of(admin, run, "live")
        for figure, shown in {"rows": "4,500", "rate": "1,500", "size": "2.0KB"}.items():
            assert f'data-figure="{figure}">{shown}<' in running
        assert 'id="run-result"' not in running
        assert Execution.objects.finish(claimed, Status.SUCCEEDED, rows_count=9000)
        after = page_of(admin, run, "live")
        assert 'data-wait="0"' in after
        assert "9,000" in after
        whole = page_of(admin, run)
        for part in ("run-head", "run-verdict", "run-progress", "run-result", "run-messages", "run-times", "run-query"):
            assert f'id="{part}"' in after, part
            assert f'id="{part}"' in whole, part

    def test_it_goes_on_while_messages_are_on_their_way(self, admin: Client) -> None:
        run = owing(status=DeliveryStatus.SENDING).execution
        assert 'data-wait="3000"' in page_of(admin, run, "live")
        Execution.objects.update(finished_at=timezone.now() - timedelta(hours=1))
        assert 'data-wait="15000"' in page_of(admin, run, "live")
        Delivery.objects.update(status=DeliveryStatus.SENT)
        assert 'data-wait="0"' in page_of(admin, run, "live")

    def test_looking_does_not_lengthen_a_login(self, admin: Client) -> None:
        run, then = make_execution(), timezone.now() + timedelta(minutes=1)
        Session.objects.update(expire_date=then)
        page_of(admin, run, "live")
        admin.get(f"{reverse('admin:tasks_execution_watch')}?ids={run.pk}")
        assert Session.objects.get().expire_date == then

    def test_the_list_gets_the_cells_of_what_it_asks_for_and_may_see(self, admin: Client) -> None:
        running = make_execution(status=Status.RUNNING, progress={"rows": 4711, "bytes": 10}, started_at=timezone.now())
        other = make_execution(status=Status.SUCCEEDED, rows_count=12)
        watch = reverse("admin:tasks_execution_watch")
        cells = admin.get(f"{watch}?ids={running.pk},{other.pk},x,-1,99999999999999999999").content.decode()
        assert f'data-unfinished="{running.pk}"' in cells
        assert f'id="run-{running.pk}-rows">4,711<' in cells
        assert f'id="run-{other.pk}-rows">12<' in cells
        assert f'data-unfinished="{other.pk}"' not in cells
        page = admin.get(LIST).content.decode()
        for name in ("state", "rows", "size", "duration", "messages", "file"):
            assert f'id="run-{running.pk}-{name}"' in page
            assert f'id="run-{running.pk}-{name}"' in cells
        viewer = client_with("viewer", other)
        cells = viewer.get(f"{watch}?ids={running.pk},{other.pk}").content.decode()
        assert f"run-{running.pk}-" not in cells
        assert f"run-{other.pk}-" in cells
        assert admin.get(watch).content == b""


BUTTONS = {"cancel": "data-cancel=", "run again": "run-again/", "send again": "send-again/", "download": "/download"}


def buttons_of(client: Client, execution: Execution) -> set[str]:
    head = page_of(client, execution).partition('id="run-head"')[2].partition("</section>")[0]
    return {name for name, sign in BUTTONS.items() if sign in head}


class TestButtons:
    def test_they_follow_the_state(self, admin: Client) -> None:
        queued = make_execution()
        assert buttons_of(admin, queued) == {"cancel"}
        running = make_execution(status=Status.RUNNING)
        assert buttons_of(admin, running) == {"cancel"}
        Execution.objects.request_cancel(running.pk)
        assert buttons_of(admin, running) == set()
        done = finished(make_task())
        assert buttons_of(admin, done) == {"run again", "download"}
        failed = owing().execution
        assert buttons_of(admin, failed) == {"run again", "send again"}
        Delivery.objects.update(
            recipients={"a@x.cn": {"verdict": "accepted", "at": timezone.now().isoformat(), "reason": "", "text": ""}}
        )
        assert buttons_of(admin, failed) == {"run again"}
        Execution.objects.filter(pk=done.pk).update(task=None)
        assert buttons_of(admin, done) == {"download"}

    def test_they_follow_the_rights(self) -> None:
        run = owing().execution
        done = finished(run.task)
        for role, may in {
            "viewer": set(),
            "operator": {"run again", "send again"},
            "admin": {"run again", "send again"},
        }.items():
            client = client_with(role, run)
            assert buttons_of(client, run) == may, role
            assert "download" in buttons_of(client, done), role
        looker = make_user(is_staff=True)
        looker.user_permissions.set(Permission.objects.filter(codename__in=["view_execution", "all_datasources"]))
        assert buttons_of(client_of(looker), done) == set()

    def test_cancelling_ends_the_run_is_on_record_and_leads_back(self, admin: Client) -> None:
        queued, running = make_execution(), make_execution(status=Status.RUNNING)
        for run in (queued, running):
            before = AuditEvent.objects.count()
            answer = admin.post(url_of(run, "cancel"))
            assert (answer.status_code, answer["Location"]) == (302, url_of(run))
            assert AuditEvent.objects.count() == before + 1
        queued.refresh_from_db()
        running.refresh_from_db()
        assert queued.status == Status.CANCELLED
        assert running.cancel_requested_at is not None
        assert "has already ended" in admin.post(url_of(queued, "cancel"), follow=True).content.decode()

    def test_running_again_leads_to_the_new_run(self, admin: Client) -> None:
        run = make_execution(status=Status.FAILED, params={"a": 1})
        answer = admin.post(url_of(run, "run_again"))
        again = Execution.objects.exclude(pk=run.pk).get()
        assert answer["Location"] == url_of(again)
        assert (again.status, again.planned_at, again.params) == (Status.QUEUED, run.planned_at, {"a": 1})
        Execution.objects.filter(pk=run.pk).update(task=None)
        assert "has been deleted" in admin.post(url_of(run, "run_again"), follow=True).content.decode()

    def test_a_task_that_moved_to_a_source_without_a_grant_is_not_run_again(self) -> None:
        run = make_execution(status=Status.FAILED)
        operator = client_with("operator", run)
        ExportTask.objects.update(data_source=make_source())
        assert buttons_of(operator, run) == set()
        operator.post(url_of(run, "run_again"))
        assert Execution.objects.count() == 1

    def test_all_messages_or_one_are_sent_again(self, admin: Client) -> None:
        delivery = owing()
        admin.post(url_of(delivery.execution, "send_again"))
        delivery.refresh_from_db()
        assert delivery.status == DeliveryStatus.PENDING
        Delivery.objects.update(status=DeliveryStatus.DEAD)
        before = AuditEvent.objects.count()
        page = admin.post(url_of(delivery.execution, "send_again"), {"delivery": delivery.pk}, follow=True)
        assert "1 messages are sent again" in page.content.decode()
        assert AuditEvent.objects.count() == before + 1
        delivery.refresh_from_db()
        assert delivery.status == DeliveryStatus.PENDING

    def test_a_message_of_another_run_is_not_there(self, admin: Client) -> None:
        delivery = owing()
        other = make_execution(status=Status.FAILED)
        for number in (str(delivery.pk), "0", "x", "9" * 30):
            assert admin.post(url_of(other, "send_again"), {"delivery": number}).status_code == 404, number
        delivery.refresh_from_db()
        assert delivery.status == DeliveryStatus.DEAD


class TestList:
    def test_without_rows_it_says_what_to_do_next(self, admin: Client) -> None:
        page = admin.get(LIST).content.decode()
        assert "Nothing has run yet" in page
        assert reverse("admin:tasks_exporttask_add") in page
        viewer = client_of(make_user(role="viewer"))
        page = viewer.get(LIST).content.decode()
        assert "Runs begin by a task" in page
        assert reverse("admin:tasks_exporttask_add") not in page
        make_execution()
        assert "Nothing has run yet" not in admin.get(LIST).content.decode()
        assert "Nothing has run yet" not in admin.get(f"{LIST}?q=nothing").content.decode()

    def found(self, client: Client, query: str) -> set[int]:
        answer = client.get(f"{LIST}?{query}")
        assert answer.status_code == 200, query
        return {run.pk for run in answer.context["cl"].result_list}

    def test_a_state_or_several_are_chosen_in_words(self, admin: Client) -> None:
        runs = {status: make_execution(status=status).pk for status in Status}
        failures = {runs[Status.FAILED], runs[Status.TIMED_OUT]}
        assert self.found(admin, "status__exact=failed") == {runs[Status.FAILED]}
        assert self.found(admin, "status__in=failed,timed_out") == failures
        assert self.found(admin, "status__in=nonsense") == set()
        page = admin.get(f"{LIST}?status__exact=failed")
        shown = page.context["cl"]
        choices = list(shown.filter_specs[0].choices(shown))
        assert [str(choice["display"]) for choice in choices if choice["selected"]] == ["failed"]
        assert not any("status__exact" in choice["query_string"] for choice in choices)
        assert "failed or timed out" in page.content.decode()

    def test_the_list_is_sorted_as_an_index_is(self, admin: Client) -> None:
        for query, order in {
            "": ["-id"],
            "o=1": ["id"],
            "o=-1": ["-id"],
            "o=4": ["planned_at", "pk"],
            "o=-4": ["-planned_at", "-pk"],
            "o=4.1": ["planned_at", "pk"],
            "planned_at_from_0=2026-01-01": ["-planned_at", "-pk"],
            "planned_at_to_0=2026-01-01&o=1": ["id"],
        }.items():
            answer = admin.get(f"{LIST}?{query}")
            assert [*answer.context_data["cl"].queryset.query.order_by] == order, query  # type: ignore[index]

    def test_a_search_means_a_number_a_task_or_the_beginning_of_a_file_name(self, admin: Client) -> None:
        orders, refunds = make_task(name="Daily orders"), make_task(name="日报 退款")
        first = make_execution(orders, filename="销售_20260310.xlsx")
        second = make_execution(refunds, filename="退款_20260310.xlsx")
        for words, runs in {
            "daily": {first.pk},
            "orders Daily": {first.pk},
            "退款": {second.pk},
            "销售_2026": {first.pk},
            "_2026": set(),
            f"#{second.pk}": {second.pk},
            f"{second.pk}": {second.pk},
            "#999999": set(),
            "%": set(),
            "' OR 1=1": set(),
        }.items():
            assert self.found(admin, f"q={quote(words)}") == runs, words
        orders.delete()
        assert self.found(admin, "q=Daily") == set()
        assert self.found(admin, "q=销售") == {first.pk}

    def test_the_filter_by_task_names_no_task_that_is_not_granted(self, admin: Client) -> None:
        task, other = make_task(name="mine alone"), make_task(name="canary-of-others")
        viewer = client_with("viewer", task)
        for client, shown in ((admin, True), (viewer, False)):
            page = client.get(f"{LIST}?task__id__exact={other.pk}").content.decode()
            assert ("canary-of-others" in page) == shown
        assert "mine alone" in viewer.get(f"{LIST}?task__id__exact={task.pk}").content.decode()

    @pytest.mark.parametrize(
        ("query", "found"),
        [
            ("from_0=2026-03-10", {"noon", "later"}),
            ("from_0=2026-03-10&from_1=12:30", {"later"}),
            ("from_0=2026-03-10&to_0=2026-03-10", {"noon"}),
            ("to_0=2026-03-10&to_1=11:59", {"before"}),
            ("from_0=nonsense", set()),
            ("to_0=0001-01-01", set()),
            ("", {"before", "noon", "later"}),
        ],
    )
    def test_planned_times_are_of_the_readers_zone(self, admin: Client, query: str, found: set[str]) -> None:
        moments = {"before": "2026-03-09T15:59Z", "noon": "2026-03-10T04:00Z", "later": "2026-03-10T16:00Z"}
        runs = {name: make_execution(planned_at=moment).pk for name, moment in moments.items()}
        parameters = "&".join(f"planned_at_{part}" for part in query.split("&"))
        assert self.found(admin, parameters if query else "") == {runs[name] for name in found}

    def test_planned_times_are_read_as_the_form_writes_them_in_chinese(self) -> None:
        client = Client(headers={"accept-language": "zh-hans"})
        client.force_login(make_admin())
        run = make_execution(planned_at="2026-03-10T04:00Z")
        make_execution(planned_at="2026-03-09T04:00Z")
        assert self.found(client, "planned_at_from_0=2026/03/10&planned_at_from_1=00:00:00") == {run.pk}

    def test_a_search_finds_only_what_is_granted(self, admin: Client) -> None:
        mine, theirs = make_task(name="report one"), make_task(name="report two")
        run, other = make_execution(mine, filename="r.xlsx"), make_execution(theirs, filename="r.xlsx")
        viewer = client_with("viewer", mine)
        for words in ("report", "r.x", f"{other.pk}", f"%23{other.pk}"):
            assert other.pk not in self.found(viewer, f"q={words}"), words
        assert self.found(viewer, "q=report") == {run.pk}
        assert self.found(admin, "q=report") == {run.pk, other.pk}
