"""Downloads: only through the row of a succeeded run, only for those who may, streamed with the right name."""

import io
import zipfile
from pathlib import Path
from urllib.parse import quote

import pytest
from django.conf import LazySettings
from django.test import Client
from django.urls import reverse

from tasks import files
from tasks.models import Execution
from tasks.states import Status
from tests.factories import make_admin, make_execution, make_user

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _own_directories(settings: LazySettings, tmp_path: Path) -> None:
    export = settings.CONFIG.export.model_copy(update={"output_dir": tmp_path / "exports"})
    settings.CONFIG = settings.CONFIG.model_copy(update={"export": export})


def finished(*names: str) -> Execution:
    """A succeeded run with these files, each with its own name as content."""
    execution = make_execution()
    place = files.output_root() / "2026-11" / f"{execution.pk}-1"
    place.mkdir(parents=True)
    parts = []
    for name in names:
        (place / name).write_text(name)
        parts.append({"path": f"2026-11/{execution.pk}-1/{name}", "rows": 1, "size": len(name), "sha256": ""})
    Execution.objects.filter(pk=execution.pk).update(status=Status.SUCCEEDED, files=parts, filename=names[0])
    return Execution.objects.get(pk=execution.pk)


def content(client: Client, execution: Execution, query: str = "") -> tuple[bytes, str]:
    answer = client.get(reverse("tasks:download", args=[execution.pk]) + query)
    assert answer.status_code == 200
    body = b"".join(answer.streaming_content)  # type: ignore[attr-defined]
    return body, answer.headers["Content-Disposition"]


@pytest.fixture
def client_of_admin() -> Client:
    client = Client()
    client.force_login(make_admin())
    return client


def test_a_file_comes_with_its_chinese_name(client_of_admin: Client) -> None:
    body, disposition = content(client_of_admin, finished("每日订单_20250812.xlsx"))
    assert body == "每日订单_20250812.xlsx".encode()
    assert disposition == f"attachment; filename*=utf-8''{quote('每日订单_20250812.xlsx')}"


def test_parts_come_as_one_zip_or_one_by_one(client_of_admin: Client) -> None:
    execution = finished("订单.xlsx", "订单_part2.xlsx")
    body, disposition = content(client_of_admin, execution)
    with zipfile.ZipFile(io.BytesIO(body)) as archive:
        assert archive.testzip() is None
        assert {name: archive.read(name).decode() for name in archive.namelist()} == {
            "订单.xlsx": "订单.xlsx",
            "订单_part2.xlsx": "订单_part2.xlsx",
        }
    assert quote("订单.zip") in disposition
    assert content(client_of_admin, execution, "?part=2")[0] == "订单_part2.xlsx".encode()


def test_nobody_without_a_login_or_the_right_gets_a_file() -> None:
    url = reverse("tasks:download", args=[finished("a.xlsx").pk])
    assert Client().get(url).status_code == 302
    client = Client()
    client.force_login(make_user(is_staff=True))
    assert client.get(url).status_code == 403


def test_a_run_that_did_not_succeed_has_no_file_whatever_lies_on_the_disk(client_of_admin: Client) -> None:
    execution = finished("a.xlsx")
    Execution.objects.filter(pk=execution.pk).update(status=Status.FAILED)
    assert client_of_admin.get(reverse("tasks:download", args=[execution.pk])).status_code == 404


def test_a_file_that_was_removed_is_not_found(client_of_admin: Client) -> None:
    execution = finished("a.xlsx")
    execution.paths()[0].unlink()
    assert client_of_admin.get(reverse("tasks:download", args=[execution.pk])).status_code == 404
