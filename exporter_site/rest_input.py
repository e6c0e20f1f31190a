"""What the API takes from a request: its body, filters, pages, order. What is wrong with it is said in words at its field.

Apart from rest.py because the settings name these classes, and the framework's views read the settings.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any

from django import forms
from django.core.exceptions import ValidationError
from django.utils.translation import gettext as _
from django_filters import rest_framework as filters
from django_filters.fields import MultipleChoiceField
from drf_spectacular.utils import extend_schema_field
from rest_framework import exceptions
from rest_framework.filters import OrderingFilter
from rest_framework.negotiation import DefaultContentNegotiation
from rest_framework.pagination import PageNumberPagination
from rest_framework.parsers import JSONParser
from rest_framework.request import Request

LAST_ID = (1 << 63) - 1  # BigAutoField: no database takes more
MOST_DEPTH = 20  # of objects and lists in a body
_NO_TEXT = re.compile("[\0\ud800-\udfff]")


def whole_number(name: str, text: str) -> int:
    """`text`, from 1. Raises ValidationError at the field `name`."""
    if not text.isascii() or not text.isdecimal() or not int(text[:20]):
        raise exceptions.ValidationError({name: [_("A whole number from 1 is expected.")]})
    return min(int(text[:20]), LAST_ID)


class Pages(PageNumberPagination):
    page_size = 20
    page_size_query_param = "page_size"
    page_size_query_description = "how many to a page; more than 200 are 200"
    max_page_size = 200

    def get_page_number(self, request: Request, paginator: Any) -> int:
        return whole_number("page", request.query_params.get("page", "1"))

    def get_page_size(self, request: Request) -> int:
        wanted = request.query_params.get("page_size")
        return self.page_size if wanted is None else min(whole_number("page_size", wanted), self.max_page_size)

    def paginate_queryset(self, queryset: Any, request: Request, view: Any = None) -> list[Any] | None:
        try:
            return super().paginate_queryset(queryset, request, view)
        except exceptions.NotFound:
            raise no_such_page() from None

    def get_schema_operation_parameters(self, view: Any) -> list[dict[str, Any]]:
        found = super().get_schema_operation_parameters(view)
        for parameter in found:
            parameter["schema"] |= {"minimum": 1}
        return found


def no_such_page() -> exceptions.NotFound:
    return exceptions.NotFound(_("There are not so many pages."), "no_such_page")


class Ordering(OrderingFilter):
    """`ordering=name`, `ordering=-id`. Rows that are equal in it come by their number, so that pages do not overlap.

    A view's `ordering_fields` are the names, or {name: field of the model}.
    """

    ordering_description = "what to sort by; with - in front: backwards"

    def get_ordering(self, request: Request, queryset: Any, view: Any) -> Sequence[str] | None:
        text = request.query_params.get(self.ordering_param, "")
        if not text:
            return super().get_ordering(request, queryset, view)
        known = self._known(view)
        wanted = [name.strip() for name in text.split(",")]
        for name in wanted:
            if name.removeprefix("-") not in known:
                raise exceptions.ValidationError(
                    {self.ordering_param: [_("Unknown. Known are: {names}.").format(names=", ".join(known))]}
                )
        order = [("-" if name.startswith("-") else "") + known[name.removeprefix("-")] for name in wanted]
        if "id" not in (name.removeprefix("-") for name in order):
            # In the same direction, so that one index serves both.
            order.append("-id" if order[-1].startswith("-") else "id")
        return order

    def _known(self, view: Any) -> Mapping[str, str]:
        fields = getattr(view, "ordering_fields", ())
        return fields if isinstance(fields, Mapping) else {name: name for name in fields}

    def get_schema_operation_parameters(self, view: Any) -> list[dict[str, Any]]:
        names = [sign + name for name in self._known(view) for sign in ("", "-")]
        if not names:
            return []
        return [
            {
                "name": self.ordering_param,
                "in": "query",
                "required": False,
                "description": self.ordering_description,
                "style": "form",
                "explode": False,
                "schema": {"type": "array", "items": {"type": "string", "enum": names}},
            }
        ]


class _IdField(forms.IntegerField):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs | {"min_value": 0, "max_value": LAST_ID})


@extend_schema_field({"type": "integer", "minimum": 0, "maximum": LAST_ID})
class IdFilter(filters.NumberFilter):
    """The number of a row. What is no such number is refused, not rounded."""

    field_class = _IdField  # type: ignore[assignment]  # the library wants its own kind of field

    def get_max_validator(self) -> None:
        return None


class _YesNoField(forms.Field):
    def to_python(self, value: Any) -> bool | None:
        if value in (None, ""):
            return None
        known = {"true": True, "1": True, "false": False, "0": False}
        if str(value).lower() not in known:
            raise ValidationError(_("true or false is expected."))
        return known[str(value).lower()]


class YesNoFilter(filters.BooleanFilter):
    """true or false; anything else is refused, where the library's own filter would show everything."""

    field_class = _YesNoField  # type: ignore[assignment]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, widget=forms.TextInput, **kwargs)


