"""What the API's endpoints share: pages, errors, rights, conditional changes. The routes are in exporter_site/api.py."""

import logging
from collections.abc import Mapping, Sequence
from copy import copy
from functools import cached_property
from hashlib import sha256
from operator import attrgetter
from typing import Any

from django.conf import settings
from django.core.exceptions import RequestDataTooBig, ValidationError
from django.db import IntegrityError, InterfaceError, OperationalError, transaction
from django.db.models.deletion import ProtectedError
from django.http import Http404
from django.utils.translation import gettext as _
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema, extend_schema_view
from rest_framework import exceptions, serializers, status
from rest_framework.mixins import CreateModelMixin, DestroyModelMixin, ListModelMixin, RetrieveModelMixin
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import exception_handler
from rest_framework.viewsets import GenericViewSet

from exporter_site.access.models import Scope
from exporter_site.access.permissions import HasRights
from exporter_site.access.scope import ScopedQuerySet
from exporter_site.rest_input import LAST_ID, Pages

logger = logging.getLogger(__name__)


class Problem(exceptions.APIException):
    """A refusal with a status, a code for programs and words for people."""

    def __init__(self, status_code: int, code: str, message: Any, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(str(message), code)
        self.status_code = status_code
        self.headers = headers or {}


class ErrorSerializer(serializers.Serializer[Any]):
    """What every answer of 400 and above holds."""

    code = serializers.CharField(help_text="for programs: invalid, not_found, permission_denied …")
    message = serializers.CharField(help_text="for people, in the language of Accept-Language")
    fields = serializers.DictField(  # type: ignore[assignment]  # the name says it
        child=serializers.ListField(child=serializers.CharField()),
        required=False,
        help_text="with `invalid`: what is wrong with which field",
    )


def error_response(exc: Exception, context: dict[str, Any]) -> Response | None:
    """The EXCEPTION_HANDLER of the API: one shape for all errors. None for what is a fault of ours."""
    if isinstance(exc, ValidationError):
        exc = exceptions.ValidationError(serializers.as_serializer_error(exc))
    if isinstance(exc, ProtectedError):
        exc = Problem(409, "in_use", _("This is still used by others and can't be deleted."))
    elif isinstance(exc, RequestDataTooBig):
        limit = f"{settings.DATA_UPLOAD_MAX_MEMORY_SIZE:,}"
        exc = Problem(413, "too_large", _("The body is larger than {limit} bytes.").format(limit=limit))
    elif isinstance(exc, IntegrityError):
        # Checked before, and changed by somebody else since.
        exc = Problem(
            409, "conflict", _("Somebody has saved or deleted something that this depends on just now. Try again.")
        )
    elif isinstance(exc, OperationalError | InterfaceError):
        logger.error("the system database failed a request of the API", exc_info=exc)
        exc = Problem(503, "database_unavailable", _("The system database does not answer at the moment. Try again."))
    response = exception_handler(exc, context)
    if response is None:
        return None
    for name, value in getattr(exc, "headers", {}).items():
        response[name] = value
    if isinstance(exc, exceptions.ValidationError):
        fields = _field_errors(response.data)
        words = [text for texts in fields.values() for text in texts]
        response.data = {"code": "invalid", "message": " ".join(words[:3]), "fields": fields}
        return response
    if isinstance(exc, exceptions.APIException):
        code = str(exc.get_codes()) if isinstance(exc.detail, str) else exc.default_code
        message = str(exc.detail)
    else:
        code = "not_found" if isinstance(exc, Http404) else "permission_denied"
        message = (
            _("There is no such thing, or not for you.") if isinstance(exc, Http404) else _("You may not do this.")
        )
    if isinstance(exc, exceptions.NotFound) and code == "not_found":
        message = _("There is no such thing, or not for you.")
    response.data = {"code": code, "message": message}
    return response


def _field_errors(data: Any, name: str = "") -> dict[str, list[str]]:
    """Faults of nested fields under dotted names: {"rules.0.channel": ["…"]}."""
    if isinstance(data, Mapping):
        found: dict[str, list[str]] = {}
        for key, value in data.items():
            found |= _field_errors(value, f"{name}.{key}" if name else str(key))
        return found
    if isinstance(data, Sequence) and not isinstance(data, str):
        if any(isinstance(item, Mapping) for item in data):
            return _field_errors({str(number): item for number, item in enumerate(data) if item}, name)
        return {name or "non_field_errors": [str(item) for item in data]}
    return {name or "non_field_errors": [str(data)]}


ERRORS: dict[int, str] = {
    400: "invalid input, in words at each field",
    401: "no credentials, or none that are valid",
    403: "your role, or your API key's scope, does not allow this",
    404: "there is no such thing, or not for you",
    405: "the address does not know this method; Allow names those that it knows",
    406: "the answer is JSON, and Accept does not take it",
    409: "it can't be done in the present state",
    411: "the body came without its length",
    412: "somebody else has changed it meanwhile (If-Match)",
    413: "the request is too large",
    415: "the body is no JSON",
    416: "the file has no such range",
    422: "the database, or a check before it, refuses the SQL; in words",
    429: "too many requests; see Retry-After",
    503: "the database behind it can't be reached",
}


def answers(success: Mapping[Any, Any], *errors: int) -> dict[Any, Any]:
    """The `responses` of an operation: `success`, the `errors` of its own, and those that every operation has."""
    known = {
        code: OpenApiResponse(ErrorSerializer, ERRORS[code])
        for code in sorted({401, 403, 406, 429, 503, *errors, *((411, 413) if 415 in errors else ())})
    }
    return {**success, **known}


def documented(serializer: type[serializers.BaseSerializer[Any]]) -> Any:
    """Decorates a ChangesViewSet: what its list, create, read, change and delete answer."""
    change = extend_schema(responses=answers({200: serializer}, 400, 404, 409, 412, 415))
    return extend_schema_view(
        list=extend_schema(responses=answers({200: serializer(many=True)}, 400, 404)),
        create=extend_schema(responses=answers({201: serializer}, 400, 409, 415)),
        retrieve=extend_schema(responses=answers({200: serializer}, 404)),
        update=change,
        partial_update=change,
        destroy=extend_schema(responses=answers({204: None}, 404, 409, 412)),
    )


def rights_to(app: str, model: str) -> dict[str, str]:
    """The `rights` of a ChangesViewSet's own actions: those that the admin asks for."""
    verbs = {
        "list": "view",
        "retrieve": "view",
        "create": "add",
        "update": "change",
        "partial_update": "change",
        "destroy": "delete",
    }
    return {action: f"{app}.{verb}_{model}" for action, verb in verbs.items()}


class ScopedViewSet(GenericViewSet[Any]):
    """Shows the rows that the user may know of, and no others."""

    permission_classes = (HasRights,)
    pagination_class = Pages
    rights: Mapping[str, str | tuple[str, ...]] = {}
    scopes: Mapping[str, Scope] = {}
    lookup_value_converter = "int"

    def get_queryset(self) -> Any:
        queryset = super().get_queryset()
        if getattr(self, "swagger_fake_view", False):
            return queryset.none()
        return queryset.for_user(self.request.user) if isinstance(queryset, ScopedQuerySet) else queryset

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)
        if "chunked" in request.headers.get("Transfer-Encoding", "").lower():
            # The framework takes a body without a length for none, and would run something else than was asked for.
            raise Problem(411, "length_required", _("Send the body with a Content-Length, not in chunks."))

    def get_object(self) -> Any:
        if int(self.kwargs["pk"]) > LAST_ID:
            raise Http404
        return super().get_object()


