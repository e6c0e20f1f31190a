"""A run watched in a real browser against real processes: from queued to its file without a reload, and to its cancel."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from tests.api import live
from tests.instance import Instance
from tests.site.test_browser import PASSWORD, chromium  # noqa: F401  # a fixture
from tests.site.test_dashboard import NASTY_NAME, ROWS, SLOW, START, WATCH, rows_on

GENEROUS = 180_000  # milliseconds, on a machine with other work


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    made = Instance(tmp_path_factory.mktemp("installation") / "instance")
    yield made
    made.close()


@pytest.fixture(scope="module")
def site(instance: Instance) -> Iterator[str]:
    """The address of a running web application with the user admin. No scheduler."""
    instance.manage(
        *("createsuperuser", "--noinput", "--username=admin", "--email=admin@example.cn"),
        env={"DJANGO_SUPERUSER_PASSWORD": PASSWORD},
    )
    with live.gunicorn(instance) as address:
        yield address


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty database to read from."""
    place = tmp_path_factory.mktemp("source") / "shop.db"
    place.write_bytes(b"")
    return place


@pytest.fixture
def page(chromium: Browser, site: str) -> Iterator[Page]:  # noqa: F811
    """Logged in, in English. In the end there must have been no error and nothing that the policy forbids."""
    context = chromium.new_context(locale="en")
    context.add_init_script(WATCH)
    page = context.new_page()
    page.set_default_timeout(60_000)
    troubles: list[str] = []
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("console", lambda message: troubles.append(message.text) if message.type == "error" else None)
    page.goto(site)
    page.fill("#id_username", "admin")
    page.fill("#id_password", PASSWORD)
    page.press("#id_password", "Enter")
    page.wait_for_url("**/admin/")
    yield page
    assert not troubles
    assert page.evaluate("window.violations ?? []") == []
    assert page.evaluate("window.hacked ?? 0") == 0
    context.close()


def enqueue(instance: Instance, file: Path, name: str, rows: int) -> int:
    """A slow run of so many rows is queued; its number."""
    program = START.format(file=str(file), name=name, sql=SLOW.format(rows=rows))
    return int(instance.python(f"{program}\nprint(Execution.objects.latest('pk').pk)").split()[-1])


def has_state(page: Page, state: str) -> None:
    page.locator(f'#run-head [data-state="{state}"]').wait_for(timeout=GENEROUS)


def test_a_run_is_watched_to_its_file_and_another_cancelled(
    page: Page, site: str, instance: Instance, file: Path
) -> None:
    first = enqueue(instance, file, NASTY_NAME, 600)
    page.goto(f"{site}/admin/tasks/execution/{first}/change/")
    page.evaluate("window.same = true")
    has_state(page, "queued")
    assert "No scheduler runs" in page.locator("#run-progress").inner_text()

    # From queued to running to its end, in the same page; each answer of the server shows.
    answers: list[str] = []
    page.on("response", lambda answer: answers.append(answer.url) if answer.url.endswith("/live/") else None)
    scheduler = instance.spawn("runscheduler")
    has_state(page, "running")
    seen: list[int] = []
    looked = len(answers)
    while page.locator(ROWS).count():
        rows = page.evaluate(f"document.querySelector('{ROWS}')?.textContent ?? ''").replace(",", "")
        if rows and (not seen or int(rows) != seen[-1]):
            seen.append(int(rows))
        page.wait_for_timeout(100)
    has_state(page, "succeeded")
    assert len(seen) >= 3
    assert seen == sorted(seen)
    assert len(answers) - looked >= len(seen)
    result = page.locator("#run-result").inner_text()
    assert re.search(r"\b600\b", result)
    assert page.locator("#run-head a", has_text="Download").count() == 1
    with page.expect_download() as waiting:
        page.locator("#run-head a", has_text="Download").click()
    assert waiting.value.path().stat().st_size > 0
    assert page.evaluate("window.same")
    # Nothing is asked for after the end.
    page.wait_for_function("document.getElementById('run-head').dataset.wait === '0'")
    looked = len(answers)
    page.wait_for_timeout(2000)
    assert len(answers) == looked

    # The SQL is copied.
    page.context.grant_permissions(["clipboard-read", "clipboard-write"], origin=site)
    page.locator('[data-copy="run-sql"]').click()
    page.get_by_text("Copied").wait_for()
    assert page.evaluate("navigator.clipboard.readText()") == page.locator("#run-sql").text_content()

    # The other one is cancelled, after a question; the list follows it meanwhile.
    second = enqueue(instance, file, "endless", 10**9)
    page.goto(f"{site}/admin/tasks/execution/")
    page.evaluate("window.same = true")
    cell = page.locator(f"#run-{second}-rows")
    page.wait_for_function(
        "id => /[1-9]/.test(document.getElementById(id).textContent)", arg=f"run-{second}-rows", timeout=GENEROUS
    )
    then = cell.inner_text()
    page.wait_for_function(
        "([id, then]) => document.getElementById(id).textContent !== then",
        arg=[f"run-{second}-rows", then],
        timeout=GENEROUS,
    )
    listing = page.context.new_page()
    listing.goto(f"{site}/admin/tasks/execution/{second}/change/")
    listing.locator(ROWS).wait_for()
    assert rows_on(listing) >= 0
    listing.locator("[data-cancel]").click()
    assert f"endless #{second}" in listing.locator("#run-cancel").inner_text()
    listing.locator("#run-cancel [data-close]").click()
    listing.locator("[data-cancel]").click()
    listing.locator("#run-cancel [type=submit]").click()
    has_state(listing, "cancelled")
    assert "The run was cancelled." in listing.locator("#run-verdict").inner_text()
    page.locator(f"#run-{second}-state.exporter-badge-warning").wait_for(timeout=GENEROUS)
    assert page.evaluate("window.same")

    # Again, with a button of the page: a new run in its place.
    listing.get_by_role("button", name="Run again").click()
    listing.wait_for_url(f"**/{second + 1}/change/")
    has_state(listing, "running")
    listing.locator("[data-cancel]").click()
    listing.locator("#run-cancel [type=submit]").click()
    has_state(listing, "cancelled")
    scheduler.terminate()
    scheduler.wait(60)


def test_an_old_page_says_so(page: Page, site: str, instance: Instance, file: Path) -> None:
    number = enqueue(instance, file, "waiting", 1)
    page.goto(f"{site}/admin/tasks/execution/{number}/change/")
    has_state(page, "queued")
    context = page.context
    context.clear_cookies()
    page.locator("#run-stale-login").wait_for()
    assert page.locator("#run.exporter-old").count() == 1


def test_a_task_to_filter_by_is_found_by_typing(page: Page, site: str, instance: Instance, file: Path) -> None:
    number = enqueue(instance, file, "quarterly report", 1)
    enqueue(instance, file, "another", 1)
    page.goto(f"{site}/admin/tasks/execution/")
    page.get_by_role("button", name="Filters").press("Enter")
    page.locator("#changelist-filter .select2-selection").click()
    page.locator(".select2-search__field").fill("quarterly")
    page.locator(".select2-results__option", has_text="quarterly report").click()
    page.get_by_role("button", name="Apply").click()
    page.wait_for_url("**task__id__exact=**")
    assert page.locator("[data-unfinished]").count() == 1
    assert page.locator(f"#run-{number}-state").count() == 1
