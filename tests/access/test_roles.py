"""What roles and grants give, for how long, and what nobody can give to himself or find out."""

import json
from io import StringIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from django.apps import apps
from django.contrib.auth.models import Group, Permission, User
from django.core.exceptions import ValidationError
from django.core.management import call_command
from django.db import IntegrityError, transaction
from django.db.models import ProtectedError
from django.test import Client
from django.urls import reverse

from datasources.models import DataSource
from exporter_site.access.models import ApiKey, Grant
from exporter_site.access.roles import LABELS, OURS, RIGHTS, make_roles
from exporter_site.command import Failed
from notifications.models import Delivery, NotificationRule
from tasks import rights, runner
from tasks.models import Execution, ExportTask
from tasks.states import Status
from tests.access.world import MARK, World, form_of
from tests.factories import make_admin, make_execution, make_source, make_sqlite_file, make_task, make_user

pytestmark = pytest.mark.django_db


def browser_of(user: User) -> Client:
    client = Client()
    client.force_login(user)
    return client


def api(user: User, verb: str, path: str, **body: Any) -> Any:
    client = browser_of(user)
    return client.generic(verb, f"/api/{path}", json.dumps(body), content_type="application/json")


@pytest.fixture
def source(tmp_path: Path) -> DataSource:
    return make_source(name="shop", database=str(make_sqlite_file(tmp_path / "orders.db")))


# ---- Roles


def rights_of(name: str) -> set[str]:
    rows = Permission.objects.filter(group__name=name).select_related("content_type")
    return {f"{row.content_type.app_label}.{row.codename}" for row in rows}


def test_the_migration_has_made_the_roles_of_the_table() -> None:
    if not Group.objects.exists():  # a test with real transactions has emptied all tables
        make_roles(apps)
    everything = Permission.objects.filter(content_type__app_label__in=OURS).select_related("content_type")
    for role in LABELS:
        wanted = RIGHTS.get(role) or {f"{row.content_type.app_label}.{row.codename}" for row in everything}
        assert rights_of(role) == set(wanted), role


def test_each_role_has_what_the_one_before_it_has() -> None:
    make_user(role="viewer")
    roles = [rights_of(role) for role in LABELS]
    assert all(less < more for less, more in pairwise(roles))
    assert "datasources.all_datasources" in roles[-1] - roles[-2]
    assert not [right for right in roles[-2] if right.startswith(("access.", "auth.", "datasources.change"))]


def test_making_the_roles_again_leaves_alone_what_was_added() -> None:
    make_user(role="viewer")
    viewer, team = Group.objects.get(name="viewer"), Group.objects.create(name="team")
    extra = Permission.objects.get(codename="view_sql")
    viewer.permissions.add(extra)
    viewer.permissions.remove(Permission.objects.get(codename="view_execution"))
    make_roles(apps)
    assert extra in viewer.permissions.all()
    assert "tasks.view_execution" in rights_of("viewer")
    assert not team.permissions.exists()


def test_a_group_of_ones_own_gives_what_it_has_and_no_more(source: DataSource) -> None:
    user, group = make_user(is_staff=True), Group.objects.create(name="看报表的")
    group.permissions.set(Permission.objects.filter(codename__in=("view_execution", "view_exporttask")))
    user.groups.add(group)
    Grant.objects.create(data_source=source, group=group)
    task = make_task(data_source=source)
    assert [row["id"] for row in api(user, "GET", "tasks").json()["results"]] == [task.pk]
    assert api(user, "POST", f"tasks/{task.pk}/execute").status_code == 403
    assert api(user, "GET", f"logs/{make_execution(task).pk}/download").status_code == 403


# ---- Grants


def test_a_grant_to_a_group_is_one_to_each_of_its_members(source: DataSource) -> None:
    user, team = make_user(role="viewer"), Group.objects.create(name="team")
    Grant.objects.create(data_source=source, group=team)
    assert not DataSource.objects.for_user(user).exists()
    user.groups.add(team)
    assert list(DataSource.objects.for_user(user)) == [source]


def test_a_grant_that_is_taken_away_is_gone_at_the_next_request(source: DataSource) -> None:
    user = make_user(role="viewer", sources=[source])
    client, url = browser_of(user), reverse("admin:tasks_exporttask_changelist")
    task = make_task(data_source=source, name="每日订单")
    assert task.name in client.get(url).content.decode()
    Grant.objects.all().delete()
    assert task.name not in client.get(url).content.decode()
    assert client.get(f"/api/tasks/{task.pk}").status_code == 404


