"""A private MariaDB."""

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import MySQLdb

from tests.servers import PrivateServer, Session, find_binary, unused_name

# Loaded on purpose: few. A zone that is not here shows what happens on servers without time zone tables.
TIME_ZONES = ("UTC", "Asia/Shanghai", "America/New_York", "Europe/Berlin")


class MariaDB(PrivateServer):
    kind = "mariadb"
    users = ("mysql",)

    def find_programs(self) -> None:
        self._server = find_binary("mariadbd", "mysqld", package="mariadb-server")
        self._install = find_binary("mariadb-install-db", "mysql_install_db", package="mariadb-server")
        self._zones = find_binary("mariadb-tzinfo-to-sql", "mysql_tzinfo_to_sql", package="mariadb-server")

    def create_data_directory(self, data: Path) -> None:
        self.run_as_user(
            self._install,
            "--no-defaults",
            f"--datadir={data}",
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
            "--innodb-flush-method=nosync",
        )
        (self.directory / "init.sql").write_text(self._first_statements())
        (self.directory / "init.sql").chmod(0o644)

    def _first_statements(self) -> str:
        admin, reader = self.admin, self.reader
        # The file of first statements takes one statement per line.
        return "\n".join(
            [
                f"CREATE USER '{admin.username}'@'%' IDENTIFIED BY '{admin.password}';",
                f"GRANT ALL PRIVILEGES ON *.* TO '{admin.username}'@'%' WITH GRANT OPTION;",
                f"CREATE USER '{reader.username}'@'%' IDENTIFIED BY '{reader.password}';",
                f"GRANT SELECT ON `t\\_%`.* TO '{reader.username}'@'%';",
                "",
            ]
        )

    def command(self, data: Path) -> Sequence[object]:
        return [
            self._server,
            "--no-defaults",
            f"--datadir={data}",
            f"--init-file={self.directory / 'init.sql'}",
            f"--socket={self.directory / 'socket'}",
            f"--pid-file={self.directory / 'pid'}",
            f"--port={self.port}",
            "--bind-address=127.0.0.1",
            # Without Debian's configuration the default is latin1.
            "--character-set-server=utf8mb4",
            "--collation-server=utf8mb4_general_ci",
            "--default-time-zone=+08:00",  # as servers of our users have it: nothing may rely on UTC
            "--skip-name-resolve",
            "--skip-log-bin",
            "--performance-schema=OFF",
            "--innodb-buffer-pool-size=48M",
            "--innodb-log-file-size=32M",
            "--innodb-flush-method=nosync",
            "--innodb-flush-log-at-trx-commit=0",
            "--innodb-fast-shutdown=2",
            "--key-buffer-size=1M",
            "--max-connections=100",
            "--max-allowed-packet=64M",
        ]

    def answers(self) -> bool:
        try:
            self.execute("SELECT 1")
        except MySQLdb.Error:
            return False
        return True

    def create_accounts(self) -> None:
        """The accounts come with the first statements; the time zones are loaded here."""
        for zone in TIME_ZONES:
            made = subprocess.run(
                [self._zones, f"/usr/share/zoneinfo/{zone}", zone], capture_output=True, text=True, check=True
            )
            self._execute_script("SET sql_log_bin = 0; TRUNCATE TABLE mysql.time_zone_leap_second;" + made.stdout)

    def _execute_script(self, script: str) -> None:
        connection = self.connect("mysql", multi_statements=True)
        try:
            connection.query(script.encode())
            while True:
                connection.store_result()
                if connection.next_result() < 0:
                    return
        finally:
            connection.close()

    def connect(self, database: str = "", **options: Any) -> Any:
        return MySQLdb.connect(
            host=self.host,
            port=self.port,
            user=self.admin.username,
            passwd=self.admin.password,
            db=database,
            charset="utf8mb4",
            autocommit=True,
            connect_timeout=10,
            **options,
        )

    def execute(self, sql: str, *values: object, database: str = "") -> list[tuple[Any, ...]]:
        connection = self.connect(database)
        try:
            with connection.cursor() as cursor:
                cursor.execute(sql, values or None)
                return list(cursor.fetchall()) if cursor.description else []
        finally:
            connection.close()

    def new_database(self) -> str:
        name = unused_name()()
        self.execute(f"CREATE DATABASE `{name}`")
        return name

    def processlist(self) -> list[Session]:
        rows = self.execute(
            "SELECT ID, USER, COALESCE(DB, ''), COALESCE(INFO, '') FROM information_schema.PROCESSLIST "
            "WHERE ID <> CONNECTION_ID()"
        )
        return [Session(*row) for row in rows]
