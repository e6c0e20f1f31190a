"""What operators can set and call is written down where they look for it."""

import runpy
from pathlib import Path
from types import ModuleType

import pytest
from django.core.management import get_commands
from django.utils import translation

import notifications.reasons
import tasks.reasons
from exporter_site.config import BASE_DIR, known_keys
from notifications.messages import VARIABLES
from tasks.dates import NAMES

OUR_APPS = ("exporter_site", "exporter_site.access", "datasources", "tasks", "notifications")
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


def test_the_reference_of_the_commands_is_what_they_say_themselves() -> None:
    written = runpy.run_path(str(BASE_DIR / "docs" / "generate.py"))["commands"]()
    assert text_of("docs/commands.md") == written, "run docs/generate.py"


@pytest.mark.parametrize("variable", VARIABLES)
def test_a_variable_of_messages_is_explained(variable: str) -> None:
    assert f"`{{{variable}}}`" in text_of("docs/notifications.md")


@pytest.mark.parametrize("kind", [tasks.reasons, notifications.reasons], ids=lambda kind: kind.__name__)
def test_every_reason_is_in_the_troubleshooting_with_its_words(kind: ModuleType) -> None:
    text = text_of("docs/troubleshooting.md")
    with translation.override("zh-hans"):
        rows = [f"| `{code}` | {kind.sentence(code)} | {kind.remedy(code)} |" for code in kind.REASONS]
    assert [row for row in rows if row not in text] == []


@pytest.mark.parametrize("readme", ["README.md", "README.en.md"])
@pytest.mark.parametrize("name", NAMES)
def test_a_date_name_is_explained(name: str, readme: str) -> None:
    assert f"`{name}`" in text_of(readme) or f"{{{{ {name} }}}}" in text_of(readme)


DOCUMENTS = ["README.md", "README.en.md", *(f"docs/{file.name}" for file in sorted((BASE_DIR / "docs").glob("*.md")))]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_a_document_mentions_only_config_keys_that_exist(document: str) -> None:
    sections = {key.split(".")[0] for key in KEYS if not key.startswith("data_sources")}
    words = {word.rstrip(":") for word in text_of(document).split("`")[1::2]}
    mentioned = {word for word in words if word.split(".")[0] in sections and word.count(".") == 1 and " " not in word}
    assert mentioned <= set(KEYS)


@pytest.mark.parametrize("document", [*DOCUMENTS, "CONTRIBUTING.md", "SECURITY.md", "benchmarks/README.md"])
def test_links_to_files_lead_somewhere(document: str) -> None:
    targets = [piece.split(")")[0].split("#")[0] for piece in text_of(document).split("](")[1:]]
    local = [target for target in targets if target and "://" not in target]
    assert [target for target in local if not (Path(BASE_DIR / document).parent / target).exists()] == []


def test_the_readmes_have_the_same_chapters() -> None:
    """A chapter that is written in one language only is found here."""
    chinese, english = (text_of(name).count("\n## ") for name in ("README.md", "README.en.md"))
    assert chinese == english
