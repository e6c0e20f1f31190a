"""Whether a piece of SQL only reads: one of the layers, beside the account, the read-only session and the protocol.

Two independent looks. The lexer's: one statement, no comment that the server would execute, no word that starts a
writing clause. The parser's (sqlglot): a query at the root and nothing in the tree that writes, locks or reaches the
server's files. What neither understands is refused: a parser that fails must not open the door.
"""

import re

import sqlglot
from django.utils.translation import gettext as _
from sqlglot import exp
from sqlglot.errors import SqlglotError

from datasources.sqltext import Dialect, Kind, SQLFault, SQLTextError, Token, line_of, strip_end, tokens

MAX_SQL_LENGTH = 200_000  # characters; the parser is slow beyond, and nobody writes such a query by hand

_FIRST_WORDS = frozenset({"SELECT", "WITH", "VALUES", "TABLE"})
# Reserved in every dialect we read, so that an unquoted one is never a column. The parser is the judge of the rest.
_NEVER = frozenset({"INTO", "OUTFILE", "DUMPFILE"})
_WRITING = (
    exp.Insert,
    exp.Update,
    exp.Delete,
    exp.Merge,
    exp.Create,
    exp.Drop,
    exp.Alter,
    exp.TruncateTable,
    exp.Into,
    exp.Lock,
    exp.Command,
    exp.Set,
    exp.Copy,
    exp.LoadData,
    exp.Use,
    exp.Transaction,
    exp.Commit,
    exp.Rollback,
    exp.Kill,
    exp.Grant,
    exp.Pragma,
    exp.Attach,
    exp.Detach,
)
# Functions that a read-only transaction lets through although they reach files, other servers, settings, sessions or
# the storage itself, or run SQL out of a text that nobody has looked at.
_OF_POSTGRESQL = r"""
    pg_(?:read|write|ls|stat|logdir|reload|rotate|terminate|cancel|switch|create|drop|start|stop|backup|promote|import
          |export|replication|logical|notify|file|signal|advisory|try_advisory|wal_replay|copy|log_backend|log_standby
          |nextoid|extension_config|sync|get_wal|set|restore|clear|prewarm|truncate|buffercache|current_xact_id)_?\w*
    | lo_(?:close|creat|create|export|from_bytea|get|import|lseek|lseek64|open|put|tell|tell64|truncate|truncate64|unlink)
    | loread | lowrite | dblink\w* | postgres_fdw_\w+ | set_config | setval | nextval
    | query_to_xml\w* | table_to_xml\w* | cursor_to_xml\w* | schema_to_xml\w* | database_to_xml\w*
    | xpath_table | ts_stat | ts_rewrite | txid_current | crosstab\w* | connectby
    | brin_(?:de)?summarize\w* | gin_clean_pending_list | binary_upgrade_\w+ | autoprewarm_\w+
    | http_(?:get|post|put|patch|delete|head) | run_command_on_\w+ | query_export_to_s3 | table_import_from_s3
"""
_OF_OTHERS = r"""
    load_file | sys_(?:exec|eval|get|set) | get_lock | release_lock | release_all_locks | service_\w+_locks
    | (?:master|source)_pos_wait | master_gtid_wait | wait_for_executed_gtid_set | wait_until_sql_thread_after_gtids
    | group_replication_\w+ | asynchronous_connection_failover_\w+ | keyring_\w+ | version_tokens_\w+ | audit_log_\w+
    | spider_\w+ | memc_\w+ | gman_\w+ | lib_mysqludf_\w+ | xml_?extractvalue_file
    | load_extension | writefile | readfile | edit | fts3_tokenizer | fsdir | zipfile
"""
_FORBIDDEN_FUNCTIONS = re.compile(f"{_OF_POSTGRESQL} | {_OF_OTHERS}", re.IGNORECASE | re.VERBOSE)
# PostgreSQL calls f(x) for x.f, too; only its own functions count there: columns have names like keyring_id.
_FORBIDDEN_ATTRIBUTES = re.compile(_OF_POSTGRESQL, re.IGNORECASE | re.VERBOSE)


class UnsafeSQL(SQLFault):
    """The SQL is not one plain reading query; the text says why and how to mend it."""


def check(sql: str, dialect: Dialect) -> None:
    """Raise UnsafeSQL unless `sql` is one statement that only reads. `{{ ds }}` names are taken for values."""
    if not sql.strip():
        raise UnsafeSQL(_("The SQL is empty. Write a SELECT."))
    if len(sql) > MAX_SQL_LENGTH:
        raise UnsafeSQL(_("The SQL is longer than {limit} characters.").format(limit=MAX_SQL_LENGTH))
    try:
        found = list(tokens(strip_end(sql), dialect))
    except SQLTextError as exc:
        raise UnsafeSQL(str(exc), exc.line) from None
    _check_tokens(sql, found, dialect)
    _check_tree(_plain_text(found), dialect)


