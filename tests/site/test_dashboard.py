"""The dashboard: its figures are true, each leads to the list that shows as many, and nobody sees what is not granted."""

import re
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import time_machine
from django.conf import LazySettings
from django.contrib.auth.models import Permission, User
from django.contrib.sessions.models import Session
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone
from playwright.sync_api import Browser, Locator, Page

from datasources.models import DataSource
from notifications.models import Channel
from tasks import dashboard
from tasks.dashboard_parts import OTHER
from tasks.models import Execution, ExportTask, Pause, SchedulerProcess
from tasks.states import ENDED, Status, Trigger
from tests.factories import make_admin, make_execution, make_scheduler, make_source, make_task, make_user
from tests.instance import Instance
from tests.site.test_browser import PASSWORD, chromium, site  # noqa: F401  # fixtures

# 11:30 in Shanghai: today began at 16:00 UTC of the day before.
NOW = datetime(2026, 3, 10, 3, 30, tzinfo=UTC)
TODAY = date(2026, 3, 10)
LIVE = "/admin/live/"


@pytest.fixture
def _at_half_past_eleven() -> Iterator[None]:
    with time_machine.travel(NOW, tick=False):
        yield


frozen = pytest.mark.usefixtures("_at_half_past_eleven")


@pytest.fixture
def admin(db: None) -> User:
    return make_admin()


def logged_in(user: User) -> Client:
    client = Client()
    client.force_login(user)
    return client


def ended(task: ExportTask, status: Status, at: datetime, **fields: Any) -> Execution:
    """A run that has ended at `at`."""
    success = {"sha256": "a" * 64, "duration_seconds": 10.0, "rows_count": 3} if status == Status.SUCCEEDED else {}
    return make_execution(task, status=status, finished_at=at, **success | fields)


def shown_by(client: Client, url: str) -> int:
    """How many rows the list at `url` has."""
    response = client.get(url)
    assert response.status_code == 200, url
    count: int = response.context["cl"].result_count
    return count


def figures_of(user: User) -> dict[str, int]:
    return dashboard.live(user).counts


@frozen
def test_every_state_is_counted_for_today_and_leads_to_as_many(admin: User) -> None:
    task = make_task()
    begin = datetime(2026, 3, 9, 16, 0, tzinfo=UTC)  # midnight in Shanghai
    wanted = {status: number for number, status in enumerate(Status, start=1)}
    for status, count in wanted.items():
        for _number in range(count):
            if status in ENDED:
                ended(task, status, begin + timedelta(minutes=count))
            else:
                make_execution(task, status=status)
    ended(task, Status.SUCCEEDED, begin)
    ended(task, Status.FAILED, begin - timedelta(microseconds=1))  # yesterday
    wanted[Status.SUCCEEDED] += 1
    live = dashboard.live(admin)
    assert live.counts == wanted
    assert live.day == TODAY
    client = logged_in(admin)
    for figure in live.figures:
        assert shown_by(client, figure.url) == figure.count, figure
    assert live.bad_today == wanted[Status.FAILED] + wanted[Status.TIMED_OUT] == shown_by(client, live.bad_today_url)