class RowField(serializers.PrimaryKeyRelatedField[Any]):
    """The number of a row; 1.5 is none, where the library would round it."""

    def to_internal_value(self, data: Any) -> Any:
        if isinstance(data, float):
            self.fail("incorrect_type", data_type="float")
        return super().to_internal_value(data)


class CleanedSerializer(serializers.ModelSerializer[Any]):
    """Checks a row with its model's clean(): the API refuses what the admin and the commands refuse, in the same words."""

    serializer_related_field = RowField

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        model: Any = self.Meta.model
        row = copy(self.instance) if self.instance is not None else model()
        names = [field.name for field in model._meta.concrete_fields]
        for name in names:
            if name in attrs:
                setattr(row, name, attrs[name])
        before = {name: row.__dict__.get(name) for name in names}
        row.clean()
        # What clean() has put into its usual form.
        return attrs | {name: row.__dict__[name] for name in names if row.__dict__.get(name) != before[name]}


class PlainReads(serializers.ModelSerializer[Any]):
    """Shows fields whose values need no conversion straight from the row: most of a list's time goes there."""

    _AS_IT_IS = (
        serializers.CharField,
        serializers.ChoiceField,
        serializers.IntegerField,
        serializers.FloatField,
        serializers.BooleanField,
        serializers.JSONField,
    )

    @cached_property
    def _columns(self) -> list[tuple[str, Any, Any]]:
        """(name, what reads it from the row, what converts it or None) of each field."""
        found: list[tuple[str, Any, Any]] = []
        model: Any = self.Meta.model
        concrete = {field.name for field in model._meta.concrete_fields}
        field: Any
        for name, field in self.fields.items():
            if field.write_only:
                continue
            if type(field) in self._AS_IT_IS and field.source in concrete:
                found.append((name, attrgetter(field.source), None))
            elif type(field) is serializers.PrimaryKeyRelatedField and field.source in concrete:
                found.append((name, attrgetter(f"{field.source}_id"), None))
            else:
                found.append((name, field.get_attribute, field.to_representation))
        return found

    def to_representation(self, instance: Any) -> dict[str, Any]:
        shown = {}
        for name, read, convert in self._columns:
            value = read(instance)
            shown[name] = value if convert is None or value is None else convert(value)
        return shown


