"""Reads SQL the way a server's lexer does: where literals, names and comments begin and end.

Used to find `{{ ds }}` names, and by safety.py, which must never see another statement than the server will run.
Whatever the two could read differently (an unfinished literal, `--x` in MySQL) is refused here.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from django.utils.translation import gettext as _


class SQLFault(ValueError):
    """What is wrong with a text of SQL. `line`, counted from 1, is where; None when nobody can say."""

    def __init__(self, message: str, line: int | None = None) -> None:
        super().__init__(message)
        self.line = line


class SQLTextError(SQLFault):
    """The SQL can't be read with certainty; the text says what is wrong and in which line."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """How one family of servers writes literals and comments.

    `sqlglot` is the name of the grammar in sqlglot; MySQL takes `"…"` for text, the others for a name.
    """

    name: str
    sqlglot: str
    backslash_escapes: bool = False
    double_quote_is_text: bool = False
    hash_comments: bool = False
    dash_comment_needs_space: bool = False
    nested_comments: bool = False
    carriage_return_ends_comment: bool = False
    dollar_quotes: bool = False
    brackets_quote_names: bool = False


MYSQL = Dialect(
    "mysql",
    "mysql",
    backslash_escapes=True,
    double_quote_is_text=True,
    hash_comments=True,
    dash_comment_needs_space=True,
)
POSTGRESQL = Dialect(
    "postgresql", "postgres", nested_comments=True, carriage_return_ends_comment=True, dollar_quotes=True
)
SQLITE = Dialect("sqlite", "sqlite", brackets_quote_names=True)


class Kind(Enum):
    SPACE = "space"
    COMMENT = "comment"
    TEXT = "text"  # a string literal
    QUOTED_NAME = "quoted name"
    WORD = "word"  # keyword, unquoted name or number
    NAME = "name"  # {{ ds }}
    OTHER = "other"  # one character of punctuation


@dataclass(frozen=True, slots=True)
class Token:
    kind: Kind
    text: str
    start: int


# Of ASCII only, as for every server: to them all other characters are letters, U+00A0 and U+3000 too.
_BLANKS = " \t\n\r\f\v"
_SPACE = re.compile(f"[{_BLANKS}]+")
_WORD = re.compile(r"(?:[\w$]|[^\x00-\x7f])+")
_NAME = re.compile(r"\{\{(.*?)\}\}", re.DOTALL)
_DOLLAR_QUOTE = re.compile(r"\$(?:(?:[A-Za-z_]|[^\x00-\x7f])(?:\w|[^\x00-\x7f])*)?\$")


def tokens(sql: str, dialect: Dialect) -> Iterator[Token]:
    """The tokens of `sql`; joined they give `sql` again. Raises SQLTextError for what can't be read with certainty."""
    if "\0" in sql:
        raise SQLTextError(_("The SQL holds a NUL character. Remove it."))
    position = 0
    word = ""
    escaped = False  # the last token but blanks and comments is an E'…'
    while position < len(sql):
        kind, end = _next(sql, position, dialect, word)
        token = Token(kind, sql[position:end], position)
        if kind not in (Kind.SPACE, Kind.COMMENT):
            if escaped and kind is Kind.TEXT:
                raise SQLTextError(
                    _("Line {line}: a text right behind an E'…' would be its continuation. Join them with ||.").format(
                        line=line_of(sql, position)
                    ),
                    line_of(sql, position),
                )
            escaped = kind is Kind.TEXT and dialect.dollar_quotes and word.upper() == "E"
        word = token.text if kind is Kind.WORD else ""
        yield token
        position = end