@frozen
def test_the_trend_has_a_bar_for_each_of_fourteen_days_that_leads_to_its_runs(admin: User) -> None:
    task = make_task()
    for days in range(16):
        ended(task, Status.SUCCEEDED, NOW - timedelta(days=days))
    ended(task, Status.FAILED, NOW - timedelta(days=2))
    ended(task, Status.TIMED_OUT, NOW - timedelta(days=2))
    for status in OTHER:
        ended(task, status, NOW - timedelta(days=3))
    make_execution(task, status=Status.RUNNING)
    trend = dashboard.overview(admin).trend
    assert trend is not None
    assert [day.date for day in trend.days] == [TODAY - timedelta(days=ago) for ago in range(13, -1, -1)]
    assert [day.good for day in trend.days] == [1] * 14
    assert (trend.days[-3].bad, trend.days[-4].other) == (2, 3)
    assert sum(day.total for day in trend.days) == 14 + 2 + 3
    assert trend.days[-4].heights == {"good": 25.0, "bad": 0, "other": 75.0}
    client = logged_in(admin)
    for day in trend.days:
        assert shown_by(client, day.url) == day.total, day.date
        assert shown_by(client, day.bad_url) == day.bad
    assert trend.sums == {"good": 14, "bad": 2, "other": 3}
    for name, url in trend.urls.items():
        assert shown_by(client, url) == trend.sums[name]
    page = client.get("/admin/", headers={"accept-language": "en"}).content.decode()
    assert 'aria-label="March 7, Saturday: 1 succeeded, 0 failed, 3 other"' in page


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("zone", "day", "hours", "now"),
    [
        ("America/New_York", date(2026, 3, 8), 23, datetime(2026, 3, 9, 12, tzinfo=UTC)),
        ("America/New_York", date(2026, 11, 1), 25, datetime(2026, 11, 2, 12, tzinfo=UTC)),
        # There is no midnight: at 24:00 the clocks are set to 01:00.
        ("America/Sao_Paulo", date(2018, 11, 4), 23, datetime(2018, 11, 5, 12, tzinfo=UTC)),
        ("Asia/Kathmandu", date(2026, 3, 8), 24, datetime(2026, 3, 9, 12, tzinfo=UTC)),
    ],
)
def test_a_day_is_that_of_the_systems_zone(
    settings: LazySettings, zone: str, day: date, hours: int, now: datetime
) -> None:
    settings.TIME_ZONE = zone
    begin, end = dashboard.day_start(day), dashboard.day_start(day + timedelta(days=1))
    # In UTC: Python subtracts the clocks of two times in one zone, not the moments.
    assert end.astimezone(UTC) - begin.astimezone(UTC) == timedelta(hours=hours)
    task, second = make_task(), timedelta(seconds=1)
    for moment in (begin, end):
        for there in (moment.astimezone(UTC) - second, moment.astimezone(UTC)):
            ended(task, Status.SUCCEEDED, there)
    with time_machine.travel(now, tick=False):
        admin = make_admin()
        trend = dashboard.overview(admin).trend
        assert trend is not None
        found = {bar.date: bar.good for bar in trend.days if bar.good}
        assert found == {day - timedelta(days=1): 1, day: 2, day + timedelta(days=1): 1}
        assert shown_by(logged_in(admin), f"/admin/tasks/execution/?ended={day}") == 2


@frozen
def test_failing_and_slowest_tasks_of_the_last_seven_days(admin: User) -> None:
    broken, mended, slow, quick = (make_task(name=name) for name in ("broken", "mended", "slow", "quick"))
    for minutes in (30, 20, 10):
        ended(mended, Status.FAILED, NOW - timedelta(minutes=minutes), reason="sql_error")
    ended(mended, Status.SUCCEEDED, NOW - timedelta(minutes=5), duration_seconds=20.0)
    ended(broken, Status.SUCCEEDED, NOW - timedelta(days=3), duration_seconds=2.0)
    ended(broken, Status.TIMED_OUT, NOW - timedelta(days=2), reason="query_timeout")
    ended(slow, Status.SUCCEEDED, NOW - timedelta(days=1), duration_seconds=100.0)
    ended(slow, Status.SUCCEEDED, NOW, duration_seconds=300.0)
    ended(quick, Status.SUCCEEDED, NOW, duration_seconds=0.5)
    ended(quick, Status.FAILED, NOW - timedelta(days=8))
    orphan = ended(slow, Status.FAILED, NOW)  # its task has been deleted
    Execution.objects.filter(pk=orphan.pk).update(task=None)
    found = dashboard.overview(admin)
    assert [(row.last.task_name, row.failures, row.is_over) for row in found.failing] == [
        ("broken", 1, False),
        ("mended", 3, True),
    ]
    assert [(row.task_name, row.average, row.longest, row.runs) for row in found.slowest] == [
        ("slow", 200.0, 300.0, 2),
        ("mended", 20.0, 20.0, 1),
        ("broken", 2.0, 2.0, 1),
        ("quick", 0.5, 0.5, 1),
    ]
    client = logged_in(admin)
    for failing in found.failing:
        assert shown_by(client, failing.url) == failing.failures
    for row in found.slowest:
        assert shown_by(client, row.url) == row.runs
    assert shown_by(client, found.failures_url) == 5
    page = client.get("/admin/", headers={"accept-language": "en"}).content.decode()
    assert "still failing" in page
    assert "3 min 20 s on average" in page


