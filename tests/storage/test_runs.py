"""Runs whose files go into a bucket: in this process, with a real store that fails, hangs or loses its run."""

import base64
import hashlib
import logging
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

import pytest
from django.conf import LazySettings
from django.core.checks import run_checks
from django.test import Client
from django.urls import reverse
from django.utils.translation import override

from notifications.models import Delivery
from tasks import files, runner, storage
from tasks.doctor import CHECKS, Finding, examine
from tasks.execution_page import RunPage
from tasks.housekeeping import Removed, housework
from tasks.models import Download, DownloadLink, Execution, ExportTask
from tasks.reasons import REASONS
from tasks.scheduler import close_lost
from tasks.states import Status, Trigger
from tasks.storage.base import QUARANTINE, Storage, StorageError
from tasks.storage.s3 import ObjectStorage
from tasks.supervisor import Progress
from tests.factories import make_admin, make_source, make_sqlite_file, make_task
from tests.notifications.runs import A, deliver
from tests.servers import free_port
from tests.servers.mail import MailServer, read
from tests.servers.mail import configure as configure_mail
from tests.servers.objects import Objects
from tests.servers.proxy import Proxy
from tests.storage.conftest import configure
from tests.tasks.test_runtask import eventually

pytestmark = pytest.mark.django_db

BIG = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000) SELECT i, hex(randomblob(600)) FROM n"


@pytest.fixture
def task(tmp_path: Path) -> ExportTask:
    source = make_source(database=str(make_sqlite_file(tmp_path / "shop.db")))
    sql = "SELECT id, customer FROM orders ORDER BY id"
    return make_task(name="每日订单", data_source=source, sql=sql, format="csv", filename_template="每日订单 #1")


def claimed(task: ExportTask, **fields: Any) -> Execution:
    queued = Execution.objects.enqueue(task, trigger=Trigger.MANUAL, **fields)
    execution = Execution.objects.claim(queued.pk, worker="test:1")
    assert execution is not None
    return execution


def run(task: ExportTask) -> Execution:
    return runner.run(claimed(task))


def everything(objects: Objects, bucket: str) -> list[str]:
    """What the bucket holds: files, and uploads that were begun."""
    return objects.keys(bucket) + objects.unfinished(bucket)


def clean(days: int | None = None) -> Removed:
    removed = Removed()
    for _piece in housework(days, removed=removed):
        pass
    return removed


def fetch(client: Client, url: str, method: str = "GET", **headers: str) -> Any:
    answer: Any = client.generic(method, url, headers=headers)
    answer.body = b"".join(answer.streaming_content) if answer.streaming else answer.content
    return answer


@pytest.fixture
def admin() -> Client:
    client = Client()
    client.force_login(make_admin())
    return client


def test_the_row_says_where_its_files_are(task: ExportTask, objects: Objects, in_bucket: str) -> None:
    execution = run(task)
    assert (execution.status, execution.reason, execution.rows_count) == (Status.SUCCEEDED, "", 3)
    (part,) = execution.files
    month = execution.planned_at.strftime("%Y-%m")
    assert part["path"] == f"{month}/{execution.pk}-1/每日订单 #1.csv"
    assert part["storage"] == "s3"
    assert objects.keys(in_bucket) == [f"reports/{part['path']}"]
    content = objects.content(in_bucket, f"reports/{part['path']}")
    assert (len(content), hashlib.sha256(content).hexdigest()) == (part["size"], part["sha256"])
    assert not files.output_root().exists()
    assert not list(files.temp_root().iterdir())


def test_files_stay_readable_where_they_were_put(
    task: ExportTask, objects: Objects, bucket: str, settings: LazySettings, admin: Client
) -> None:
    """Whatever is configured for new ones."""
    older = run(task)
    configure(settings, **objects.settings(bucket))
    newer = run(task)
    configure(settings, storage="local")
    assert [("storage" in row.files[0]) for row in (older, newer)] == [False, True]
    for execution in (older, newer):
        answer = fetch(admin, reverse("tasks:download", args=[execution.pk]))
        assert answer.status_code == 200
        assert hashlib.sha256(answer.body).hexdigest() == execution.sha256


