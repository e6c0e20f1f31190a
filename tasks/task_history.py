"""Who changed what in a task and its notification rules, as readable differences, and a way back to any earlier version.

The versions are made of the audit: each change holds what was before. What the audit does not hold, secrets above all, is
never brought back; nor are rules, which are rows of their own.
"""

import difflib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from django.contrib.auth import get_user_model
from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models import Q
from django.utils import timezone
from django.utils.translation import gettext as _

from datasources.models import DataSource
from exporter_site.access import audit
from exporter_site.access.models import AuditEvent, AuditEventQuerySet
from exporter_site.access.scope import ALL_SOURCES
from exporter_site.fields import SecretField
from notifications.messages import event_words
from notifications.models import Channel, NotificationRule
from tasks.execution_admin import SEE_SQL
from tasks.models import ExportTask

_SQL_FIELDS = ("sql", "params")
_NEVER = ("id", "next_run_at", "created_at", "updated_at")
_FIELDS = {field.attname: field for field in ExportTask._meta.concrete_fields if field.name not in _NEVER}
_RULE_FIELDS = {
    field.attname: field for field in NotificationRule._meta.concrete_fields if field.name not in ("id", "task")
}
_SHOWN = _FIELDS | _RULE_FIELDS
_SECRET = {name for name, field in _FIELDS.items() if isinstance(field, SecretField)}
_AROUND = 3  # lines that stay the same, shown around those that do not
_MOST_LINES = 3000  # of a text; comparing longer ones takes seconds


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a text: `sign` is + for one that came, - for one that went, … for some that are left out."""

    sign: str
    text: str

    @property
    def kind(self) -> str:
        return {"+": "new", "-": "old", "…": "gap"}.get(self.sign, "same")


@dataclass(frozen=True, slots=True)
class Change:
    """Of a field: two short values or the lines of a long one; neither, if they may not be shown."""

    label: str
    before: str = ""
    after: str = ""
    lines: tuple[Line, ...] = ()
    is_hidden: bool = False


@dataclass(frozen=True, slots=True)
class Entry:
    event: AuditEvent
    changes: list[Change]
    is_current: bool

    @property
    def is_version(self) -> bool:
        """Whether it is about the task itself, not about one of its rules."""
        return self.event.subject_type == ExportTask._meta.label_lower


def events_of(task: ExportTask) -> AuditEventQuerySet:
    """Its creation and changes, each of which made a version, the newest first."""
    return AuditEvent.objects.about(task).filter(action__in=(audit.Action.CREATE, audit.Action.EDIT)).order_by("-id")


def events_with_rules(task: ExportTask) -> AuditEventQuerySet:
    """The same, and what became of the rules that it has or had."""
    rules = AuditEvent.objects.filter(subject_type=NotificationRule._meta.label_lower)
    # Which rules were its own is written where one was made or deleted.
    own = rules.filter(Q(changes__task_id__0=task.pk) | Q(changes__task_id__1=task.pk))
    return events_of(task) | rules.filter(subject_number__in=own.values("subject_number"))


def entries(task: ExportTask, events: Iterable[AuditEvent], user: Any) -> list[Entry]:
    """`events` as `user` may see them."""
    rows = list(events)
    newest = events_of(task).values_list("pk", flat=True).first()
    words = _Words(user, [event.changes for event in rows])
    foreign = _with_foreign_source(task, rows, user)
    return [
        Entry(
            event,
            words.changes(event.changes, hide=event.pk in foreign, of=event.action),
            is_current=event.pk == newest,
        )
        for event in rows
    ]


def _with_foreign_source(task: ExportTask, events: Iterable[AuditEvent], user: Any) -> set[int]:
    """The numbers of those of `events` that are about a time when the task read a source that is not granted to `user`:
    what it asked there is theirs who have that source."""
    moves = list(events_of(task).filter(changes__has_key="data_source_id").values_list("pk", "changes"))
    moved = [(number, *changes["data_source_id"]) for number, changes in moves]
    sources = {task.data_source_id, *(source for _number, *both in moved for source in both)} - {None}
    seen = set(DataSource.objects.for_user(user).filter(pk__in=sources).values_list("pk", flat=True)) | {None}
    foreign = set()
    for event in events:
        after = next((before for number, before, _after in reversed(moved) if number > event.pk), task.data_source_id)
        before = event.changes.get("data_source_id", [after])[0]
        if not {before, after} <= seen:
            foreign.add(event.pk)
    return foreign


class _Words:
    """Changes in words for one user, with the names of what they point to, looked up once for all."""

    def __init__(self, user: Any, changes: Iterable[dict[str, Any]]) -> None:
        self._sees_sql = user.has_perm(SEE_SQL)
        numbers: dict[str, set[Any]] = {"data_source_id": set(), "owner_id": set(), "channel_id": set()}
        for each in changes:
            for name in numbers:
                numbers[name].update(value for value in each.get(name, ()) if value is not None)
        sources = DataSource.objects.for_user(user).in_bulk(numbers["data_source_id"])
        owners = get_user_model().objects.in_bulk(numbers["owner_id"])
        channels = Channel.objects.in_bulk(numbers["channel_id"])
        self._names: dict[str, dict[int, Any]] = {
            "data_source_id": dict(sources),
            "owner_id": dict(owners),
            "channel_id": dict(channels),
        }

    def changes(self, changes: dict[str, Any], *, hide: bool = False, of: str = audit.Action.EDIT) -> list[Change]:
        known = sorted((name for name in changes if name in _SHOWN), key=list(_SHOWN).index)
        if hide:
            return [Change(str(_SHOWN[name].verbose_name), is_hidden=True) for name in known]
        shown = [self._change(name, *changes[name]) for name in known]
        # Before it was made, nothing was there.
        return [replace(change, before="") for change in shown] if of == audit.Action.CREATE else shown

    def _change(self, name: str, before: Any, after: Any) -> Change:
        label = str(_SHOWN[name].verbose_name)
        if name in _SECRET or (name in _SQL_FIELDS and not self._sees_sql):
            return Change(label, is_hidden=True)
        old, new = self._text(name, before), self._text(name, after)
        if name == "sql" or "\n" in old or "\n" in new:
            return Change(label, lines=tuple(differences(old, new)))
        return Change(label, old or _("(empty)"), new or _("(empty)"))

    def _text(self, name: str, value: Any) -> str:
        if value is None or value == "":
            return ""
        if name in self._names:
            found = self._names[name].get(value)
            return str(found) if found is not None else f"#{value}"
        if isinstance(value, bool):
            return _("yes") if value else _("no")
        if name == "events":
            return event_words(value)
        if isinstance(value, list):
            return ", ".join(map(str, value))
        if isinstance(value, dict):
            return json.dumps(value, ensure_ascii=False, sort_keys=True) if value else ""
        return str(dict(_SHOWN[name].flatchoices).get(value, value))


def differences(before: str, after: str) -> Iterator[Line]:
    """The lines of both texts with their signs; of those that are the same only some."""
    old, new = before.splitlines(), after.splitlines()
    if max(len(old), len(new)) > _MOST_LINES:
        yield Line("…", _("{count} lines, too many to compare").format(count=max(len(old), len(new))))
        return
    groups = difflib.SequenceMatcher(None, old, new, autojunk=False).get_grouped_opcodes(_AROUND)
    for number, group in enumerate(groups):
        if number:
            yield Line("…", "")
        for kind, first, last, new_first, new_last in group:
            if kind == "equal":
                yield from (Line(" ", line) for line in old[first:last])
                continue
            yield from (Line("-", line) for line in old[first:last])
            yield from (Line("+", line) for line in new[new_first:new_last])


def version(task: ExportTask, event: AuditEvent) -> dict[str, Any]:
    """{column: value} as `task` was after `event`, of what differs from now and is no secret.

    Raises ValidationError where the audit does not hold a value whole.
    """
    newer = events_of(task).filter(pk__gt=event.pk).order_by("pk").values_list("changes", flat=True)
    found: dict[str, Any] = {}
    for changes in newer:
        for name, (before, _after) in changes.items():
            if name in _FIELDS and name not in _SECRET:
                found.setdefault(name, before)
    wanted = {name: value for name, value in found.items() if value != getattr(task, name)}
    for name, value in wanted.items():
        if not audit.is_whole(value):
            words = _(
                "The audit does not hold “{field}” of this version whole: it was too long, or a secret stood in it."
            )
            raise ValidationError(words.format(field=_FIELDS[name].verbose_name))
    return wanted


def restored(task: ExportTask, event: AuditEvent, user: Any) -> tuple[ExportTask, list[Change]]:
    """`task` as it was after `event`, not saved, and what that changes for `user`, who is to save it.

    Raises ValidationError when this user may not have it so, or the task could not run so.
    """
    values = version(task, event)
    if not user.has_perm(ALL_SOURCES):
        values.pop("owner_id", None)  # nobody lends a task rights that are not their own
    source = values.get("data_source_id", task.data_source_id)
    if not DataSource.objects.for_user(user).filter(pk=source).exists():
        raise ValidationError(_("The data source of this version does not exist any more, or is not granted to you."))
    if "sql" in values and not user.has_perm(SEE_SQL):
        raise ValidationError(_("You may not see SQL, so you can't bring an earlier one back."))
    before = {name: getattr(task, name) for name in values}
    for name, value in values.items():
        setattr(task, name, value)
    task.full_clean()
    changes = {name: [before[name], getattr(task, name)] for name in values}
    return task, _Words(user, [changes]).changes(changes)


def restore(task: ExportTask, event: AuditEvent, user: Any) -> int:
    """Bring the version after `event` back. Returns how many fields that changed. Raises ValidationError."""
    with transaction.atomic():
        fresh = ExportTask.objects.select_for_update().get(pk=task.pk)
        fresh, changes = restored(fresh, event, user)
        if changes:
            # Who says why: the event of the change itself is made where the row is saved.
            when = timezone.localtime(event.at).strftime("%Y-%m-%d %H:%M:%S")
            fresh.audit_note = _("version of {when} restored").format(when=when)  # type: ignore[attr-defined]
            fresh.save()
    return len(changes)
