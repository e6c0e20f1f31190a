"""Directories and a bucket of each test's own."""

from pathlib import Path
from typing import Any

import pytest
from django.conf import LazySettings
from pydantic import SecretStr

from tasks import storage
from tasks.storage import s3
from tests.servers.objects import Objects


def configure(settings: LazySettings, **export: Any) -> None:
    """Put these values over the section export; the secret may be a text."""
    if isinstance(export.get("s3_secret_key"), str):
        export["s3_secret_key"] = SecretStr(export["s3_secret_key"])
    settings.CONFIG = settings.CONFIG.model_copy(update={"export": settings.CONFIG.export.model_copy(update=export)})


def environment(export: dict[str, str]) -> dict[str, str]:
    """The same for another process."""
    return {f"EXPORTER_EXPORT__{name.upper()}": value for name, value in export.items()}


@pytest.fixture(autouse=True)
def own_directories(settings: LazySettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "_away_since", float("-inf"))  # of the store of another test
    monkeypatch.setattr(s3, "TRIES", 1)  # nobody waits between two
    configure(settings, temp_dir=tmp_path / "temp", output_dir=tmp_path / "exports")


@pytest.fixture
def bucket(objects: Objects) -> str:
    return objects.new_bucket()


@pytest.fixture
def in_bucket(objects: Objects, bucket: str, settings: LazySettings) -> str:
    """New files go into a bucket, whose name this is."""
    configure(settings, **objects.settings(bucket))
    return bucket
