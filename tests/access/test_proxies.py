"""Where a request comes from: from the connection, unless that is a proxy of ours, which then says it."""

from pathlib import Path

import pytest
from django.conf import LazySettings
from django.test import Client

from exporter_site.access.audit import Action
from exporter_site.access.middleware import client_address
from exporter_site.access.models import AuditEvent
from exporter_site.config import ConfigError, Web, load_config
from tests.factories import make_admin

TRUSTED = ["127.0.0.1/32", "10.8.0.0/16", "::1/128"]


@pytest.mark.parametrize(
    ("connection", "forwarded", "address"),
    [
        ("127.0.0.1", "203.0.113.7", "203.0.113.7"),
        ("127.0.0.1", "", "127.0.0.1"),
        ("127.0.0.1", "198.51.100.1, 203.0.113.7", "203.0.113.7"),  # what the client wrote stands before
        ("127.0.0.1", "203.0.113.7, 10.8.3.4", "203.0.113.7"),  # two proxies of ours
        ("127.0.0.1", "10.8.3.4", "10.8.3.4"),  # somebody who sits at the proxy
        ("203.0.113.7", "198.51.100.1", "203.0.113.7"),
        ("127.0.0.1", "203.0.113.7, unknown", "127.0.0.1"),
        ("127.0.0.1", "203.0.113.7, ", "127.0.0.1"),
        ("127.0.0.1", "203.0.113.7:4711", "127.0.0.1"),
        ("::1", "2001:db8::7", "2001:db8::7"),
        ("", "203.0.113.7", ""),
        ("unix:", "203.0.113.7", "unix:"),
    ],
)
def test_the_last_stranger_on_the_way_is_the_client(connection: str, forwarded: str, address: str) -> None:
    assert client_address(connection, forwarded, TRUSTED) == address


@pytest.mark.django_db
@pytest.mark.parametrize(("trusted", "address"), [(["127.0.0.1/32"], "203.0.113.7"), ([], "127.0.0.1")])
def test_a_wrong_password_is_recorded_with_the_address_that_may_be_believed(
    settings: LazySettings, trusted: list[str], address: str
) -> None:
    web = settings.CONFIG.web.model_copy(update={"trusted_proxies": trusted})
    settings.CONFIG = settings.CONFIG.model_copy(update={"web": web})
    make_admin("root")
    headers = {"X-Forwarded-For": "203.0.113.7"}
    Client(headers=headers).post("/admin/login/", {"username": "root", "password": "guess"})
    assert AuditEvent.objects.filter(action=Action.LOGIN_FAILED).values_list("address", flat=True).get() == address


def loaded(tmp_path: Path, **web: str) -> Web:
    variables = {f"EXPORTER_WEB__{key.upper()}": value for key, value in web.items()}
    file = tmp_path / "config.yaml"
    file.touch()
    return load_config(file, variables).web


def test_networks_are_a_list_or_a_text_with_commas(tmp_path: Path) -> None:
    assert loaded(tmp_path, trusted_proxies="127.0.0.1, 10.8.0.0/16").trusted_proxies == ["127.0.0.1/32", "10.8.0.0/16"]


@pytest.mark.parametrize("value", ["localhost", "10.8.0.1/16", "127.0.0.1;::1"])
def test_what_is_no_network_stops_the_start(tmp_path: Path, value: str) -> None:
    with pytest.raises(ConfigError, match=r"EXPORTER_WEB__TRUSTED_PROXIES.*web.trusted_proxies"):
        loaded(tmp_path, trusted_proxies=value)


@pytest.mark.parametrize("value", ["_exports", "/_exports", "_exports/", "https://host/x/", "/a b/", "/a\nb/"])
def test_what_is_no_beginning_of_an_address_stops_the_start(tmp_path: Path, value: str) -> None:
    with pytest.raises(ConfigError, match=r"EXPORTER_WEB__ACCEL_PREFIX.*web.accel_prefix"):
        loaded(tmp_path, accel_prefix=value)
