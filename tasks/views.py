"""Downloads: only through the row of a succeeded run, for those who may fetch it or who have a link to it."""

import logging
from collections.abc import Callable
from functools import wraps

from django.contrib.admin.views.decorators import staff_member_required
from django.contrib.auth.views import redirect_to_login
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase, HttpResponseRedirect
from django.shortcuts import get_object_or_404
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.http import require_safe

from exporter_site.access.passwords import must_change
from exporter_site.formats import human_size
from exporter_site.redact import redact
from tasks.downloads import Part, has_files, parts_of, send
from tasks.models import DownloadLink, Execution
from tasks.storage.base import StorageError

logger = logging.getLogger(__name__)

PRIVATE = {"Cache-Control": "no-store, private", "Referrer-Policy": "no-referrer", "X-Robots-Tag": "noindex"}


@require_safe
@staff_member_required
def download(request: HttpRequest, execution_id: int) -> HttpResponseBase:
    """The file of a run; one zip when it has several parts, a single part with ?part=N (from 1)."""
    _check_permission(request)
    execution = get_object_or_404(Execution.objects.for_user(request.user), pk=execution_id)
    try:
        response = send(request, execution)
    except StorageError as exc:
        return _private(_unavailable(exc))
    if response is None:
        raise Http404(_("This run has no file, or it has been removed after its retention time."))
    return _private(response)


def for_link(
    view: Callable[[HttpRequest, DownloadLink], HttpResponseBase | None],
) -> Callable[[HttpRequest, str], HttpResponseBase]:
    """Call `view` with the link behind the token. Open to anybody, unless the link asks for a login.

    Whatever is wrong with link or file, the answer is the same: nobody learns which links there were.
    """

    @require_safe
    @wraps(view)
    def opened(request: HttpRequest, token: str) -> HttpResponseBase:
        try:
            response = answer(request, DownloadLink.objects.find(token))
        except StorageError as exc:
            response = _unavailable(exc)
        return _private(response or HttpResponse(render_to_string("link.html"), status=404))

    def answer(request: HttpRequest, link: DownloadLink | None) -> HttpResponseBase | None:
        if link is None or not has_files(link.execution):
            return None
        to_login = _way_to_login(request) if link.login_required else None
        if to_login is None and _is_for(request, link):
            return view(request, link)
        return to_login

    return opened


@for_link
def link_page(request: HttpRequest, link: DownloadLink) -> HttpResponseBase | None:
    """What there is to download. Chat programs look at an address before people do: that spends nothing."""
    parts = parts_of(link.execution)
    if not parts:
        return None
    context = {
        "link": link,
        "execution": link.execution,
        "rows": f"{link.execution.rows_count or 0:,}",
        "size": human_size(sum(part.size for part in parts)),
        "parts": [(part.number, part.name, _figures(part)) for part in parts],
    }
    return HttpResponse(render_to_string("link.html", context))


@for_link
def link_file(request: HttpRequest, link: DownloadLink) -> HttpResponseBase | None:
    return send(request, link.execution, link)


def _figures(part: Part) -> str:
    return _("{rows} rows, {size}").format(rows=f"{part.rows:,}", size=human_size(part.size))


def _way_to_login(request: HttpRequest) -> HttpResponseBase | None:
    """To the login, or to the password that must be changed first; None for whoever has both behind them."""
    if not (request.user.is_active and request.user.is_staff):
        return redirect_to_login(request.get_full_path(), reverse("admin:login"))
    return HttpResponseRedirect(reverse("admin:password_change")) if must_change(request.user) else None


def _is_for(request: HttpRequest, link: DownloadLink) -> bool:
    """Whether whoever asks may have the file. Raises PermissionDenied for who may fetch no files at all."""
    if not link.login_required:
        return True
    _check_permission(request)
    return Execution.objects.for_user(request.user).filter(pk=link.execution_id).exists()


def _check_permission(request: HttpRequest) -> None:
    if not request.user.has_perm("tasks.download_execution"):
        raise PermissionDenied


def _unavailable(exc: StorageError) -> HttpResponse:
    logger.error("a file can't be sent: %s", redact(str(exc)))
    return HttpResponse(render_to_string("503.html"), status=503, headers={"Retry-After": "60"})


def _private(response: HttpResponseBase) -> HttpResponseBase:
    for name, value in PRIVATE.items():
        response[name] = value
    return response