@frozen
def test_what_runs_is_compared_with_the_last_success_and_never_pretends(admin: User) -> None:
    known, longer, new = make_task(), make_task(), make_task()
    for task in (known, longer):
        ended(task, Status.SUCCEEDED, NOW - timedelta(days=1), rows_count=9_999_999)
        ended(task, Status.SUCCEEDED, NOW - timedelta(hours=1), rows_count=1000)
        ended(task, Status.FAILED, NOW - timedelta(minutes=1), rows_count=7)
    for task, rows in ((known, 250), (longer, 1001), (new, 5)):
        make_execution(
            task,
            status=Status.RUNNING,
            started_at=NOW - timedelta(seconds=65),
            progress={"rows": rows, "bytes": 2048, "rate": 4},
        )
    first, second, third = dashboard.live(admin).running
    assert (first.rows, first.rate, first.bytes, first.elapsed, first.percent) == (250, 4, 2048, 65.0, 25)
    assert (second.expected, second.percent) == (1000, None)
    assert (third.expected, third.percent) == (None, None)
    page = logged_in(admin).get(LIVE, headers={"accept-language": "en"}).content.decode()
    assert "25% of the 1,000 rows of the last time" in page
    assert "more than the 1,000 rows of the last time" in page
    assert page.count('class="exporter-run-bar"') == 2
    assert "1 min 05 s" in page


@frozen
def test_a_run_that_has_just_begun_shows_zeros(admin: User) -> None:
    make_execution(status=Status.RUNNING, started_at=NOW + timedelta(seconds=2), progress={})
    (row,) = dashboard.live(admin).running
    assert (row.rows, row.rate, row.bytes, row.elapsed, row.percent) == (0, 0, 0, 0.0, None)


@frozen
def test_of_many_running_twenty_are_listed_and_the_others_counted(admin: User) -> None:
    task = make_task()
    for _number in range(23):
        make_execution(task, status=Status.RUNNING)
    live = dashboard.live(admin)
    assert (len(live.running), live.hidden_running) == (20, 3)


@frozen
def test_the_next_runs_are_those_of_ten_tasks_with_what_would_hold_them_up(admin: User) -> None:
    for minutes in range(12):
        task = make_task(name=f"t{minutes:02d}", cron="0 9 * * *")
        ExportTask.objects.filter(pk=task.pk).update(next_run_at=NOW + timedelta(minutes=minutes))
    make_task(name="off", cron="* * * * *", enabled=False)
    make_task(name="by hand")
    ExportTask.objects.filter(name="t00").update(next_run_at=NOW - timedelta(minutes=5))
    ExportTask.objects.filter(name="t02").update(timezone="America/New_York")
    DataSource.objects.filter(tasks__name="t01").update(is_active=False)
    found = dashboard.live(admin).next
    assert [row.task_name for row in found] == [f"t{minutes:02d}" for minutes in range(10)]
    assert [row.is_overdue for row in found[:3]] == [True, False, False]
    assert [row.is_blocked for row in found[:3]] == [False, True, False]
    assert "America/New_York" in found[2].schedule
    assert "(" not in found[3].schedule


