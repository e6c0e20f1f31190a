"""The pages of export tasks: what the list and the form say, what the dialogs do, who may, and the way back."""

import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import time_machine
from django.conf import LazySettings
from django.contrib.auth.models import Permission, User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone, translation

from exporter_site.access import audit
from exporter_site.access.models import AuditEvent
from notifications.models import Channel, NotificationRule
from tasks import task_copy, task_list
from tasks.models import Execution, ExportTask
from tasks.states import Status, Trigger
from tests.access.world import form_of
from tests.factories import make_admin, make_execution, make_source, make_task, make_user
from tests.servers.mail import MailServer, configure

pytestmark = pytest.mark.django_db

LIST = reverse("admin:tasks_exporttask_changelist")
ADD = reverse("admin:tasks_exporttask_add")
EVIL = "<img src=x onerror=alert(1)>"
WEBHOOK = "https://oapi.dingtalk.com/robot/send?access_token=canary-of-the-webhook"
ENGLISH = {"accept-language": "en"}
DIALOG = {"_form_submitted": "True"}


def of(name: str, task: ExportTask, *more: Any) -> str:
    return reverse(f"admin:tasks_exporttask_{name}", args=[task.pk, *more])


def client_of(user: User) -> Client:
    client = Client(headers=ENGLISH)
    client.force_login(user)
    return client


@pytest.fixture
def admin() -> Client:
    return client_of(make_admin("root"))


def text_of(client: Client, url: str, **query: Any) -> str:
    answer = client.get(url, query)
    assert answer.status_code == 200, url
    return answer.content.decode()


def said(client: Client, url: str, data: dict[str, Any]) -> str:
    """What the page after this form says."""
    answer = client.post(url, data, follow=True)
    assert answer.status_code == 200
    return " ".join(str(message) for message in answer.context["messages"])


def names_on(client: Client, **query: Any) -> set[str]:
    answer: Any = client.get(LIST, query)
    return {task.name for task in answer.context["cl"].result_list}


class TestSchedule:
    URL = reverse("admin:tasks_exporttask_cron")

    def asked(self, client: Client, cron: str, zone: str = "Asia/Shanghai") -> str:
        return text_of(client, self.URL, cron=cron, timezone=zone)

    @time_machine.travel("2026-03-10T03:30:00Z", tick=False)
    def test_words_and_the_next_five_runs_with_their_zone(self, admin: Client) -> None:
        page = self.asked(admin, "0 9 * * 1-5")
        assert "Monday to Friday at 09:00" in page
        assert "2026-03-11 Wednesday 09:00 UTC+08:00" in page
        assert page.count("<li>") == 5

    @time_machine.travel("2026-03-10T03:30:00Z", tick=False)
    def test_another_zone_is_shown_by_both_clocks(self, admin: Client) -> None:
        page = self.asked(admin, "0 9 * * *", "Europe/Berlin")
        assert "2026-03-10 Tuesday 09:00 UTC+01:00" in page
        assert "= 2026-03-10 16:00 Asia/Shanghai" in page

    @pytest.mark.parametrize(
        ("cron", "words"),
        [
            ("0 25 * * *", "The field “hour” (25) is not valid"),
            ("0 9 * *", "this has 4"),
            ("0 0 31 2 *", "never fires"),
            ("x" * 101, "101"),
            ("", "Only by hand."),
            ("0 9 1 1,4,7,10 *", "on the first day of every quarter at 09:00"),
        ],
    )
    def test_what_is_wrong_is_said_in_words(self, admin: Client, cron: str, words: str) -> None:
        assert words in self.asked(admin, cron)

    def test_a_zone_that_is_none_is_named(self, admin: Client) -> None:
        page = self.asked(admin, "0 9 * * *", EVIL)
        assert "is not a time zone" in page
        assert EVIL not in page

    def test_the_saved_task_says_the_same(self, admin: Client) -> None:
        task = make_task(cron="0 9 * * 1")
        page = text_of(admin, of("change", task))
        assert "every Monday at 09:00" in page
        assert page.count("UTC+08:00") == 5
        ExportTask.objects.filter(pk=task.pk).update(cron="0 0 31 2 *")
        assert "never fires" in text_of(admin, of("change", task))

    def test_usual_schedules_and_zones_are_offered_and_hold(self, admin: Client) -> None:
        page = text_of(admin, ADD)
        crons = re.findall(r'data-cron="([^"]*)"', page)
        assert len(crons) == 7
        assert "" in crons
        for cron in filter(None, crons):
            assert "exporter-next" in self.asked(admin, cron)
        zones = re.findall(r'<option value="([^"]+)">', page.partition('<datalist id="timezones">')[2])
        assert zones[0] == "Asia/Shanghai"
        assert len(zones) > 300

    def test_only_for_those_who_write_tasks(self) -> None:
        for role, status in (("viewer", 403), ("operator", 403), ("editor", 200)):
            assert client_of(make_user(role=role)).get(self.URL).status_code == status


