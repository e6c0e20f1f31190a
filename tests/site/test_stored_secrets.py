"""A stored password goes nowhere but where it was entered for, whichever way somebody changes its source or channel."""

from io import StringIO
from typing import Any

import pytest
from django.core.management import call_command
from django.test import Client
from django.urls import reverse
from rest_framework.test import APIClient

from datasources.models import DataSource
from exporter_site.command import WrongUse
from notifications.models import Channel, clean_settings
from tests.access.world import form_of
from tests.api.conftest import robots  # noqa: F401  # a fixture
from tests.factories import make_admin, make_source
from tests.servers.robots import Robots

pytestmark = pytest.mark.django_db

SECRET = "canary-secret-0451"
ELSEWHERE: list[dict[str, Any]] = [
    {"host": "db.attacker.example"},
    {"port": 3307},
    {"username": "somebody"},
    {"kind": "postgresql"},
    {"ssl_mode": "prefer"},
]
THE_SAME: list[dict[str, Any]] = [
    {"description": "new words"},
    {"port": 3306},
    {"host": "DB1"},
    {"database": "another"},
    {"ssl_mode": "verify-full"},
]
elsewhere = pytest.mark.parametrize("change", ELSEWHERE, ids=str)
the_same = pytest.mark.parametrize("change", THE_SAME, ids=str)


@pytest.fixture
def source() -> DataSource:
    return make_source(
        kind="mysql", host="db1", database="shop", username="reader", password=SECRET, ssl_mode="require"
    )


@pytest.fixture
def browser() -> Client:
    client = Client(headers={"accept-language": "en"})
    client.force_login(make_admin())
    return client


@pytest.fixture
def api() -> APIClient:
    client = APIClient()
    client.force_authenticate(make_admin())
    return client


def stored() -> tuple[str, str]:
    source = DataSource.objects.get()
    return source.host, source.password


def page_of(source: DataSource) -> str:
    return reverse("admin:datasources_datasource_change", args=[source.pk])