@frozen
def test_the_verdict(admin: User) -> None:
    client = logged_in(admin)

    def verdict() -> str:
        page = client.get(LIVE, headers={"accept-language": "en"}).content.decode()
        found = re.search(r'id="dash-verdict".*?</section>', page, re.DOTALL)
        assert found
        return found[0]

    assert "exporter-verdict-bad" in verdict()  # no scheduler
    SchedulerProcess.objects.beat("web1:1:x", executor="local", workers=4, running=1)
    SchedulerProcess.objects.update(seen_at=datetime(2999, 1, 1, tzinfo=UTC))  # the database's clock is not frozen
    assert "All is well" in verdict()
    assert "1 of 4 workers busy" in client.get(LIVE, headers={"accept-language": "en"}).content.decode()
    ended(make_task(), Status.MISSED, NOW)
    assert "1 was missed today." in verdict()
    ended(make_task(), Status.FAILED, NOW)
    assert "1 run failed today." in verdict()
    Pause.objects.begin("ops")
    assert "Paused" in verdict()
    page = client.get("/admin/", headers={"accept-language": "en"}).content.decode()
    assert page.count("All runs have been paused by ops") == 1


def test_the_red_banner_is_said_once_and_is_live(admin: User) -> None:
    client = logged_in(admin)
    for url in ("/admin/", LIVE):
        page = client.get(url, headers={"accept-language": "en"}).content.decode()
        assert page.count("No scheduler is running") == 1
    make_scheduler().care()
    assert "No scheduler is running" not in client.get(LIVE, headers={"accept-language": "en"}).content.decode()


def test_how_soon_it_is_worth_looking_again(admin: User) -> None:
    assert dashboard.live(admin).wait == 15000
    waiting = make_execution()
    assert dashboard.live(admin).wait == 15000  # nobody starts it
    make_scheduler().care()
    assert dashboard.live(admin).wait == 3000
    Execution.objects.filter(pk=waiting.pk).update(status=Status.RUNNING)
    assert dashboard.live(admin).wait == 1000


def test_a_new_system_says_what_to_do_next(admin: User) -> None:
    client = logged_in(admin)
    page = client.get("/admin/").content.decode()
    for name in ("datasources_datasource", "tasks_exporttask", "notifications_channel"):
        assert f'href="{reverse(f"admin:{name}_add")}"' in page
    assert [step.name for step in dashboard.overview(admin).steps if step.is_next] == ["source"]
    make_source()
    assert [step.name for step in dashboard.overview(admin).steps if step.is_next] == ["task"]
    task = make_task()
    Channel.objects.create(name="ops", kind="webhook")
    steps = dashboard.overview(admin).steps
    assert [step.is_done for step in steps] == [True, True, True, False]
    assert steps[-1].url == reverse("admin:tasks_exporttask_changelist")
    make_execution(task)
    assert dashboard.overview(admin).steps == []


def test_who_may_not_take_a_step_gets_no_button(db: None) -> None:
    page = logged_in(make_user(role="viewer")).get("/admin/", headers={"accept-language": "en"}).content.decode()
    assert "/add/" not in page
    assert "Ask an administrator" in page


def test_a_member_of_staff_without_any_right_sees_no_figure(db: None) -> None:
    make_execution(make_task(name="hidden name", cron="* * * * *"), status=Status.RUNNING)
    user = make_user(is_staff=True)
    for url in ("/admin/", LIVE, f"{LIVE}?all"):
        page = logged_in(user).get(url, headers={"accept-language": "en"}).content.decode()
        assert "hidden name" not in page
        assert "exporter-tile" not in page
    live, overview = dashboard.live(user), dashboard.overview(user)
    assert (live.figures, live.running, live.next) == ([], [], [])
    assert (overview.trend, overview.failing, overview.slowest, overview.steps) == (None, [], [], [])


