"""Around every request: who asks, and from where, is known to the audit, and a password that must be changed is changed
first."""

from collections.abc import Callable, Sequence
from ipaddress import ip_address, ip_network

from django.conf import settings
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, JsonResponse
from django.urls import reverse
from django.utils.translation import gettext as _

from exporter_site.access.audit import current_request
from exporter_site.access.passwords import must_change

Answer = Callable[[HttpRequest], HttpResponse]
FOR_ANYBODY = ("/static/", "/i18n/", "/healthz", "/d/")


def proxy_middleware(get_response: Answer) -> Answer:
    """Behind a proxy of ours (web.trusted_proxies) a request comes from where the proxy says, not from the proxy."""

    def answered(request: HttpRequest) -> HttpResponse:
        connection, forwarded = request.META.get("REMOTE_ADDR", ""), request.headers.get("X-Forwarded-For", "")
        request.META["REMOTE_ADDR"] = client_address(connection, forwarded, settings.CONFIG.web.trusted_proxies)
        return get_response(request)

    return answered


def client_address(connection: str, forwarded: str, trusted: Sequence[str]) -> str:
    """The first address on the way back from the `connection` that is none of the `trusted` networks.

    `forwarded` is X-Forwarded-For: each proxy has put the address it was asked from at its end. What stands before a
    stranger's address was written by the stranger.
    """
    address = connection
    for hop in reversed(forwarded.split(",")):
        if not (_is_address(hop.strip()) and _is_within(address, trusted)):
            break
        address = hop.strip()
    return address


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _is_within(address: str, networks: Sequence[str]) -> bool:
    return _is_address(address) and any(ip_address(address) in ip_network(network) for network in networks)


def audit_middleware(get_response: Answer) -> Answer:
    def answered(request: HttpRequest) -> HttpResponse:
        token = current_request.set(request)
        try:
            return get_response(request)
        finally:
            current_request.reset(token)

    return answered


def password_middleware(get_response: Answer) -> Answer:
    def answered(request: HttpRequest) -> HttpResponse:
        # Before anybody asks who it is: /healthz answers a browser that has a session while the database is away, too.
        if request.path_info.startswith(FOR_ANYBODY):
            return get_response(request)
        # Only a session has a user here; the API's other credentials are not given to who must change the password.
        if not request.user.is_authenticated or _is_allowed(request) or not must_change(request.user):
            return get_response(request)
        if request.path_info.startswith("/api/"):
            words = _("Change your password first, at /admin/password_change/.")
            return JsonResponse({"code": "password_change_required", "message": words}, status=403)
        return HttpResponseRedirect(reverse("admin:password_change"))

    return answered


def _is_allowed(request: HttpRequest) -> bool:
    # path_info is what the routes see; before it `path` has where the site begins, which a header can say (SCRIPT_NAME).
    return request.path in (
        reverse("admin:password_change"),
        reverse("admin:password_change_done"),
        reverse("admin:logout"),
        reverse("admin:jsi18n"),
    )


def slash_middleware(get_response: Answer) -> Answer:
    """/api/tasks/ is /api/tasks: the routes, and with them the OpenAPI document, have the one form."""

    def answered(request: HttpRequest) -> HttpResponse:
        if request.path_info.startswith("/api/") and request.path_info.endswith("/"):
            request.path_info = request.path_info.rstrip("/") if request.path_info.strip("/") != "api" else "/api/"
        return get_response(request)

    return answered