def etag_of(row: Any) -> str:
    """Changes with every saved change of `row`."""
    return f'"{sha256(f"{row._meta.label}:{row.pk}:{row.updated_at.timestamp()}".encode()).hexdigest()[:24]}"'


IF_MATCH = OpenApiParameter(
    "If-Match", str, OpenApiParameter.HEADER, description="the ETag that your change builds on; 412 when it is older"
)


class ChangesViewSet(CreateModelMixin, RetrieveModelMixin, DestroyModelMixin, ListModelMixin, ScopedViewSet):
    """Create, read, replace, change, delete; each change on top of the row as it is, or with If-Match as it was read."""

    def retrieve(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        row = self.get_object()
        return Response(self.get_serializer(row).data, headers={"ETag": etag_of(row)})

    def create(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        serializer = self.get_serializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        with transaction.atomic():
            self.perform_create(serializer)
        return Response(
            serializer.data,
            status=status.HTTP_201_CREATED,
            headers={"ETag": etag_of(serializer.instance), "Location": self._address(serializer.instance)},
        )

    def _address(self, row: Any) -> str:
        request = self.request
        return request.build_absolute_uri(f"{request.path.rstrip('/')}/{row.pk}")

    @extend_schema(parameters=[IF_MATCH])
    def update(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        return self._change(request, partial=False)

    @extend_schema(parameters=[IF_MATCH])
    def partial_update(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        return self._change(request, partial=True)

    def _change(self, request: Request, *, partial: bool) -> Response:
        # Before the transaction: a slow client must not keep the row, or the whole of SQLite, locked.
        data = request.data
        with transaction.atomic():
            row = self._held(request)
            serializer = self.get_serializer(row, data=data, partial=partial)
            serializer.is_valid(raise_exception=True)
            serializer.save()
            row.__dict__.pop("_prefetched_objects_cache", None)
        return Response(serializer.data, headers={"ETag": etag_of(serializer.instance)})

    @extend_schema(parameters=[IF_MATCH])
    def destroy(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        with transaction.atomic():
            self._held(request).delete()
        return Response(status=status.HTTP_204_NO_CONTENT)

    def _held(self, request: Request) -> Any:
        """The row, held until the transaction ends. Raises Problem when it is not the one that If-Match names."""
        model = type(self.get_object())
        model._default_manager.select_for_update().filter(pk=self.kwargs["pk"]).first()
        # Read once more: while we waited for it, it may have been changed, moved to another source, or deleted.
        row = self.get_object()
        self.check_changeable(row)
        wanted = request.headers.get("If-Match", "")
        # A proxy that compresses the answer makes the ETag a weak one.
        tags = [tag.strip().removeprefix("W/") for tag in wanted.split(",")]
        if wanted and "*" not in tags and etag_of(row) not in tags:
            raise Problem(
                412, "changed_meanwhile", _("Somebody has changed this meanwhile. Read it again, then change it.")
            )
        return row

    def check_changeable(self, row: Any) -> None:
        if getattr(row, "config_managed", False):
            raise Problem(409, "config_managed", _("This comes from config.yaml and is changed there."))