@frozen
@pytest.mark.parametrize("role", ["viewer", "operator", "editor"])
def test_only_granted_sources_count(role: str, admin: User) -> None:
    ours, theirs = make_source(name="our source"), make_source(name="secret source")
    user = make_user(role=role, sources=[ours])
    for number, source in enumerate((ours, theirs, theirs)):
        name = f"{'our' if source == ours else 'secret'} task {number}"
        task = make_task(name=name, data_source=source, cron="0 9 * * *")
        for status in ENDED:
            ended(task, status, NOW, reason="sql_error" if status == Status.FAILED else "")
        make_execution(task, status=Status.RUNNING, started_at=NOW)
        make_execution(task)
    assert set(figures_of(user).values()) == {1}
    assert set(figures_of(admin).values()) == {3}
    overview = dashboard.overview(user)
    assert overview.trend is not None
    assert overview.trend.sums == {"good": 1, "bad": 2, "other": 3}
    client = logged_in(user)
    for figure in dashboard.live(user).figures:
        assert shown_by(client, figure.url) == figure.count
    for day in overview.trend.days:
        assert shown_by(client, day.url) == day.total
    for url in ("/admin/", LIVE, f"{LIVE}?all"):
        page = client.get(url).content.decode()
        assert "our task 0" in page
        assert "secret" not in page


def test_the_last_success_on_another_source_is_not_told(db: None) -> None:
    """A task that was moved: how many rows it had on the source that is not granted stays there."""
    ours, theirs = make_source(), make_source()
    task = make_task(data_source=ours)
    ended(task, Status.SUCCEEDED, timezone.now(), data_source=theirs, rows_count=123)
    make_execution(task, status=Status.RUNNING)
    (row,) = dashboard.live(make_user(role="viewer", sources=[ours])).running
    assert row.expected is None


def test_what_is_counted_for_a_user_is_what_for_user_says(db: None) -> None:
    sources = [make_source() for _number in range(3)]
    for source in sources:
        make_execution(make_task(data_source=source))
    orphan = make_execution()
    Execution.objects.filter(pk=orphan.pk).update(data_source=None)
    for user in (make_user(role="viewer"), make_user(role="viewer", sources=sources[:2]), make_admin()):
        assert set(dashboard._executions_of(user)) == set(Execution.objects.for_user(user))


@frozen
@pytest.mark.django_db
@pytest.mark.parametrize("is_admin", [True, False])
def test_the_number_of_queries_does_not_depend_on_the_number_of_rows(is_admin: bool) -> None:
    sources = [make_source() for _number in range(3)]
    tasks = [make_task(data_source=source, cron="0 9 * * *") for source in sources for _number in range(4)]
    user = make_admin() if is_admin else make_user(role="operator", sources=sources)
    client = logged_in(user)

    def fill(count: int) -> None:
        states = list(Status)
        Execution.objects.bulk_create(
            Execution(
                task=task,
                task_name=task.name,
                data_source=task.data_source,
                status=states[number % len(states)],
                trigger=Trigger.SCHEDULE,
                planned_at=NOW,
                finished_at=NOW - timedelta(minutes=number * 10) if number % len(states) > 1 else None,
                duration_seconds=number,
                reason="sql_error",
                format="csv",
                sql_template="SELECT 1",
            )
            for number in range(count)
            for task in [tasks[number % len(tasks)]]
        )

    def queries(url: str) -> int:
        with CaptureQueriesContext(connection) as captured:
            assert client.get(url).status_code == 200
        return len(captured)

    urls = ("/admin/", LIVE, f"{LIVE}?all")
    fill(10)
    few = [queries(url) for url in urls]
    fill(2000)
    assert [queries(url) for url in urls] == few
    assert max(few) <= 32


def test_looking_does_not_keep_a_login_alive(admin: User) -> None:
    client = logged_in(admin)
    Session.objects.update(expire_date=timezone.now() + timedelta(minutes=5))
    before = Session.objects.get().expire_date
    for url in (LIVE, f"{LIVE}?all"):
        response = client.get(url)
        assert response.status_code == 200
        assert not response.cookies
        assert "no-store" in response.headers["Cache-Control"]
    assert Session.objects.get().expire_date == before
    client.get("/admin/")
    assert Session.objects.get().expire_date > before