class TestList:
    def test_the_last_runs_as_bars_with_words_and_what_succeeded(self, admin: Client) -> None:
        task = make_task(name=EVIL)
        for status in [Status.SUCCEEDED] * 3 + [Status.FAILED, Status.MISSED, Status.RUNNING]:
            make_execution(task, status=status)
        page = text_of(admin, LIST)
        assert "3/5" in page
        assert "3 of 5 succeeded" in page
        assert page.count("exporter-spark-good") == 3
        assert page.count("exporter-spark-bad") == 1
        assert 'aria-label="The last 6 runs: running 1, missed 1, failed 1, succeeded 3"' in page
        assert EVIL not in page

    def test_of_more_than_fourteen_runs_the_newest_count(self) -> None:
        task, other = make_task(), make_task()
        runs = [make_execution(task, status=Status.SUCCEEDED) for _number in range(20)]
        make_execution(other, status=Status.FAILED)
        found = task_list.last_runs([task, other])
        assert [run.pk for run in found[task.pk]] == [run.pk for run in reversed(runs)][:14]
        assert [run.status for run in found[other.pk]] == [Status.FAILED]

    def test_runs_of_a_source_that_the_task_read_before_are_left_out(self) -> None:
        task = make_task()
        make_execution(task, status=Status.FAILED)
        task.data_source = make_source()
        task.save()
        make_execution(task, status=Status.SUCCEEDED)
        assert [run.status for run in task_list.last_runs([task])[task.pk]] == [Status.SUCCEEDED]

    def test_the_next_run_is_said_by_distance_and_by_clock(self, admin: Client) -> None:
        with time_machine.travel("2026-03-10T03:30:00Z", tick=False):
            make_task(cron="0 15 * * *")
            late = make_task()
            ExportTask.objects.filter(pk=late.pk).update(next_run_at=timezone.now() - timedelta(minutes=5))
            page = text_of(admin, LIST).replace("\xa0", " ")
        assert "in 3 hours" in page
        assert "2026-03-10 15:00" in page
        assert "due now" in page

    def test_the_number_of_queries_does_not_depend_on_that_of_tasks_and_runs(self) -> None:
        source = make_source()
        user = make_user(role="editor", sources=[source])
        client = client_of(user)

        def queries(**query: str) -> int:
            with CaptureQueriesContext(connection) as captured:
                answer: Any = client.get(LIST, query)
            assert answer.status_code == 200
            return len(captured)

        asked: list[dict[str, str]] = [{}, {"last": "failed"}, {"tag": "a"}, {"owner": str(user.pk)}, {"q": "task"}]

        def fill(count: int) -> None:
            for _number in range(count):
                make_execution(make_task(data_source=source, tags=["a"], owner=user), status=Status.FAILED)

        fill(10)
        few = [queries(**query) for query in asked]
        template = {"data_source": source, "sql": "SELECT 1", "tags": ["a"], "owner": user}
        tasks = ExportTask.objects.bulk_create(ExportTask(name=f"more {n}", **template) for n in range(990))
        Execution.objects.bulk_create(
            Execution(
                task=task,
                task_name=task.name,
                data_source=source,
                status=Status.FAILED,
                trigger=Trigger.MANUAL,
                planned_at=timezone.now(),
                format="csv",
                sql_template="",
            )
            for task in tasks[:100]
            for _number in range(20)
        )
        assert [queries(**query) for query in asked] == few
        assert max(few) <= 24

    def test_filters(self, admin: Client) -> None:
        owner, source = make_user("anna"), make_source(name="shop")
        mine = make_task(name="mine", tags=["finance", "每日"], owner=owner, data_source=source, enabled=False)
        make_task(name="never")
        make_execution(mine, status=Status.FAILED)
        make_execution(mine, status=Status.SUCCEEDED)
        for query in (
            {"last": "succeeded"},
            {"tag": "每日"},
            {"owner": owner.pk},
            {"data_source__id__exact": source.pk},
            {"enabled__exact": "0"},
        ):
            assert names_on(admin, **query) == {"mine"}, query
        assert names_on(admin, last="never") == names_on(admin, owner="none") == {"never"}
        for query in ({"last": "failed"}, {"tag": "每"}, {"owner": "x"}, {"owner": "9" * 30}):
            assert names_on(admin, **query) == set(), query

    def test_filters_name_nothing_of_what_is_not_granted(self) -> None:
        make_task(tags=["secret-tag"], owner=make_user("secret-owner"))
        own = make_source()
        make_task(data_source=own, tags=["own-tag"], owner=make_user("own-owner"))
        page = text_of(client_of(make_user(role="viewer", sources=[own])), LIST)
        assert "own-tag" in page
        assert "own-owner" in page
        assert "secret-" not in page

    def test_sql_is_searched_for_those_who_may_see_it(self) -> None:
        source = make_source()
        make_task(name="orders", data_source=source, sql="SELECT 1 AS needle")
        assert names_on(client_of(make_user(role="operator", sources=[source])), q="needle") == {"orders"}
        assert names_on(client_of(make_user(role="viewer", sources=[source])), q="needle") == set()

    def test_an_empty_list_says_what_to_do_next(self, admin: Client) -> None:
        viewer, editor = (client_of(make_user(role=role)) for role in ("viewer", "editor"))
        assert reverse("admin:datasources_datasource_add") in text_of(admin, LIST).partition("exporter-empty")[2]
        assert "Ask an administrator" in text_of(editor, LIST)
        source = make_source()
        page = text_of(admin, LIST).partition("exporter-empty")[2]
        assert ADD in page
        assert "Add the first task" in page
        assert "Ask an administrator" in text_of(viewer, LIST)
        assert "Editors can" in text_of(client_of(make_user(role="viewer", sources=[source])), LIST)
        assert "exporter-empty" not in text_of(admin, LIST, q="nothing")


