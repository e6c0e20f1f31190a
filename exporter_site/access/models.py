"""Grants, API keys, audit events, and who must change the password."""

import secrets
from datetime import timedelta
from hashlib import sha256
from typing import Any

from django.conf import settings
from django.contrib.auth.models import Group
from django.core.exceptions import ValidationError
from django.db import models
from django.utils import timezone
from django.utils.translation import gettext as _t
from django.utils.translation import gettext_lazy as _

from exporter_site.access.audit import Action, Via

MARK = "exp_"  # how an API key begins, so that it is known for one in a log or in source code
SEEN_EVERY = timedelta(minutes=1)


class Grant(models.Model):
    """Allows a user, or all users of a group, to do with a data source what their role lets them do."""

    data_source = models.ForeignKey(
        "datasources.DataSource", models.CASCADE, related_name="grants", verbose_name=_("data source")
    )
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.CASCADE, null=True, blank=True, related_name="grants", verbose_name=_("user")
    )
    group = models.ForeignKey(
        Group, models.CASCADE, null=True, blank=True, related_name="grants", verbose_name=_("group")
    )

    class Meta:
        verbose_name = _("grant")
        verbose_name_plural = _("grants")
        constraints = (
            models.UniqueConstraint(fields=("data_source", "user"), name="one_grant_per_source_and_user"),
            models.UniqueConstraint(fields=("data_source", "group"), name="one_grant_per_source_and_group"),
        )

    def __str__(self) -> str:
        return f"{self.data_source} → {self.user or self.group}"

    def clean(self) -> None:
        # No constraint of the database: to delete a user, Django on MySQL first takes the user out of the grant.
        if (self.user_id is None) == (self.group_id is None):
            raise ValidationError(_t("Name a user or a group, not both."))


class Scope(models.TextChoices):
    """How much of the user's rights a key has."""

    READ = "read", _("only read")
    RUN = "run", _("read and run")
    WRITE = "write", _("all of the user's rights")


class ApiKeyQuerySet(models.QuerySet["ApiKey"]):
    def make(self, user: Any, name: str, scope: str, expires_at: Any) -> tuple["ApiKey", str]:
        """A new key, and its secret: it is shown once and can't be found again."""
        prefix, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
        text = f"{MARK}{prefix}_{secret}"
        key = self.create(user=user, name=name, scope=scope, expires_at=expires_at, prefix=prefix, digest=_digest(text))
        return key, text

    def find(self, text: str) -> "ApiKey | None":
        """The valid key that `text` is, with its user."""
        prefix = text.removeprefix(MARK).partition("_")[0]
        rows = self.select_related("user").filter(prefix=prefix, revoked_at=None, expires_at__gt=timezone.now())
        key = rows.first() if text.startswith(MARK) and text.isascii() else None
        if key is None or not key.user.is_active or not secrets.compare_digest(key.digest, _digest(text)):
            return None
        return key


def _digest(text: str) -> str:
    # 256 random bits: a slow hash would protect nothing more.
    return sha256(text.encode()).hexdigest()


class ApiKey(models.Model):
    """A long-lived credential of a program. Only the hash of its secret is stored."""

    name = models.CharField(_("name"), max_length=100, help_text=_("What it is for: which program, on which machine."))
    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="api_keys", verbose_name=_("user"))
    scope = models.CharField(_("scope"), max_length=10, choices=Scope, default=Scope.READ)
    prefix = models.CharField(_("begins with"), max_length=12, unique=True, editable=False)
    digest = models.CharField(max_length=64, editable=False)
    created_at = models.DateTimeField(_("created"), auto_now_add=True)
    expires_at = models.DateTimeField(_("valid until"))
    last_used_at = models.DateTimeField(_("last used"), null=True, editable=False)
    revoked_at = models.DateTimeField(_("revoked at"), null=True, editable=False)

    objects = ApiKeyQuerySet.as_manager()

    class Meta:
        verbose_name = _("API key")
        verbose_name_plural = _("API keys")
        ordering = ("-id",)

    def __str__(self) -> str:
        return f"{self.name} ({MARK}{self.prefix}…)"

    @property
    def is_valid(self) -> bool:
        return self.revoked_at is None and self.expires_at > timezone.now()

    def revoke(self) -> None:
        if self.revoked_at is None:
            self.revoked_at = timezone.now()
            self.save(update_fields=["revoked_at"])

    def note_use(self) -> None:
        now = timezone.now()
        if self.last_used_at is None or now - self.last_used_at > SEEN_EVERY:
            type(self).objects.filter(pk=self.pk).update(last_used_at=now)


class PasswordChange(models.Model):
    """A user who must choose a new password before anything else: somebody else knows the present one."""

    user = models.OneToOneField(
        settings.AUTH_USER_MODEL, models.CASCADE, primary_key=True, related_name="password_change"
    )

    def __str__(self) -> str:
        return str(self.user)


class AuditEventQuerySet(models.QuerySet["AuditEvent"]):
    """Events are added, and nothing else."""

    def update(self, **kwargs: Any) -> int:
        raise TypeError("audit events are append-only")

    def delete(self) -> tuple[int, dict[str, int]]:
        raise TypeError("audit events are append-only")

    def bulk_update(self, *args: Any, **kwargs: Any) -> int:
        raise TypeError("audit events are append-only")

    def bulk_create(self, *args: Any, **kwargs: Any) -> list["AuditEvent"]:
        raise TypeError("audit events are added one by one")  # with update_conflicts it would change them

    def about(self, subject: models.Model) -> "AuditEventQuerySet":
        return self.filter(subject_type=subject._meta.label_lower, subject_number=subject.pk)


class AuditEvent(models.Model):
    """What somebody did, when and from where. It points to nothing by key: it outlives whatever it is about.

    `changes`: {field: [before, after]}.
    """

    at = models.DateTimeField(_("time"), auto_now_add=True, db_index=True)
    action = models.CharField(_("action"), max_length=20, choices=Action.choices)
    user_number = models.BigIntegerField(null=True)
    username = models.CharField(_("by"), max_length=150, blank=True)
    via = models.CharField(_("through"), max_length=10, choices=Via.choices)
    address = models.GenericIPAddressField(_("address"), null=True)
    subject_type = models.CharField(_("kind"), max_length=60, blank=True)
    subject_number = models.BigIntegerField(_("number"), null=True)
    subject_name = models.CharField(_("what"), max_length=250, blank=True)
    note = models.TextField(_("note"), blank=True)
    changes = models.JSONField(_("changes"), default=dict)

    objects = AuditEventQuerySet.as_manager()

    class Meta:
        verbose_name = _("audit event")
        verbose_name_plural = _("audit events")
        ordering = ("-id",)
        indexes = (models.Index(fields=("subject_type", "subject_number", "id"), name="audit_by_subject"),)

    def __str__(self) -> str:
        return f"#{self.pk} {self.username} {self.action} {self.subject_name}"

    def save(self, *args: Any, **kwargs: Any) -> None:
        if not self._state.adding:
            raise TypeError("audit events are append-only")
        # Otherwise a new one with the number of an old one would take its place.
        super().save(force_insert=True, using=kwargs.get("using"))

    def delete(self, *args: Any, **kwargs: Any) -> tuple[int, dict[str, int]]:
        raise TypeError("audit events are append-only")
