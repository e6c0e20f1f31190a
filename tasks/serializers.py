"""Tasks and executions as programs see them: in the API and in `--json`."""

from collections.abc import Mapping
from typing import Any

from django.contrib.auth import get_user_model
from django.db import transaction
from django.utils.translation import gettext as _t
from drf_spectacular.extensions import OpenApiSerializerFieldExtension
from rest_framework import serializers

from datasources.models import DataSource
from exporter_site.access.scope import ALL_SOURCES
from exporter_site.rest import CleanedSerializer, PlainReads
from notifications.models import Arrival, Delivery, NotificationRule
from notifications.serializers import RuleSerializer
from tasks.models import Execution, ExportTask

SEE_SQL = "tasks.view_sql"


def may_see_sql(context: Mapping[str, Any]) -> bool:
    """Whether who asks may see SQL; a command, which asks for nobody, may."""
    request = context.get("request")
    return request is None or request.user.has_perm(SEE_SQL)


class DeliverySerializer(PlainReads):
    message = serializers.CharField(source="reason_sentence")

    class Meta:
        model = Delivery
        fields = (
            "id",
            "event",
            "channel",
            "channel_name",
            "status",
            "reason",
            "message",
            "error",
            "recipients",
            "attempt",
            "next_at",
            "possibly_duplicate",
            "merged",
            "created_at",
            "finished_at",
        )
        read_only_fields = fields


class ExecutionSerializer(PlainReads):
    scheduled_for = serializers.DateTimeField(source="planned_at")
    sql = serializers.CharField(allow_null=True, read_only=True, help_text="as it ran; null for who may not see SQL")
    error = serializers.CharField(allow_null=True, read_only=True, help_text="the database's own words; null likewise")
    message = serializers.SerializerMethodField()
    delivered = serializers.SerializerMethodField()
    deliveries = DeliverySerializer(many=True)

    class Meta:
        model = Execution
        fields = (
            "id",
            "task",
            "task_name",
            "status",
            "reason",
            "message",
            "trigger",
            "scheduled_for",
            "queued_at",
            "started_at",
            "finished_at",
            "duration_seconds",
            "attempt",
            "retries",
            "not_before",
            "history",
            "occurrences",
            "range_start",
            "priority",
            "rows_count",
            "file_size",
            "filename",
            "sha256",
            "files",
            "progress",
            "sql",
            "params",
            "worker",
            "error",
            "fidelity",
            "delivered",
            "deliveries",
        )
        read_only_fields = fields

    def to_representation(self, instance: Execution) -> dict[str, Any]:
        shown: dict[str, Any] = super().to_representation(instance)
        if not may_see_sql(self.context):
            # The database's own words quote the SQL.
            shown |= {"sql": None, "error": None, "history": [], "params": {}}
        return shown

    def get_message(self, execution: Execution) -> str:
        return f"{execution.reason_sentence} {execution.reason_remedy}".strip()

    def get_delivered(self, execution: Execution) -> str | None:
        return Arrival.of(execution.deliveries.all())


class SqlField(serializers.CharField):
    """SQL that not everybody may read: the answer may say null, a request may not."""


class SqlFieldSchema(OpenApiSerializerFieldExtension):  # type: ignore[no-untyped-call]  # untyped library
    target_class = SqlField

    def map_serializer_field(self, auto_schema: Any, direction: str) -> dict[str, Any]:
        words = "one SELECT; null for who may not see SQL" if direction == "response" else "one SELECT"
        return {"type": "string", "description": words} | (
            {"nullable": True} if direction == "response" else {"minLength": 1}
        )


