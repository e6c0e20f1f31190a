"""How long GET /api/logs takes over a long log: each filter, each order, deep pages, for who sees all and for who sees
one source of twenty; on each kind of system database."""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.stage import say
from tests.instance import Instance

KINDS = ("sqlite", "mysql", "postgresql")
LIMIT = 7200  # seconds

# In a process of the installation, through all of the web application; only the socket is left out.
PROGRAM = """
import json, time
from datetime import timedelta
from django.contrib.auth.models import Group, User
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from rest_framework.test import APIClient
import exporter_site.wsgi  # as a worker of the web server is prepared
from datasources.models import DataSource
from exporter_site.access.models import ApiKey, Grant
from tests.api import many

def client_of(role, sources):
    user = User.objects.create_user(role, password=None)
    user.groups.add(Group.objects.get(name=role))
    for source in sources:
        Grant.objects.create(user=user, data_source=source)
    client = APIClient(headers={{"host": "localhost"}})
    key = ApiKey.objects.make(user, "benchmark", "read", timezone.now() + timedelta(days=1))[1]
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {{key}}")
    return client

many.make_tasks()
began = time.perf_counter()
many.fill({rows})
filled = time.perf_counter() - began
clients = {{"admin": client_of("admin", []), "viewer": client_of("viewer", DataSource.objects.order_by("id")[:1])}}
results = []
for who, client in clients.items():
    for name, query in many.views({rows}).items():
        path = f"/api/logs?{{query}}"
        for _warm in "123":
            answer = client.get(path)
        with CaptureQueriesContext(connection) as queries:
            client.get(path)
        count = len(queries)  # the next request empties the list
        times = []
        for _round in range({rounds}):
            began = time.perf_counter()
            client.get(path)
            times.append((time.perf_counter() - began) * 1000)
        times.sort()
        results.append({{
            "who": who, "view": name, "query": query, "status": answer.status_code, "queries": count,
            "p50": times[len(times) // 2], "p99": times[min(len(times) - 1, int(len(times) * 0.99))]}})
print(json.dumps({{"filled": filled, "views": results}}))
"""


def run(args: argparse.Namespace) -> None:
    results: list[dict[str, Any]] = []
    for kind in args.system_db:
        results += _measure(kind, args.rows, args.rounds)
    heads = (f"{args.rows:,} executions", "system db", "who", "status", "queries", "p50 ms", "p99 ms")
    report.table(
        heads,
        ((r["view"], r["system_db"], r["who"], str(r["status"]), r["queries"], r["p50"], r["p99"]) for r in results),
    )
    for kind in args.system_db:
        worst = max((r for r in results if r["system_db"] == kind), key=lambda r: r["p99"])
        print(f"slowest on {kind}: {worst['view']} as {worst['who']}, p99 {worst['p99']:.1f} ms")
    report.write(args.json, "logs", {"rows": args.rows, "rounds": args.rounds}, results)


def _measure(kind: str, rows: int, rounds: int) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory(prefix="exporter-benchmarks-") as directory:
        instance = Instance(Path(directory) / "instance", kind)
        try:
            say(f"{kind}: {rows:,} executions")
            limits = {"EXPORTER_WEB__API_REQUESTS_PER_MINUTE": "0"}
            printed = instance.python(PROGRAM.format(rows=rows, rounds=rounds), env=limits, timeout=LIMIT)
            found = json.loads(printed.splitlines()[-1])
            say(f"{kind}: made in {found['filled']:.0f} s")
            return [{"system_db": kind} | view for view in found["views"]]
        finally:
            instance.close()
