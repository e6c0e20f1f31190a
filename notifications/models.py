"""Channels, rules and deliveries. How a delivery changes its state is in states.py, what is sent in messages.py.

Nothing here knows what a task or an execution is: rules and deliveries point to them by name only.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from django.conf import settings as site
from django.core.exceptions import ValidationError
from django.db import IntegrityError, models, transaction
from django.utils.translation import gettext as _t
from django.utils.translation import gettext_lazy as _

from exporter_site.access.scope import ScopedQuerySet
from exporter_site.config import is_placeholder
from exporter_site.fields import SecretField, Undecryptable
from exporter_site.redact import remember_secret
from notifications import messages, reasons
from notifications.messages import ANNOUNCED, Event
from notifications.states import OPEN, DeliveryQuerySet, DeliveryStatus, LimitQuerySet
from notifications.transports import transport_choices, transports
from notifications.transports.base import Transport

OF_CONFIG = "config.yaml: dingtalk"


class ChannelError(Exception):
    """The channel can't be used; `reason` is a code of reasons.py."""

    def __init__(self, reason: str) -> None:
        super().__init__(str(reasons.sentence(reason)))
        self.reason = reason


class ChannelQuerySet(models.QuerySet["Channel"]):
    def shared(self) -> "ChannelQuerySet":
        """Those that rules may point to; the others belong to one task or one person."""
        return self.filter(task=None, user=None)

    def of_config(self) -> "Channel | None":
        """The robot of config.yaml's section `dingtalk`; None when there is none."""
        if not _config_settings()["webhook_url"]:
            return None
        known = self.filter(config_managed=True, kind="dingtalk")
        found = known.first()
        if found is None:
            try:
                with transaction.atomic():
                    # The same name in every language: it is what makes it one.
                    return self.create(config_managed=True, kind="dingtalk", name=OF_CONFIG)
            except IntegrityError:
                found = known.first()  # None, if a user's channel has this name
        return found

    def of_task(self, task: Any, kind: str) -> "Channel":
        """The channel for what `task` itself names: its robot, its mail addresses."""
        return self.get_or_create(task=task, user=None, kind=kind)[0]

    def to_send(self) -> "ChannelQuerySet":
        """With all that Channel.transport() asks for."""
        return self.select_related("task", "user")

    def find(self, channel_id: int | None) -> "Channel | None":
        """The channel as it is now, to_send(); None when it has been deleted."""
        return None if channel_id is None else self.to_send().filter(pk=channel_id).first()

    def of_user(self, user: Any) -> "Channel":
        """A person's mailbox."""
        return self.get_or_create(task=None, user=user, kind="email")[0]


