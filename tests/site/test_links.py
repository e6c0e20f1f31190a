"""Links to files: signed, expiring, revocable, counted, bound to a login if wished; looking at one spends nothing."""

import hashlib
import io
import os
import re
import urllib.request
import zipfile
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from urllib.parse import quote

import pytest
import time_machine
from django.conf import LazySettings
from django.contrib.auth.models import Permission
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import resolve, reverse
from django.utils import timezone
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pytest_django.live_server_helper import LiveServer

from datasources.models import DataSource
from exporter_site.access.models import Grant
from exporter_site.links import PREFIX, token_of
from tasks.housekeeping import housework
from tasks.models import Download, DownloadLink, Execution
from tasks.states import Status
from tests.factories import make_admin, make_execution, make_user, paths_of
from tests.site.test_download import fetch, finished, own_directories

__all__ = ["own_directories"]  # a fixture, for every test here too

pytestmark = pytest.mark.django_db
REFUSED = f"{PREFIX}1.not-a-signature"
PRIVATE = {"Cache-Control": "no-store, private", "Referrer-Policy": "no-referrer", "X-Robots-Tag": "noindex"}


def link_to(*names: str, content: bytes = b"", **fields: Any) -> DownloadLink:
    link = DownloadLink.objects.issue(finished(*names or ("订单.xlsx",), content=content))
    DownloadLink.objects.filter(pk=link.pk).update(**fields)
    link.refresh_from_db()
    return link


def set_web(settings: LazySettings, **web: Any) -> None:
    settings.CONFIG = settings.CONFIG.model_copy(update={"web": settings.CONFIG.web.model_copy(update=web)})


def reader(*codenames: str, **fields: Any) -> Client:
    """The browser of somebody with these rights on all data sources that there are."""
    user = make_user(sources=DataSource.objects.all(), **fields)
    user.user_permissions.set(Permission.objects.filter(codename__in=codenames))
    client = Client()
    client.force_login(user)
    return client


@pytest.fixture
def admin() -> Client:
    client = Client()
    client.force_login(make_admin("王芳"))
    return client


# ---- The page


def test_a_link_leads_to_a_page_that_says_what_there_is(client: Client, settings: LazySettings) -> None:
    set_web(settings, public_url="https://export.example.cn/")
    with time_machine.travel("2026-11-25T01:00:00+00:00", tick=False):
        link = link_to("订单.xlsx")
        Execution.objects.update(task_name="每日<订单>", planned_at=timezone.now())
        page = client.get(link.url.removeprefix("https://export.example.cn"))
    text = page.content.decode()
    assert page.status_code == 200
    for shown in (
        "每日&lt;订单&gt;",
        "2026-11-25 09:00",
        "1,234",
        "11B",
        "2026-12-02 09:00 (Asia/Shanghai)",
        "订单.xlsx",
    ):
        assert shown in text
    assert f'href="{link.path}/file"' in text
    assert "?part=" not in text


def test_a_page_for_several_parts_has_a_button_for_each_and_one_for_all(client: Client) -> None:
    link = link_to("订单.xlsx", "订单_part2.xlsx")
    text = client.get(link.path).content.decode()
    assert re.findall(r'href="(/[^"]*)"', text) == [
        f"{link.path}/file",
        f"{link.path}/file?part=1",
        f"{link.path}/file?part=2",
    ]


@pytest.mark.parametrize("language", ["zh-hans", "en"])
def test_the_page_speaks_the_readers_language(client: Client, language: str) -> None:
    page = client.get(link_to().path, headers={"accept-language": language})
    assert f'<html lang="{language}">' in page.content.decode()


def test_looking_at_a_link_spends_nothing(client: Client) -> None:
    link = link_to()
    for agent in ("DingTalkBot-LinkService/1.0", "facebookexternalhit/1.1", "Mozilla/5.0", ""):
        assert client.get(link.path, headers={"user-agent": agent}).status_code == 200
        assert client.head(link.path, headers={"user-agent": agent}).status_code == 200
    link.refresh_from_db()
    assert (link.downloads, Download.objects.count()) == (0, 0)


