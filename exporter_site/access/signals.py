"""Logins on record."""

from typing import Any

from django.contrib.auth import get_user_model
from django.contrib.auth.signals import user_logged_in, user_logged_out, user_login_failed
from django.dispatch import receiver

from exporter_site.access.audit import Action, record


@receiver(user_logged_in)
def _logged_in(user: Any, **_kwargs: Any) -> None:
    record(Action.LOGIN, user, by=user)


@receiver(user_logged_out)
def _logged_out(user: Any, **_kwargs: Any) -> None:
    if user is not None:
        record(Action.LOGOUT, user, by=user)


@receiver(user_login_failed)
def _login_failed(credentials: dict[str, Any], **_kwargs: Any) -> None:
    name = credentials.get("username")
    # A name that nobody has may be a password in the wrong field: it is not kept.
    known = get_user_model().objects.filter(username=name).first() if isinstance(name, str) else None
    record(Action.LOGIN_FAILED, known)
