"""Tasks as a YAML file and back: for review, for version control, for another installation.

    tasks:
      - name: 每日订单
        data_source: shop
        sql: SELECT …
        rules:                       # all of the task's; without the key they stay as they are
          - channel: 运营群
            events: [failure]

Matched by name; loading the same file twice changes nothing. Secrets are not written; a file may hold them, and what
it leaves out stays as it is.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml
from django.contrib.auth import get_user_model
from django.core.exceptions import ValidationError
from django.db import transaction
from django.utils.translation import gettext as _

from datasources.models import DataSource
from exporter_site.command import sentences
from notifications.models import Channel, NotificationRule
from tasks.models import ExportTask

SECRETS = ("dingtalk_webhook", "dingtalk_secret")
FIELDS = (
    "description",
    "data_source",
    "sql",
    "params",
    "cron",
    "timezone",
    "enabled",
    "long_running",
    "format",
    "format_options",
    "filename_template",
    "overlap",
    "catch_up",
    "priority",
    "max_retries",
    "retry_delay",
    "on_empty",
    "tags",
    "owner",
    "dingtalk_message_template",
    "email_recipients",
)


class TransferError(ValueError):
    """The file can't be loaded; the text has one line for each fault. Nothing was changed."""


@dataclass(slots=True)
class Change:
    """What loading does to one task: field -> (before, after); a new task has no before."""

    name: str
    is_new: bool
    fields: dict[str, tuple[Any, Any]] = field(default_factory=dict)

    def lines(self) -> Iterator[str]:
        """As it is shown on a terminal."""
        yield f"{'+' if self.is_new else '~'} {self.name}"
        for name, (before, after) in self.fields.items():
            if not self.is_new:
                yield f"    - {name}: {before}"
            yield f"    + {name}: {after}"

    def as_json(self) -> dict[str, Any]:
        fields = {name: {"before": before, "after": after} for name, (before, after) in self.fields.items()}
        return {"name": self.name, "new": self.is_new, "fields": fields}


class _Dumper(yaml.SafeDumper):
    """Writes SQL of several lines as a block that people can read."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    # A block can't hold blanks at the end of a line.
    block = "\n" in text and not any(line != line.rstrip() for line in text.split("\n"))
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if block else None)


_Dumper.add_representer(str, _represent_text)


def dump() -> str:
    """All tasks as YAML, in the order of their names, without secrets."""
    tasks = (
        ExportTask.objects.select_related("data_source", "owner").order_by("name").prefetch_related("rules__channel")
    )
    content = {
        "tasks": [
            {"name": task.name, **{name: _plain(task, name) for name in FIELDS}, "rules": _rules(task)}
            for task in tasks
        ]
    }
    return yaml.dump(content, Dumper=_Dumper, allow_unicode=True, sort_keys=False, width=1000)


def _rules(task: ExportTask) -> list[dict[str, Any]]:
    """The task's own notification rules, by the names of their channels."""
    rules = sorted(task.rules.all(), key=lambda rule: str(rule.channel))
    return [{"channel": str(rule.channel), "events": rule.events, "template": rule.template} for rule in rules]


def _plain(task: ExportTask, name: str) -> Any:
    value = getattr(task, name)
    if name == "data_source":
        return task.data_source.name
    if name == "owner":
        return task.owner.get_username() if task.owner else None
    return value


def load(text: str, *, dry_run: bool = False) -> list[Change]:
    """Make the tasks of a YAML file exist as it says. Returns what changed; all of it or nothing is done.

    Raises TransferError with every fault of the file.
    """
    return load_entries(_parse(text), dry_run=dry_run)


