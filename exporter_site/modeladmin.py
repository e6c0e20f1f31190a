"""What our model admins share."""

from datetime import UTC, datetime, time
from typing import Any

from django import forms
from django.contrib import admin
from django.contrib.admin.options import IncorrectLookupParameters
from django.contrib.admin.views.main import PAGE_VAR
from django.core.paginator import InvalidPage
from django.http import HttpRequest
from django.utils import timezone
from unfold.admin import ModelAdmin
from unfold.contrib.filters.admin import AutocompleteSelectFilter, RangeDateTimeFilter
from unfold.views import ChangeList

from exporter_site.fields import SecretField
from exporter_site.paging import MOST_COUNTED, CappedPaginator


class OfferedLookups:
    """Lets a list be filtered through its address by what the list shows or offers: a hidden text, such as SQL, could
    otherwise be guessed letter by letter (?sql__startswith=…)."""

    def lookup_allowed(self, lookup: str, value: Any, request: HttpRequest) -> bool:
        fields = self.model._meta.concrete_fields  # type: ignore[attr-defined]  # of every model admin
        hidden = {field.name for field in fields if not field.is_relation and not field.primary_key}
        for name in (*self.get_list_display(request), *self.get_list_filter(request)):  # type: ignore[attr-defined]
            name = name[0] if isinstance(name, tuple) else getattr(name, "parameter_name", name)
            hidden.discard(str(name).partition("__")[0])
        allowed: bool = super().lookup_allowed(lookup, value, request)  # type: ignore[misc]
        return allowed and lookup.partition("__")[0] not in hidden


