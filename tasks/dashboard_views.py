"""The dashboard's pages: what it shows, what it looks up while it is open, and cancelling a run from it."""

from typing import Any

from django.conf import settings
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404
from django.template.loader import render_to_string
from django.urls import reverse
from django.views.decorators.http import require_POST, require_safe

from tasks import dashboard, execution_acts
from tasks.live import looked_at
from tasks.models import Execution

RIGHTS_TO_CANCEL = ("tasks.view_execution", "tasks.run_exporttask")


def context(request: HttpRequest, context: dict[str, Any]) -> dict[str, Any]:
    """For UNFOLD["DASHBOARD_CALLBACK"]: what templates/admin/index.html needs."""
    return context | _figures(request, whole=True)


@require_safe
def live(request: HttpRequest) -> HttpResponse:
    """The parts of the dashboard that change, as HTML; with ?all also those that change slowly. For static/dashboard.js."""
    figures = _figures(request, whole="all" in request.GET)
    return looked_at(request, render_to_string("admin/dashboard/live.html", figures, request))


@require_POST
def cancel(request: HttpRequest, execution_id: int) -> HttpResponse:
    if not request.user.has_perms(RIGHTS_TO_CANCEL):
        raise PermissionDenied
    execution_acts.cancel(request, [get_object_or_404(Execution.objects.for_user(request.user), pk=execution_id)])
    return HttpResponseRedirect(reverse("admin:index"))


def _figures(request: HttpRequest, *, whole: bool) -> dict[str, Any]:
    return {
        "zone": settings.TIME_ZONE,
        "live": dashboard.live(request.user),
        "overview": dashboard.overview(request.user) if whole else None,
    }
