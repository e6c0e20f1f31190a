"""A data source as programs see it. Its password goes in and never comes out."""

from copy import copy
from typing import Any

from rest_framework import serializers

from datasources.models import DataSource
from exporter_site.rest import CleanedSerializer


class DataSourceSerializer(CleanedSerializer):
    password = serializers.CharField(
        write_only=True,
        required=False,
        allow_blank=True,
        trim_whitespace=False,
        max_length=1000,
        help_text="left out: the stored one stays; needed when kind, host, port, username or a weaker ssl_mode is new",
    )
    has_password = serializers.SerializerMethodField()

    class Meta:
        model = DataSource
        fields = (
            "id",
            "name",
            "kind",
            "host",
            "port",
            "database",
            "username",
            "password",
            "has_password",
            "charset",
            "ssl_mode",
            "is_active",
            "max_concurrency",
            "description",
            "config_managed",
            "tested_at",
            "test_ok",
            "test_message",
            "created_at",
            "updated_at",
        )
        read_only_fields = ("config_managed", "tested_at", "test_ok", "test_message")

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if self.instance is not None and "password" not in attrs:
            wanted = copy(self.instance)
            for name, value in attrs.items():
                setattr(wanted, name, value)
            wanted.keep_password_of(self.instance)
        return super().validate(attrs)

    def get_has_password(self, source: DataSource) -> bool:
        return bool(source.password)


class ConnectionTestSerializer(serializers.Serializer[Any]):
    """What a test came to. With ok: server_version, latency_ms, warnings; without: reason, message."""

    ok = serializers.BooleanField()
    server_version = serializers.CharField(required=False)
    latency_ms = serializers.FloatField(required=False)
    warnings = serializers.ListField(child=serializers.CharField(), required=False)
    reason = serializers.CharField(required=False)
    message = serializers.CharField(required=False)
