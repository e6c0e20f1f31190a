"""Every route of /api/."""

from typing import Any

from django.db import DatabaseError
from django.urls import URLPattern, URLResolver, path, re_path
from drf_spectacular.utils import extend_schema
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerSplitView
from rest_framework import serializers
from rest_framework.exceptions import NotFound
from rest_framework.permissions import AllowAny
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.routers import SimpleRouter
from rest_framework.views import APIView

from datasources.api import DataSourceViewSet
from exporter_site import __version__
from exporter_site.access.api import RefreshView, TokenView
from exporter_site.rest import answers
from notifications.api import ChannelViewSet
from tasks import status
from tasks.api import ExecutionViewSet, ExportTaskViewSet

router = SimpleRouter(trailing_slash=False, use_regex_path=False)
router.register("data-sources", DataSourceViewSet, "datasource")
router.register("tasks", ExportTaskViewSet, "task")
router.register("logs", ExecutionViewSet, "execution")
router.register("channels", ChannelViewSet, "channel")


class SchedulerSerializer(serializers.Serializer[Any]):
    alive = serializers.BooleanField()
    pid = serializers.IntegerField(allow_null=True)
    uptime_seconds = serializers.IntegerField(allow_null=True)
    heartbeat_at = serializers.DateTimeField(allow_null=True)
    running = serializers.IntegerField()
    queued = serializers.IntegerField()
    next_run_at = serializers.DateTimeField(allow_null=True)


class LastDaySerializer(serializers.Serializer[Any]):
    succeeded = serializers.IntegerField()
    ended = serializers.IntegerField()


class DiskSerializer(serializers.Serializer[Any]):
    free = serializers.IntegerField(help_text="bytes")
    needed = serializers.IntegerField(help_text="bytes: export.min_free_disk")


class StatusSerializer(serializers.Serializer[Any]):
    """Without a login only `status`."""

    status = serializers.ChoiceField(["ok", "degraded"])
    problems = serializers.ListField(child=serializers.CharField(), required=False)
    version = serializers.CharField(required=False)
    scheduler = SchedulerSerializer(required=False)
    tasks = serializers.IntegerField(required=False, help_text="that you may see")
    data_sources = serializers.IntegerField(required=False, help_text="that you may see")
    last_day = LastDaySerializer(required=False)
    disk = DiskSerializer(required=False)


class StatusView(APIView):
    permission_classes = (AllowAny,)

    @extend_schema(operation_id="status", responses=answers({200: StatusSerializer}))
    def get(self, request: Request) -> Response:
        """Whether all is well; to who has logged in, what there is."""
        try:
            problems = status.problems()
        except DatabaseError:
            return Response({"status": "degraded"})
        shown: dict[str, Any] = {"status": "degraded" if problems else "ok"}
        if request.user.is_authenticated:
            shown |= {"problems": problems, "version": __version__, **status.for_api(request.user)}
        return Response(StatusSerializer(shown).data)


@extend_schema(exclude=True)
class UnknownView(APIView):
    """An address that does not exist, in the shape of all errors."""

    authentication_classes = ()
    permission_classes = (AllowAny,)

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        raise NotFound


class SchemaView(SpectacularAPIView):
    authentication_classes = ()
    permission_classes = (AllowAny,)


class DocsView(SpectacularSwaggerSplitView):
    permission_classes = (AllowAny,)
    http_method_names = ("get", "head")  # its template can't show what OPTIONS answers


urlpatterns: list[URLPattern | URLResolver] = [
    path("token", TokenView.as_view(), name="token"),
    path("token/refresh", RefreshView.as_view(), name="token-refresh"),
    path("status", StatusView.as_view(), name="api-status"),
    path("schema", SchemaView.as_view(), name="api-schema"),
    path(
        "docs",
        DocsView.as_view(url_name="api-schema"),
        name="api-docs",
    ),
    *router.urls,
    re_path("", UnknownView.as_view()),
]
