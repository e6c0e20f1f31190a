"""What the form of a task says about its messages before it is saved: how one will read, and whether it arrives.

The answers are JSON with nothing but texts; static/task_form.js writes them into the page.
"""

from collections.abc import Sequence
from typing import Any

from django.core.exceptions import PermissionDenied, ValidationError
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, JsonResponse
from django.utils.translation import gettext as _

from exporter_site.access import audit
from exporter_site.fields import Undecryptable
from notifications import messages, reasons
from notifications.admin import tested
from notifications.messages import ANNOUNCED
from notifications.models import Channel, clean_settings
from tasks import announce
from tasks.execution_admin import SEE_SQL
from tasks.models import ExportTask

TEST = "notifications.change_channel"  # as on the channel's own page


def preview(request: HttpRequest, tasks: QuerySet[ExportTask]) -> JsonResponse:
    """{"error", "messages": [{"event", "title", "text"}]} for the template as it is typed; with `check` only the first.

    `tasks`: those of the user. A task that is not saved yet has no number, and its messages are examples.
    """
    template = request.POST.get("template", "")
    try:
        messages.check(template)
    except ValueError as exc:
        return JsonResponse({"error": str(exc)})
    if "check" in request.POST:
        return JsonResponse({"error": ""})
    task = _task_of(request, tasks)
    if not request.user.has_perm(SEE_SQL):
        task = ExportTask(name=task.name)  # the error of a real run quotes its SQL
    chosen = request.POST.getlist("events")
    markup = _markup(request.POST.get("channel", ""))
    found = [
        {"event": str(label), **announce.preview(task, template, event, markup)}
        for event, label in ANNOUNCED
        if not chosen or event in chosen
    ]
    return JsonResponse({"error": "", "messages": found})


def test(request: HttpRequest, tasks: QuerySet[ExportTask]) -> JsonResponse:
    """{"results": [{"ok", "words"}]} of a test message to a shared channel, or to what the form names itself."""
    if not request.user.has_perm(TEST):
        raise PermissionDenied
    number = request.POST.get("channel", "")
    if "channel" in request.POST:
        if not number:
            return _results([(False, _("Choose a channel first."))])
        channel = _shared(number)
        if channel is None:
            raise Http404
        audit.record(audit.Action.TEST, channel)
        return _results(list(tested(channel)))
    task = _task_of(request, tasks)
    try:
        channel = _robot(request, task) if request.POST.get("kind") == "dingtalk" else _mailboxes(request, task)
    except ValidationError as exc:
        return _results([(False, words) for words in exc.messages])
    # Not saved, it has no number of its own.
    audit.record(audit.Action.TEST, task if task.pk else None, note=str(channel))
    return _results(list(tested(channel)))


def _results(lines: Sequence[tuple[bool, str]]) -> JsonResponse:
    return JsonResponse({"results": [{"ok": is_sent, "words": words} for is_sent, words in lines]})


def _task_of(request: HttpRequest, tasks: QuerySet[ExportTask]) -> ExportTask:
    number, name = request.POST.get("task", ""), request.POST.get("name", "").strip()
    if not number:
        return ExportTask(name=name[:200] or _("New task"))
    found = tasks.filter(pk=int(number)).first() if _is_number(number) else None
    if found is None:
        raise Http404
    return found


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 19


def _shared(number: str) -> Channel | None:
    return Channel.objects.shared().to_send().filter(pk=int(number)).first() if _is_number(number) else None


def _markup(number: str) -> str:
    channel = _shared(number)
    return channel.transport_class.markup if channel is not None else messages.MARKDOWN


def _robot(request: HttpRequest, task: ExportTask) -> Channel:
    """The task's own robot as it would be after saving: what is typed, else what is stored, else that of config.yaml."""
    values = {
        name: request.POST.get(field, "").strip() or stored
        for name, field, stored in (
            ("webhook_url", "dingtalk_webhook", task.dingtalk_webhook),
            ("secret", "dingtalk_secret", task.dingtalk_secret),
        )
    }
    if any(isinstance(value, Undecryptable) for value in values.values()):
        raise ValidationError(str(reasons.sentence("secret_unreadable")))
    if values["webhook_url"]:
        return _unsaved(task, "dingtalk", values)
    channel = Channel.objects.of_config()
    if channel is None:
        raise ValidationError(_("No robot is named here or in config.yaml. Enter the webhook first."))
    return channel


def _mailboxes(request: HttpRequest, task: ExportTask) -> Channel:
    recipients = request.POST.get("recipients", "")
    if not recipients.replace(",", " ").replace("，", " ").strip():
        raise ValidationError(_("Enter the addresses first."))
    return _unsaved(task, "email", {"recipients": recipients})


def _unsaved(task: ExportTask, kind: str, values: dict[str, Any]) -> Channel:
    """Raises ValidationError when these settings are none."""
    channel = Channel(name=task.name, kind=kind)
    channel.set_settings(clean_settings(kind, values))
    return channel
