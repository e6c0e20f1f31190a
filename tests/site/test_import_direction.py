"""Imports go down: tasks -> datasources, notifications -> exporter_site. Composition roots may see everything."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from exporter_site.config import BASE_DIR

# An app may import the apps named here, and itself.
ALLOWED = {
    "exporter_site": set[str](),
    "datasources": {"exporter_site"},
    "notifications": {"exporter_site"},
    "tasks": {"datasources", "notifications", "exporter_site"},
}
COMPOSITION_ROOTS = {"exporter_site/urls.py", "exporter_site/api.py", "exporter_site/settings.py"}
SOURCES = [path for app in ALLOWED for path in (BASE_DIR / app).rglob("*.py") if "migrations" not in path.parts]


def imported_apps(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [node.module or ""]
        yield from (name.partition(".")[0] for name in names)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(BASE_DIR)))
def test_a_module_imports_only_from_below(path: Path) -> None:
    relative = path.relative_to(BASE_DIR)
    if str(relative) in COMPOSITION_ROOTS:
        return
    app = relative.parts[0]
    above = {name for name in imported_apps(path) if name in ALLOWED} - ALLOWED[app] - {app}
    assert not above, f"{relative} imports {above}"


def test_nobody_imports_a_composition_root() -> None:
    roots = {root.removesuffix(".py").replace("/", ".") for root in COMPOSITION_ROOTS}
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                assert node.module not in roots, path
