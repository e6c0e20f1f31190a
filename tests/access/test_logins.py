"""Passwords, tokens and keys: what opens, what must be changed first, what dies when, and what locks."""

import json
import re
from collections.abc import Callable
from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
import time_machine
from django.conf import LazySettings
from django.contrib.auth.models import User
from django.core.cache import cache
from django.core.management import call_command
from django.test import Client, RequestFactory
from django.urls import get_resolver, reverse
from django.utils import timezone

from exporter_site.access.logins import counted_name
from exporter_site.access.models import ApiKey, PasswordChange
from tasks.models import DownloadLink
from tests.access.world import World, ask, finished, walk
from tests.factories import PASSWORD, make_admin, make_execution, make_source, make_task, make_user
from tests.instance import Instance

pytestmark = pytest.mark.django_db
NEW = "a new word 4711"
CHANGE = {"old_password": PASSWORD, "new_password1": NEW, "new_password2": NEW}
LATER = "2099-01-01T00:00:00Z"


def browser_of(user: User, **options: Any) -> Client:
    client = Client(**options)
    client.force_login(user)
    return client


def bearer(text: str) -> Client:
    return Client(headers={"authorization": f"Bearer {text}"})


def post(client: Client, path: str, **body: Any) -> Any:
    return client.post(f"/api/{path}", json.dumps(body), content_type="application/json")


def token(username: str, password: str = PASSWORD) -> Any:
    return post(Client(), "token", username=username, password=password)


# ---- A password that somebody else knows


@pytest.fixture
def first_admin() -> tuple[User, str]:
    out = StringIO()
    call_command("ensureadmin", "--json", stdout=out)
    return User.objects.get(username="admin"), json.loads(out.getvalue())["password"]


def test_the_first_password_is_changed_before_anything_else(first_admin: tuple[User, str]) -> None:
    password = first_admin[1]
    client = Client()
    assert client.post("/admin/login/", {"username": "admin", "password": password}).status_code == 302
    change = reverse("admin:password_change")
    for url in ("/admin/", "/admin/tasks/exporttask/", "/admin/auth/user/", "/executions/1/download"):
        for answer in (client.get(url), client.post(url)):
            assert (answer.status_code, answer.headers["Location"]) == (302, change), url
    for answer in (client.get("/api/tasks"), client.get("/api/status"), post(client, "tasks")):
        assert (answer.status_code, answer.json()["code"]) == (403, "password_change_required")
    answer = token("admin", password)
    assert (answer.status_code, answer.json()["code"]) == (403, "password_change_required")
    for url in (change, "/healthz/web", reverse("admin:jsi18n")):
        assert client.get(url).status_code == 200
    same = CHANGE | {"old_password": password, "new_password1": password, "new_password2": password}
    assert client.post(change, same).context["form"].errors.keys() == {"new_password2"}
    assert client.get("/admin/").status_code == 302
    assert client.post(change, CHANGE | {"old_password": password}).status_code == 302
    assert client.get("/admin/").status_code == 200
    assert client.get("/api/tasks").status_code == 200
    assert token("admin", NEW).status_code == 200


def test_a_file_behind_a_login_waits_for_the_new_password(first_admin: tuple[User, str]) -> None:
    link = DownloadLink.objects.make(finished(make_task()))
    DownloadLink.objects.filter(pk=link.pk).update(login_required=True)
    client = browser_of(first_admin[0])
    for path in (link.path, f"{link.path}/file"):
        answer = client.get(path)
        assert (answer.status_code, answer.headers["Location"]) == (302, reverse("admin:password_change"))


def test_a_password_that_another_has_set_is_changed_at_the_next_login() -> None:
    admin, user = make_user(role="admin"), make_user("wang", role="viewer")
    session = browser_of(user)
    words = {"password1": NEW, "password2": NEW, "usable_password": "true"}
    url = reverse("admin:auth_user_password_change", args=[user.pk])
    assert browser_of(admin).post(url, words).status_code == 302
    assert session.get("/admin/").headers["Location"].startswith(reverse("admin:login"))
    assert PasswordChange.objects.get().user == user
    assert token("wang", NEW).json()["code"] == "password_change_required"
    user.refresh_from_db()
    session = browser_of(user)
    assert session.get("/admin/").headers["Location"] == reverse("admin:password_change")
    own = {"old_password": NEW, "new_password1": PASSWORD, "new_password2": PASSWORD}
    assert session.post(reverse("admin:password_change"), own).status_code == 302
    assert session.get("/admin/").status_code == 200
    assert not PasswordChange.objects.exists()


