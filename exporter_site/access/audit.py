"""Who did what: append-only events.

Changes of watched models are recorded wherever they are made, in the admin, by the API or by a command; what is done
without changing a row (a run, a download, a login) is recorded by who does it. Secrets are named, never shown.
"""

import getpass
from collections.abc import Callable, Iterable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from django.contrib.auth.models import AnonymousUser
from django.db import models
from django.db.models.signals import m2m_changed, post_save, pre_delete, pre_save
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _

from exporter_site.fields import SecretField
from exporter_site.links import PREFIX
from exporter_site.redact import redact

MASK = "••••••"
LONGEST = 100_000  # characters of a text that is kept of a change
_NOT_SAID = ("created_at", "updated_at")

# The request that is being answered; None in commands and schedulers.
current_request: ContextVar[HttpRequest | None] = ContextVar("current_request", default=None)


class Action(models.TextChoices):
    CREATE = "create", _("creation")
    EDIT = "edit", _("change")
    DELETE = "delete", _("deletion")
    RUN = "run", _("run")
    CANCEL = "cancel", _("cancelled")
    RESEND = "resend", _("messages sent again")
    TEST = "test", _("tested")
    PREVIEW = "preview", _("looked at rows")
    DOWNLOAD = "download", _("downloaded")
    REVEAL = "reveal", _("link made")
    GRANT = "grant", _("granted")
    REVOKE = "revoke", _("revoked")
    LOGIN = "login", _("logged in")
    LOGIN_FAILED = "login_failed", _("login failed")
    LOGOUT = "logout", _("logged out")


class Via(models.TextChoices):
    ADMIN = "admin", _("browser")
    API = "api", "API"
    LINK = "link", _("link")
    COMMAND = "command", _("command line")


@dataclass(frozen=True, slots=True)
class Actor:
    """Who acts now. `user` is None for a command (then `name` is the operating system's) and for who has no login."""

    user: Any
    name: str
    via: Via
    address: str | None = None


def actor() -> Actor:
    request = current_request.get()
    if request is None:
        return Actor(None, _system_user(), Via.COMMAND)
    user = getattr(request, "user", None)
    if isinstance(user, AnonymousUser):
        user = None
    place = request.path_info
    via = Via.API if place.startswith("/api/") else Via.LINK if place.startswith(PREFIX) else Via.ADMIN
    return Actor(user, user.get_username() if user else "", via, address_of(request))


def address_of(request: HttpRequest) -> str | None:
    """What the socket says: anybody can write a header. None for a Unix socket."""
    text = request.META.get("REMOTE_ADDR", "").partition("%")[0]  # fe80::1%eth0
    try:
        return str(ip_address(text))
    except ValueError:
        return None


def _system_user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a number without a name, in a container
        return "?"


def record(
    action: Action, subject: models.Model | None = None, *, note: str = "", changes: Any = None, by: Any = None
) -> None:
    """Put an event on record. `subject`: the row it happened to. `by`: the user, where the request does not know yet."""
    from exporter_site.access.models import AuditEvent

    who = actor()
    user = by or who.user
    AuditEvent.objects.create(
        action=action,
        user_number=user.pk if user else None,
        username=(user.get_username() if user else who.name)[:150],
        via=who.via,
        address=who.address,
        subject_type=subject._meta.label_lower if subject is not None else "",
        subject_number=subject.pk if subject is not None else None,
        subject_name=redact(str(subject))[:250] if subject is not None else "",
        note=redact(note)[:1000],
        changes=changes or {},
    )