def test_the_page_of_a_run_says_how_far_its_upload_is(task: ExportTask) -> None:
    execution = claimed(task)
    execution.progress = {"rows": 3, "rate": 1, "bytes": 2048, "uploaded": 1024}
    with override("en"):
        assert RunPage(execution, make_admin()).phase == "The file goes into the object storage: 1.0KB of 2.0KB."


class TestDownloads:
    @pytest.mark.parametrize(
        ("asked", "status", "piece"), [("", 200, slice(None)), ("bytes=4-9", 206, slice(4, 10)), ("bytes=-3", 206, slice(-3, None))]
    )  # fmt: skip
    def test_a_range_comes_through_us(
        self, task: ExportTask, objects: Objects, in_bucket: str, admin: Client, asked: str, status: int, piece: slice
    ) -> None:
        execution = run(task)
        content = objects.content(in_bucket, objects.keys(in_bucket)[0])
        answer = fetch(admin, reverse("tasks:download", args=[execution.pk]), range=asked)
        assert (answer.status_code, answer.body) == (status, content[piece])
        assert answer.headers["Content-Length"] == str(len(content[piece]))
        assert answer.headers["ETag"] == f'"{execution.sha256}"'
        assert "#1.csv" in answer.headers["Content-Disposition"] or "%231.csv" in answer.headers["Content-Disposition"]
        assert Download.objects.get().bytes == len(content[piece])

    def test_a_head_asks_for_no_content(
        self, task: ExportTask, in_bucket: str, admin: Client, settings: LazySettings
    ) -> None:
        execution = run(task)
        url = reverse("tasks:download", args=[execution.pk])
        for redirects in (False, True):
            configure(settings, s3_redirect=redirects)
            answer = fetch(admin, url, "HEAD")
            assert (answer.status_code, answer.body) == (200, b"")
            assert answer.headers["Content-Length"] == str(execution.file_size)
        assert not Download.objects.exists()

    def test_a_file_that_is_gone_from_the_bucket_is_not_found(
        self, task: ExportTask, objects: Objects, in_bucket: str, admin: Client
    ) -> None:
        execution = run(task)
        link = DownloadLink.objects.make(execution)
        objects.client.delete_object(Bucket=in_bucket, Key=objects.keys(in_bucket)[0])
        assert fetch(admin, reverse("tasks:download", args=[execution.pk])).status_code == 404
        for path in (link.path, f"{link.path}/file"):
            assert fetch(Client(), path).status_code == 404

    def test_a_store_that_is_away_is_said_to_be(
        self, task: ExportTask, in_bucket: str, admin: Client, settings: LazySettings, caplog: pytest.LogCaptureFixture
    ) -> None:
        execution = run(task)
        link = DownloadLink.objects.make(execution)
        configure(settings, s3_endpoint=f"http://127.0.0.1:{free_port()}")
        for client, path in (
            (admin, reverse("tasks:download", args=[execution.pk])),
            (Client(), link.path),
            (Client(), f"{link.path}/file"),
        ):
            answer = fetch(client, path)
            assert (answer.status_code, answer.headers["Retry-After"]) == (503, "60")
            assert answer.headers["Cache-Control"] == "no-store, private"
            assert in_bucket not in answer.body.decode()
        answer = fetch(admin, f"/api/logs/{execution.pk}/download")
        assert (answer.status_code, answer.json()["code"]) == (503, "storage_unavailable")
        # The pages about it do not ask, and still work.
        assert fetch(admin, reverse("admin:tasks_execution_change", args=[execution.pk])).status_code == 200
        assert not Download.objects.exists()
        assert f"The bucket {in_bucket}" in caplog.text or in_bucket in caplog.text

    def test_a_program_is_never_sent_on(
        self, task: ExportTask, in_bucket: str, admin: Client, settings: LazySettings
    ) -> None:
        execution = run(task)
        configure(settings, s3_redirect=True)
        answer = fetch(admin, f"/api/logs/{execution.pk}/download")
        assert (answer.status_code, hashlib.sha256(answer.body).hexdigest()) == (200, execution.sha256)


