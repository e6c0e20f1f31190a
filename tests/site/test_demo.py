"""The demonstration: made once, never over what somebody changed, and its tasks find data."""

import sqlite3
from contextlib import closing
from datetime import date
from pathlib import Path

import pytest
from django.contrib.auth.models import User
from django.core.management import call_command

from datasources.models import DataSource
from tasks import demo
from tasks.models import ExportTask
from tasks.preview import preview

pytestmark = pytest.mark.django_db


def test_three_tasks_that_find_rows_in_a_shop_of_a_hundred_thousand_orders(tmp_path: Path) -> None:
    from django.utils import timezone

    file = tmp_path / "shop.db"
    demo.load(file, timezone.localdate(), refresh=False)
    with closing(sqlite3.connect(file)) as connection:
        (orders,) = connection.execute("SELECT count(*) FROM orders").fetchone()
        (longest,) = connection.execute("SELECT max(length(order_no)) FROM orders").fetchone()
        (formulas,) = connection.execute("SELECT count(*) FROM orders WHERE remark LIKE '=%'").fetchone()
    assert orders >= 100_000
    assert longest == 19
    assert formulas > 0
    assert ExportTask.objects.count() == 3
    for task in ExportTask.objects.all():
        assert task.next_run_at
        assert preview(task, limit=5).rows, task.name


def test_a_second_load_keeps_what_the_user_made(tmp_path: Path) -> None:
    file = tmp_path / "shop.db"
    demo.load(file, date(2025, 8, 12), refresh=False)
    task = ExportTask.objects.order_by("name")[0]
    ExportTask.objects.filter(pk=task.pk).update(sql="SELECT 1", cron="")
    DataSource.objects.update(description="mine")
    made = file.stat().st_mtime_ns
    demo.load(file, date(2025, 8, 13), refresh=False)
    task.refresh_from_db()
    assert (task.sql, task.cron) == ("SELECT 1", "")
    assert DataSource.objects.get().description == "mine"
    assert file.stat().st_mtime_ns == made


def test_an_administrator_is_made_once_and_the_password_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    import json

    call_command("ensureadmin", "--json")
    told = json.loads(capsys.readouterr().out)
    password = next(value for key, value in told.items() if "password" in key)
    assert User.objects.get(is_superuser=True).check_password(password)
    call_command("ensureadmin", "--json")
    assert password not in capsys.readouterr().out
    assert User.objects.filter(is_superuser=True).count() == 1
