"""A private PostgreSQL."""

import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psycopg

from tests.servers import PrivateServer, Session, find_binary, unused_name


class PostgreSQL(PrivateServer):
    kind = "postgresql"
    users = ("postgres",)
    # "Immediate shutdown": the postmaster ends its children first. A killed one would leave them.
    death_signal = signal.SIGQUIT

    def find_programs(self) -> None:
        self._server = find_binary("postgres", package="postgresql")
        self._initdb = find_binary("initdb", package="postgresql")

    def create_data_directory(self, data: Path) -> None:
        password = self.directory / "password"
        password.write_text(self.admin.password)
        self.user.own(password)
        self.run_as_user(
            self._initdb,
            f"--pgdata={data}",
            f"--username={self.admin.username}",
            f"--pwfile={password}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C.UTF-8",
            "--no-sync",
        )

    def command(self, data: Path) -> Sequence[object]:
        settings = {
            "port": self.port,
            "listen_addresses": self.host,
            "unix_socket_directories": self.directory,
            "fsync": "off",
            "full_page_writes": "off",
            "synchronous_commit": "off",
            "shared_buffers": "32MB",
            "max_connections": 60,
            "max_wal_size": "256MB",
            "autovacuum": "off",
            "jit": "off",
            "timezone": "UTC",
        }
        return [
            self._server,
            "-D",
            data,
            *(part for key, value in settings.items() for part in ("-c", f"{key}={value}")),
        ]

    def answers(self) -> bool:
        try:
            self.execute("SELECT 1")
        except psycopg.OperationalError:
            return False
        return True

    def create_accounts(self) -> None:
        self.execute(f"CREATE ROLE {self.reader.username} LOGIN PASSWORD '{self.reader.password}'")

    def connect(self, database: str = "") -> psycopg.Connection[Any]:
        return psycopg.connect(
            host=self.host,
            port=self.port,
            user=self.admin.username,
            password=self.admin.password,
            dbname=database or "postgres",
            autocommit=True,
            connect_timeout=10,
        )

    def execute(self, sql: str, *values: object, database: str = "") -> list[tuple[Any, ...]]:
        with self.connect(database) as connection:
            cursor = connection.execute(sql.encode(), values or None)
            return cursor.fetchall() if cursor.description else []

    def new_database(self) -> str:
        name = unused_name()()
        self.execute(f"CREATE DATABASE {name}")
        self.execute(
            f"ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO {self.reader.username}",
            database=name,
        )
        return name

    def processlist(self) -> list[Session]:
        # The text of the last query stays in the view after its end: only an active session runs it.
        rows = self.execute(
            "SELECT pid, usename, coalesce(datname, ''), CASE WHEN state = 'active' THEN query ELSE '' END "
            "FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
        )
        return [Session(*row) for row in rows]
