"""What a person has: a browser with the rights of an administrator, in Chinese; commands; and a system that they look after."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from django.conf import LazySettings
from django.test import Client
from django.urls import reverse
from pydantic import SecretStr

from datasources.models import DataSource
from exporter_site.config import Notifications
from notifications.models import Channel, Delivery
from tasks import files, storage
from tasks.executors.inline import InlineExecutor
from tasks.models import Execution, ExportTask
from tasks.storage import s3
from tests.factories import make_admin, make_scheduler, make_source, make_sqlite_file, make_task
from tests.notifications.runs import deliver
from tests.servers import PrivateServer
from tests.servers.mail import MailServer
from tests.servers.mail import configure as configure_mail
from tests.servers.mariadb import MariaDB
from tests.servers.objects import Objects
from tests.servers.postgresql import PostgreSQL
from tests.servers.robots import Robots
from tests.site.pages import texts_of
from tests.symptoms.table import Row

DIALOG = {"_form_submitted": "True"}
_NOUNS: dict[type[Any], str] = {DataSource: "data-sources", ExportTask: "tasks", Channel: "channels"}


class Room:
    """`directory`: where the exports of the test lie, and whatever else it makes."""

    def __init__(
        self, request: pytest.FixtureRequest, settings: LazySettings, patch: pytest.MonkeyPatch, directory: Path
    ) -> None:
        self.settings, self.patch, self.directory = settings, patch, directory
        self._request = request
        self.user = make_admin()
        self.browser = Client(headers={"accept-language": "zh-hans"}, raise_request_exception=False)
        self.browser.force_login(self.user)

    # What there is

    @property
    def mariadb(self) -> MariaDB:
        server: MariaDB = self._request.getfixturevalue("mariadb")
        return server

    @property
    def postgresql(self) -> PostgreSQL:
        server: PostgreSQL = self._request.getfixturevalue("postgresql")
        return server

    def configure(self, section: str, **values: Any) -> None:
        """What config.yaml says from now on, as after a restart."""
        changed = getattr(self.settings.CONFIG, section).model_copy(update=values)
        self.settings.CONFIG = self.settings.CONFIG.model_copy(update={section: changed})

    def keep_in_a_bucket(self) -> str:
        """New files go to an object storage; its address."""
        objects: Objects = self._request.getfixturevalue("objects")
        self.patch.setattr(storage, "_away_since", float("-inf"))  # of the store of another test
        self.patch.setattr(s3, "TRIES", 1)  # nobody waits between two
        values = objects.settings(objects.new_bucket())
        self.configure("export", **values | {"s3_secret_key": SecretStr(values["s3_secret_key"])})
        return objects.endpoint

    def small_disk(self, size: int) -> None:
        """From now on the exports lie on a disk of `size` bytes, and nothing else does."""

        def free() -> int:
            return size - sum(path.stat().st_size for path in files.output_root().rglob("*") if path.is_file())

        self.patch.setattr(files, "free_bytes", free)

    def shop(self) -> DataSource:
        """An SQLite shop with three orders."""
        file = self.directory / "shop.db"
        return make_source(database=str(file if file.exists() else make_sqlite_file(file)))

    def export(self, source: DataSource | None = None, sql: str = "SELECT 1 AS one", **fields: Any) -> ExportTask:
        return make_task(**{"data_source": source or self.shop(), "sql": sql, "format": "csv", **fields})

    @contextmanager
    def robots(self, *tls_names: str) -> Iterator[Robots]:
        """Robots on this machine, which messages may go to."""
        with Robots(*tls_names) as server:
            self.settings.CONFIG = self.settings.CONFIG.model_copy(
                update={"notifications": Notifications(private_hosts=[server.place])}
            )
            yield server

    @contextmanager
    def mail_server(self, *, settings: dict[str, Any] | None = None, **options: Any) -> Iterator[MailServer]:
        """The mail server of config.yaml; `settings` are of the section email."""
        with MailServer(**options) as server:
            configure_mail(self.settings, server, **settings or {})
            yield server

    def channel(self, kind: str, **settings: Any) -> Channel:
        """A shared channel with these settings, right or wrong."""
        channel = Channel(name=f"渠道 {Channel.objects.count()}", kind=kind)
        channel.set_settings(settings)
        channel.save()
        return channel

    # What is seen

    def html(self, path: str) -> str:
        answer = self.browser.get(path)
        assert answer.status_code == 200, path
        return answer.content.decode()

    def read(self, path: str) -> list[str]:
        """What the page at `path` says, text by text."""
        return texts_of(self.html(path))

    def read_run(self, execution: Execution) -> list[str]:
        return self.read(page_of(execution))

    def read_task(self, task: ExportTask) -> list[str]:
        return self.read(reverse("admin:tasks_exporttask_change", args=[task.pk]))

    def verdict(self, execution: Execution) -> list[str]:
        """The box with the reason on the page of a run: what happened, and what to do."""
        box = self.html(page_of(execution)).partition('id="run-verdict"')[2].partition("</section>")[0]
        return [text for text in texts_of(f"<section {box}</section>") if text != "数据库返回的信息"]

    # What is done

    def change(self, row: Any, **fields: Any) -> None:
        """Edit a source, a task or a channel."""
        answer = self.browser.patch(self._api(row), json.dumps(fields), content_type="application/json")
        assert answer.status_code == 200, answer.content.decode()
        row.refresh_from_db()

    def tested(self, source: DataSource) -> bool:
        """What “Test connection” comes to."""
        found: dict[str, Any] = self.browser.post(f"{self._api(source)}/test", content_type="application/json").json()
        return bool(found["ok"])

    def _api(self, row: Any) -> str:
        return f"/api/{_NOUNS[type(row)]}/{row.pk}"

    def queue(self, task: ExportTask) -> Execution:
        answer = self.browser.post(f"{self._api(task)}/execute", content_type="application/json")
        assert answer.status_code == 202, answer.content.decode()
        return Execution.objects.get(pk=answer.json()["id"])

    def run(self, task: ExportTask, *, send: bool = True) -> Execution:
        """Queue `task` and do what is to be done; with `send` its messages, too."""
        execution = self.queue(task)
        self.work(send=send)
        execution.refresh_from_db()
        return execution

    def run_for(self, task: ExportTask, moment: datetime) -> Execution:
        """What the dialog “Run…” does, with a planned time typed in."""
        typed = moment.astimezone(ZoneInfo(task.timezone)).strftime("%Y-%m-%dT%H:%M")
        answer = self.browser.post(
            reverse("admin:tasks_exporttask_run", args=[task.pk]), DIALOG | {"planned_at": typed, "notify": "on"}
        )
        return self._led_to(answer)

    def press(self, execution: Execution, what: str) -> None:
        """A button on the page of a run."""
        answer = self.browser.post(reverse(f"admin:tasks_execution_{what}", args=[execution.pk]), DIALOG)
        assert answer.status_code == 302

    def run_again(self, execution: Execution) -> Execution:
        assert "重新执行" in self.read_run(execution)
        return self._led_to(self.browser.post(reverse("admin:tasks_execution_run_again", args=[execution.pk])))

    def send_again(self, execution: Execution) -> None:
        assert "重新发送" in self.read_run(execution)
        before = Execution.objects.count()
        self.press(execution, "send_again")
        deliver()
        assert Execution.objects.count() == before

    def _led_to(self, answer: Any) -> Execution:
        """The run whose page `answer` leads to, when it has been carried out."""
        assert answer.status_code == 302
        self.work()
        return Execution.objects.get(pk=answer.headers["Location"].rstrip("/").split("/")[-2])

    def work(self, *, send: bool = True) -> None:
        """What a scheduler does until it has nothing left to do. Messages go out until they are given up, as if all
        delays had passed."""
        scheduler = make_scheduler(2, InlineExecutor())
        while scheduler.tick():
            pass
        while send and Delivery.objects.waiting().exists() and deliver():
            pass


def page_of(execution: Execution) -> str:
    return reverse("admin:tasks_execution_change", args=[execution.pk])


def sees_labels(row: Row, *texts: list[str]) -> None:
    """The words that the document quotes stand on one of these pages."""
    shown = [text for page in texts for text in page]
    assert [label for label in row.labels if not any(label in text for text in shown)] == []


@contextmanager
def while_it_runs(server: PrivateServer, database: str, act: Callable[[int], object]) -> Iterator[None]:
    """Call `act` with the session's number as soon as an export reads from `database`. Fails when none ever does."""
    done = threading.Event()

    def watch() -> None:
        end = time.monotonic() + 20
        while time.monotonic() < end:
            for session in server.processlist():
                if session.database == database and "/* exp:" in session.sql:
                    act(session.id)
                    done.set()
                    return
            time.sleep(0.02)

    watcher = threading.Thread(target=watch)
    watcher.start()
    yield
    watcher.join(30)
    assert done.is_set(), "no export has read from it"
