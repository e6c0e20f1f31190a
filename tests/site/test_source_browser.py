"""The forms of sources and channels in a real browser: fields that follow the kind, tries that lose nothing typed."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from tests.api import live
from tests.factories import make_sqlite_file
from tests.instance import Instance
from tests.servers.mariadb import MariaDB
from tests.site.test_browser import PASSWORD, chromium  # noqa: F401  # a fixture
from tests.site.test_dashboard import WATCH

NASTY = "<img src=x onerror=window.hacked=1>"
ROWS = """
from datasources.models import DataSource
from notifications.models import Channel, clean_settings
from tasks.models import ExportTask
source = DataSource.objects.create(name={nasty!r}, kind="mysql", host="127.0.0.1", port={port}, database={database!r},
    username="exporter_reader", password="reader-for-tests")
ExportTask.objects.create(name={nasty!r}, data_source=source, sql="SELECT 1")
channel = Channel(name={nasty!r}, kind="webhook")
channel.set_settings(clean_settings("webhook", dict(url="https://no-such-host.invalid/x")))
channel.save()
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, mariadb: MariaDB) -> Iterator[str]:
    """The address of an installation with the user admin, a source on MariaDB that a task reads from, and a channel."""
    instance = Instance(tmp_path_factory.mktemp("site") / "instance")
    instance.manage(
        *("createsuperuser", "--noinput", "--username=admin", "--email=admin@example.cn"),
        env={"DJANGO_SUPERUSER_PASSWORD": PASSWORD},
    )
    instance.python(ROWS.format(nasty=NASTY, port=mariadb.port, database=mariadb.new_database()))
    with live.gunicorn(instance) as address:
        yield address
    instance.close()


@pytest.fixture(scope="module")
def cookies(chromium: Browser, site: str) -> Any:  # noqa: F811
    context = chromium.new_context()
    page = context.new_page()
    page.goto(site)
    page.fill("#id_username", "admin")
    page.fill("#id_password", PASSWORD)
    page.press("#id_password", "Enter")
    page.locator("#dashboard").wait_for()  # the address of the login ends in /admin/, too
    state = context.storage_state()
    context.close()
    return state


@pytest.fixture
def page(chromium: Browser, cookies: Any) -> Iterator[Page]:  # noqa: F811
    """A page of the administrator, in English; at the end it must have been without errors and violations."""
    context = chromium.new_context(locale="en-US", storage_state=cookies)
    context.add_init_script(WATCH)
    page = context.new_page()
    troubles: list[str] = []
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("console", lambda message: troubles.append(message.text) if message.type == "error" else None)
    yield page
    assert page.evaluate("window.violations ?? []") == []
    assert page.evaluate("window.hacked ?? 0") == 0
    assert troubles == []
    context.close()


# A page that waits for two seconds, and a network in which nothing comes back.
SILENCE = """
document.querySelector("[data-trial]").dataset.seconds = "2";
window.realFetch = window.fetch;
window.fetch = (url, { signal }) => new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason)));
0
"""
SOURCES = "admin/datasources/datasource"
FIELDS = ("host", "port", "database", "username", "password", "ssl_mode", "charset")


def shown(page: Page) -> set[str]:
    return {name for name in FIELDS if page.locator(f"#id_{name}").is_visible()}


def label(page: Page) -> str:
    return page.locator('label[for="id_database"]').inner_text()


def test_the_fields_follow_the_kind(page: Page, site: str) -> None:
    page.goto(f"{site}/{SOURCES}/add/")
    page.select_option("#id_kind", "mysql")
    assert shown(page) == set(FIELDS)
    assert page.locator("#id_port").get_attribute("placeholder") == "3306"
    page.fill("#id_host", "db1")
    page.select_option("#id_kind", "postgresql")
    assert shown(page) == {*FIELDS} - {"charset"}
    assert page.locator("#id_port").get_attribute("placeholder") == "5432"
    assert label(page).startswith("Database")
    page.select_option("#id_kind", "sqlite")
    assert shown(page) == {"database"}
    assert label(page).startswith("Path of the file")
    page.select_option("#id_kind", "mysql")
    assert page.input_value("#id_host") == "db1"