class TestRunning:
    def test_for_a_date_in_the_tasks_zone_and_without_messages(self, admin: Client) -> None:
        task = make_task(timezone="Europe/Berlin")
        answer = admin.post(of("run", task), DIALOG | {"planned_at": "2025-07-01T09:30"})
        run = Execution.objects.get()
        assert answer.headers["Location"] == reverse("admin:tasks_execution_change", args=[run.pk])
        assert run.planned_at.astimezone(ZoneInfo("Europe/Berlin")).isoformat() == "2025-07-01T09:30:00+02:00"
        assert (run.trigger, run.notify, run.created_by) == (Trigger.MANUAL, False, User.objects.get())
        assert AuditEvent.objects.filter(action=audit.Action.RUN).count() == 1

    def test_the_dialog_shows_now_and_a_page_follows_a_header(self, admin: Client) -> None:
        task = make_task(name=EVIL, timezone="Europe/Berlin")
        with time_machine.travel("2026-03-10T03:30:00Z", tick=False):
            page = text_of(admin, of("run", task))
            admin.post(of("run", task), DIALOG | {"notify": "on"})
            answer = admin.post(of("run", task), DIALOG, headers={"HX-Request": "true"})
        assert 'value="2026-03-10T04:30"' in page
        assert EVIL not in page
        newest, run = Execution.objects.all()
        assert run.notify
        assert run.planned_at.isoformat() == "2026-03-10T03:30:00+00:00"
        assert answer.headers["HX-Redirect"] == reverse("admin:tasks_execution_change", args=[newest.pk])

    @pytest.mark.parametrize("text", ["yesterday", "0001-01-01T00:00", "9999-12-31T23:59"])
    def test_a_date_that_is_none_is_refused_in_words(self, admin: Client, text: str) -> None:
        page = admin.post(of("run", make_task()), DIALOG | {"planned_at": text}).content.decode()
        assert "is not a date" in page or "must be between 1970 and 2999" in page
        assert not Execution.objects.exists()

    def test_a_backfill_tells_first_how_many_runs_it_is(self, admin: Client) -> None:
        task = make_task(cron="0 9 * * *")
        wish = DIALOG | {"start": "2025-01-01", "end": "2025-01-03"}
        page = admin.post(of("backfill", task), wish).content.decode()
        assert "These are 3 runs, from 2025-01-01 09:00 to 2025-01-03 09:00" in page
        assert 'name="confirmed" value="3"' in page
        assert not Execution.objects.exists()
        answer = admin.post(of("backfill", task), wish | {"confirmed": "3"})
        assert answer.status_code == 302
        assert f"task__id__exact={task.pk}" in answer.headers["Location"]
        assert set(Execution.objects.values_list("trigger", "notify")) == {(Trigger.BACKFILL, False)}
        assert Execution.objects.count() == 3
        page = admin.post(of("backfill", task), wish | {"confirmed": "0"}).content.decode()
        assert "Nothing to do" in page
        admin.post(of("backfill", task), wish | {"confirmed": "3", "again": "on", "notify": "on"})
        assert Execution.objects.filter(notify=True).count() == 3

    @pytest.mark.parametrize(
        ("start", "end", "words"),
        [
            ("2025-01-03", "2025-01-01", "before the first"),
            ("x", "2025-01-01", "is not a date"),
            ("2000-01-01", "2025-01-01", "more than 1000 runs"),
            ("", "", "required"),
        ],
    )
    def test_a_backfill_that_can_not_be_is_refused(self, admin: Client, start: str, end: str, words: str) -> None:
        wish = DIALOG | {"start": start, "end": end, "confirmed": "1"}
        assert words in admin.post(of("backfill", make_task(cron="0 9 * * *")), wish).content.decode()
        assert not Execution.objects.exists()

    @pytest.mark.parametrize("name", ["run", "backfill", "copy", "history", "change"])
    def test_the_task_of_others_is_not_there(self, name: str) -> None:
        task = make_task(name="secret-name")
        for role in ("viewer", "operator", "editor"):
            client = client_of(make_user(role=role, sources=[make_source()]))
            for answer in (client.get(of(name, task)), client.post(of(name, task), DIALOG)):
                assert answer.status_code in (403, 404) or answer.headers.get("Location") == reverse("admin:index")
                assert "secret-name" not in answer.content.decode()
        assert not Execution.objects.exists()

    def test_who_only_looks_is_offered_nothing_and_refused(self) -> None:
        task = make_task()
        viewer = client_of(make_user(role="viewer", sources=[task.data_source]))
        for page in (text_of(viewer, LIST), text_of(viewer, of("change", task))):
            assert of("run", task) not in page
            assert of("copy", task) not in page
        for name in ("run", "backfill", "copy"):
            assert viewer.post(of(name, task), DIALOG).status_code == 403
        operator = client_of(make_user(role="operator", sources=[task.data_source]))
        page = text_of(operator, of("change", task))
        assert of("run", task) in page
        assert of("copy", task) not in page


