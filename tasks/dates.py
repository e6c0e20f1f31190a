"""The `{{ … }}` names in SQL and file names: dates counted from the planned time, never from the clock.

In SQL each name becomes a bound value. A name inside a string literal ('{{ ds }} 00:00:00') makes the whole literal
one bound value, so that quotes around a name, which everybody writes, do no harm.
"""

import calendar
import difflib
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

from django.utils.translation import gettext as _

from datasources.connectors.base import BoundValue, Query
from datasources.sqltext import Dialect, Kind, SQLFault, SQLTextError, Token, line_of, strip_end, tokens


class UnknownName(SQLFault):
    """A `{{ … }}` name can't be used; the text says which, and the nearest known one."""


def _month_start(day: date) -> date:
    return day.replace(day=1)


def _month_end(day: date) -> date:
    return day.replace(day=calendar.monthrange(day.year, day.month)[1])


def _week_start(day: date) -> date:
    return day - timedelta(days=day.weekday())  # Monday, as in China and ISO 8601


def _last_month(day: date) -> date:
    return _month_start(day) - timedelta(days=1)


DAYS: dict[str, Callable[[date], date]] = {
    "ds": lambda day: day,
    "ds_nodash": lambda day: day,
    "yesterday": lambda day: day - timedelta(days=1),
    "tomorrow": lambda day: day + timedelta(days=1),
    "month_start": _month_start,
    "month_end": _month_end,
    "last_month_start": lambda day: _month_start(_last_month(day)),
    "last_month_end": _last_month,
    "week_start": _week_start,
    "last_week_start": lambda day: _week_start(day) - timedelta(days=7),
    "last_week_end": lambda day: _week_start(day) - timedelta(days=1),
}
NAMES = (*DAYS, "now")

_EXPRESSION = re.compile(r"\s*(?:params\.(?P<param>\w+)|(?P<name>\w+)\s*(?:(?P<sign>[+-])\s*(?P<days>\d{1,5}))?)\s*")
# Not across another {{: of many that are never closed, each would be followed to the end of the text.
_BRACES = re.compile(r"\{\{((?:(?!\{\{|\}\}).)*)\}\}", re.DOTALL)
# `date '…'` and the like: the server wants a literal behind the word, not a value.
_TYPED_LITERALS = {"DATE", "TIME", "TIMESTAMP", "TIMESTAMPTZ", "INTERVAL"}


def value(expression: str, planned: datetime, params: Mapping[str, BoundValue]) -> BoundValue:
    """The value of what stands between the braces. `planned` is in the task's zone.

    Raises UnknownName for an unknown name or a parameter without a value.
    """
    match = _parse(expression)
    if match["param"]:
        if match["param"] not in params:
            raise UnknownName(
                _(
                    "The parameter “{name}” has no value. Give one with --param {name}=…, or a default in the task."
                ).format(name=match["param"])
            )
        return params[match["param"]]
    shift = timedelta(days=int(match["days"] or 0) * (-1 if match["sign"] == "-" else 1))
    try:
        if match["name"] == "now":
            return (planned + shift).strftime("%Y-%m-%d %H:%M:%S")
        day = DAYS[match["name"]](planned.date()) + shift
    except OverflowError:
        raise UnknownName(_("`{{{{{name}}}}}` lies outside the calendar.").format(name=expression)) from None
    return day.strftime("%Y%m%d" if match["name"] == "ds_nodash" else "%Y-%m-%d")


def _parse(expression: str) -> re.Match[str]:
    match = _EXPRESSION.fullmatch(expression)
    if match and (match["param"] or match["name"] in NAMES):
        return match
    word = expression.strip()
    near = difflib.get_close_matches(match["name"] if match else word, NAMES, n=1)
    hint = _(" Did you mean `{{{{ {near} }}}}`?").format(near=near[0]) if near else ""
    known = ", ".join(NAMES)
    raise UnknownName(
        _("`{{{{ {name} }}}}` is not a known name. Known are {known}, each with + or - days, and params.NAME.").format(
            name=word, known=known
        )
        + hint
    )


def values_of(planned: datetime) -> dict[str, str]:
    """Every name with its value; `planned` is in the task's zone."""
    return {name: str(value(name, planned, {})) for name in NAMES}


