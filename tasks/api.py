"""/api/tasks and /api/logs"""

import logging
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from hashlib import sha256
from typing import Any, TypeVar

from django.db import IntegrityError
from django.db.models import Prefetch
from django.http import HttpResponseBase
from django.utils import timezone
from django.utils.translation import gettext as _
from django_filters import rest_framework as filters
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema, extend_schema_view
from rest_framework import serializers, status
from rest_framework.decorators import action
from rest_framework.mixins import ListModelMixin, RetrieveModelMixin
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.reverse import reverse

from datasources.connectors.base import ConnectorError
from exporter_site.access.models import Scope
from exporter_site.paging import MOST_COUNTED, CappedPaginator
from exporter_site.redact import redact
from exporter_site.rest import ChangesViewSet, Problem, ScopedViewSet, answers, documented, rights_to
from exporter_site.rest_input import AnyType, ChoicesFilter, IdFilter, Pages, WordFilter, YesNoFilter, no_such_page
from notifications.models import Delivery
from tasks import announce, backfill, preview
from tasks.downloads import send
from tasks.launch import LaunchError, known_format, parse_date
from tasks.models import Execution, ExportTask
from tasks.serializers import (
    SEE_SQL,
    BackfillRequestSerializer,
    BackfillSerializer,
    ExecutionSerializer,
    ExportTaskSerializer,
    PreviewRequestSerializer,
    PreviewSerializer,
    ResendRequestSerializer,
    ResendSerializer,
    RunSerializer,
)
from tasks.states import Status, Trigger
from tasks.storage.base import StorageError
from tasks.writers import writers

logger = logging.getLogger(__name__)

FILE_TYPES = (*(writers.get(name).content_type for name in writers), "application/zip", "application/octet-stream")
DELIVERIES = Prefetch("deliveries", Delivery.objects.defer("payload", "history"))

T = TypeVar("T")
IDEMPOTENCY_KEY = OpenApiParameter(
    "Idempotency-Key",
    str,
    OpenApiParameter.HEADER,
    description="a text of yours, new for each request: sent again with the same one, nothing is started twice",
)


def at_field(name: str, convert: Callable[[], T]) -> T:
    """What `convert` returns; a LaunchError of it as a fault of the field `name`."""
    try:
        return convert()
    except LaunchError as exc:
        raise serializers.ValidationError({name: [str(exc)]}) from None


def enqueue_once(request: Request, wish: tuple[object, ...], task: ExportTask, **fields: Any) -> Execution:
    """A new run of `task`; the one of before, when this Idempotency-Key came with the same `wish` already.

    Nobody meets the keys of somebody else. Raises Problem when the key belongs to another wish.
    """
    given = request.headers.get("Idempotency-Key", "")
    if len(given) > 255:
        raise serializers.ValidationError({"Idempotency-Key": [_("At most 255 characters.")]})
    # With the source: a task that was moved meanwhile does not bring back a run of the one that it has left.
    key, digest = (_digest(request.user.pk, given), _digest(task.data_source_id, *wish)) if given else (None, "")
    before = Execution.objects.filter(request_key=key).first() if key else None
    try:
        execution = before or Execution.objects.enqueue(
            task,
            trigger=Trigger.API,
            created_by=request.user,
            request_key=key,
            request_digest=digest,
            **fields,
        )
    except IntegrityError:
        found = Execution.objects.filter(request_key=key).first() if key else None
        if found is None:
            raise Problem(409, "task_deleted", _("The task was deleted in this moment.")) from None
        execution = found
    if execution.request_digest != digest:
        raise Problem(409, "idempotency_key_reused", _("This Idempotency-Key belongs to another request."))
    return execution


def _digest(*parts: object) -> str:
    return sha256(repr(parts).encode()).hexdigest()


