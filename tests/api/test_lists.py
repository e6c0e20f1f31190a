"""Pages, filters and order of the lists."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from rest_framework.test import APIClient

from datasources.models import DataSource
from exporter_site import paging
from notifications.models import Channel
from tasks.models import Execution, ExportTask
from tasks.states import Status, Trigger
from tests.api.conftest import client_of, error_of
from tests.factories import make_execution, make_source, make_task, make_user

pytestmark = pytest.mark.django_db

NOUNS = ("tasks", "data-sources", "channels", "logs")


def make_rows(noun: str, count: int) -> list[Any]:
    """So many rows that /api/<noun> shows."""
    source = make_source()
    if noun == "data-sources":
        return [source, *(make_source() for _number in range(count - 1))]
    if noun == "channels":
        return [Channel.objects.create(name=f"channel {number:03}", kind="email") for number in range(count)]
    tasks = [make_task(data_source=source) for _number in range(count if noun == "tasks" else 1)]
    return tasks if noun == "tasks" else [make_execution(tasks[0]) for _number in range(count)]


def names(answer: Any, field: str = "name") -> list[Any]:
    assert answer.status_code == 200, answer.content
    return [row[field] for row in answer.json()["results"]]


@pytest.mark.parametrize("noun", NOUNS)
def test_pages(admin: APIClient, noun: str) -> None:
    made = {row.pk for row in make_rows(noun, 45)}
    first = admin.get(f"/api/{noun}").json()
    assert set(first) == {"count", "next", "previous", "results"}
    assert (first["count"], first["previous"], len(first["results"])) == (45, None, 20)
    second = admin.get(first["next"]).json()
    third = admin.get(second["next"]).json()
    assert (len(second["results"]), len(third["results"]), third["next"]) == (20, 5, None)
    assert {row["id"] for page in (first, second, third) for row in page["results"]} == made
    assert admin.get(second["previous"]).json()["results"] == first["results"]
    assert error_of(admin.get(f"/api/{noun}?page=4"), 404)["code"] == "no_such_page"
    assert len(admin.get(f"/api/{noun}?page_size=7&page=7").json()["results"]) == 3


@pytest.mark.parametrize("noun", NOUNS)
def test_an_empty_list_has_one_page(admin: APIClient, noun: str) -> None:
    assert admin.get(f"/api/{noun}?page=1").json() == {"count": 0, "next": None, "previous": None, "results": []}
    error_of(admin.get(f"/api/{noun}?page=2"), 404)


def test_a_page_has_at_most_two_hundred(admin: APIClient) -> None:
    make_rows("channels", 201)
    for size in (200, 201, 100_000, 10**30):
        found = admin.get(f"/api/channels?page_size={size}").json()
        assert len(found["results"]) == 200
        assert found["next"]


@pytest.mark.parametrize("noun", NOUNS)
@pytest.mark.parametrize("name", ["page", "page_size"])
@pytest.mark.parametrize("value", ["0", "-1", "x", "1.5", "", "last", "%00", "１", "1%0A"])
def test_a_page_that_is_no_number(admin: APIClient, noun: str, name: str, value: str) -> None:
    assert set(error_of(admin.get(f"/api/{noun}?{name}={value}"), 400)["fields"]) == {name}


@pytest.mark.parametrize("noun", NOUNS)
@pytest.mark.parametrize("page", [2**31, 2**63, 10**30, "9" * 5000])
def test_a_page_far_behind_the_last(admin: APIClient, noun: str, page: object) -> None:
    make_rows(noun, 1)
    error_of(admin.get(f"/api/{noun}?page={page}"), 404)


NUMBERS = ("x", "-1", "1.5", str(2**63), "9" * 400, "9" * 5000, "%00", "1e3", "NaN", "1%002")
YES_NO = ("maybe", "2", "%00", "truefalse")
CHOICES = ("x", "%00", "%ED%A0%80", "x" * 5000)
TEXTS = ("%00", "a%00b", "x" * 201, "%25" * 60_000)
MOMENTS = (
    "yesterday", "%00", "2025-13-01", "2025-02-30", "0001-01-01", "9999-12-31", "1969-12-31", "3000-01-01",
    "2025-08-12T25:00", "x" * 5000, "2025-08-12T09:00+99:00", "99999999999", "１２",
)  # fmt: skip
NONSENSE = [
    *((noun, name, value) for noun, name in (("tasks", "data_source"), ("logs", "task"), ("logs", "data_source")) for value in NUMBERS),
    *((noun, name, value) for noun, name in (("tasks", "enabled"), ("data-sources", "is_active"), ("channels", "is_active")) for value in YES_NO),
    *((noun, name, value) for noun, name in (("tasks", "format"), ("data-sources", "kind"), ("channels", "kind"), ("logs", "status"), ("logs", "trigger")) for value in CHOICES),
    *((noun, name, value) for noun, name in (("tasks", "search"), ("tasks", "owner"), ("data-sources", "search")) for value in TEXTS),
    *(("logs", name, value) for name in ("since", "until") for value in MOMENTS),
    *((noun, "ordering", value) for noun in NOUNS for value in ("x", "-", "password", "task__name", "%00", "id,x", "x" * 5000)),
]  # fmt: skip


@pytest.mark.parametrize(("noun", "name", "value"), NONSENSE, ids=lambda value: value[:20])
def test_nonsense_is_refused_at_its_filter(admin: APIClient, noun: str, name: str, value: str) -> None:
    make_rows(noun, 1)
    found = error_of(admin.get(f"/api/{noun}?{name}={value}"), 400)
    assert set(found["fields"]) == {name}


@pytest.mark.parametrize("noun", NOUNS)
def test_half_a_character_and_unknown_names_do_no_harm(admin: APIClient, noun: str) -> None:
    for query in ("search=%ED%A0%80", "search=%FF%FE", "owner=%ED%A0%80", "unknown=%00", "%00=%00", "&&&=", "a;b"):
        assert admin.get(f"/api/{noun}?{query}").status_code == 200


@pytest.mark.parametrize("noun", NOUNS)
def test_an_empty_filter_is_none(admin: APIClient, noun: str) -> None:
    make_rows(noun, 2)
    query = "&".join(f"{name}=" for its, name, _value in NONSENSE if its == noun)
    assert admin.get(f"/api/{noun}?{query}").json()["count"] == 2


def test_filters_of_tasks(admin: APIClient) -> None:
    owner = make_user("zhang", role="editor")
    one, other = make_source(), make_source()
    make_task(name="每日订单", data_source=one, format="csv", owner=owner)
    make_task(name="Weekly orders", data_source=other, enabled=False)
    every = admin.get("/api/tasks").json()["count"]
    assert every == 2
    for query, expected in {
        "search=订单": ["每日订单"],
        "search=weekly": ["Weekly orders"],
        "search=%25": [],
        "search=_": [],
        f"data_source={one.pk}": ["每日订单"],
        f"data_source={2**63 - 1}": [],
        "owner=zhang": ["每日订单"],
        "owner=nobody": [],
        "format=csv": ["每日订单"],
        "enabled=true": ["每日订单"],
        "enabled=True": ["每日订单"],
        "enabled=0": ["Weekly orders"],
        f"enabled=true&data_source={other.pk}": [],
    }.items():
        assert names(admin.get(f"/api/tasks?{query}")) == expected, query


def test_filters_of_data_sources_and_channels(admin: APIClient) -> None:
    make_source(name="shop")
    make_source(name="仓库", kind="mysql", host="db1", database="stock", is_active=False)
    Channel.objects.create(name="group", kind="dingtalk")
    Channel.objects.create(name="list", kind="email", is_active=False)
    assert names(admin.get("/api/data-sources?kind=mysql")) == ["仓库"]
    assert names(admin.get("/api/data-sources?is_active=true")) == ["shop"]
    assert names(admin.get("/api/data-sources?search=库")) == ["仓库"]
    assert names(admin.get("/api/channels?kind=dingtalk")) == ["group"]
    assert names(admin.get("/api/channels?is_active=false")) == ["list"]


def test_a_task_s_own_channels_are_not_shared_ones(admin: APIClient) -> None:
    task = make_task(email_recipients=["a@example.com"])
    own = Channel.objects.of_task(task, "email")
    assert names(admin.get("/api/channels")) == []
    error_of(admin.get(f"/api/channels/{own.pk}"), 404)


DAY = datetime(2025, 8, 12, 4, tzinfo=UTC)  # noon in Shanghai


def test_filters_of_logs(admin: APIClient) -> None:
    task, other = make_task(), make_task()
    runs = [make_execution(task, planned_at=DAY + timedelta(days=day)) for day in range(3)]
    last = make_execution(other, planned_at=DAY, status=Status.FAILED, trigger=Trigger.API)
    numbers = [run.pk for run in runs]
    for query, expected in {
        f"task={task.pk}": numbers,
        f"data_source={other.data_source_id}": [last.pk],
        "status=failed": [last.pk],
        "status=failed&status=queued": [*numbers, last.pk],
        "trigger=api": [last.pk],
        "since=2025-08-13": numbers[1:],
        "until=2025-08-12": [numbers[0], last.pk],
        "until=20250812": [numbers[0], last.pk],
        "since=2025-08-13T12:00&until=2025-08-13T12:00": [numbers[1]],
        "since=2025-08-13T12:01&until=2025-08-13": [],
        "since=2025-08-14T04:00Z": numbers[2:],
        "since=2025-08-14T12:00%2B08:00": numbers[2:],
        "since=2025-08-14T12:00+08:00": numbers[2:],
        "since=2025-08-14T12:00:01+0800": [],
    }.items():
        assert sorted(names(admin.get(f"/api/logs?{query}"), "id")) == sorted(expected), query


def test_a_span_of_time_comes_in_its_order(admin: APIClient) -> None:
    task = make_task()
    late, early, between = (make_execution(task, planned_at=DAY + timedelta(days=day)).pk for day in (2, 0, 1))
    assert names(admin.get("/api/logs"), "id") == [between, early, late]
    assert names(admin.get("/api/logs?since=2025-08-12"), "id") == [late, between, early]
    assert names(admin.get("/api/logs?until=2025-08-13"), "id") == [between, early]
    assert names(admin.get("/api/logs?since=2025-08-12&ordering=id"), "id") == [late, early, between]


def test_order(admin: APIClient) -> None:
    tasks = [make_task(name=name) for name in ("b", "a", "c")]
    assert names(admin.get("/api/tasks")) == ["a", "b", "c"]
    assert names(admin.get("/api/tasks?ordering=-name")) == ["c", "b", "a"]
    assert names(admin.get("/api/tasks?ordering=id"), "id") == [task.pk for task in tasks]
    assert len(names(admin.get("/api/tasks?ordering=next_run_at,-name"))) == 3
    assert names(admin.get("/api/data-sources?ordering=-id"), "id") == [task.data_source_id for task in reversed(tasks)]


def test_order_of_logs(admin: APIClient) -> None:
    task = make_task()
    hours = (2, 0, 1, 1, 1)
    runs = [make_execution(task, planned_at=DAY + timedelta(hours=hour)).pk for hour in hours]
    assert names(admin.get("/api/logs"), "id") == runs[::-1]
    assert names(admin.get("/api/logs?ordering=id"), "id") == runs
    by_time = [runs[1], runs[2], runs[3], runs[4], runs[0]]
    assert names(admin.get("/api/logs?ordering=scheduled_for"), "id") == by_time
    assert names(admin.get("/api/logs?ordering=-scheduled_for"), "id") == by_time[::-1]
    paged = [names(admin.get(f"/api/logs?ordering=scheduled_for&page_size=2&page={page}"), "id") for page in (1, 2, 3)]
    assert [number for page in paged for number in page] == by_time


def test_a_list_takes_as_many_queries_for_many_rows_as_for_one() -> None:
    source = make_source()
    client = client_of(make_user(role="editor", sources=[source]))
    client.get("/api/tasks")
    counts: dict[str, set[int]] = {}
    for _round in range(3):
        task = make_task(data_source=source, owner=make_user(role="editor"))
        channel = Channel.objects.create(name=f"channel {task.pk}", kind="email")
        task.rules.create(channel=channel)
        make_execution(task)
        for noun in NOUNS:
            with CaptureQueriesContext(
                connection,
            ) as queries:
                assert client.get(f"/api/{noun}").status_code == 200
            counts.setdefault(noun, set()).add(len(queries))
    assert all(len(found) == 1 for found in counts.values()), counts


def test_only_what_is_granted_is_listed_and_found(shop: DataSource, orders: ExportTask) -> None:
    hidden = make_execution()
    client = client_of(make_user(role="editor", sources=[shop]))
    seen = make_execution(orders)
    assert names(client.get("/api/tasks"), "id") == [orders.pk]
    assert names(client.get("/api/data-sources"), "id") == [shop.pk]
    assert names(client.get("/api/logs"), "id") == [seen.pk]
    assert hidden.task is not None
    for path in (f"tasks/{hidden.task_id}", f"data-sources/{hidden.task.data_source_id}", f"logs/{hidden.pk}"):
        error_of(client.get(f"/api/{path}"), 404)
    assert names(client.get(f"/api/logs?task={hidden.task_id}"), "id") == []


def test_a_long_log_says_null_instead_of_counting(admin: APIClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paging, "MOST_COUNTED", 5)
    task = make_task()
    runs = [make_execution(task).pk for _number in range(7)]
    first = admin.get("/api/logs?page_size=4").json()
    assert (first["count"], first["previous"]) == (None, None)
    second = admin.get(first["next"]).json()
    assert (second["count"], second["next"]) == (None, None)
    assert [row["id"] for page in (first, second) for row in page["results"]] == runs[::-1]
    assert error_of(admin.get("/api/logs?page_size=4&page=3"), 404)["code"] == "no_such_page"
    assert admin.get("/api/logs?status=failed").json()["count"] == 0
    Execution.objects.filter(pk__in=runs[:2]).delete()
    assert admin.get("/api/logs").json()["count"] == 5
