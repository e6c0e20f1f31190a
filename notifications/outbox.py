"""Sends what is owed: claims deliveries, hands them to their transports, and stores what became of each recipient.

Any number of processes may do this at once. A message goes out again when its sender died or the other side's answer
was lost: never none, and two only where the row says so (`possibly_duplicate`).
"""

import logging
import random
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any

from django.conf import settings
from django.db import DatabaseError, InterfaceError, connection, transaction
from django.utils import timezone, translation
from django.utils.translation import gettext as _t

from exporter_site import links, worker
from exporter_site.config import resolve
from exporter_site.redact import redact
from notifications import messages, reasons
from notifications.messages import Event
from notifications.models import Channel, ChannelError, Delivery, SendingLimit
from notifications.states import DeliveryStatus
from notifications.transports.base import ROBOT, Answer, Attachment, Message, Transport, Verdict

logger = logging.getLogger(__name__)

LEASE = 60.0  # seconds without a sign of life after which a sender is taken for dead
BEAT_EVERY = 10.0  # seconds
THREADS = 4
MOST_DUE = 500  # deliveries that one look takes into account
DIGEST_OVER = 10  # messages waiting for one robot; more of them go together
MOST_IN_DIGEST = 200
FULL_FOR = 2.0  # seconds between two looks at a robot that takes no more now
ROBOT_TRIES = 8  # about three quarters of an hour
ROBOT_DELAY, MOST_ROBOT_DELAY = 30.0, 900.0  # seconds
MOST_UNKNOWN = 2  # a message whose answer was lost is sent once more, and then no more
DONE = (Verdict.ACCEPTED, Verdict.REFUSED)


@dataclass(frozen=True, slots=True)
class Lane:
    """Deliveries of one channel, or of one robot however many channels name it, oldest first."""

    transport: Transport | None
    fault: str  # why there is no transport
    limit_key: str
    rows: list[Delivery]


class Outbox:
    """`threads`: how many messages are sent at once by this process; 0 sends within deliver()."""

    def __init__(self, threads: int = THREADS) -> None:
        self._threads = threads
        self._pool: ThreadPoolExecutor | None = None
        self._jobs: dict[Future[None], list[Delivery]] = {}
        self._full_until: dict[str, float] = {}  # by our own monotonic clock
        self._beaten_at = time.monotonic()
        # (attempt, beats) of each row that is being sent, and since when it has not changed.
        self._seen: dict[int, tuple[tuple[int, int], float]] = {}

    @property
    def in_flight(self) -> int:
        self._jobs = {job: rows for job, rows in self._jobs.items() if not job.done()}
        return len(self._jobs)

    def deliver(self, executions: Iterable[int] | None = None) -> int:
        """Start sending what is due (only what belongs to `executions`, if given). Returns how many messages."""
        self._beat()
        room = max(1, self._threads) - self.in_flight
        if room <= 0:
            return 0
        due = Delivery.objects.due().select_related("channel", "channel__task", "channel__user")
        if executions is not None:
            due = due.filter(execution__in=list(executions))
        started = 0
        for lane in lanes(due[:MOST_DUE]):
            while lane.rows and started < room:
                batch = self._claim(lane)
                if not batch:
                    break
                self._start(lane, batch)
                started += 1
                if lane.limit_key:
                    break  # One at a time.
        return started

    def deliver_all(self, executions: Iterable[int]) -> None:
        """Send, here and now, all messages of `executions` that may be sent; what has to wait is left to others."""
        numbers = list(executions)
        while self.deliver(numbers):
            self.finish(LEASE)

    def reap(self) -> int:
        """Take back what dead senders held. Returns how much."""
        now = time.monotonic()
        seen: dict[int, tuple[tuple[int, int], float]] = {}
        taken = 0
        for row in Delivery.objects.sending():
            state = (row.attempt, row.beats)
            known = self._seen.get(row.pk)
            since = known[1] if known and known[0] == state else now
            seen[row.pk] = (state, since)
            if (now - since > LEASE or worker.is_gone(row.worker)) and Delivery.objects.take_back(row):
                logger.warning("delivery %s: its sender %s is gone", row.pk, row.worker)
                taken += 1
        self._seen = seen
        return taken

    def finish(self, seconds: float) -> bool:
        """Wait for what is being sent. False when that took longer."""
        end = time.monotonic() + seconds
        while self.in_flight and time.monotonic() < end:
            self._beat()
            time.sleep(0.05)
        return not self.in_flight

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None

    def _beat(self) -> None:
        if self.in_flight and time.monotonic() - self._beaten_at > BEAT_EVERY:
            self._beaten_at = time.monotonic()
            Delivery.objects.beat([row for rows in self._jobs.values() for row in rows])

    def _claim(self, lane: Lane) -> list[Delivery]:
        """The rows that go out together as one message now, and leave the lane; nothing when it has to wait."""
        if not lane.limit_key or lane.transport is None:
            return Delivery.objects.claim([lane.rows.pop(0)], worker=worker.worker_name())
        if time.monotonic() < self._full_until.get(lane.limit_key, 0):
            return []
        count = len(lane.rows)
        batch = lane.rows[:MOST_IN_DIGEST] if count > DIGEST_OVER else lane.rows[:1]
        if len(batch) > 1:
            payloads = [with_url(row.payload) for row in batch]
            batch = batch[: messages.digest(payloads, lane.transport.max_bytes)[2]]
        wait, claimed = 0.0, list[Delivery]()
        with transaction.atomic():
            claimed = Delivery.objects.claim(batch, worker=worker.worker_name(), slot=f"robot:{lane.limit_key}")
            if claimed:
                wait = SendingLimit.objects.admit(lane.limit_key, lane.transport.per_minute)
                transaction.set_rollback(wait > 0)
        if wait:
            self._full_until[lane.limit_key] = time.monotonic() + min(wait, FULL_FOR)
            return []
        return claimed

    def _start(self, lane: Lane, batch: list[Delivery]) -> None:
        if not self._threads:
            send(lane, batch)
            return
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="outbox")
        self._jobs[self._pool.submit(_send_in_thread, lane, batch)] = batch