def accepted(request: Request, execution: Execution) -> Response:
    """202 with a run that was queued, and the address to watch it at."""
    data = ExecutionSerializer(execution, context={"request": request}).data
    url = reverse("execution-detail", args=[execution.pk], request=request)
    return Response({**data, "url": url}, status=status.HTTP_202_ACCEPTED, headers={"Location": url})


class AcceptedSerializer(ExecutionSerializer):
    url = serializers.CharField()

    class Meta(ExecutionSerializer.Meta):
        fields = (*ExecutionSerializer.Meta.fields, "url")  # type: ignore[assignment]  # one more


class ExportTaskFilter(filters.FilterSet):
    search = WordFilter("name", "icontains")
    data_source = IdFilter("data_source")
    owner = WordFilter("owner__username")
    enabled = YesNoFilter()

    class Meta:
        model = ExportTask
        fields = ("enabled", "format")


@documented(ExportTaskSerializer)
class ExportTaskViewSet(ChangesViewSet):
    """The tasks of the data sources that are granted to you."""

    queryset = ExportTask.objects.select_related("data_source", "owner").prefetch_related("rules__channel")
    serializer_class = ExportTaskSerializer
    filterset_class = ExportTaskFilter
    ordering_fields = ("id", "name", "next_run_at")
    rights: Mapping[str, str | tuple[str, ...]] = {
        **rights_to("tasks", "exporttask"),
        "execute": "tasks.run_exporttask",
        "backfill": "tasks.run_exporttask",
        "test": ("tasks.run_exporttask", "tasks.download_execution", SEE_SQL),
    }
    scopes: Mapping[str, Scope] = {"execute": Scope.RUN, "backfill": Scope.RUN, "test": Scope.RUN}

    @extend_schema(
        request=RunSerializer,
        parameters=[IDEMPOTENCY_KEY],
        responses=answers({202: AcceptedSerializer}, 400, 404, 409, 415),
    )
    @action(detail=True, methods=["post"])
    def execute(self, request: Request, pk: int) -> Response:
        """Queue a run; a scheduler starts it. Watch it at `url`."""
        task: ExportTask = self.get_object()
        given = RunSerializer(data=request.data)
        given.is_valid(raise_exception=True)
        wish = given.validated_data
        fields: dict[str, Any] = {
            "planned_at": at_field("date", lambda: parse_date(wish["date"], task.timezone)) if "date" in wish else None,
            "params": wish.get("params", {}),
            "format": at_field("format", lambda: known_format(wish["format"])),
            "notify": wish["notify"],
        }
        same = (
            "execute",
            task.pk,
            wish.get("date"),
            sorted(fields["params"].items()),
            fields["format"],
            wish["notify"],
        )
        return accepted(request, enqueue_once(request, same, task, **fields))

    @extend_schema(
        request=PreviewRequestSerializer,
        responses=answers({200: PreviewSerializer}, 400, 404, 415, 422),
    )
    @action(detail=True, methods=["post"])
    def test(self, request: Request, pk: int) -> Response:
        """Run the SQL and show its columns and first rows. No file, no message, no execution."""
        task: ExportTask = self.get_object()
        given = PreviewRequestSerializer(data=request.data)
        given.is_valid(raise_exception=True)
        wish = given.validated_data
        planned = at_field("date", lambda: parse_date(wish["date"], task.timezone)) if "date" in wish else None
        try:
            shown = preview.preview(task, limit=wish["limit"], planned_at=planned, params=wish.get("params"))
        except ConnectorError as exc:
            raise Problem(422, exc.reason, exc) from None
        except ValueError as exc:
            raise Problem(422, "sql_refused", exc) from None
        return Response(
            {
                "columns": [
                    {"name": column.name, "type": column.server_type or column.type.value} for column in shown.columns
                ],
                "rows": shown.rows,
                "more": shown.more,
                "seconds": round(shown.seconds, 3),
                "sql": shown.sql,
            }
        )

    @extend_schema(request=BackfillRequestSerializer, responses=answers({202: BackfillSerializer}, 400, 404, 415))
    @action(detail=True, methods=["post"])
    def backfill(self, request: Request, pk: int) -> Response:
        """Queue a run for each planned time of the past from `start` to `end`."""
        task: ExportTask = self.get_object()
        given = BackfillRequestSerializer(data=request.data)
        given.is_valid(raise_exception=True)
        wish = given.validated_data
        first = at_field("start", lambda: parse_date(wish["start"], task.timezone))
        last = at_field("end", lambda: backfill.end_of(wish["end"], task.timezone))
        moments = at_field("start", lambda: backfill.moments(task, first, last))
        if not wish["again"]:
            moments = backfill.without_succeeded(task, moments)
        queued = backfill.enqueue(task, moments, notify=wish["notify"], created_by=request.user)
        data = {"queued": len(queued), "executions": [execution.pk for execution in queued]}
        return Response(data, status=status.HTTP_202_ACCEPTED)


