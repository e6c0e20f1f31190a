"""An execution as programs see it: in the API and in `--json`."""

from rest_framework import serializers

from tasks.models import Execution


class ExecutionSerializer(serializers.ModelSerializer[Execution]):
    scheduled_for = serializers.DateTimeField(source="planned_at")
    message = serializers.SerializerMethodField()

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
        )
        read_only_fields = fields

    def get_message(self, execution: Execution) -> str:
        return f"{execution.reason_sentence} {execution.reason_remedy}".strip()
