"""requirements.lock holds what requirements.txt asks for, every file with its hash."""

import re

from exporter_site.config import BASE_DIR

PINNED = re.compile(r"^([A-Za-z0-9_-]+)(?:\[[a-z]+\])?==([^\s;\\]+)", re.MULTILINE)


def test_the_lock_has_the_versions_that_are_asked_for() -> None:
    asked = {name.lower(): version for name, version in PINNED.findall((BASE_DIR / "requirements.txt").read_text())}
    locked = dict(PINNED.findall((BASE_DIR / "requirements.lock").read_text()))
    assert asked
    assert {name: locked.get(name) for name in asked} == asked


def test_every_package_of_the_lock_has_hashes() -> None:
    lines = [line for line in (BASE_DIR / "requirements.lock").read_text().splitlines() if not line.startswith("#")]
    packages = " ".join(line.rstrip("\\").strip() for line in lines)
    for package in re.split(r" (?=[a-z0-9-]+==)", packages):
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", package), package