class Channel(models.Model):
    """Where messages go. One that belongs to a task or a person holds no settings: it asks for them when it sends."""

    name = models.CharField(_("name"), max_length=100, unique=True, null=True)
    kind = models.CharField(_("kind"), max_length=30, choices=transport_choices)
    settings = models.JSONField(_("settings"), default=dict, blank=True)
    secrets = SecretField(_("secrets"), blank=True, default="")
    is_active = models.BooleanField(_("active"), default=True)
    config_managed = models.BooleanField(_("config-managed"), default=False, editable=False)
    task = models.ForeignKey("tasks.ExportTask", models.CASCADE, null=True, editable=False, related_name="own_channels")
    user = models.ForeignKey(
        site.AUTH_USER_MODEL, models.CASCADE, null=True, editable=False, related_name="own_channels"
    )
    created_at = models.DateTimeField(_("created"), auto_now_add=True)
    updated_at = models.DateTimeField(_("changed"), auto_now=True)

    objects = ChannelQuerySet.as_manager()

    class Meta:
        verbose_name = _("channel")
        verbose_name_plural = _("channels")
        ordering = ("name",)
        constraints = (
            models.UniqueConstraint(fields=("task", "kind"), name="one_channel_per_task_and_kind"),
            models.UniqueConstraint(fields=("user", "kind"), name="one_channel_per_user_and_kind"),
        )

    def __str__(self) -> str:
        if self.name:
            return self.name
        whose = self.task or self.user
        return f"{whose} · {transports.label(self.kind)}"

    @property
    def transport_class(self) -> type[Transport]:
        return transports.get(self.kind)

    @property
    def all_settings(self) -> dict[str, Any]:
        """The settings with the secrets, as they are now. Raises ChannelError when they can't be read."""
        if self.config_managed:
            return _config_settings()
        if self.task is not None:
            own: dict[str, Any] = self.task.channel_settings(self.kind)
            if any(isinstance(value, Undecryptable) for value in own.values()):
                raise ChannelError("secret_unreadable")
            return own
        if self.user is not None:
            if not self.user.is_active:
                raise ChannelError("channel_inactive")  # who has left gets no files any more
            return {"recipients": [self.user.email] if self.user.email else []}
        if isinstance(self.secrets, Undecryptable):
            raise ChannelError("secret_unreadable")
        return {**self.settings, **self.stored_secrets}

    @property
    def stored_secrets(self) -> dict[str, str]:
        """The secrets that there are; none when they can't be read."""
        secrets: dict[str, str] = json.loads(self.secrets) if self.secrets else {}
        for secret in secrets.values():
            remember_secret(secret)  # the field knows them only as one text
        return secrets

    def set_settings(self, values: Mapping[str, Any]) -> None:
        """Take over `values` (a value for each setting of the kind), secrets apart from the others."""
        secret = self.transport_class.secret_names()
        self.settings = {name: value for name, value in values.items() if name not in secret}
        self.secrets = json.dumps({name: value for name, value in values.items() if name in secret and value})

    def with_stored_secrets(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """`given` settings, with the stored secrets that are not among them.

        Raises ValidationError with {name: words} when they say another address: the secrets were entered for the old one.
        """
        stored = self.stored_secrets
        address = self.transport_class.address
        missing = [name for name in stored if name != address and name not in given]
        if missing and given.get(address, stored.get(address)) != stored.get(address):
            words = _t("Enter this again, or remove it: the stored one belongs to the address that was here before.")
            raise ValidationError(dict.fromkeys(missing, words))
        return {**stored, **given}

    def transport(self) -> Transport:
        """Ready to send. Raises ChannelError."""
        if not self.is_active:
            raise ChannelError("channel_inactive")
        values = self.all_settings
        transport_class = self.transport_class
        if any(setting.required and not values.get(setting.name) for setting in transport_class.fields):
            raise ChannelError("not_configured")
        return transport_class(values)

    def clean(self) -> None:
        if self.kind not in transports:
            raise ValidationError({"kind": _t("Unknown kind. Known are: {kinds}.").format(kinds=", ".join(transports))})


def clean_settings(kind: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """A value for each setting of `kind`, in its usual form. Raises ValidationError with {name: words}."""
    transport_class = transports.get(kind)
    cleaned: dict[str, Any] = {}
    faults: dict[str, str] = {}
    for setting in transport_class.fields:
        value = values.get(setting.name, setting.empty)
        if setting.kind == "list" and isinstance(value, str):
            value = [item.strip() for item in value.replace("，", ",").replace("\n", ",").split(",") if item.strip()]
        if type(value) is not type(setting.empty) or (
            setting.kind == "list" and not all(isinstance(item, str) for item in value)
        ):
            faults[setting.name] = _t("This value has a wrong type.")
        elif setting.required and not value:
            faults[setting.name] = _t("This field is required.")
        elif setting.kind == "choice" and value not in dict(setting.choices):
            faults[setting.name] = _t("Unknown value. Known are: {known}.").format(
                known=", ".join(dict(setting.choices))
            )
        cleaned[setting.name] = value.strip() if isinstance(value, str) else value
    unknown = set(values) - set(cleaned)
    if unknown:
        faults[min(unknown)] = _t("Unknown setting. Known are: {known}.").format(known=", ".join(cleaned))
    if faults:
        raise ValidationError(faults)
    transport_class.clean(cleaned)
    return cleaned


def _config_settings() -> dict[str, Any]:
    config = site.CONFIG.dingtalk
    values = {"webhook_url": config.webhook_url.get_secret_value(), "secret": config.secret.get_secret_value()}
    return {name: "" if is_placeholder(value) else value for name, value in values.items()}


def all_events() -> list[str]:
    return [event for event, _label in ANNOUNCED]


class NotificationRuleQuerySet(ScopedQuerySet["NotificationRule"]):
    """A rule of every task is seen by those who see every task."""

    def for_task(self, task: Any) -> "NotificationRuleQuerySet":
        """What holds for `task`: its own rules and those of every task, to channels that are in use."""
        rules = self.filter(models.Q(task=task) | models.Q(task=None), channel__is_active=True)
        return rules.select_related("channel")

    def replace(self, task: Any, rules: Iterable[Mapping[str, Any]]) -> None:
        """Let `rules` (fields of each) be all that `task` has of its own; those that stay the same are not touched."""
        wanted = {rule["channel"].pk: rule for rule in rules}
        for rule in self.filter(task=task).exclude(channel__in=wanted):
            rule.delete()
        known = {rule.channel_id: rule for rule in self.filter(task=task)}
        for number, fields in wanted.items():
            row = known.get(number) or self.model(task=task)
            for name, value in {"events": all_events(), "template": "", **fields}.items():
                setattr(row, name, value)
            row.save()


class NotificationRule(models.Model):
    """Which events of a task (of every task, without one) go to a shared channel. A rule of the task itself comes
    before one of every task; one without events keeps the task out of the channel."""

    source_path = "task__data_source"

    task = models.ForeignKey(
        "tasks.ExportTask",
        models.CASCADE,
        null=True,
        blank=True,
        related_name="rules",
        verbose_name=_("task"),
        help_text=_("Empty: for every task."),
    )
    channel = models.ForeignKey(Channel, models.CASCADE, related_name="rules", verbose_name=_("channel"))
    events = models.JSONField(_("events"), default=all_events, blank=True)
    template = models.TextField(
        _("message"), blank=True, help_text=_("{task_name}, {rows_count}, {download_url} … Empty: the usual message.")
    )

    objects = NotificationRuleQuerySet.as_manager()

    class Meta:
        verbose_name = _("notification rule")
        verbose_name_plural = _("notification rules")
        ordering = ("channel", "id")
        constraints = (models.UniqueConstraint(fields=("task", "channel"), name="one_rule_per_task_and_channel"),)

    def __str__(self) -> str:
        return f"{self.channel} · {', '.join(str(Event(event).label) for event in self.events if event in Event)}"

    def clean(self) -> None:
        if not isinstance(self.events, list) or not all(event in dict(ANNOUNCED) for event in self.events):
            raise ValidationError(
                {"events": _t("Unknown event. Known are: {known}.").format(known=", ".join(dict(ANNOUNCED)))}
            )
        try:
            messages.check(self.template)
        except ValueError as exc:
            raise ValidationError({"template": str(exc)}) from None


class Delivery(models.Model):
    """One message that is owed to one channel: outbox row and record in one.

    `payload`: what messages.render() made, with the files that it speaks of (the run has them) and `link`, the number of
    their link. It never holds a secret. `recipients`: for each of them {"verdict", "reason", "text", "tries", "at"}; who
    is missing has not been tried yet.
    """

    source_path = "execution__data_source"

    execution = models.ForeignKey(
        "tasks.Execution", models.CASCADE, related_name="deliveries", verbose_name=_("execution")
    )
    event = models.CharField(_("event"), max_length=20, choices=Event)
    channel = models.ForeignKey(
        Channel, models.SET_NULL, null=True, related_name="deliveries", verbose_name=_("channel")
    )
    channel_name = models.CharField(_("channel"), max_length=300)
    status = models.CharField(_("state"), max_length=20, choices=DeliveryStatus, default=DeliveryStatus.PENDING)
    key = models.CharField(max_length=32, unique=True)
    payload = models.JSONField(_("message"))
    recipients = models.JSONField(_("recipients"), default=dict)
    attempt = models.PositiveIntegerField(_("attempt"), default=0)
    tries = models.PositiveIntegerField(_("tries"), default=0, help_text=_("Those that count; not when told to wait."))
    next_at = models.DateTimeField(_("next try"))
    worker = models.CharField(_("sent by"), max_length=200, blank=True)
    beats = models.PositiveBigIntegerField(default=0)
    slot_key = models.CharField(max_length=80, null=True, unique=True)
    answer_lost = models.BooleanField(_("answer lost"), default=False)
    possibly_duplicate = models.BooleanField(_("possibly sent twice"), default=False)
    merged = models.BooleanField(_("sent in a digest"), default=False)
    reason = models.CharField(_("reason"), max_length=40, blank=True)
    error = models.TextField(_("error"), blank=True)
    history = models.JSONField(_("earlier sendings"), default=list)
    created_at = models.DateTimeField(_("owed since"), auto_now_add=True)
    finished_at = models.DateTimeField(_("finished at"), null=True)

    objects = DeliveryQuerySet.as_manager()

    class Meta:
        verbose_name = _("delivery")
        verbose_name_plural = _("deliveries")
        ordering = ("-id",)
        constraints = (
            models.UniqueConstraint(
                fields=("execution", "event", "channel"), name="one_delivery_per_event_and_channel"
            ),
        )
        indexes = (models.Index(fields=("status", "next_at"), name="delivery_by_next_try"),)

    def __str__(self) -> str:
        return f"{self.channel_name} · {Event(self.event).label} #{self.pk}"

    @property
    def is_finished(self) -> bool:
        return self.status not in OPEN

    @property
    def reached(self) -> list[str]:
        """The recipients that have it."""
        return [name for name, entry in self.recipients.items() if entry["verdict"] == "accepted"]

    @property
    def is_partial(self) -> bool:
        """Whether some have it, and others never will."""
        return self.status == DeliveryStatus.DEAD and bool(self.reached)

    @property
    def reason_sentence(self) -> str:
        return f"{reasons.sentence(self.reason)} {reasons.remedy(self.reason)}".strip() if self.reason else ""


class Arrival(models.TextChoices):
    """What became of all messages of a run together."""

    OPEN = "open", _("being delivered")
    ALL = "all", _("delivered")
    SOME = "some", _("partly delivered")
    NONE = "none", _("not delivered")

    @classmethod
    def of(cls, deliveries: Iterable[Delivery]) -> "Arrival | None":
        """None when nothing was to be sent. Warnings about other messages do not count."""
        rows = [row for row in deliveries if row.event != Event.UNDELIVERED and row.status != DeliveryStatus.CANCELLED]
        if not rows:
            return None
        if any(row.status in OPEN for row in rows):
            return cls.OPEN
        if all(row.status == DeliveryStatus.SENT for row in rows):
            return cls.ALL
        return cls.SOME if any(row.status == DeliveryStatus.SENT or row.reached for row in rows) else cls.NONE


class SendingLimit(models.Model):
    """What went to one robot lately. `key` says which without telling its token; `times` are seconds since 1970."""

    key = models.CharField(max_length=64, primary_key=True)
    times = models.JSONField(default=list)
    blocked_until = models.DateTimeField(null=True)

    objects = LimitQuerySet.as_manager()

    def __str__(self) -> str:
        return self.key
