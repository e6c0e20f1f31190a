"""Which messages the end of a run owes, and what is in them.

announce() belongs into the transaction that stores the end: either both are there afterwards, or neither. From then on the
messages are the outbox's (notifications/outbox.py), which knows nothing of tasks.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from zoneinfo import ZoneInfo

from django.conf import settings
from django.db import InterfaceError, OperationalError, connection, transaction
from django.db.models import Q
from django.utils import translation
from django.utils.translation import gettext as _

from exporter_site.access import audit
from exporter_site.fields import Undecryptable
from exporter_site.formats import human_duration, human_size
from notifications import messages
from notifications.messages import LINK_MARK, Event
from notifications.models import Channel, Delivery, NotificationRule
from tasks import reasons
from tasks.models import Execution, ExportTask, OnEmpty, known_timezones
from tasks.states import Status

logger = logging.getLogger(__name__)

FAILED = (Status.FAILED, Status.TIMED_OUT)
BAD = (*FAILED, Status.MISSED)
FOR_THE_OWNER = (Event.FAILURE, Event.MISSED, Event.RECOVERED)
LONGEST_ERROR = 500  # characters of the raw error in a message


@dataclass(frozen=True, slots=True)
class Target:
    channel: Channel
    events: frozenset[str]
    template: str = ""


@dataclass(slots=True)
class _Targets:
    found: dict[int, Target] = field(default_factory=dict)

    def add(self, channel: Channel | None, events: Any, template: str = "") -> None:
        """The first word about a channel holds."""
        if channel is not None and channel.pk not in self.found:
            self.found[channel.pk] = Target(channel, frozenset(events), template)


def announce(execution_id: int) -> None:
    """owe() for a transaction that must succeed: a message that can't be made does not keep a run from ending."""
    with _alone(f"execution {execution_id}: its messages could not be made"):
        owe(execution_id)


@contextmanager
def _alone(complaint: str, *, check: bool = False) -> Iterator[None]:
    """What fails in here is undone and written to the log, and nothing else is lost by it. With `check` also what
    PostgreSQL would find only at the end of the transaction: a channel or an owner that has been deleted meanwhile."""
    try:
        with transaction.atomic():
            yield
            if check and connection.vendor == "postgresql":
                connection.check_constraints()
    except (OperationalError, InterfaceError):
        raise  # The database is away: all of it is done again.
    except Exception:
        logger.exception(complaint)


def owe(execution_id: int) -> None:
    """Note the messages that the end of this run owes. Its row must be in its end state already."""
    execution = Execution.objects.select_related("task", "task__owner").filter(pk=execution_id).first()
    if execution is None or execution.task is None or not execution.notify:
        return
    if execution.data_source_id != execution.task.data_source_id:
        # Whoever names its readers now need not have the source that these rows are from.
        logger.warning("execution %s says nothing: its task reads another data source now", execution_id)
        return
    targets = list(targets_of(execution.task))
    events = _events_of(execution) if targets else []
    if not events:
        return
    with translation.override(settings.LANGUAGE_CODE):
        alerts = _alerts(execution.task, targets)
        owed = []
        for target in targets:
            event = next((event for event in events if event in target.events), None)
            if event is not None:
                owed.append((event, target))
        if not owed:
            return
        link = execution.link_for_messages()
        for event, target in owed:
            with _alone(f"execution {execution.pk}: no message to channel {target.channel.pk}", check=True):
                payload = payload_of(execution, event, target.template, target.channel.transport_class.markup, link)
                payload["alerts"] = alerts
                Delivery.objects.owe(execution.pk, event, target.channel, payload)


def _events_of(execution: Execution) -> list[Event]:
    """What has happened, the most telling word first: a channel gets the first one that it wants to hear."""
    if execution.status in FAILED:
        return [Event.FAILURE]
    if execution.status == Status.MISSED:
        return [Event.MISSED]
    if execution.status != Status.SUCCEEDED:
        return []
    task = execution.task
    assert task is not None
    empty = execution.rows_count == 0
    if empty and task.on_empty == OnEmpty.SILENT:
        return []
    what = Event.EMPTY if empty else Event.SUCCESS
    return [Event.RECOVERED, what] if _was_failing(execution) else [what]


def _was_failing(execution: Execution) -> bool:
    known = Execution.objects.filter(task=execution.task_id, status__in=(Status.SUCCEEDED, *BAD))
    # A newer run took its place, or nobody knows any more: no fault.
    known = known.exclude(status=Status.MISSED, reason__in=("coalesced", "restored"))
    before = known.exclude(pk=execution.pk).order_by("-finished_at", "-id").values_list("status", flat=True).first()
    return before in BAD


def targets_of(task: ExportTask) -> Iterator[Target]:
    """The channels that hear of `task`, each once: by its own rules, by rules for every task, by what it names itself,
    by config.yaml, and its owner when something is wrong."""
    targets = _Targets()
    for rule in sorted(NotificationRule.objects.for_task(task), key=lambda rule: rule.task_id is None):
        targets.add(rule.channel, rule.events, rule.template)
    if task.dingtalk_webhook or isinstance(task.dingtalk_webhook, Undecryptable):
        targets.add(Channel.objects.of_task(task, "dingtalk"), Event.values, task.dingtalk_message_template)
    else:
        targets.add(Channel.objects.of_config(), Event.values, task.dingtalk_message_template)
    if task.email_recipients:
        targets.add(Channel.objects.of_task(task, "email"), Event.values)
    owner, told = task.owner, {address.casefold() for address in task.email_recipients}
    if owner is not None and owner.email.casefold() not in told:
        targets.add(_mailbox_of(owner), FOR_THE_OWNER)
    return iter(targets.found.values())