class TestCopy:
    def test_the_form_is_filled_with_everything_but_the_secrets(self, admin: Client) -> None:
        owner = make_user("anna")
        task = make_task(
            name="orders",
            sql="SELECT {{ params.shop }}",
            params={"shop": "1"},
            cron="0 9 * * *",
            timezone="Europe/Berlin",
            tags=["a", "b"],
            email_recipients=["a@example.cn"],
            dingtalk_webhook=WEBHOOK,
            dingtalk_message_template="{task_name}!",
            format="csv",
            format_options={"encoding": "gb18030"},
            max_retries=3,
            owner=owner,
        )
        channel = Channel.objects.create(name="group", kind="webhook")
        NotificationRule.objects.create(task=task, channel=channel, events=["failure"], template="{status}")
        answer = admin.get(of("copy", task))
        url = answer.headers["Location"]
        page = text_of(admin, url)
        assert "canary" not in page
        assert "are not copied: enter them again" in page
        filled = form_of(admin, url)
        assert filled["name"] == "orders (copy)"
        rules = {name: value for name, value in filled.items() if name.startswith("rules-")}
        rules |= {"rules-0-channel": channel.pk, "rules-0-events": ["failure"], "rules-0-template": "{status}"}
        assert rules["rules-TOTAL_FORMS"] == 1
        answer = admin.post(url, filled | rules)
        assert answer.status_code == 302, answer.context["adminform"].form.errors
        copy = ExportTask.objects.get(name="orders (copy)")
        left_out = ("id", "name", "dingtalk_webhook", "next_run_at", "created_at", "updated_at")
        for field in ExportTask._meta.concrete_fields:
            if field.name not in left_out:
                assert getattr(copy, field.attname) == getattr(task, field.attname), field.name
        assert copy.dingtalk_webhook == ""
        rule = NotificationRule.objects.get(task=copy)
        assert (rule.channel, rule.events, rule.template) == (channel, ["failure"], "{status}")

    def test_the_rules_are_in_the_form(self, admin: Client) -> None:
        task = make_task()
        channel = Channel.objects.create(name="group", kind="webhook")
        NotificationRule.objects.create(task=task, channel=channel, events=["failure"], template="{status}!")
        answer: Any = admin.get(ADD, {"copy": task.pk})
        formset = answer.context["inline_admin_formsets"][0].formset
        assert formset.forms[0]["channel"].value() == channel.pk
        assert formset.forms[0]["events"].value() == ["failure"]
        assert formset.forms[0]["template"].value() == "{status}!"

    def test_each_copy_has_a_name_of_its_own(self) -> None:
        with translation.override("en"):
            assert task_copy.free_name("a") == "a (copy)"
        long = "x" * 200
        first = task_copy.free_name(long)
        assert len(first) <= 200
        make_task(name=first)
        second = task_copy.free_name(long)
        assert second != first
        assert len(second) <= 200

    def test_saving_as_new_says_what_is_not_copied(self, admin: Client) -> None:
        task = make_task(dingtalk_webhook=WEBHOOK)
        form = form_of(admin, of("change", task)) | {"name": "new", "_saveasnew": "1"}
        assert "are not copied" in said(admin, of("change", task), form)
        assert ExportTask.objects.get(name="new").dingtalk_webhook == ""

    @pytest.mark.parametrize("number", ["x", "-1", "0", "9" * 30, "١"])
    def test_a_copy_of_nothing_is_an_empty_form(self, admin: Client, number: str) -> None:
        assert form_of(admin, f"{ADD}?copy={number}").get("name", "") == ""

    def test_a_task_of_others_can_not_be_copied(self) -> None:
        task = make_task(name="secret-name", sql="SELECT 'secret-sql'")
        page = text_of(client_of(make_user(role="editor", sources=[make_source()])), ADD, copy=task.pk)
        assert "secret-" not in page