class _ChoicesField(MultipleChoiceField):
    def to_python(self, value: Any) -> list[str]:
        return [text for text in super().to_python(value) if text]


class ChoicesFilter(filters.MultipleChoiceFilter):
    """One or several of the choices; an empty one is none, as with the other filters."""

    field_class = _ChoicesField

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # No row is found twice by a column of its own; to make sure of it, a database sorts all that it finds.
        super().__init__(*args, distinct=False, **kwargs)


class WordFilter(filters.CharFilter):
    """A text of no more than 200 characters."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, max_length=200, **kwargs)


class StrictJSON(JSONParser):
    """JSON that every database can hold: what none, or only some of them can, is refused in words."""

    def parse(self, stream: IO[bytes], media_type: str | None = None, parser_context: Any = None) -> Any:
        try:
            data = json.loads(stream.read().decode("utf-8-sig"), parse_constant=_no_constant)
        except (ValueError, RecursionError) as exc:
            where = (
                _("line {line}, column {column}").format(line=exc.lineno, column=exc.colno)
                if isinstance(exc, json.JSONDecodeError)
                else ""
            )
            words = _("The body is not valid JSON.")
            raise exceptions.ParseError(f"{words} {where}".strip()) from None
        faults: dict[str, list[str]] = {}
        for name, words in _unstorable(data):
            faults.setdefault(name or "non_field_errors", []).append(words)
        if faults:
            raise exceptions.ValidationError(faults)
        return data


def _no_constant(name: str) -> None:
    raise ValueError(name)  # NaN and Infinity are no JSON


def _unstorable(data: Any) -> Iterator[tuple[str, str]]:
    """(dotted name, words) for each text and number that not every database holds, and what is nested too deeply."""
    waiting = [("", data, 0)]
    while waiting:
        name, value, depth = waiting.pop()
        texts = [value] if isinstance(value, str) else list(value) if isinstance(value, dict) else []
        if any(_NO_TEXT.search(text) for text in texts):
            yield _printable(name), _("Null characters and halves of surrogate pairs are not allowed.")
        if isinstance(value, float) and not math.isfinite(value):
            yield name, _("This number is too large.")
        inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        if inner and depth == MOST_DEPTH:
            yield name.partition(".")[0], _("This is nested too deeply.")
        else:
            waiting += [(f"{name}.{key}" if name else str(key), item, depth + 1) for key, item in inner]


def _printable(name: str) -> str:
    """A name for the answer: it may itself hold what can't be sent."""
    return name.encode("utf-8", "replace").decode().replace("\0", "?")


class AnyType(DefaultContentNegotiation):
    """For files: who asks for one gets it, whatever Accept says."""

    def select_renderer(self, request: Request, renderers: Any, format_suffix: str | None = None) -> Any:
        return renderers[0], renderers[0].media_type