def test_a_user_whom_an_administrator_has_made_chooses_a_password_of_his_own() -> None:
    words = {"username": "new", "password1": NEW, "password2": NEW, "usable_password": "true"}
    empty = {"grants-TOTAL_FORMS": 0, "grants-INITIAL_FORMS": 0}
    browser_of(make_admin()).post(reverse("admin:auth_user_add"), words | empty)
    assert PasswordChange.objects.get().user.username == "new"


def test_who_sets_his_own_password_or_has_a_command_set_it_need_not_change_it() -> None:
    root = make_admin("root")
    words = {"password1": NEW, "password2": NEW, "usable_password": "true"}
    assert browser_of(root).post(reverse("admin:auth_user_password_change", args=[root.pk]), words).status_code == 302
    user = make_user("wang")
    PasswordChange.objects.create(user=user)
    user.set_password(PASSWORD)
    user.save()
    assert not PasswordChange.objects.exists()


@pytest.mark.parametrize("password", ["short", "1234567890", "password123", "wangxiaoming"])
def test_weak_passwords_are_refused(password: str) -> None:
    client = browser_of(make_user("wangxiaoming", role="viewer"))
    answer = client.post(
        reverse("admin:password_change"), CHANGE | {"new_password1": password, "new_password2": password}
    )
    assert answer.status_code == 200
    assert answer.context["form"].errors


# ---- Tokens


def test_tokens_open_what_their_user_may_and_are_renewed() -> None:
    make_user("wang", role="viewer")
    found = token("wang").json()
    assert set(found) == {"access", "refresh"}
    assert bearer(found["access"]).get("/api/tasks").status_code == 200
    assert post(bearer(found["access"]), "tasks").status_code == 403
    renewed = post(Client(), "token/refresh", refresh=found["refresh"]).json()["access"]
    assert bearer(renewed).get("/api/tasks").status_code == 200


def new_password(user: User) -> None:
    user.set_password(NEW)
    user.save()


def deactivated(user: User) -> None:
    User.objects.filter(pk=user.pk).update(is_active=False)


def must_change(user: User) -> None:
    PasswordChange.objects.create(user=user)


@pytest.mark.parametrize("happens", [new_password, deactivated, User.delete], ids=["password", "inactive", "deleted"])
def test_tokens_die_with_the_password_and_with_the_user(happens: Callable[[User], Any]) -> None:
    user = make_user("wang", role="viewer")
    found = token("wang").json()
    happens(user)
    answer = bearer(found["access"]).get("/api/tasks")
    assert (answer.status_code, answer.json()["code"]) == (401, "token_invalid")
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")
    answer = post(Client(), "token/refresh", refresh=found["refresh"])
    assert (answer.status_code, answer.json()["code"]) == (401, "token_invalid")


def test_no_token_is_renewed_for_who_must_change_the_password() -> None:
    user = make_user("wang", role="viewer")
    found = token("wang").json()
    must_change(user)
    assert post(Client(), "token/refresh", refresh=found["refresh"]).status_code == 401


def test_tokens_end_after_their_time(settings: LazySettings) -> None:
    make_user("wang", role="viewer")
    found = token("wang").json()
    with time_machine.travel(timezone.now() + timedelta(hours=24, seconds=5)):
        assert bearer(found["access"]).get("/api/tasks").status_code == 401
        assert post(Client(), "token/refresh", refresh=found["refresh"]).status_code == 200
    with time_machine.travel(timezone.now() + timedelta(days=7, seconds=5)):
        assert post(Client(), "token/refresh", refresh=found["refresh"]).status_code == 401


def test_what_is_no_token_opens_nothing() -> None:
    make_user("wang", role="viewer")
    found = token("wang").json()
    head, body, signature = found["access"].split(".")
    none = "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0"  # {"alg":"none","typ":"JWT"}
    wrong = (
        found["refresh"],
        f"{head}.{body}.{signature[::-1]}",
        f"{none}.{body}.",
        "x",
        "exp_x",
        "exp_ab_cd",
        "exp_é",
        "a b",
        "",
    )
    for text in wrong:
        answer = Client(headers={"authorization": f"Bearer {text}".encode().decode("latin-1")}).get("/api/tasks")
        assert answer.status_code == 401, text
    for text in (found["access"], "x", ""):
        assert post(Client(), "token/refresh", refresh=text).status_code in (400, 401)


