"""The way of a newcomer, in a real browser against real processes: from the first password to the first file."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openpyxl
import pytest
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from tests.api import live
from tests.factories import make_sqlite_file
from tests.faults.load import configure
from tests.instance import Instance
from tests.servers.robots import Robots

PASSWORD = "correct horse battery"
FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
# What the policy of a page forbids is noted in it.
WATCH = """
window.violations = [];
document.addEventListener("securitypolicyviolation", (event) => window.violations.push(event.violatedDirective));
"""
SHOP = (
    "CREATE TABLE orders (id INTEGER PRIMARY KEY, customer TEXT, created DATE)",
    """INSERT INTO orders WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300000)
    SELECT i, '客户' || i, '2025-01-01' FROM n""",
)
MOST_STEPS = 40


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    binary = shutil.which("chromium") or shutil.which("chromium-browser")
    if binary is None:
        missing = "Chromium is missing: apt-get install chromium"
        if os.environ.get("EXPORTER_TESTS_ALLOW_MISSING") == "1":
            pytest.skip(missing)
        pytest.fail(missing, pytrace=False)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=binary, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def site(instance: Instance) -> Iterator[str]:
    """The address of a running installation with the user admin."""
    instance.manage(
        *("createsuperuser", "--noinput", "--username=admin", "--email=admin@example.cn"),
        env={"DJANGO_SUPERUSER_PASSWORD": PASSWORD},
    )
    with running(instance) as address:
        yield address


class running:
    """Web and scheduler of `instance`; gives the address."""

    def __init__(self, instance: Instance) -> None:
        self.instance, self.web = instance, live.gunicorn(instance)

    def __enter__(self) -> str:
        address = self.web.__enter__()
        self.scheduler = self.instance.spawn("runscheduler")
        return address

    def __exit__(self, *exc: Any) -> None:
        self.scheduler.terminate()
        self.scheduler.wait(20)
        self.web.__exit__(*exc)


class Newcomer:
    """Somebody with a mouse and a keyboard; `steps` counts what they do: a click, a text that is typed, a key."""

    def __init__(self, page: Page) -> None:
        self.page, self.steps = page, 0

    def click(self, place: Locator) -> None:
        self.steps += 1
        place.click()

    def type(self, place: str, text: str) -> None:
        self.steps += 1
        self.page.locator(place).fill(text)

    def choose(self, place: str, value: str) -> None:
        self.steps += 1
        self.page.select_option(place, value)

    def press(self, key: str) -> None:
        self.steps += 1
        self.page.keyboard.press(key)


def test_a_newcomer_comes_from_the_first_password_to_the_first_file(
    chromium: Browser, instance: Instance, tmp_path: Path
) -> None:
    file = make_sqlite_file(tmp_path / "shop.db", SHOP)
    first_password = json.loads(instance.manage("ensureadmin", "--json").stdout)["password"]
    with Robots() as robots:
        robot = robots.add("dingtalk")
        configure(instance, notifications={"private_hosts": [robots.place]})
        with running(instance) as address:
            context = chromium.new_context(locale="zh-CN", accept_downloads=True)
            context.set_default_timeout(60_000)
            context.add_init_script(WATCH)
            page = context.new_page()
            troubles: list[str] = []
            page.on("pageerror", lambda error: troubles.append(str(error)))
            page.on("console", lambda message: troubles.append(message.text) if message.type == "error" else None)
            newcomer = Newcomer(page)
            page.goto(address)
            log_in(newcomer, first_password)
            add_source(newcomer, file)
            add_task(newcomer, robot.url)
            path = get_file(newcomer)
            assert page.evaluate("window.violations") == []
            assert not troubles
            context.close()
    rows = list(openpyxl.load_workbook(path, read_only=True).worksheets[0].iter_rows(max_row=3, values_only=True))
    assert rows[:2] == [("id", "customer", "created"), (1, "客户1", rows[1][2])]
    assert [message.title for message in robots.accepted][-1].endswith("每日订单：导出完成")
    assert newcomer.steps <= MOST_STEPS


def log_in(newcomer: Newcomer, password: str) -> None:
    page = newcomer.page
    newcomer.type("#id_username", "admin")
    newcomer.type("#id_password", password)
    newcomer.press("Enter")
    page.wait_for_url("**/password_change/**")
    newcomer.type("#id_old_password", password)
    newcomer.type("#id_new_password1", PASSWORD)
    newcomer.type("#id_new_password2", PASSWORD)
    newcomer.press("Enter")
    page.locator("#dashboard").wait_for()


def add_source(newcomer: Newcomer, file: Path) -> None:
    page = newcomer.page
    newcomer.click(page.get_by_role("link", name="添加数据源"))
    newcomer.choose("#id_kind", "sqlite")
    newcomer.type("#id_name", "商店")
    newcomer.type("#id_database", str(file))
    newcomer.click(page.get_by_role("button", name="测试连接", exact=True))
    expect(page.locator(".exporter-trial-result")).to_contain_text("SQLite 3")
    newcomer.click(page.locator('[name="_save"]'))
    page.wait_for_url("**/datasources/datasource/")


def add_task(newcomer: Newcomer, webhook: str) -> None:
    page = newcomer.page
    newcomer.click(page.locator('a[href="/admin/"]').first)
    newcomer.click(page.get_by_role("link", name="添加导出任务"))
    newcomer.type("#id_name", "每日订单")
    newcomer.click(page.locator(".field-data_source [role=combobox]"))
    newcomer.click(page.locator(".select2-results__option", has_text="商店"))
    newcomer.click(page.locator(".cm-content"))
    expect(page.locator('[data-sql="tables"]')).to_contain_text("1 个表")
    newcomer.steps += 1
    page.keyboard.type("SELECT * FROM ord")
    newcomer.click(page.locator(".cm-tooltip-autocomplete li").filter(has_text="orders").first)
    newcomer.press("Control+Enter")
    expect(page.locator('[data-sql="result"]')).to_contain_text("客户1")
    newcomer.click(page.get_by_role("button", name="每天 09:00"))
    expect(page.locator("#task-cron-words")).to_contain_text("09:00")
    newcomer.type("#id_dingtalk_webhook", webhook)
    tools = page.locator('[data-tools="dingtalk"]')
    newcomer.click(tools.get_by_role("button", name="发送测试消息"))
    expect(tools).to_contain_text("测试消息已发送")
    newcomer.click(page.get_by_role("button", name="保存并立即执行"))
    page.wait_for_url("**/tasks/exporttask/")


def get_file(newcomer: Newcomer) -> Path:
    page = newcomer.page
    newcomer.click(page.locator("a", has_text="#1").first)
    page.evaluate("window.same = true")
    expect(page.locator("#run-head [data-state=succeeded]")).to_be_visible()
    assert page.evaluate("window.same")
    with page.expect_download() as waiting:
        newcomer.click(page.locator("#run-head").get_by_role("link", name="下载"))
    assert waiting.value.suggested_filename.startswith("每日订单_")
    path = waiting.value.path()
    return path.rename(path.with_suffix(".xlsx"))
