"""Who gets what at every address with every verb, and whose buttons act. What the tables do not name fails."""

import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from django.apps import apps
from django.contrib import admin
from django.contrib.admin.models import LogEntry
from django.contrib.sessions.models import Session
from django.core.cache import cache as counts
from django.db import transaction
from django.test import Client, RequestFactory
from django.urls import get_resolver, reverse

from exporter_site.access.models import AuditEvent
from notifications.models import Delivery
from notifications.states import DeliveryStatus
from tasks.models import ExportTask
from tests.access.routes import ACTIONS, TABLE
from tests.access.world import (
    KINDS,
    MARK,
    SCOPED,
    Actor,
    World,
    ask,
    everybody,
    form_of,
    make_actor,
    told,
    unrendered,
    walk,
)
from tests.factories import PASSWORD, make_admin

pytestmark = pytest.mark.django_db
VERBS = ("GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE")
EVERYBODY = pytest.mark.parametrize(("kind", "granted"), everybody(), ids=str)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def lines(text: str) -> Iterator[list[str]]:
    for line in text.replace("\\\n", "").splitlines():
        if line := line.partition("  #")[0].strip():
            yield [cell.strip() for cell in line.split("|")]


def expanded(text: str) -> list[str]:
    """a{b,c}d -> abd, acd"""
    found = re.fullmatch(r"(.*?)\{(\w*(?:,\w*)+)\}(.*)", text)
    return (
        [name for choice in found[2].split(",") for name in expanded(f"{found[1]}{choice}{found[3]}")]
        if found
        else [text]
    )


@cache
def table() -> dict[str, dict[str, tuple[list[str], str]]]:
    """{route: {verb: (answers by kind, answer without the grant)}}"""
    rules: dict[str, dict[str, tuple[list[str], str]]] = {}
    for names, verbs, answers, *hidden in lines(TABLE):
        for route in (route for words in names.split() for route in expanded(words)):
            rule = rules.setdefault(route, {})
            for verb in verbs.split():
                for each in {"GET": ("GET", "HEAD"), "*": VERBS}.get(verb, (verb,)):
                    assert verb == "*" or each == "HEAD" or each not in rule, f"{route} {each}: two lines"
                    rule.setdefault(each, (answers.split(), hidden[0] if hidden else ""))
    return rules


def expected(route: str, verb: str, actor: Actor) -> str:
    if route not in table():
        return "an entry in the table"
    answers, hidden = table()[route].get(verb, (["405"] * len(KINDS), ""))
    answer = answers[KINDS.index(actor.kind)]
    if actor.granted or not hidden or (answer == "403" and not hidden.startswith("all:")):
        return answer
    return hidden.removeprefix("all:")


def routes() -> dict[str, str]:
    return dict(walk(get_resolver().url_patterns))


def address(route: str, pattern: str, world: World) -> str:
    """Where `route` leads for the rows of the world."""
    if route.startswith("tasks:link"):
        return world.link.path + ("/file" if route.endswith("file") else "")
    known = {"content_type_id": "1", "app_label": "tasks", "url": "nothing"}
    known["event_id"] = str(AuditEvent.objects.about(world.task)[0].pk)
    path = re.sub(r"\(\?P<(\w+)>[^()]*(?:\([^()]*\))*[^()]*\)", lambda match: known[match[1]], pattern)
    number = str(_row(route, pattern, world).pk)
    path = re.sub(r"<(?:\w+:)?(\w+)>", lambda match: known.get(match[1], number), path)
    kind = "?kind=webhook" if re.fullmatch("admin:notifications_channel_(add|try_new)", route) else ""
    return "/" + path.replace("^", "").replace("$", "") + kind


def _row(route: str, pattern: str, world: World) -> Any:
    nouns = {"data-sources": world.source, "tasks": world.task, "channels": world.channel}
    if pattern.startswith("api/"):
        return world.queued if route == "execution-cancel" else nouns.get(pattern.split("/")[1], world.execution)
    names = [name for name in world.named if f"/{name.replace('_', '/', 1)}/" in f"/{pattern}"]
    return world.named[names[0]] if names else world.execution


