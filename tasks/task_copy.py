"""A copy of a task: what the form for a new one is filled with."""

from itertools import count
from typing import Any

from django.utils.translation import gettext as _

from exporter_site.fields import Undecryptable
from notifications.models import NotificationRule
from tasks.models import ExportTask

# What is the new task's own, or is never shown.
_LEFT_OUT = ("id", "name", "next_run_at", "dingtalk_webhook", "dingtalk_secret", "created_at", "updated_at")


def fields_of(task: ExportTask) -> dict[str, Any]:
    """Initial values of the form for a copy of `task`: everything but its secrets."""
    fields = (field for field in ExportTask._meta.concrete_fields if field.name not in _LEFT_OUT)
    return {"name": free_name(task.name), **{field.name: field.value_from_object(task) for field in fields}}


def free_name(name: str) -> str:
    """A name for a copy that no task has."""
    longest = ExportTask._meta.get_field("name").max_length or 200
    for number in count(1):
        mark = _("(copy)") if number == 1 else _("(copy {number})").format(number=number)
        found = f"{name[: longest - len(mark) - 1]} {mark}"
        if not ExportTask.objects.filter(name=found).exists():
            return found
    raise AssertionError("numbers do not end")


def rules_of(task: ExportTask) -> list[dict[str, Any]]:
    """Initial values of the forms for the rules of a copy."""
    rules = NotificationRule.objects.filter(task=task).values("channel", "events", "template")
    return [dict(rule) for rule in rules]


def has_secrets(task: ExportTask) -> bool:
    """Whether something must be entered again; also when it can't be read."""
    return any(value or isinstance(value, Undecryptable) for value in (task.dingtalk_webhook, task.dingtalk_secret))
