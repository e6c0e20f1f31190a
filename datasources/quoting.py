"""Names as they are written in SQL: in quotes where they need them."""

import re
from dataclasses import replace

from sqlglot.generators.mysql import MySQLGenerator

from datasources.connectors.base import TableColumn

_PLAIN = re.compile(r"[a-z_][a-z0-9_]*", re.IGNORECASE)
# Those of MySQL, which is the strictest, and what SQLite takes for more than a name. A quote too many does no harm.
_RESERVED = MySQLGenerator.RESERVED_KEYWORDS | {
    *("autoincrement", "cast", "commit", "deferrable", "escape", "intersect", "isnull", "nothing", "notnull", "raise"),
    *("returning", "transaction"),
}


def quote(name: str, mark: str) -> str:
    """`name` between two `mark`s, unless the database reads it without."""
    if _PLAIN.fullmatch(name) and name.lower() not in _RESERVED:
        return name
    return mark + name.replace(mark, mark * 2) + mark


def quoted(column: TableColumn, mark: str) -> TableColumn:
    return replace(column, table=quote(column.table, mark), name=quote(column.name, mark))
