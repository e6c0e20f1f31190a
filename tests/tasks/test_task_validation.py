"""What a task refuses at save, each at its field and in words that help."""

from datetime import UTC, datetime
from typing import Any

import pytest
import time_machine
from django.core.exceptions import ValidationError

from tests.factories import make_source, make_task

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("sql", "DELETE FROM t", "DELETE"),
        ("sql", "SELECT 1; DROP TABLE t", "多条语句"),
        ("sql", "SELECT {{ dss }}", "ds"),
        ("sql", "SELECT * FROM `t_{{ ds }}`", "{{"),
        ("cron", "0 9 * *", "5"),
        ("cron", "0 25 * * *", "25"),
        ("cron", "0 0 31 2 *", "0 0 31 2 *"),
        ("timezone", "Asia/Peking", "Asia/Peking"),
        ("filename_template", "{{ tsk }}", "tsk"),
        ("format_options", {"encodng": "gbk"}, "encodng"),
        ("email_recipients", ["a@b.cn", "nobody"], ""),
    ],
)
def test_a_bad_field_is_named(field: str, value: Any, words: str) -> None:
    with pytest.raises(ValidationError) as caught:
        make_task(**{field: value})
    assert list(caught.value.message_dict) == [field]
    assert words in caught.value.message_dict[field][0]


def test_a_scheduled_task_needs_defaults_for_its_parameters() -> None:
    sql = "SELECT {{ params.shop }} AS shop"
    with pytest.raises(ValidationError, match="shop"):
        make_task(sql=sql, cron="0 9 * * *")
    assert make_task(sql=sql, cron="0 9 * * *", params={"shop": "001"}).next_run_at
    assert make_task(sql=sql).next_run_at is None


@time_machine.travel(datetime(2025, 8, 12, 0, 30, tzinfo=UTC), tick=False)
def test_changing_the_schedule_counts_from_now() -> None:
    task = make_task(cron="0 9 * * *", timezone="Asia/Shanghai")
    assert task.next_run_at == datetime(2025, 8, 12, 1, 0, tzinfo=UTC)
    task.cron = "0 8 * * *"
    task.save()
    assert task.next_run_at == datetime(2025, 8, 13, 0, 0, tzinfo=UTC)
    task.enabled = False
    task.save(update_fields=["enabled"])
    task.refresh_from_db()
    assert task.next_run_at is None


@time_machine.travel(datetime(2025, 8, 12, 0, 30, tzinfo=UTC), tick=False)
def test_an_edit_of_something_else_leaves_a_due_run_alone() -> None:
    task = make_task(cron="0 9 * * *")
    due = datetime(2025, 8, 12, 0, 0, tzinfo=UTC)
    type(task).objects.filter(pk=task.pk).update(next_run_at=due)
    task.refresh_from_db()
    task.description = "changed"
    task.save()
    task.refresh_from_db()
    assert task.next_run_at == due


def test_a_source_in_use_can_not_be_deleted() -> None:
    from django.db.models import ProtectedError

    source = make_source()
    make_task(data_source=source)
    with pytest.raises(ProtectedError):
        source.delete()
