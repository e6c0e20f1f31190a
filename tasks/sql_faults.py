"""The line of the SQL that an error is about."""

import re

from datasources.sqltext import Dialect, Kind, SQLTextError, tokens
from datasources.sqltext import line_of as line_at

# What MySQL, MariaDB and SQLite call by its name instead of its place. PostgreSQL says the place.
_NAMED = (
    re.compile(r'near "(.+)": syntax error', re.DOTALL),
    re.compile(r"no such (?:column|table|function): (.+)"),
    re.compile(r"ambiguous column name: (.+)"),
    re.compile(r"Unknown column '(.+?)' in "),
    re.compile(r"Column '(.+?)' in .+ is ambiguous"),
    re.compile(r"Table '(.+?)' doesn't exist"),
    re.compile(r"FUNCTION (\S+) does not exist"),
)


def line_of(exc: Exception, sql: str, dialect: Dialect) -> int | None:
    """The line of `sql`, counted from 1, that `exc` is about. None when it does not say, or not which of several."""
    line: int | None = getattr(exc, "line", None)
    if line is not None:
        return line
    detail = getattr(exc, "detail", "")
    for pattern in _NAMED:
        if found := pattern.search(detail):
            return _only_line_with(found[1].rpartition(".")[2] or found[1], sql, dialect)
    return None


def _only_line_with(name: str, sql: str, dialect: Dialect) -> int | None:
    try:
        lines = {
            line_at(sql, token.start)
            for token in tokens(sql, dialect)
            if token.kind is not Kind.COMMENT and token.text.strip('"`[]').casefold() == name.casefold()
        }
    except SQLTextError:
        return None
    return lines.pop() if len(lines) == 1 else None
