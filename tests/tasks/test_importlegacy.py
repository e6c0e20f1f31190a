"""The older system's tasks: what its schedules meant, what becomes of them, and that nothing is taken over by half."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from io import StringIO
from itertools import islice
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from django.utils.translation import override

from tasks import legacy_cron, schedule
from tasks.legacy_cron import LegacyCronError, WeekdayBase
from tasks.models import ExportTask
from tests.factories import make_source

HERS, CRONS = WeekdayBase.APSCHEDULER, WeekdayBase.CRON
SHANGHAI = ZoneInfo("Asia/Shanghai")


@pytest.fixture(autouse=True)
def _english() -> Iterator[None]:
    with override("en"):
        yield


@pytest.fixture
def shop(db: None) -> None:
    make_source(name="mysql_prod")


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def run(file: Path, *args: str) -> Any:
    out = StringIO()
    call_command("importlegacy", str(file), "--json", *args, stdout=out, stderr=StringIO())
    return json.loads(out.getvalue())


def refused(file: Path, *args: str) -> list[str]:
    with pytest.raises(CommandError) as caught:
        run(file, *args)
    assert caught.value.returncode == 1
    return str(caught.value).splitlines()


class TestSchedules:
    @pytest.mark.parametrize(
        ("written", "base", "cron"),
        [
            ("0 9 * * *", HERS, "0 9 * * *"),
            ("0 9 * * 1-5", HERS, "0 9 * * TUE-SAT"),
            ("0 9 * * 1-5", CRONS, "0 9 * * MON-FRI"),
            ("0 9 * * 0", HERS, "0 9 * * MON"),
            ("0 9 * * 0", CRONS, "0 9 * * SUN"),
            ("0 9 * * 7", CRONS, "0 9 * * SUN"),
            ("0 9 * * 5,6", HERS, "0 9 * * SAT,SUN"),
            ("0 9 * * 5-7", CRONS, "0 9 * * FRI,SAT,SUN"),
            ("0 9 * * */2", HERS, "0 9 * * MON,WED,FRI,SUN"),
            ("0 9 * * */2", CRONS, "0 9 * * TUE,THU,SAT,SUN"),
            ("0 9 * * mon-fri", HERS, "0 9 * * MON-FRI"),
            ("0 9 * * 0-6", HERS, "0 9 * * *"),
            ("*/15 8-18 * * mon,wed", HERS, "*/15 8-18 * * MON,WED"),
            ("5/15 * * * *", HERS, "5-59/15 * * * *"),
            ("0 9 last * *", HERS, "0 9 L * *"),
            ("0 9 1,15,last 1-6 *", HERS, "0 9 1,15,L 1-6 *"),
            ("0 9 1-7 * 0", HERS, "0 9 * * MON#1"),
            ("0 9 */2 * 0", HERS, "0 9 */2 * MON"),
            ("0 0 29 feb *", HERS, "0 0 29 FEB *"),
        ],
    )
    def test_one_that_can_be_written_in_cron_is(self, written: str, base: WeekdayBase, cron: str) -> None:
        assert legacy_cron.convert(written, base) == cron

    def test_one_to_five_was_tuesday_to_saturday(self) -> None:
        """APScheduler's documentation: 0 is Monday. 2025-08-11 is one."""
        after = datetime(2025, 8, 10, 16, tzinfo=UTC)  # midnight in Shanghai
        runs = islice(legacy_cron.parse("0 9 * * 1-5", HERS).runs(SHANGHAI, after), 6)
        days = [run.astimezone(SHANGHAI).strftime("%a %d %H") for run in runs]
        assert days == ["Tue 12 09", "Wed 13 09", "Thu 14 09", "Fri 15 09", "Sat 16 09", "Tue 19 09"]

    def test_a_day_had_to_fit_day_and_weekday(self) -> None:
        """Friday the 13th; cron would take every Friday and every 13th."""
        runs = islice(
            legacy_cron.parse("0 0 13 * fri", HERS).runs(ZoneInfo("UTC"), datetime(2025, 1, 1, tzinfo=UTC)), 3
        )
        assert [f"{run:%Y-%m-%d}" for run in runs] == ["2025-06-13", "2026-02-13", "2026-03-13"]
        assert schedule.next_runs("0 0 13 * 5", "UTC", datetime(2025, 1, 1, tzinfo=UTC), 1)[0].day == 3

    @pytest.mark.parametrize(
        ("written", "words"),
        [
            ("0 0 13 * fri", "several tasks"),
            ("0 9 * * 7", "day_of_week (7)"),
            ("0 9 * *", "4 fields"),
            ("0 0 9 * * *", "6 fields"),
            ("0 9 * * fri-mon", "day_of_week (fri-mon)"),
            ("60 9 * * *", "minute (60)"),
            ("0 9 31 feb *", "never fires"),
            ("0 9 * * */0", "day_of_week (*/0)"),
            ("每天九点", "1 fields"),
            ("a b c d e", "minute (a)"),
        ],
    )
    def test_one_that_cannot_is_refused_in_words(self, written: str, words: str) -> None:
        with pytest.raises(LegacyCronError) as caught:
            legacy_cron.convert(written, HERS)
        assert words in str(caught.value)


