"""Sends what is owed: finds what is due, claims it, and has it sent (sender.py), several at once.

Any number of processes may do this at once. A message goes out again when its sender died or the other side's answer
was lost: never none, and two only where the row says so (`possibly_duplicate`).
"""

import logging
import threading
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from django.db import DatabaseError, InterfaceError, connection, transaction

from exporter_site import worker
from exporter_site.redact import redact
from notifications import messages
from notifications.models import Channel, Delivery, SendingLimit
from notifications.sender import Route, payload_now, route_of, send, take_back
from notifications.states import DeliveryQuerySet

logger = logging.getLogger(__name__)

LEASE = 60.0  # seconds without a sign of life after which a sender is taken for dead
BEAT_EVERY = 10.0  # seconds
THREADS = 6
MOST_DUE = 500  # deliveries that one look takes into account
MOST_IN_A_ROW = 20  # messages that one thread sends before others have their turn
DIGEST_OVER = 10  # messages waiting for one robot; more of them go together
MOST_IN_DIGEST = 200
FULL_FOR = 2.0  # seconds between two looks at a robot that takes no more now
LONGEST_REST = 60.0  # seconds between two messages to one that asks for longer: it may be another one by now


@dataclass(slots=True)
class Lane:
    """Due deliveries that go one after another, oldest first: of one channel, or of one robot whoever names it.

    `held`: what is being sent now.
    """

    name: str
    kind: str
    waiting: list[Delivery] = field(default_factory=list)
    held: list[Delivery] = field(default_factory=list)

    @property
    def channels(self) -> set[int | None]:
        return {row.channel_id for row in (*self.waiting, *self.held)}


class Outbox:
    """`threads`: how many messages are sent at once by this process; 0 sends within deliver()."""

    def __init__(self, threads: int = THREADS) -> None:
        self._threads = threads
        self._pool: ThreadPoolExecutor | None = None
        self._jobs: dict[Future[int], Lane] = {}
        self._lanes: dict[int, Lane] = {}  # those from which something is being sent, by their id()
        self._resting: dict[int | None, float] = {}  # channels that take no more now, until then
        self._closed = threading.Event()
        self._beater: threading.Thread | None = None
        self._beater_lock = threading.Lock()
        # (attempt, beats) of each row that is being sent, and since when it has not changed; when that was looked at.
        self._seen: dict[int, tuple[tuple[int, int], float]] = {}
        self._looked_at = 0.0

    @property
    def in_flight(self) -> int:
        """How many threads are sending."""
        self._jobs = {job: lane for job, lane in self._jobs.items() if not job.done()}
        return len(self._jobs)

    def deliver(self, executions: Iterable[int] | None = None) -> int:
        """Start sending what is due (only what belongs to `executions`, if given). Returns how many lanes have been
        given to a thread; with threads=0 how many messages were sent."""
        if self._threads and self.in_flight >= self._threads:
            return 0
        due = self._that_can_go(Delivery.objects.due())
        if executions is not None:
            due = due.filter(execution__in=list(executions))
        found = lanes(due.select_related("channel", "channel__task", "channel__user")[:MOST_DUE])
        return self._start(found) if self._threads else sum(map(self._work, found))

    def _that_can_go(self, due: DeliveryQuerySet) -> DeliveryQuerySet:
        """Without what would have to wait for its robot or its thread: it must not hide what need not wait."""
        now = time.monotonic()
        self._resting = {channel: until for channel, until in list(self._resting.items()) if until > now}
        busy = set(self._resting).union(*(lane.channels for lane in self._jobs.values()))
        full = [kind for kind, count in self._kinds().items() if kind and count >= self._most_of_a_kind]
        return due.exclude(channel__in=busy - {None}).exclude(channel__kind__in=full)

    def _kinds(self) -> Counter[str]:
        return Counter(lane.kind for lane in self._jobs.values())

    @property
    def _most_of_a_kind(self) -> int:
        """A server that does not answer must not keep the messages of other kinds waiting."""
        return max(1, self._threads - 1)

    def _start(self, found: Sequence[Lane]) -> int:
        if self._pool is None and found:
            self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="outbox")
        busy = {lane.name for lane in self._jobs.values()}
        kinds = self._kinds()
        started = 0
        for lane in found:
            if lane.name in busy or kinds[lane.kind] >= self._most_of_a_kind or len(self._jobs) >= self._threads:
                continue
            assert self._pool is not None
            self._jobs[self._pool.submit(self._work_in_thread, lane)] = lane
            kinds[lane.kind] += 1
            started += 1
        return started

    def deliver_all(self, executions: Iterable[int]) -> None:
        """Send, here and now, all messages of `executions` that may be sent; what has to wait is left to others."""
        numbers = list(executions)
        while self.deliver(numbers):
            self.finish(LEASE)

    def reap(self) -> int:
        """Take back what dead senders held. Returns how much."""
        rows = list(Delivery.objects.sending())
        now = time.monotonic()
        # Only looks that saw something count: while the database is away, nobody can show that he lives.
        if now - self._looked_at > LEASE / 2:
            self._seen = {}
        self._looked_at = now
        ours = {row.pk for row in self._held()}
        seen: dict[int, tuple[tuple[int, int], float]] = {}
        taken = 0
        for row in rows:
            if row.pk in ours:
                continue
            state = (row.attempt, row.beats)
            known = self._seen.get(row.pk)
            since = known[1] if known and known[0] == state else now
            seen[row.pk] = (state, since)
            if (now - since > LEASE or worker.is_gone(row.worker)) and take_back(row):
                logger.warning("delivery %s: its sender %s is gone", row.pk, row.worker)
                taken += 1
        self._seen = seen
        return taken

    def finish(self, seconds: float) -> bool:
        """Wait for what is being sent. False when that took longer."""
        end = time.monotonic() + seconds
        while self.in_flight and time.monotonic() < end:
            time.sleep(0.05)
        return not self.in_flight

    def close(self) -> None:
        self._closed.set()
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None

    def _work_in_thread(self, lane: Lane) -> int:
        try:
            return self._work(lane)
        except Exception:
            logger.exception("deliveries of %s: what became of them could not be stored", lane.name)
            return 0
        finally:
            connection.close()

    def _work(self, lane: Lane) -> int:
        """Send what waits in `lane`, as far as it may be sent now. Returns how many messages."""
        sent = 0
        while lane.waiting and sent < MOST_IN_A_ROW and not self._closed.is_set():
            channels = lane.channels
            route, batch, wait = claim_next(lane)
            if wait:
                self._rest(channels, min(wait, FULL_FOR))
                break
            if batch:
                lane.held, self._lanes[id(lane)] = batch, lane
                self._keep_beating()
                try:
                    wait = send(route, batch)
                finally:
                    del self._lanes[id(lane)]
                    lane.held = []
                sent += 1
            if wait:
                self._rest(channels, min(wait, LONGEST_REST))
                break
        return sent

    def _rest(self, channels: Iterable[int | None], seconds: float) -> None:
        until = time.monotonic() + seconds
        # A new one: another thread may be reading.
        self._resting = {**self._resting, **dict.fromkeys(channels, until)}

    def _held(self) -> list[Delivery]:
        """What this process is sending now."""
        return [row for lane in list(self._lanes.values()) for row in lane.held]

    def _keep_beating(self) -> None:
        with self._beater_lock:
            if self._beater is None or not self._beater.is_alive():
                self._beater = threading.Thread(target=self._beat, name="outbox beat", daemon=True)
                self._beater.start()

    def _beat(self) -> None:
        """Show that senders of this process live, as long as there are some."""
        while not self._closed.wait(BEAT_EVERY):
            with self._beater_lock:
                # Whoever begins to send either is seen here, or finds that he needs another thread.
                held = self._held()
                if not held:
                    self._beater = None
                    return
            try:
                Delivery.objects.beat(held)
            except (DatabaseError, InterfaceError) as exc:
                logger.warning("senders could not say that they live: %s", redact(str(exc)).strip())
            finally:
                connection.close()