def _mailbox_of(owner: Any) -> Channel | None:
    """The channel to a task's owner. None for one who has no address, has left, or is deleted in this moment."""
    if owner is None or not owner.is_active or not owner.email:
        return None
    found: Channel | None = owner.own_channels.filter(kind="email").first()
    if found is None:
        with _alone(f"user {owner.pk}: no channel for him", check=True):
            found = Channel.objects.of_user(owner)
    return found


def _alerts(task: ExportTask, targets: list[Target]) -> list[int]:
    """The channels that may say that a message did not arrive, best first: the owner's, then the task's others."""
    mailbox = _mailbox_of(task.owner)
    own = [mailbox.pk] if mailbox is not None else []
    return list(dict.fromkeys([*own, *(target.channel.pk for target in targets)]))


def payload_of(execution: Execution, event: str, template: str, markup: str, link: int | None) -> dict[str, Any]:
    """What is stored of a message: no secret, and the file's address only as a mark."""
    values = values_of(execution)
    if link is None:
        values["download_url"] = ""
    files = execution.files if link is not None else []
    return {
        **messages.render(event, values, template, markup, execution.pk),
        "number": execution.pk,
        "task": execution.task_name,
        "link": link,
        "files": [
            {"path": part["path"], "name": part["path"].rpartition("/")[2], "size": part["size"]} for part in files
        ],
        "data": {
            "event": str(event),
            "execution": execution.pk,
            "task": execution.task_name,
            "status": execution.status,
            "reason": execution.reason,
            "scheduled_for": execution.planned_at.isoformat(),
            "started_at": execution.started_at.isoformat() if execution.started_at else None,
            "finished_at": execution.finished_at.isoformat() if execution.finished_at else None,
            "rows_count": execution.rows_count,
            "file_size": execution.file_size,
            "files": [
                {"name": part["path"].rpartition("/")[2], "size": part["size"], "sha256": part["sha256"]}
                for part in files
            ],
        },
    }


def values_of(execution: Execution) -> dict[str, str]:
    """The variables of templates for a run, as texts in the older system's forms."""
    name = execution.task.timezone if execution.task else ""
    # A task may be announced because its zone is none.
    zone = ZoneInfo(name if name in known_timezones() else settings.TIME_ZONE)

    def local(moment: Any) -> str:
        return moment.astimezone(zone).strftime("%Y-%m-%d %H:%M:%S") if moment else ""

    return {
        "task_name": execution.task_name,
        "execution_time": local(execution.started_at),
        "rows_count": f"{execution.rows_count:,}" if execution.rows_count is not None else "",
        "file_size": human_size(execution.file_size) if execution.file_size is not None else "",
        "duration": human_duration(execution.duration_seconds) if execution.duration_seconds is not None else "",
        "filename": execution.filename,
        "download_url": LINK_MARK,
        "status": str(execution.get_status_display()),
        "error": _error_of(execution),
        "scheduled_for": _planned(execution, local),
    }


def _planned(execution: Execution, local: Any) -> str:
    if execution.occurrences == 1:
        return str(local(execution.planned_at))
    return _("{last} and {count} times before").format(
        last=local(execution.planned_at), count=execution.occurrences - 1
    )


def _error_of(execution: Execution) -> str:
    if not execution.reason:
        return ""
    words = f"{execution.reason_sentence} {execution.reason_remedy}".strip()
    raw = " ".join(execution.error.split())
    return f"{words} ({raw[:LONGEST_ERROR]})" if raw and raw not in words else words


def resend(execution: Execution, *, everybody: bool = False) -> list[Delivery]:
    """Send the messages of a run once more, from the same file: to those they did not reach, or to `everybody`.

    Returns the deliveries that go out again. No query runs, and no new file is made. Warnings about other messages are
    no messages of the run: what they say may be over by now.
    """
    link = execution.link_for_messages()
    deliveries = execution.deliveries.exclude(event=Event.UNDELIVERED).select_related("channel")
    again = [row for row in deliveries if Delivery.objects.resend(row, link=link, everybody=everybody)]
    if again:
        audit.record(audit.Action.RESEND, execution, note=", ".join(row.channel_name for row in again))
    return again


def preview(
    task: ExportTask, template: str, event: str = Event.SUCCESS, markup: str = messages.MARKDOWN
) -> dict[str, str]:
    """{"title", "text"} as readers would get it, from the last run that fits or from an example."""
    runs = Execution.objects.filter(task=task.pk, data_source=task.data_source_id).filter(_ended_so(event))
    last = runs.first() if task.pk else None
    values = values_of(last) if last else _example(task, event)
    rendered = messages.render(event, values, template, markup, last.pk if last else 1)
    example = messages.sample_values()["download_url"]
    text = rendered["text"] or "\n".join(f"{label}: {value}" for label, value in rendered["facts"])
    return {"title": rendered["title"], "text": text.replace(LINK_MARK, example)}


def _ended_so(event: str) -> Q:
    """The runs that `event` is said of."""
    if event in (Event.FAILURE, Event.MISSED):
        return Q(status__in=FAILED if event == Event.FAILURE else (Status.MISSED,))
    return Q(status=Status.SUCCEEDED, rows_count=0) if event == Event.EMPTY else Q(status=Status.SUCCEEDED)


def _example(task: ExportTask, event: str) -> dict[str, str]:
    values = messages.sample_values() | {"task_name": task.name}
    if event == Event.EMPTY:
        return values | {"rows_count": "0"}
    if event in (Event.FAILURE, Event.MISSED):
        status, reason = (Status.MISSED, "misfire") if event == Event.MISSED else (Status.FAILED, "connection_failed")
        words = f"{reasons.sentence(reason)} {reasons.remedy(reason)}".strip()
        return values | {"status": str(status.label), "error": words}
    return values