def test_a_role_that_is_taken_away_is_gone_at_the_next_request(source: DataSource) -> None:
    user = make_user(role="operator", sources=[source])
    client, task = browser_of(user), make_task(data_source=source)
    assert client.post(f"/api/tasks/{task.pk}/execute", {}, "application/json").status_code == 202
    user.groups.clear()
    assert client.post(f"/api/tasks/{task.pk}/execute", {}, "application/json").status_code == 403


def test_who_is_inactive_has_nothing(source: DataSource) -> None:
    user = make_user(role="editor", sources=[source])
    client = browser_of(user)
    User.objects.filter(pk=user.pk).update(is_active=False)
    user.refresh_from_db()
    assert not DataSource.objects.for_user(user).exists()
    assert not DataSource.objects.for_user(User.objects.get(pk=user.pk)).exists()
    assert client.get("/api/tasks").status_code == 401
    assert client.get("/admin/").status_code == 302


def test_a_grant_is_to_a_user_or_to_a_group(source: DataSource) -> None:
    user, team = make_user(), Group.objects.create(name="team")
    for fields in ({}, {"user": user, "group": team}):
        with pytest.raises(ValidationError):
            Grant(data_source=source, **fields).full_clean()
    Grant.objects.create(data_source=source, user=user)
    with pytest.raises(IntegrityError), transaction.atomic():
        Grant.objects.create(data_source=source, user=user)


def test_an_administrator_grants_in_the_admin(source: DataSource) -> None:
    user, client = make_user(role="viewer"), browser_of(make_user(role="admin"))
    url = reverse("admin:datasources_datasource_change", args=[source.pk])
    form = form_of(client, url) | {"grants-TOTAL_FORMS": 1, "grants-0-user": user.pk, "grants-0-data_source": source.pk}
    assert client.post(url, form).status_code == 302
    assert list(DataSource.objects.for_user(user)) == [source]
    faulty = form_of(client, url) | {"grants-TOTAL_FORMS": 2, "grants-1-data_source": source.pk, "grants-1-user": ""}
    assert client.post(url, faulty).status_code in (200, 302)
    assert Grant.objects.count() == 1


# ---- Editors keep to what is theirs


@pytest.fixture
def editor(source: DataSource) -> User:
    return make_user("editor", role="editor", sources=[source])


def test_an_editor_owns_what_he_makes_whatever_he_sends(editor: User, source: DataSource) -> None:
    other, client, url = make_admin(), browser_of(editor), reverse("admin:tasks_exporttask_add")
    form = form_of(client, url) | {"name": "a", "data_source": source.pk, "sql": "SELECT 1"}
    assert client.post(url, form | {"owner": other.pk}).status_code == 302
    assert client.post(url, form | {"name": "b", "owner": ""}).status_code == 302
    task = {"data_source": source.pk, "sql": "SELECT 1"}
    assert api(editor, "POST", "tasks", name="c", **task).status_code == 201
    for owner in (other.username, None):
        answer = api(editor, "POST", "tasks", name="d", owner=owner, **task)
        assert (answer.status_code, list(answer.json()["fields"])) == (400, ["owner"])
    assert {row.name: row.owner for row in ExportTask.objects.all()} == dict.fromkeys("abc", editor)


def test_an_editor_gives_his_task_to_nobody_else(editor: User, source: DataSource) -> None:
    task, other = make_task(data_source=source, owner=editor), make_admin()
    client, url = browser_of(editor), reverse("admin:tasks_exporttask_change", args=[task.pk])
    assert client.post(url, form_of(client, url) | {"owner": other.pk, "description": "new"}).status_code == 302
    for owner in (other.username, None):
        assert api(editor, "PATCH", f"tasks/{task.pk}", owner=owner).status_code == 400
    task.refresh_from_db()
    assert (task.owner, task.description) == (editor, "new")


def test_an_editor_changes_a_colleagues_task_and_it_stays_the_colleagues(editor: User, source: DataSource) -> None:
    colleague = make_user(role="editor", sources=[source])
    task = make_task(data_source=source, owner=colleague)
    assert api(editor, "PATCH", f"tasks/{task.pk}", description="new").status_code == 200
    assert api(editor, "PATCH", f"tasks/{task.pk}", owner=colleague.username).status_code == 200
    client, url = browser_of(editor), reverse("admin:tasks_exporttask_change", args=[task.pk])
    assert client.post(url, form_of(client, url) | {"owner": editor.pk}).status_code == 302
    task.refresh_from_db()
    assert task.owner == colleague


