"""An execution as programs see it: in the API and in `--json`."""

from rest_framework import serializers

from notifications.models import Arrival, Delivery
from tasks.models import Execution


class DeliverySerializer(serializers.ModelSerializer[Delivery]):
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


class ExecutionSerializer(serializers.ModelSerializer[Execution]):
    scheduled_for = serializers.DateTimeField(source="planned_at")
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

    def get_message(self, execution: Execution) -> str:
        return f"{execution.reason_sentence} {execution.reason_remedy}".strip()

    def get_delivered(self, execution: Execution) -> str | None:
        return Arrival.of(execution.deliveries.all())
