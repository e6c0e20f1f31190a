"""The tests' own tools: servers, the session's configuration, the installation in a directory."""

from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import MySQLdb
import psycopg
import pytest
from django.conf import settings
from django.db import connection

from exporter_site.config import BASE_DIR
from tests import factories
from tests.instance import Instance
from tests.servers import PrivateServer
from tests.servers.mariadb import MariaDB
from tests.servers.postgresql import PostgreSQL


def test_no_path_of_the_configuration_lies_in_the_checkout() -> None:
    config = settings.CONFIG
    paths = (config.export.temp_dir, config.export.output_dir, config.logging.file, config.system_database.sqlite_path)
    assert not [path for path in paths if Path(path).is_relative_to(BASE_DIR)]


@pytest.mark.django_db
def test_the_system_database_is_the_one_that_was_asked_for(request: pytest.FixtureRequest) -> None:
    assert connection.vendor == request.config.getoption("--system-db")
    assert factories.make_task().pk


def test_the_readers_of_both_servers_read_and_can_not_write(mariadb: MariaDB, postgresql: PostgreSQL) -> None:
    for server, login in ((mariadb, _login_to_mariadb), (postgresql, _login_to_postgresql)):
        database = server.new_database()
        server.execute("CREATE TABLE facts (name varchar(20))", database=database)
        with closing(login(server, database)) as connection:
            cursor = connection.cursor()
            cursor.execute("SELECT count(*) FROM facts")
            assert cursor.fetchall() in ([(0,)], ((0,),))
            with pytest.raises((MySQLdb.OperationalError, psycopg.errors.InsufficientPrivilege)):
                cursor.execute("INSERT INTO facts VALUES ('x')")


def _login_to_mariadb(server: PrivateServer, database: str) -> Any:
    reader = server.reader
    return MySQLdb.connect(
        host=server.host, port=server.port, user=reader.username, passwd=reader.password, db=database
    )


def _login_to_postgresql(server: PrivateServer, database: str) -> Any:
    reader = server.reader
    return psycopg.connect(
        host=server.host, port=server.port, user=reader.username, password=reader.password, dbname=database
    )


def test_an_installation_is_migrated_and_empty_and_its_files_are_its_own(instance: Instance) -> None:
    instance.manage("check")
    count = "from tasks.models import ExportTask; print(ExportTask.objects.count())"
    assert instance.python(count).strip() == "0"
    assert instance.log_file.exists()
    assert instance.temp_dir.parent == instance.output_dir.parent == instance.home


def test_a_new_installation_does_not_see_the_rows_of_the_one_before(
    instance: Instance, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    source = "from datasources.models import DataSource; DataSource.objects.create(name='查无此名', kind='sqlite')"
    instance.python(source)
    assert "查无此名".encode() in instance.database_text()
    later = Instance(tmp_path / "later", request.config.getoption("--system-db"))
    assert "查无此名".encode() not in later.database_text()


def test_what_is_spawned_ends_with_the_installation(instance: Instance) -> None:
    process = instance.spawn("shell", "-c", "import time; print('up', flush=True); time.sleep(60)")
    assert process.stdout is not None
    assert process.stdout.readline().strip()
    instance.close()
    assert process.returncode == -9


def test_the_system_database_counts_in_utc(db: None) -> None:
    """Whatever zone its server has: the private MariaDB has that of its users, +08:00."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT CURRENT_TIMESTAMP")
        found = cursor.fetchone()[0]
    moment = datetime.fromisoformat(str(found))
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    assert abs(moment - datetime.now(UTC)) < timedelta(minutes=5)
