"""Hands claimed deliveries to their transports, and stores what became of each recipient.

What goes out when is decided in outbox.py; how a delivery changes its state is in states.py.
"""

import logging
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any, TypeVar

from django.conf import settings
from django.db import DatabaseError, DataError, InterfaceError, OperationalError, connection, transaction
from django.utils import timezone, translation
from django.utils.translation import gettext as _t

from exporter_site import links
from exporter_site.redact import redact
from notifications import messages, reasons
from notifications.messages import Event
from notifications.models import Channel, ChannelError, Delivery, SendingLimit
from notifications.states import DeliveryQuerySet, DeliveryStatus
from notifications.transports.base import ROBOT, Answer, Attachment, Message, Transport, Verdict

logger = logging.getLogger(__name__)

MOST_UNKNOWN = 2  # a message whose answer was lost is sent once more, and then no more
MOST_LIMITED = timedelta(days=1)  # then "too many messages" counts as a try like any other
LONGEST_WORDS = 500  # characters of the other side's words
# Seconds between tries to store something: ten minutes, as a database server may need to come back after a crash.
WAITS = (0.1, 0.5, 1, 2, 5, 5, 10, 10, *[20] * 28)
FRESH = timedelta(hours=1)  # so long no link expires
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
    except (DatabaseError, InterfaceError):
        raise  # The database is away, and nothing is wrong with the channel.
    except Exception:
        logger.exception("channel %s can't be used", channel.pk)
        return Route(None, "internal_error", channel.kind)
    key = ""
    if transport.per_minute:
        # Which robot it is, without telling its token.
        key = sha256(f"{channel.kind}:{transport.limit_key}".encode()).hexdigest()[:40]
    return Route(transport, "", channel.kind, key)


def send(route: Route, batch: list[Delivery]) -> float:
    """Send claimed deliveries, as one message when they are several, and store what became of them. Returns the seconds
    that the other side wants to be left alone: it has had too much."""
    transport = route.transport
    if transport is None:
        refused = Answer(Verdict.REFUSED, route.fault)
        for row in batch:
            names = [name for name, entry in row.recipients.items() if not is_done(entry)]
            settle(row, dict.fromkeys(names or [""], refused), None)
        return 0.0
    recipients = transport.recipients
    if len(batch) == 1:
        recipients = [name for name in recipients if not is_done(batch[0].recipients.get(name))]
    try:
        message = surely(lambda: message_of(batch[0]) if len(batch) == 1 else _digest_of(batch))
    except (DatabaseError, InterfaceError):
        raise
    except Exception:  # A fault of ours, or a payload of another version: nothing was sent.
        logger.exception("the message of delivery %s can't be made", batch[0].pk)
        answers = dict.fromkeys(recipients, Answer(Verdict.DEFERRED, "internal_error"))
    else:
        answers = _answers(transport, message, recipients)
        if route.limit_key:
            surely(lambda: SendingLimit.objects.answered(route.limit_key))
            _rest(route.limit_key, answers)
    for row in batch:
        settle(row, answers, transport, merged=len(batch) > 1)
    return _wait(answers)


def _wait(answers: Mapping[str, Answer]) -> float:
    return max((answer.wait for answer in answers.values() if answer.verdict == Verdict.LIMITED), default=0.0)


def _digest_of(batch: Sequence[Delivery]) -> Message:
    # All of them: outbox.py has claimed no more than fit.
    title, text, _count = messages.digest([payload_now(row) for row in batch], most_bytes=0)
    return Message(key=batch[0].key, title=title, text=text)


def _rest(limit_key: str, answers: Mapping[str, Answer]) -> None:
    if wait := _wait(answers):
        surely(lambda: SendingLimit.objects.block(limit_key, wait))


def _answers(transport: Transport, message: Message, recipients: Sequence[str]) -> dict[str, Answer]:
    if not recipients:
        return {}
    try:
        return transport.send(message, recipients)
    except OSError as exc:  # a file that has just been removed, or its store is away; nothing was sent yet
        logger.warning("a message could not be sent: %s", redact(str(exc)))
        return dict.fromkeys(recipients, Answer(Verdict.DEFERRED, "file_unavailable", str(exc)))
    except Exception as exc:  # A fault of ours; nobody knows how far it came.
        logger.error("a message could not be sent: %s", redact(f"{type(exc).__name__}: {exc}"), exc_info=exc)
        return dict.fromkeys(recipients, Answer(Verdict.UNKNOWN, "internal_error"))


