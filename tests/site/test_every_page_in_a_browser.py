"""Every page in a real browser: nothing that somebody wrote runs, and who can't see or has no mouse finds the way."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]
from django.test import Client
from playwright.sync_api import Browser, BrowserContext, Page
from pytest_django.live_server_helper import LiveServer

from notifications.models import Channel
from tasks.models import Execution
from tasks.states import Trigger
from tests.access.world import World
from tests.factories import make_task
from tests.site.pages import pages_of
from tests.site.test_browser import chromium  # noqa: F401  # a fixture

pytestmark = pytest.mark.django_db(transaction=True)

# Counts what runs of it, and what the policy of the page forbids.
WATCH = """
window.hacked = 0; window.violations = [];
window.alert = () => { window.hacked += 1; };
document.addEventListener("securitypolicyviolation", (event) => window.violations.push(event.violatedDirective));
"""
PAYLOADS = (
    "<script>alert(1)</script>",
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<svg onload=alert(1)>",
    "<svg><script>alert(1)</script></svg>",
    "\"><script>alert(1)</script>",
    "'><script>alert(1)</script>",
    "\" onmouseover=alert(1) autofocus onfocus=alert(1) x=\"",
    "' onmouseover=alert(1) autofocus onfocus=alert(1) x='",
    "</textarea><script>alert(1)</script>",
    "</title><script>alert(1)</script>",
    "</pre><img src=x onerror=alert(1)>",
    "<iframe srcdoc='<script>parent.alert(1)</script>'>",
    "<details open ontoggle=alert(1)>",
    "<body onload=alert(1)>",
    "<a href=javascript:alert(1)>x</a>",
    "javascript:alert(1)",
    "{{constructor.constructor('alert(1)')()}}",
    "${alert(1)}",
    "`-alert(1)-`",
    "';alert(1);//",
    "<math><mtext><table><mglyph><style><img src=x onerror=alert(1)>",
    "<div x-data x-init=alert(1)></div>",
    "<div hx-get=/admin/ hx-trigger=load hx-on::load=alert(1)></div>",
    "\u2028<input autofocus onfocus=alert(1)>",
)  # fmt: skip


# What must stay as it is for the page to open at all.
KEPT = ("password", "cron", "timezone", "format", "kind", "status", "channel", "digest", "prefix", "slot_key", "sha256")
# Pages that are made as others are.
OF_ONE_TEMPLATE = (
    "history",
    "delete",
    "queued",
    "succeeded",
    "timed_out",
    "cancelled",
    "missed",
    "skipped",
    "wecom",
    "feishu",
)


@pytest.fixture(scope="module", autouse=True)
def _beside_a_browser() -> Iterator[None]:
    """Playwright keeps an event loop in this thread, and there Django would let nobody near the database."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "1")
        yield


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture
def context(chromium: Browser, live_server: LiveServer, world: World) -> Iterator[BrowserContext]:  # noqa: F811
    """A browser in which root has logged in."""
    client = Client()
    client.force_login(world.root)
    context = chromium.new_context(locale="zh-CN")
    context.add_init_script(WATCH)
    context.add_cookies([{"name": "sessionid", "value": client.cookies["sessionid"].value, "url": live_server.url}])
    yield context
    context.close()


def troubles_of(page: Page) -> list[str]:
    """Grows with every fault that a page of `page` meets."""
    troubles: list[str] = []
    page.on("pageerror", lambda error: troubles.append(str(error)))
    return troubles


def poison(world: World, payload: str, number: int) -> None:
    """A task, a run, a channel that bear the payload, in all their texts."""
    name = f"{payload} {number}"[:100]
    task = make_task(name=name, validate=False, data_source=world.source, description=payload, sql=payload, tags=[name])
    Channel.objects.create(name=name, kind="webhook")
    Execution.objects.enqueue(task, trigger=Trigger.MANUAL, params={payload: payload})


def test_nothing_that_somebody_wrote_runs(context: BrowserContext, live_server: LiveServer, world: World) -> None:
    for number, payload in enumerate(PAYLOADS):
        poison(world, payload, number)
    everything = "\n".join(PAYLOADS)
    for row in (*world.named.values(), world.other_channel, world.open_link, world.queued):
        _fill(row, everything)
    for execution in (world.execution, world.queued):
        Execution.objects.filter(pk=execution.pk).update(
            error=everything,
            sql=everything,
            filename=PAYLOADS[2],
            params={everything: everything},
            history=[
                {"attempt": 1, "ended_at": "2026-01-01T00:00:00+00:00", "reason": PAYLOADS[2], "error": everything}
            ],
            fidelity={PAYLOADS[2]: 1},
        )
    page = context.new_page()
    troubles = troubles_of(page)
    for name, url in pages_of(world):
        page.goto(live_server.url + url)
        page.mouse.move(300, 300)
        assert page.evaluate("window.hacked") == 0, name
        assert page.evaluate("window.violations") == [], name
    assert not troubles


def _fill(row: Any, text: str) -> None:
    """Put `text` into every text column of `row` that holds words and not a choice or a key."""
    changed = {}
    for field in row._meta.concrete_fields:
        kind = field.get_internal_type()
        if kind not in ("CharField", "TextField") or field.choices or field.unique or field.name in KEPT:
            continue
        if isinstance(getattr(row, field.attname), str) and type(field).__module__.startswith("django."):
            changed[field.attname] = text[: field.max_length] if field.max_length else text
    type(row)._base_manager.filter(pk=row.pk).update(**changed)


def test_who_cannot_see_or_has_no_mouse_finds_the_way(
    context: BrowserContext, live_server: LiveServer, world: World
) -> None:
    page = context.new_page()
    page.emulate_media(reduced_motion="reduce")
    troubles = troubles_of(page)
    axe = Axe()
    found: dict[str, list[tuple[str, list[str]]]] = {}
    pages = {name: url for name, url in pages_of(world) if not name.endswith(OF_ONE_TEMPLATE)}
    for name, url in pages.items():
        page.emulate_media(color_scheme="light")
        page.set_viewport_size({"width": 1440, "height": 900})
        page.goto(live_server.url + url)
        faults = axe.run(page, options={"resultTypes": ["violations"]}).response["violations"]
        page.emulate_media(color_scheme="dark")
        page.set_viewport_size({"width": 390, "height": 900})
        faults += axe.run(page, options={"runOnly": ["color-contrast"]}).response["violations"]
        for fault in faults:
            if fault["impact"] in ("serious", "critical"):
                where = [str(node["html"])[:160] for node in fault["nodes"][:3]]
                found.setdefault(f"{fault['id']}: {fault['help']}", []).append((name, where))
        wide = page.evaluate("document.documentElement.scrollWidth")
        assert wide <= 390, f"{name} is {wide} wide on a telephone"
        assert page.evaluate("window.violations") == [], name
    assert not found, "\n".join(f"{fault}\n   {places[:4]}" for fault, places in found.items())
    assert not troubles
