"""Who did what is on record, whichever way it was done; it stays, and it tells no secret."""

import json
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.apps import apps
from django.contrib import admin
from django.contrib.auth.models import Group, Permission, User
from django.core.management import call_command
from django.db import IntegrityError, transaction
from django.test import Client
from django.urls import get_resolver, reverse
from django.utils import timezone

from datasources.models import DataSource
from exporter_site.access.audit import Action, Via
from exporter_site.access.models import ApiKey, AuditEvent, Grant
from exporter_site.command import Failed
from exporter_site.fields import SecretField
from notifications.models import Channel, Delivery
from notifications.states import DeliveryStatus
from tasks.models import DownloadLink, Execution, ExportTask, Pause
from tests.access.world import World, finished, form_of, walk
from tests.factories import PASSWORD, make_admin, make_execution, make_source, make_task, make_user

pytestmark = pytest.mark.django_db
CANARY = "canary-0451-secret"


@pytest.fixture
def root() -> User:
    return make_admin("root")


@pytest.fixture
def browser(root: User) -> Client:
    client = Client(headers={"accept-language": "zh-hans"}, REMOTE_ADDR="192.0.2.7")
    client.force_login(root)
    return client


@pytest.fixture
def world(tmp_path: Path, root: User) -> World:
    return World(tmp_path, root=root)


def events(after: int = 0) -> list[AuditEvent]:
    return list(AuditEvent.objects.filter(pk__gt=after).order_by("pk"))


def last_event() -> int:
    return AuditEvent.objects.order_by("-pk").values_list("pk", flat=True).first() or 0


def recorded(do: Callable[[], Any]) -> list[tuple[str, str, str, str | None, str]]:
    """(action, who, via, address, subject) of what `do` leaves on record."""
    before = last_event()
    do()
    return [(row.action, row.username, row.via, row.address, row.subject_name) for row in events(before)]


def api(client: Client, verb: str, path: str, **body: Any) -> Any:
    answer: Any = client.generic(verb, f"/api/{path}", json.dumps(body), content_type="application/json")
    assert answer.status_code < 300, answer.content
    return b"".join(answer.streaming_content) if answer.streaming else answer


def run(*args: object) -> Any:
    return call_command(*map(str, args), stdout=StringIO(), stderr=StringIO())


def fetch(client: Client, url: str) -> bytes:
    answer: Any = client.get(url)
    return b"".join(answer.streaming_content)


def choose(client: Client, model: str, action: str, *rows: Any) -> Any:
    chosen = {"action": action, "_selected_action": [row.pk for row in rows], "post": "yes"}
    return client.post(reverse(f"admin:{model}_changelist"), chosen)


# ---- Every action, every way


