"""The list of tasks above a long log: the last runs of each task come from the end of its part of an index, and nothing
else of the log is read."""

import json
import re

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from tests.api import many
from tests.api.test_many_logs import tables
from tests.factories import make_admin

# MySQL's ANALYZE TABLE ends the transaction that a test would be rolled back in.
pytestmark = pytest.mark.django_db(transaction=True)
INDEX = "execution_by_task"
URL = "/admin/tasks/exporttask/"


def asked_of_the_log(user: User, query: str) -> list[str]:
    client = Client()
    client.force_login(user)
    with CaptureQueriesContext(connection) as captured:
        assert client.get(URL + query).status_code == 200
    return [entry["sql"] for entry in captured if "tasks_execution" in entry["sql"]]


def plan_of(sql: str) -> str:
    explain = {"sqlite": "EXPLAIN QUERY PLAN", "postgresql": "EXPLAIN", "mysql": "EXPLAIN FORMAT=JSON"}
    with connection.cursor() as cursor:
        cursor.execute(f"{explain[connection.vendor]} {sql}")
        return "\n".join(str(row[-1]) for row in cursor.fetchall())


def faults_in(plan: str) -> list[str]:
    """What of `plan` reads more of the log than the end of each task's part of the index."""
    if connection.vendor == "mysql":
        log = [table for table in tables(json.loads(plan)) if table.get("table_name") == "tasks_execution"]
        return [str(table) for table in log if table.get("key") != INDEX or "using_filesort" in table] or (
            [] if log and "filesort" not in plan else [plan]
        )
    reads = [line for line in plan.splitlines() if re.search(r"(SEARCH|SCAN|Scan).*\btasks_execution\b", line)]
    sorts = [line for line in plan.splitlines() if "TEMP B-TREE" in line or "Sort" in line]
    return [line for line in reads if INDEX not in line] + (sorts if reads else [plan])


def test_the_last_runs_are_read_from_the_end_of_an_index() -> None:
    many.make_tasks()
    many.fill(30_000)
    root = make_admin()
    (plain,) = asked_of_the_log(root, "")
    assert plain.count("UNION ALL") == 99
    by_state = [sql for sql in asked_of_the_log(root, "?last=failed") if "UNION ALL" in sql]
    assert len(by_state) == 1
    assert faults_in(plan_of(plain)) == faults_in(plan_of(by_state[0])) == []
