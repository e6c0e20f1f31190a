"""Every address of the system."""

from django.contrib import admin
from django.db import DatabaseError, connection
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import include, path
from django.utils.translation import gettext as _
from django.views import defaults
from django.views.decorators.http import require_safe
from django.views.generic import RedirectView

from tasks import dashboard_views
from tasks.models import SchedulerProcess


@require_safe
def healthz(request: HttpRequest, *, whole: bool = True) -> JsonResponse:
    """Open to anybody, says only ok or not: the web process reaches its database, and, for the `whole` system, a
    scheduler lives."""
    try:
        connection.ensure_connection()
        alive = not whole or SchedulerProcess.objects.alive().exists()
    except DatabaseError:
        return JsonResponse({"status": "unavailable"}, status=503)
    if not alive:
        return JsonResponse({"status": "no scheduler"}, status=503)
    return JsonResponse({"status": "ok"})


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    if request.path_info.startswith("/api/"):
        return JsonResponse({"code": "bad_request", "message": _("This request can't be understood.")}, status=400)
    return defaults.bad_request(request, exception)


def server_error(request: HttpRequest) -> HttpResponse:
    if request.path_info.startswith("/api/"):
        words = _("Something went wrong in the system itself; its log says what.")
        return JsonResponse({"code": "internal_error", "message": words}, status=500)
    return defaults.server_error(request)


handler400, handler500 = bad_request, server_error

admin.autodiscover()

urlpatterns = [
    path("", RedirectView.as_view(pattern_name="admin:index")),
    path("healthz", healthz, name="healthz"),
    path("healthz/web", healthz, {"whole": False}, name="healthz-web"),
    path("i18n/", include("django.conf.urls.i18n")),
    path("", include("tasks.urls")),
    path("admin/live/", admin.site.admin_view(dashboard_views.live), name="dashboard-live"),
    path(
        "admin/live/<int:execution_id>/cancel/", admin.site.admin_view(dashboard_views.cancel), name="dashboard-cancel"
    ),
    path("admin/", admin.site.urls),
    path("api/", include("exporter_site.api")),
]
