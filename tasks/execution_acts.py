"""What people do with runs in the browser, in words for them: from the list, from a run's page, from the dashboard."""

from collections.abc import Iterable

from django.contrib import messages
from django.http import HttpRequest
from django.utils.translation import gettext as _

from exporter_site.access import audit
from notifications.admin import say_resent
from notifications.models import Delivery
from tasks import announce
from tasks.models import Execution, ExportTask
from tasks.states import Trigger


def cancel(request: HttpRequest, executions: Iterable[Execution]) -> None:
    for execution in executions:
        if Execution.objects.request_cancel(execution.pk):
            messages.success(request, _("{execution} is being cancelled.").format(execution=execution))
        else:
            messages.warning(request, _("{execution} has already ended.").format(execution=execution))


def run_again(request: HttpRequest, executions: Iterable[Execution]) -> list[Execution]:
    """Queue each of them once more, for the same planned time. Returns the new runs."""
    executions = list(executions)
    # The task may read another source by now: that one must be granted, too.
    tasks = ExportTask.objects.for_user(request.user).in_bulk([execution.task_id for execution in executions])
    queued = []
    for execution in executions:
        task = tasks.get(execution.task_id)
        if task is None:
            messages.error(request, _("The task of {execution} has been deleted.").format(execution=execution))
            continue
        again = Execution.objects.enqueue(
            task,
            trigger=Trigger.MANUAL,
            planned_at=execution.planned_at,
            params=execution.params,
            format=execution.format,
            created_by=request.user,
        )
        messages.success(request, _("{execution} is queued for the same planned time.").format(execution=again))
        queued.append(again)
    return queued


def send_again(request: HttpRequest, executions: Iterable[Execution], *, everybody: bool = False) -> None:
    say_resent(request, sum(len(announce.resend(execution, everybody=everybody)) for execution in executions))


def send_message_again(request: HttpRequest, delivery: Delivery) -> None:
    """One message, to those it did not reach."""
    sent = Delivery.objects.resend(delivery, link=delivery.execution.link_for_messages())
    if sent:
        audit.record(audit.Action.RESEND, delivery)
    say_resent(request, int(sent))