def test_an_editor_takes_no_source_that_is_not_granted(editor: User, source: DataSource) -> None:
    foreign = make_source(name=MARK)
    task = make_task(data_source=source, owner=editor)
    client, add = browser_of(editor), reverse("admin:tasks_exporttask_add")
    change = reverse("admin:tasks_exporttask_change", args=[task.pk])
    for url, more in ((add, {}), (change, {}), (change, {"_saveasnew": "1", "name": "copy"})):
        form = form_of(client, change) | {"data_source": foreign.pk} | more
        page = client.post(url, form | ({"name": "new"} if url == add else {}))
        assert (page.status_code, list(page.context["adminform"].form.errors)) == (200, ["data_source"])
        assert MARK not in page.content.decode()
    fields = {"data_source": foreign.pk, "sql": "SELECT 1", "name": "x"}
    for verb, path in (("POST", "tasks"), ("PUT", f"tasks/{task.pk}"), ("PATCH", f"tasks/{task.pk}")):
        answer = api(editor, verb, path, **fields)
        assert (answer.status_code, list(answer.json()["fields"])) == (400, ["data_source"])
        unknown = api(editor, verb, path, **fields | {"data_source": foreign.pk + 4711})
        assert unknown.json()["message"].replace(str(foreign.pk + 4711), "#") == answer.json()["message"].replace(
            str(foreign.pk), "#"
        )
    assert [(row.pk, row.data_source) for row in ExportTask.objects.all()] == [(task.pk, source)]


def test_saved_as_new_by_an_editor_it_is_his_and_has_no_secrets(editor: User, source: DataSource) -> None:
    webhook = "https://oapi.dingtalk.com/robot/send?access_token=abc"
    task = make_task(data_source=source, owner=make_admin(), dingtalk_webhook=webhook, dingtalk_secret="SECx")
    client, url = browser_of(editor), reverse("admin:tasks_exporttask_change", args=[task.pk])
    assert client.post(url, form_of(client, url) | {"_saveasnew": "1", "name": "copy"}).status_code == 302
    copy = ExportTask.objects.get(name="copy")
    assert (copy.owner, copy.dingtalk_webhook, copy.dingtalk_secret) == (editor, "", "")


def test_an_editor_makes_no_rule_for_every_task_nor_for_one_that_is_not_his(editor: User, source: DataSource) -> None:
    world_rule = NotificationRule.objects.create(channel=_channel())
    task, foreign = make_task(data_source=source), make_task(name=MARK)
    client, url = browser_of(editor), reverse("admin:notifications_notificationrule_add")
    for chosen, saved in (("", False), (foreign.pk, False), (task.pk, True)):
        page = client.post(url, {"task": chosen, "channel": world_rule.channel_id, "events": ["success"]})
        assert (page.status_code == 302) == saved
        assert MARK not in page.content.decode()
    rule = NotificationRule.objects.exclude(pk=world_rule.pk).get()
    change = reverse("admin:notifications_notificationrule_change", args=[rule.pk])
    assert client.post(change, form_of(client, change) | {"task": ""}).status_code == 200
    rule.refresh_from_db()
    assert rule.task == task


def _channel() -> Any:
    from notifications.models import Channel

    return Channel.objects.create(name="运维", kind="webhook")


def test_who_runs_a_run_again_needs_the_source_that_its_task_reads_now(source: DataSource) -> None:
    operator = make_user(role="operator", sources=[source])
    task = make_task(data_source=source)
    execution = make_execution(task, status=Status.FAILED)
    ExportTask.objects.filter(pk=task.pk).update(data_source=make_source())
    chosen = {"action": "run_again", "_selected_action": [execution.pk]}
    browser_of(operator).post(reverse("admin:tasks_execution_changelist"), chosen)
    assert api(operator, "POST", f"logs/{execution.pk}/rerun").status_code == 409
    assert list(Execution.objects.all()) == [execution]