def load_entries(
    entries: Sequence[dict[str, Any]], *, dry_run: bool = False, labels: Mapping[str, str] | None = None
) -> list[Change]:
    """load() for tasks that have been read already. `labels`: name -> what a fault of that task begins with."""
    changes: list[Change] = []
    faults: list[str] = []
    with transaction.atomic():
        for entry in entries:
            try:
                change = _apply(entry)
            except (ValidationError, ValueError) as exc:
                words = sentences(exc) if isinstance(exc, ValidationError) else str(exc)
                name = str(entry.get("name", "?"))
                faults.append(f"{(labels or {}).get(name, name)}: {words}")
                continue
            if change.is_new or change.fields:
                changes.append(change)
        if faults:
            raise TransferError("\n".join(faults))
        transaction.set_rollback(dry_run)
    return changes


def _parse(text: str) -> list[dict[str, Any]]:
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as exc:
        raise TransferError(_("This is not valid YAML: {error}").format(error=exc)) from None
    entries = content.get("tasks") if isinstance(content, dict) else None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise TransferError(_("The file must have a list `tasks:` of tasks."))
    return entries


def _apply(entry: dict[str, Any]) -> Change:
    name = entry.get("name")
    if not isinstance(name, str) or not name:
        raise ValueError(_("A task needs a name."))
    unknown = set(entry) - {"name", "rules", *FIELDS, *SECRETS}
    if unknown:
        raise ValueError(
            _("unknown field “{name}”. Known are: {known}.").format(name=min(unknown), known=", ".join(FIELDS))
        )
    task = ExportTask.objects.filter(name=name).first() or ExportTask(name=name)
    is_new = task.pk is None
    before = {key: _shown(task, key, is_new=is_new) for key in entry if key not in ("name", "rules")}
    for key, value in entry.items():
        if key != "rules":
            setattr(task, key, _resolved(key, value))
    task.full_clean()
    after = {key: _shown(task, key, is_new=False) for key in before}
    changed = {key: (before[key], after[key]) for key in before if before[key] != after[key]}
    if is_new or changed:
        task.save()
    if "rules" in entry:
        rules_before = None if is_new else _rules(task)
        _set_rules(task, entry["rules"])
        task = ExportTask.objects.prefetch_related("rules__channel").get(pk=task.pk)
        if (rules_before or []) != _rules(task):
            changed["rules"] = (rules_before, _rules(task))
    return Change(name, is_new, {key: _masked(key, pair) for key, pair in changed.items()})


def _set_rules(task: ExportTask, entries: Any) -> None:
    """Make the rules of `task` those of `entries`. Raises ValueError, ValidationError."""
    if not isinstance(entries, list) or not all(isinstance(entry, dict) and "channel" in entry for entry in entries):
        raise ValueError(
            _("rules must be a list such as {example}.").format(example="[{channel: 运营群, events: [failure]}]")
        )
    task.rules.all().delete()
    for entry in entries:
        channel = Channel.objects.shared().filter(name=entry["channel"]).first()
        if channel is None:
            raise ValueError(_("there is no channel “{name}”.").format(name=entry["channel"]))
        unknown = set(entry) - {"channel", "events", "template"}
        if unknown:
            raise ValueError(
                _("unknown field “{name}”. Known are: {known}.").format(
                    name=min(unknown), known="channel, events, template"
                )
            )
        rule = NotificationRule(task=task, **entry | {"channel": channel})
        rule.full_clean()
        rule.save()


def _resolved(key: str, value: Any) -> Any:
    if key == "data_source":
        source = DataSource.objects.filter(name=value).first()
        if source is None:
            raise ValueError(
                _(
                    "there is no data source “{name}”. Make it (manage.py datasource create), or put it into config.yaml and run “manage.py datasource sync”."
                ).format(name=value)
            )
        return source
    if key == "owner" and value is not None:
        users = get_user_model().objects
        owner = users.filter(username=value).first()
        if owner is None:
            raise ValueError(_("there is no user “{name}”.").format(name=value))
        return owner
    return value


def _shown(task: ExportTask, key: str, *, is_new: bool) -> Any:
    return None if is_new else _plain(task, key)


def _masked(key: str, pair: tuple[Any, Any]) -> tuple[Any, Any]:
    return ("••••••", "••••••") if key in SECRETS else pair
