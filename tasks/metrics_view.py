"""GET /metrics: who may read it, and how."""

from hmac import compare_digest
from typing import Any, cast

from django.conf import settings
from django.db import DatabaseError
from django.http import HttpRequest, HttpResponse
from django.utils.cache import patch_cache_control
from django.utils.translation import gettext as _
from django.views.decorators.http import require_safe
from rest_framework.exceptions import AuthenticationFailed

from exporter_site.access.authentication import BearerAuthentication
from exporter_site.exposition import CONTENT_TYPE, render
from tasks import metrics as collector

RIGHT = "datasources.all_datasources"  # what is counted is counted over all of them


@require_safe
def metrics(request: HttpRequest) -> HttpResponse:
    """For whoever has web.metrics_token, or sees all data sources: by an API key, an access token or a login.

    Where a request comes from opens nothing: behind a proxy on this machine everybody comes from 127.0.0.1.
    """
    answer = _refusal(request) or HttpResponse(render(collector.collect()), content_type=CONTENT_TYPE)
    patch_cache_control(answer, no_store=True)
    return answer


def _refusal(request: HttpRequest) -> HttpResponse | None:
    if _has_token(request):
        return None
    try:
        user = _user_of(request)
        if user is None or not user.is_authenticated:
            words = _("Send the token of web.metrics_token, or an API key: “Authorization: Bearer …”.")
            return _refused(401, words)
        allowed = user.has_perm(RIGHT)
    except AuthenticationFailed as exc:
        return _refused(401, str(exc.detail))
    except DatabaseError:
        return _refused(503, _("The system database is away; only web.metrics_token can be checked without it."))
    return None if allowed else _refused(403, _("The metrics are for those who see all data sources."))


def _has_token(request: HttpRequest) -> bool:
    token = settings.CONFIG.web.metrics_token.get_secret_value()
    scheme, _space, given = request.headers.get("Authorization", "").partition(" ")
    return bool(token) and scheme.lower() == "bearer" and compare_digest(given.strip().encode(), token.encode())


def _user_of(request: HttpRequest) -> Any:
    """The user of an API key or an access token, else of the session; anonymous when there is none."""
    found = BearerAuthentication().authenticate(cast("Any", request))
    return found[0] if found else request.user


def _refused(status: int, words: str) -> HttpResponse:
    answer = HttpResponse(f"{words}\n", status=status, content_type="text/plain; charset=utf-8")
    if status == 401:
        answer["WWW-Authenticate"] = 'Bearer realm="metrics"'
    return answer