def test_a_preview_gets_nothing_of_the_contents(client: Client) -> None:
    text = client.get(link_to().path).content.decode()
    assert "og:" not in text
    assert 'name="description"' not in text
    title = re.search(r"<title>(.*?)</title>", text)
    assert title is not None
    assert "订单" not in title[1]
    assert "<script" not in text


def test_nobody_keeps_or_passes_on_what_a_link_gives(client: Client) -> None:
    link = link_to()
    for url in (link.path, f"{link.path}/file", REFUSED):
        answer = fetch(client, url)
        assert {name: answer.headers[name] for name in PRIVATE} == PRIVATE, url
        assert not answer.cookies


def test_the_address_is_where_the_page_is() -> None:
    assert resolve(f"{PREFIX}{token_of(1)}").view_name == "tasks:link"
    assert resolve(f"{PREFIX}{token_of(1)}/file").view_name == "tasks:link-file"


def test_a_link_can_only_be_read(client: Client) -> None:
    assert client.post(link_to().path).status_code == 405


# ---- The file


def test_a_download_through_a_link_is_counted_and_on_record() -> None:
    link, client = link_to(), Client(REMOTE_ADDR="203.0.113.7")
    answer = fetch(client, f"{link.path}/file", user_agent="Mozilla/5.0")
    assert (answer.status_code, answer.body) == (200, "订单.xlsx".encode())
    assert answer.headers["Content-Disposition"] == f"attachment; filename*=utf-8''{quote('订单.xlsx')}"
    row = Download.objects.get()
    assert (row.link, row.execution, row.user, row.username) == (link, link.execution, None, "")
    assert (row.filename, row.part, row.bytes, row.address, row.user_agent) == (
        *("订单.xlsx", 1, 11),
        *("203.0.113.7", "Mozilla/5.0"),
    )
    fetch(client, f"{link.path}/file")
    link.refresh_from_db()
    assert (link.downloads, Download.objects.count()) == (2, 2)


def test_two_downloads_at_once_are_both_counted() -> None:
    link = link_to()
    rows = [DownloadLink.objects.select_related("execution").get(pk=link.pk) for _ in range(2)]
    for row in rows:
        assert Download.objects.begin(Download(link=row, execution=row.execution), continues=False)
    link.refresh_from_db()
    assert link.downloads == 2


def test_who_is_signed_in_is_named_even_where_nobody_has_to_be(admin: Client) -> None:
    fetch(admin, f"{link_to().path}/file")
    assert Download.objects.get().username == "王芳"


def test_parts_come_one_by_one_or_as_a_zip(client: Client) -> None:
    link = link_to("订单.xlsx", "订单_part2.xlsx")
    assert fetch(client, f"{link.path}/file?part=2").body == "订单_part2.xlsx".encode()
    with zipfile.ZipFile(io.BytesIO(fetch(client, f"{link.path}/file").body)) as archive:
        assert archive.namelist() == ["订单.xlsx", "订单_part2.xlsx"]
    assert list(Download.objects.values_list("part", flat=True).order_by("id")) == [2, None]


def test_head_and_going_on_are_not_counted_again(client: Client) -> None:
    link = link_to(content=b"0123456789")
    assert fetch(client, f"{link.path}/file", "HEAD").headers["Content-Length"] == "10"
    for asked in ("bytes=0-4", "bytes=5-", "bytes=-2"):
        assert fetch(client, f"{link.path}/file", range=asked).status_code == 206
    link.refresh_from_db()
    assert (link.downloads, Download.objects.count()) == (1, 1)