def test_only_staff_sees_the_live_part(db: None) -> None:
    for client in (Client(), logged_in(make_user())):
        for url in (LIVE, f"{LIVE}?all", f"{LIVE}1/cancel/"):
            response = client.get(url)
            assert response.status_code == 302
            assert response.headers["Location"].startswith("/admin/login/")
    staff = logged_in(make_user(role="viewer"))
    for verb in ("post", "put", "patch", "delete"):
        assert getattr(staff, verb)(LIVE).status_code == 405
    assert staff.get(f"{LIVE}1/cancel/").status_code == 405


def test_cancelling_from_the_dashboard(db: None) -> None:
    source = make_source()
    running = make_execution(make_task(data_source=source), status=Status.RUNNING)
    queued = make_execution(make_task(data_source=source))
    elsewhere = make_execution(status=Status.RUNNING)
    viewer, operator = (make_user(role=role, sources=[source]) for role in ("viewer", "operator"))

    def post(client: Client, execution: Execution) -> int:
        return client.post(reverse("dashboard-cancel", args=[execution.pk])).status_code

    assert post(logged_in(viewer), running) == 403
    assert post(Client(), running) == 302
    unsafe = Client(enforce_csrf_checks=True)
    unsafe.force_login(operator)
    assert post(unsafe, running) == 403
    runner_only = make_user(is_staff=True)
    runner_only.user_permissions.add(Permission.objects.get(codename="run_exporttask"))
    assert post(logged_in(runner_only), running) == 403
    client = logged_in(operator)
    assert post(client, elsewhere) == 404
    assert not Execution.objects.filter(cancel_requested_at__isnull=False).exists()
    assert "data-cancel" not in logged_in(viewer).get(LIVE).content.decode()
    assert client.get(LIVE).content.decode().count("data-cancel") == 1

    assert post(client, running) == post(client, queued) == 302
    running.refresh_from_db()
    queued.refresh_from_db()
    assert running.cancel_requested_at is not None
    assert queued.status == Status.CANCELLED
    assert "data-cancel" not in client.get(LIVE).content.decode()
    assert post(client, queued) == 302
    assert "已经结束" in client.get("/admin/").content.decode()


@pytest.mark.parametrize("nasty", ["<script>alert(1)</script>", "\"><img src=x onerror='alert(1)'>", "{{ 7*7 }}"])
def test_names_and_errors_are_text(admin: User, nasty: str) -> None:
    task = make_task(name=nasty, cron="0 9 * * *", data_source=make_source(name=f"{nasty} source"))
    ended(task, Status.FAILED, timezone.now(), reason=nasty[:40], error=nasty)
    ended(task, Status.SUCCEEDED, timezone.now())
    make_execution(task, status=Status.RUNNING, progress={"rows": 1})
    SchedulerProcess.objects.beat(nasty, executor="local", workers=1)
    client = logged_in(admin)
    for url in ("/admin/", f"{LIVE}?all"):
        page = client.get(url).content.decode()
        assert "<script>alert" not in page
        assert "<img src=x" not in page
        assert "49" not in re.findall(r"<a [^>]*>([^<]*)</a>", page)
    assert shown_by(client, f"/admin/tasks/execution/?ended={nasty}") == 0


@frozen
def test_the_list_understands_days_and_nothing_else(admin: User) -> None:
    task = make_task()
    ended(task, Status.SUCCEEDED, NOW)
    ended(task, Status.SUCCEEDED, NOW - timedelta(days=5))
    make_execution(task)
    client = logged_in(admin)
    for value, count in {
        "2026-03-10": 1,
        "2026-03-05": 1,
        "2026-03-09": 0,
        "7d": 2,
        "14d": 2,
        "": 3,
        "9999-12-31": 0,
        "0001-01-01": 0,
        "today": 0,
        "2026-13-01": 0,
    }.items():
        assert shown_by(client, f"/admin/tasks/execution/?ended={value}") == count, value


# In a browser

