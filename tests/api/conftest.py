"""Programs that call the API, and what they find there."""

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.conf import LazySettings
from django.contrib.auth.models import User
from django.core.cache import cache
from django.utils import timezone
from rest_framework.test import APIClient

from datasources.models import DataSource
from exporter_site.access.models import ApiKey, Scope
from exporter_site.config import Notifications
from tasks.models import ExportTask
from tests.factories import make_source, make_sqlite_file, make_task, make_user
from tests.servers.robots import Robots

ApiOf = Callable[..., APIClient]


@pytest.fixture(autouse=True)
def nobody_has_asked_yet() -> None:
    """Throttles count in the cache of the process."""
    cache.clear()


@pytest.fixture(autouse=True)
def quick_passwords(settings: LazySettings) -> None:
    """Most tests make users, and few of them log in."""
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]


@pytest.fixture(autouse=True)
def own_directories(settings: LazySettings, tmp_path: Path) -> None:
    export = settings.CONFIG.export.model_copy(
        update={"output_dir": tmp_path / "exports", "temp_dir": tmp_path / "temp"}
    )
    settings.CONFIG = settings.CONFIG.model_copy(update={"export": export})


def client_of(user: User, *, scope: str = Scope.WRITE, **headers: str) -> APIClient:
    """A program with an API key of `user`."""
    _key, text = ApiKey.objects.make(user, "test", scope, timezone.now() + timedelta(days=1))
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {text}", **headers)
    return client


@pytest.fixture
def shop(db: None, tmp_path: Path) -> DataSource:
    """An SQLite shop with three orders."""
    return make_source(name="shop", database=str(make_sqlite_file(tmp_path / "shop.db")))


@pytest.fixture
def orders(shop: DataSource) -> ExportTask:
    return make_task(name="orders", data_source=shop, sql="SELECT * FROM orders ORDER BY id")


@pytest.fixture
def editor(shop: DataSource) -> APIClient:
    """A program of an editor to whom the shop is granted."""
    return client_of(make_user("editor", role="editor", sources=[shop]))


@pytest.fixture
def admin(db: None) -> APIClient:
    """A program of an administrator."""
    return client_of(make_user("chief", role="admin"))


@pytest.fixture
def robots(settings: LazySettings) -> Iterator[Robots]:
    """Robots on this machine, which messages may go to."""
    with Robots() as server:
        allowed = Notifications(private_hosts=[server.place])
        settings.CONFIG = settings.CONFIG.model_copy(update={"notifications": allowed})
        yield server


def error_of(answer: Any, status: int) -> dict[str, Any]:
    """The content of an error, which has the one shape that all have."""
    assert answer.status_code == status, (answer.status_code, answer.content)
    assert answer["Content-Type"] == "application/json"
    content: dict[str, Any] = answer.json()
    assert set(content) <= {"code", "message", "fields"}, content
    assert isinstance(content["code"], str)
    assert content["code"]
    assert isinstance(content["message"], str)
    assert content["message"]
    fields = content.get("fields", {})
    assert all(isinstance(texts, list) and all(isinstance(text, str) for text in texts) for texts in fields.values())
    return content