@pytest.mark.django_db(transaction=True)
def test_a_broken_download_goes_on_where_it_stopped(live_server: LiveServer) -> None:
    content = os.urandom(3_000_001)
    url = f"{live_server.url}{link_to(content=content).path}/file"
    with urllib.request.urlopen(url) as answer:
        etag, first = answer.headers["ETag"], answer.read(1_000_000)
    request = urllib.request.Request(url, headers={"Range": f"bytes={len(first)}-", "If-Range": etag})
    with urllib.request.urlopen(request) as answer:
        assert (answer.status, answer.headers["Content-Range"]) == (206, "bytes 1000000-3000000/3000001")
        rest = answer.read()
    assert hashlib.sha256(first + rest).hexdigest() == hashlib.sha256(content).hexdigest() == etag.strip('"')
    assert Download.objects.count() == DownloadLink.objects.get().downloads == 1


# ---- Refusals


def remove_file(link: DownloadLink) -> None:
    paths_of(link.execution)[-1].unlink()


SPOILERS: dict[str, Callable[[DownloadLink], object]] = {
    "expired": lambda link: DownloadLink.objects.update(expires_at=timezone.now()),
    "revoked": lambda link: DownloadLink.objects.revoke(None),
    "deleted": lambda link: link.execution.delete(),
    "failed": lambda link: Execution.objects.update(status=Status.FAILED),
    "past its retention time": lambda link: Execution.objects.update(files_removed_at=timezone.now()),
    "file gone": remove_file,
    "no file": lambda link: Execution.objects.update(files=[]),
}


@pytest.mark.parametrize("login_required", [False, True])
@pytest.mark.parametrize("spoil", SPOILERS.values(), ids=SPOILERS)
def test_whatever_is_wrong_the_answer_is_the_same(
    client: Client, spoil: Callable[[DownloadLink], object], login_required: bool
) -> None:
    link = link_to("a.xlsx", "b.xlsx", login_required=login_required)
    path = link.path
    expected = refusal(client, REFUSED)
    spoil(link)
    for url in (path, f"{path}/file", f"{path}/file?part=2", f"{path}/file?part=1"):
        assert refusal(client, url) == expected, url
    assert not Download.objects.exists()


def test_no_address_near_a_link_answers_in_another_way(client: Client) -> None:
    expected = refusal(client, REFUSED)
    path = link_to("a.xlsx", "b.xlsx").path
    for url in (
        *(PREFIX, f"{PREFIX}file", f"{PREFIX}/file", f"{path}/", f"{path}/file/", f"{path}/files", f"{path}%0A"),
        *(f"{path}/file?part=3", f"{path}/file?part=x", f"{PREFIX}{token_of(10**9)}", f"{PREFIX}{'9' * 5000}.x"),
    ):
        assert refusal(client, url) == expected, url


def refusal(client: Client, url: str) -> tuple[bytes, dict[str, str]]:
    answer = fetch(client, url)
    assert answer.status_code == 404, url
    return answer.body, dict(answer.headers)


def test_the_refusal_says_whom_to_ask(client: Client) -> None:
    page = client.get(REFUSED, headers={"accept-language": "en"}).content.decode()
    assert "not valid, or no longer valid" in page
    assert "ask whoever sent it" in page
    assert "/admin/" not in page


def test_one_altered_character_anywhere_is_refused_without_a_look_at_the_database(client: Client) -> None:
    token = token_of(link_to().pk)
    expected = refusal(client, REFUSED)

    @hypothesis_settings(deadline=None)
    @given(
        place=st.integers(0, len(token) - 1),
        character=st.characters(codec="utf-8"),
        tail=st.sampled_from(("", "/file")),
    )
    @example(place=0, character="2", tail="")
    @example(place=1, character="/", tail="/file")
    @example(place=5, character="\n", tail="")
    def alter(place: int, character: str, tail: str) -> None:
        altered = token[:place] + character + token[place + 1 :]
        if altered != token:
            with CaptureQueriesContext(connection) as queries:
                assert refusal(client, f"{PREFIX}{quote(altered, safe='')}{tail}") == expected
            assert not queries.captured_queries

    alter()
    assert client.get(f"{PREFIX}{token}").status_code == 200


