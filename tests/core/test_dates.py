"""The {{ … }} names: dates of the planned time, bound as values, in SQL of each dialect."""

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from datasources.connectors.base import BoundValue, Query
from datasources.sqltext import MYSQL, POSTGRESQL, SQLITE, Dialect, SQLTextError
from tasks import dates

pytestmark = pytest.mark.usefixtures("english")

SHANGHAI = ZoneInfo("Asia/Shanghai")
PLANNED = datetime(2024, 3, 13, 9, 30, tzinfo=SHANGHAI)  # a Wednesday
DIALECTS = [MYSQL, POSTGRESQL, SQLITE]


def every_dialect(test: object) -> object:
    return pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)(test)


def bind(sql: str, dialect: Dialect, **params: BoundValue) -> Query:
    return dates.bind(sql, dialect, PLANNED, params)


def shown(sql: str, dialect: Dialect, **params: BoundValue) -> tuple[str, tuple[BoundValue, ...]]:
    query = bind(sql, dialect, **params)
    return query.text(lambda number: f":{number}"), query.values


@pytest.mark.parametrize(
    ("name", "value"),
    {
        "ds": "2024-03-13",
        "ds_nodash": "20240313",
        "yesterday": "2024-03-12",
        "tomorrow": "2024-03-14",
        "month_start": "2024-03-01",
        "month_end": "2024-03-31",
        "last_month_start": "2024-02-01",
        "last_month_end": "2024-02-29",
        "week_start": "2024-03-11",
        "last_week_start": "2024-03-04",
        "last_week_end": "2024-03-10",
        "now": "2024-03-13 09:30:00",
    }.items(),
)
def test_every_name(name: str, value: str) -> None:
    assert name in dates.NAMES
    for spelling in (name, f" {name} ", f"\n{name}\t"):
        assert dates.value(spelling, PLANNED, {}) == value


def test_no_name_is_untested() -> None:
    assert len(dates.NAMES) == 12


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("ds - 7", "2024-03-06"),
        ("ds+1", "2024-03-14"),
        ("ds -0", "2024-03-13"),
        ("ds_nodash - 13", "20240229"),
        ("month_start - 1", "2024-02-29"),
        ("month_end + 1", "2024-04-01"),
        ("now - 1", "2024-03-12 09:30:00"),
        ("ds - 99999", "1750-05-30"),
    ],
)
def test_days_can_be_added_and_taken_away(expression: str, value: str) -> None:
    assert dates.value(expression, PLANNED, {}) == value


def test_the_day_is_that_of_the_tasks_zone() -> None:
    utc = datetime(2024, 12, 31, 17, 0, tzinfo=ZoneInfo("UTC"))
    for zone, day in (("Asia/Shanghai", "2025-01-01"), ("America/New_York", "2024-12-31")):
        assert dates.value("ds", dates.planned_in_zone(utc, zone), {}) == day


@pytest.mark.parametrize(("day", "monday"), [(11, "2024-03-11"), (17, "2024-03-11"), (18, "2024-03-18")])
def test_weeks_begin_on_monday(day: int, monday: str) -> None:
    assert dates.value("week_start", PLANNED.replace(day=day), {}) == monday


@pytest.mark.parametrize(
    ("expression", "near"),
    [
        ("yesterdy", "yesterday"),
        ("month_strat", "month_start"),
        ("DS", ""),
        ("ds * 2", ""),
        ("ds - x", ""),
        ("", ""),
        ("ds - 123456", ""),
        ("params.", ""),
        ("ds.x", ""),
        ("nov", "now"),
        ("__class__", ""),
    ],
)
def test_unknown_names_are_refused_with_the_nearest(expression: str, near: str) -> None:
    with pytest.raises(dates.UnknownName) as caught:
        dates.value(expression, PLANNED, {})
    assert f"Did you mean `{{{{ {near} }}}}`?" in str(caught.value) or not near
    with pytest.raises(dates.UnknownName):
        dates.check_sql(f"SELECT {{{{ {expression} }}}}", MYSQL)
    with pytest.raises(dates.UnknownName):
        dates.check_text(f"x_{{{{ {expression} }}}}", ("task",))


def test_a_day_outside_the_calendar_is_refused() -> None:
    with pytest.raises(dates.UnknownName, match="outside the calendar"):
        dates.value("ds - 1", PLANNED.replace(year=1, month=1, day=1), {})


@every_dialect
def test_a_name_becomes_a_bound_value(dialect: Dialect) -> None:
    sql = "SELECT * FROM t WHERE a >= {{ ds - 1 }} AND a < {{ds}};\n"
    assert shown(sql, dialect) == ("SELECT * FROM t WHERE a >= :1 AND a < :2", ("2024-03-12", "2024-03-13"))


@every_dialect
@pytest.mark.parametrize(
    ("literal", "value"),
    [
        ("'{{ ds }}'", "2024-03-13"),
        ("'{{ ds }} 00:00:00'", "2024-03-13 00:00:00"),
        ("'{{ ds }}~{{ tomorrow }}'", "2024-03-13~2024-03-14"),
        ("'%{{ ds_nodash }}%'", "%20240313%"),
        ("'{{ params.city }}市'", "北京市"),
        ("'[{{ params.none }}]'", "[]"),
    ],
)
def test_a_literal_with_names_becomes_one_bound_value(dialect: Dialect, literal: str, value: str) -> None:
    assert shown(f"SELECT {literal}, 'x' FROM t", dialect, city="北京", none=None) == (
        "SELECT :1, 'x' FROM t",
        (value,),
    )


