"""The OpenAPI document is complete and true: thousands of requests made from it, of every role, answered as it says."""

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from django.core.management import call_command

from exporter_site.config import BASE_DIR
from tests.api import live
from tests.factories import make_sqlite_file
from tests.instance import Instance

SEED = 20250812
ROLES = ("anonymous", "viewer", "operator", "editor", "admin")

ROWS = """
from datetime import timedelta
from django.contrib.auth.models import Group, User
from django.utils import timezone
from datasources.models import DataSource
from exporter_site.access.models import ApiKey, Grant
from notifications.models import Channel
from tasks import runner
from tasks.models import Execution, ExportTask
from tasks.states import Trigger
sources = [DataSource.objects.create(name=f"shop {{n}}", kind="sqlite", database={file!r}) for n in range(8)]
channels = [Channel.objects.create(name=f"list {{n}}", kind="email", settings={{"recipients": [f"a{{n}}@example.com"]}}) for n in range(8)]
tasks = [
    ExportTask.objects.create(name=f"orders {{n}}", data_source=sources[n % 4], sql="SELECT * FROM orders", format="csv")
    for n in range(16)
]
for task, channel in zip(tasks, channels):
    task.rules.create(channel=channel)
runs = [Execution.objects.enqueue(task, trigger=Trigger.MANUAL) for task in tasks for _time in "12"]
for run in runs[::2]:
    runner.run(Execution.objects.claim(run.pk, worker="test", limit_source=False))
result["rows"] = {{
    "data-sources": [row.pk for row in sources], "channels": [row.pk for row in channels],
    "tasks": [row.pk for row in tasks], "logs": [row.pk for row in runs],
}}
result["keys"] = {{}}
for role in ("viewer", "operator", "editor", "admin"):
    user = User.objects.create_user(role, password=None)
    user.groups.add(Group.objects.get(name=role))
    for source in sources[:6]:
        Grant.objects.create(user=user, data_source=source)
    result["keys"][role] = ApiKey.objects.make(user, "schemathesis", "write", timezone.now() + timedelta(days=1))[1]
"""

# What does not apply of schemathesis' checks, and why. All else runs on every operation, with every role.
EXCLUDED_CHECKS = {
    # A deleted task's number is answered with 404; but the check follows links between operations, and needs their phase.
    "use_after_free": "part of the stateful phase, which is not run",
    "ensure_resource_availability": "part of the stateful phase, which is not run",
}
# The schema can't say which sources, channels and users there are, what is SQL, a cron expression, a date, a password or a
# complete channel: a request may be valid by the schema, and still be refused in words. tests/api has these by hand.
MEANING_IS_CHECKED = (
    "tasks_create", "tasks_update", "tasks_partial_update", "tasks_execute_create", "tasks_backfill_create", "tasks_test_create",
    "data_sources_create", "data_sources_update", "data_sources_partial_update",
    "channels_create", "channels_update", "channels_partial_update",
    "token_create", "token_refresh", "logs_list", "logs_resend_create",
)  # fmt: skip
CONFIG = f"""
[checks.negative_data_rejection]
# 412: an If-Match that is made up is looked at before the body.
expected-statuses = ["400", "401", "403", "404", "405", "406", "409", "411", "412", "413", "415", "422", "429"]

[checks.positive_data_acceptance]
# 412: the If-Match is made up. 429: the limit of logins stays on.
expected-statuses = ["2xx", "401", "403", "404", "409", "412", "429"]

[[operations]]
include-operation-id = {json.dumps(MEANING_IS_CHECKED)}
checks.positive_data_acceptance.enabled = false
"""


class Site(NamedTuple):
    url: str
    keys: dict[str, str]
    rows: dict[str, list[int]]
    log: Path


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Site]:
    """One server for all roles. Who may least comes first: what the last ones delete, nobody misses."""
    home = tmp_path_factory.mktemp("schema")
    instance = Instance(home / "instance", request.config.getoption("--system-db"))
    made = live.prepare(instance, ROWS.format(file=str(make_sqlite_file(home / "shop.db"))))
    with live.gunicorn(instance) as url:
        yield Site(url, made["keys"], made["rows"], instance.log_file)
    instance.close()


def check(site: Site, role: str, directory: Path, examples: int, phases: str = "fuzzing") -> None:
    """Have schemathesis make so many requests of each operation, signed in as `role`; fail with what it found."""
    config = directory / "schemathesis.toml"
    config.write_text(CONFIG)
    key = [] if role == "anonymous" else ["--header", f"Authorization: Bearer {site.keys[role]}"]
    ours = {"SCHEMATHESIS_HOOKS": "tests.api.schemathesis_hooks", "PYTHONPATH": str(BASE_DIR)}
    print(f"seed {SEED}")
    done = subprocess.run(
        [live.program("st"), "--config-file", str(config), "run", f"{site.url}/api/schema", *key,
         "--phases", phases, "--mode", "all", "--max-examples", str(examples), "--seed", str(SEED),
         "--continue-on-failure", "--no-shrink", "--generation-database", "none", "--request-timeout", "20", "--no-color",
         "--exclude-checks", ",".join(EXCLUDED_CHECKS), "--suppress-health-check", "all"],
        cwd=directory,
        env={name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        | {**ours, "EXPORTER_TESTS_ROWS": json.dumps(site.rows)},
        capture_output=True,
        text=True,
        timeout=7200,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-3000:]
    tested = re.search(r"Tested: (\d+)", done.stdout)
    assert tested, done.stdout
    assert int(tested[1]) == len(operations())
    assert "Traceback" not in site.log.read_text()


def operations() -> dict[str, Any]:
    """Each operation of the document, by "METHOD /path"."""
    return {
        f"{method.upper()} {path}": operation
        for path, methods in live.document()["paths"].items()
        for method, operation in methods.items()
    }


@pytest.mark.parametrize("role", ROLES)
def test_every_answer_is_as_the_schema_says(site: Site, role: str, tmp_path: Path) -> None:
    check(site, role, tmp_path, 15 if role == "admin" else 5)


@pytest.mark.long
@pytest.mark.parametrize("role", ROLES)
def test_every_answer_is_as_the_schema_says_long(site: Site, role: str, tmp_path: Path) -> None:
    check(site, role, tmp_path, 500, "examples,coverage,fuzzing")


def test_the_document_is_valid_and_without_warnings(tmp_path: Path) -> None:
    file = tmp_path / "schema.yaml"
    call_command("spectacular", validate=True, fail_on_warn=True, file=str(file))
    assert file.stat().st_size > 10_000


def test_every_operation_names_the_errors_that_all_have() -> None:
    for name, operation in operations().items():
        statuses = set(operation["responses"])
        assert {"401", "403", "406", "429", "503"} <= statuses, name
        if "requestBody" in operation:
            assert {"400", "411", "413", "415"} <= statuses, name
        if "{id}" in name:
            assert "404" in statuses, name
        for status, answer in operation["responses"].items():
            if int(status) >= 400:
                assert answer["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/Error"}, name


def test_no_secret_is_in_an_answer_of_the_document() -> None:
    schemas = live.document()["components"]["schemas"]
    answers = {name: schema for name, schema in schemas.items() if not name.endswith("Request")}
    secret = {"password", "dingtalk_secret", "dingtalk_webhook", "secrets"}
    assert {name for name, schema in answers.items() if secret & set(schema.get("properties", ()))} == set()