def test_a_signature_of_another_installation_is_worth_nothing(client: Client, settings: LazySettings) -> None:
    link = link_to()
    number, signature = token_of(link.pk).split(".")
    assert (number, len(signature)) == (str(link.pk), 43)
    for forged in (f"{int(number) + 1}.{signature}", signature, number, f"{number}.", f"{number}..{signature}"):
        assert client.get(f"{PREFIX}{forged}").status_code == 404


# ---- Bound to a login


@pytest.mark.parametrize("tail", ["", "/file", "/file?part=1"])
def test_a_link_for_colleagues_asks_for_a_login_and_comes_back(client: Client, tail: str) -> None:
    path = f"{link_to(login_required=True).path}{tail}"
    answer = client.get(path)
    assert (answer.status_code, answer.headers["Location"]) == (302, f"{reverse('admin:login')}?next={quote(path)}")
    assert {name: answer.headers[name] for name in PRIVATE} == PRIVATE
    user = make_user(role="viewer", sources=DataSource.objects.all())
    form = {"username": user.username, "password": "correct horse battery"}
    answer = fetch_after(client.post(answer.headers["Location"], form | {"next": path}), client)
    assert answer.status_code == 200
    assert list(Download.objects.values_list("username", flat=True)) == [user.username] * bool(tail)


def fetch_after(answer: Any, client: Client) -> Any:
    assert answer.status_code == 302
    return fetch(client, answer.headers["Location"])


def test_a_link_for_colleagues_is_for_those_who_may_fetch_files_of_its_source() -> None:
    path = f"{link_to(login_required=True).path}/file"
    assert reader("download_execution", is_staff=False).get(path).status_code == 302
    assert reader("download_execution", is_staff=True, is_active=False).get(path).status_code == 302
    assert reader("view_execution", is_staff=True).get(path).status_code == 403
    stranger = reader("download_execution", is_staff=True)
    Grant.objects.all().delete()
    expected = refusal(stranger, REFUSED)
    assert refusal(stranger, path) == expected
    assert refusal(stranger, path.removesuffix("/file")) == expected
    assert not Download.objects.exists()
    assert fetch(reader("download_execution", is_staff=True), path).status_code == 200


# ---- Issuing and revoking


def test_a_run_has_one_link_as_long_as_it_is_valid() -> None:
    execution, other = finished("a.xlsx"), finished("b.xlsx")
    first = DownloadLink.objects.issue(execution)
    assert DownloadLink.objects.issue(execution) == first != DownloadLink.objects.issue(other)
    newest = DownloadLink.objects.make(execution)
    assert DownloadLink.objects.issue(execution) == newest
    newest.expires_at = timezone.now()
    newest.save()
    assert DownloadLink.objects.issue(execution) == first
    execution.links.all().revoke(None)
    assert DownloadLink.objects.issue(execution) not in (first, newest)


def test_a_link_lives_as_long_and_opens_for_whom_the_configuration_says(settings: LazySettings) -> None:
    execution = finished("a.xlsx")
    with time_machine.travel("2026-11-25T01:00:00+00:00", tick=False):
        link = DownloadLink.objects.issue(execution)
        assert (link.expires_at - timezone.now(), link.login_required) == (timedelta(hours=168), False)
        set_web(settings, link_access="login", link_expires_hours=2)
        bound = DownloadLink.objects.issue(execution)
        assert bound != link
        assert (bound.expires_at - timezone.now(), bound.login_required) == (timedelta(hours=2), True)
        assert link in DownloadLink.objects.valid()


