"""The pages of a task's history: all changes, and bringing an earlier version back."""

from typing import Any

from django.contrib import messages
from django.core.exceptions import PermissionDenied, ValidationError
from django.core.paginator import Paginator
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from tasks import task_history
from tasks.models import ExportTask

PER_PAGE = 20


def history(admin: Any, request: HttpRequest, object_id: str) -> HttpResponse:
    task = admin.get_object(request, object_id)
    if task is None:
        answer: HttpResponse = admin._get_obj_does_not_exist_redirect(request, admin.opts, object_id)
        return answer
    if not admin.has_view_or_change_permission(request, task):
        raise PermissionDenied
    page = Paginator(task_history.events_with_rules(task), PER_PAGE).get_page(request.GET.get("page"))
    context = _context(admin, request, task) | {
        "title": _("Changes of “{name}”").format(name=task),
        "page": page,
        "entries": task_history.entries(task, page.object_list, request.user),
        "may_restore": admin.has_change_permission(request, task),
    }
    return TemplateResponse(request, "admin/tasks/exporttask/history.html", context)


def restore(admin: Any, request: HttpRequest, object_id: str, event_id: int) -> HttpResponse:
    """Asks first, with what will change; acts when it is posted."""
    task: ExportTask | None = admin.get_object(request, object_id)
    if task is None:
        raise Http404
    if not admin.has_change_permission(request, task):
        raise PermissionDenied
    if request.method not in ("GET", "HEAD", "POST"):
        return HttpResponse(status=405, headers={"Allow": "GET, HEAD, POST"})
    event = get_object_or_404(task_history.events_of(task), pk=event_id)
    if request.method == "POST":
        return _act(request, task, event)
    faults: list[str] = []
    changes: list[task_history.Change] = []
    try:
        changes = task_history.restored(task, event, request.user)[1]
    except ValidationError as exc:
        faults = _sentences(exc)
    context = _context(admin, request, task) | {
        "title": _("Restore an earlier version?"),
        "event": event,
        "changes": changes,
        "faults": faults,
    }
    return TemplateResponse(request, "admin/tasks/exporttask/restore.html", context)


def _act(request: HttpRequest, task: ExportTask, event: Any) -> HttpResponse:
    try:
        count = task_history.restore(task, event, request.user)
    except ValidationError as exc:
        for sentence in _sentences(exc):
            messages.error(request, sentence)
        return HttpResponseRedirect(reverse("admin:tasks_exporttask_history", args=[task.pk]))
    if count:
        words = ngettext("{count} field is as it was in that version.", "{count} fields are as in that version.", count)
        messages.success(request, words.format(count=count))
    else:
        messages.info(request, _("Nothing to restore: the task is as it was in that version."))
    return HttpResponseRedirect(reverse("admin:tasks_exporttask_change", args=[task.pk]))


def _sentences(exc: ValidationError) -> list[str]:
    if not hasattr(exc, "error_dict"):
        return exc.messages
    labels = {field.name: str(field.verbose_name) for field in ExportTask._meta.concrete_fields}
    return [f"{labels.get(name, name)}: {' '.join(words)}" for name, words in exc.message_dict.items()]


def _context(admin: Any, request: HttpRequest, task: ExportTask) -> dict[str, Any]:
    return {
        **admin.admin_site.each_context(request),
        "opts": admin.opts,
        "module_name": str(admin.opts.verbose_name_plural),
        "object": task,
        "original": task,
        "preserved_filters": admin.get_preserved_filters(request),
    }