class TestSwitching:
    def test_words_audit_and_no_replay(self, admin: Client) -> None:
        tasks = [make_task(cron="0 9 * * *") for _number in range(2)]
        chosen = {"_selected_action": [task.pk for task in tasks]}
        assert "2 tasks disabled" in said(admin, LIST, chosen | {"action": "disable"})
        assert "already" in said(admin, LIST, chosen | {"action": "disable"})
        ExportTask.objects.update(next_run_at=timezone.now() - timedelta(days=9))
        assert "1 task enabled" in said(admin, LIST, {"_selected_action": [tasks[0].pk], "action": "enable"})
        tasks[0].refresh_from_db()
        assert tasks[0].next_run_at is not None
        assert tasks[0].next_run_at > timezone.now()
        changes = [event.changes for event in AuditEvent.objects.about(tasks[0]).filter(action="edit").order_by("pk")]
        assert changes == [{"enabled": [True, False]}, {"enabled": [False, True]}]
        assert not Execution.objects.exists()

    def test_a_schedule_that_never_fires_stays_off_and_the_others_go_on(self, admin: Client) -> None:
        bad = make_task(cron="0 9 * * *", enabled=False)
        good = make_task(cron="0 9 * * *", enabled=False)
        ExportTask.objects.filter(pk=bad.pk).update(cron="0 0 31 2 *")
        words = said(admin, LIST, {"_selected_action": [bad.pk, good.pk], "action": "enable"})
        assert "stays disabled" in words
        assert "1 task enabled" in words
        assert set(ExportTask.objects.filter(enabled=True)) == {good}


