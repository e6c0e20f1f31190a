"""Celery workers, on other machines too, over Redis or RabbitMQ.

A message only says "look at this execution": the worker claims the row, and the claim decides. So a message that is
lost is sent again, one that comes twice finds nothing to do, and while the broker is away, runs wait in the queue of
the database, which is the only one.
"""

import logging
import time

from django.conf import settings
from django.utils.translation import gettext as _
from kombu.exceptions import OperationalError

from exporter_site.celery import app
from exporter_site.redact import redact
from tasks.executors.base import Ended, Executor, ExecutorError
from tasks.executors.celery_worker import run_execution
from tasks.models import Execution

logger = logging.getLogger(__name__)

SENT_AGAIN_AFTER = 30.0  # seconds in which nobody has claimed the run
COMPLAIN_EVERY = 10.0  # seconds
AWAY_FOR = 5.0  # seconds without a further try when the broker does not answer


class CeleryExecutor(Executor):
    """`running` counts the messages that no worker has answered with a claim yet."""

    kind = "celery"
    on_this_machine = False

    def __init__(self) -> None:
        super().__init__()
        if not settings.CONFIG.celery.broker_url.get_secret_value():
            raise ExecutorError(_("celery.broker_url is empty. Example: redis://127.0.0.1:6379/0."))
        self._sent: dict[tuple[int, int], float] = {}  # (execution, attempt so far) -> when
        self._away_until = self._complained_at = float("-inf")

    @property
    def running(self) -> int:
        return len(self._sent)

    def start(self, execution: Execution) -> bool:
        key = (execution.pk, execution.attempt)
        now = time.monotonic()
        if now < self._away_until or now - self._sent.get(key, float("-inf")) < SENT_AGAIN_AFTER:
            return False
        try:
            run_execution.apply_async(args=[execution.pk], retry=False)
        except (OperationalError, OSError) as exc:
            self._away_until = now + AWAY_FOR
            if now - self._complained_at >= COMPLAIN_EVERY:
                self._complained_at = now
                logger.warning("the broker can't be reached, runs wait: %s", redact(str(exc)))
            return False
        self._sent[key] = now
        return True

    def collect(self) -> list[Ended]:
        if self._sent:
            ids = [execution_id for execution_id, _attempt in self._sent]
            waiting = set(Execution.objects.queued().filter(pk__in=ids).values_list("pk", "attempt"))
            oldest = time.monotonic() - SENT_AGAIN_AFTER
            self._sent = {key: when for key, when in self._sent.items() if key in waiting and when > oldest}
        return []

    def close(self) -> None:
        app.pool.force_close_all()