def lanes(rows: Iterable[Delivery]) -> list[Lane]:
    """The deliveries by where they go."""
    found: dict[str, Lane] = {}
    routes: dict[int | None, Route] = {}
    for row in rows:
        if row.channel_id not in routes:
            routes[row.channel_id] = route_of(row.channel)
        route = routes[row.channel_id]
        name = _lane_name(route, row.channel_id)
        found.setdefault(name, Lane(name, route.kind)).waiting.append(row)
    return list(found.values())


def _lane_name(route: Route, channel_id: int | None) -> str:
    return route.limit_key or f"channel {channel_id}"


def claim_next(lane: Lane) -> tuple[Route, list[Delivery], float]:
    """The rows that go out now as one message: they leave the lane. None of them, and the seconds to wait, when the
    robot takes no more; none and no seconds when somebody else was faster."""
    head = lane.waiting[0]
    # As it is now: since the lane was made, twenty messages may have gone out, and the channel may have been edited.
    route = route_of(Channel.objects.find(head.channel_id))
    if _lane_name(route, head.channel_id) != lane.name:
        lane.waiting = []  # It is another robot now: the next look finds its lane.
        return route, [], 0.0
    if not route.limit_key or route.transport is None:
        del lane.waiting[0]
        return route, Delivery.objects.claim([head], worker=worker.worker_name()), 0.0
    batch = _together(lane, route.transport.max_bytes)
    claimed: list[Delivery] = []
    with transaction.atomic():
        wait = SendingLimit.objects.admit(route.limit_key, route.transport.per_minute)
        if not wait:
            slot = f"robot:{route.limit_key}"
            claimed = Delivery.objects.claim(batch, worker=worker.worker_name(), slot=slot)
            transaction.set_rollback(not claimed)
    if wait:
        return route, [], wait
    if not claimed:
        # Another process sends to this robot, or has taken these rows.
        lane.waiting = []
        return route, [], 0.0
    gone = {row.pk for row in batch}
    lane.waiting = [row for row in lane.waiting if row.pk not in gone]
    return route, claimed, 0.0


def _together(lane: Lane, most_bytes: int) -> list[Delivery]:
    """The first of the rows that wait, or when they are many, those that go with it in one digest."""
    head = lane.waiting[0]
    if len(lane.waiting) <= DIGEST_OVER:
        return [head]
    # One robot may be named by several channels, each with settings of its own.
    mates = [row for row in lane.waiting if row.channel_id == head.channel_id][:MOST_IN_DIGEST]
    try:
        return mates[: messages.digest([payload_now(row) for row in mates], most_bytes)[2]]
    except (DatabaseError, InterfaceError):
        raise
    except Exception:  # One bad payload must not keep the others from going out.
        logger.exception("a digest can't be made")
        return [head]
