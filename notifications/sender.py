"""Hands claimed deliveries to their transports, and stores what became of each recipient.

What goes out when is decided in outbox.py; how a delivery changes its state is in states.py.
"""

import logging
import random
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any, TypeVar

from django.conf import settings
from django.db import DatabaseError, DataError, InterfaceError, connection, transaction
from django.utils import timezone, translation
from django.utils.translation import gettext as _t

from exporter_site import links
from exporter_site.config import resolve
from exporter_site.redact import redact
from notifications import messages, reasons
from notifications.messages import Event
from notifications.models import Channel, ChannelError, Delivery, SendingLimit
from notifications.states import WAITING, DeliveryStatus
from notifications.transports.base import ROBOT, Answer, Attachment, Message, Transport, Verdict

logger = logging.getLogger(__name__)

ROBOT_TRIES = 8  # about three quarters of an hour
ROBOT_DELAY, MOST_ROBOT_DELAY = 30.0, 900.0  # seconds
MOST_UNKNOWN = 2  # a message whose answer was lost is sent once more, and then no more
MOST_LIMITED = timedelta(days=1)  # then "too many messages" counts as a try like any other
LONGEST_WORDS = 500  # characters of the other side's words
WAITS = (0.1, 0.5, 1, 2, 5, 5, 10, 10, 20)  # seconds between tries to store something
DONE = (Verdict.ACCEPTED, Verdict.REFUSED)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Route:
    """How the deliveries of one channel go. `fault`: why there is no transport, a code of reasons.py."""

    transport: Transport | None
    fault: str = ""
    kind: str = ""
    limit_key: str = ""


def route_of(channel: Channel | None) -> Route:
    if channel is None:
        return Route(None, "channel_deleted")
    try:
        transport = channel.transport()
    except ChannelError as exc:
        return Route(None, exc.reason, channel.kind)
    except Exception:
        logger.exception("channel %s can't be used", channel.pk)
        return Route(None, "internal_error", channel.kind)
    key = ""
    if transport.per_minute:
        # Which robot it is, without telling its token.
        key = sha256(f"{channel.kind}:{transport.limit_key}".encode()).hexdigest()[:40]
    return Route(transport, "", channel.kind, key)


def send(route: Route, batch: list[Delivery]) -> None:
    """Send claimed deliveries, as one message when they are several, and store what became of them."""
    transport = route.transport
    if transport is None:
        refused = Answer(Verdict.REFUSED, route.fault)
        for row in batch:
            names = [name for name, entry in row.recipients.items() if not is_done(entry)]
            settle(row, dict.fromkeys(names or [""], refused), None)
        return
    recipients = transport.recipients
    if len(batch) > 1:
        title, text, _count = messages.digest([with_url(row.payload) for row in batch], transport.max_bytes)
        message = Message(key=batch[0].key, title=title, text=text)
    else:
        message = message_of(batch[0])
        recipients = [name for name in recipients if not is_done(batch[0].recipients.get(name))]
    answers = _answers(transport, message, recipients)
    if route.limit_key:
        surely(lambda: SendingLimit.objects.answered(route.limit_key))
        _rest(route.limit_key, answers)
    for row in batch:
        settle(row, answers, transport, merged=len(batch) > 1)


def _rest(limit_key: str, answers: Mapping[str, Answer]) -> None:
    wait = max((answer.wait for answer in answers.values() if answer.verdict == Verdict.LIMITED), default=0.0)
    if wait:
        surely(lambda: SendingLimit.objects.block(limit_key, wait))


def _answers(transport: Transport, message: Message, recipients: Sequence[str]) -> dict[str, Answer]:
    if not recipients:
        return {}
    try:
        return transport.send(message, recipients)
    except OSError as exc:  # a file that has just been removed; nothing was sent yet
        logger.warning("a message could not be sent: %s", redact(str(exc)))
        return dict.fromkeys(recipients, Answer(Verdict.DEFERRED, "internal_error", str(exc)))
    except Exception as exc:  # A fault of ours; nobody knows how far it came.
        logger.error("a message could not be sent: %s", redact(f"{type(exc).__name__}: {exc}"), exc_info=exc)
        return dict.fromkeys(recipients, Answer(Verdict.UNKNOWN, "internal_error"))


