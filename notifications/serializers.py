"""Channels, rules and deliveries as programs see them. Secrets of channels go in and never come out."""

from typing import Any

from django.core.exceptions import ValidationError
from django.utils.translation import gettext as _t
from rest_framework import serializers

from exporter_site.rest import RowField
from notifications.messages import ANNOUNCED
from notifications.models import Channel, NotificationRule, clean_settings


class ChannelSerializer(serializers.ModelSerializer[Channel]):
    """`settings`: a value for each setting of the kind, see docs/notifications.md. PATCH changes those that it names, PUT
    with `settings` all of them; without `settings` they stay. A secret is only ever written: left out it stays, "" removes
    it, and `secrets_set` names those that there are."""

    settings = serializers.DictField(required=False)
    secrets_set = serializers.SerializerMethodField()

    class Meta:
        model = Channel
        fields = (
            "id",
            "name",
            "kind",
            "settings",
            "secrets_set",
            "is_active",
            "config_managed",
            "created_at",
            "updated_at",
        )
        read_only_fields = ("config_managed",)
        extra_kwargs = {"name": {"required": True, "allow_null": False, "allow_blank": False}}

    def get_secrets_set(self, channel: Channel) -> list[str]:
        return sorted(channel.stored_secrets)

    def to_representation(self, instance: Channel) -> dict[str, Any]:
        shown: dict[str, Any] = super().to_representation(instance)
        shown["settings"] = instance.settings  # the secrets are not among them
        return shown

    def validate_kind(self, kind: str) -> str:
        if self.instance is not None and kind != self.instance.kind:
            raise serializers.ValidationError(_t("The kind of a channel can't be changed. Make another channel."))
        return kind

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        channel = self.instance or Channel(kind=attrs["kind"])
        given = attrs.get("settings", {})
        if self.partial or "settings" not in attrs:
            given = {**channel.settings, **given}
        try:
            attrs["settings"] = clean_settings(channel.kind, channel.with_stored_secrets(given))
        except ValidationError as exc:
            raise serializers.ValidationError({"settings": serializers.as_serializer_error(exc)}) from None
        return attrs

    def create(self, validated_data: dict[str, Any]) -> Channel:
        values = validated_data.pop("settings")
        channel = Channel(**validated_data)
        channel.set_settings(values)
        channel.save()
        return channel

    def update(self, instance: Channel, validated_data: dict[str, Any]) -> Channel:
        instance.set_settings(validated_data.pop("settings"))
        for name, value in validated_data.items():
            setattr(instance, name, value)
        instance.save()
        return instance


class RuleSerializer(serializers.ModelSerializer[NotificationRule]):
    """A shared channel that hears of a task: of all events, unless some are named."""

    channel = RowField(queryset=Channel.objects.shared())
    channel_name = serializers.CharField(source="channel.name", read_only=True)
    events = serializers.ListField(child=serializers.ChoiceField(ANNOUNCED), required=False)

    class Meta:
        model = NotificationRule
        fields = ("channel", "channel_name", "events", "template")
        extra_kwargs = {"template": {"required": False}}

    def validate_template(self, template: str) -> str:
        NotificationRule(template=template).clean()
        return template


class RecipientAnswerSerializer(serializers.Serializer[Any]):
    recipient = serializers.CharField(allow_blank=True)
    ok = serializers.BooleanField()
    reason = serializers.CharField(allow_blank=True)
    message = serializers.CharField(allow_blank=True)


class ChannelTestSerializer(serializers.Serializer[Any]):
    """What the other side answered for each recipient. `ok`: all of them took it."""

    ok = serializers.BooleanField()
    recipients = RecipientAnswerSerializer(many=True)