class TestMessages:
    PREVIEW, TEST = reverse("admin:tasks_exporttask_preview_message"), reverse("admin:tasks_exporttask_test_message")

    @pytest.fixture
    def mail_server(self, settings: LazySettings) -> Iterator[MailServer]:
        with MailServer() as server:
            configure(settings, server)
            yield server

    def test_a_template_that_is_not_saved_is_shown_as_it_will_read(self, admin: Client) -> None:
        data = {"name": EVIL, "template": "{task_name}: {rows_count}", "events": ["success", "failure"]}
        answer = admin.post(self.PREVIEW, data).json()
        assert [message["event"] for message in answer["messages"]] == ["success", "failure"]
        assert "1,000" in answer["messages"][0]["text"]
        assert not ExportTask.objects.exists()

    def test_the_usual_message_of_a_failure_gives_a_reason(self, admin: Client) -> None:
        task = make_task()
        make_execution(task, status=Status.FAILED, reason="sql_error", error="no such table: orders")
        asked = {"task": task.pk, "events": ["failure"]}
        assert "no such table" in admin.post(self.PREVIEW, asked).json()["messages"][0]["text"]
        user = make_user(role="editor", sources=[task.data_source])
        user.groups.clear()
        user.user_permissions.set(Permission.objects.filter(codename__in=["change_exporttask", "view_exporttask"]))
        text = client_of(user).post(self.PREVIEW, asked).json()["messages"][0]["text"]
        assert "no such table" not in text
        assert "Reason" in text

    def test_a_channel_of_mail_gets_plain_lines(self, admin: Client) -> None:
        channel = Channel.objects.create(name="list", kind="email")
        answer = admin.post(self.PREVIEW, {"channel": channel.pk, "events": ["success"]}).json()
        assert "Rows: 1,000" in answer["messages"][0]["text"]
        assert "**" not in answer["messages"][0]["text"]

    def test_a_name_that_there_is_not_is_said_while_typing(self, admin: Client) -> None:
        answer = admin.post(self.PREVIEW, {"template": "{task_nam}", "check": "1"}).json()
        assert "Unknown variable {task_nam}. Did you mean {task_name}?" in answer["error"]
        assert admin.post(self.PREVIEW, {"template": "{task_name}", "check": "1"}).json() == {"error": ""}

    def test_a_test_says_what_became_of_each_recipient(self, admin: Client, mail_server: MailServer) -> None:
        answer = admin.post(self.TEST, {"kind": "email", "recipients": "a@example.cn, b@example.cn"}).json()
        assert [line["ok"] for line in answer["results"]] == [True, True]
        assert "a@example.cn" in answer["results"][0]["words"]
        assert mail_server.log.mails
        event = AuditEvent.objects.get(action=audit.Action.TEST)
        assert event.username == "root"

    def test_what_can_not_be_tested_is_said(self, admin: Client) -> None:
        for data, words in (
            ({"kind": "email", "recipients": " , "}, "Enter the addresses first"),
            ({"kind": "email", "recipients": "nobody"}, "nobody"),
            ({"kind": "dingtalk"}, "Enter the webhook first"),
            ({"kind": "dingtalk", "dingtalk_webhook": "http://example.com/"}, "https"),
            ({"channel": ""}, "Choose a channel first"),
        ):
            results = admin.post(self.TEST, data).json()["results"]
            assert [line["ok"] for line in results] == [False], data
            assert words in results[0]["words"]

    def test_a_shared_channel_is_tested_as_on_its_own_page(self, admin: Client) -> None:
        channel = Channel.objects.create(name="group", kind="dingtalk")
        results = admin.post(self.TEST, {"channel": channel.pk}).json()["results"]
        assert [line["ok"] for line in results] == [False]
        assert AuditEvent.objects.get(action=audit.Action.TEST).subject_name == "group"
        for number in ("x", "9" * 30, "0"):
            assert admin.post(self.TEST, {"channel": number}).status_code == 404

    def test_who_may(self) -> None:
        source = make_source()
        elsewhere = make_task()
        for role, preview, test in (("viewer", 403, 403), ("operator", 403, 403), ("editor", 200, 403)):
            client = client_of(make_user(role=role, sources=[source]))
            assert client.post(self.PREVIEW, {"template": ""}).status_code == preview
            assert client.post(self.TEST, {"kind": "email", "recipients": "a@example.cn"}).status_code == test
        assert client.post(self.PREVIEW, {"task": elsewhere.pk}).status_code == 404
        page = text_of(client, ADD)
        assert reverse("admin:tasks_exporttask_preview_message") in page
        assert reverse("admin:tasks_exporttask_test_message") not in page
        unsafe = Client(enforce_csrf_checks=True)
        unsafe.force_login(make_admin())
        assert unsafe.post(self.TEST, {"kind": "dingtalk"}).status_code == 403
        assert unsafe.get(self.TEST).status_code == 405


