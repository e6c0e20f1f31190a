"""A long log: each way to look at it takes as many queries as for a short one, and none reads the whole table.

How long they take is measured by `python -m benchmarks logs`, not here.
"""

import json
import re
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from rest_framework.test import APIClient

from tasks.models import Execution, ExportTask
from tests.api import many
from tests.api.conftest import client_of
from tests.factories import make_user

# MySQL's ANALYZE TABLE ends the transaction that a test would be rolled back in.
pytestmark = pytest.mark.django_db(transaction=True)

SHORT, LONG = 400, 30_000


def clients() -> dict[str, APIClient]:
    one = ExportTask.objects.order_by("id")[0].data_source
    return {
        "admin": client_of(make_user(role="admin")),
        "viewer": client_of(make_user(role="viewer", sources=[one])),
    }


def look(client: APIClient, query: str) -> tuple[list[str], bool]:
    """The SQL of a view, and whether it shows any rows: without them it does not look for their deliveries."""
    with CaptureQueriesContext(connection) as queries:
        answer = client.get(f"/api/logs?{query}")
    assert answer.status_code in (200, 404), answer.content
    return [entry["sql"] for entry in queries], bool(answer.json().get("results"))


def test_the_number_of_queries_and_the_use_of_indexes() -> None:
    many.make_tasks()
    scans: list[tuple[str, str, str]] = []
    counts: dict[str, set[int]] = {}
    for rows in (SHORT, LONG):
        many.fill(rows)
        for who, client in clients().items():
            client.get("/api/logs")  # what is noted at the first use of a key
            for name, query in many.views(rows).items():
                queries, shows = look(client, query)
                if shows:
                    counts.setdefault(who, set()).add(len(queries))
                if rows == LONG:
                    scans += [(who, name, plan) for sql in queries if (plan := whole_scan(sql))]
    assert Execution.objects.count() == LONG
    assert {who: len(found) for who, found in counts.items()} == {"admin": 1, "viewer": 1}, counts
    assert max(map(max, counts.values())) <= 10
    assert scans == []


def whole_scan(sql: str) -> str:
    """The plan of a query that reads all rows of the log without an index; "" when it does not."""
    if not sql.startswith("SELECT") or "tasks_execution" not in sql:
        return ""
    with connection.cursor() as cursor:
        if connection.vendor == "sqlite":
            cursor.execute(f"EXPLAIN QUERY PLAN {sql}")
            plan = "\n".join(row[3] for row in cursor.fetchall())
            # "SCAN tasks_execution" goes through the numbers in order, which is an index where the list is ordered by them.
            bad = re.search(r"SCAN tasks_execution\b(?! USING)", plan) and "TEMP B-TREE" in plan
        elif connection.vendor == "postgresql":
            cursor.execute(f"EXPLAIN {sql}")
            plan = "\n".join(row[0] for row in cursor.fetchall())
            bad = re.search(r"Seq Scan on tasks_execution.*\n(?!.*Limit)", plan) and "Limit" not in plan
        else:
            cursor.execute(f"EXPLAIN FORMAT=JSON {sql}")
            plan = cursor.fetchone()[0]
            bad = any(
                table.get("table_name") == "tasks_execution" and table.get("access_type") == "ALL"
                for table in tables(json.loads(plan))
            )
    return f"{sql}\n{plan}" if bad else ""


def tables(plan: Any) -> list[dict[str, Any]]:
    if isinstance(plan, list):
        return [table for item in plan for table in tables(item)]
    if isinstance(plan, dict):
        return ([plan["table"]] if isinstance(plan.get("table"), dict) else []) + [
            table for item in plan.values() for table in tables(item)
        ]
    return []
