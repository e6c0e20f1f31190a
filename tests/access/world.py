"""One of everything, on one data source; everybody who may come; and what they ask for and get."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any
from unittest import mock

from django.contrib.auth.models import Group, User
from django.db import transaction
from django.forms import PasswordInput
from django.template.response import SimpleTemplateResponse
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from exporter_site.access.models import ApiKey, AuditEvent
from notifications.models import Channel, Delivery, NotificationRule, clean_settings
from tasks import files
from tasks.models import Download, DownloadLink, Execution, Pause, SchedulerProcess
from tasks.states import Status
from tests.factories import make_admin, make_execution, make_source, make_sqlite_file, make_task, make_user

KINDS = ("nobody", "viewer", "operator", "editor", "admin")
SCOPED = ("viewer", "operator", "editor")  # those who need a grant
# Of the source and of all that lies on it; nobody without a grant may read it anywhere.
MARK = "mark-0451"


class World:
    """Rows with MARK in their names, all on `source`; `named` finds each by its model's label."""

    def __init__(self, directory: Path, *, root: User | None = None) -> None:
        self.source = make_source(name=f"source {MARK}", database=str(make_sqlite_file(directory / "shop.db")))
        self.unused = make_source(name=f"unused {MARK}")
        self.task = make_task(
            name=f"task {MARK}", data_source=self.source, sql="SELECT id FROM orders", description=MARK
        )
        self.channel = Channel(name="channel", kind="webhook")
        self.channel.set_settings(clean_settings("webhook", {"url": "https://hooks.example.com/x"}))
        self.channel.save()
        self.other_channel = Channel.objects.create(name="another", kind="webhook")
        self.rule = NotificationRule.objects.create(task=self.task, channel=self.channel)
        self.execution = finished(self.task)
        self.delivery = Delivery.objects.get()
        self.queued = make_execution(self.task)
        self.link = DownloadLink.objects.make(self.execution)
        DownloadLink.objects.filter(pk=self.link.pk).update(login_required=True)
        self.open_link = DownloadLink.objects.make(self.execution)
        self.download = Download.objects.create(
            execution=self.execution, task_name=self.task.name, filename=f"{MARK}.xlsx", username="somebody"
        )
        self.user = make_user("somebody", role="viewer")
        self.root = root or make_admin("root")
        self.group = Group.objects.create(name="team")
        year = timezone.now() + timedelta(days=365)
        self.key, self.key_text = ApiKey.objects.make(self.user, "key", "read", year)
        Pause.objects.create(active_key=Pause.ACTIVE, begun_by="root")
        self.pause = Pause.objects.get()
        self.scheduler = SchedulerProcess.objects.create(name="a:1:b", seen_at=year, executor="local", workers=1)
        self.event = AuditEvent.objects.order_by("pk")[0]
        rows = (
            *(self.source, self.task, self.channel, self.rule, self.execution, self.delivery, self.download),
            *(self.user, self.group, self.key, self.pause, self.scheduler, self.event),
        )
        self.named = {row._meta.label_lower.replace(".", "_"): row for row in rows}


def finished(task: Any, content: bytes = b"x") -> Execution:
    """A run of `task` that has succeeded, with a file, and owes its messages."""
    execution = Execution.objects.claim(make_execution(task).pk, worker="a:1:b")
    assert execution is not None
    place = files.output_root() / "2026-11" / f"{execution.pk}-1"
    place.mkdir(parents=True)
    name = f"{MARK}.xlsx"
    (place / name).write_bytes(content)
    path, digest = f"2026-11/{execution.pk}-1/{name}", hashlib.sha256(content).hexdigest()
    part = {"path": path, "rows": 1, "size": len(content), "sha256": digest}
    figures = {"files": [part], "filename": name, "rows_count": 1, "file_size": len(content)}
    assert Execution.objects.finish(execution, Status.SUCCEEDED, **figures)
    return Execution.objects.get(pk=execution.pk)


@dataclass(frozen=True)
class Actor:
    """Somebody of a kind, with the world's source granted or not."""

    kind: str
    granted: bool
    user: User | None
    client: Client

    def __str__(self) -> str:
        return self.kind if self.granted else f"{self.kind} without a grant"


def make_actor(kind: str, world: World, *, granted: bool = True) -> Actor:
    client = Client(raise_request_exception=False)
    if kind == "nobody":
        return Actor(kind, granted, None, client)
    sources = [world.source] if granted and kind in SCOPED else []
    user = make_user(f"{kind}-{granted}", role=kind, sources=sources)
    client.force_login(user)
    return Actor(kind, granted, user, client)


def everybody() -> list[tuple[str, bool]]:
    return [(kind, True) for kind in KINDS] + [(kind, False) for kind in SCOPED]


@contextmanager
def unrendered() -> Iterator[None]:
    """Pages of the admin stay empty: most of the time goes into what nobody looks at."""
    with mock.patch.object(SimpleTemplateResponse, "rendered_content", ""):
        yield


def ask(client: Client, verb: str, url: str, **options: Any) -> Any:
    """The answer; whatever it changed is undone, also what the client has been told to remember."""
    cookies = SimpleCookie(client.cookies)
    try:
        with transaction.atomic():
            response: Any = client.generic(verb, url, **options)
            if response.streaming:
                b"".join(response.streaming_content)
            transaction.set_rollback(True)
    finally:
        client.cookies = cookies
    return response


def told(response: Any) -> str:
    """The status; a redirect by where it leads: `login`, `index` (the admin's “there is no such thing”), `away`."""
    if response.status_code != 302:
        return str(response.status_code)
    to = response.headers["Location"]
    if to.startswith(reverse("admin:login")):
        return "login"
    return "index" if to == reverse("admin:index") else "away"


def form_of(client: Client, url: str) -> dict[str, Any]:
    """What a browser would send back for the form at `url`, unchanged."""
    page: Any = client.get(url)
    context = page.context_data
    inlines = [formset.formset for formset in context["inline_admin_formsets"]]
    forms = [context["adminform"].form, *(formset.management_form for formset in inlines)]
    forms += [form for formset in inlines for form in formset.initial_forms]
    data: dict[str, Any] = {}
    for field in (field for form in forms for field in form if not isinstance(field.field.widget, PasswordInput)):
        value = field.value()
        if value is True:
            data[field.html_name] = "on"
        elif value is not None and value is not False:
            data[field.html_name] = value
    return data


def walk(patterns: Any, prefix: str = "", namespace: str = "") -> Iterator[tuple[str, str]]:
    """(name, pattern) of every route; one without a name is called by its pattern."""
    for pattern in patterns:
        place = prefix + str(pattern.pattern)
        if hasattr(pattern, "url_patterns"):
            inner = f"{namespace}{pattern.namespace}:" if pattern.namespace else namespace
            yield from walk(pattern.url_patterns, place, inner)
        else:
            yield (namespace + pattern.name if pattern.name else place or "/"), place