class TestForm:
    @elsewhere
    def test_elsewhere_the_password_is_asked_for(self, browser: Client, source: DataSource, change: Any) -> None:
        form = form_of(browser, page_of(source)) | change
        page = browser.post(page_of(source), form)
        assert page.status_code == 200
        assert set(page.context["adminform"].form.errors) == {"password"}
        assert SECRET not in page.content.decode()
        assert stored() == ("db1", SECRET)
        # The same password, but from somebody who knows it.
        assert browser.post(page_of(source), form | {"password": SECRET}).status_code == 302
        assert stored()[1] == SECRET

    @the_same
    def test_else_it_stays(self, browser: Client, source: DataSource, change: Any) -> None:
        assert browser.post(page_of(source), form_of(browser, page_of(source)) | change).status_code == 302
        assert stored()[1] == SECRET

    @elsewhere
    def test_a_test_does_not_send_it_either(
        self, browser: Client, source: DataSource, change: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sent: list[str] = []
        monkeypatch.setattr(DataSource, "probe", lambda source: sent.append(source.password))
        url = reverse("admin:datasources_datasource_try", args=[source.pk])
        found = browser.post(url, form_of(browser, page_of(source)) | change).json()
        assert set(found["fields"]) == {"password"}
        assert sent == []

    def test_a_source_without_password_may_move(self, browser: Client, source: DataSource) -> None:
        DataSource.objects.all().delete()
        source = make_source(kind="mysql", host="db1", database="shop", username="reader")
        assert browser.post(page_of(source), form_of(browser, page_of(source)) | ELSEWHERE[0]).status_code == 302

    def test_the_way_through_a_file_and_back_loses_it(self, browser: Client, source: DataSource) -> None:
        form = form_of(browser, page_of(source))
        assert browser.post(page_of(source), form | {"kind": "sqlite", "database": "/x.db"}).status_code == 302
        assert browser.post(page_of(source), form | ELSEWHERE[0]).status_code == 302
        assert stored() == ("db.attacker.example", "")


class TestApi:
    @elsewhere
    def test_elsewhere_the_password_is_asked_for(self, api: APIClient, source: DataSource, change: Any) -> None:
        path = f"/api/data-sources/{source.pk}"
        answer = api.patch(path, change, format="json")
        assert (answer.status_code, set(answer.json()["fields"])) == (400, {"password"})
        whole = {name: getattr(source, name) for name in ("name", "kind", "host", "port", "database", "username")}
        whole |= {"ssl_mode": source.ssl_mode} | change
        assert api.put(path, whole, format="json").status_code == 400
        assert stored() == ("db1", SECRET)
        assert api.patch(path, change | {"password": SECRET}, format="json").status_code == 200

    @the_same
    def test_else_it_stays(self, api: APIClient, source: DataSource, change: Any) -> None:
        assert api.patch(f"/api/data-sources/{source.pk}", change, format="json").status_code == 200
        assert stored()[1] == SECRET

    def test_without_a_password_it_may_move(self, api: APIClient, source: DataSource) -> None:
        change = {"host": "db2", "password": ""}
        assert api.patch(f"/api/data-sources/{source.pk}", change, format="json").status_code == 200
        assert stored() == ("db2", "")


class TestCommand:
    def update(self, source: DataSource, *, password: str = "", **change: Any) -> None:
        values = {"kind": source.kind, "host": source.host, "port": 3306, "database": "shop", "username": "reader"}
        values |= {"ssl_mode": "require"} | change
        mode = values.pop("ssl_mode")
        arguments = [source.name, *map(str, values.values()), password]
        call_command(
            "datasource", "create", *arguments, "--ssl-mode", mode, "--update", stdout=StringIO(), stderr=StringIO()
        )

    @elsewhere
    def test_elsewhere_the_password_is_asked_for(self, source: DataSource, change: Any) -> None:
        with pytest.raises(WrongUse, match="password"):
            self.update(source, **change)
        assert stored() == ("db1", SECRET)
        self.update(source, password=SECRET, **change)
        assert stored()[1] == SECRET

    def test_else_it_stays(self, source: DataSource) -> None:
        self.update(source, database="another")
        assert (DataSource.objects.get().database, stored()[1]) == ("another", SECRET)


# ---- Channels: the address is a secret itself, and the signing secret belongs to it


@pytest.fixture
def channel() -> Channel:
    channel = Channel(name="hook", kind="webhook")
    channel.set_settings(clean_settings("webhook", {"url": "https://hooks.example.com/a", "secret": SECRET}))
    channel.save()
    return channel


NEW = "https://attacker.example/"


def test_a_signing_secret_does_not_sign_for_another_address(browser: Client, channel: Channel) -> None:
    url = reverse("admin:notifications_channel_change", args=[channel.pk])
    form = form_of(browser, url) | {"setting_url": NEW}
    assert set(browser.post(url, form).context["adminform"].form.errors) == {"setting_secret"}
    attempt = reverse("admin:notifications_channel_try", args=[channel.pk])
    assert set(browser.post(attempt, form).json()["fields"]) == {"setting_secret"}
    channel.refresh_from_db()
    assert channel.stored_secrets == {"url": "https://hooks.example.com/a", "secret": SECRET}
    assert browser.post(url, form | {"remove_secret": "on"}).status_code == 302
    channel.refresh_from_db()
    assert channel.stored_secrets == {"url": NEW}


def test_nor_through_the_api(api: APIClient, channel: Channel) -> None:
    path = f"/api/channels/{channel.pk}"
    answer = api.patch(path, {"settings": {"url": NEW}}, format="json")
    assert (answer.status_code, set(answer.json()["fields"])) == (400, {"settings.secret"})
    assert api.patch(path, {"settings": {"url": NEW, "secret": "another"}}, format="json").status_code == 200
    channel.refresh_from_db()
    assert channel.stored_secrets == {"url": NEW, "secret": "another"}


def test_the_stored_ones_are_used_where_they_belong(
    browser: Client,
    robots: Robots,  # noqa: F811
    channel: Channel,
) -> None:
    robot = robots.add("webhook")
    channel.set_settings(clean_settings("webhook", {"url": robot.url, "secret": SECRET}))
    channel.save()
    page = reverse("admin:notifications_channel_change", args=[channel.pk])
    found = browser.post(reverse("admin:notifications_channel_try", args=[channel.pk]), form_of(browser, page)).json()
    assert found["state"] == "good", found
    assert "X-Exporter-Signature" in robots.requests[-1].headers