def ways(world: World, browser: Client) -> dict[tuple[str, str], Callable[[], Any]]:
    """{(action, via): do it}"""
    source, task, channel = world.source, world.task, world.channel
    change = reverse("admin:tasks_exporttask_change", args=[task.pk])
    add = reverse("admin:tasks_exporttask_add")
    delete = reverse("admin:tasks_exporttask_delete", args=[task.pk])
    new = {"name": "新", "data_source": source.pk, "sql": "SELECT 1"}
    user_page = reverse("admin:auth_user_change", args=[world.user.pk])
    grant = {"grants-TOTAL_FORMS": 1, "grants-0-data_source": source.pk, "grants-0-user": world.user.pk}

    def undelivered() -> Any:
        return Delivery.objects.update(status=DeliveryStatus.DEAD)

    def again(do: Callable[[], Any]) -> Callable[[], Any]:
        return lambda: [undelivered(), do()]

    def revoke_grant() -> None:
        form = form_of(browser, user_page) | {"grants-0-DELETE": "on"}
        browser.post(user_page, form)

    run_id, queued = world.execution.pk, world.queued.pk
    return {
        ("create", "admin"): lambda: browser.post(add, form_of(browser, add) | new),
        ("create", "api"): lambda: api(browser, "POST", "tasks", **new | {"name": "neu"}),
        ("create", "command"): lambda: run("datasource", "create", "新", "sqlite", "-", "-", "/x.db", "-"),
        ("edit", "admin"): lambda: browser.post(change, form_of(browser, change) | {"description": "neu"}),
        ("edit", "api"): lambda: api(browser, "PATCH", f"tasks/{task.pk}", description="newer"),
        ("edit", "command"): lambda: run("scheduler", "resume"),
        ("run", "admin"): lambda: choose(browser, "tasks_exporttask", "run_now", task),
        ("run", "api"): lambda: api(browser, "POST", f"tasks/{task.pk}/execute"),
        ("run", "command"): lambda: run("task", "execute", task.pk, "--no-notify"),
        ("cancel", "admin"): lambda: choose(browser, "tasks_execution", "cancel", make_execution(task)),
        ("cancel", "api"): lambda: api(browser, "POST", f"logs/{queued}/cancel"),
        ("cancel", "command"): lambda: run("task", "cancel", make_execution(task).pk),
        ("resend", "admin"): again(lambda: choose(browser, "notifications_delivery", "send_again", world.delivery)),
        ("resend", "api"): again(lambda: api(browser, "POST", f"logs/{run_id}/resend")),
        ("resend", "command"): again(lambda: run("task", "resend", run_id)),
        ("test", "admin"): lambda: choose(browser, "datasources_datasource", "test_connections", source),
        ("test", "api"): lambda: api(browser, "POST", f"channels/{channel.pk}/test"),
        ("test", "command"): lambda: (run("datasource", "test", source.pk), run("channel", "test", channel.pk)),
        ("preview", "api"): lambda: api(browser, "POST", f"tasks/{task.pk}/test"),
        ("preview", "command"): lambda: run("task", "test", task.pk),
        ("download", "admin"): lambda: fetch(browser, reverse("tasks:download", args=[run_id])),
        ("download", "api"): lambda: api(browser, "GET", f"logs/{run_id}/download"),
        ("download", "link"): lambda: fetch(Client(), f"{world.open_link.path}/file"),
        ("reveal", "admin"): lambda: browser.post(
            reverse("admin:tasks_execution_new_link", args=[run_id]), {"_form_submitted": "True"}
        ),
        ("grant", "admin"): lambda: browser.post(user_page, form_of(browser, user_page) | grant),
        ("revoke", "admin"): revoke_grant,
        ("login", "admin"): lambda: Client().post("/admin/login/", {"username": "root", "password": PASSWORD}),
        ("login", "api"): lambda: api(Client(), "POST", "token", username="root", password=PASSWORD),
        ("login_failed", "admin"): lambda: Client().post("/admin/login/", {"username": "root", "password": "x"}),
        ("login_failed", "api"): lambda: Client().post(
            "/api/token", {"username": "root", "password": "x"}, content_type="application/json"
        ),
        ("delete", "api"): lambda: api(browser, "DELETE", f"channels/{channel.pk}"),
        ("delete", "admin"): lambda: browser.post(delete, {"post": "yes"}),
        ("logout", "admin"): lambda: browser.post("/admin/logout/"),
    }


def test_every_action_is_recorded_whichever_way_it_is_done(world: World, browser: Client) -> None:
    done = ways(world, browser)
    assert {action for action, _via in done} == set(Action.values)
    missing = []
    for (action, via), do in done.items():
        found = recorded(do)
        if (action, via) not in [(event[0], event[2]) for event in found]:
            missing.append(f"{action} by {via}: {found}")
    assert missing == []


