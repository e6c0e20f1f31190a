"""The answer to whoever has tried too many passwords."""

from typing import Any

from django.conf import settings
from django.contrib.auth import get_user_model
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.template.loader import render_to_string
from django.utils.crypto import salted_hmac
from django.utils.translation import gettext as _


def counted_name(request: HttpRequest, credentials: dict[str, Any] | None = None) -> str:
    """What wrong passwords are counted under, as a keyed hash: what somebody has typed as a name may be the password.

    It is the user whom the database finds by that name: MySQL takes Admin for admin, and each spelling would have ten
    guesses of its own.
    """
    name = str((credentials or {}).get("username") or "")
    user = get_user_model().objects.filter(username=name).first()
    return salted_hmac("exporter.logins", user.get_username() if user else name).hexdigest()


def locked_out(request: HttpRequest, *_args: Any, **_kwargs: Any) -> HttpResponse:
    minutes = int(settings.AXES_COOLOFF_TIME.total_seconds() // 60)
    words = _("Too many wrong passwords. Try again in {minutes} minutes.").format(minutes=minutes)
    headers = {"Retry-After": str(minutes * 60)}
    if request.path_info.startswith("/api/"):
        return JsonResponse({"code": "too_many_logins", "message": words}, status=429, headers=headers)
    return HttpResponse(render_to_string("locked.html", {"words": words}), status=429, headers=headers)
