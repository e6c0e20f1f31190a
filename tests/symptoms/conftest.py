"""A system to look after, in this process: its own directories, and an administrator."""

from pathlib import Path

import pytest
from django.conf import LazySettings
from django.core.cache import cache

from tests.symptoms.room import Room


@pytest.fixture
def room(
    db: None,
    request: pytest.FixtureRequest,
    settings: LazySettings,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Room:
    cache.clear()  # throttles count in it
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
    made = Room(request, settings, monkeypatch, tmp_path)
    made.configure("export", temp_dir=tmp_path / "temp", output_dir=tmp_path / "exports", min_free_disk=0)
    made.configure("web", public_url="https://reports.example.com")
    return made
