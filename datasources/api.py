"""/api/data-sources"""

from collections.abc import Mapping

from django_filters import rest_framework as filters
from drf_spectacular.utils import extend_schema
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from datasources.connectors.base import ConnectorError
from datasources.models import DataSource
from datasources.serializers import ConnectionTestSerializer, DataSourceSerializer
from exporter_site.access import audit
from exporter_site.access.models import Scope
from exporter_site.rest import ChangesViewSet, answers, documented, rights_to
from exporter_site.rest_input import WordFilter, YesNoFilter


class DataSourceFilter(filters.FilterSet):
    search = WordFilter("name", "icontains")
    is_active = YesNoFilter()

    class Meta:
        model = DataSource
        fields = ("kind", "is_active")


@documented(DataSourceSerializer)
class DataSourceViewSet(ChangesViewSet):
    """The databases that are granted to you."""

    queryset = DataSource.objects.all()
    serializer_class = DataSourceSerializer
    filterset_class = DataSourceFilter
    ordering_fields = ("id", "name")
    rights: Mapping[str, str] = {**rights_to("datasources", "datasource"), "test": "datasources.test_datasource"}
    scopes: Mapping[str, Scope] = {"test": Scope.RUN}

    @extend_schema(request=None, responses=answers({200: ConnectionTestSerializer}, 404))
    @action(detail=True, methods=["post"])
    def test(self, request: Request, pk: int) -> Response:
        """Connect and log in, now. 200 in both cases: `ok` says what came out."""
        source = self.get_object()
        audit.record(audit.Action.TEST, source)
        try:
            report = source.test()
        except ConnectorError as exc:
            return Response({"ok": False, "reason": exc.reason, "message": str(exc)})
        return Response(
            {
                "ok": True,
                "server_version": report.server_version,
                "latency_ms": report.latency_ms,
                "warnings": report.warnings,
            }
        )