@contextmanager
def answering(*answers: tuple[int, bytes], seen: list[Message] | None = None) -> Iterator[str]:
    """The address of a store that gives these answers, one after the other; the last one holds. The headers of requests
    go into `seen`."""
    left = list(answers)

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            if seen is not None:
                seen.append(self.headers)
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, body = left.pop(0) if len(left) > 1 else left[0]
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = answer

        def log_message(self, format: str, *args: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


DENIED = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>slow down</Message></Error>"
SKEWED = b"<Error><Code>RequestTimeTooSkewed</Code><Message>too large</Message></Error>"


class TestFailures:
    @pytest.fixture(autouse=True)
    def _english(self) -> Iterator[None]:
        with override("en"):
            yield

    @pytest.mark.parametrize(
        ("status", "body", "words"),
        [
            (0, b"", "Could not connect"),
            (503, SLOW_DOWN, "SlowDown: slow down"),
            (403, DENIED, "Let this account put, get, list and delete"),
            (403, SKEWED, "NTP"),
        ],
        ids=["refused", "503", "denied", "skewed"],
    )
    def test_it_is_tried_again_and_then_failed(
        self, task: ExportTask, in_bucket: str, settings: LazySettings, status: int, body: bytes, words: str
    ) -> None:
        task.max_retries = 1
        task.save()
        with answering((status, body)) if status else _nobody() as endpoint:
            configure(settings, s3_endpoint=endpoint)
            execution = run(task)
            assert (execution.status, execution.reason, execution.retries) == (Status.QUEUED, "storage_unavailable", 1)
            Execution.objects.update(not_before=None)
            again = Execution.objects.claim(execution.pk, worker="test:1")
            assert again is not None
            execution = runner.run(again)
        assert (execution.status, execution.reason) == (Status.FAILED, "storage_unavailable")
        assert in_bucket in execution.error
        assert words in execution.error
        assert str(REASONS[execution.reason].remedy)
        assert "system doctor object_storage" in str(execution.reason_remedy)
        assert not list(files.temp_root().iterdir())

    def test_a_bad_answer_in_between_is_no_failure(
        self, task: ExportTask, in_bucket: str, settings: LazySettings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("tasks.storage.s3.TRIES", 3)
        with answering((503, SLOW_DOWN), (200, b"")) as endpoint:
            configure(settings, s3_endpoint=endpoint)
            assert run(task).status == Status.SUCCEEDED

    def test_one_that_is_slow_does_not_hold_up_who_cancels(
        self, task: ExportTask, objects: Objects, in_bucket: str, settings: LazySettings
    ) -> None:
        task.sql = BIG
        task.save()
        execution = claimed(task)
        uploaded: list[int] = []

        def cancel(progress: Progress) -> None:
            stored = Execution.objects.get(pk=execution.pk).progress
            if "uploaded" in stored:
                uploaded.append(stored["uploaded"])
                Execution.objects.request_cancel(execution.pk)

        # At 32 kilobytes a second this file would take a quarter of an hour.
        with Proxy("127.0.0.1", objects.port, pause=0.5) as proxy:
            configure(settings, s3_endpoint=f"http://127.0.0.1:{proxy.port}")
            ended = runner.run(execution, cancel)
        assert (ended.status, ended.reason) == (Status.CANCELLED, "cancelled")
        assert uploaded
        assert eventually(lambda: everything(objects, in_bucket) == [])

    def test_a_cancelled_upload_leaves_nothing_in_the_bucket(
        self, task: ExportTask, objects: Objects, in_bucket: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """In the midst of a file of several parts."""
        task.sql = BIG
        task.save()
        execution = claimed(task)
        begun = threading.Event()
        client = storage.get(storage.S3)._client  # type: ignore[attr-defined]
        upload_part = client.upload_part

        def slowly(**params: Any) -> Any:
            if params["PartNumber"] == 2:
                begun.set()
                while params["Body"].read(1024):
                    pass
                params["Body"].seek(0)
                threading.Event().wait(0.05)
                return slowly(**params)
            return upload_part(**params)

        monkeypatch.setattr(client, "upload_part", slowly)

        def cancel(progress: Progress) -> None:
            if begun.is_set():
                Execution.objects.request_cancel(execution.pk)

        ended = runner.run(execution, cancel)
        assert begun.is_set()
        assert (ended.status, ended.reason) == (Status.CANCELLED, "cancelled")
        assert everything(objects, in_bucket) == []

    def test_a_worker_that_lost_its_run_while_it_uploaded_leaves_nothing(
        self, task: ExportTask, objects: Objects, in_bucket: str, settings: LazySettings
    ) -> None:
        task.sql = BIG
        task.save()
        execution = claimed(task)

        def take_over(progress: Progress) -> None:
            if "uploaded" in Execution.objects.get(pk=execution.pk).progress:
                Execution.objects.filter(pk=execution.pk).update(attempt=2, worker="other:2")

        with Proxy("127.0.0.1", objects.port, pause=0.5) as proxy:
            configure(settings, s3_endpoint=f"http://127.0.0.1:{proxy.port}")
            ended = runner.run(execution, take_over)
        assert (ended.status, ended.attempt) == (Status.RUNNING, 2)
        assert eventually(lambda: everything(objects, in_bucket) == [])

    def test_a_run_that_lost_its_place_at_the_very_end_removes_its_keys_and_no_others(
        self, task: ExportTask, objects: Objects, in_bucket: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        execution = claimed(task)
        publish = ObjectStorage.publish

        def publish_too_late(self: Storage, directory: Path, *args: Any) -> str:
            place = publish(self, directory, *args)  # type: ignore[arg-type]
            successor = directory.with_name(f"{execution.pk}-2")
            successor.mkdir()
            (successor / "a.csv").write_text("of the one that took over")
            publish(self, successor, *args)  # type: ignore[arg-type]
            taken_over.set()
            return place

        taken_over = threading.Event()
        finish = type(Execution.objects.all()).finish

        def finish_too_late(self: Any, *args: Any, **fields: Any) -> bool:
            assert taken_over.is_set()
            Execution.objects.filter(pk=execution.pk).update(attempt=2)
            return finish(self, *args, **fields)

        monkeypatch.setattr(ObjectStorage, "publish", publish_too_late)
        monkeypatch.setattr("tasks.states.ExecutionQuerySet.finish", finish_too_late)
        assert runner.run(execution).status == Status.RUNNING
        assert [key.split("/")[2] for key in objects.keys(in_bucket)] == [f"{execution.pk}-2"]

    def test_what_a_dead_worker_has_uploaded_is_swept(self, task: ExportTask, objects: Objects, in_bucket: str) -> None:
        execution = claimed(task)
        directory = files.temp_root() / f"{execution.pk}-1"
        directory.mkdir(parents=True)
        (directory / "a.csv").write_text("x")
        storage.current().publish(directory, execution.planned_at, lambda arrived: None)
        objects.client.create_multipart_upload(
            Bucket=in_bucket, Key=f"reports/{execution.planned_at:%Y-%m}/{execution.pk}-1/b.csv"
        )
        assert len(everything(objects, in_bucket)) == 2
        assert close_lost(execution)
        assert everything(objects, in_bucket) == []

    def test_a_store_that_is_away_keeps_no_lost_run_from_being_closed(
        self, task: ExportTask, in_bucket: str, settings: LazySettings, caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        execution = claimed(task)
        configure(settings, s3_endpoint=f"http://127.0.0.1:{free_port()}")
        assert close_lost(execution)
        execution.refresh_from_db()
        assert (execution.status, execution.reason) == (Status.FAILED, "worker_lost")
        assert "what it left could not be removed" in caplog.text
        # The next ones do not wait for it.
        monkeypatch.setattr(storage, "in_use", lambda: pytest.fail("it was asked again"))
        storage.sweep(execution.pk, [1], execution.planned_at)

    def test_no_packages_are_a_failure_in_words(
        self, task: ExportTask, in_bucket: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def missing(kind: str) -> type[Storage]:
            raise ModuleNotFoundError("No module named 'storages'")

        monkeypatch.setattr(storage.stores, "get", missing)
        execution = run(task)
        assert (execution.status, execution.reason) == (Status.FAILED, "storage_unavailable")
        assert "pip install -r requirements-s3.txt" in execution.error


@contextmanager
def _nobody() -> Iterator[str]:
    with socket.socket() as place:  # bound, and nobody listens
        place.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{place.getsockname()[1]}"


def test_only_what_every_such_store_understands_is_sent(
    task: ExportTask, in_bucket: str, settings: LazySettings
) -> None:
    """OSS and older stores refuse the checksums that boto3 would add by itself, and a length that is not known."""
    headers: list[Message] = []
    with answering((200, b""), seen=headers) as endpoint:
        configure(settings, s3_endpoint=endpoint)
        execution = run(task)
    assert execution.status == Status.SUCCEEDED
    (sent,) = headers
    assert sent["Content-Length"] == str(execution.file_size)
    assert len(base64.b64decode(sent["Content-MD5"])) == 16
    assert [name for name in sent if "checksum" in name.lower() or name.lower() == "transfer-encoding"] == []
    assert "aws-chunked" not in str(sent)


def test_the_address_of_a_bucket_is_as_its_store_wants_it(settings: LazySettings) -> None:
    oss = {
        "s3_bucket": "example",
        "s3_endpoint": "https://oss-cn-hangzhou.aliyuncs.com",
        "s3_region": "cn-hangzhou",
        "s3_access_key": "LTAI",
        "s3_secret_key": "not-to-be-seen",
        "s3_prefix": "/exports/a/",
        "s3_redirect": True,
    }
    configure(settings, storage="s3", **oss)
    for addressing, host in (
        ("virtual", "example.oss-cn-hangzhou.aliyuncs.com"),
        ("path", "oss-cn-hangzhou.aliyuncs.com"),
    ):
        configure(settings, s3_addressing=addressing)
        address = urlsplit(storage.current().address("2025-08/7-1/日报 1.xlsx", "日报 1.xlsx", "text/csv"))
        bucket = "" if addressing == "virtual" else "/example"
        assert (address.scheme, address.netloc) == ("https", host)
        assert unquote(address.path) == f"{bucket}/exports/a/2025-08/7-1/日报 1.xlsx"
        query = parse_qs(address.query)
        assert query["X-Amz-Expires"] == ["60"]
        assert "/cn-hangzhou/s3/aws4_request" in query["X-Amz-Credential"][0]
        assert quote("日报 1.xlsx") in query["response-content-disposition"][0]
        assert "not-to-be-seen" not in address.query
    configure(settings, s3_redirect=False)
    assert storage.current().address("2025-08/7-1/a.xlsx", "a.xlsx", "text/csv") == ""


class TestHousekeeping:
    def test_files_go_after_their_time(self, task: ExportTask, objects: Objects, in_bucket: str) -> None:
        old, young = run(task), run(task)
        Execution.objects.filter(pk=old.pk).update(finished_at="2025-01-01T00:00:00Z")
        removed = clean(400_000)
        assert (removed.files, len(objects.keys(in_bucket))) == (0, 2)
        removed = clean(1)
        assert (removed.files, removed.bytes) == (1, old.file_size)
        assert objects.keys(in_bucket) == [f"reports/{young.files[0]['path']}"]

    def test_what_no_row_knows_is_set_aside_and_removed_a_week_later(
        self, task: ExportTask, objects: Objects, in_bucket: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        kept, lost, running = run(task), run(task), run(task)
        Execution.objects.filter(pk=running.pk).update(status=Status.RUNNING)
        objects.client.put_object(Bucket=in_bucket, Key="reports/notes/readme.txt", Body=b"somebody else's")
        Execution.objects.filter(pk=lost.pk).delete()
        assert clean() == Removed()  # an hour is not over
        monkeypatch.setattr("tasks.housekeeping.YOUNG", -60.0)
        assert clean().orphans == 1
        aside = f"reports/{QUARANTINE}/{lost.pk}-1/每日订单 #1.csv"
        others = [f"reports/{row.files[0]['path']}" for row in (kept, running)]
        assert sorted(objects.keys(in_bucket)) == sorted([aside, "reports/notes/readme.txt", *others])
        monkeypatch.setattr("tasks.housekeeping.QUARANTINED_FOR", -60.0)
        assert clean().discarded == 1
        assert sorted(objects.keys(in_bucket)) == sorted(["reports/notes/readme.txt", *others])

    def test_a_store_that_is_away_keeps_the_rest_from_nothing(
        self, task: ExportTask, in_bucket: str, settings: LazySettings
    ) -> None:
        execution = run(task)
        Execution.objects.filter(pk=execution.pk).update(status=Status.FAILED, finished_at="2025-01-01T00:00:00Z")
        configure(settings, s3_endpoint=f"http://127.0.0.1:{free_port()}")
        with pytest.raises(StorageError):
            clean()
        assert not Execution.objects.exists()


class TestMessages:
    def test_a_mail_has_the_file_with_it(
        self, task: ExportTask, objects: Objects, in_bucket: str, settings: LazySettings
    ) -> None:
        task.email_recipients = [A]
        task.save()
        with MailServer() as server:
            configure_mail(settings, server)
            execution = run(task)
            assert deliver() == 1
            (mail,) = server.log.mails
            assert read(mail)[1] == ["每日订单 #1.csv"]
        assert execution.status == Status.SUCCEEDED
        assert not list(files.temp_root().iterdir())

    def test_one_whose_file_can_not_be_had_now_waits_for_it(
        self, task: ExportTask, objects: Objects, in_bucket: str, settings: LazySettings
    ) -> None:
        task.email_recipients = [A]
        task.save()
        with MailServer() as server:
            configure_mail(settings, server)
            run(task)
            configure(settings, s3_endpoint=f"http://127.0.0.1:{free_port()}")
            deliver_once()
            row = Delivery.objects.get()
            assert (row.status, row.reason) == ("retry", "file_unavailable")
            assert not server.log.mails
            configure(settings, s3_endpoint=objects.endpoint)
            deliver()
            assert read(server.log.mails[0])[1] == ["每日订单 #1.csv"]


def deliver_once() -> None:
    from notifications.outbox import Outbox

    Outbox(threads=0).deliver()


class TestChecks:
    @pytest.fixture(autouse=True)
    def _english(self) -> Iterator[None]:
        with override("en"):
            yield

    def ids(self) -> list[str]:
        return [
            str(found.id) for found in run_checks() if found.id in ("exporter.E010", "exporter.E011", "exporter.E012")
        ]

    def look(self, name: str) -> list[Finding]:
        return list(examine([each for each in CHECKS if each.name == name]))

    def test_settings_that_are_missing_are_found_before_a_run(
        self, settings: LazySettings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert self.ids() == []
        configure(settings, storage="s3")
        assert self.ids() == ["exporter.E011"]
        configure(settings, s3_bucket="b", s3_access_key="a")
        assert self.ids() == ["exporter.E012"]
        configure(settings, s3_secret_key="b")
        assert self.ids() == []
        monkeypatch.setattr("exporter_site.checks.find_spec", lambda name: None)
        assert self.ids() == ["exporter.E010"]

    def test_the_doctor_tries_the_bucket(self, objects: Objects, bucket: str, settings: LazySettings) -> None:
        assert [str(found.level) for found in self.look("object_storage")] == ["ok"]
        configure(settings, **objects.settings(bucket))
        (found,) = self.look("object_storage")
        assert (found.level, bucket in found.sentence) == ("ok", True)
        assert objects.keys(bucket) == []
        objects.client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
        assert [str(found.level) for found in self.look("object_storage")] == ["warning", "ok"]
        configure(settings, s3_bucket="no-such-bucket")
        (found,) = self.look("object_storage")
        assert (found.level, "NoSuchBucket" in found.sentence) == ("failed", True)
        assert "export.s3_bucket" in found.sentence
        assert found.remedy

    @pytest.mark.django_db(transaction=True)  # it looks from a thread of its own
    def test_the_doctor_finds_files_that_are_gone(self, task: ExportTask, objects: Objects, in_bucket: str) -> None:
        execution = run(task)
        assert [str(found.level) for found in self.look("kept_files")] == ["ok"]
        objects.client.delete_object(Bucket=in_bucket, Key=f"reports/{execution.files[0]['path']}")
        (found,) = self.look("kept_files")
        assert (found.level, f"s3://{in_bucket}/reports/" in found.sentence) == ("failed", True)
        assert "rule of the bucket" in found.remedy


def test_the_secret_is_in_no_error_and_no_log(
    task: ExportTask, objects: Objects, in_bucket: str, settings: LazySettings, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with answering((403, DENIED)) as endpoint:
        configure(settings, s3_endpoint=endpoint)
        execution = run(task)
    assert execution.reason == "storage_unavailable"
    for text in (execution.error, caplog.text, str(Execution.objects.values_list())):
        assert objects.account.password not in text