DUMP = """
tasks:
  - id: 7
    name: 每日订单
    description: 运营日报
    data_source: mysql_prod
    sql: SELECT * FROM orders WHERE day = {{ yesterday }}
    cron_expression: 0 9 * * 1-5
    is_active: 1
    export_filename: 订单.xlsx
    dingtalk_webhook: https://oapi.dingtalk.com/robot/send?access_token=abc
    dingtalk_secret: SEC123
    dingtalk_message_template: '### {task_name} {execution_time} {rows_count} {file_size} {duration} {filename}'
    email_recipients: a@example.com,b@example.com
    created_at: 2025-01-01 00:00:00
"""
CSV = """编号,任务名称,数据源,SQL语句,Cron表达式,状态,邮件收件人,钉钉消息模板
1,周报,mysql_prod,"SELECT '中文, 逗号'
FROM orders",30 8 * * 0,启用,"[""a@example.com""]",{task_name} 完成
2,月报,mysql_prod,SELECT 1,,停用,,
"""


@pytest.mark.usefixtures("shop")
class TestDumps:
    def test_a_task_comes_with_all_that_it_had(self, tmp_path: Path) -> None:
        (told,) = run(write(tmp_path / "dump.yaml", DUMP), "--weekday-base=apscheduler")
        task = ExportTask.objects.get()
        assert (task.name, task.description, task.cron, task.enabled) == (
            "每日订单",
            "运营日报",
            "0 9 * * TUE-SAT",
            True,
        )
        assert (task.data_source.name, task.filename_template, task.dingtalk_secret) == ("mysql_prod", "订单", "SEC123")
        assert task.email_recipients == ["a@example.com", "b@example.com"]
        assert task.dingtalk_message_template.count("{") == 6
        assert told["before"] == told["after"]
        assert len(told["after"]) == 5
        assert (told["legacy_cron"], told["cron"], told["change"]["new"]) == ("0 9 * * 1-5", "0 9 * * TUE-SAT", True)
        assert "SEC123" not in json.dumps(told)
        assert task.next_run_at is not None

    @pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gbk"])
    @pytest.mark.parametrize("delimiter", [",", "\t"])
    def test_a_csv_of_excel_is_read(self, tmp_path: Path, encoding: str, delimiter: str) -> None:
        text = CSV if delimiter == "," else CSV.replace(",", "\t").replace("中文\t", "中文,")
        told = run(write(tmp_path / "任务.csv", text.encode(encoding)), "--weekday-base=cron")
        assert [task["row"] for task in told] == ["line 2 “周报”", "line 4 “月报”"]
        weekly, monthly = ExportTask.objects.order_by("pk")
        assert (weekly.sql, weekly.cron) == ("SELECT '中文, 逗号'\nFROM orders", "30 8 * * SUN")
        assert (weekly.email_recipients, weekly.enabled) == (["a@example.com"], True)
        assert (monthly.cron, monthly.enabled, monthly.next_run_at) == ("", False, None)

    def test_importing_again_changes_nothing_and_a_newer_dump_shows_what_differs(self, tmp_path: Path) -> None:
        file = write(tmp_path / "dump.yaml", DUMP)
        run(file, "--weekday-base=apscheduler")
        ExportTask.objects.update(max_retries=3)
        assert run(file, "--weekday-base=apscheduler")[0]["change"] is None
        write(file, DUMP.replace("0 9 * * 1-5", "0 10 * * mon"))
        for args in (("--dry-run",), ()):
            fields = run(file, *args)[0]["change"]["fields"]
            assert fields == {"cron": {"before": "0 9 * * TUE-SAT", "after": "0 10 * * MON"}}
            assert (ExportTask.objects.get().cron == "0 10 * * MON") == (not args)
        assert ExportTask.objects.get().max_retries == 3

    def test_numbers_of_weekdays_need_somebody_who_says_whose_they_are(self, tmp_path: Path) -> None:
        (fault,) = refused(write(tmp_path / "dump.yaml", DUMP))
        assert fault.startswith("task 1 “每日订单”: “0 9 * * 1-5” names weekdays by numbers")
        assert "--weekday-base apscheduler" in fault
        assert not ExportTask.objects.exists()
        assert run(write(tmp_path / "dump.yaml", DUMP.replace("1-5", "mon-fri")))[0]["cron"] == "0 9 * * MON-FRI"

    def test_all_faults_are_told_with_their_rows_and_nothing_is_taken_over(self, tmp_path: Path) -> None:
        head = "name,data_source,sql,cron,is_active,dingtalk_message_template,filename\n"
        rows = (
            "good,mysql_prod,SELECT 1,0 9 * * *,1,,",
            "no source,elsewhere,SELECT 1,,1,,",
            "writes,mysql_prod,DELETE FROM orders,,1,,",
            "both,mysql_prod,SELECT 1,0 0 13 * fri,1,,",
            "perhaps,mysql_prod,SELECT 1,,maybe,,",
            "unknown name,mysql_prod,SELECT 1,,1,{task_nam},",
            "old name,mysql_prod,SELECT 1,,1,,report_{date}.xlsx",
            "good,mysql_prod,SELECT 1,,1,,",
            "short,mysql_prod",
        )
        faults = refused(write(tmp_path / "dump.csv", head + "\n".join(rows)))
        expected = {
            "no source": "datasource sync",
            "writes": "sql:",
            "both": "several tasks",
            "perhaps": "is_active: “maybe” is neither yes nor no",
            "unknown name": "{task_name}",
            "old name": "{{ ds_nodash }}",
            "good": "line 2 “good”",
            "short": "2 cells, and 7 heads",
        }
        assert len(faults) == len(expected)
        for name, words in expected.items():
            (fault,) = (fault for fault in faults if f"“{name}”:" in fault)
            assert words in fault
            assert fault.startswith("line ")
        assert not ExportTask.objects.exists()

    @pytest.mark.parametrize(
        ("name", "content", "words"),
        [
            ("dump.csv", "name,sql,data_source_id\na,SELECT 1,3\n", "Add a column data_source"),
            ("dump.csv", "nmae,sql,data_source\na,SELECT 1,mysql_prod\n", "Did you mean name?"),
            ("dump.csv", b"\xff\xff\xff", "neither UTF-8 nor GBK"),
            ("dump.csv", 'name,sql\n"a,1\n', "not valid CSV"),
            ("dump.yaml", "tasks: 1", "`tasks:`"),
            ("dump.yaml", "a: [", "not valid YAML"),
            ("dump.xlsx", "", ".csv, .yaml"),
            ("missing.csv", None, "can't be read"),
        ],
    )
    def test_a_file_that_cannot_be_read_is_refused(
        self, tmp_path: Path, name: str, content: str | bytes | None, words: str
    ) -> None:
        if content is not None:
            write(tmp_path / name, content)
        assert words in "\n".join(refused(tmp_path / name))

    def test_people_see_the_next_runs_before_and_after(self, tmp_path: Path) -> None:
        out = StringIO()
        file = write(tmp_path / "dump.yaml", DUMP)
        call_command("importlegacy", str(file), "--weekday-base=apscheduler", "--dry-run", stdout=out)
        lines = [line.strip() for line in out.getvalue().splitlines()]
        before, after = (line.partition(": ")[2] for line in lines if line.startswith("next runs"))
        assert before == after
        assert before.count("09:00") == 5
        assert "Mon" not in before
        assert "schedule: 0 9 * * 1-5 → 0 9 * * TUE-SAT" in lines
        assert lines[-1] == "1 tasks would change."
        assert not ExportTask.objects.exists()