# ---- Ten wrong passwords


def guess(place: str, name: str, password: str = "wrong", address: str = "192.0.2.1") -> Any:
    client = Client(REMOTE_ADDR=address, headers={"accept-language": "en"})
    body = {"username": name, "password": password}
    return client.post(place, body) if "admin" in place else client.post(place, body, content_type="application/json")


PLACES = pytest.mark.parametrize("place", ["/admin/login/", "/api/token"])


@PLACES
def test_ten_wrong_passwords_lock_this_name_from_this_address(place: str) -> None:
    make_user("wang", role="viewer")
    make_user("li", role="viewer")
    assert {guess(place, "wang").status_code for _ in range(9)} == {200 if "admin" in place else 401}
    for password in ("wrong", PASSWORD):
        answer = guess(place, "wang", password)
        assert answer.status_code == 429
        assert answer.headers["Retry-After"] == "900"
        assert "15 minutes" in answer.content.decode()
        if place == "/api/token":
            assert set(answer.json()) == {"code", "message"}
            assert answer.json()["code"] == "too_many_logins"
    entered = 302 if "admin" in place else 200
    assert guess(place, "wang", PASSWORD, address="192.0.2.2").status_code == entered
    assert guess(place, "li", PASSWORD).status_code == entered


def test_what_is_locked_at_one_door_is_locked_at_the_other() -> None:
    make_user("wang", role="viewer")
    for number in range(10):
        guess("/admin/login/" if number % 2 else "/api/token", "wang")
    assert guess("/admin/login/", "wang", PASSWORD).status_code == 429
    assert guess("/api/token", "wang", PASSWORD).status_code == 429


@PLACES
def test_a_lock_ends_after_a_quarter_of_an_hour(place: str) -> None:
    make_user("wang", role="viewer")
    start = timezone.now()
    with time_machine.travel(start, tick=False):
        for _ in range(10):
            guess(place, "wang")
    cache.clear()
    with time_machine.travel(start + timedelta(minutes=15, seconds=1), tick=False):
        assert guess(place, "wang", PASSWORD).status_code == (302 if "admin" in place else 200)


@PLACES
def test_the_right_password_forgets_the_wrong_ones_before_it(place: str) -> None:
    make_user("wang", role="viewer")
    for _round in range(2):
        for _ in range(9):
            guess(place, "wang")
        cache.clear()
        assert guess(place, "wang", PASSWORD).status_code == (302 if "admin" in place else 200)


def test_every_spelling_that_the_database_takes_for_a_name_counts_for_it() -> None:
    make_user("wang", role="viewer")
    request = RequestFactory().post("/admin/login/")
    for name in ("WANG", "wang ", "wáng", "li"):
        same = User.objects.filter(username=name).exists()  # in MySQL
        assert (counted_name(request, {"username": name}) == counted_name(request, {"username": "wang"})) == same


def test_a_name_that_nobody_has_locks_too_and_looks_the_same() -> None:
    make_user("wang", role="viewer")
    answers = [[guess("/api/token", name).content for _ in range(11)] for name in ("wang", "nobody")]
    assert answers[0] == answers[1]


def test_whoever_has_no_part_in_the_admin_does_not_get_in() -> None:
    make_user("program", password=PASSWORD)
    answer = guess("/admin/login/", "program", PASSWORD)
    assert answer.status_code == 200
    assert Client().get("/admin/").status_code == 302


# ---- API keys


def test_a_key_is_stored_as_its_hash_alone() -> None:
    user = make_user("wang", role="viewer")
    page = browser_of(make_user(role="admin")).post(
        reverse("admin:access_apikey_add"),
        {"name": "erp", "user": user.pk, "scope": "read", "expires_at_0": "2099-01-01", "expires_at_1": "00:00"},
        follow=True,
    )
    [text] = re.findall(r"exp_[0-9a-f]{12}_[\w-]{43}", page.content.decode())
    key = ApiKey.objects.get()
    assert text.partition("_")[2].partition("_")[2] not in str(ApiKey.objects.values().get())
    assert ApiKey.objects.find(text) == key
    listed = browser_of(make_admin()).get(reverse("admin:access_apikey_changelist")).content.decode()
    assert key.prefix in listed
    assert text not in listed
    assert key.digest not in listed
    out = StringIO()
    call_command("apikey", "create", "wang", "cron", "--json", stdout=out)
    assert bearer(json.loads(out.getvalue())["key"]).get("/api/tasks").status_code == 200
    out = StringIO()
    call_command("apikey", "list", "--json", stdout=out)
    assert "digest" not in out.getvalue()