def test_what_a_moved_task_has_left_behind_stays_with_its_source(source: DataSource) -> None:
    before, after = make_user(role="viewer", sources=[source]), make_source()
    task = make_task(data_source=source)
    execution = make_execution(task)
    ExportTask.objects.filter(pk=task.pk).update(data_source=after)
    newcomer = make_user(role="viewer", sources=[after])
    for user, status in ((before, 200), (newcomer, 404)):
        assert api(user, "GET", f"logs/{execution.pk}").status_code == status
        assert api(user, "GET", f"tasks/{task.pk}").status_code == 604 - status


# ---- The owner's rights, when it runs


def lose_activity(owner: User) -> None:
    owner.is_active = False
    owner.save()


def lose_role(owner: User) -> None:
    owner.groups.clear()


def lose_grant(owner: User) -> None:
    owner.grants.all().delete()


LOSSES = pytest.mark.parametrize(
    ("loss", "words"),
    [(lose_activity, "被停用"), (lose_role, "无权编写"), (lose_grant, "shop")],
    ids=["left", "role", "grant"],
)


@LOSSES
def test_a_run_fails_when_its_owner_has_lost_the_right_and_is_announced(
    editor: User, source: DataSource, loss: Any, words: str
) -> None:
    task = make_task(data_source=source, owner=editor, max_retries=3)
    NotificationRule.objects.create(task=task, channel=_channel())
    loss(editor)
    execution = Execution.objects.claim(make_execution(task).pk, worker="a:1:b")
    assert execution is not None
    ended = runner.run(execution)
    assert (ended.status, ended.reason, ended.attempt) == (Status.FAILED, "owner_not_allowed", 1)
    assert words in ended.error
    assert editor.username in ended.error
    assert (ended.files, ended.rows_count) == ([], None)
    assert Delivery.objects.get(channel__name="运维").event == "failure"


@LOSSES
def test_runtask_says_that_the_owner_may_not(editor: User, source: DataSource, loss: Any, words: str) -> None:
    task = make_task(data_source=source, owner=editor)
    loss(editor)
    with pytest.raises(Failed) as refused:
        call_command("runtask", str(task.pk), "--no-notify", stdout=StringIO(), stderr=StringIO())
    assert words in str(refused.value)
    assert Execution.objects.get().reason == "owner_not_allowed"


def test_a_task_runs_for_an_owner_who_may_and_for_none(editor: User, source: DataSource) -> None:
    for owner in (editor, make_admin(), make_user(role="admin"), None):
        assert rights.refusal(make_task(data_source=source, owner=owner), source) == ""


def test_a_task_that_was_moved_to_a_source_its_owner_has_not_does_not_run(editor: User, source: DataSource) -> None:
    task, elsewhere = make_task(data_source=source, owner=editor), make_source(name="elsewhere")
    admin = make_user(role="admin")
    assert api(admin, "PATCH", f"tasks/{task.pk}", data_source=elsewhere.pk).status_code == 200
    task.refresh_from_db()
    assert "elsewhere" in rights.refusal(task, task.data_source)


def test_who_owns_tasks_is_not_deleted(editor: User, source: DataSource) -> None:
    make_task(data_source=source, owner=editor)
    with pytest.raises(ProtectedError):
        editor.delete()
    url = reverse("admin:auth_user_delete", args=[editor.pk])
    browser_of(make_admin()).post(url, {"post": "yes"})
    assert User.objects.filter(pk=editor.pk).exists()


def test_who_owns_none_is_deleted_with_his_keys_and_grants(editor: User) -> None:
    ApiKey.objects.make(editor, "key", "read", "2099-01-01T00:00:00Z")
    url = reverse("admin:auth_user_delete", args=[editor.pk])
    assert browser_of(make_user(role="admin")).post(url, {"post": "yes"}).status_code == 302
    assert not User.objects.filter(pk=editor.pk).exists()
    assert not ApiKey.objects.exists()
    assert not Grant.objects.exists()


# ---- Administrators who have not all rights


@pytest.fixture
def admin() -> User:
    return make_user("admin", role="admin")


def test_no_administrator_makes_himself_or_another_a_superuser(admin: User) -> None:
    client, other = browser_of(admin), make_user(role="viewer")
    for user in (admin, other):
        url = reverse("admin:auth_user_change", args=[user.pk])
        assert (
            client.post(url, form_of(client, url) | {"is_superuser": "on", "email": "a@example.com"}).status_code == 302
        )
        user.refresh_from_db()
        assert (user.is_superuser, user.email) == (False, "a@example.com")
    add = reverse("admin:auth_user_add")
    words = {"password1": "a new word 4711", "password2": "a new word 4711", "usable_password": "true"}
    client.post(add, form_of(client, add) | words | {"username": "new", "is_superuser": "on"})
    new = User.objects.get(username="new")
    assert (new.is_superuser, new.is_staff) == (False, True)