def test_a_link_expires_to_the_second(client: Client) -> None:
    path = link_to().path
    with time_machine.travel(timezone.now() + timedelta(hours=168, seconds=-30), tick=False):
        assert client.get(path).status_code == 200
    with time_machine.travel(timezone.now() + timedelta(hours=168, seconds=1), tick=False):
        assert client.get(path).status_code == 404


def test_only_valid_links_are_revoked_and_it_is_known_by_whom() -> None:
    first, second = make_admin(), make_admin()
    old, new = link_to(expires_at=timezone.now()), link_to()
    assert DownloadLink.objects.revoke(first) == 1
    assert DownloadLink.objects.revoke(second) == 0
    old.refresh_from_db()
    new.refresh_from_db()
    assert (old.revoked_at, new.revoked_by) == (None, first)


def test_without_a_public_address_a_link_has_only_its_path() -> None:
    link = link_to()
    assert (link.url, link.path) == ("", f"{PREFIX}{token_of(link.pk)}")


def test_links_go_with_their_run_and_the_record_stays(client: Client) -> None:
    link = link_to()
    fetch(client, f"{link.path}/file")
    long_ago = timezone.now() - timedelta(days=100)
    Execution.objects.update(finished_at=long_ago)
    for _piece in housework():
        pass
    assert not Execution.objects.exists()
    assert not DownloadLink.objects.exists()
    row = Download.objects.get()
    assert (row.execution, row.link, row.filename) == (None, None, "订单.xlsx")


# ---- The admin


def page_of(execution: Execution) -> str:
    return reverse("admin:tasks_execution_change", args=[execution.pk])


def act(client: Client, execution: Execution, action: str, **headers: str) -> Any:
    url = reverse(f"admin:tasks_execution_{action}", args=[execution.pk])
    return client.post(url, {"_form_submitted": "True"}, headers={"HX-Request": "true"} | headers)


def test_a_run_shows_its_links_and_downloads(admin: Client, client: Client, settings: LazySettings) -> None:
    set_web(settings, public_url="https://export.example.cn")
    link = link_to()
    fetch(client, f"{link.path}/file", x="1")
    fetch(admin, reverse("tasks:download", args=[link.execution_id]))
    expired = DownloadLink.objects.create(execution=link.execution, expires_at=timezone.now(), login_required=False)
    text = admin.get(page_of(link.execution), headers={"accept-language": "en"}).content.decode()
    for shown in (link.url, expired.url, "expired", f"whoever had the link #{link.pk}", "王芳", "127.0.0.1"):
        assert shown in text
    assert 'name="links-0-' not in text.replace('name="links-0-id"', "").replace('name="links-0-execution"', "")


def test_a_new_link_is_made_by_a_button_and_shown(admin: Client, client: Client) -> None:
    execution = finished("a.xlsx")
    url = reverse("admin:tasks_execution_new_link", args=[execution.pk])
    assert admin.get(url).status_code == 200
    assert not DownloadLink.objects.exists()
    answer = act(admin, execution, "new_link")
    assert answer.headers["HX-Redirect"] == page_of(execution)
    first = DownloadLink.objects.get()
    assert f"http://testserver{first.path}" in admin.get(page_of(execution)).content.decode()
    assert act(admin, execution, "new_link", **{"HX-Request": ""}).status_code == 302
    assert DownloadLink.objects.count() == 2
    assert client.get(first.path).status_code == 200


def test_a_run_without_a_file_gets_no_link(admin: Client) -> None:
    execution = make_execution()
    act(admin, execution, "new_link")
    assert not DownloadLink.objects.exists()
    assert admin.post("/admin/tasks/execution/4711/new_link/", {"_form_submitted": "True"}).status_code == 404


def test_the_links_of_a_run_are_revoked_by_a_button_after_a_question(admin: Client, client: Client) -> None:
    link, other = link_to(), link_to()
    assert admin.get(reverse("admin:tasks_execution_revoke", args=[link.execution_id])).status_code == 200
    assert client.get(link.path).status_code == 200
    act(admin, link.execution, "revoke")
    assert (client.get(link.path).status_code, client.get(other.path).status_code) == (404, 200)
    text = admin.get(page_of(link.execution), headers={"accept-language": "en"}).content.decode()
    assert re.search(r"revoked on \d{4}-\d\d-\d\d \d\d:\d\d by 王芳", text)