def forms(world: World) -> Mapping[str, Mapping[str, Any]]:
    """What is sent to the admin's forms: what they would send back unchanged, or a new row's fields."""
    client = Client()
    client.force_login(make_admin("form filler"))
    found: dict[str, dict[str, Any]] = {}
    edited = ["datasources_datasource", "tasks_exporttask", "notifications_channel", "notifications_notificationrule"]
    for name in (*edited, "auth_user", "auth_group"):
        place = f"admin:{name}"
        with unrendered():
            form = form_of(client, reverse(f"{place}_change", args=[world.named[name].pk]))
        found[f"{place}_change"] = form
        empty = {field: "0" for field in form if field.endswith(("TOTAL_FORMS", "INITIAL_FORMS"))}
        found[f"{place}_add"] = form | empty | {"name": "new"}
    words = {"password1": "a new word 4711", "password2": "a new word 4711", "usable_password": "true"}
    found["admin:auth_user_add"] |= words | {"username": "new"}
    found["admin:auth_user_password_change"] = words
    key = {"name": "new", "user": world.user.pk, "scope": "read", "expires_at_0": "2099-01-01", "expires_at_1": "0:00"}
    found["admin:access_apikey_add"] = key
    found["admin:notifications_channel_add"]["setting_url"] = "https://example.com/"
    found["admin:notifications_notificationrule_add"]["channel"] = world.other_channel.pk
    for what in ("preview", "check", "schema"):
        found[f"admin:tasks_exporttask_{what}"] = {"data_source": world.source.pk, "sql": "SELECT 1"}
    return found | {"admin:login": {"username": "root", "password": PASSWORD}, "set_language": {"language": "en"}}


def jsons(world: World) -> dict[str, Any]:
    task = {"name": "new", "data_source": world.source.pk, "sql": "SELECT 1"}
    source = {"name": "new", "kind": "sqlite", "database": world.source.database}
    channel = {"name": "new", "kind": "webhook", "settings": {"url": "https://example.com/"}}
    return {
        **{
            f"{name}-{what}": row
            for name, row in (("task", task), ("datasource", source), ("channel", channel))
            for what in ("list", "detail")
        },
        "token": {"username": "root", "password": PASSWORD},
        "token-refresh": {"refresh": "x"},
        "task-backfill": {"start": "2025-01-01", "end": "2025-01-02"},
    }


def sent(verb: str, route: str, pattern: str, forms: Mapping[str, Any], jsons: Mapping[str, Any]) -> dict[str, Any]:
    if pattern.startswith("api/"):
        body = jsons.get(route, {}) if verb in ("POST", "PUT") else {}
        return {"data": json.dumps(body), "content_type": "application/json"}
    body = forms.get(route, {"post": "yes", "_form_submitted": "True"}) if verb == "POST" else {}
    return {"data": urlencode(body, doseq=True), "content_type": "application/x-www-form-urlencoded"}


def test_every_route_is_in_the_table_and_the_table_names_no_others() -> None:
    assert sorted(set(routes()) - set(table())) == [], "routes without an entry"
    assert sorted(set(table()) - set(routes())) == [], "entries without a route"


def is_worth_asking(route: str, verb: str, actor: Actor) -> bool:
    """Whether the answer may be another one than that to nobody, to the administrator and to who has the grant: those
    are asked everything, and this suite is to stay quick."""
    if route not in table():
        return True
    if route == "api-schema":  # made anew each time, for nobody as for anybody
        return False
    if verb not in table()[route] or (verb == "HEAD" and (route.startswith("admin") or not actor.granted)):
        return False
    return actor.granted or actor.kind == "editor" or bool(table()[route][verb][1])


@EVERYBODY
def test_everybody_gets_what_the_table_says(world: World, kind: str, granted: bool) -> None:
    bodies, texts = forms(world), jsons(world)
    actor = make_actor(kind, world, granted=granted)
    wrong = []
    for route, pattern in routes().items():
        url = address(route, pattern, world)
        for verb in VERBS:
            if kind in SCOPED and not is_worth_asking(route, verb, actor):
                continue
            counts.clear()
            with unrendered():
                got = told(ask(actor.client, verb, url, **sent(verb, route, pattern, bodies, texts)))
            if got != expected(route, verb, actor):
                wrong.append(f"{verb} {route}: {got}, not {expected(route, verb, actor)}")
    assert wrong == []


@pytest.mark.parametrize("kind", ["viewer", "operator", "editor"])
def test_no_answer_tells_the_name_of_what_is_not_granted(world: World, kind: str) -> None:
    actor = make_actor(kind, world, granted=False)
    told_of = []
    for route, pattern in routes().items():
        counts.clear()
        answer = ask(actor.client, "GET", address(route, pattern, world))
        content = b"" if answer.streaming else answer.content
        if MARK in f"{answer.headers} {content.decode()}":
            told_of.append(route)
    assert told_of == []
    lists = [route for route in routes() if route.endswith(("_changelist", "task-list", "execution-list"))]
    friend = make_actor(kind, world)
    seen = [
        route
        for route in lists
        if MARK in ask(friend.client, "GET", address(route, routes()[route], world)).content.decode()
    ]
    assert {"admin:tasks_exporttask_changelist", "admin:tasks_execution_changelist", "task-list"} < set(seen)


