"""Every address of the system."""

from django.contrib import admin
from django.db import DatabaseError, connection
from django.http import HttpRequest, JsonResponse
from django.urls import include, path
from django.views.generic import RedirectView

from tasks.models import SchedulerProcess


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


admin.autodiscover()

urlpatterns = [
    path("", RedirectView.as_view(pattern_name="admin:index")),
    path("healthz", healthz, name="healthz"),
    path("healthz/web", healthz, {"whole": False}, name="healthz-web"),
    path("i18n/", include("django.conf.urls.i18n")),
    path("", include("tasks.urls")),
    path("admin/", admin.site.urls),
]