class LogPages(Pages):
    """`count` is null when there are more than ten thousand."""

    django_paginator_class = CappedPaginator
    page: Any

    def paginate_queryset(self, queryset: Any, request: Request, view: Any = None) -> list[Any] | None:
        rows: list[Any] | None = super().paginate_queryset(queryset, request, view)
        if not rows and self.page.number > 1:
            raise no_such_page()
        return rows

    def get_paginated_response(self, data: Any) -> Response:
        counted, following = self.page.paginator.counted, self.get_next_link()
        return Response({"count": counted, "next": following, "previous": self.get_previous_link(), "results": data})

    def get_paginated_response_schema(self, schema: Any) -> dict[str, Any]:
        made = super().get_paginated_response_schema(schema)
        made["properties"]["count"]["nullable"] = True
        made["properties"]["count"]["description"] = f"null when there are more than {MOST_COUNTED:,}"
        return made


class MomentFilter(filters.CharFilter):
    """A date, or a date and time, in the system's zone unless it names one."""

    def __init__(self, *args: Any, end: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.end = end

    def filter(self, qs: Any, value: Any) -> Any:
        if not value:
            return qs
        # In an address + is a blank, unless it is written as %2B.
        value = re.sub(r"(T.*) (\d\d:?\d\d)$", r"\1+\2", value)
        name = "until" if self.end else "since"
        zone = timezone.get_current_timezone_name()
        convert = backfill.end_of if self.end else parse_date
        moment: datetime = at_field(name, lambda: convert(value, zone))
        return qs.filter(**{f"{self.field_name}__{self.lookup_expr}": moment})


class ExecutionFilter(filters.FilterSet):
    task = IdFilter("task")
    data_source = IdFilter("data_source")
    status = ChoicesFilter(choices=Status.choices)
    trigger = ChoicesFilter(choices=Trigger.choices)
    since = MomentFilter("planned_at", "gte", help_text="planned at this time or later")
    until = MomentFilter(
        "planned_at", "lte", end=True, help_text="planned at this time or before; a date: its whole day"
    )

    class Meta:
        model = Execution
        fields = ("task", "data_source", "status", "trigger")


@extend_schema_view(
    list=extend_schema(responses=answers({200: ExecutionSerializer(many=True)}, 400, 404)),
    retrieve=extend_schema(responses=answers({200: ExecutionSerializer}, 404)),
)
class ExecutionViewSet(ListModelMixin, RetrieveModelMixin, ScopedViewSet):
    """The runs of the data sources that are granted to you, newest first; by their planned time where a span of it is
    asked for."""

    queryset = Execution.objects.prefetch_related(DELIVERIES)
    serializer_class = ExecutionSerializer
    pagination_class = LogPages
    filterset_class = ExecutionFilter
    ordering_fields: Mapping[str, str] = {"id": "id", "scheduled_for": "planned_at"}
    rights: Mapping[str, str] = {
        "list": "tasks.view_execution",
        "retrieve": "tasks.view_execution",
        "cancel": "tasks.run_exporttask",
        "rerun": "tasks.run_exporttask",
        "resend": "tasks.run_exporttask",
        "download": "tasks.download_execution",
    }
    scopes: Mapping[str, Scope] = {"cancel": Scope.RUN, "rerun": Scope.RUN, "resend": Scope.RUN}

    @property
    def ordering(self) -> tuple[str, ...]:
        """Unless the request names another one. An index over the planned time finds a span of it only in its order."""
        asked = self.request.query_params
        return ("-planned_at", "-id") if asked.get("since") or asked.get("until") else ("-id",)

    @extend_schema(request=None, responses=answers({202: ExecutionSerializer}, 404, 409))
    @action(detail=True, methods=["post"])
    def cancel(self, request: Request, pk: int) -> Response:
        """End a queued run, ask a running one to stop; it does so within seconds."""
        execution: Execution = self.get_object()
        if not Execution.objects.request_cancel(execution.pk):
            raise Problem(409, "ended", _("{execution} has already ended.").format(execution=execution))
        return Response(self.get_serializer(self.get_object()).data, status=status.HTTP_202_ACCEPTED)

    @extend_schema(
        request=None, parameters=[IDEMPOTENCY_KEY], responses=answers({202: AcceptedSerializer}, 400, 404, 409)
    )
    @action(detail=True, methods=["post"])
    def rerun(self, request: Request, pk: int) -> Response:
        """Queue another run for the same planned time, with the same parameters, and the SQL as it is now."""
        execution: Execution = self.get_object()
        # The task may read another source by now: that one must be granted, too.
        task = ExportTask.objects.for_user(request.user).filter(executions=execution).first()
        if task is None:
            raise Problem(
                409, "task_deleted", _("The task of {execution} has been deleted.").format(execution=execution)
            )
        again = enqueue_once(
            request,
            ("rerun", execution.pk),
            task,
            planned_at=execution.planned_at,
            params=execution.params,
            format=execution.format,
        )
        return accepted(request, again)

    @extend_schema(request=ResendRequestSerializer, responses=answers({202: ResendSerializer}, 400, 404, 415))
    @action(detail=True, methods=["post"])
    def resend(self, request: Request, pk: int) -> Response:
        """Send the run's messages again, from the same file: no query runs."""
        execution: Execution = self.get_object()
        given = ResendRequestSerializer(data=request.data)
        given.is_valid(raise_exception=True)
        again = announce.resend(execution, everybody=given.validated_data["everybody"])
        deliveries = self.get_serializer(self.get_object()).data["deliveries"]
        return Response({"resent": len(again), "deliveries": deliveries}, status=status.HTTP_202_ACCEPTED)

    @extend_schema(
        parameters=[
            OpenApiParameter("part", int, description="one part of several, from 1; without it all as one zip")
        ],
        responses=answers(
            {(status, kind): OpenApiTypes.BINARY for status in (200, 206) for kind in FILE_TYPES},
            404,
            416,
        ),
    )
    @action(detail=True, methods=["get"], content_negotiation_class=AnyType)
    def download(self, request: Request, pk: int) -> HttpResponseBase:
        """The file: xlsx, csv, or one zip when there are several parts. Range and If-Range are honoured."""
        try:
            # Not sent on to a bucket: programs would take their credentials along.
            response = send(request._request, self.get_object(), may_redirect=False)
        except StorageError as exc:
            logger.error("a file can't be sent: %s", redact(str(exc)))
            words = _("The file is kept in an object storage that does not answer as it should. Try again later.")
            raise Problem(503, "storage_unavailable", words) from exc
        if response is None:
            raise Problem(404, "no_file", _("This run has no file, or it has been removed after its retention time."))
        if response.status_code == 416:
            headers = {name: response[name] for name in ("Content-Range", "Accept-Ranges")}
            raise Problem(416, "no_such_range", _("The file has no such range."), headers)
        response["Cache-Control"] = "no-store, private"
        return response
