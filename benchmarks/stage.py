"""The stage of a benchmark: servers with data, an installation that reads from them, a directory; gone at the end."""

import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import orders
from benchmarks.product import Installation, work_directory
from benchmarks.servers import KINDS, LargeMariaDB, LargePostgreSQL

GENERATED = 1_000_000  # rows that Python makes; the server copies them when there shall be more
STATISTICS = {"mysql": "ANALYZE TABLE orders", "postgresql": "VACUUM ANALYZE orders"}


@dataclass(slots=True)
class Stage:
    """`servers` and `databases` are by kind; the installation has a data source with the name of each kind."""

    directory: Path
    ours: Installation
    rows: int
    servers: dict[str, LargeMariaDB | LargePostgreSQL] = field(default_factory=dict)
    databases: dict[str, str] = field(default_factory=dict)

    def execute(self, kind: str, sql: str) -> None:
        self.servers[kind].execute(sql, database=self.databases[kind])

    def load_column(self, kind: str, table: str, type: str, file: Path) -> None:
        """A new table with the one column `body` from a file with one text per line."""
        self.execute(kind, f"CREATE TABLE {table} (body {type})")
        self.servers[kind].fill(table, file, self.databases[kind])


@contextmanager
def stage(kinds: Sequence[str], rows: int) -> Iterator[Stage]:
    """Servers of `kinds` with a table `orders` of `rows` rows."""
    with ExitStack() as stack:
        directory = work_directory()
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        ours = stack.enter_context(Installation(directory / "installation"))
        set_up = Stage(directory, ours, rows)
        file = directory / "orders.tsv"
        say(f"making {min(rows, GENERATED):,} rows")
        orders.write_tsv(file, min(rows, GENERATED))
        for kind in kinds:
            server = KINDS[kind]().start()
            stack.callback(server.stop)
            set_up.servers[kind], set_up.databases[kind] = server, server.new_database()
            say(f"loading them into {kind}")
            server.load(file, set_up.databases[kind])
            for sql in _copies(rows):
                set_up.execute(kind, sql)
            set_up.execute(kind, STATISTICS[kind])
            ours.add_source(kind, kind, server, set_up.databases[kind])
        file.unlink()
        yield set_up


def _copies(rows: int) -> Iterator[str]:
    """What repeats the generated rows under further numbers until there are `rows` of them."""
    others = ", ".join(orders.COLUMNS[1:])
    for start in range(GENERATED, rows, GENERATED):
        count = min(GENERATED, rows - start)
        yield f"INSERT INTO orders SELECT id + {start}, {others} FROM orders WHERE id <= {count}"


def say(text: str) -> None:
    """What goes on, for people who wait; not part of the result."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)
