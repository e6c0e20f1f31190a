"""Requests in the same moment, each in a thread with a connection of its own, on the system database of the session."""

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any, cast

import pytest
from django.db import connection
from rest_framework.test import APIClient

from datasources.models import DataSource
from tasks.models import Execution, ExportTask
from tests.api.conftest import client_of
from tests.factories import make_user

pytestmark = pytest.mark.django_db(transaction=True)


def together(count: int, request: Callable[[int], Any]) -> list[Any]:
    """The answers to `count` requests that begin at once."""
    barrier = Barrier(count)

    def one(number: int) -> Any:
        try:
            barrier.wait(30)
            return request(number)
        finally:
            connection.close()

    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(one, range(count)))


@pytest.fixture
def token(shop: DataSource) -> str:
    client = client_of(make_user("editor", role="editor", sources=[shop]))
    # What is noted at the first use of a key is not what these tests are about.
    assert client.get("/api/tasks").status_code == 200
    return str(cast("Any", client)._credentials["HTTP_AUTHORIZATION"])


def program(token: str) -> APIClient:
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=token)
    return client


def test_twenty_requests_with_one_idempotency_key_start_one_run(token: str, orders: ExportTask) -> None:
    answers = together(
        20, lambda number: program(token).post(f"/api/tasks/{orders.pk}/execute", HTTP_IDEMPOTENCY_KEY="k")
    )
    assert Counter(answer.status_code for answer in answers) == {202: 20}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert Execution.objects.count() == 1


def test_twenty_different_wishes_with_one_key_start_one_run(token: str, orders: ExportTask) -> None:
    def send(number: int) -> Any:
        wish = {"params": {"number": number}}
        return program(token).post(f"/api/tasks/{orders.pk}/execute", wish, format="json", HTTP_IDEMPOTENCY_KEY="k")

    answers = together(20, send)
    assert Counter(answer.status_code for answer in answers) == {202: 1, 409: 19}
    assert Execution.objects.count() == 1


def test_of_two_changes_on_the_same_base_one_wins(token: str, orders: ExportTask) -> None:
    for _round in range(5):
        tag = program(token).get(f"/api/tasks/{orders.pk}")["ETag"]

        def change(number: int, tag: str = tag) -> Any:
            words = {"description": f"from {number}"}
            return program(token).patch(f"/api/tasks/{orders.pk}", words, format="json", HTTP_IF_MATCH=tag)

        answers = together(2, change)
        assert Counter(answer.status_code for answer in answers) == {200: 1, 412: 1}
        winner = next(answer for answer in answers if answer.status_code == 200)
        orders.refresh_from_db()
        assert orders.description == winner.json()["description"]


def test_changes_of_different_fields_do_not_undo_each_other(token: str, orders: ExportTask) -> None:
    fields: list[dict[str, Any]] = [{"description": "new"}, {"tags": ["new"]}, {"max_retries": 3}, {"retry_delay": 5}]
    answers = together(4, lambda number: program(token).patch(f"/api/tasks/{orders.pk}", fields[number], format="json"))
    assert Counter(answer.status_code for answer in answers) == {200: 4}
    orders.refresh_from_db()
    assert (orders.description, orders.tags, orders.max_retries, orders.retry_delay) == ("new", ["new"], 3, 5)


def test_of_two_with_the_same_name_one_is_refused_in_words(token: str, shop: DataSource) -> None:
    body = {"name": "twin", "data_source": shop.pk, "sql": "SELECT 1"}
    answers = together(8, lambda number: program(token).post("/api/tasks", body, format="json"))
    found = Counter(answer.status_code for answer in answers)
    assert found[201] == 1
    assert found[400] + found[409] == 7
    assert ExportTask.objects.filter(name="twin").count() == 1


def test_a_task_that_is_deleted_while_others_change_and_run_it(token: str, orders: ExportTask) -> None:
    path = f"/api/tasks/{orders.pk}"

    def one(number: int) -> Any:
        client = program(token)
        if number == 0:
            return client.delete(path)
        if number % 2:
            return client.post(f"{path}/execute")
        return client.patch(path, {"description": str(number)}, format="json")

    answers = together(9, one)
    assert answers[0].status_code == 204
    assert {answer.status_code for answer in answers[1:]} <= {200, 202, 404, 409}


def test_of_many_cancellations_the_run_ends_once(token: str, orders: ExportTask) -> None:
    run = program(token).post(f"/api/tasks/{orders.pk}/execute").json()["id"]
    answers = together(6, lambda number: program(token).post(f"/api/logs/{run}/cancel"))
    assert Counter(answer.status_code for answer in answers) == {202: 1, 409: 5}