def settle(row: Delivery, answers: Mapping[str, Answer], transport: Transport | None, *, merged: bool = False) -> None:
    """Store the answers, and with them whether the message is sent, tried again or given up."""
    limited = any(answer.verdict == Verdict.LIMITED for answer in answers.values())
    limited = limited and timezone.now() - row.created_at < MOST_LIMITED
    tries = row.tries + (not limited)
    most, delay = _patience(transport, tries)
    recipients = dict(row.recipients)
    for name, answer in answers.items():
        before = recipients.get(name, {})
        recipients[name] = {
            "verdict": str(answer.verdict),
            "reason": answer.reason,
            "text": storable(redact(answer.text)),
            "tries": before.get("tries", 0) + (answer.verdict != Verdict.LIMITED),
            "unknown": before.get("unknown", 0) + (answer.verdict == Verdict.UNKNOWN),
            "at": timezone.now().isoformat(),
        }
    # Who has been taken off the list meanwhile is owed nothing.
    current = set(transport.recipients) if transport else set(recipients)
    entries = {name: entry for name, entry in recipients.items() if name in current}
    again = [name for name, entry in entries.items() if not is_done(entry) and (limited or tries < most)]
    bad: Mapping[str, Any] = next((entry for entry in entries.values() if entry["verdict"] != Verdict.ACCEPTED), {})
    fields: dict[str, Any] = {
        "recipients": recipients,
        "tries": tries,
        "merged": merged,
        "reason": bad.get("reason", ""),
        "error": bad.get("text", ""),
        "answer_lost": any(answer.verdict == Verdict.UNKNOWN for answer in answers.values()),
    }
    if again:
        wait = max((answer.wait for answer in answers.values()), default=0.0)
        status, fields["next_at"] = DeliveryStatus.RETRY, _later(max(wait, delay))
    else:
        status = DeliveryStatus.DEAD if bad else DeliveryStatus.SENT

    def store() -> bool:
        with transaction.atomic():
            settled = Delivery.objects.settle(row, status, **fields)
            if settled and status == DeliveryStatus.DEAD:
                warn_of(row)
        return settled

    if not surely(store):
        logger.warning("delivery %s was taken over by another sender", row.pk)
        return
    log = logger.info if status == DeliveryStatus.SENT else logger.warning
    log("delivery %s to “%s”: %s %s", row.pk, row.channel_name, status, fields["reason"])


def take_back(row: Delivery) -> bool:
    """Have a message whose sender died sent again, or give it up when it has killed too many."""
    with transaction.atomic():
        taken = Delivery.objects.take_back(row)
        if taken and row.status == DeliveryStatus.DEAD:
            warn_of(row)
    return taken


def warn_of(row: Delivery) -> None:
    """Owe a message about one that was given up, to the first channel of its payload's `alerts` that is another one.
    It names all messages of the run that did not arrive."""
    if row.event == Event.UNDELIVERED:
        return
    order = [pk for pk in row.payload.get("alerts", ()) if pk != row.channel_id]
    others = Channel.objects.filter(pk__in=order, is_active=True)
    # Best of another kind: when the mail server is away, another mailbox is of no use.
    kind = row.channel.kind if row.channel else ""
    channel = min(others, key=lambda channel: (channel.kind == kind, order.index(channel.pk)), default=None)
    if channel is None:
        logger.error("delivery %s was given up, and there is no other channel to say so", row.pk)
        return
    of_the_run = Delivery.objects.filter(execution=row.execution_id)
    lost = list(of_the_run.filter(status=DeliveryStatus.DEAD).exclude(event=Event.UNDELIVERED).order_by("id"))
    with translation.override(settings.LANGUAGE_CODE):
        values = {
            "task_name": row.payload["task"],
            "channel": ", ".join(delivery.channel_name for delivery in lost),
            "recipients": ", ".join(name for delivery in lost for name in _not_reached(delivery)),
            "error": " ".join(dict.fromkeys(_words(delivery.reason) for delivery in lost)),
        }
        payload = messages.undelivered(row.payload, values, channel.transport_class.markup)
    known = of_the_run.filter(event=Event.UNDELIVERED, channel=channel).first()
    if known is None:
        Delivery.objects.owe(row.execution_id, Event.UNDELIVERED, channel, payload)
    elif not Delivery.objects.filter(pk=known.pk, status__in=WAITING).update(payload=payload):
        known.payload = payload
        Delivery.objects.resend(known, link=None, everybody=True)