def settle(row: Delivery, answers: Mapping[str, Answer], transport: Transport | None, *, merged: bool = False) -> None:
    """Store the answers, and with them whether the message is sent, tried again or given up."""
    limited = any(answer.verdict == Verdict.LIMITED for answer in answers.values())
    limited = limited and timezone.now() - _owed_since(row) < MOST_LIMITED
    tries = row.tries + (not limited)
    most, delay = transport.patience(tries) if transport else (0, 0.0)
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
            if settled and (status == DeliveryStatus.DEAD or row.event == Event.UNDELIVERED):
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
    It names all messages of the run that did not arrive. One that is itself such a message goes on with what was given
    up while it was on its way. Belongs into the transaction that stores what became of `row`."""
    try:
        with transaction.atomic():
            if row.event == Event.UNDELIVERED:
                _go_on_warning(row)
            else:
                _owe_warning(row)
    except (OperationalError, InterfaceError):
        raise  # The database is away: all of it is done again.
    except Exception:
        logger.exception("delivery %s: no message about what was given up could be made", row.pk)


def _owe_warning(row: Delivery) -> None:
    channel = _channel_for_warning(row)
    if channel is None:
        logger.error("delivery %s was given up, and there is no other channel to say so", row.pk)
        return
    payload = _warning(row, channel)
    Delivery.objects.owe(row.execution_id, Event.UNDELIVERED, channel, payload)
    # Another one may be given up in this moment: whoever comes second sees both.
    known = _warnings(row).select_for_update().filter(channel=channel).first()
    if known is None:
        return  # The channel has just been deleted.
    _say(known, _warning(row, channel))


def _go_on_warning(sent: Delivery) -> None:
    known = _warnings(sent).select_related("channel").filter(pk=sent.pk).first()
    if known is None or known.channel is None:
        return
    if _lost(known).exclude(pk__in=known.payload.get("lost", ())).exists():
        _say(known, _warning(known, known.channel))


def _say(warning: Delivery, payload: dict[str, Any]) -> None:
    """Have `warning` say this: now, or if it waits, then. One that is on its way goes on when it has arrived."""
    if not Delivery.objects.amend(warning, payload):
        warning.payload = payload
        Delivery.objects.resend(warning, link=None, everybody=True)


def _channel_for_warning(row: Delivery) -> Channel | None:
    """Best of another kind: when the mail server is away, another mailbox is of no use."""
    order = [pk for pk in row.payload.get("alerts", ()) if pk != row.channel_id]
    others = Channel.objects.to_send().filter(pk__in=order)
    usable = [channel for channel in others if route_of(channel).transport is not None]
    kind = row.channel.kind if row.channel else ""
    return min(usable, key=lambda channel: (channel.kind == kind, order.index(channel.pk)), default=None)


def _warning(row: Delivery, channel: Channel) -> dict[str, Any]:
    """What is to be said in `channel` about the messages of the run of `row` that did not arrive."""
    lost = list(_lost(row))
    with translation.override(settings.LANGUAGE_CODE):
        values = {
            "task_name": row.payload.get("task", ""),
            "channel": ", ".join(delivery.channel_name for delivery in lost),
            "recipients": ", ".join(name for delivery in lost for name in _not_reached(delivery)),
            "error": " ".join(dict.fromkeys(_words(delivery.reason) for delivery in lost)),
        }
        payload = messages.undelivered(row.payload, values, channel.transport_class.markup)
    return {**payload, "lost": [delivery.pk for delivery in lost]}


def _warnings(row: Delivery) -> DeliveryQuerySet:
    return Delivery.objects.filter(execution=row.execution_id, event=Event.UNDELIVERED)


def _lost(row: Delivery) -> DeliveryQuerySet:
    of_the_run = Delivery.objects.filter(execution=row.execution_id, status=DeliveryStatus.DEAD)
    return of_the_run.exclude(event=Event.UNDELIVERED).order_by("id")


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
    return entry is not None and (entry["verdict"] in DONE or entry.get("unknown", 0) >= MOST_UNKNOWN)


def storable(text: str) -> str:
    """The other side's words as every database takes them."""
    kept = "".join(char if char.isprintable() or char == "\n" else " " for char in text)
    return kept.strip()[:LONGEST_WORDS]


def _owed_since(row: Delivery) -> datetime:
    """When it was first to be sent, or was asked for again."""
    return datetime.fromisoformat(row.history[-1]["at"]) if row.history else row.created_at


def _later(seconds: float) -> datetime:
    return timezone.now() + timedelta(seconds=seconds)


def message_of(row: Delivery) -> Message:
    """The stored message with what is only put in when it goes out: the link's address, and the files that are there."""
    payload = payload_now(row)
    text = payload["text"]
    if payload["files_gone"]:
        # A message must not speak of a file that nobody can get.
        with translation.override(settings.LANGUAGE_CODE):
            words = _t("The file is not kept any more.")
        text = f"{text}\n\n{words}".strip()
    return Message(
        key=row.key,
        title=payload["title"],
        text=text,
        facts=[(label, value) for label, value in payload.get("facts", ())],
        url=payload["url"],
        attachments=payload["attachments"],
        data={**payload.get("data", {}), "download_url": payload["url"]},
    )


def payload_now(row: Delivery) -> dict[str, Any]:
    """The payload of `row` with `url`, its text with that, the `attachments` that are there, and `files_gone`: whether one
    of its files is not there."""
    payload = row.payload
    wanted = payload.get("files", ())
    stored = row.execution.stored_files() if wanted else []
    there = [(file, part["size"]) for file, part in zip(stored, wanted, strict=False) if file.is_kept()]
    gone = len(there) < len(wanted)
    url = "" if gone else links.url_of(_link_now(row))
    return {
        **payload,
        "url": url,
        "text": messages.with_address(payload.get("text", ""), url),
        "files_gone": gone,
        "attachments": [Attachment(file.at_hand, file.name, size) for file, size in there],
    }


def _link_now(row: Delivery) -> int | None:
    """The number of the link in its payload; of another one when that has expired while the message waited. One that
    was revoked stays what it is."""
    link: int | None = row.payload.get("link")
    if link is None or timezone.now() - row.created_at < FRESH:
        return link
    expired = row.execution.links.filter(pk=link, revoked_at=None, expires_at__lte=timezone.now())
    return row.execution.link_for_messages() if expired.exists() else link


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
