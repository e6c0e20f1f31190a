"""How long it takes to look at a long log of executions: each filter, each order, each search, deep pages, for who sees all
and for who sees one source of twenty; on each kind of system database. GET /api/logs, or the admin's list."""

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
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from rest_framework.test import APIClient
import exporter_site.wsgi  # as a worker of the web server is prepared
from datasources.models import DataSource
from exporter_site.access.models import ApiKey, Grant
from tests.api import many

def user_of(role, sources):
    user = User.objects.create_user(role, password=None, is_staff=True)
    user.groups.add(Group.objects.get(name=role))
    for source in sources:
        Grant.objects.create(user=user, data_source=source)
    return user

def api_client(user):
    client = APIClient(headers={{"host": "localhost"}})
    key = ApiKey.objects.make(user, "benchmark", "read", timezone.now() + timedelta(days=1))[1]
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {{key}}")
    return client

def admin_client(user):
    client = Client(headers={{"host": "localhost"}})
    client.force_login(user)
    return client

many.make_tasks()
began = time.perf_counter()
many.fill({rows})
filled = time.perf_counter() - began
users = {{"admin": user_of("admin", []), "viewer": user_of("viewer", DataSource.objects.order_by("id")[:1])}}
results = []
for who, user in users.items():
    client = {client}(user)
    for name, query in many.{views}({rows}).items():
        path = f"{path}?{{query}}"
        for _warm in "123":
            answer = client.get(path)
        with CaptureQueriesContext(connection) as queries:
            client.get(path)
        count = len(queries)  # the next request empties the list
        times, spent = [], time.process_time()
        for _round in range({rounds}):
            began = time.perf_counter()
            client.get(path)
            times.append((time.perf_counter() - began) * 1000)
        spent = (time.process_time() - spent) * 1000 / {rounds}
        times.sort()
        results.append({{
            "who": who, "view": name, "query": query, "status": answer.status_code, "queries": count, "cpu": spent}} | {{
            f"p{{part}}": times[min(len(times) - 1, int(len(times) * part / 100))] for part in (50, 95, 99)}})
print(json.dumps({{"filled": filled, "views": results}}))
"""
API = {"name": "logs", "path": "/api/logs", "views": "views", "client": "api_client"}
ADMIN = {
    "name": "admin-lists",
    "path": "/admin/tasks/execution/",
    "views": "admin_views",
    "client": "admin_client",
}


def run(args: argparse.Namespace) -> None:
    _run(args, API)


def run_admin(args: argparse.Namespace) -> None:
    _run(args, ADMIN)


def _run(args: argparse.Namespace, place: dict[str, str]) -> None:
    results: list[dict[str, Any]] = []
    for kind in args.system_db:
        results += _measure(kind, args.rows, args.rounds, place)
    parts = ("p50", "p95", "p99", "cpu")
    heads = (f"{args.rows:,} executions", "system db", "who", "status", "queries", *(f"{part} ms" for part in parts))
    report.table(
        heads,
        (
            (r["view"], r["system_db"], r["who"], str(r["status"]), r["queries"], *(r[part] for part in parts))
            for r in results
        ),
    )
    for kind in args.system_db:
        worst = max((r for r in results if r["system_db"] == kind), key=lambda r: r["p95"])
        print(f"slowest on {kind}: {worst['view']} as {worst['who']}, p95 {worst['p95']:.1f} ms")
    report.write(args.json, place["name"], {"rows": args.rows, "rounds": args.rounds}, results)


def _measure(kind: str, rows: int, rounds: int, place: dict[str, str]) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory(prefix="exporter-benchmarks-") as directory:
        instance = Instance(Path(directory) / "instance", kind)
        try:
            say(f"{kind}: {rows:,} executions")
            limits = {"EXPORTER_WEB__API_REQUESTS_PER_MINUTE": "0"}
            program = PROGRAM.format(rows=rows, rounds=rounds, **place)
            printed = instance.python(program, env=limits, timeout=LIMIT)
            found = json.loads(printed.splitlines()[-1])
            say(f"{kind}: made in {found['filled']:.0f} s")
            return [{"system_db": kind} | view for view in found["views"]]
        finally:
            instance.close()