def test_double_quotes_are_text_in_mysql_and_a_name_elsewhere() -> None:
    assert shown('SELECT "{{ ds }}"', MYSQL) == ("SELECT :1", ("2024-03-13",))
    for dialect in (POSTGRESQL, SQLITE):
        with pytest.raises(SQLTextError, match="can't be part of a column's or table's name"):
            bind('SELECT "{{ ds }}"', dialect)


@pytest.mark.parametrize(
    ("sql", "dialect"),
    [
        ("SELECT `a_{{ ds }}`", MYSQL),
        ("SELECT `{{ ds }}`", SQLITE),
        ("SELECT [{{ ds }}]", SQLITE),
        ('SELECT\n"{{ ds }}"', POSTGRESQL),
    ],
)
def test_names_in_quoted_identifiers_are_refused(sql: str, dialect: Dialect) -> None:
    with pytest.raises(SQLTextError, match=r"Line \d"):
        bind(sql, dialect)


@every_dialect
@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM orders_{{ ds_nodash }}",
        "SELECT {{ ds }}x",
        "SELECT 1{{ params.n }}",
        "SELECT a FROM {{ params.n }}_t",
    ],
)
def test_a_name_can_not_be_glued_to_a_word(dialect: Dialect, sql: str) -> None:
    with pytest.raises(SQLTextError, match="can't be part of a column's or table's name"):
        bind(sql, dialect, n=1)
    with pytest.raises(SQLTextError):
        dates.check_sql(sql, dialect)


@every_dialect
def test_comments_keep_their_names(dialect: Dialect) -> None:
    sql = "SELECT 1 -- for {{ ds }} and {{ unknown }}\n/* {{ tomorrow }} */ + {{ params.n }}"
    assert shown(sql, dialect, n=2) == (sql.replace("{{ params.n }}", ":1"), (2,))
    assert dates.check_sql(sql, dialect) == ["n"]


def test_a_hash_begins_a_comment_in_mysql_only() -> None:
    assert shown("SELECT 1 # {{ ds }}", MYSQL) == ("SELECT 1 # {{ ds }}", ())
    assert shown("SELECT 1 # {{ ds }}", POSTGRESQL)[1] == ("2024-03-13",)


@pytest.mark.parametrize("word", ["DATE", "date", "Timestamp", "TIME", "INTERVAL", "timestamptz"])
def test_typed_literals_want_a_cast_where_values_are_bound_by_the_server(word: str) -> None:
    for quoted in ("{{ ds }}", "'{{ ds }}'", "\n'{{ ds }} 00:00'"):
        sql = f"SELECT {word} {quoted}"
        with pytest.raises(SQLTextError, match=f"write CAST.* AS {word.upper()}"):
            bind(sql, POSTGRESQL)
        assert bind(sql, MYSQL).values
    assert shown(f"SELECT {word} '2024-01-01', {{{{ ds }}}}", POSTGRESQL)[1] == ("2024-03-13",)


@pytest.mark.parametrize(
    ("sql", "dialect"),
    [
        ("SELECT 'it''s {{ ds }}'", MYSQL),
        ("SELECT 'it\\'s {{ ds }}'", MYSQL),
        ("SELECT 'a\\n{{ ds }}'", MYSQL),
        ("SELECT $${{ ds }}$$", POSTGRESQL),
        ("SELECT $tag$ {{ ds }} $tag$", POSTGRESQL),
    ],
)
def test_literals_that_would_have_to_be_unescaped_are_refused(sql: str, dialect: Dialect) -> None:
    with pytest.raises(SQLTextError, match="CONCAT"):
        bind(sql, dialect)


def test_values_are_never_read_again_and_never_become_sql() -> None:
    attack = "x' OR 1=1 -- {{ ds }}"
    for sql in ("SELECT {{ params.a }}", "SELECT '{{ params.a }}'"):
        assert shown(sql, MYSQL, a=attack) == ("SELECT :1", (attack,))
    assert shown("SELECT '<{{ params.a }}>'", MYSQL, a=attack) == ("SELECT :1", (f"<{attack}>",))


def test_parameters_keep_their_type_and_must_have_a_value() -> None:
    assert shown("SELECT {{ params.n }}, {{ params.x }}", SQLITE, n=5, x=None)[1] == (5, None)
    with pytest.raises(dates.UnknownName, match="“missing” has no value"):
        bind("SELECT {{ params.missing }}", SQLITE)


@every_dialect
def test_checking_lists_the_parameters_in_order_without_values(dialect: Dialect) -> None:
    sql = "SELECT {{ params.b }}, '{{ params.a }} {{ params.b }}', {{ ds }}, '{{ now }}' -- {{ params.c }}"
    assert dates.check_sql(sql, dialect) == ["b", "a"]


@every_dialect
@pytest.mark.parametrize("sql", ["SELECT {{ ds", "SELECT 'open {{ ds }}", "SELECT /* {{ ds }}"])
def test_what_is_never_closed_is_refused(dialect: Dialect, sql: str) -> None:
    with pytest.raises(SQLTextError):
        bind(sql, dialect)


def test_file_names_are_filled_once() -> None:
    extra = {"task": "{{ ds }} 日报", "time": "0930"}
    filled = dates.fill_text("{{ task }}_{{ds_nodash}}_{{ time }}_{{ params.n }}", PLANNED, {"n": "x"}, extra)
    assert filled == "{{ ds }} 日报_20240313_0930_x"
    dates.check_text("{{ task }}_{{ ds - 1 }}_{{ params.any }}", ("task",))