def test_no_administrator_changes_a_superuser(admin: User) -> None:
    root, client = make_admin("root"), browser_of(admin)
    before = User.objects.filter(pk=root.pk).values().get()
    words = {"password1": "a new word 4711", "password2": "a new word 4711", "usable_password": "true"}
    assert client.get(reverse("admin:auth_user_change", args=[root.pk])).status_code == 200
    for url, form in (
        (reverse("admin:auth_user_change", args=[root.pk]), {"username": "x", "is_active": ""}),
        (reverse("admin:auth_user_password_change", args=[root.pk]), words),
        (reverse("admin:auth_user_delete", args=[root.pk]), {"post": "yes"}),
    ):
        assert client.post(url, form).status_code == 403, url
    chosen = {"action": "delete_selected", "_selected_action": [root.pk], "post": "yes"}
    client.post(reverse("admin:auth_user_changelist"), chosen)
    assert User.objects.filter(pk=root.pk).values().get() == before


def test_no_administrator_makes_sees_or_revokes_a_key_of_a_superuser(admin: User) -> None:
    root, client = make_admin("root"), browser_of(admin)
    form = {"name": "way in", "scope": "write", "expires_at_0": "2099-01-01", "expires_at_1": "00:00"}
    page = client.post(reverse("admin:access_apikey_add"), form | {"user": root.pk})
    assert list(page.context["adminform"].form.errors) == ["user"]
    assert not ApiKey.objects.exists()
    key, _text = ApiKey.objects.make(root, "of root", "write", "2099-01-01T00:00:00Z")
    assert "of root" not in client.get(reverse("admin:access_apikey_changelist")).content.decode()
    assert client.get(reverse("admin:access_apikey_change", args=[key.pk])).status_code == 302
    chosen = {"action": "revoke", "_selected_action": [key.pk]}
    client.post(reverse("admin:access_apikey_changelist"), chosen)
    key.refresh_from_db()
    assert key.revoked_at is None


def test_a_superuser_may_all_that() -> None:
    root, other = browser_of(make_admin()), make_user(role="viewer")
    url = reverse("admin:auth_user_change", args=[other.pk])
    assert root.post(url, form_of(root, url) | {"is_superuser": "on"}).status_code == 302
    other.refresh_from_db()
    assert other.is_superuser


# ---- Ways around a list


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_what_is_chosen_by_typing_is_what_is_granted(world: World, source: DataSource) -> None:
    editor = make_user(role="editor", sources=[source])
    make_task(data_source=source, name="visible")
    for model, field, seen in (("exporttask", "data_source", "shop"), ("notificationrule", "task", "visible")):
        app = "notifications" if model == "notificationrule" else "tasks"
        query = {"app_label": app, "model_name": model, "field_name": field, "term": ""}
        found = browser_of(editor).get(reverse("admin:autocomplete"), query)
        assert [row["text"] for row in found.json()["results"]] == [seen]
        typed = browser_of(editor).get(reverse("admin:autocomplete"), query | {"term": MARK})
        assert typed.json()["results"] == []
    for app, model, field in (("access", "grant", "user"), ("access", "apikey", "user"), ("access", "grant", "group")):
        query = {"app_label": app, "model_name": model, "field_name": field}
        assert browser_of(editor).get(reverse("admin:autocomplete"), query).status_code == 403


LISTS = (
    "tasks_exporttask",
    "tasks_execution",
    "tasks_download",
    "notifications_delivery",
    "notifications_notificationrule",
)
QUERIES = (
    "q={mark}",
    "data_source__id__exact={source}",
    "data_source__name={mark}",
    "data_source__name__startswith=m",
    "data_source__password__startswith=x",
    "execution__task__name__startswith=m",
    "task__name__startswith=m",
    "owner__username=root",
    "_popup=1",
    "_to_field=id",
    "_to_field=name",
    "o=1",
    "all=",
    "e=1",
    "p=1",
)