def test_the_links_of_many_runs_are_revoked_from_the_list(admin: Client) -> None:
    links = [link_to() for _ in range(3)]
    chosen = [link.execution_id for link in links[:2]]
    url = reverse("admin:tasks_execution_changelist")
    page = admin.post(url, {"action": "revoke_links", "_selected_action": chosen}, follow=True)
    assert "2" in str(next(iter(page.context["messages"])))
    assert list(DownloadLink.objects.valid()) == [links[2]]


def test_links_are_made_seen_and_revoked_only_by_those_who_may() -> None:
    link = link_to()
    looker = reader("view_execution", is_staff=True)
    text = looker.get(page_of(link.execution)).content.decode()
    assert link.path not in text
    assert "new_link" not in text
    for action in ("new_link", "revoke"):
        assert act(looker, link.execution, action).status_code == 403
    url = reverse("admin:tasks_execution_changelist")
    looker.post(url, {"action": "revoke_links", "_selected_action": [link.execution_id]})
    assert (
        act(reader("view_execution", "add_downloadlink", is_staff=True), link.execution, "new_link").status_code == 403
    )
    assert list(DownloadLink.objects.valid()) == [link]
    rights = "view_execution download_execution view_downloadlink add_downloadlink change_downloadlink"
    giver = reader(*rights.split(), is_staff=True)
    assert link.path in giver.get(page_of(link.execution)).content.decode()
    act(giver, link.execution, "revoke")
    act(giver, link.execution, "new_link")
    assert [row != link for row in DownloadLink.objects.valid()] == [True]


def test_downloads_are_listed_and_nobody_changes_them(admin: Client, client: Client) -> None:
    link = link_to()
    fetch(client, f"{link.path}/file")
    fetch(admin, f"{link.path}/file")
    anonymous, named = Download.objects.order_by("id")
    url = reverse("admin:tasks_download_changelist")
    assert {row.pk for row in admin.get(url).context["cl"].result_list} == {anonymous.pk, named.pk}
    for query, expected in (
        ("through=link", [anonymous]),
        ("through=login", [named]),
        ("q=王芳", [named]),
        ("q=订单", [named, anonymous]),
        ("q=127.0.0.1", [named, anonymous]),
    ):
        assert list(admin.get(f"{url}?{query}").context["cl"].result_list) == expected, query
    change = reverse("admin:tasks_download_change", args=[named.pk])
    assert "王芳" in admin.get(change).content.decode()
    assert admin.post(change, {"filename": "x"}).status_code == 403
    assert admin.post(reverse("admin:tasks_download_delete", args=[named.pk])).status_code == 403
    assert admin.get(reverse("admin:tasks_download_add")).status_code == 403
    assert reader("view_execution", is_staff=True).get(url).status_code == 403
    assert reader("view_download", is_staff=True).get(url).status_code == 200


def test_the_pages_ask_the_database_no_more_for_many_rows(admin: Client) -> None:
    execution = finished("a.xlsx")

    def queries() -> list[int]:
        counts = []
        for url in (page_of(execution), reverse("admin:tasks_download_changelist")):
            with CaptureQueriesContext(connection) as seen:
                assert admin.get(url).status_code == 200
            counts.append(len(seen))
        return counts

    def add() -> None:
        link = DownloadLink.objects.make(execution)
        fetch(Client(), f"{link.path}/file")
        fetch(admin, f"{link.path}/file")
        DownloadLink.objects.filter(pk=link.pk).revoke(make_admin())

    add()
    queries()  # what a process asks once
    few = queries()
    for _ in range(5):
        add()
    assert queries() == few