def _next(sql: str, at: int, dialect: Dialect, word_before: str) -> tuple[Kind, int]:
    char, pair = sql[at], sql[at : at + 2]
    if match := _SPACE.match(sql, at):
        return Kind.SPACE, match.end()
    if pair == "{{":
        if match := _NAME.match(sql, at):
            return Kind.NAME, match.end()
        raise SQLTextError(_("Line {line}: `{{{{` without `}}}}`.").format(line=line_of(sql, at)), line_of(sql, at))
    if pair == "--":
        following = sql[at + 2 : at + 3]
        if not dialect.dash_comment_needs_space or not following or following in _BLANKS:
            return Kind.COMMENT, _end_of_line(sql, at, dialect)
        raise SQLTextError(
            _(
                "Line {line}: MySQL reads `--` as a comment only when a space follows. Write `-- ` for a comment, `- -` for arithmetic."
            ).format(line=line_of(sql, at)),
            line_of(sql, at),
        )
    if char == "#" and dialect.hash_comments:
        return Kind.COMMENT, _end_of_line(sql, at, dialect)
    if pair == "/*":
        return Kind.COMMENT, _end_of_block_comment(sql, at, nested=dialect.nested_comments)
    if char == "'":
        # E'…' of PostgreSQL knows backslashes; the E is the word right before.
        escapes = dialect.backslash_escapes or (dialect.dollar_quotes and word_before.upper() == "E")
        return Kind.TEXT, _end_of_quoted(sql, at, "'", backslash=escapes)
    if char == '"':
        if dialect.double_quote_is_text:
            return Kind.TEXT, _end_of_quoted(sql, at, '"', backslash=dialect.backslash_escapes)
        return Kind.QUOTED_NAME, _end_of_quoted(sql, at, '"', backslash=False)
    if char == "`" and not dialect.dollar_quotes:
        return Kind.QUOTED_NAME, _end_of_quoted(sql, at, "`", backslash=False)
    if char == "[" and dialect.brackets_quote_names:
        return Kind.QUOTED_NAME, _end_of_quoted(sql, at, "]", backslash=False)
    if char == "$" and dialect.dollar_quotes and not word_before and (match := _DOLLAR_QUOTE.match(sql, at)):
        close = sql.find(match[0], match.end())
        if close < 0:
            raise _unfinished(sql, at, match[0])
        return Kind.TEXT, close + len(match[0])
    if match := _WORD.match(sql, at):
        return Kind.WORD, match.end()
    return Kind.OTHER, at + 1


def _end_of_line(sql: str, at: int, dialect: Dialect) -> int:
    ends = (sql.find(end, at) for end in ("\n\r" if dialect.carriage_return_ends_comment else "\n"))
    return min((end for end in ends if end >= 0), default=len(sql))


def _end_of_block_comment(sql: str, at: int, *, nested: bool) -> int:
    depth, position = 1, at + 2
    while depth:
        close = sql.find("*/", position)
        if close < 0:
            raise _unfinished(sql, at, "/*")
        inner = sql.find("/*", position, close)
        if nested and inner >= 0:
            depth, position = depth + 1, inner + 2
        else:
            depth, position = depth - 1, close + 2
    return position


def _end_of_quoted(sql: str, at: int, quote: str, *, backslash: bool) -> int:
    position = at + 1
    while position < len(sql):
        char = sql[position]
        if char == "\\" and backslash:
            position += 2
        elif char == quote:
            if quote == "]" or sql[position + 1 : position + 2] != quote:
                return position + 1
            position += 2  # a doubled quote stands for itself
        else:
            position += 1
    raise _unfinished(sql, at, quote)


def _unfinished(sql: str, at: int, opening: str) -> SQLTextError:
    return SQLTextError(
        _("Line {line}: what begins with {opening} is never closed.").format(line=line_of(sql, at), opening=opening),
        line_of(sql, at),
    )


def line_of(sql: str, at: int) -> int:
    """The line, counted from 1, in which position `at` lies."""
    return sql.count("\n", 0, at) + 1


def strip_end(sql: str) -> str:
    """`sql` without the semicolon and blanks that people leave at its end."""
    return sql.rstrip("; \t\r\n")