class ScopedAdmin(OfferedLookups):
    """Shows the rows of the data sources that are granted to the user, also where one is chosen or filtered by."""

    def get_queryset(self, request: HttpRequest) -> Any:
        queryset = super().get_queryset(request)  # type: ignore[misc]
        return queryset.for_user(request.user)

    def formfield_for_foreignkey(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        manager = db_field.remote_field.model._default_manager
        if hasattr(manager, "for_user") and "queryset" not in kwargs:
            kwargs["queryset"] = manager.for_user(request.user)
        return super().formfield_for_foreignkey(db_field, request, **kwargs)  # type: ignore[misc]


class LookedUpFilter(AutocompleteSelectFilter):  # type: ignore[misc]
    """A list's filter by one of very many rows, which is found by typing; the other page looks only among what is
    granted."""

    def choices(self, changelist: Any) -> Any:
        for choice in super().choices(changelist):
            field = choice["form"].fields[self.lookup_kwarg]
            field.queryset = field.queryset.for_user(self.request.user)
            yield choice


class TimesFilter(RangeDateTimeFilter):  # type: ignore[misc]
    """From one day to another, or from a time of it to one; written as the form writes them in the reader's language."""

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        name = self.parameter_name
        try:
            first, last = self._moment("from", time.min), self._moment("to", time.max)
        except (forms.ValidationError, OverflowError):
            return queryset.none()
        limits = {f"{name}__gte": first, f"{name}__lte": last}
        return queryset.filter(**{lookup: moment for lookup, moment in limits.items() if moment})

    def _moment(self, end: str, usual: time) -> datetime | None:
        written = [self.used_parameters.get(f"{self.parameter_name}_{end}_{part}") for part in (0, 1)]
        day = forms.DateField(required=False).clean(written[0])
        clock = forms.TimeField(required=False).clean(written[1])
        return timezone.make_aware(datetime.combine(day, clock or usual)).astimezone(UTC) if day else None


class ScopedFilter(admin.RelatedFieldListFilter):
    """A list's filter that names only what is granted."""

    def field_choices(self, field: Any, request: HttpRequest, model_admin: Any) -> Any:
        rows = field.remote_field.model._default_manager.for_user(request.user)
        return [(row.pk, str(row)) for row in rows]


class WriteOnlySecrets:
    """Where nothing can be changed, the admin shows what is stored: secrets are left out there."""

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        fieldsets = super().get_fieldsets(request, obj)  # type: ignore[misc]
        if obj is None or self.has_change_permission(request, obj):  # type: ignore[attr-defined]
            return fieldsets
        secret = {field.name for field in obj._meta.fields if isinstance(field, SecretField)}
        return [(title, {**options, "fields": _without(secret, options["fields"])}) for title, options in fieldsets]


def _without(names: set[str], fields: Any) -> tuple[Any, ...]:
    """`fields` of a fieldset, also within its lines, without `names`."""
    lines = (field if isinstance(field, str) else _without(names, field) for field in fields)
    return tuple(line for line in lines if line and line not in names)


class FormContextAdmin:
    """Gives the page of an object, or of a new one, what its template shows beside the form."""

    def form_context(self, request: HttpRequest, obj: Any) -> dict[str, Any]:
        """For the page of `obj`, or of a new object (`obj` is None). A subclass adds to what its parents give."""
        return {}

    def render_change_form(
        self,
        request: HttpRequest,
        context: dict[str, Any],
        add: bool = False,
        change: bool = False,
        form_url: str = "",
        obj: Any = None,
    ) -> Any:
        context |= self.form_context(request, obj)
        return super().render_change_form(request, context, add, change, form_url, obj)  # type: ignore[misc]


class SubmitActionsAdmin(OfferedLookups, WriteOnlySecrets, FormContextAdmin, ModelAdmin):  # type: ignore[misc]
    """Shows the buttons of `actions_submit_line` on the page of a new object too, where the theme has them only later; and
    not where nothing can be saved."""

    def get_actions_submit_line(self, request: HttpRequest, object_id: Any) -> Any:
        obj = self.get_object(request, str(object_id)) if object_id else None
        may = self.has_add_permission(request) if obj is None else self.has_change_permission(request, obj)
        return super().get_actions_submit_line(request, object_id) if may else []

    def form_context(self, request: HttpRequest, obj: Any) -> dict[str, Any]:
        added = super().form_context(request, obj)
        return (
            added if obj is not None else added | {"actions_submit_line": self.get_actions_submit_line(request, None)}
        )


class ViewOnly:
    """Nobody adds, changes or removes a row here."""

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


_NUMBERS = ("pk", "id")


class LogPaginator(CappedPaginator):
    template_name = "admin/log_pagination.html"


class LogChangeList(ChangeList):  # type: ignore[misc]  # untyped library
    """A page of a log, which may be long: the first ten thousand rows are counted, the others are leafed through."""

    def get_ordering(self, request: HttpRequest, queryset: Any) -> list[str]:
        """Rows that are equal in what they are sorted by come in the same direction: one index serves both, then."""
        order: dict[str, str] = {}
        for wanted in super().get_ordering(request, queryset):
            order.setdefault(wanted.removeprefix("-"), wanted)
        first, *others = order.values()
        if first.removeprefix("-") in _NUMBERS:
            return [first]
        others = [wanted for wanted in others if wanted.removeprefix("-") not in _NUMBERS]
        return [first, *others, "-pk" if [first, *others][-1].startswith("-") else "pk"]

    def get_results(self, request: HttpRequest) -> None:
        rows = self.queryset.defer(*self.model_admin.list_defer)
        paginator = self.model_admin.get_paginator(request, rows, self.list_per_page)
        try:
            page = paginator.page(self.page_num)
        except InvalidPage:
            raise IncorrectLookupParameters from None
        self.paginator, self.result_list, self.has_next = paginator, page.object_list, page.has_next()
        self.result_count = min(paginator.count, MOST_COUNTED)
        # As many as are counted: the page's head says nothing of a total then.
        self.full_result_count, self.show_full_result_count = self.result_count, False
        self.show_admin_actions = True
        self.can_show_all = False
        self.multi_page = paginator.num_pages > 1

    @property
    def first_url(self) -> str:
        return self._url_of(1) if self.page_num > 2 else ""

    @property
    def previous_url(self) -> str:
        return self._url_of(self.page_num - 1) if self.page_num > 1 else ""

    @property
    def next_url(self) -> str:
        return self._url_of(self.page_num + 1) if self.has_next else ""

    def _url_of(self, page: int) -> str:
        return str(self.get_query_string({PAGE_VAR: page}))


class LogAdmin(ViewOnly, FormContextAdmin, ModelAdmin):  # type: ignore[misc]
    paginator = LogPaginator
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER  # a count for each choice of each filter
    list_disable_select_all = True  # an action takes one page at most
    list_defer: tuple[str, ...] = ()  # wide fields that the list does not show

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return LogChangeList
