"""Tokens: POST /api/token, POST /api/token/refresh."""

from typing import Any

from django.contrib.auth import authenticate, get_user_model
from django.contrib.auth.signals import user_logged_in
from django.utils.translation import gettext as _
from drf_spectacular.utils import extend_schema
from rest_framework import exceptions, serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView
from rest_framework_simplejwt.exceptions import TokenError
from rest_framework_simplejwt.settings import api_settings
from rest_framework_simplejwt.tokens import RefreshToken
from rest_framework_simplejwt.utils import get_md5_hash_password

from exporter_site.access.passwords import must_change
from exporter_site.access.permissions import LoginThrottle
from exporter_site.rest import Problem, answers


class LoginSerializer(serializers.Serializer[Any]):
    username = serializers.CharField(max_length=150)
    password = serializers.CharField(max_length=4096, trim_whitespace=False, style={"input_type": "password"})


class RefreshSerializer(serializers.Serializer[Any]):
    refresh = serializers.CharField(max_length=4096)


class AccessSerializer(serializers.Serializer[Any]):
    access = serializers.CharField(help_text="for Authorization: Bearer; valid for web.jwt_access_token_expires_hours")


class TokensSerializer(AccessSerializer):
    refresh = serializers.CharField(help_text="for /api/token/refresh; valid for seven days, or as long as access")


class _OpenView(APIView):
    """For who has no credentials yet. A stale header of theirs must not stand in the way."""

    authentication_classes = ()
    permission_classes = ()
    throttle_classes = (LoginThrottle,)

    def get_authenticate_header(self, request: Request) -> str:
        return 'Bearer realm="api"'


class TokenView(_OpenView):
    @extend_schema(
        operation_id="token_create",
        auth=[],
        request=LoginSerializer,
        responses=answers({200: TokensSerializer}, 400, 415, 429),
    )
    def post(self, request: Request) -> Response:
        """A token for user name and password. Ten wrong ones, and the name must wait a quarter of an hour."""
        given = LoginSerializer(data=request.data)
        given.is_valid(raise_exception=True)
        # The real request: what counts the failures answers in its middleware.
        user = authenticate(request._request, **given.validated_data)
        if user is None:
            raise exceptions.AuthenticationFailed(_("The user name or the password is wrong."), code="login_failed")
        if must_change(user):
            raise Problem(403, "password_change_required", _("Change your password first, at /admin/password_change/."))
        refresh = RefreshToken.for_user(user)
        # As after a login in the browser: it is on record, and wrong passwords before it are forgotten.
        user_logged_in.send(type(user), request=request._request, user=user)
        return Response({"access": str(refresh.access_token), "refresh": str(refresh)})


class RefreshView(_OpenView):
    @extend_schema(
        operation_id="token_refresh",
        auth=[],
        request=RefreshSerializer,
        responses=answers({200: AccessSerializer}, 400, 415, 429),
    )
    def post(self, request: Request) -> Response:
        """A new access token. None after a change of the password, nor for a user who has been deactivated."""
        given = RefreshSerializer(data=request.data)
        given.is_valid(raise_exception=True)
        try:
            refresh = RefreshToken(given.validated_data["refresh"])
            user = get_user_model().objects.filter(pk=refresh[api_settings.USER_ID_CLAIM], is_active=True).first()
            valid = user is not None and refresh.get(api_settings.REVOKE_TOKEN_CLAIM) == get_md5_hash_password(
                user.password
            )
        except (TokenError, KeyError, ValueError):
            user, valid = None, False
        if user is None or not valid or must_change(user):
            raise exceptions.AuthenticationFailed(
                _("This token is invalid, expired or made before a change of the password. Get a new one."),
                code="token_invalid",
            )
        return Response({"access": str(refresh.access_token)})
