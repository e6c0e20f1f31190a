"""Short work for what these tests do hundreds of times."""

from pathlib import Path

import pytest
from django.conf import LazySettings
from django.core.cache import cache


@pytest.fixture(autouse=True)
def _quick_passwords_and_fresh_counts(settings: LazySettings) -> None:
    """A million rounds for each password are not what is tested here; requests of other tests are not ours."""
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
    cache.clear()


@pytest.fixture(autouse=True)
def _test_messages_go_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("notifications.sender.send_test", lambda channel: {})


@pytest.fixture(autouse=True)
def own_directories(settings: LazySettings, tmp_path: Path) -> None:
    export = settings.CONFIG.export.model_copy(update={"output_dir": tmp_path / "exports"})
    settings.CONFIG = settings.CONFIG.model_copy(update={"export": export})
