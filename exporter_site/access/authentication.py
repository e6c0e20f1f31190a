"""How programs say who they are: `Authorization: Bearer` with an API key or with an access token."""

from typing import Any, cast

from django.contrib.auth.models import User
from django.utils.translation import gettext as _
from drf_spectacular.extensions import OpenApiAuthenticationExtension
from rest_framework.authentication import BaseAuthentication, get_authorization_header
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.request import Request
from rest_framework_simplejwt.authentication import JWTAuthentication
from rest_framework_simplejwt.exceptions import InvalidToken, TokenError
from rest_framework_simplejwt.tokens import AccessToken

from exporter_site.access.models import MARK, ApiKey


class BearerAuthentication(BaseAuthentication):
    """An API key (it begins with exp_) or a JWT. A JWT dies with the password that it was made with."""

    def authenticate(self, request: Request) -> tuple[User, Any] | None:
        words = get_authorization_header(request).split()
        if not words or words[0].lower() != b"bearer":
            return None
        if len(words) != 2:
            raise AuthenticationFailed(_("The header must be “Authorization: Bearer TOKEN”."))
        if words[1].startswith(MARK.encode()):
            return _of_key(words[1].decode("ascii", "replace"))
        return _of_token(words[1])

    def authenticate_header(self, request: Request) -> str:
        return 'Bearer realm="api"'


def _of_key(text: str) -> tuple[User, ApiKey]:
    key = ApiKey.objects.find(text)
    if key is None:
        raise AuthenticationFailed(_("This API key is unknown, expired or revoked."), code="api_key_invalid")
    key.note_use()
    return key.user, key


def _of_token(text: bytes) -> tuple[User, AccessToken]:
    try:
        token = AccessToken(cast("Any", text))
        return cast("User", JWTAuthentication().get_user(token)), token
    except (TokenError, InvalidToken, AuthenticationFailed):
        raise AuthenticationFailed(
            _("This token is invalid, expired or made before a change of the password. Get a new one."),
            code="token_invalid",
        ) from None


class BearerScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]  # untyped library
    target_class = BearerAuthentication
    name = "bearer"

    def get_security_definition(self, auto_schema: Any) -> dict[str, str]:
        return {
            "type": "http",
            "scheme": "bearer",
            "description": "An access token of /api/token, or an API key (exp_…).",
        }