def _not_reached(delivery: Delivery) -> list[str]:
    return [
        name
        for name, entry in delivery.recipients.items()
        if entry["verdict"] != Verdict.ACCEPTED and name not in ("", ROBOT)
    ]


def _words(reason: str) -> str:
    return f"{reasons.sentence(reason)} {reasons.remedy(reason)}".strip()


def send_test(channel: Channel) -> dict[str, Answer]:
    """Send a test message now, and say what came back from each recipient."""
    route = route_of(channel)
    transport = route.transport
    if transport is None:
        return {"": Answer(Verdict.REFUSED, route.fault)}
    with translation.override(settings.LANGUAGE_CODE):
        title = _t("Test message of the data export system")
        text = _t("If you can read this, messages of this channel arrive.")
    message = Message(key=uuid.uuid4().hex, title=title, text=f"### {title}\n\n{text}", data={"event": "test"})
    if transport.markup == messages.PLAIN:
        message = replace(message, text=text)
    if route.limit_key:
        with transaction.atomic():
            wait = SendingLimit.objects.admit(route.limit_key, transport.per_minute)
        if wait:
            return dict.fromkeys(transport.recipients, Answer(Verdict.LIMITED, "rate_limited", wait=wait))
    answers = _answers(transport, message, transport.recipients)
    if route.limit_key:
        _rest(route.limit_key, answers)
    return answers


def is_done(entry: Mapping[str, Any] | None) -> bool:
    """Whether a recipient has the message, or can't get it."""
    return entry is not None and (entry["verdict"] in DONE or entry["unknown"] >= MOST_UNKNOWN)


def storable(text: str) -> str:
    """The other side's words as every database takes them."""
    kept = "".join(char if char.isprintable() or char == "\n" else " " for char in text)
    return kept.strip()[:LONGEST_WORDS]


def _patience(transport: Transport | None, tries: int) -> tuple[int, float]:
    """(how many tries, seconds until the next one)."""
    if transport is None or not transport.per_minute:
        email = settings.CONFIG.email
        return max(1, email.retry_attempts), float(email.retry_delay)
    jitter = random.uniform(0.5, 1.5)  # noqa: S311  # no secret
    return ROBOT_TRIES, min(ROBOT_DELAY * 2 ** max(0, tries - 1), MOST_ROBOT_DELAY) * jitter


def _later(seconds: float) -> datetime:
    return timezone.now() + timedelta(seconds=seconds)


def message_of(row: Delivery) -> Message:
    """The stored message with what is only put in when it goes out: the link's address, and the files that are there."""
    payload = with_url(row.payload)
    root = resolve(settings.CONFIG.export.output_dir)
    attachments = [
        Attachment(root / file["path"], file["name"], file["size"])
        for file in payload["files"]
        if (root / file["path"]).is_file()
    ]
    text = payload["text"]
    if len(attachments) < len(payload["files"]):
        # A message must not speak of a file that nobody can get.
        with translation.override(settings.LANGUAGE_CODE):
            words = _t("The file is not kept any more.")
        text = f"{text}\n\n{words}".strip()
    return Message(
        key=row.key,
        title=payload["title"],
        text=text,
        facts=[(label, value) for label, value in payload["facts"]],
        url=payload["url"],
        attachments=attachments,
        data={**payload["data"], "download_url": payload["url"]},
    )


def with_url(payload: Mapping[str, Any]) -> dict[str, Any]:
    url = links.url_of(payload["link"])
    return {**payload, "url": url, "text": messages.with_address(payload["text"], url)}


def surely(action: Callable[[], T]) -> T:
    """The result of `action`, tried again while the database is away: what was sent must not be forgotten."""
    for wait in WAITS:
        try:
            return action()
        except DataError:
            raise
        except (DatabaseError, InterfaceError) as exc:
            logger.warning("a sender waits for the system database: %s", redact(str(exc)).strip())
            connection.close()
            time.sleep(wait)
    return action()
