"""Runs that have ended and owe messages, and what became of these."""

from collections import Counter
from typing import Any

from django.utils import timezone

from notifications.models import Delivery
from notifications.outbox import Outbox
from tasks import files
from tasks.models import Execution
from tasks.states import Status
from tests.factories import make_execution, make_task
from tests.servers.mail import MailServer

A, B, C = "a@example.com", "b@example.com", "c@example.com"


def run_ended(status: Status = Status.SUCCEEDED, size: int = 5, **fields: Any) -> Execution:
    """A run of a new task (`fields` of it) that has just ended; when it succeeded, with a file of `size` bytes."""
    execution = Execution.objects.claim(make_execution(make_task(**fields)).pk, worker="a:1:b")
    assert execution is not None
    figures: dict[str, Any] = {"reason": "sql_error"}
    if status == Status.SUCCEEDED:
        place = files.output_root() / "2026-11" / f"{execution.pk}-1"
        place.mkdir(parents=True)
        (place / "每日订单.xlsx").write_bytes(b"x" * size)
        part = {"path": f"2026-11/{execution.pk}-1/每日订单.xlsx", "rows": 3, "size": size, "sha256": "ab"}
        figures = {"files": [part], "filename": "每日订单.xlsx", "rows_count": 3, "file_size": size}
    assert Execution.objects.finish(execution, status, **figures)
    return Execution.objects.get(pk=execution.pk)


def deliver() -> int:
    """Send what is due, as if all delays had passed. Returns how many messages."""
    Delivery.objects.waiting().update(next_at=timezone.now())
    box, count = Outbox(threads=0), 0
    while sent := box.deliver():
        count += sent
    return count


def mails_to(server: MailServer) -> Counter[str]:
    return Counter(address for mail in server.log.mails for address in mail.recipients)