# ---- Actions


def actions() -> dict[tuple[str, str], list[str]]:
    return {
        (model, action): kinds.split()
        for models, names, kinds in lines(ACTIONS)
        for model in models.split()
        for action in names.split()
    }


def offered() -> Iterator[tuple[str, str]]:
    """Every action and button of the admin."""
    request = RequestFactory().get("/")
    request.user = make_admin("sees all")
    for model, model_admin in admin.site._registry.items():
        extra: Any = model_admin
        buttons = (*extra.actions_submit_line, *extra.actions_detail, *extra.actions_list, *extra.actions_row)
        for action in (*model_admin.get_actions(request), *buttons):
            yield model._meta.label_lower.replace(".", "_"), action


def test_every_action_is_in_the_table_and_the_table_names_no_others() -> None:
    assert set(offered()) == set(actions())


def contents() -> dict[str, list[Any]]:
    """All rows of the database, apart from what every request may leave there."""
    left_out = (Session, LogEntry)
    return {
        model._meta.label: list(model._base_manager.order_by("pk").values())
        for model in apps.get_models()
        if model not in left_out
    }


# What is filled in.
DIALOGS: dict[tuple[str, str], dict[str, str]] = {
    ("tasks_execution", "new_link"): {},
    ("tasks_execution", "revoke"): {},
    ("tasks_exporttask", "run"): {"planned_at": "2025-01-01T09:00"},
    ("tasks_exporttask", "backfill"): {"start": "2025-01-01", "end": "2025-01-02", "confirmed": "2"},
    ("tasks_exporttask", "copy"): {},
}


def press(actor: Actor, world: World, model: str, action: str, bodies: Mapping[str, Any]) -> None:
    """Use the action on the world's row, as the theme's pages do."""
    row: Any = world.named[model]
    if (model, action) == ("datasources_datasource", "delete_selected"):
        row = world.unused
    elif (model, action) == ("tasks_execution", "cancel"):
        row = world.queued
    if action.startswith("save_and_"):
        form = bodies[f"admin:{model}_change"] | {f"{model}_{action}": "1"}
        actor.client.post(reverse(f"admin:{model}_change", args=[row.pk]), form)
    elif (model, action) in DIALOGS:
        wish = {"_form_submitted": "True", **DIALOGS[model, action]}
        actor.client.post(reverse(f"admin:{model}_{action}", args=[row.pk]), wish)
    else:
        chosen = {"action": action, "_selected_action": [row.pk], "post": "yes"}
        actor.client.post(reverse(f"admin:{model}_changelist"), chosen)


@EVERYBODY
def test_actions_act_for_those_who_may_on_what_is_theirs_and_are_on_record(
    world: World, kind: str, granted: bool
) -> None:
    bodies = forms(world)
    actor = make_actor(kind, world, granted=granted)
    wrong = []
    for (model, action), kinds in actions().items():
        with transaction.atomic(), unrendered():
            if action.startswith("send_again"):
                Delivery.objects.update(status=DeliveryStatus.DEAD)
            ExportTask.objects.update(enabled=action != "enable")
            before = contents()
            press(actor, world, model, action, bodies)
            after = contents()
            events = AuditEvent.objects.count() - len(before[AuditEvent._meta.label])
            transaction.set_rollback(True)
        if (before != after) != (kind in kinds and granted) or bool(events) != (before != after):
            changed = [label for label in before if before[label] != after[label]]
            wrong.append(f"{model} {action}: changed {changed}, {events} events")
    assert wrong == []


@pytest.mark.parametrize("kind", ["viewer", "operator", "editor", "admin"])
def test_an_action_that_a_list_does_not_offer_does_nothing(world: World, kind: str) -> None:
    actor = make_actor(kind, world)
    before = contents()
    for model, row in world.named.items():
        known = {action for name, action in actions() if name == model}
        for action in {"delete_selected", "revoke", "cancel", "run_now"} - known:
            chosen = {"action": action, "_selected_action": [row.pk], "post": "yes"}
            with unrendered():
                actor.client.post(reverse(f"admin:{model}_changelist"), chosen)
    assert contents() == before
