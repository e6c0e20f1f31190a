"""Which rules lead to a channel, and what is lost when it is deleted."""

from dataclasses import dataclass
from typing import Any

from django.urls import reverse
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from notifications.messages import event_words
from notifications.models import Channel
from notifications.states import OPEN

LISTED = 50  # rules that a page shows
NAMED = 5  # tasks that a sentence names


@dataclass(frozen=True, slots=True)
class RuleRow:
    """`task`: "" in a rule of every task. `url`: the task, or the rule where that is none."""

    task: str
    url: str
    events: str


@dataclass(frozen=True, slots=True)
class Usage:
    """`rows`: the first of the rules. `url`: the list with all of them."""

    total: int
    rows: list[RuleRow]
    url: str


def usage_of(channel: Channel, user: Any) -> Usage:
    """The rules that `user` may know of. Two queries, however many there are."""
    if not user.has_perm("notifications.view_notificationrule"):
        return Usage(0, [], "")
    rules = channel.rules.for_user(user)
    rows = [
        RuleRow(str(rule.task) if rule.task else "", _url(rule), event_words(rule.events) or _("none"))
        for rule in rules.select_related("task").order_by("task__name", "pk")[:LISTED]
    ]
    url = f"{reverse('admin:notifications_notificationrule_changelist')}?channel__id__exact={channel.pk}"
    return Usage(rules.count(), rows, url)


def _url(rule: Any) -> str:
    if rule.task_id is not None:
        return reverse("admin:tasks_exporttask_change", args=[rule.task_id])
    return reverse("admin:notifications_notificationrule_change", args=[rule.pk])


def lost_with(channel: Channel) -> list[str]:
    """What deleting `channel` takes with it, in sentences; none when nobody would miss it."""
    sentences = []
    rules = channel.rules.order_by("task__name", "pk")
    if count := rules.count():
        named = [str(rule.task) if rule.task else _("every task") for rule in rules.select_related("task")[:NAMED]]
        names = ", ".join(named) + (", …" if count > len(named) else "")
        words = ngettext(
            "{count} rule sends to “{channel}”, and is deleted with it: {names}. Those tasks are announced there no more; give them another channel first.",
            "{count} rules send to “{channel}”, and are deleted with it: {names}. Those tasks are announced there no more; give them another channel first.",
            count,
        )
        sentences.append(words.format(count=count, channel=channel, names=names))
    if waiting := channel.deliveries.filter(status__in=OPEN).count():
        words = ngettext(
            "{count} message still waits to be sent to “{channel}”, and is given up.",
            "{count} messages still wait to be sent to “{channel}”, and are given up.",
            waiting,
        )
        sentences.append(words.format(count=waiting, channel=channel))
    return sentences