@pytest.mark.parametrize("fault", ["wrong", "expired", "revoked", "inactive", "deleted"])
def test_a_key_that_is_not_good_opens_nothing(fault: str) -> None:
    user = make_user("wang", role="viewer")
    key, text = ApiKey.objects.make(user, "erp", "write", LATER)
    assert bearer(text).get("/api/tasks").status_code == 200
    if fault == "wrong":
        text = text[:-1] + ("A" if text[-1] != "A" else "B")
    elif fault == "expired":
        ApiKey.objects.update(expires_at=timezone.now())
    elif fault == "revoked":
        call_command("apikey", "revoke", str(key.pk), stdout=StringIO())
    elif fault == "inactive":
        deactivated(user)
    else:
        user.delete()
    answer = bearer(text).get("/api/tasks")
    assert (answer.status_code, answer.json()["code"]) == (401, "api_key_invalid")
    assert "WWW-Authenticate" in answer.headers
    assert bearer(text).get("/api/status").status_code == 401


def test_a_key_says_when_it_was_last_used_once_a_minute() -> None:
    key, text = ApiKey.objects.make(make_user(role="viewer"), "erp", "read", LATER)
    seen = []
    start = timezone.now().replace(microsecond=0)
    for seconds in (0, 30, 61):
        with time_machine.travel(start + timedelta(seconds=seconds), tick=False):
            bearer(text).get("/api/tasks")
        key.refresh_from_db()
        seen.append((key.last_used_at - start).total_seconds() if key.last_used_at else None)
    assert seen == [0, 0, 61]


# What a key must be for, by route and verb; whatever else there is needs no key, or has no such verb.
SCOPES = {
    "read": "datasource-list GET, datasource-detail GET, task-list GET, task-detail GET, execution-list GET, "
    "execution-detail GET, execution-download GET, channel-list GET, channel-detail GET",
    "run": "task-execute POST, task-backfill POST, task-test POST, datasource-test POST, channel-test POST, "
    "execution-cancel POST, execution-rerun POST, execution-resend POST",
    "write": "datasource-list POST, datasource-detail PUT, datasource-detail PATCH, datasource-detail DELETE, "
    "task-list POST, task-detail PUT, task-detail PATCH, task-detail DELETE, "
    "channel-list POST, channel-detail PUT, channel-detail PATCH, channel-detail DELETE",
}


def test_a_key_does_what_its_scope_says_at_each_endpoint(tmp_path: Any) -> None:
    world = World(tmp_path)
    root = make_admin()
    needed = {tuple(words.split()): scope for scope, names in SCOPES.items() for words in names.split(", ")}
    wrong = []
    for name, pattern in walk(get_resolver().url_patterns):
        if not pattern.startswith("api/") or name.partition("-")[0] not in (
            "datasource",
            "task",
            "execution",
            "channel",
        ):
            continue
        row = {"datasource": world.source, "task": world.task, "channel": world.channel}.get(
            name.partition("-")[0], world.queued
        )
        url = "/" + pattern.replace("<int:pk>", str(row.pk))
        for verb in ("GET", "POST", "PUT", "PATCH", "DELETE"):
            got = []
            for scope in ("read", "run", "write"):
                cache.clear()
                _key, text = ApiKey.objects.make(root, scope, scope, LATER)
                answer = ask(bearer(text), verb, url, data="{}", content_type="application/json")
                refused = answer.status_code == 403 and answer.json()["code"] == "scope"
                got.append("no" if refused else "-" if answer.status_code == 405 else "yes")
            scope = needed.pop((name, verb), "")
            wanted = {"read": ["yes"] * 3, "run": ["no", "yes", "yes"], "write": ["no", "no", "yes"]}.get(scope)
            if (wanted and got != wanted) or (not wanted and "yes" in got):
                wrong.append(f"{verb} {name}: {got}, not {wanted}")
    assert wrong == []
    assert needed == {}


def test_a_key_gives_nothing_that_its_user_has_not() -> None:
    source = make_source()
    user = make_user(role="viewer", sources=[source])
    _key, text = ApiKey.objects.make(user, "erp", "write", LATER)
    task, foreign = make_task(data_source=source), make_task()
    assert bearer(text).get(f"/api/tasks/{task.pk}").status_code == 200
    assert bearer(text).get(f"/api/tasks/{foreign.pk}").status_code == 404
    assert post(bearer(text), f"tasks/{task.pk}/execute").status_code == 403


