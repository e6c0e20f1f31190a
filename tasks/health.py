"""GET /healthz and /healthz/web, open to anybody: for load balancers, containers and start_all.sh. They say which part
is not well, and nothing else about it."""

from django.conf import settings
from django.db import DatabaseError, connection
from django.http import HttpRequest, JsonResponse
from django.views.decorators.http import require_safe

from tasks import files
from tasks.models import SchedulerProcess

UNAVAILABLE, NO_SCHEDULER, LOW_DISK = "unavailable", "no scheduler", "low disk"


@require_safe
def healthz(request: HttpRequest) -> JsonResponse:
    """The whole system: this process reaches its database, a scheduler lives, and exports have room to be written."""
    return _answer(request, [*_database(), *_disk()])


@require_safe
def healthz_web(request: HttpRequest) -> JsonResponse:
    """This process reaches its database."""
    return _answer(request, _database(scheduler=False))


def _answer(request: HttpRequest, faults: list[str]) -> JsonResponse:
    # Where a browser has a session, it would be looked up and renewed: in a database that may be away.
    del request.session
    return JsonResponse({"status": ", ".join(faults) or "ok"}, status=503 if faults else 200)


def _database(*, scheduler: bool = True) -> list[str]:
    try:
        connection.ensure_connection()
        return [] if not scheduler or SchedulerProcess.objects.alive().exists() else [NO_SCHEDULER]
    except DatabaseError:
        return [UNAVAILABLE]


def _disk() -> list[str]:
    try:
        return [LOW_DISK] if files.free_bytes() < settings.CONFIG.export.min_free_disk else []
    except OSError:  # there is no such directory, and it can't be made
        return [LOW_DISK]
