"""What the API asks before it answers: the rights of the user, the scope of the key, the number of requests."""

from typing import TYPE_CHECKING, Any, cast

from django.utils.translation import gettext as _
from rest_framework.exceptions import PermissionDenied
from rest_framework.permissions import BasePermission
from rest_framework.request import Request
from rest_framework.throttling import AnonRateThrottle, UserRateThrottle

from exporter_site.access.models import ApiKey, Scope

if TYPE_CHECKING:  # it needs the settings, which name this module
    from rest_framework.views import APIView

SAFE = ("GET", "HEAD", "OPTIONS")


class HasRights(BasePermission):
    """The rights that the view names for its action, and the scope of the API key that came with the request.

    `rights`: {action: right or rights}, `scopes`: {action: Scope} where it is not said by the method (GET: read,
    others: write).
    """

    def has_permission(self, request: Request, view: "APIView") -> bool:
        user = request.user
        if not user.is_authenticated:
            return False
        action = getattr(view, "action", None) or request.method.lower()  # type: ignore[union-attr]  # it has a method
        if request.method == "OPTIONS":
            return True
        rights = cast("Any", view).rights.get(action, ())
        if isinstance(rights, str):
            rights = (rights,)
        if not user.has_perms(rights):
            raise PermissionDenied(
                _("You lack the right “{right}”.").format(
                    right=next(right for right in rights if not user.has_perm(right))
                )
            )
        key = request.auth
        if isinstance(key, ApiKey):
            needed = getattr(view, "scopes", {}).get(action, Scope.READ if request.method in SAFE else Scope.WRITE)
            allowed = list(Scope)
            if allowed.index(Scope(key.scope)) < allowed.index(needed):
                raise PermissionDenied(
                    _("This API key may only: {scope}.").format(scope=key.get_scope_display()), code="scope"
                )
        return True


class PerUser(UserRateThrottle):
    """web.api_requests_per_minute of each user, counted in each web process."""


class PerAddress(AnonRateThrottle):
    """A fifth of that for who has not said who it is."""


class LoginThrottle(AnonRateThrottle):
    scope = "login"
