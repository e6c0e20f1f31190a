"""Downloads: only through the row of a succeeded run, for those who may; streamed, with the right name, on record."""

import hashlib
import io
import os
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from django.conf import LazySettings
from django.test import Client
from django.urls import reverse

from tasks import files
from tasks.models import Download, Execution
from tasks.states import Status
from tests.factories import make_admin, make_execution, make_user, paths_of

pytestmark = pytest.mark.django_db


XLSX = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"


@pytest.fixture(autouse=True)
def own_directories(settings: LazySettings, tmp_path: Path) -> None:
    export = settings.CONFIG.export.model_copy(update={"output_dir": tmp_path / "exports"})
    settings.CONFIG = settings.CONFIG.model_copy(update={"export": export})


def finished(*names: str, content: bytes = b"", **fields: Any) -> Execution:
    """A succeeded run with these files, each with `content`, or else its own name, in it."""
    execution = make_execution()
    place = files.output_root() / "2026-11" / f"{execution.pk}-1"
    place.mkdir(parents=True)
    parts = []
    for name in names:
        body = content or name.encode()
        (place / name).write_bytes(body)
        path, digest = f"2026-11/{execution.pk}-1/{name}", hashlib.sha256(body).hexdigest()
        parts.append({"path": path, "rows": 1234, "size": len(body), "sha256": digest})
    changes = {"status": Status.SUCCEEDED, "files": parts, "filename": names[0], "rows_count": 1234 * len(names)}
    Execution.objects.filter(pk=execution.pk).update(**changes | fields)
    return Execution.objects.get(pk=execution.pk)


def url_of(execution: Execution) -> str:
    return reverse("tasks:download", args=[execution.pk])


def fetch(client: Client, url: str, method: str = "GET", **headers: str) -> Any:
    """The answer, read to its end; its bytes are `answer.body`."""
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    answer: Any = client.generic(method, url, headers=headers)
    answer.body = b"".join(answer.streaming_content) if answer.streaming else answer.content
    return answer


def content(client: Client, execution: Execution, query: str = "") -> tuple[bytes, str]:
    answer = fetch(client, url_of(execution) + query)
    assert answer.status_code == 200
    return answer.body, answer.headers["Content-Disposition"]


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
    url = url_of(finished("a.xlsx"))
    assert Client().get(url).status_code == 302
    client = Client()
    client.force_login(make_user(is_staff=True))
    assert client.get(url).status_code == 403


def test_a_run_that_did_not_succeed_has_no_file_whatever_lies_on_the_disk(client_of_admin: Client) -> None:
    execution = finished("a.xlsx")
    Execution.objects.filter(pk=execution.pk).update(status=Status.FAILED)
    assert client_of_admin.get(url_of(execution)).status_code == 404


def test_a_file_that_was_removed_is_not_found(client_of_admin: Client) -> None:
    execution = finished("a.xlsx")
    paths_of(execution)[0].unlink()
    assert client_of_admin.get(url_of(execution)).status_code == 404


def test_a_part_that_does_not_exist_is_not_found(client_of_admin: Client) -> None:
    execution = finished("a.xlsx", "b.xlsx")
    for number in ("0", "3", "-1", "x", "²", "9" * 5000):
        assert client_of_admin.get(f"{url_of(execution)}?part={number}").status_code == 404
    assert not Download.objects.exists()


@pytest.mark.parametrize(
    ("name", "format", "content_type"),
    [
        ("a.xlsx", "xlsx", XLSX),
        ("a.csv", "csv", "text/csv"),
        ("a.html", "format of a plug-in that is gone", "application/octet-stream"),
    ],
)
def test_a_file_says_what_it_is_and_is_nobody_elses(
    client_of_admin: Client, name: str, format: str, content_type: str
) -> None:
    execution = finished(name, format=format[:20])
    answer = fetch(client_of_admin, url_of(execution))
    assert answer.headers["Content-Type"] == content_type
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Cache-Control"] == "no-store, private"
    assert answer.headers["ETag"] == f'"{execution.files[0]["sha256"]}"'
    assert (answer.headers["Content-Length"], answer.headers["Accept-Ranges"]) == (str(len(name)), "bytes")
    assert answer.body == name.encode()