def test_a_key_opens_the_api_only() -> None:
    _key, text = ApiKey.objects.make(make_admin(), "erp", "write", LATER)
    assert bearer(text).get("/admin/").status_code == 302
    assert bearer(text).get(f"/executions/{make_execution().pk}/download").status_code == 302


# ---- Sessions and the API


def test_without_a_login_every_guarded_endpoint_says_how_to_log_in(tmp_path: Any) -> None:
    world = World(tmp_path)
    open_to_all = {"token", "token-refresh", "api-status", "api-schema", "api-docs", "api/"}
    for name, pattern in walk(get_resolver().url_patterns):
        if not pattern.startswith("api/") or name in open_to_all:
            continue
        for verb in ("GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"):
            cache.clear()
            answer = Client().generic(verb, "/" + pattern.replace("<int:pk>", str(world.task.pk)))
            assert answer.status_code == 401, f"{verb} {name}"
            assert answer.headers["WWW-Authenticate"] == 'Bearer realm="api"'
            assert verb == "HEAD" or set(answer.json()) == {"code", "message"}


def test_a_session_needs_the_csrf_token_where_it_changes_something() -> None:
    task = make_task()
    client = Client(enforce_csrf_checks=True)
    client.get("/admin/login/")
    form = {"username": make_admin("root").username, "password": PASSWORD}
    csrf = client.cookies["csrftoken"].value
    assert client.post("/admin/login/", form | {"csrfmiddlewaretoken": csrf}).status_code == 302
    assert client.get(f"/api/tasks/{task.pk}").status_code == 200
    path = f"tasks/{task.pk}/execute"
    refused = post(client, path)
    assert (refused.status_code, refused.json()["code"]) == (403, "permission_denied")
    page = client.get(reverse("admin:password_change")).content.decode()
    found = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', page)
    assert found is not None
    client.defaults["HTTP_X_CSRFTOKEN"] = found[1]
    assert post(client, path).status_code == 202
    key = ApiKey.objects.make(User.objects.get(username="root"), "erp", "run", LATER)[1]
    program = Client(enforce_csrf_checks=True, headers={"authorization": f"Bearer {key}"})
    assert post(program, path).status_code == 202


def test_cookies_are_for_this_site_and_its_server_only(settings: LazySettings) -> None:
    make_admin("root")
    client = Client()
    client.get("/admin/login/")
    client.post("/admin/login/", {"username": "root", "password": PASSWORD})
    assert {"csrftoken", "sessionid"} <= set(client.cookies)
    for name in ("csrftoken", "sessionid"):
        cookie = client.cookies[name]
        assert (cookie["httponly"], cookie["samesite"], cookie["path"]) == (True, "Lax", "/"), name
    assert client.cookies["sessionid"]["max-age"] == 3600
    settings.SESSION_COOKIE_SECURE = True
    assert client.get("/admin/").cookies["sessionid"]["secure"] is True


def test_a_login_makes_a_new_session_and_a_logout_ends_it() -> None:
    make_admin("root")
    client = Client()
    client.get("/admin/login/")
    client.post("/admin/login/", {"username": "root", "password": PASSWORD})
    session = client.cookies["sessionid"].value
    client.post("/admin/logout/")
    thief = Client()
    thief.cookies["sessionid"] = session
    assert thief.get("/admin/").status_code == 302
    assert thief.get("/api/tasks").status_code == 401


def test_a_login_leads_nowhere_else() -> None:
    make_admin("root")
    for target in ("https://evil.example.com/", "//evil.example.com", "javascript:alert(1)"):
        answer = Client().post(
            "/admin/login/?next=" + target, {"username": "root", "password": PASSWORD, "next": target}
        )
        assert answer.headers["Location"] == "/admin/"
        answer = Client().post("/i18n/setlang/", {"language": "en", "next": target})
        assert answer.headers["Location"] == "/"


# ---- Headers and errors


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Client:
    """A browser whose list of tasks fails, in the admin and in the API; its files do, too."""

    def fail(*_args: Any, **_options: Any) -> None:
        raise RuntimeError("inner-words-4711")

    for place in (
        "tasks.admin.ExportTaskAdmin.get_queryset",
        "tasks.api.ExportTaskViewSet.get_queryset",
        "tasks.views.send",
    ):
        monkeypatch.setattr(place, fail)
    client = browser_of(make_admin(), raise_request_exception=False)
    return client


