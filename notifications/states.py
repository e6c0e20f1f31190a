"""The states of a delivery, and the one place that changes them.

    (owed) --> pending --claim--> sending --settle--> sent | dead
                  ^                  |
                  |  retry <---------+  somebody may still get it; or its sender died
                  |    |
                  |    +--claim--> sending
                  +--resend-- sent | dead | cancelled
    pending | retry --cancel--> cancelled

Every arrow is one UPDATE guarded by id, attempt and status, as for executions (tasks/states.py). `beats` grows with
every other change of the row, and guards what is done with a row that was read a while ago. `slot_key` is unique: a
robot that takes only so many messages a minute gets one at a time, whoever sends, and in order.
"""

import uuid
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.db import IntegrityError, models, transaction
from django.db.models import F, Q
from django.db.models.functions import Now
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from exporter_site.access.scope import ScopedQuerySet

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
LONGEST_WAIT = 3600.0  # seconds that a robot is left alone at most, and that a message waits for its next try


class DeliveryQuerySet(ScopedQuerySet["Delivery"]):
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
        now = timezone.now()
        # Nothing waits so long: the clock has been set back since. New ones wait for nothing.
        odd = now + timedelta(seconds=max(LONGEST_WAIT, settings.CONFIG.email.retry_delay))
        again = Q(status=DeliveryStatus.RETRY) & (Q(next_at__lte=now) | Q(next_at__gt=odd))
        return self.filter(Q(status=DeliveryStatus.PENDING) | again).order_by("id")

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
                    waiting = self._unchanged(row).filter(status__in=WAITING)
                    if waiting.update(**changes):
                        for name, value in changes.items():
                            setattr(row, name, value)
                        claimed.append(row)
        except IntegrityError:
            return []
        return claimed

    def _unchanged(self, row: "Delivery") -> "DeliveryQuerySet":
        return self.filter(pk=row.pk, attempt=row.attempt, beats=row.beats)

    def amend(self, row: "Delivery", payload: Mapping[str, Any]) -> bool:
        """Say something else, as long as the message waits. False when it does not."""
        waiting = self.filter(pk=row.pk, status__in=WAITING)
        return bool(waiting.update(payload=dict(payload), beats=F("beats") + 1))

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
            .update(slot_key=None, answer_lost=True, reason="worker_lost", error="", tries=row.tries + 1, **changes)
        )
        row.status = changes["status"]
        return bool(taken)

    def cancel(self, delivery_id: int) -> bool:
        """pending | retry -> cancelled."""
        changes = {"status": DeliveryStatus.CANCELLED, "finished_at": timezone.now()}
        return bool(self.filter(pk=delivery_id, status__in=WAITING).update(**changes))

    def resend(self, row: "Delivery", *, link: int | None, everybody: bool = False) -> bool:
        """sent | dead | cancelled -> pending: once more to those that it did not reach, or to `everybody`; one that
        offers the file, with a valid `link`. False when there is nobody to send it to, or it is on its way."""
        recipients = {name: entry for name, entry in row.recipients.items() if not everybody and _has_it(entry)}
        if row.recipients and len(recipients) == len(row.recipients):
            return False
        past = [*row.history, {"at": timezone.now().isoformat(), "status": row.status, "recipients": row.recipients}]
        changed = (
            self._unchanged(row)
            .exclude(status__in=OPEN)
            .update(
                status=DeliveryStatus.PENDING,
                next_at=timezone.now(),
                finished_at=None,
                recipients=recipients,
                history=past,
                payload={**row.payload, "link": link if row.payload.get("files") else None},
                beats=row.beats + 1,
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
        blocked = (row.blocked_until - row.now).total_seconds() if row.blocked_until else 0.0
        if 0 < blocked <= LONGEST_WAIT:
            return float(blocked)
        # Times a little ahead were noted while this waited for the lock. Those far ahead were before the clock was set
        # back, nobody knows how long: they count as if it were now.
        times = [min(moment, now) if moment > now + self.WINDOW else moment for moment in row.times]
        times = sorted(moment for moment in times if moment > now - self.WINDOW)
        if len(times) >= most:
            if times != row.times:
                self.filter(pk=key).update(times=times)
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
            until = row.now + timedelta(seconds=min(seconds, LONGEST_WAIT))
            self.filter(pk=key).update(blocked_until=until)

    def _locked(self, key: str) -> Any:
        rows = self.select_for_update().filter(pk=key).annotate(now=Now())
        found = rows.first()
        if found is None:
            self.bulk_create([self.model(key=key)], ignore_conflicts=True)
            found = rows.get()
        return found