class TestHistory:
    def changed(self, task: ExportTask, **fields: Any) -> AuditEvent:
        for name, value in fields.items():
            setattr(task, name, value)
        task.save()
        return AuditEvent.objects.about(task).latest("pk")

    def test_who_changed_what_as_a_readable_difference(self, admin: Client) -> None:
        source = make_source(name="warehouse")
        task = make_task(name="orders", sql="SELECT 1\nFROM a\nWHERE x", dingtalk_webhook=WEBHOOK)
        self.changed(task, sql=f"SELECT 1\nFROM {EVIL}\nWHERE x", data_source=source, enabled=False)
        self.changed(task, dingtalk_webhook=WEBHOOK.replace("canary", "canary2"), overlap="queue")
        page = text_of(admin, of("history", task))
        assert re.search(r'exporter-diff-old"><span[^>]*>-</span><span>FROM a<', page)
        assert re.search(r'exporter-diff-new"><span[^>]*>\+</span><span>FROM &lt;img', page)
        assert "warehouse" in page
        assert "<del>yes</del>" in page
        assert "wait for the running one" in page
        assert "changed (not shown)" in page
        assert "canary" not in page
        assert EVIL not in page

    def test_what_became_of_its_rules(self, admin: Client) -> None:
        task = make_task(name="orders")
        other = make_task(name="others")
        group, boss = (Channel.objects.create(name=name, kind="dingtalk") for name in ("night group", "day group"))
        rule = NotificationRule.objects.create(task=task, channel=group, events=["success"])
        NotificationRule.objects.create(task=other, channel=boss, events=["success"])
        NotificationRule.objects.create(task=None, channel=boss, events=["missed"])
        rule.events = ["failure"]
        rule.template = "it has {status}"
        rule.save()
        rule.delete()
        page = text_of(admin, of("history", task))
        assert page.count("Notification rule:") == 3
        assert "<del>success</del>" in page
        assert "<ins>failure</ins>" in page
        assert "it has {status}" in page
        assert page.count("night group") > 3
        assert "(empty)</del>" not in page.split("Notification rule:")[3].split("<h2>")[0]  # nothing was there before
        assert "day group" not in page
        event = AuditEvent.objects.filter(subject_type=NotificationRule._meta.label_lower).latest("pk")
        assert reverse("admin:tasks_exporttask_restore", args=[task.pk, event.pk]) not in page
        assert admin.get(of("restore", task, event.pk)).status_code == 404
        assert "current version" in page

    def test_who_may_not_see_sql_sees_that_it_changed(self) -> None:
        task = make_task(sql="SELECT 'secret-one'")
        self.changed(task, sql="SELECT 'secret-two'")
        page = text_of(client_of(make_user(role="viewer", sources=[task.data_source])), of("history", task))
        assert "secret-" not in page
        assert "changed (not shown)" in page
        assert "Restore" not in page

    def test_what_the_task_asked_of_a_source_of_others_stays_theirs(self) -> None:
        theirs, ours = make_source(name="secret-source"), make_source()
        task = make_task(data_source=theirs, sql="SELECT 'secret-sql'")
        self.changed(task, sql="SELECT 'secret-two'")
        move = self.changed(task, data_source=ours, sql="SELECT 'open'")
        last = self.changed(task, sql="SELECT 'open too'")
        client = client_of(make_user(role="editor", sources=[ours]))
        page = text_of(client, of("history", task))
        assert "secret-" not in page
        assert "open too" in page
        first = AuditEvent.objects.about(task).earliest("pk")
        page = text_of(client, of("restore", task, first.pk))
        assert "can't be restored" in page
        assert "secret-" not in page
        assert client.post(of("restore", task, first.pk), follow=True).status_code == 200
        task.refresh_from_db()
        assert (task.data_source, task.sql) == (ours, "SELECT 'open too'")
        assert move.pk < last.pk

    def test_an_earlier_version_comes_back_after_a_question(self, admin: Client) -> None:
        task = make_task(name="orders", sql="SELECT 1", cron="0 9 * * *", tags=["a"], dingtalk_webhook=WEBHOOK)
        first = AuditEvent.objects.about(task).get()
        newer = WEBHOOK.replace("canary", "another")
        self.changed(task, name="renamed", sql="SELECT 2", tags=[], description="new", dingtalk_webhook=newer)
        self.changed(task, sql="SELECT 3", cron="", enabled=False)
        url = of("restore", task, first.pk)
        page = text_of(admin, url)
        assert "SELECT 3" in page
        assert "SELECT 1" in page
        task.refresh_from_db()
        assert task.sql == "SELECT 3"  # looking changes nothing
        assert "6 fields are as in that version" in said(admin, url, {})
        task.refresh_from_db()
        assert (task.name, task.sql, task.cron, task.tags, task.description, task.enabled) == (
            *("orders", "SELECT 1", "0 9 * * *", ["a"], "", True),
        )
        assert task.dingtalk_webhook == newer
        assert task.next_run_at is not None
        assert task.next_run_at > timezone.now()
        event = AuditEvent.objects.about(task).latest("pk")
        assert (event.username, event.action) == ("root", "edit")
        assert "restored" in event.note
        assert event.changes["sql"] == ["SELECT 3", "SELECT 1"]
        assert "Nothing to restore" in said(admin, url, {})

    def test_a_version_in_the_middle(self, admin: Client) -> None:
        task = make_task(sql="SELECT 1")
        middle = self.changed(task, sql="SELECT 2", description="two")
        self.changed(task, sql="SELECT 3")
        self.changed(task, description="four")
        admin.post(of("restore", task, middle.pk))
        task.refresh_from_db()
        assert (task.sql, task.description) == ("SELECT 2", "two")

    def test_a_version_that_could_not_run_any_more_is_refused(self, admin: Client) -> None:
        task = make_task(name="orders", sql="DROP TABLE t", validate=False)
        first = AuditEvent.objects.about(task).get()
        self.changed(task, sql="SELECT 1", name="renamed")
        make_task(name="orders")
        url = of("restore", task, first.pk)
        page = text_of(admin, url)
        assert "can't be restored" in page
        assert "already exists" in page
        assert 'method="post" class="exporter-dialog-buttons' not in page
        assert "SQL: " in said(admin, url, {})
        task.refresh_from_db()
        assert (task.name, task.sql) == ("renamed", "SELECT 1")

    @pytest.mark.parametrize(
        "sql",
        ["SELECT '" + "x" * audit.LONGEST + "'", "SELECT * FROM t WHERE token='abcdefgh'"],
        ids=["long", "secret"],
    )
    def test_what_the_audit_does_not_hold_whole_is_not_made_up(self, admin: Client, sql: str) -> None:
        task = make_task(sql=sql)
        first = AuditEvent.objects.about(task).get()
        self.changed(task, sql="SELECT 1", description="new")
        assert "does not hold" in text_of(admin, of("restore", task, first.pk))
        assert "does not hold" in said(admin, of("restore", task, first.pk), {})
        task.refresh_from_db()
        assert (task.sql, task.description) == ("SELECT 1", "new")

    def test_an_editor_brings_no_owner_back(self) -> None:
        task = make_task(owner=make_admin(), sql="SELECT 1")
        first = AuditEvent.objects.about(task).get()
        editor = make_user(role="editor", sources=[task.data_source])
        self.changed(task, owner=editor, sql="SELECT 2")
        client_of(editor).post(of("restore", task, first.pk))
        task.refresh_from_db()
        assert (task.owner, task.sql) == (editor, "SELECT 1")

    def test_who_may_restore(self) -> None:
        task, other = make_task(sql="SELECT 1"), make_task()
        first = AuditEvent.objects.about(task).get()
        self.changed(task, sql="SELECT 2")
        url = of("restore", task, first.pk)
        for role, status in (("viewer", 403), ("operator", 403)):
            client = client_of(make_user(role=role, sources=[task.data_source]))
            assert client.get(url).status_code == client.post(url).status_code == status
        editor = make_user(role="editor", sources=[task.data_source])
        assert client_of(editor).get(of("restore", other, first.pk)).status_code == 404
        stranger = client_of(make_user(role="editor", sources=[make_source()]))
        assert stranger.get(url).status_code == stranger.post(url).status_code == 404
        foreign = AuditEvent.objects.about(other).get()
        assert client_of(editor).post(of("restore", task, foreign.pk)).status_code == 404
        unsafe = Client(enforce_csrf_checks=True)
        unsafe.force_login(editor)
        assert unsafe.post(url).status_code == 403
        assert client_of(editor).put(url).status_code == 405
        task.refresh_from_db()
        assert task.sql == "SELECT 2"

    def test_a_long_history_has_pages_and_a_fixed_number_of_queries(self, admin: Client) -> None:
        task = make_task()

        def queries() -> int:
            with CaptureQueriesContext(connection) as captured:
                assert admin.get(of("history", task)).status_code == 200
            return len(captured)

        self.changed(task, description="0")
        few = queries()
        for number in range(25):
            self.changed(task, description=f"text {number}", data_source=make_source(), owner=make_user())
        assert queries() <= few + 2
        assert "text 24" in text_of(admin, of("history", task))
        assert "text 1<" in text_of(admin, of("history", task), page="2")
        assert text_of(admin, of("history", task), page="nonsense")

    def test_the_differences_of_long_texts(self) -> None:
        from tasks.task_history import differences

        old = "\n".join(f"line {number}" for number in range(100))
        lines = list(differences(old, old.replace("line 10\n", "line ten\n").replace("line 90\n", "")))
        assert [line.text for line in lines if line.sign == "-"] == ["line 10", "line 90"]
        assert [line.text for line in lines if line.sign == "+"] == ["line ten"]
        assert [line.sign for line in lines].count("…") == 1
        assert len(lines) < 20
        assert [line.sign for line in differences("a\n" * 4000, "b\n" * 4000)] == ["…"]
