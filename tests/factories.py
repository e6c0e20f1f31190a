"""Rows for tests: valid unless the test says otherwise, with a name of their own each time."""

import sqlite3
from collections.abc import Iterable
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import Any

from django.apps import apps
from django.contrib.auth.models import Group, User

from datasources.models import DataSource
from exporter_site.access.models import Grant
from exporter_site.access.roles import make_roles
from tasks.executors.base import Ended, Executor
from tasks.models import Execution, ExportTask
from tasks.scheduler import Scheduler
from tasks.states import Trigger
from tests.servers import PrivateServer

_numbers = count(1)
PASSWORD = "correct horse battery"  # of nobody

SHOP = (
    "CREATE TABLE orders (id INTEGER PRIMARY KEY, customer TEXT, amount DECIMAL(10,2), paid BOOLEAN, created DATE)",
    "INSERT INTO orders VALUES (1, '张三', 12.5, 1, '2025-01-31'), (2, '李四', 99.99, 0, '2025-02-01'), (3, NULL, NULL, NULL, NULL)",
)


def make_sqlite_file(path: Path, statements: Iterable[str] = SHOP) -> Path:
    """An SQLite database made by `statements`; by default a shop with three orders."""
    with closing(sqlite3.connect(path)) as connection, connection:
        for statement in statements:
            connection.execute(statement)
    return path


def make_source(**fields: Any) -> DataSource:
    """A saved data source; an SQLite file that does not exist, unless `fields` say more."""
    number = next(_numbers)
    defaults: dict[str, Any] = {"name": f"source {number}", "kind": "sqlite", "database": f"/nowhere/{number}.db"}
    return DataSource.objects.create(**defaults | fields)


def make_server_source(server: PrivateServer, kind: str, **fields: Any) -> DataSource:
    """A saved data source on a private server: a new database, and an account that may only read."""
    defaults: dict[str, Any] = {
        "kind": kind,
        "host": server.host,
        "port": server.port,
        "username": server.reader.username,
        "password": server.reader.password,
    }
    if "database" not in fields:
        defaults["database"] = server.new_database()
    return make_source(**defaults | fields)


def make_task(*, validate: bool = True, **fields: Any) -> ExportTask:
    """A saved task, run by hand. With validate=False it may be one that the forms would refuse."""
    defaults: dict[str, Any] = {"name": f"task {next(_numbers)}", "sql": "SELECT 1 AS one"}
    if "data_source" not in fields:
        defaults["data_source"] = make_source()
    task = ExportTask(**defaults | fields)
    if validate:
        task.full_clean()
    task.save()
    return task


def make_execution(task: ExportTask | None = None, **fields: Any) -> Execution:
    """A queued run by hand; `fields` are put over the row as they are."""
    execution = Execution.objects.enqueue(task or make_task(), trigger=Trigger.MANUAL)
    if fields:
        Execution.objects.filter(pk=execution.pk).update(**fields)
        execution.refresh_from_db()
    return execution


def paths_of(execution: Execution) -> list[Path]:
    """Its files, as long as they are kept; on this machine's disk."""
    return [Path(str(file)) for file in execution.stored_files()]


class ClaimingExecutor(Executor):
    """Claims runs and leaves them running, as if their processes took for ever."""

    kind = "claiming"

    def __init__(self) -> None:
        super().__init__()
        self.started: list[int] = []
        self.ended: list[Ended] = []
        self.held = 0

    @property
    def running(self) -> int:
        return self.held

    def start(self, execution: Execution) -> bool:
        if not self.claim(execution):
            return False
        self.started.append(execution.pk)
        self.held += 1
        return True

    def collect(self) -> list[Ended]:
        ended, self.ended = self.ended, []
        self.held -= len(ended)
        return ended


def make_scheduler(workers: int = 1, executor: Executor | None = None) -> Scheduler:
    """A scheduler whose runs stay claimed, unless another executor is given."""
    return Scheduler(workers, executor or ClaimingExecutor())


def make_user(
    username: str = "", *, role: str = "", sources: Iterable[DataSource] = (), password: str = PASSWORD, **fields: Any
) -> User:
    """A user who may use the admin if there is a `role`, with `sources` granted."""
    user = User.objects.create_user(
        username or f"user{next(_numbers)}", password=password, **{"is_staff": bool(role)} | fields
    )
    if role:
        # A test with real transactions empties all tables, those of the migrations, too.
        if not Group.objects.filter(name=role).exists():
            make_roles(apps)
        user.groups.add(Group.objects.get(name=role))
    for source in sources:
        Grant.objects.create(data_source=source, user=user)
    return user


def make_admin(username: str = "", *, password: str = PASSWORD) -> User:
    return User.objects.create_superuser(username or f"admin{next(_numbers)}", password=password)
