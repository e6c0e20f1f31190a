"""The states of a delivery, and the one place that changes them.

    (owed) --> pending --claim--> sending --settle--> sent | dead
                  ^                  |
                  |  retry <---------+  somebody may still get it; or its sender died
                  |    |
                  |    +--claim--> sending
                  +--resend-- sent | dead | cancelled
    pending | retry --cancel--> cancelled

Every arrow is one UPDATE guarded by id, attempt and status, as for executions (tasks/states.py). `slot_key` is unique:
a robot that takes only so many messages a minute gets one at a time, whoever sends, and in order.
"""

import uuid
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from django.db import IntegrityError, models, transaction
from django.db.models import F
from django.db.models.functions import Now
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

if TYPE_CHECKING:
    from notifications.models import Channel, Delivery


class DeliveryStatus(models.TextChoices):
    PENDING = "pending", _("waiting to be sent")
    SENDING = "sending", _("being sent")
    SENT = "sent", _("sent")
    RETRY = "retry", _("waiting for the next try")
    DEAD = "dead", _("not delivered")
    CANCELLED = "cancelled", _("cancelled")


WAITING = (DeliveryStatus.PENDING, DeliveryStatus.RETRY)
OPEN = (*WAITING, DeliveryStatus.SENDING)
LATELY = timedelta(days=1)
MOST_LOST = 10  # senders that died over one message


class DeliveryQuerySet(models.QuerySet["Delivery"]):
    """Holds every change of a delivery's state."""

    def owe(self, execution_id: int, event: str, channel: "Channel", payload: Mapping[str, Any]) -> None:
        """Note that a message is owed. Belongs into the transaction that makes it owed; owed once, however often said."""
        self.bulk_create(
            [
                self.model(
                    execution_id=execution_id,
                    event=event,
                    channel=channel,
                    channel_name=str(channel),
                    payload=dict(payload),
                    key=uuid.uuid4().hex,
                    next_at=timezone.now(),
                )
            ],
            ignore_conflicts=True,
        )

    def waiting(self) -> "DeliveryQuerySet":
        return self.filter(status__in=WAITING)

    def due(self) -> "DeliveryQuerySet":
        """Those that may be sent now, oldest first."""
        return self.waiting().filter(next_at__lte=timezone.now()).order_by("id")

    def undelivered(self) -> "DeliveryQuerySet":
        """Those that were given up lately."""
        return self.filter(status=DeliveryStatus.DEAD, finished_at__gt=timezone.now() - LATELY)

    def sending(self) -> "DeliveryQuerySet":
        return self.filter(status=DeliveryStatus.SENDING)

    def held_by(self, row: "Delivery") -> "DeliveryQuerySet":
        return self.filter(pk=row.pk, attempt=row.attempt, status=DeliveryStatus.SENDING)

    def claim(self, rows: Sequence["Delivery"], *, worker: str, slot: str | None = None) -> list["Delivery"]:
        """pending | retry -> sending, for those that still are as they were read; the first of them takes `slot`.
        None of them when somebody else holds the slot."""
        claimed: list[Delivery] = []
        try:
            with transaction.atomic():
                for row in rows:
                    # Its last try may have arrived: what goes out now may come twice.
                    doubtful = row.possibly_duplicate or row.answer_lost
                    changes: dict[str, Any] = {
                        "status": DeliveryStatus.SENDING,
                        "attempt": row.attempt + 1,
                        "worker": worker,
                        "slot_key": None if claimed else slot,
                        "beats": row.beats + 1,
                        "possibly_duplicate": doubtful,
                    }
                    waiting = self.filter(pk=row.pk, attempt=row.attempt, status__in=WAITING)
                    if waiting.update(**changes):
                        for name, value in changes.items():
                            setattr(row, name, value)
                        claimed.append(row)
        except IntegrityError:
            return []
        return claimed

    def beat(self, rows: Sequence["Delivery"]) -> None:
        """Say that these are still being sent."""
        self.filter(pk__in=[row.pk for row in rows], status=DeliveryStatus.SENDING).update(beats=F("beats") + 1)

    def settle(self, row: "Delivery", status: DeliveryStatus, **fields: Any) -> bool:
        """sending -> sent | dead | retry. False when this try no longer holds the row."""
        ended = {} if status == DeliveryStatus.RETRY else {"finished_at": timezone.now()}
        return bool(self.held_by(row).update(status=status, slot_key=None, **ended, **fields))

    def take_back(self, row: "Delivery") -> bool:
        """sending -> retry | dead for a sender that died: nobody knows how far it came. False if it has moved since."""
        changes: dict[str, Any] = {"status": DeliveryStatus.RETRY, "next_at": timezone.now()}
        if row.tries + 1 >= MOST_LOST:  # It may be the message that kills them.
            changes = {"status": DeliveryStatus.DEAD, "finished_at": timezone.now()}
        taken = (
            self.held_by(row)
            .filter(beats=row.beats)
            .update(slot_key=None, answer_lost=True, reason="worker_lost", tries=row.tries + 1, **changes)
        )
        row.status = changes["status"]
        return bool(taken)

    def cancel(self, delivery_id: int) -> bool:
        """pending | retry -> cancelled."""
        changes = {"status": DeliveryStatus.CANCELLED, "finished_at": timezone.now()}
        return bool(self.filter(pk=delivery_id, status__in=WAITING).update(**changes))

    def resend(self, row: "Delivery", *, link: int | None, everybody: bool = False) -> bool:
        """sent | dead | cancelled -> pending: once more to those that it did not reach, or to `everybody`, with a valid
        `link`. False when there is nobody to send it to, or it is on its way."""
        recipients = {name: entry for name, entry in row.recipients.items() if not everybody and _has_it(entry)}
        if row.recipients and len(recipients) == len(row.recipients):
            return False
        past = [*row.history, {"at": timezone.now().isoformat(), "status": row.status, "recipients": row.recipients}]
        changed = (
            self.filter(pk=row.pk, attempt=row.attempt)
            .exclude(status__in=OPEN)
            .update(
                status=DeliveryStatus.PENDING,
                next_at=timezone.now(),
                finished_at=None,
                recipients=recipients,
                history=past,
                payload={**row.payload, "link": link},
                # A new message comes on purpose; the same one, perhaps for the second time.
                possibly_duplicate=not everybody and (row.possibly_duplicate or row.answer_lost),
                reason="",
                error="",
                tries=0,
                answer_lost=False,
                # A new message for mail programs, which drop a second one with the same number.
                key=uuid.uuid4().hex if everybody else row.key,
            )
        )
        return bool(changed)


