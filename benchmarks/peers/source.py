"""What the peers have in common: their arguments, the streaming cursor, and the repair of what no xlsx can hold."""

import argparse
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

TABLE = "orders"
DATE_FORMAT = "yyyy-mm-dd"
TIME_FORMAT = "yyyy-mm-dd hh:mm:ss"
ROWS_AT_ONCE = 1_000
_UNWRITABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")  # XML 1.0, production 2


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    for name in ("host", "port", "user", "password", "database"):
        parser.add_argument(name)
    parser.add_argument("output", type=Path)
    parser.add_argument("--rows", type=int, help="all of them when left out")
    return parser.parse_args()


def query(rows: int | None) -> str:
    return f"SELECT * FROM {TABLE}" + (f" LIMIT {rows}" if rows is not None else "")


def cursor(args: argparse.Namespace) -> Any:
    """An SSCursor that runs the query; its rows come from the server as they are fetched."""
    import MySQLdb
    from MySQLdb.cursors import SSCursor

    connection = MySQLdb.connect(
        host=args.host,
        port=int(args.port),
        user=args.user,
        passwd=args.password,
        db=args.database,
        charset="utf8mb4",
        cursorclass=SSCursor,
    )
    running = connection.cursor()
    running.execute(query(args.rows))
    return running


def rows(running: Any) -> Iterator[tuple[Any, ...]]:
    while some := running.fetchmany(ROWS_AT_ONCE):
        yield from some


def names(running: Any) -> list[str]:
    return [column[0] for column in running.description]


def long_numbers(running: Any) -> list[int]:
    """The indexes of the columns whose numbers are too long for Excel: BIGINT here."""
    from MySQLdb.constants import FIELD_TYPE

    return [index for index, column in enumerate(running.description) if column[1] == FIELD_TYPE.LONGLONG]


def writable(text: str) -> str:
    """`text` without the characters that XML does not allow."""
    # Hardly any text has one: the first check is the cheapest that there is.
    return text if text.isprintable() else _UNWRITABLE.sub("", text)
