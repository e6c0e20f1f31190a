"""A long log in the admin: each filter, search and order takes as many queries as for a short one, and none reads the
whole table.

How long they take is measured by `python -m benchmarks admin-lists`, not here.
"""

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from datasources.models import DataSource
from tests.access.world import unrendered
from tests.api import many
from tests.api.test_many_logs import LONG, SHORT, whole_scan
from tests.factories import make_user

# MySQL's ANALYZE TABLE ends the transaction that a test would be rolled back in.
pytestmark = pytest.mark.django_db(transaction=True)

LIST = "/admin/tasks/execution/"
# These go through the runs from the newest on, until a page is full: that is soon.
FROM_THE_NEWEST = ("search: all tasks", "search: many files")


def client_of(user: User) -> Client:
    client = Client()
    client.force_login(user)
    return client


def test_the_number_of_queries_and_the_use_of_indexes() -> None:
    many.make_tasks()
    one = DataSource.objects.order_by("id")[0]
    clients = {
        "admin": client_of(make_user(role="admin")),
        "viewer": client_of(make_user(role="viewer", sources=[one])),
    }
    counts: dict[tuple[str, str], set[int]] = {}
    empty, scans = [], []
    for rows in (SHORT, LONG):
        many.fill(rows)
        for who, client in clients.items():
            for name, query in many.admin_views(rows).items():
                with unrendered(), CaptureQueriesContext(connection) as queries:
                    answer = client.get(f"{LIST}?{query}")
                assert answer.status_code in (200, 302), (name, answer.status_code)
                found = [entry["sql"] for entry in queries]
                if answer.status_code == 200 and answer.context_data["cl"].result_list:  # type: ignore[index]
                    counts.setdefault((who, name), set()).add(len(found))
                elif rows == LONG:
                    empty.append((who, name))
                if rows == LONG and not name.startswith(FROM_THE_NEWEST):
                    scans += [(who, name, plan) for sql in found if (plan := whole_scan(sql))]
    assert {view: found for view, found in counts.items() if len(found) > 1} == {}
    assert len(counts) >= 55, empty
    assert max(map(max, counts.values())) <= 20, counts
    assert scans == []
