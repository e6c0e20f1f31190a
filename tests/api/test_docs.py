"""docs/api.md is true: every curl and every Python block runs as it stands, and no endpoint is missing."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from exporter_site.config import BASE_DIR
from tests.api import live
from tests.factories import PASSWORD, make_sqlite_file
from tests.instance import Instance

ROWS = """
from datetime import timedelta
from django.contrib.auth.models import Group, User
from django.utils import timezone
from datasources.models import DataSource
from exporter_site.access.models import ApiKey
user = User.objects.create_user("zhang", password={password!r})
user.groups.add(Group.objects.get(name="admin"))
result["source"] = DataSource.objects.create(name="shop", kind="sqlite", database={file!r}).pk
result["key"] = ApiKey.objects.make(user, "docs", "write", timezone.now() + timedelta(days=1))[1]
"""


def text_of(name: str) -> str:
    return (BASE_DIR / name).read_text()


def blocks(name: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text_of(name), re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[dict[str, str]]:
    """Of a reader who has a key, a server, a scheduler, and a source with the number 1."""
    place = tmp_path_factory.mktemp("docs")
    instance = Instance(place / "instance", request.config.getoption("--system-db"))
    made = live.prepare(instance, ROWS.format(password=PASSWORD, file=str(make_sqlite_file(place / "shop.db"))))
    assert made["source"] == 1
    home = place / "home"
    home.mkdir()
    # curl itself does not take an answer of 400 for a failure.
    (home / ".curlrc").write_text("fail-with-body\nsilent\nshow-error\nmax-time = 60\n")
    with live.gunicorn(instance) as url:
        instance.spawn("runscheduler", "--workers", "2", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        key = {"EXPORTER": url, "EXPORTER_KEY": made["key"]}
        yield {"PATH": os.environ["PATH"], "HOME": str(home), "LANG": "C.UTF-8", **key}
    instance.close()


def run(command: list[str], environment: dict[str, str], blocks: list[str], mark: str) -> str:
    """What the blocks print, one after another in one process; a failure is that of the last block it has begun."""
    assert blocks
    text = "\n".join(mark.format(number=number) + "\n" + block for number, block in enumerate(blocks, start=1))
    done = subprocess.run(
        [*command, text], cwd=environment["HOME"], env=environment, capture_output=True, text=True, timeout=180
    )
    begun = re.findall(r"^== block (\d+)$", done.stdout, re.MULTILINE)
    last = blocks[int(begun[-1]) - 1] if begun else ""
    assert done.returncode == 0, f"{last}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    assert len(begun) == len(blocks)
    return done.stdout


def test_every_curl_block_runs(environment: dict[str, str]) -> None:
    found = [block for block in blocks("docs/api.md", "bash") if "curl" in block]
    run([live.program("bash"), "-euo", "pipefail", "-c"], environment, found, 'echo "\n== block {number}"')
    assert (Path(environment["HOME"]) / "orders.xlsx").read_bytes().startswith(b"PK")
    both = [(Path(environment["HOME"]) / name).read_bytes() for name in ("orders.xlsx", "partial.xlsx")]
    assert both[0] == both[1]


def test_every_python_block_runs(environment: dict[str, str]) -> None:
    found = blocks("docs/api.md", "python")
    printed = run(
        [sys.executable, "-W", "error", "-c"], environment, found, 'print("\\n== block {number}", flush=True)'
    )
    assert "2 行" in printed or "3 行" in printed


@pytest.mark.parametrize("readme", ["README.md", "README.en.md"])
def test_the_requests_in_the_readme_run(environment: dict[str, str], readme: str) -> None:
    found = [block for block in blocks(readme, "bash") if "curl" in block]
    run([live.program("bash"), "-euo", "pipefail", "-c"], environment, found, 'echo "\n== block {number}"')


def test_every_endpoint_is_in_the_table() -> None:
    known = {f"{method.upper()} {path}" for path, methods in live.document()["paths"].items() for method in methods}
    table = set(re.findall(r"`((?:GET|POST|PUT|PATCH|DELETE) /api/[^`]*)`", text_of("docs/api.md")))
    assert table == known | {"GET /api/schema", "GET /api/docs"}


def test_every_filter_ordering_and_code_is_named() -> None:
    text = text_of("docs/api.md")
    for path, methods in live.document()["paths"].items():
        for operation in methods.values():
            for parameter in operation.get("parameters", ()):
                assert parameter["in"] == "path" or parameter["name"] in text, f"{path}: {parameter['name']}"
            for status in operation["responses"]:
                assert int(status) < 400 or status in text
    sources = [
        *BASE_DIR.glob("*/api.py"),
        *BASE_DIR.glob("*/rest*.py"),
        BASE_DIR / "exporter_site" / "access" / "api.py",
    ]
    codes = {code for file in sources for code in re.findall(r'Problem\(\s*\d+, "(\w+)"', file.read_text())}
    assert codes
    assert [code for code in sorted(codes) if f"`{code}`" not in text] == []
