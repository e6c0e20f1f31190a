"""The lexer: tokens joined give the text again, and each dialect ends its literals and comments where its server does."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datasources.sqltext import MYSQL, POSTGRESQL, SQLITE, Dialect, Kind, SQLTextError, line_of, strip_end, tokens

ALL = (MYSQL, POSTGRESQL, SQLITE)
# fmt: off
PIECES = st.sampled_from([
    "'", "''", '"', "`", "[", "]", "$", "$$", "$a$", "\\", "\\'", "--", "-- ", "#", "/*", "*/", "/*!", "{{", "}}", "{{ ds }}",
    "E", "U&", ";", "a", "1", "张", "😀", "€", "select", "(", ")", ",", "-", "/", "*", "\n", "\r", "\t", " ", "\u00a0", "\u3000", "\0",
])
# fmt: on


def kinds(sql: str, dialect: Dialect) -> list[tuple[Kind, str]]:
    return [(token.kind, token.text) for token in tokens(sql, dialect) if token.kind is not Kind.SPACE]


def texts(sql: str, dialect: Dialect, kind: Kind) -> list[str]:
    return [text for found, text in kinds(sql, dialect) if found is kind]


@settings(max_examples=400, deadline=None)
@given(st.lists(PIECES, max_size=25).map("".join), st.sampled_from(ALL))
def test_tokens_joined_give_the_text_again_or_the_text_is_refused(sql: str, dialect: Dialect) -> None:
    try:
        found = list(tokens(sql, dialect))
    except SQLTextError:
        return
    assert "".join(token.text for token in found) == sql
    assert [token.start for token in found] == [sum(len(t.text) for t in found[:i]) for i in range(len(found))]
    assert all(token.text for token in found)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60), st.sampled_from(ALL))
def test_any_text_is_read_or_refused_and_nothing_else(sql: str, dialect: Dialect) -> None:
    try:
        assert "".join(token.text for token in tokens(sql, dialect)) == sql
    except SQLTextError:
        pass


@settings(max_examples=200, deadline=None)
@given(
    st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\0"), max_size=40),
    st.sampled_from(ALL),
)
def test_a_quoted_text_is_one_token_whatever_it_holds(content: str, dialect: Dialect) -> None:
    escaped = content.replace("'", "''")
    if dialect.backslash_escapes:
        escaped = escaped.replace("\\", "\\\\")
    sql = f"SELECT '{escaped}' ; x"
    assert texts(sql, dialect, Kind.TEXT) == [f"'{escaped}'"]


@pytest.mark.parametrize(
    ("dialect", "sql", "text"),
    [
        (MYSQL, "SELECT 'a\\'b'", ["'a\\'b'"]),
        (POSTGRESQL, "SELECT 'a\\' , 'b'", ["'a\\'", "'b'"]),
        (POSTGRESQL, "SELECT E'a\\'b'", ["'a\\'b'"]),
        (POSTGRESQL, "SELECT e'a\\'b'", ["'a\\'b'"]),
        (POSTGRESQL, "SELECT E 'a\\' , 'b'", ["'a\\'", "'b'"]),
        (SQLITE, "SELECT 'a\\' , 'b'", ["'a\\'", "'b'"]),
        (MYSQL, 'SELECT "text"', ['"text"']),
        (POSTGRESQL, "SELECT $$it's$$, $a$ $$ $a$", ["$$it's$$", "$a$ $$ $a$"]),
        (MYSQL, "SELECT 'it''s'", ["'it''s'"]),
    ],
)
def test_text_ends_where_the_server_ends_it(dialect: Dialect, sql: str, text: list[str]) -> None:
    assert texts(sql, dialect, Kind.TEXT) == text


@pytest.mark.parametrize(
    ("dialect", "sql", "names"),
    [
        (MYSQL, "SELECT `a``b`", ["`a``b`"]),
        (POSTGRESQL, 'SELECT "a""b"', ['"a""b"']),
        (SQLITE, 'SELECT [a b], "c", `d`', ["[a b]", '"c"', "`d`"]),
    ],
)
def test_quoted_names_belong_to_their_dialect(dialect: Dialect, sql: str, names: list[str]) -> None:
    assert texts(sql, dialect, Kind.QUOTED_NAME) == names


@pytest.mark.parametrize(
    ("dialect", "sql", "comments"),
    [
        (MYSQL, "1 # a\n+ 1", ["# a"]),
        (POSTGRESQL, "1 # 2", []),
        (MYSQL, "1 -- a\n", ["-- a"]),
        (MYSQL, "1 --", ["--"]),
        (MYSQL, "1 --\t a", ["--\t a"]),
        (POSTGRESQL, "1 --a\n", ["--a"]),
        (POSTGRESQL, "1 --a\r+ 1", ["--a"]),
        (MYSQL, "1 -- a\r+ 1", ["-- a\r+ 1"]),
        (SQLITE, "1 --a\r+ 1", ["--a\r+ 1"]),
        (SQLITE, "1 --a\n", ["--a"]),
        (MYSQL, "/* /* */ 1", ["/* /* */"]),
        (POSTGRESQL, "/* /* */ 1 */ 2", ["/* /* */ 1 */"]),
        (SQLITE, "/* /* */ 1", ["/* /* */"]),
        (MYSQL, "/*!50000 x */", ["/*!50000 x */"]),
    ],
)
def test_comments_begin_and_end_where_the_server_says(dialect: Dialect, sql: str, comments: list[str]) -> None:
    assert texts(sql, dialect, Kind.COMMENT) == comments


@pytest.mark.parametrize("sql", ["SELECT 1--1", "SELECT 1 --\u00a01", "SELECT 1 --\u3000x", "SELECT 1 --\x1fx"])
def test_two_dashes_without_a_blank_are_refused_for_mysql_which_takes_them_for_two_signs(sql: str) -> None:
    with pytest.raises(SQLTextError):
        list(tokens(sql, MYSQL))


@pytest.mark.parametrize("letter", ["\u00a0", "\u3000", "\u2003", "\u0085", "€", "😀", "，"])
def test_what_is_not_ascii_is_part_of_a_word_as_for_the_servers(letter: str) -> None:
    for dialect in ALL:
        assert texts(f"a{letter}b c", dialect, Kind.WORD) == [f"a{letter}b", "c"]
    assert texts(f"SELECT 1 AS {letter}$$, 2 AS b$$", POSTGRESQL, Kind.TEXT) == []


@pytest.mark.parametrize("between", ["\n", " \n ", " -- x\n", "/* x */\n"])
def test_a_text_that_continues_an_escaped_one_is_refused(between: str) -> None:
    with pytest.raises(SQLTextError):
        list(tokens(f"SELECT E'a'{between}'b\\' , '", POSTGRESQL))
    assert texts(f"SELECT 'a'{between}'b'", POSTGRESQL, Kind.TEXT) == ["'a'", "'b'"]


@pytest.mark.parametrize(
    ("dialect", "sql"),
    [
        *((dialect, sql) for dialect in ALL for sql in ("'a", '"a', "/* a", "{{ ds", "a\0b", "'a''")),
        (MYSQL, "`a"),
        (MYSQL, "'a\\'"),
        (POSTGRESQL, "$$ a"),
        (POSTGRESQL, "$a$ b $$"),
        (POSTGRESQL, "/* /* a */"),
        (SQLITE, "[a"),
    ],
)
def test_what_is_never_closed_is_refused_with_its_line(dialect: Dialect, sql: str) -> None:
    with pytest.raises(SQLTextError) as caught:
        list(tokens(f"SELECT 1,\n  {sql}", dialect))
    assert "2" in str(caught.value) or "\0" in sql


def test_names_are_found_outside_of_text_and_comments_only() -> None:
    sql = "SELECT {{ ds }}, '{{ ds }}', `{{ ds }}` -- {{ ds }}"
    assert texts(sql, MYSQL, Kind.NAME) == ["{{ ds }}"]


def test_a_dollar_inside_a_word_opens_no_quote() -> None:
    assert texts("SELECT a$b$c, $1", POSTGRESQL, Kind.WORD) == ["SELECT", "a$b$c", "$1"]


def test_line_of_counts_from_one() -> None:
    assert [line_of("a\nb\nc", at) for at in (0, 1, 2, 4)] == [1, 1, 2, 3]


@pytest.mark.parametrize("end", ["", ";", " ; ", ";;\n", "\t;\r\n"])
def test_semicolons_and_blanks_at_the_end_are_taken_off(end: str) -> None:
    assert strip_end(f"SELECT 1{end}") == "SELECT 1"