def test_an_event_says_who_did_what_when_from_where_and_to_what(browser: Client, root: User) -> None:
    task = make_task(name="每日订单", cron="0 9 * * *")
    change = reverse("admin:tasks_exporttask_change", args=[task.pk])
    before, start = last_event(), timezone.now()
    browser.post(change, form_of(browser, change) | {"cron": "0 8 * * *", "tags": "财务"})
    [event] = events(before)
    assert (event.action, event.username, event.user_number) == ("edit", "root", root.pk)
    assert (event.via, event.address) == (Via.ADMIN, "192.0.2.7")
    assert (event.subject_type, event.subject_number, event.subject_name) == ("tasks.exporttask", task.pk, "每日订单")
    assert event.changes == {
        "cron": ["0 9 * * *", "0 8 * * *"],
        "tags": [[], ["财务"]],
        "owner_id": [None, root.pk],
    } or (event.changes == {"cron": ["0 9 * * *", "0 8 * * *"], "tags": [[], ["财务"]]})
    assert start <= event.at <= timezone.now()
    assert list(AuditEvent.objects.about(task)[:1]) == [event]


def test_an_api_key_acts_in_the_name_of_its_user(root: User) -> None:
    _key, text = ApiKey.objects.make(root, "cron of erp", "write", "2099-01-01T00:00:00Z")
    client, task = Client(headers={"authorization": f"Bearer {text}"}), make_task()
    assert recorded(lambda: api(client, "POST", f"tasks/{task.pk}/execute")) == [
        ("run", "root", "api", "127.0.0.1", str(Execution.objects.get()))
    ]


