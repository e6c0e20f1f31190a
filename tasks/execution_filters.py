"""What the list of executions can be narrowed by, so that it stays fast with a million of them."""

from collections.abc import Iterator
from typing import Any

from django.contrib import admin
from django.db import connection
from django.db.models import CharField, F, Q, QuerySet, Value
from django.db.models.functions import Concat
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _

from tasks.dashboard_parts import BAD, OTHER, several
from tasks.models import Execution, ExportTask
from tasks.states import UNFINISHED, Status

# Above these a list of numbers is no help any more: so many runs are soon met when looking from the newest on.
MOST_TASKS = 20
MOST_FILES = 5000  # also: runs that have not ended
EXACT = "status__exact"  # how other pages ask for one state


class StateFilter(admin.SimpleListFilter):
    """One state, or several that people think of together."""

    title = _("state")
    parameter_name = "status__in"

    def __init__(self, request: HttpRequest, params: dict[str, Any], model: Any, model_admin: Any) -> None:
        if EXACT in params:
            params[self.parameter_name] = params.pop(EXACT)
        super().__init__(request, params, model, model_admin)

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [
            (several(UNFINISHED), _("not ended yet")),
            *((state.value, state.label) for state in UNFINISHED),
            (Status.SUCCEEDED.value, Status.SUCCEEDED.label),
            (several(BAD), _("failed or timed out")),
            *((state.value, state.label) for state in BAD),
            (several(OTHER), _("cancelled, missed or skipped")),
            *((state.value, state.label) for state in OTHER),
        ]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Execution]) -> QuerySet[Execution]:
        value = self.value()
        if not value:
            return queryset
        chosen = queryset.filter(status__in=value.split(","))
        if value != several(UNFINISHED):
            return chosen
        # Few, if any: looking for them from the newest run on would go through the whole log.
        numbers = list(chosen.order_by().values_list("pk", flat=True)[: MOST_FILES + 1])
        return queryset.filter(pk__in=numbers) if len(numbers) <= MOST_FILES else chosen

    def choices(self, changelist: Any) -> Iterator[Any]:
        chosen = self.value()
        lines = [(None, _("All")), *self.lookup_choices]
        for value, label in lines:
            address = changelist.get_query_string({self.parameter_name: value}, remove=[EXACT])
            yield {"selected": chosen == value, "query_string": address, "display": label}


def search(runs: QuerySet[Execution], user: Any, words: str) -> QuerySet[Execution]:
    """The runs that `words` mean: #number; else those of the tasks with the words in their names; else those whose file
    name begins so. A task's name of another time is found by its files."""
    number = words.removeprefix("#")
    if number.isascii() and number.isdecimal() and len(number) < 19:
        found = runs.filter(pk=int(number))
        if words.startswith("#") or found.exists():
            return found
    tasks = _tasks_of(user, words)
    if tasks:
        return _of_tasks(runs, tasks)
    return _with_file(runs, words)


def _tasks_of(user: Any, words: str) -> list[int]:
    named = ExportTask.objects.for_user(user)
    for word in words.split():
        named = named.filter(name__icontains=word)
    return list(named.order_by("pk").values_list("pk", flat=True))


def _of_tasks(runs: QuerySet[Execution], tasks: list[int]) -> QuerySet[Execution]:
    if len(tasks) <= MOST_TASKS:
        return runs.filter(task__in=tasks)
    # Not through the index of tasks: all their runs would have to be sorted.
    return runs.alias(of_task=F("task_id") + 0).filter(of_task__in=tasks)


def _with_file(runs: QuerySet[Execution], beginning: str) -> QuerySet[Execution]:
    # Of all runs: the index of names alone answers that, while `runs` may be narrowed by what no index has with it.
    named = Execution.objects.order_by().filter(_begins(beginning))
    numbers = list(named.values_list("pk", flat=True)[: MOST_FILES + 1])
    if len(numbers) <= MOST_FILES:
        return runs.filter(pk__in=numbers)
    name = Concat("filename", Value(""), output_field=CharField())
    return runs.alias(name=name).filter(name__startswith=beginning)


def _begins(beginning: str) -> Q:
    """In the words that let each database use its index of names."""
    if connection.vendor == "sqlite":
        return Q(filename__gte=beginning, filename__lt=beginning + chr(0x10FFFF))
    # Django's startswith is a comparison of bytes in MySQL, and the index is none of bytes.
    return Q(filename__istartswith=beginning) if connection.vendor == "mysql" else Q(filename__startswith=beginning)
