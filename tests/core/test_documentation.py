"""What operators can set and call is written down where they look for it."""

from pathlib import Path

import pytest
from django.core.management import get_commands

from exporter_site.config import BASE_DIR, known_keys

OUR_APPS = ("exporter_site", "datasources", "tasks", "notifications")
KEYS = [
    f"{section}.{key}" for section, model in known_keys().items() if section != "flask" for key in model.model_fields
]
COMMANDS = sorted(name for name, app in get_commands().items() if app in OUR_APPS)


def text_of(name: str) -> str:
    return (BASE_DIR / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("key", KEYS)
def test_a_config_key_is_explained(key: str) -> None:
    assert f"`{key}`" in text_of("docs/config.md")


@pytest.mark.parametrize("readme", ["README.md", "README.en.md"])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_in_both_readmes(command: str, readme: str) -> None:
    assert f"`{command}" in text_of(readme)


@pytest.mark.parametrize("document", ["README.md", "README.en.md", "docs/architecture.md", "docs/config.md"])
def test_a_document_mentions_only_config_keys_that_exist(document: str) -> None:
    sections = {key.split(".")[0] for key in KEYS if not key.startswith("data_sources")}
    words = {word.rstrip(":") for word in text_of(document).split("`")[1::2]}
    mentioned = {word for word in words if word.split(".")[0] in sections and word.count(".") == 1 and " " not in word}
    assert mentioned <= set(KEYS)


@pytest.mark.parametrize("document", ["README.md", "README.en.md", "CONTRIBUTING.md", "SECURITY.md"])
def test_links_to_files_lead_somewhere(document: str) -> None:
    targets = [piece.split(")")[0] for piece in text_of(document).split("](")[1:]]
    local = [target for target in targets if "://" not in target and not target.startswith("docs/images/")]
    assert [target for target in local if not Path(BASE_DIR / target).exists()] == []


def test_the_readmes_have_the_same_chapters() -> None:
    """A chapter that is written in one language only is found here."""
    chinese, english = (text_of(name).count("\n## ") for name in ("README.md", "README.en.md"))
    assert chinese == english