def kinds_of_answers(client: Client) -> dict[str, Any]:
    link = DownloadLink.objects.make(finished(make_task()))
    found = {
        "page": client.get("/admin/"),
        "redirect": Client().get("/admin/"),
        "login": Client().get("/admin/login/"),
        "locked": [guess("/admin/login/", "nobody") for _ in range(10)][-1],
        "not found": client.get("/admin/tasks/exporttask/x/y/z"),
        "nothing there": client.get("/nothing"),
        "method": client.put("/healthz"),
        "bad request": client.get("/admin/tasks/execution/?sql=x"),
        "forbidden": browser_of(make_user(role="viewer")).get("/admin/auth/user/"),
        "no csrf": Client(enforce_csrf_checks=True).post("/admin/login/"),
        "page fault": client.get("/admin/tasks/exporttask/"),
        "file fault": client.get(f"{link.path}/file"),
        "api fault": client.get("/api/tasks"),
        "api": client.get("/api/logs"),
        "api error": Client().get("/api/tasks"),
        "api unknown": client.get("/api/nothing"),
        "api docs": client.get("/api/docs"),
        "link": Client().get(link.path),
        "no link": Client().get("/d/x"),
        "static": client.get("/static/exporter.css"),
        "health": client.get("/healthz/web"),
    }
    for answer in found.values():
        if answer.streaming:
            b"".join(answer.streaming_content)
            answer.close()
    return found


def test_every_kind_of_answer_has_the_headers_that_protect(broken: Client) -> None:
    wrong = []
    found = kinds_of_answers(broken)
    for kind, answer in found.items():
        policy = answer.headers.get("Content-Security-Policy", "")
        wanted = (
            "default-src 'self'",
            "object-src 'none'",
            "base-uri 'self'",
            "frame-ancestors 'none'",
            "form-action 'self'",
        )
        if not all(words in policy for words in wanted) or re.search(
            r"script-src[^;]*('unsafe-inline'|\*|http)", policy
        ):
            wrong.append(f"{kind}: {policy}")
        headers = {name: answer.headers.get(name) for name in ("X-Content-Type-Options", "Cross-Origin-Opener-Policy")}
        if list(headers.values()) != ["nosniff", "same-origin"]:
            wrong.append(f"{kind}: {headers}")
        if kind != "static" and answer.headers.get("X-Frame-Options") != "DENY":
            wrong.append(f"{kind}: may be framed")
        if answer.headers.get("Referrer-Policy") not in ("same-origin", "no-referrer"):
            wrong.append(f"{kind}: {answer.headers.get('Referrer-Policy')}")
    assert wrong == []
    assert {kind for kind, answer in found.items() if answer.status_code == 500} == {
        "page fault",
        "file fault",
        "api fault",
    }


def test_no_error_shows_what_happened_inside(broken: Client) -> None:
    for kind, answer in kinds_of_answers(broken).items():
        if answer.status_code >= 400:
            seen = answer.content.decode()
            for words in ("Traceback", "inner-words", "RuntimeError", "site-packages", ".py", "DEBUG"):
                assert words not in seen, kind
            if kind.startswith("api"):
                assert set(answer.json()) == {"code", "message"}, kind


@pytest.mark.slow
def test_an_installation_behind_https_has_nothing_to_complain_of(instance: Instance) -> None:
    public = {"EXPORTER_WEB__PUBLIC_URL": "https://reports.example.com"}
    instance.manage("check", "--deploy", "--fail-level", "WARNING", env=public)
    program = """
from django.test import Client
answer = Client().get("/admin/login/", HTTP_HOST="reports.example.com")
print(answer.status_code, answer.headers["Location"])
answer = Client().get("/admin/login/", HTTP_HOST="reports.example.com", HTTP_X_FORWARDED_PROTO="https")
print(answer.status_code, answer.headers["Strict-Transport-Security"], bool(answer.cookies["csrftoken"]["secure"]))
print(Client().get("/healthz/web", HTTP_HOST="127.0.0.1").status_code)
print(Client().get("/admin/login/", HTTP_HOST="evil.example.com", HTTP_X_FORWARDED_PROTO="https").status_code)
"""
    assert instance.python(program, env=public).splitlines() == [
        "301 https://reports.example.com/admin/login/",
        "200 max-age=31536000 True",
        "200",
        "400",
    ]
