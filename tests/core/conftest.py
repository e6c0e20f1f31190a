from collections.abc import Iterator

import pytest
from django.utils import translation


@pytest.fixture
def english(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Messages in English, whatever the catalogue says: these tests read them."""
    monkeypatch.setenv("LANGUAGE", "en")
    with translation.override("en"):
        yield