def fill_text(template: str, planned: datetime, params: Mapping[str, BoundValue], extra: Mapping[str, str]) -> str:
    """A file name template with its names filled. `extra` are names that only file names know (task, time)."""

    def fill(match: re.Match[str]) -> str:
        word = match[1].strip()
        return extra[word] if word in extra else str(value(match[1], planned, params))

    return _BRACES.sub(fill, template)


def check_text(template: str, extra: tuple[str, ...]) -> None:
    """Raise UnknownName when `template` holds a name that is neither a date name nor in `extra`."""
    for match in _BRACES.finditer(template):
        if match[1].strip() not in extra:
            _parse(match[1])


def bind(sql: str, dialect: Dialect, planned: datetime, params: Mapping[str, BoundValue]) -> Query:
    """`sql` with its names taken out and their values beside it.

    `planned` is an aware time in the task's zone. Raises UnknownName or SQLTextError.
    """
    parts, values = [""], list[BoundValue]()
    for piece in _pieces(sql, dialect):
        if isinstance(piece, str):
            parts[-1] += piece
            continue
        values.append(_value_of(piece, sql, dialect, lambda text: value(text, planned, params)))
        parts.append("")
    return Query(tuple(parts), tuple(values))


def check_sql(sql: str, dialect: Dialect) -> list[str]:
    """The parameters that `sql` uses, in order. Raises UnknownName or SQLTextError when a name in it can't be filled."""
    used: list[str] = []

    def note(expression: str) -> BoundValue:
        param = _parse(expression)["param"]
        if param and param not in used:
            used.append(param)
        return ""

    for piece in _pieces(sql, dialect):
        if not isinstance(piece, str):
            _value_of(piece, sql, dialect, note)
    return used


def _pieces(sql: str, dialect: Dialect) -> Iterator[str | Token]:
    """Plain SQL as text; each name, and each literal with names in it, as its token. Comments keep their names."""
    before, adjacent = "", Kind.SPACE
    for token in tokens(strip_end(sql), dialect):
        if {token.kind, adjacent} == {Kind.NAME, Kind.WORD}:
            # orders_{{ ds }} would reach the server as orders_'2025-01-31': MySQL reads that as a name and its alias.
            raise SQLTextError(
                _(
                    "Line {line}: {{{{ … }}}} is a value and can't be part of a column's or table's name. Put a blank between it and a word."
                ).format(line=line_of(sql, token.start)),
                line_of(sql, token.start),
            )
        adjacent = token.kind
        named = token.kind is Kind.NAME or (token.kind is Kind.TEXT and _BRACES.search(token.text))
        if token.kind is Kind.QUOTED_NAME and _BRACES.search(token.text):
            raise SQLTextError(
                _("Line {line}: {{{{ … }}}} is a value and can't be part of a column's or table's name.").format(
                    line=line_of(sql, token.start)
                ),
                line_of(sql, token.start),
            )
        if named and before in _TYPED_LITERALS and not dialect.double_quote_is_text:
            raise SQLTextError(
                _("Line {line}: write CAST({{{{ … }}}} AS {word}) instead of {word} '{{{{ … }}}}'.").format(
                    line=line_of(sql, token.start), word=before
                ),
                line_of(sql, token.start),
            )
        yield token if named else token.text
        if token.kind not in (Kind.SPACE, Kind.COMMENT):
            before = token.text.upper()


def _value_of(token: Token, sql: str, dialect: Dialect, look_up: Callable[[str], BoundValue]) -> BoundValue:
    try:
        return _literal_value(token, dialect, look_up)
    except SQLFault as exc:
        exc.line = line_of(sql, token.start)
        raise


def _literal_value(token: Token, dialect: Dialect, look_up: Callable[[str], BoundValue]) -> BoundValue:
    if token.kind is Kind.NAME:
        return look_up(token.text[2:-2])
    quote = token.text[0]
    inner = token.text[1:-1]
    if quote == "$" or quote in _BRACES.sub("", inner) or (dialect.backslash_escapes and "\\" in inner):
        raise SQLTextError(
            _(
                "A text literal with {{ … }} in it can't hold quotes or backslashes. Put the name outside and join with CONCAT."
            )
        )
    whole = _BRACES.fullmatch(inner)
    if whole:
        return look_up(whole[1])
    return _BRACES.sub(lambda match: _in_text(look_up(match[1])), inner)


def _in_text(value: BoundValue) -> str:
    return "" if value is None else str(value)


def planned_in_zone(planned: datetime, timezone: str) -> datetime:
    return planned.astimezone(ZoneInfo(timezone))