def _check_tokens(sql: str, found: list[Token], dialect: Dialect) -> None:
    for token in found:
        line = line_of(sql, token.start)
        # MySQL and MariaDB run the inside of these comments; every parser takes it for a comment.
        if token.kind is Kind.COMMENT and token.text.startswith(("/*!", "/*M!")):
            raise UnsafeSQL(
                _("Line {line}: MySQL would execute the inside of this /*! comment. Remove the comment.").format(
                    line=line
                ),
                line,
            )
        if token.kind is Kind.OTHER and token.text == ";":
            raise UnsafeSQL(
                _(
                    "Line {line}: there is more than one statement. Keep one SELECT; a semicolon may only stand at the end."
                ).format(line=line),
                line,
            )
        if token.kind is Kind.WORD and token.text.upper() in _NEVER:
            raise UnsafeSQL(
                _("Line {line}: {word} would write. A task only reads: remove it.").format(
                    line=line, word=token.text.upper()
                ),
                line,
            )
        if dialect.dollar_quotes and token.kind is Kind.WORD and re.fullmatch(r"\$\d+", token.text):
            raise UnsafeSQL(
                _("Line {line}: {word} has no value. Use {{{{ ds }}}} and {{{{ params.name }}}} for values.").format(
                    line=line, word=token.text
                ),
                line,
            )
    if dialect.dollar_quotes:
        _check_escaped_names(sql, found)
    words = (token.text for token in found if token.kind not in (Kind.SPACE, Kind.COMMENT) and token.text != "(")
    first = next(words, "").upper()
    if first not in _FIRST_WORDS:
        raise UnsafeSQL(
            _("The SQL begins with “{word}”. A task only reads: begin with SELECT or WITH.").format(word=first[:30])
        )


def _check_escaped_names(sql: str, found: list[Token]) -> None:
    # U&"pg\005fread\005ffile" is pg_read_file for PostgreSQL, and three harmless tokens for the parser.
    for prefix, ampersand, name in zip(found, found[1:], found[2:], strict=False):
        if prefix.text.upper() == "U" and ampersand.text == "&" and name.kind is Kind.QUOTED_NAME:
            raise UnsafeSQL(
                _("Line {line}: a name written with U& escapes can't be checked. Write its characters.").format(
                    line=line_of(sql, prefix.start)
                ),
                line_of(sql, prefix.start),
            )


def _plain_text(found: list[Token]) -> str:
    """The SQL as the parser shall see it: the two must not disagree where anything ends.

    So without comments, names as values, and no literal with a quote or a backslash in it.
    """
    pieces = []
    for token in found:
        if token.kind is Kind.COMMENT:
            pieces.append(" " + _line_breaks(token.text))
        elif token.kind is Kind.NAME:
            pieces.append("'2000-01-01'" + _line_breaks(token.text))
        elif token.kind is Kind.TEXT:
            pieces.append(_plain_literal(token.text))
        else:
            pieces.append(token.text)
    return "".join(pieces)


def _line_breaks(text: str) -> str:
    """Those of `text`: the parser counts lines."""
    return "\n" * text.count("\n")


def _plain_literal(text: str) -> str:
    opening = text[: text.index("$", 1) + 1] if text.startswith("$") else text[0]
    content = text[len(opening) : -len(opening)]
    return "'" + re.sub(r"['\\]", "", re.sub('"+', '"', content)) + "'"


def _check_tree(sql: str, dialect: Dialect) -> None:
    try:
        statements = [tree for tree in sqlglot.parse(sql, dialect=dialect.sqlglot) if tree is not None]
    except (SqlglotError, RecursionError, ValueError) as exc:
        raise UnsafeSQL(
            _("The SQL can't be understood: {error}").format(error=_parser_message(exc)), _parser_line(exc)
        ) from None
    if len(statements) != 1:
        raise UnsafeSQL(_("There is more than one statement. Keep one SELECT."))
    tree = statements[0]
    if not isinstance(tree, (exp.Query, exp.Values)):
        raise UnsafeSQL(_("This is not a query. A task only reads: begin with SELECT or WITH."))
    for node in tree.walk():
        if isinstance(node, _WRITING):
            raise UnsafeSQL(
                _("The SQL holds {clause}, which writes or locks. A task only reads: remove it.").format(
                    clause=type(node).__name__.upper()
                )
            )
        if name := _forbidden_name(node, dialect):
            raise UnsafeSQL(
                _(
                    "The function {name} reaches beyond the data (files, settings, other sessions) and is not allowed."
                ).format(name=name)
            )


def _forbidden_name(node: exp.Expr, dialect: Dialect) -> str:
    """The name of a forbidden function that `node` calls, or may call; "" for all others."""
    if isinstance(node, exp.Func):
        name = str(node.name if isinstance(node, exp.Anonymous) else node.sql_name())
        return name if _FORBIDDEN_FUNCTIONS.fullmatch(name) else ""
    if not dialect.dollar_quotes:
        return ""
    if isinstance(node, exp.Dot) and isinstance(node.expression, exp.Identifier):
        name = str(node.expression.name)
    elif isinstance(node, exp.Column) and node.table:
        name = str(node.name)
    else:
        return ""
    return name if _FORBIDDEN_ATTRIBUTES.fullmatch(name) else ""


def _parser_line(exc: Exception) -> int | None:
    errors = getattr(exc, "errors", None)
    return errors[0].get("line") if errors else None


def _parser_message(exc: Exception) -> str:
    errors = getattr(exc, "errors", None)
    if errors:
        first = errors[0]
        return _("line {line}, column {column}, near “{near}”").format(
            line=first.get("line"), column=first.get("col"), near=first.get("highlight") or ""
        )
    return str(exc).splitlines()[0][:200] if str(exc) else type(exc).__name__
