"""Every page of the system that a person may see, for tests that look at all of them."""

from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

from django.contrib import admin
from django.urls import reverse
from django.utils import timezone

from notifications.transports import transports
from tasks.states import Status
from tests.access.world import World
from tests.factories import make_execution

_SILENT = {"script", "style", "svg", "textarea", "pre", "code", "template"}
_SPOKEN = {"title", "placeholder", "aria-label", "alt"}
_ENDED = {"started_at": timezone.now(), "finished_at": timezone.now(), "duration_seconds": 1.0}
RUNS: dict[str, dict[str, Any]] = {
    Status.RUNNING: {"started_at": timezone.now(), "progress": {"rows": 1000, "bytes": 5000}, "worker": "a:1:b"},
    Status.FAILED: {**_ENDED, "reason": "sql_error", "error": "0451"},
    Status.TIMED_OUT: {**_ENDED, "reason": "query_timeout"},
    Status.CANCELLED: {**_ENDED, "reason": "cancelled"},
    Status.MISSED: {"reason": "misfire", "range_start": timezone.now(), "occurrences": 7},
    Status.SKIPPED: {"reason": "overlap"},
}
# No names of things to be said in either language, although they are written into a text.
_DATA = {"exporter-code", "material-symbols-outlined"}
_VOID = {"area", "base", "br", "col", "hr", "img", "input", "link", "meta", "source", "wbr"}


def pages_of(world: World) -> Iterator[tuple[str, str]]:
    """(name, address) of each: the admin's of every model that it knows, and those that stand by themselves."""
    for name in ("index", "password_change"):
        yield name, reverse(f"admin:{name}")
    for model in admin.site._registry:
        name = f"{model._meta.app_label}_{model._meta.model_name}"
        yield f"{name} list", reverse(f"admin:{name}_changelist")
        yield f"{name} add", reverse(f"admin:{name}_add")
        if name in world.named:
            number = world.named[name].pk
            for verb in ("change", "history", "delete"):
                yield f"{name} {verb}", reverse(f"admin:{name}_{verb}", args=[number])
        else:
            raise AssertionError(f"tests/access/world.py makes no {name}")
    for kind in transports:
        yield f"new {kind}", reverse("admin:notifications_channel_add") + f"?kind={kind}"
    for status in Status:
        row = make_execution(world.task, status=status, **RUNS.get(status, {}))
        yield f"run {status}", reverse("admin:tasks_execution_change", args=[row.pk])
    yield "link", world.open_link.path
    yield "no such page", "/no/such/page"


class _Texts(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []
        self._open: list[tuple[str, bool]] = []  # (tag, whether what is in it is left out)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        out = self._left_out or tag in _SILENT or bool(_DATA & set(values.get("class", "").split()))
        if not out:
            self.texts += [values[name] for name in _SPOKEN if values.get(name)]
            if tag == "input" and values.get("type") in ("submit", "button"):
                self.texts.append(values.get("value", ""))
        if tag not in _VOID:
            self._open.append((tag, out))

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop()[0] != tag:
            pass

    def handle_data(self, data: str) -> None:
        if data.strip() and not self._left_out:
            self.texts.append(" ".join(data.split()))

    @property
    def _left_out(self) -> bool:
        return bool(self._open and self._open[-1][1])


def texts_of(html: str) -> list[str]:
    """What a page says to its readers, also to those who listen to it; without code and without what it only carries."""
    parser = _Texts()
    parser.feed(html)
    return parser.texts