def lanes(rows: Iterable[Delivery]) -> list[Lane]:
    """The deliveries by where they go."""
    found: dict[str, Lane] = {}
    known: dict[int | None, tuple[Transport | None, str]] = {}
    for row in rows:
        if row.channel_id not in known:
            known[row.channel_id] = _transport_of(row.channel)
        transport, fault = known[row.channel_id]
        key = _limit_key(row.channel, transport) if row.channel and transport else ""
        lane = found.setdefault(key or f"channel {row.channel_id}", Lane(transport, fault, key, []))
        lane.rows.append(row)
    return list(found.values())


def _limit_key(channel: Channel, transport: Transport) -> str:
    """The row of SendingLimit that counts for this robot; "" when nothing is counted. It does not tell the token."""
    if not transport.per_minute:
        return ""
    return sha256(f"{channel.kind}:{transport.limit_key}".encode()).hexdigest()[:40]


def _transport_of(channel: Channel | None) -> tuple[Transport | None, str]:
    if channel is None:
        return None, "channel_deleted"
    try:
        return channel.transport(), ""
    except ChannelError as exc:
        return None, exc.reason
    except Exception:
        logger.exception("channel %s can't be used", channel.pk)
        return None, "internal_error"


def _send_in_thread(lane: Lane, batch: list[Delivery]) -> None:
    try:
        send(lane, batch)
    except Exception:
        logger.exception("delivery %s: what became of it could not be stored", batch[0].pk)
    finally:
        connection.close()


def send(lane: Lane, batch: list[Delivery]) -> None:
    """Send claimed deliveries, as one message when they are several, and store what became of them."""
    transport = lane.transport
    if transport is None:
        for row in batch:
            refused = Answer(Verdict.REFUSED, lane.fault)
            settle(row, dict.fromkeys(row.recipients or {"": None}, refused), None)
        return
    recipients = transport.recipients
    if len(batch) > 1:
        title, text, _count = messages.digest([with_url(row.payload) for row in batch], transport.max_bytes)
        message = Message(key=batch[0].key, title=title, text=text)
    else:
        message = message_of(batch[0], transport)
        recipients = [name for name in recipients if not is_done(batch[0].recipients.get(name))]
    answers = _answers(transport, message, recipients)
    if lane.limit_key:
        _surely(lambda: SendingLimit.objects.answered(lane.limit_key))
        wait = max((answer.wait for answer in answers.values() if answer.verdict == Verdict.LIMITED), default=0.0)
        if wait:
            _surely(lambda: SendingLimit.objects.block(lane.limit_key, wait))
    for row in batch:
        settle(row, answers, transport, merged=len(batch) > 1)


def _answers(transport: Transport, message: Message, recipients: Sequence[str]) -> dict[str, Answer]:
    if not recipients:
        return {}
    try:
        return transport.send(message, recipients)
    except Exception as exc:  # A fault of ours; nobody knows how far it came.
        logger.error("a message could not be sent: %s", redact(f"{type(exc).__name__}: {exc}"), exc_info=exc)
        return {name: Answer(Verdict.UNKNOWN, "internal_error") for name in recipients}