# Each row costs some milliseconds, and is so wide that a batch is full after a dozen of them.
SLOW = (
    "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r WHERE n < {rows}) "
    "SELECT n, hex(zeroblob(20000)) AS wide, "
    "(WITH RECURSIVE s(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM s WHERE i < 60000 + n % 2) SELECT max(i) FROM s) AS x "
    "FROM r"
)
START = """
from datasources.models import DataSource
from tasks.models import Execution, ExportTask
from tasks.states import Trigger
source, _ = DataSource.objects.get_or_create(name="商店", kind="sqlite", database={file!r})
task = ExportTask.objects.create(name={name!r}, data_source=source, sql={sql!r}, format="csv")
Execution.objects.enqueue(task, trigger=Trigger.MANUAL)
"""
WATCH = (
    'document.addEventListener("securitypolicyviolation", (e) => (window.violations ??= []).push(e.violatedDirective))'
)
ROWS = '[data-figure="rows"]'
GROWN = f"then => Number(document.querySelector('{ROWS}')?.textContent.replaceAll(',', '')) > then"
NASTY_NAME = "<img src=x onerror=window.hacked=1>"


def start(instance: Instance, file: Path, name: str, rows: int) -> None:
    instance.python(START.format(file=str(file), name=name, sql=SLOW.format(rows=rows)))


def rows_on(page: Page) -> int:
    return int(page.locator(ROWS).inner_text().replace(",", ""))


def tile(page: Page, state: str, count: int) -> Locator:
    return page.locator(f".exporter-tile-{state} strong", has_text=re.compile(f"^{count}$"))


def look_again(page: Page) -> None:
    """What the page does when somebody comes back to it."""
    page.evaluate('document.dispatchEvent(new Event("visibilitychange"))')


def test_a_running_export_is_seen_growing_cancelled_and_an_old_page_says_so(
    chromium: Browser,  # noqa: F811
    site: str,  # noqa: F811
    instance: Instance,
    tmp_path: Path,
) -> None:
    file = tmp_path / "shop.db"
    file.write_bytes(b"")
    context = chromium.new_context(locale="zh-CN")
    context.add_init_script(WATCH)
    page = context.new_page()
    troubles: list[str] = []
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("console", lambda message: troubles.append(message.text) if message.type == "error" else None)
    page.goto(site)
    page.fill("#id_username", "admin")
    page.fill("#id_password", PASSWORD)
    page.press("#id_password", "Enter")
    page.wait_for_url("**/admin/")
    page.evaluate("window.same = true")

    # It grows, in the same page, and what has the focus keeps it.
    start(instance, file, NASTY_NAME, 600)
    look_again(page)
    page.locator(ROWS).wait_for()
    page.locator("[data-cancel]").focus()
    page.wait_for_function(GROWN, arg=0)
    then = rows_on(page)
    page.wait_for_function(GROWN, arg=then)
    assert page.evaluate("document.activeElement.dataset.task").startswith(NASTY_NAME)
    page.locator(ROWS).wait_for(state="detached", timeout=180_000)
    tile(page, "succeeded", 1).wait_for()
    assert page.evaluate("window.same")

    # It is cancelled, after a question.
    start(instance, file, "endless", 10**9)
    look_again(page)
    page.locator("[data-cancel]").click()
    assert "endless #2" in page.locator("#dash-cancel").inner_text()
    page.locator("#dash-cancel [data-close]").click()
    assert page.locator("[data-cancel]").count() == 1
    page.locator("[data-cancel]").click()
    page.locator("#dash-cancel [type=submit]").click()
    page.locator(ROWS).wait_for(state="detached", timeout=30_000)
    tile(page, "cancelled", 1).wait_for()
    tile(page, "running", 0).wait_for()
    tile(page, "succeeded", 1).wait_for()
    assert not troubles
    assert page.evaluate("window.violations ?? []") == []
    assert page.evaluate("window.hacked ?? 0") == 0

    # It says when it is old: without connection, and without login.
    page.route("**/admin/live/**", lambda route: route.abort())
    look_again(page)
    page.locator("#dash-stale-lost").wait_for()
    page.unroute("**/admin/live/**")
    page.locator("#dash-stale-lost").wait_for(state="hidden")
    context.clear_cookies()
    look_again(page)
    page.locator("#dash-stale-login").wait_for()
    context.close()