def _has_it(entry: Mapping[str, Any]) -> bool:
    return bool(entry.get("verdict") == "accepted")


class LimitQuerySet(models.QuerySet[Any]):
    """Counts what went to each robot in the last minute, by the clock of the database: those of hosts are never
    compared."""

    WINDOW = 60.0  # seconds

    def admit(self, key: str, most: int) -> float:
        """Note one message to `key`. Returns 0, or the seconds until it may be sent, and then nothing is noted.

        Belongs into a transaction: the row stays locked until its end.
        """
        row = self._locked(key)
        now = row.now.timestamp()
        if row.blocked_until and row.blocked_until > row.now:
            return float((row.blocked_until - row.now).total_seconds())
        # Times a little ahead were noted while this waited for the lock; far ahead, the clock has been set back.
        times = [moment for moment in row.times if now - self.WINDOW < moment < now + self.WINDOW]
        if len(times) >= most:
            return float(times[-most] + self.WINDOW - now)
        self.filter(pk=key).update(times=[*times, now])
        return 0.0

    def answered(self, key: str) -> None:
        """The message that was admitted last has been answered now: it counts from here."""
        with transaction.atomic():
            row = self._locked(key)
            if row.times:
                self.filter(pk=key).update(times=[*row.times[:-1], row.now.timestamp()])

    def block(self, key: str, seconds: float) -> None:
        """Send nothing to `key` for so long: it has asked for that."""
        with transaction.atomic():
            row = self._locked(key)
            self.filter(pk=key).update(blocked_until=row.now + timedelta(seconds=seconds))

    def _locked(self, key: str) -> Any:
        rows = self.select_for_update().filter(pk=key).annotate(now=Now())
        found = rows.first()
        if found is None:
            self.bulk_create([self.model(key=key)], ignore_conflicts=True)
            found = rows.get()
        return found
