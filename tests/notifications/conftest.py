"""Servers that messages can be sent to."""

from collections.abc import Callable, Iterator

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