def settle(row: Delivery, answers: Mapping[str, Answer], transport: Transport | None, *, merged: bool = False) -> None:
    """Store the answers, and with them whether the message is sent, tried again or given up."""
    limited = any(answer.verdict == Verdict.LIMITED for answer in answers.values())
    tries = row.tries + (not limited)
    most, delay = _patience(transport, tries)
    recipients = dict(row.recipients)
    for name, answer in answers.items():
        before = recipients.get(name, {})
        recipients[name] = {
            "verdict": str(answer.verdict),
            "reason": answer.reason,
            "text": redact(answer.text),
            "tries": before.get("tries", 0) + (answer.verdict != Verdict.LIMITED),
            "unknown": before.get("unknown", 0) + (answer.verdict == Verdict.UNKNOWN),
            "at": timezone.now().isoformat(),
        }
    again = [name for name, entry in recipients.items() if not is_done(entry) and (limited or tries < most)]
    bad: Mapping[str, Any] = next((entry for entry in recipients.values() if entry["verdict"] != Verdict.ACCEPTED), {})
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
                warn_of(row, recipients, fields["reason"])
        return settled

    if not _surely(store):
        logger.warning("delivery %s was taken over by another sender", row.pk)
        return
    log = logger.info if status == DeliveryStatus.SENT else logger.warning
    log("delivery %s to “%s”: %s %s", row.pk, row.channel_name, status, fields["reason"])


def warn_of(row: Delivery, recipients: Mapping[str, Mapping[str, Any]], reason: str) -> None:
    """Owe a message about one that was given up, to the first channel of its payload's `alerts` that is another one."""
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
    with translation.override(settings.LANGUAGE_CODE):
        missed = [name for name, entry in recipients.items() if entry["verdict"] != Verdict.ACCEPTED]
        values = {
            "task_name": row.payload["task"],
            "channel": row.channel_name,
            "recipients": ", ".join(name for name in missed if name not in ("", ROBOT)),
            "error": f"{reasons.sentence(reason)} {reasons.remedy(reason)}".strip(),
        }
        payload = messages.undelivered(row.payload, values, channel.transport_class.markup)
    Delivery.objects.owe(row.execution_id, Event.UNDELIVERED, channel, payload)


def send_test(channel: Channel) -> dict[str, Answer]:
    """Send a test message now, and say what came back from each recipient."""
    transport, fault = _transport_of(channel)
    if transport is None:
        return {"": Answer(Verdict.REFUSED, fault)}
    with translation.override(settings.LANGUAGE_CODE):
        title = _t("Test message of the data export system")
        text = _t("If you can read this, messages of this channel arrive.")
    message = Message(key=uuid.uuid4().hex, title=title, text=f"### {title}\n\n{text}", data={"event": "test"})
    if transport.markup == messages.PLAIN:
        message = replace(message, text=text)
    key = _limit_key(channel, transport)
    if key:
        with transaction.atomic():
            wait = SendingLimit.objects.admit(key, transport.per_minute)
        if wait:
            return dict.fromkeys(transport.recipients, Answer(Verdict.LIMITED, "rate_limited", wait=wait))
    return _answers(transport, message, transport.recipients)


def is_done(entry: Mapping[str, Any] | None) -> bool:
    """Whether a recipient has the message, or can't get it."""
    return entry is not None and (entry["verdict"] in DONE or entry["unknown"] >= MOST_UNKNOWN)


def _patience(transport: Transport | None, tries: int) -> tuple[int, float]:
    """(how many tries, seconds until the next one)."""
    if transport is None or not transport.per_minute:
        email = settings.CONFIG.email
        return max(1, email.retry_attempts), float(email.retry_delay)
    jitter = random.uniform(0.5, 1.5)  # noqa: S311  # no secret
    return ROBOT_TRIES, min(ROBOT_DELAY * 2 ** max(0, tries - 1), MOST_ROBOT_DELAY) * jitter


def _later(seconds: float) -> datetime:
    return timezone.now() + timedelta(seconds=seconds)


def message_of(row: Delivery, transport: Transport) -> Message:
    """The stored message with what is only put in when it goes out: the link's address, and the files that are there."""
    payload = with_url(row.payload)
    root = resolve(settings.CONFIG.export.output_dir)
    attachments = [
        Attachment(root / file["path"], file["name"], file["size"])
        for file in payload["files"]
        if (root / file["path"]).is_file()
    ]
    text = payload["text"]
    facts = [(label, value) for label, value in payload["facts"]]
    if len(attachments) < len(payload["files"]):
        # A message must not speak of a file that nobody can get.
        with translation.override(settings.LANGUAGE_CODE):
            words = _t("The file is not kept any more.")
        text = f"{text}\n\n{words}".strip()
    return Message(
        key=row.key,
        title=payload["title"],
        text=text,
        facts=facts,
        url=payload["url"],
        attachments=attachments,
        data={**payload["data"], "download_url": payload["url"]},
    )


def with_url(payload: Mapping[str, Any]) -> dict[str, Any]:
    url = links.url_of(payload["link"])
    return {**payload, "url": url, "text": payload["text"].replace(messages.LINK_MARK, url)}


def _surely(action: Any) -> Any:
    """The result of `action`, tried again while the database is away: what was sent must not be forgotten."""
    for wait in (0.1, 0.5, 1, 2, 5, 10):
        try:
            return action()
        except (DatabaseError, InterfaceError) as exc:
            logger.warning("a sender waits for the system database: %s", redact(str(exc)).strip())
            connection.close()
            time.sleep(wait)
    return action()