class ExportTaskSerializer(CleanedSerializer):
    """A task. `dingtalk_webhook` and `dingtalk_secret` are only ever written; `has_…` says that there is one."""

    data_source_name = serializers.CharField(source="data_source.name", read_only=True)
    owner = serializers.SlugRelatedField(
        slug_field="username",
        queryset=get_user_model().objects.filter(is_active=True),
        allow_null=True,
        required=False,
        help_text="a user name; the task runs with this user's rights. Yours, unless you may name others",
    )
    sql = SqlField()
    params = serializers.DictField(required=False, help_text="defaults for {{ params.name }}")
    format_options = serializers.DictField(required=False)
    tags = serializers.ListField(child=serializers.CharField(max_length=100), required=False)
    email_recipients = serializers.ListField(child=serializers.CharField(max_length=254), required=False)
    dingtalk_webhook = serializers.CharField(write_only=True, required=False, allow_blank=True, max_length=2000)
    dingtalk_secret = serializers.CharField(write_only=True, required=False, allow_blank=True, max_length=500)
    has_dingtalk_webhook = serializers.SerializerMethodField()
    has_dingtalk_secret = serializers.SerializerMethodField()
    rules = RuleSerializer(many=True, required=False, help_text="all of the task's; left out: they stay as they are")

    class Meta:
        model = ExportTask
        fields = (
            "id",
            "name",
            "description",
            "data_source",
            "data_source_name",
            "sql",
            "params",
            "cron",
            "timezone",
            "enabled",
            "long_running",
            "format",
            "format_options",
            "filename_template",
            "overlap",
            "catch_up",
            "priority",
            "max_retries",
            "retry_delay",
            "on_empty",
            "tags",
            "owner",
            "next_run_at",
            "dingtalk_webhook",
            "dingtalk_secret",
            "has_dingtalk_webhook",
            "has_dingtalk_secret",
            "dingtalk_message_template",
            "email_recipients",
            "rules",
            "created_at",
            "updated_at",
        )
        read_only_fields = ("next_run_at",)

    def get_fields(self) -> dict[str, Any]:
        fields: dict[str, Any] = super().get_fields()
        request = self.context.get("request")
        if request is not None:
            # A source that is not granted is no choice; nor does the answer tell that it exists.
            fields["data_source"].queryset = DataSource.objects.for_user(request.user)
            if not request.user.has_perm(ALL_SOURCES):
                # Nor which user names there are.
                known = [request.user.pk, getattr(self.instance, "owner_id", None)]
                fields["owner"].queryset = get_user_model().objects.filter(pk__in=known)
        return fields

    def get_has_dingtalk_webhook(self, task: ExportTask) -> bool:
        return bool(task.dingtalk_webhook)

    def get_has_dingtalk_secret(self, task: ExportTask) -> bool:
        return bool(task.dingtalk_secret)

    def to_representation(self, instance: ExportTask) -> dict[str, Any]:
        shown: dict[str, Any] = super().to_representation(instance)
        if not may_see_sql(self.context):
            shown |= {"sql": None, "params": {}}
        return shown

    def validate_owner(self, owner: Any) -> Any:
        user = self.context["request"].user
        unchanged = self.instance is not None and owner == self.instance.owner
        if not unchanged and owner != user and not user.has_perm(ALL_SOURCES):
            raise serializers.ValidationError(_t("You may only make yourself the owner."))
        return owner

    def validate_rules(self, rules: list[dict[str, Any]]) -> list[dict[str, Any]]:
        for number, rule in enumerate(rules):
            if "channel" not in rule:  # PATCH of the task makes all fields of its rules optional
                raise serializers.ValidationError({str(number): {"channel": [_t("This field is required.")]}})
        channels = [rule["channel"].pk for rule in rules]
        if len(channels) > len(set(channels)):
            raise serializers.ValidationError(_t("Each channel can have one rule."))
        return rules

    @transaction.atomic
    def create(self, validated_data: dict[str, Any]) -> ExportTask:
        rules = validated_data.pop("rules", [])
        task = ExportTask.objects.create(**{"owner": self.context["request"].user} | validated_data)
        NotificationRule.objects.replace(task, rules)
        return task

    @transaction.atomic
    def update(self, instance: ExportTask, validated_data: dict[str, Any]) -> ExportTask:
        rules = validated_data.pop("rules", None)
        task: ExportTask = super().update(instance, validated_data)
        if rules is not None:
            NotificationRule.objects.replace(task, rules)
        return task


class RunSerializer(serializers.Serializer[Any]):
    """What a run may be asked with; all of it may be left out."""

    date = serializers.CharField(
        required=False, max_length=40, help_text="planned time: 2025-08-12 or 2025-08-12T09:00, in the task's zone; now"
    )
    params = serializers.DictField(required=False, help_text="values for {{ params.name }}; texts, numbers or booleans")
    notify = serializers.BooleanField(required=False, default=True, help_text="send the task's messages")
    format = serializers.CharField(required=False, default="", allow_blank=True, max_length=20)

    def validate_params(self, params: dict[str, Any]) -> dict[str, Any]:
        if not all(isinstance(value, str | int | float) for value in params.values()):
            raise serializers.ValidationError(_t("Values must be texts, numbers or booleans."))
        return params


class PreviewRequestSerializer(serializers.Serializer[Any]):
    limit = serializers.IntegerField(required=False, default=20, min_value=1, max_value=100)
    date = serializers.CharField(required=False, max_length=40)
    params = serializers.DictField(required=False)
    validate_params = RunSerializer.validate_params


class ColumnSerializer(serializers.Serializer[Any]):
    name = serializers.CharField()
    type = serializers.CharField()


class PreviewSerializer(serializers.Serializer[Any]):
    """The first rows as texts, null for NULL. `more`: the result goes on behind them."""

    columns = ColumnSerializer(many=True)
    rows = serializers.ListField(child=serializers.ListField(child=serializers.CharField(allow_null=True)))
    more = serializers.BooleanField()
    seconds = serializers.FloatField()
    sql = serializers.CharField()


class BackfillRequestSerializer(serializers.Serializer[Any]):
    start = serializers.CharField(max_length=40, help_text="2025-08-01 or 2025-08-01T09:00, in the task's zone")
    end = serializers.CharField(max_length=40, help_text="included, with the whole of its day")
    again = serializers.BooleanField(required=False, default=False, help_text="also times that have a good run already")
    notify = serializers.BooleanField(required=False, default=True)


class BackfillSerializer(serializers.Serializer[Any]):
    queued = serializers.IntegerField()
    executions = serializers.ListField(child=serializers.IntegerField())


class ResendRequestSerializer(serializers.Serializer[Any]):
    everybody = serializers.BooleanField(
        required=False, default=False, help_text="also those who have it; otherwise only those whom it did not reach"
    )


class ResendSerializer(serializers.Serializer[Any]):
    resent = serializers.IntegerField(help_text="how many messages go out again")
    deliveries = DeliverySerializer(many=True)
