"""Servers that messages can be sent to."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from django.conf import LazySettings

from exporter_site.config import Notifications
from tests.servers.robots import Robots

HostLists = Callable[..., None]


@pytest.fixture
def host_lists(settings: LazySettings) -> HostLists:
    """`host_lists(private_hosts=[…], allowed_hosts=[…])` is what config.yaml says from now on."""

    def say(**lists: list[str]) -> None:
        settings.CONFIG = settings.CONFIG.model_copy(update={"notifications": Notifications(**lists)})

    return say


@pytest.fixture
def robots(host_lists: HostLists) -> Iterator[Robots]:
    """Robots on this machine, which messages may go to."""
    with Robots() as server:
        host_lists(private_hosts=[server.place])
        yield server


@pytest.fixture
def own_directories(settings: LazySettings, tmp_path: Path) -> None:
    """Files of the test's own, and links to them."""
    export = settings.CONFIG.export.model_copy(update={"output_dir": tmp_path / "exports"})
    web = settings.CONFIG.web.model_copy(update={"public_url": "https://reports.example.com"})
    settings.CONFIG = settings.CONFIG.model_copy(update={"export": export, "web": web})
