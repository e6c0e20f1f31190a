"""Every address of the system."""

from django.contrib import admin
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import include, path
from django.utils.translation import gettext as _
from django.views import defaults
from django.views.generic import RedirectView

from tasks import dashboard_views, health, metrics_view


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
    path("healthz", health.healthz, name="healthz"),
    path("healthz/web", health.healthz_web, name="healthz-web"),
    path("metrics", metrics_view.metrics, name="metrics"),
    path("i18n/", include("django.conf.urls.i18n")),
    path("", include("tasks.urls")),
    path("admin/live/", admin.site.admin_view(dashboard_views.live), name="dashboard-live"),
    path(
        "admin/live/<int:execution_id>/cancel/", admin.site.admin_view(dashboard_views.cancel), name="dashboard-cancel"
    ),
    path("admin/", admin.site.urls),
    path("api/", include("exporter_site.api")),
]