def test_a_command_is_done_by_the_user_of_the_operating_system(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("getpass.getuser", lambda: "ops")
    source = make_source()
    with pytest.raises(Failed):
        run("datasource", "test", source.pk)
    event = events()[-1]
    assert (event.action, event.username, event.user_number, event.via, event.address) == (
        *("test", "ops", None),
        *("command", None),
    )


def test_what_changes_nothing_is_not_recorded(browser: Client) -> None:
    task = make_task(owner=User.objects.get(username="root"))
    change = reverse("admin:tasks_exporttask_change", args=[task.pk])
    form = form_of(browser, change)
    assert recorded(lambda: browser.post(change, form)) == []
    assert recorded(lambda: browser.get(change)) == []
    assert recorded(lambda: api(browser, "PATCH", f"tasks/{task.pk}", name=task.name)) == []
    assert recorded(lambda: choose(browser, "tasks_exporttask", "enable", task)) == []


def test_a_pause_and_its_end_are_on_record(browser: Client) -> None:
    assert [row[0] for row in recorded(lambda: browser.post(reverse("admin:tasks_pause_add"), {"note": "升级"}))] == [
        "create"
    ]
    pause = Pause.objects.get()
    assert [row[:2] for row in recorded(lambda: choose(browser, "tasks_pause", "resume", pause))] == [("edit", "root")]
    assert recorded(lambda: choose(browser, "tasks_pause", "resume", pause)) == []


# ---- Groups and rights


def test_groups_are_on_record_from_whichever_side_they_are_changed() -> None:
    user, team, other = make_user("wang"), Group.objects.create(name="team"), Group.objects.create(name="other")
    steps: list[tuple[Callable[[], Any], str, list[list[str]]]] = [
        (lambda: user.groups.add(team, other), "grant", [[], ["other", "team"]]),
        (lambda: user.groups.remove(other), "revoke", [["other"], []]),
        (lambda: user.groups.clear(), "revoke", [["team"], []]),
        (lambda: team.user_set.add(user), "grant", [[], ["team"]]),
        (lambda: team.user_set.remove(user), "revoke", [["team"], []]),
        (lambda: user.groups.set([team]), "grant", [[], ["team"]]),
        (lambda: team.user_set.clear(), "revoke", [["team"], []]),
    ]
    for do, action, changes in steps:
        before = last_event()
        do()
        [event] = events(before)
        assert (event.action, event.subject_type, event.subject_name) == (action, "auth.user", "wang")
        assert event.changes == {"groups": changes}
    before = last_event()
    user.groups.add(team)
    user.groups.add(team)
    assert len(events(before)) == 1


def test_rights_of_groups_and_of_single_users_are_on_record() -> None:
    right, team, user = (
        Permission.objects.get(codename="view_sql"),
        Group.objects.create(name="team"),
        make_user("wang"),
    )
    before = last_event()
    team.permissions.add(right)
    user.user_permissions.add(right)
    right.group_set.remove(team)
    assert [(event.action, event.subject_name, list(event.changes)) for event in events(before)] == [
        ("grant", "team", ["permissions"]),
        ("grant", "wang", ["user_permissions"]),
        ("revoke", "team", ["permissions"]),
    ]


def test_grants_are_on_record_also_when_they_go_with_their_user_or_source() -> None:
    user, source = make_user("wang"), make_source(name="shop")
    Grant.objects.create(data_source=source, user=user)
    assert (events()[-1].action, events()[-1].subject_name) == ("grant", "shop → wang")
    before = last_event()
    user.delete()
    assert {(event.action, event.subject_name) for event in events(before)} == {
        ("revoke", "shop → wang"),
        ("delete", "wang"),
    }
    Grant.objects.create(data_source=source, group=Group.objects.create(name="team"))
    before = last_event()
    source.delete()
    assert {(event.action, event.subject_name) for event in events(before)} == {
        ("revoke", "shop → team"),
        ("delete", "shop"),
    }


# ---- Secrets


def test_no_secret_is_in_any_event(browser: Client, root: User) -> None:
    secrets = [
        (model, field.name)
        for model in apps.get_models()
        for field in model._meta.fields
        if isinstance(field, SecretField)
    ]
    assert {name for _model, name in secrets} == {"password", "secrets", "dingtalk_webhook", "dingtalk_secret"}
    webhook = f"https://oapi.dingtalk.com/robot/send?access_token={CANARY}"
    task = make_task(name="t", dingtalk_webhook=webhook, dingtalk_secret=f"SEC{CANARY}")
    task.dingtalk_webhook, task.dingtalk_secret = webhook + "2", f"SEC{CANARY}2"
    task.save()
    source = {"name": "s", "kind": "mysql", "host": "h", "database": "d", "username": "u", "password": CANARY}
    number = api(browser, "POST", "data-sources", **source).json()["id"]
    api(browser, "PATCH", f"data-sources/{number}", password=f"{CANARY}2", description=f"it is {CANARY}2")
    channel = {
        "name": "c",
        "kind": "webhook",
        "settings": {"url": f"https://example.com/{CANARY}", "secret": f"SEC{CANARY}"},
    }
    number = api(browser, "POST", "channels", **channel).json()["id"]
    api(browser, "PATCH", f"channels/{number}", settings={"secret": f"SEC{CANARY}2"})
    make_user("wang", password=CANARY)
    user = User.objects.get(username="wang")
    user.set_password(f"{CANARY}2")
    user.save()
    key, text = ApiKey.objects.make(user, "k", "read", "2099-01-01T00:00:00Z")
    key.revoke()
    kept = json.dumps(list(AuditEvent.objects.values()), default=str, ensure_ascii=False)
    for secret in (CANARY, text, text.rpartition("_")[2], key.digest, user.password, user.password[-20:]):
        assert secret not in kept
    named = {name for event in events() for name in event.changes}
    assert {"password", "secrets", "dingtalk_webhook", "dingtalk_secret", "digest"} <= named
    for model in (ExportTask, DataSource, Channel, User):
        model._default_manager.exclude(pk=root.pk).delete() if model is not User else user.delete()
    assert CANARY not in json.dumps(list(AuditEvent.objects.values()), default=str, ensure_ascii=False)


@pytest.mark.parametrize("place", ["/admin/login/", "/api/token"])
def test_a_password_that_was_typed_as_a_name_is_kept_nowhere(root: User, place: str) -> None:
    body = {"username": CANARY, "password": "root"}
    if place == "/api/token":
        Client().post(place, body, content_type="application/json")
    else:
        Client().post(place, body)
    event = events()[-1]
    assert (event.action, event.username, event.subject_name, event.note) == ("login_failed", "", "", "")
    for model in apps.get_models():
        assert CANARY not in str(list(model._base_manager.values())), model


def test_a_failed_login_names_the_user_whom_it_was_tried_for(root: User) -> None:
    Client().post("/admin/login/", {"username": "root", "password": CANARY}, REMOTE_ADDR="192.0.2.9")
    event = events()[-1]
    assert (event.action, event.subject_name, event.username, event.address) == (
        "login_failed",
        "root",
        "",
        "192.0.2.9",
    )


# ---- Events stay


def test_events_are_only_added() -> None:
    make_task()
    event, rows = events()[0], AuditEvent.objects.all()
    event.note = "changed"
    for do in (
        event.save,
        event.delete,
        rows.delete,
        lambda: rows.update(note="changed"),
        lambda: rows.filter(pk=event.pk).update(note="changed"),
        lambda: AuditEvent.objects.bulk_update([event], ["note"]),
        lambda: AuditEvent.objects.bulk_create(
            [event], update_conflicts=True, update_fields=["note"], unique_fields=["pk"]
        ),
        lambda: AuditEvent.objects.update_or_create({"note": "changed"}, pk=event.pk),
    ):
        with pytest.raises(TypeError):
            do()
    assert not AuditEvent.objects.filter(note="changed").exists()


def test_a_new_event_takes_no_old_ones_place() -> None:
    make_task()
    event = events()[0]
    with pytest.raises(IntegrityError), transaction.atomic():
        AuditEvent(pk=event.pk, action="run", via="api", note="changed").save()


def test_no_route_changes_or_deletes_events(world: World, browser: Client) -> None:
    routes = [name for name, pattern in walk(get_resolver().url_patterns) if "auditevent" in f"{name}{pattern}"]
    assert {name.rpartition("_")[2] for name in routes if "<" not in name} == {
        "changelist",
        "add",
        "history",
        "delete",
        "change",
    }
    event = events()[0]
    before = list(AuditEvent.objects.values())
    for view in ("change", "delete"):
        url = reverse(f"admin:access_auditevent_{view}", args=[event.pk])
        assert browser.post(url, {"note": "changed", "post": "yes", "_save": "1"}).status_code == 403
    assert browser.post(reverse("admin:access_auditevent_add"), {"note": "new"}).status_code == 403
    for action in ("delete_selected", "delete", "revoke"):
        choose(browser, "access_auditevent", action, event)
    listed = {"form-TOTAL_FORMS": 1, "form-INITIAL_FORMS": 1, "form-0-id": event.pk, "form-0-note": "x", "_save": "1"}
    browser.post(reverse("admin:access_auditevent_changelist"), listed)
    assert list(AuditEvent.objects.values()) == before
    assert AuditEvent not in {inline.model for row in admin.site._registry.values() for inline in row.inlines}


def test_events_outlive_what_they_are_about(root: User) -> None:
    user = make_user("wang", role="operator")
    source = make_source(name="shop")
    task = make_task(name="每日", data_source=source)
    client = Client()
    client.force_login(user)
    Grant.objects.create(data_source=source, user=user)
    api(client, "POST", f"tasks/{task.pk}/execute")
    kept = list(AuditEvent.objects.order_by("pk").values())
    Execution.objects.all().delete()
    task.delete()
    source.delete()
    user.delete()
    assert list(AuditEvent.objects.order_by("pk").values())[: len(kept)] == kept
    assert [event.action for event in AuditEvent.objects.filter(username="wang").order_by("pk")] == ["login", "run"]


def test_the_page_of_an_event_shows_it_and_escapes_it(browser: Client) -> None:
    task = make_task(name="<b>每日</b>", description="vorher")
    task.description = "<script>alert(1)</script>"
    task.save()
    page = browser.get(reverse("admin:access_auditevent_change", args=[last_event()])).content.decode()
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "<script>alert(1)" not in page
    assert "<b>每日" not in browser.get(reverse("admin:access_auditevent_changelist")).content.decode()


def test_links_that_are_revoked_are_on_record_once_for_each_run(world: World, browser: Client) -> None:
    other = finished(world.task)
    DownloadLink.objects.make(other)
    found = recorded(lambda: choose(browser, "tasks_execution", "revoke_links", world.execution, other))
    assert {(row[0], row[4]) for row in found} == {("revoke", str(world.execution)), ("revoke", str(other))}
