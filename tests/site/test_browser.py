"""The first way of a newcomer, in a real browser against real processes: log in, make a task, run it, get the file."""

import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import openpyxl
import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from exporter_site.config import BASE_DIR
from tests.factories import make_sqlite_file
from tests.instance import Instance
from tests.servers import free_port

PASSWORD = "correct horse battery"
FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]


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
    port = free_port()
    web = subprocess.Popen(
        [sys.executable, "-m", "gunicorn", "exporter_site.wsgi", f"--bind=127.0.0.1:{port}", "--no-control-socket"],
        cwd=BASE_DIR,
        env=instance.environment,
        stderr=subprocess.DEVNULL,
    )
    scheduler = instance.spawn("runscheduler")
    address = f"http://127.0.0.1:{port}"
    until = time.monotonic() + 30
    while time.monotonic() < until:
        try:
            urllib.request.urlopen(f"{address}/healthz/web").close()
            break
        except urllib.error.URLError:
            time.sleep(0.2)
    yield address
    for process in (web, scheduler):
        process.terminate()
        process.wait(20)


def test_a_newcomer_gets_a_file(chromium: Browser, site: str, tmp_path: Path) -> None:
    file = make_sqlite_file(tmp_path / "shop.db")
    context = chromium.new_context(locale="zh-CN", accept_downloads=True)
    page = context.new_page()
    troubles: list[str] = []
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("console", lambda message: troubles.append(message.text) if message.type == "error" else None)

    page.goto(site)
    page.fill("#id_username", "admin")
    page.fill("#id_password", PASSWORD)
    page.press("#id_password", "Enter")
    page.wait_for_url("**/admin/")

    make_source(page, site, file)
    make_task(page, site)
    download = wait_for_file(page, site)

    workbook = openpyxl.load_workbook(download)
    rows = list(workbook.active.iter_rows(values_only=True))  # type: ignore[union-attr]
    assert rows[0] == ("编号", "客户")
    assert rows[1:3] == [(1, "张三"), (2, "李四")]
    assert not troubles
    context.close()


def make_source(page: Page, site: str, file: Path) -> None:
    page.goto(f"{site}/admin/datasources/datasource/add/")
    page.fill("#id_name", "商店")
    page.select_option("#id_kind", "sqlite")
    page.fill("#id_database", str(file))
    page.get_by_role("button", name="保存并测试连接").click()
    page.get_by_text("SQLite 3").first.wait_for()


def make_task(page: Page, site: str) -> None:
    page.goto(f"{site}/admin/tasks/exporttask/add/?data_source=1")
    page.fill("#id_name", "每日订单")
    page.fill(
        "#id_sql", 'SELECT id AS "编号", customer AS "客户" FROM orders WHERE created < {{ ds }} OR 1 ORDER BY id'
    )
    page.fill("#id_cron", "0 9 * * *")
    page.get_by_role("button", name="保存并立即执行").click()
    page.wait_for_url("**/admin/tasks/exporttask/")


def wait_for_file(page: Page, site: str) -> Path:
    link = page.locator("a[href='/executions/1/download']").first
    for _attempt in range(60):
        page.goto(f"{site}/admin/tasks/execution/")
        if link.count():
            break
        time.sleep(0.5)
    with page.expect_download() as waiting:
        link.click()
    assert waiting.value.suggested_filename.startswith("每日订单_")
    path = waiting.value.path()
    return path.rename(path.with_suffix(".xlsx"))
