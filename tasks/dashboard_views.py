"""The dashboard's pages: what it shows, what it looks up while it is open, and cancelling a run from it."""

from typing import Any

from django.conf import settings
from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404, render
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.http import require_POST, require_safe

from tasks import dashboard
from tasks.models import Execution

RIGHTS_TO_CANCEL = ("tasks.view_execution", "tasks.run_exporttask")


def context(request: HttpRequest, context: dict[str, Any]) -> dict[str, Any]:
    """For UNFOLD["DASHBOARD_CALLBACK"]: what templates/admin/index.html needs."""
    return context | _figures(request, whole=True)


@require_safe
def live(request: HttpRequest) -> HttpResponse:
    """The parts of the dashboard that change, as HTML; with ?all also those that change slowly. For static/dashboard.js."""
    figures = _figures(request, whole="all" in request.GET)
    answer = render(request, "admin/dashboard/live.html", figures)
    # Looking is no click: without this, an open page would keep its login for ever, and write the session each second.
    del request.session
    return answer


@require_POST
def cancel(request: HttpRequest, execution_id: int) -> HttpResponse:
    if not request.user.has_perms(RIGHTS_TO_CANCEL):
        raise PermissionDenied
    execution = get_object_or_404(Execution.objects.for_user(request.user), pk=execution_id)
    if Execution.objects.request_cancel(execution.pk):
        messages.success(request, _("{execution} is being cancelled.").format(execution=execution))
    else:
        messages.warning(request, _("{execution} has already ended.").format(execution=execution))
    return HttpResponseRedirect(reverse("admin:index"))


def _figures(request: HttpRequest, *, whole: bool) -> dict[str, Any]:
    return {
        "zone": settings.TIME_ZONE,
        "live": dashboard.live(request.user),
        "overview": dashboard.overview(request.user) if whole else None,
    }
