"""The form and the list of tasks in a real browser: help while typing, dialogs, history; nothing typed is lost."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from tests.api import live
from tests.factories import make_sqlite_file
from tests.instance import Instance
from tests.site.test_browser import PASSWORD, chromium  # noqa: F401  # a fixture
from tests.site.test_dashboard import NASTY_NAME, WATCH

FILL = """
from django.contrib.auth.models import User
from datasources.models import DataSource
from notifications.models import Channel, NotificationRule
from tasks.models import Execution, ExportTask
from tasks.states import Status, Trigger
root = User.objects.create_superuser("admin", password={password!r})
source = DataSource.objects.create(name="shop", kind="sqlite", database={file!r})
task = ExportTask.objects.create(name={nasty!r}, data_source=source, sql="SELECT 1\\nFROM orders", cron="0 9 * * *")
channel = Channel.objects.create(name="Operations", kind="webhook")
NotificationRule.objects.create(task=task, channel=channel)
for status in (Status.SUCCEEDED, Status.SUCCEEDED, Status.FAILED, Status.MISSED):
    Execution.objects.filter(pk=Execution.objects.enqueue(task, trigger=Trigger.CLI).pk).update(status=status)
task.sql = "SELECT 2\\nFROM orders"
task.save()
"""


@dataclass(frozen=True, slots=True)
class Site:
    address: str
    instance: Instance

    def of(self, place: str = "") -> str:
        return f"{self.address}/admin/tasks/exporttask/{place}"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Site]:
    """A running installation, without a scheduler, with one task of every kind of trouble in its name."""
    home: Path = tmp_path_factory.mktemp("tasks")
    instance = Instance(home / "instance", request.config.getoption("--system-db"))
    file = make_sqlite_file(home / "shop.db")
    instance.python(FILL.format(password=PASSWORD, file=str(file), nasty=NASTY_NAME))
    with live.gunicorn(instance) as address:
        yield Site(address, instance)
    instance.close()


def log_in(page: Page, site: Site) -> None:
    page.goto(f"{site.address}/admin/")
    page.fill("#id_username", "admin")
    page.fill("#id_password", PASSWORD)
    page.press("#id_password", "Enter")
    page.wait_for_url("**/admin/")


@pytest.fixture(scope="module")
def context(chromium: Browser, site: Site) -> Iterator[BrowserContext]:  # noqa: F811
    context = chromium.new_context(locale="en-US", viewport={"width": 1440, "height": 1000})
    context.set_default_timeout(20_000)
    context.add_init_script(WATCH)
    log_in(context.new_page(), site)
    yield context
    context.close()


@pytest.fixture
def page(context: BrowserContext) -> Iterator[Page]:
    """A page whose console stays clean and whose content security policy is never broken."""
    page = context.new_page()
    troubles: list[str] = []
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("console", lambda message: troubles.append(message.text) if message.type == "error" else None)
    yield page
    assert not troubles
    assert page.evaluate("window.violations ?? []") == []
    assert page.evaluate("window.hacked ?? 0") == 0
    page.close()


def test_a_schedule_is_explained_while_it_is_typed(page: Page, site: Site) -> None:
    page.goto(site.of("add/"))
    words = page.locator("#task-cron-words")
    page.locator("#id_cron").press_sequentially("0 9 * * 1")
    expect(words).to_contain_text("every Monday at 09:00")
    expect(words.locator("li")).to_have_count(5)
    page.fill("#id_timezone", "Europe/Berlin")
    expect(words).to_contain_text("UTC+0")
    expect(words).to_contain_text("Asia/Shanghai")
    page.fill("#id_timezone", "<b>Nowhere</b>")
    expect(words.get_by_role("alert")).to_contain_text("“<b>Nowhere</b>” is not a time zone")
    page.fill("#id_timezone", "Asia/Shanghai")
    page.fill("#id_cron", "0 25 * * *")
    expect(words.get_by_role("alert")).to_contain_text("The field “hour” (25) is not valid")
    page.fill("#id_cron", "0 0 31 2 *")
    expect(words.get_by_role("alert")).to_contain_text("never fires")
    page.get_by_role("button", name="Workdays 09:00").click()
    expect(page.locator("#id_cron")).to_have_value("0 9 * * 1-5")
    expect(words).to_contain_text("Monday to Friday at 09:00")
    expect(page.get_by_role("button", name="Workdays 09:00")).to_have_attribute("aria-pressed", "true")
    page.get_by_role("button", name="Only by hand").click()
    expect(words).to_contain_text("Only by hand.")


def test_messages_are_tried_out_and_nothing_that_is_typed_is_lost(page: Page, site: Site) -> None:
    page.goto(site.of("1/change/"))
    page.fill("#id_description", "not saved yet")
    template = page.locator("#id_rules-0-template")
    template.fill("{task_nam} is ready")
    fault = page.locator("#id_rules-0-template + .exporter-fault")
    expect(fault).to_contain_text("Did you mean {task_name}?")
    template.fill(f"{{rows_count}} rows {NASTY_NAME}")
    expect(fault).to_be_hidden()
    rule = page.locator("#rules-group .form-group").first
    rule.locator('input[name$="-events"][value="failure"]').uncheck()
    rule.get_by_role("button", name="Preview the message").click()
    dialog = page.locator("#task-message")
    expect(dialog.locator("pre").first).to_contain_text(f"rows {NASTY_NAME}")
    expect(dialog.get_by_role("heading", name="success", exact=True)).to_be_visible()
    expect(dialog.get_by_role("heading", name="failure", exact=True)).to_have_count(0)
    dialog.get_by_role("button", name="Close").click()
    expect(dialog).to_be_hidden()

    rule.get_by_role("button", name="Send a test message").click()
    expect(rule.locator(".exporter-said-bad")).to_contain_text("Operations")
    own = page.locator('[data-tools="dingtalk"]')
    own.get_by_role("button", name="Send a test message").click()
    expect(own.locator(".exporter-said-bad")).to_contain_text("Enter the webhook first")
    mail = page.locator('[data-tools="email"]')
    page.fill("#id_email_recipients", "no address")
    mail.get_by_role("button", name="Send a test message").click()
    expect(mail.locator(".exporter-said-bad")).to_contain_text("no address")
    expect(page.locator("#id_description")).to_have_value("not saved yet")


def test_a_new_channel_can_be_chosen_without_leaving_the_form(page: Page, site: Site) -> None:
    page.goto(site.of("1/change/"))
    page.fill("#id_description", "not saved yet")
    rule = page.locator("#rules-group .form-group").first
    with page.context.expect_page() as opened:
        rule.get_by_role("link", name="New channel").click()
    tab = opened.value
    tab.get_by_role("link", name="Webhook").click()
    tab.fill("#id_name", "Finance")
    tab.fill("#id_setting_url", "https://example.com/hook")
    tab.locator('[name="_save"]').click()
    tab.wait_for_url("**/notifications/channel/")
    tab.close()
    page.evaluate('window.dispatchEvent(new Event("focus"))')
    expect(page.locator("#id_rules-0-channel option", has_text="Finance")).to_have_count(1)
    expect(page.locator("#id_description")).to_have_value("not saved yet")


def test_a_rule_that_is_added_has_the_same_help(page: Page, site: Site) -> None:
    page.goto(site.of("add/"))
    page.locator("#rules-group .add-row").click()
    rule = page.locator("#rules-group .form-group:not(.empty-form)").first
    expect(rule.get_by_role("button", name="Preview the message")).to_be_visible()
    rule.get_by_role("button", name="Send a test message").click()
    expect(rule.locator(".exporter-said-bad")).to_contain_text("Choose a channel first")


def test_a_task_is_run_from_its_page_and_from_the_list(page: Page, site: Site) -> None:
    page.goto(site.of("1/change/"))
    page.get_by_role("link", name="Run…").click()
    dialog = page.locator("#dialog")
    expect(dialog).to_contain_text(NASTY_NAME)
    dialog.locator("#id_planned_at").fill("2025-07-01T09:30")
    dialog.get_by_role("button", name="Run").click()
    page.wait_for_url("**/tasks/execution/*/change/")
    expect(page.locator("body")).to_contain_text("2025-07-01 09:30")

    page.goto(site.of())
    expect(page.get_by_role("img", name="The last 5 runs")).to_be_visible()
    page.locator('[x-ref^="rowDropdown"]').first.click()
    page.get_by_role("link", name="Backfill…").click()
    dialog.locator("#id_start").fill("2025-01-01")
    dialog.locator("#id_end").fill("2025-01-03")
    dialog.get_by_role("button", name="Queue the runs").click()
    expect(dialog).to_contain_text("These are 3 runs, from 2025-01-01 09:00 to 2025-01-03 09:00")
    dialog.get_by_role("button", name="Queue the runs").click()
    page.wait_for_url("**/tasks/execution/?task__id__exact=1")
    expect(page.locator("body")).to_contain_text("are queued")


def test_a_copy_is_one_click_away(page: Page, site: Site) -> None:
    page.goto(site.of("1/change/"))
    page.locator("a", has_text="Copy").click()
    page.wait_for_url("**/exporttask/add/?copy=1")
    expect(page.locator("#id_name")).to_have_value(f"{NASTY_NAME} (copy)")
    expect(page.locator("#id_cron")).to_have_value("0 9 * * *")
    expect(page.locator("#id_rules-0-channel")).to_have_value("1")
    page.locator('[name="_save"]').click()
    page.wait_for_url("**/exporttask/")
    expect(page.locator("#result_list")).to_contain_text("(copy)")


def test_an_earlier_version_is_restored_after_a_question(page: Page, site: Site) -> None:
    page.goto(site.of("1/history/"))
    expect(page.locator(".exporter-diff-old")).to_contain_text("SELECT 1")
    expect(page.locator(".exporter-diff-new").first).to_contain_text("SELECT 2")
    page.get_by_role("link", name="Restore this version…").last.click()
    expect(page.locator(".exporter-diff-old")).to_contain_text("SELECT 2")
    page.get_by_role("button", name="Restore this version").click()
    page.wait_for_url("**/exporttask/1/change/")
    expect(page.locator("#id_sql")).to_have_value("SELECT 1\nFROM orders")


def test_when_the_script_does_not_come_everything_can_be_done(context: BrowserContext, site: Site) -> None:
    page = context.new_page()
    page.route("**/task_form.js", lambda route: route.abort())
    page.goto(site.of("1/change/"))
    expect(page.locator("#task-cron-words")).to_contain_text("every day at 09:00")
    expect(page.get_by_role("button", name="Workdays 09:00")).to_have_count(0)
    page.fill("#id_cron", "0 10 * * *")
    page.locator('[name="_save"]').click()
    page.wait_for_url("**/exporttask/")
    expect(page.locator("#result_list")).to_contain_text("every day at 10:00")
    page.close()
