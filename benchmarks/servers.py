"""The database servers of the benchmarks: private ones as in the tests, with room for the whole table in memory."""

from collections.abc import Sequence
from pathlib import Path

from benchmarks import orders
from tests.servers import PrivateServer
from tests.servers.mariadb import MariaDB
from tests.servers.postgresql import PostgreSQL


class LargeMariaDB(MariaDB):
    def command(self, data: Path) -> Sequence[object]:
        # local_infile is off in the tests, as it should be anywhere else.
        return [*super().command(data), "--innodb-buffer-pool-size=1G", "--secure-file-priv="]

    def load(self, file: Path, database: str) -> None:
        """A fresh table `orders` with the rows of `file` in `database`."""
        self.execute("DROP TABLE IF EXISTS orders", database=database)
        self.execute(orders.MYSQL_TABLE, database=database)
        self.fill("orders", file, database)
        self.execute("ANALYZE TABLE orders", database=database)

    def fill(self, table: str, file: Path, database: str) -> None:
        """Append the rows of `file`, which the server's account must be able to read."""
        self.execute(f"LOAD DATA INFILE '{file}' INTO TABLE {table} CHARACTER SET utf8mb4", database=database)


class LargePostgreSQL(PostgreSQL):
    def command(self, data: Path) -> Sequence[object]:
        return [*super().command(data), "-c", "shared_buffers=1GB"]

    def load(self, file: Path, database: str) -> None:
        """A fresh table `orders` with the rows of `file` in `database`."""
        self.execute("DROP TABLE IF EXISTS orders", database=database)
        self.execute(orders.POSTGRESQL_TABLE, database=database)
        self.fill("orders", file, database)
        self.execute("VACUUM ANALYZE orders", database=database)

    def fill(self, table: str, file: Path, database: str) -> None:
        """Append the rows of `file`."""
        with (
            self.connect(database) as connection,
            connection.cursor() as cursor,
            cursor.copy(f"COPY {table} FROM STDIN".encode()) as copy,
            file.open("rb") as source,
        ):
            while data := source.read(1 << 20):
                copy.write(data)


KINDS: dict[str, type[LargeMariaDB] | type[LargePostgreSQL]] = {"mysql": LargeMariaDB, "postgresql": LargePostgreSQL}


def start(kind: str) -> PrivateServer:
    return KINDS[kind]().start()