@pytest.mark.parametrize("name", [*LISTS, "datasources_datasource"])
def test_no_list_tells_what_is_not_granted_however_it_is_asked(world: World, name: str) -> None:
    own = make_source()
    client = browser_of(make_user(role="editor", sources=[own]))
    client.raise_request_exception = False
    for query in QUERIES:
        asked = query.format(mark=MARK, source=world.source.pk)
        page = client.get(f"{reverse(f'admin:{name}_changelist')}?{asked}", follow=True)
        assert page.status_code in (200, 400), asked
        seen = page.content.decode()
        for echo in (f'value="{MARK}"', f"q={MARK}", f"q%3D{MARK}"):
            seen = seen.replace(echo, "")
        assert MARK not in seen, asked
        rows = page.context["cl"].result_list if page.context and "cl" in page.context else []
        assert [row for row in rows if row != own] == [], asked


@pytest.mark.parametrize("view", ["change", "history", "delete"])
@pytest.mark.parametrize("name", [*LISTS, "datasources_datasource"])
def test_no_page_of_a_row_tells_what_is_not_granted(world: World, name: str, view: str) -> None:
    client = browser_of(make_user(role="editor"))
    url = reverse(f"admin:{name}_{view}", args=[world.named[name].pk])
    for query in ("", "?_popup=1", "?_to_field=id", "?_to_field=name", "?_changelist_filters=q%3Dx"):
        page = client.get(f"{url}{query}", follow=not query)  # the index says what has been asked for
        assert page.status_code in (200, 302, 400, 403)
        assert MARK not in page.content.decode()


def test_sql_is_not_guessed_letter_by_letter() -> None:
    source = make_source()
    viewer = browser_of(make_user(role="viewer", sources=[source]))
    viewer.raise_request_exception = False
    task = make_task(data_source=source, sql="SELECT 4711", params={"shop": "4711"})
    make_execution(task, error="near 4711", sql="SELECT 4711")
    for name, query in (
        ("exporttask", "sql__startswith=SELECT"),
        ("exporttask", "sql__contains=4711"),
        ("exporttask", "params__shop=4711"),
        ("exporttask", "params__icontains=4711"),
        ("exporttask", "dingtalk_webhook__startswith=x"),
        ("execution", "sql__contains=4711"),
        ("execution", "sql_template__contains=4711"),
        ("execution", "error__contains=4711"),
        ("execution", "params__shop=4711"),
        ("execution", "history__contains=4711"),
        ("execution", "task__sql__contains=4711"),
    ):
        assert viewer.get(f"{reverse(f'admin:tasks_{name}_changelist')}?{query}").status_code == 400, query
    for name, query in (
        ("exporttask", "enabled__exact=1"),
        ("execution", f"task__id__exact={task.pk}"),
        ("execution", "status__exact=queued"),
    ):
        page = viewer.get(f"{reverse(f'admin:tasks_{name}_changelist')}?{query}")
        assert len(page.context["cl"].result_list) == 1, query


def test_who_may_not_see_sql_sees_it_nowhere(world: World) -> None:
    secret = "SELECT 'of-4711'"
    ExportTask.objects.update(sql=secret)
    failed = Execution.objects.claim(make_execution(ExportTask.objects.get()).pk, worker="a:1:b")
    assert failed is not None
    assert Execution.objects.begin(failed, worker="a:1:b", sql=secret)
    assert Execution.objects.finish(failed, Status.FAILED, reason="sql_error", error=f"near {secret}")
    viewer = browser_of(make_user(role="viewer", sources=[world.source]))
    operator = browser_of(make_user(role="operator", sources=[world.source]))
    delivery = Delivery.objects.get(execution=failed)
    urls = [
        reverse("admin:tasks_exporttask_change", args=[failed.task_id]),
        reverse("admin:tasks_execution_change", args=[failed.pk]),
        reverse("admin:notifications_delivery_change", args=[delivery.pk]),
        f"/api/tasks/{failed.task_id}",
        f"/api/logs/{failed.pk}",
    ]
    for url in urls:
        assert "of-4711" in operator.get(url).content.decode(), url
        assert "of-4711" not in viewer.get(url).content.decode(), url


def test_lists_filter_by_what_is_granted(world: World, source: DataSource) -> None:
    editor = make_user(role="editor", sources=[source, make_source()])
    page = browser_of(editor).get(reverse("admin:tasks_exporttask_changelist"))
    choices = [
        choice["display"] for spec in page.context["cl"].filter_specs for choice in spec.choices(page.context["cl"])
    ]
    assert "shop" in map(str, choices)
    assert MARK not in str(choices)