@pytest.mark.parametrize(
    ("asked", "status", "body", "content_range"),
    [
        ("bytes=0-3", 206, b"0123", "bytes 0-3/10"),
        ("bytes=4-", 206, b"456789", "bytes 4-9/10"),
        ("bytes=9-9", 206, b"9", "bytes 9-9/10"),
        ("bytes=4-99", 206, b"456789", "bytes 4-9/10"),
        ("bytes=-3", 206, b"789", "bytes 7-9/10"),
        ("bytes=-99", 206, b"0123456789", "bytes 0-9/10"),
        ("Bytes= 0-0 ", 206, b"0", "bytes 0-0/10"),
        ("bytes=10-", 416, b"", "bytes */10"),
        ("bytes=10-20", 416, b"", "bytes */10"),
        ("bytes=-0", 416, b"", "bytes */10"),
        ("bytes=999999999999999999-", 416, b"", "bytes */10"),
        ("bytes=0-1,3-4", 200, b"0123456789", None),
        ("bytes=5-4", 200, b"0123456789", None),
        ("bytes=-", 200, b"0123456789", None),
        ("bytes=a-b", 200, b"0123456789", None),
        ("bytes=٣-", 200, b"0123456789", None),
        ("bytes=" + "9" * 5000 + "-", 200, b"0123456789", None),
        ("rows=0-1", 200, b"0123456789", None),
        ("", 200, b"0123456789", None),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_a_range_is_served_as_rfc_9110_says(
    client_of_admin: Client, asked: str, status: int, body: bytes, content_range: str | None
) -> None:
    answer = fetch(client_of_admin, url_of(finished("a.xlsx", content=b"0123456789")), range=asked)
    assert (answer.status_code, answer.headers.get("Content-Range")) == (status, content_range)
    assert answer.body == body
    assert answer.headers["Content-Length"] == str(len(body))


def test_an_empty_file_has_no_ranges(client_of_admin: Client) -> None:
    execution = finished("a.csv")
    paths_of(execution)[0].write_bytes(b"")
    assert content(client_of_admin, execution)[0] == b""
    for asked in ("bytes=0-", "bytes=-1"):
        answer = fetch(client_of_admin, url_of(execution), range=asked)
        assert (answer.status_code, answer.headers["Content-Range"]) == (416, "bytes */0")


def test_a_range_of_another_file_is_the_whole_file(client_of_admin: Client) -> None:
    execution = finished("a.xlsx", content=b"0123456789")
    etag = fetch(client_of_admin, url_of(execution)).headers["ETag"]
    for condition, status in (
        (etag, 206),
        ('"other"', 200),
        (f"W/{etag}", 200),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 200),
    ):
        answer = fetch(client_of_admin, url_of(execution), range="bytes=5-", if_range=condition)
        assert answer.status_code == status, condition
        assert answer.body == (b"56789" if status == 206 else b"0123456789")


def test_a_file_without_a_checksum_has_no_etag(client_of_admin: Client) -> None:
    execution = finished("a.xlsx", content=b"0123456789")
    execution.files[0]["sha256"] = ""
    execution.save(update_fields=["files"])
    answer = fetch(client_of_admin, url_of(execution), range="bytes=5-")
    assert (answer.status_code, answer.headers.get("ETag")) == (206, None)
    answer = fetch(client_of_admin, url_of(execution), range="bytes=5-", if_range='""')
    assert answer.status_code == 200


def test_a_zip_has_no_ranges(client_of_admin: Client) -> None:
    answer = fetch(client_of_admin, url_of(finished("a.xlsx", "b.xlsx")), range="bytes=5-")
    assert (answer.status_code, answer.headers["Accept-Ranges"]) == (200, "none")
    assert answer.headers["Content-Type"] == "application/zip"
    assert not {"ETag", "Content-Length", "Content-Range"} & set(answer.headers)
    assert answer.body.startswith(b"PK")


def test_asking_only_for_the_head_is_no_download(client_of_admin: Client) -> None:
    one, two = finished("a.xlsx"), finished("a.xlsx", "b.xlsx")
    head = fetch(client_of_admin, url_of(one), "HEAD", range="bytes=2-")
    assert (head.status_code, head.headers["Content-Length"], head.body) == (200, "6", b"")
    assert head.headers["ETag"]
    head = fetch(client_of_admin, url_of(two), "HEAD")
    assert (head.status_code, "Content-Length" in head.headers, head.body) == (200, False, b"")
    assert not Download.objects.exists()


def test_a_big_file_stays_on_the_disk(client_of_admin: Client) -> None:
    execution, size = finished("a.csv"), 64 << 20
    os.truncate(paths_of(execution)[0], size)
    answer: Any = client_of_admin.get(url_of(execution))
    tracemalloc.start()
    assert sum(map(len, answer.streaming_content)) == size
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 << 20


def test_a_download_is_on_record() -> None:
    client, user = Client(REMOTE_ADDR="203.0.113.7"), make_admin("王芳")
    client.force_login(user)
    execution = finished("订单.xlsx")
    headers = {"user-agent": "浏览器" * 100, "x-forwarded-for": "198.51.100.1"}
    fetch(client, url_of(execution), **headers)
    row = Download.objects.get()
    assert (row.execution, row.link, row.user, row.username) == (execution, None, user, "王芳")
    assert (row.task_name, row.filename, row.part, row.bytes) == (execution.task_name, "订单.xlsx", 1, 11)
    assert (row.address, row.user_agent) == ("203.0.113.7", ("浏览器" * 100)[:200])


@pytest.mark.parametrize(
    ("socket", "address"), [("fe80::1%eth0", "fe80::1"), ("", None), ("unix:", None), ("::1", "::1")]
)
def test_an_address_is_recorded_where_there_is_one(socket: str, address: str | None) -> None:
    client = Client(REMOTE_ADDR=socket)
    client.force_login(make_admin())
    fetch(client, url_of(finished("a.xlsx")))
    assert Download.objects.get().address == address


def test_each_part_and_the_zip_are_downloads_of_their_own(client_of_admin: Client) -> None:
    execution = finished("订单.xlsx", "订单_part2.xlsx")
    for query in ("", "?part=2"):
        fetch(client_of_admin, url_of(execution) + query)
    rows = Download.objects.order_by("id").values_list("filename", "part", "bytes")
    assert list(rows) == [("订单.zip", None, None), ("订单_part2.xlsx", 2, 17)]


def test_going_on_with_a_download_is_no_second_one(client_of_admin: Client) -> None:
    execution = finished("a.xlsx", content=b"0123456789")
    for asked in ("bytes=0-3", "bytes=4-7", "bytes=8-", "bytes=-1", "bytes=99-"):
        fetch(client_of_admin, url_of(execution), range=asked)
    assert Download.objects.get().bytes == 4


def test_a_file_without_its_first_byte_is_a_download(client_of_admin: Client) -> None:
    """Who never began has nothing to go on with: leaving out a byte keeps nobody off the record."""
    execution = finished("a.xlsx", content=b"0123456789")
    fetch(client_of_admin, url_of(execution), range="bytes=1-")
    assert Download.objects.get().bytes == 9
    other = Client(REMOTE_ADDR="203.0.113.7")
    other.force_login(make_admin())
    fetch(other, url_of(execution), range="bytes=1-")
    assert Download.objects.count() == 2


def test_the_record_outlives_run_and_user() -> None:
    client, user = Client(), make_admin("王芳")
    client.force_login(user)
    execution = finished("a.xlsx")
    fetch(client, url_of(execution))
    execution.delete()
    user.delete()
    row = Download.objects.get()
    assert (row.execution, row.user) == (None, None)
    assert (row.task_name, row.filename, row.username) == (execution.task_name, "a.xlsx", "王芳")