def test_the_account_that_may_only_read_is_written_with_what_is_typed(page: Page, site: str) -> None:
    page.goto(f"{site}/{SOURCES}/add/")
    page.select_option("#id_kind", "mysql")
    code = page.locator("[data-accounts] pre:visible")
    assert code.count() == 0  # folded
    page.locator("[data-accounts] summary").click()
    page.fill("#id_username", "o'brien\\")
    page.fill("#id_database", "a`b")
    assert "GRANT SELECT, SHOW VIEW ON `a``b`.* TO 'o''brien\\\\'@'%';" in code.inner_text()
    page.select_option("#id_kind", "postgresql")
    page.fill("#id_username", 'say "hi"')
    assert 'CREATE ROLE "say ""hi""" LOGIN' in code.inner_text()
    page.select_option("#id_kind", "sqlite")
    assert not page.locator("[data-accounts]").is_visible()


def test_a_new_source_is_tried_until_it_works_and_nothing_typed_is_lost(page: Page, site: str, tmp_path: Path) -> None:
    page.goto(f"{site}/{SOURCES}/add/")
    page.select_option("#id_kind", "sqlite")
    page.fill("#id_description", "half a page of notes")
    page.fill("#id_database", f"/nowhere/{NASTY}")
    button = page.get_by_role("button", name="Test connection", exact=True)
    button.click()
    result = page.locator(".exporter-trial-result")
    result.get_by_text("Unknown database").wait_for()
    assert f"/nowhere/{NASTY}" in result.inner_text()
    page.fill("#id_database", str(make_sqlite_file(tmp_path / "shop.db")))
    assert "exporter-trial-old" in str(result.get_attribute("class"))
    button.click()
    result.get_by_text("The connection works.").wait_for()
    assert "SQLite 3" in result.inner_text()
    assert page.input_value("#id_description") == "half a page of notes"
    page.fill("#id_name", "tried before saved")
    page.get_by_role("button", name="Save", exact=True).click()
    page.wait_for_url("**/datasource/")
    page.get_by_text("tried before saved").first.wait_for()


def test_what_is_wrong_is_shown_at_its_field_and_goes_when_it_is_mended(page: Page, site: str) -> None:
    page.goto(f"{site}/{SOURCES}/1/change/")
    button = page.get_by_role("button", name="Test connection", exact=True)
    page.fill("#id_host", "http://db1")
    button.click()
    fault = page.locator(".field-host .exporter-fault")
    fault.wait_for()
    assert page.locator("#id_host").get_attribute("aria-invalid") == "true"
    # Another host: the stored password is not sent there, and the field says so.
    page.fill("#id_host", "localhost")
    button.click()
    page.locator(".field-password .exporter-fault").get_by_text("Enter the password again").wait_for()
    assert fault.count() == 0
    page.fill("#id_host", "127.0.0.1")
    button.click()
    page.get_by_text("The connection works.").wait_for()
    assert page.locator(".exporter-fault").count() == 0
    # Its task has a name that is no markup.
    assert page.locator("#usage").get_by_text(NASTY).count() == 1


def test_while_it_runs_the_page_says_so_and_it_ends_in_time(page: Page, site: str) -> None:
    page.goto(f"{site}/{SOURCES}/1/change/")
    page.evaluate(SILENCE)
    button = page.get_by_role("button", name="Test connection", exact=True)
    button.click()
    page.get_by_text("Trying …").wait_for()
    assert button.is_disabled()
    page.get_by_text("No answer after 2 seconds.").wait_for()
    assert button.is_enabled()
    page.evaluate("window.fetch = window.realFetch; 0")
    page.evaluate("document.querySelector('[data-trial]').dataset.seconds = '60'")
    button.click()
    page.get_by_text("The connection works.").wait_for()


def test_without_javascript_all_fields_are_there(chromium: Browser, cookies: Any, site: str) -> None:  # noqa: F811
    context = chromium.new_context(locale="en-US", storage_state=cookies, java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{site}/{SOURCES}/add/")
    for name in FIELDS:
        assert page.locator(f"#id_{name}").count() == 1
        assert page.locator(f".field-{name}").get_attribute("hidden") is None
    assert not page.get_by_role("button", name="Test connection", exact=True).is_visible()
    context.close()


def test_a_channel_is_tried_and_its_form_stays(page: Page, site: str) -> None:
    page.goto(f"{site}/admin/notifications/channel/1/change/")
    page.fill("#id_name", "another name")
    page.get_by_role("button", name="Send a test message", exact=True).click()
    page.get_by_text("The test message was not taken.").wait_for(timeout=60_000)
    assert page.input_value("#id_name") == "another name"
    page.fill("#id_setting_url", "ftp://x")
    page.get_by_role("button", name="Send a test message", exact=True).click()
    page.locator(".field-setting_url .exporter-fault").wait_for()