def watch(
    model: type[models.Model],
    *,
    leave_out: Sequence[str] = (),
    secret: Sequence[str] = (),
    many: Sequence[str] = (),
    created: Action = Action.CREATE,
    deleted: Action = Action.DELETE,
    when: Callable[[Any], bool] = lambda row: True,
) -> None:
    """Record from now on whenever a row of `model` is saved or deleted.

    `leave_out`: fields that say nothing about what somebody did. `secret`: fields that are named, not shown (secret
    fields are always). `many`: many-to-many fields. `when`: which rows.
    """
    fields = [
        field
        for field in model._meta.concrete_fields
        if field.attname not in (*leave_out, *_NOT_SAID) and not field.primary_key
    ]
    hidden = {field.attname for field in fields if isinstance(field, SecretField)} | set(secret)

    def before_save(instance: models.Model, raw: bool = False, **_kwargs: Any) -> None:
        if not raw:
            instance._audit_before = None if instance._state.adding else _stored(model, instance, fields)  # type: ignore[attr-defined]

    def after_save(instance: models.Model, created: bool, raw: bool = False, **_kwargs: Any) -> None:
        if raw or not when(instance):
            return
        before = instance.__dict__.pop("_audit_before", None)
        after = _values(instance, fields)
        changes = {
            name: [MASK if before else None, MASK] if name in hidden else [before[name] if before else None, value]
            for name, value in after.items()
            if (before[name] if before else None) != value and (before or value not in ("", None, [], {}))
        }
        if created or changes:
            note = instance.__dict__.pop("audit_note", "")
            record(made if created else Action.EDIT, instance, note=note, changes=_shown(changes))

    def before_delete(instance: models.Model, **_kwargs: Any) -> None:
        if not when(instance):
            return
        values = {name: MASK if name in hidden else value for name, value in _values(instance, fields).items() if value}
        record(deleted, instance, changes=_shown({name: [value, None] for name, value in values.items()}))

    made = created
    uid = f"audit {model._meta.label}"
    pre_save.connect(before_save, model, weak=False, dispatch_uid=uid)
    post_save.connect(after_save, model, weak=False, dispatch_uid=uid)
    # While what its name is made of is still there. Both are undone together.
    pre_delete.connect(before_delete, model, weak=False, dispatch_uid=uid)
    for name in many:
        through = getattr(model, name).through
        m2m_changed.connect(_many_recorder(model, name), through, weak=False, dispatch_uid=f"{uid}.{name}")


def _many_recorder(model: type[models.Model], name: str) -> Any:
    """Puts on record what becomes of `model.name`, whichever side it is changed from."""

    def changed(instance: Any, action: str, reverse: bool, pk_set: set[Any] | None, **_kwargs: Any) -> None:
        if action not in ("post_add", "post_remove", "pre_clear"):
            return
        field: Any = model._meta.get_field(name)
        other: Any = model if reverse else field.related_model
        if action == "pre_clear":
            rows = other._default_manager.filter(**{name if reverse else field.related_query_name(): instance})
        else:
            rows = other._default_manager.filter(pk__in=pk_set or ())
        for subject, added in ((row, [instance]) for row in rows) if reverse else ((instance, list(rows)),):
            words = sorted(map(str, added))
            if words and action == "post_add":
                record(Action.GRANT, subject, changes={name: [[], words]})
            elif words:
                record(Action.REVOKE, subject, changes={name: [words, []]})

    return changed


def _stored(model: type[models.Model], instance: models.Model, fields: Iterable[Any]) -> dict[str, Any] | None:
    stored = model._base_manager.filter(pk=instance.pk).first()
    return _values(stored, fields) if stored is not None else None


def _values(instance: models.Model, fields: Iterable[Any]) -> dict[str, Any]:
    return {field.attname: getattr(instance, field.attname) for field in fields if field.attname in instance.__dict__}


def _shown(changes: dict[str, Any]) -> dict[str, Any]:
    """`changes` as JSON can hold them, with what is known as a secret masked, long texts cut."""
    return {name: [_plain(before), _plain(after)] for name, (before, after) in changes.items()}


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, list | dict):
        return {key: _plain(item) for key, item in value.items()} if isinstance(value, dict) else [*map(_plain, value)]
    return redact(str(value))[:LONGEST]


def is_whole(value: Any) -> bool:
    """Whether `value` of a recorded change is as it was: no secret was masked in it, nothing cut off."""
    if isinstance(value, dict | list):
        return all(map(is_whole, value.values() if isinstance(value, dict) else value))
    return not isinstance(value, str) or (MASK not in value and len(value) < LONGEST)
