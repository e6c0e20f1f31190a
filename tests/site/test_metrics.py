"""/metrics and /healthz: who may read them, that the figures are true, and what they cost."""

import json
import re
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import time_machine
import yaml
from django.conf import LazySettings
from django.db import OperationalError, connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from pydantic import SecretStr

from exporter_site import exposition
from exporter_site.access.models import ApiKey, Scope
from exporter_site.config import BASE_DIR, Config, ConfigError, load_config
from notifications.models import Channel, Delivery
from notifications.states import DeliveryStatus
from tasks import metrics
from tasks.housekeeping import housework
from tasks.models import Execution, ExportTask, SchedulerProcess
from tasks.states import Status, Trigger
from tests.api import many
from tests.api.live import gunicorn
from tests.api.test_many_logs import whole_scan
from tests.factories import make_admin, make_execution, make_scheduler, make_source, make_task, make_user
from tests.instance import Instance

TOKEN = "a-token-for-tests-0123456789"
ALERTS = BASE_DIR / "deploy" / "prometheus" / "alerts.yml"
DASHBOARD = BASE_DIR / "deploy" / "grafana" / "dashboard.json"
NOON = datetime(2025, 6, 15, 12, 30, tzinfo=UTC)

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]
_SAMPLE = re.compile(r'([a-z_]+)(?:\{((?:[a-z]+="(?:[^"\\\n]|\\[\\"n])*"(?:,(?=[a-z]))?)+)\})? (\S+)')
_LABEL = re.compile(r'([a-z]+)="((?:[^"\\]|\\.)*)"')
_SUFFIXES = {"histogram": ("_bucket", "_sum", "_count"), "counter": ("",), "gauge": ("",)}


def parse(text: str) -> Samples:
    """The samples of a scrape, read by the rules of the format: HELP, TYPE and samples of a family together, once."""
    assert text.endswith("\n")
    samples: Samples = {}
    kinds: dict[str, str] = {}
    family = ""
    for line in text.splitlines():
        words = line.split(" ", 3)
        if words[:2] == ["#", "HELP"]:
            family = words[2]
            assert family not in kinds, f"{family} comes twice"
        elif words[:2] == ["#", "TYPE"]:
            assert words[2] == family, line
            kinds[family] = words[3]
        else:
            found = _SAMPLE.fullmatch(line)
            assert found, line
            assert found[1] in [family + suffix for suffix in _SUFFIXES[kinds[family]]], line
            key = (found[1], frozenset(_LABEL.findall(found[2] or "")))
            assert key not in samples, f"{line} comes twice"
            samples[key] = float(found[3])
    assert all(name.endswith("_total") == (kind == "counter") for name, kind in kinds.items())
    return samples


class Scrape:
    def __init__(self, text: str) -> None:
        self.samples = parse(text)

    def __call__(self, name: str, **labels: str) -> float:
        return self.samples[f"data_export_{name}", frozenset(labels.items())]

    @property
    def names(self) -> set[str]:
        return {name for name, _labels in self.samples}

    def by(self, name: str) -> dict[frozenset[tuple[str, str]], float]:
        return {labels: value for (each, labels), value in self.samples.items() if each == f"data_export_{name}"}


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch, settings: LazySettings, tmp_path: Path) -> None:
    monkeypatch.setattr(metrics, "_settled", None)
    web = settings.CONFIG.web.model_copy(update={"metrics_token": SecretStr(TOKEN)})
    export = settings.CONFIG.export.model_copy(update={"temp_dir": tmp_path / "temp", "output_dir": tmp_path / "out"})
    settings.CONFIG = settings.CONFIG.model_copy(update={"web": web, "export": export})


def scrape() -> Scrape:
    answer = Client().get("/metrics", headers={"authorization": f"Bearer {TOKEN}"})
    assert answer.status_code == 200
    assert answer["Content-Type"] == exposition.CONTENT_TYPE
    assert answer["Cache-Control"] == "no-store"
    return Scrape(answer.content.decode())


def ended(task: ExportTask, status: Status = Status.SUCCEEDED, **fields: Any) -> Execution:
    """A run that ended now, planned three seconds before its start."""
    now = timezone.now()
    usual = {
        "trigger": Trigger.SCHEDULE,
        "planned_at": now - timedelta(seconds=13),
        "started_at": now - timedelta(seconds=10),
        "finished_at": now,
        "duration_seconds": 10.0,
        "attempt": 1,
    }
    return make_execution(task, status=status, **usual | fields)


@pytest.mark.django_db
class TestWhoMayRead:
    def test_the_token_opens_it_and_nothing_like_it_does(self, settings: LazySettings) -> None:
        def status(**headers: str) -> int:
            return Client().get("/metrics", headers=headers).status_code

        assert status(authorization=f"Bearer {TOKEN}") == 200
        assert status(authorization=f"bearer {TOKEN}") == 200
        wrong = ("", "Bearer", "Bearer ", f"Basic {TOKEN}", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", f"{TOKEN}")
        assert [status(authorization=text) for text in wrong] == [401] * len(wrong)
        settings.CONFIG = settings.CONFIG.model_copy(update={"web": Config().web})
        assert [status(authorization=text) for text in (*wrong, f"Bearer {TOKEN}")] == [401] * (len(wrong) + 1)

    @pytest.mark.parametrize("header", ["x-forwarded-for", "x-real-ip", "forwarded"])
    def test_to_come_from_this_machine_or_to_say_so_opens_nothing(self, header: str) -> None:
        answer = Client(REMOTE_ADDR="127.0.0.1").get("/metrics", headers={header: "127.0.0.1"})
        assert (answer.status_code, answer["WWW-Authenticate"]) == (401, 'Bearer realm="metrics"')
        assert "web.metrics_token" in answer.content.decode()

    def test_a_key_or_a_login_opens_it_for_who_sees_all_sources(self) -> None:
        year = timezone.now() + timedelta(days=365)
        chief, viewer = make_user(role="admin"), make_user(role="viewer", sources=[make_source()])
        for user, expected in ((chief, 200), (viewer, 403)):
            key, text = ApiKey.objects.make(user, "prometheus", Scope.READ, year)
            assert Client().get("/metrics", headers={"authorization": f"Bearer {text}"}).status_code == expected
            key.revoke()
            assert Client().get("/metrics", headers={"authorization": f"Bearer {text}"}).status_code == 401
            client = Client()
            client.force_login(user)
            assert client.get("/metrics").status_code == expected
        client.force_login(make_admin())
        assert client.get("/metrics").status_code == 200
        assert client.post("/metrics").status_code == 405

    def test_a_short_token_is_refused_at_the_start(self, tmp_path: Path) -> None:
        (tmp_path / "config.yaml").write_text("web: {metrics_token: short}")
        with pytest.raises(ConfigError, match=r"web\.metrics_token.*16") as caught:
            load_config(tmp_path / "config.yaml", {})
        assert "short" not in str(caught.value)
        loaded = load_config(tmp_path / "config.yaml", {"EXPORTER_WEB__METRICS_TOKEN": TOKEN})
        assert loaded.web.metrics_token.get_secret_value() == TOKEN


@pytest.mark.django_db
class TestFigures:
    def test_an_empty_system_has_a_zero_for_every_state(self) -> None:
        found = scrape()
        assert {dict(labels)["state"] for labels in found.by("executions_total")} == {
            "succeeded", "failed", "timed_out", "cancelled", "missed", "skipped",
        }  # fmt: skip
        assert set(found.by("executions_total").values()) == {0.0}
        assert found("execution_duration_seconds_count") == found("queue_oldest_age_seconds") == 0
        assert found("schedulers_alive") == found("paused") == 0
        assert not found.by("last_success_timestamp_seconds")

    @time_machine.travel(NOON, tick=False)
    def test_what_ended_today_is_counted_by_state_and_reason(self) -> None:
        task = make_task()
        ended(task, rows_count=1000, file_size=5000)
        ended(task, rows_count=1, file_size=50, duration_seconds=0.4)
        ended(task, Status.FAILED, reason="sql_error", rows_count=77, file_size=None)
        ended(task, Status.TIMED_OUT, reason="query_timeout", attempt=2, duration_seconds=99_999.0)
        ended(task, Status.MISSED, reason="misfire", occurrences=40, started_at=None, duration_seconds=None, attempt=0)
        ended(task, Status.SUCCEEDED, finished_at=NOON - timedelta(hours=13), rows_count=5)  # yesterday
        found = scrape()
        states = {dict(labels)["state"]: value for labels, value in found.by("executions_total").items()}
        assert states == {"succeeded": 2, "failed": 1, "timed_out": 1, "missed": 1, "cancelled": 0, "skipped": 0}
        reasons = {dict(labels)["reason"]: value for labels, value in found.by("execution_reasons_total").items()}
        assert {name: count for name, count in reasons.items() if count} == {
            "sql_error": 1, "query_timeout": 1, "misfire": 1,
        }  # fmt: skip
        assert reasons["disk_full"] == 0
        assert (found("rows_total"), found("file_bytes_total"), found("missed_times_total")) == (1001, 5050, 40)
        assert found("last_success_timestamp_seconds") == NOON.timestamp()

    @time_machine.travel(NOON, tick=False)
    def test_histograms(self) -> None:
        task = make_task()
        ended(task)
        ended(task, duration_seconds=0.4, trigger=Trigger.MANUAL, queued_at=NOON - timedelta(seconds=10.25))
        ended(task, duration_seconds=99_999.0, attempt=2)
        ended(task, duration_seconds=2.0, started_at=NOON - timedelta(minutes=1))  # before its time: a clock was set
        found = scrape()
        durations = {bound: found("execution_duration_seconds_bucket", le=bound) for bound in ("1", "5", "15", "14400")}
        assert durations == {"1": 1, "5": 2, "15": 3, "14400": 3}
        assert found("execution_duration_seconds_bucket", le="+Inf") == found("execution_duration_seconds_count") == 4
        assert found("execution_duration_seconds_sum") == pytest.approx(100_011.4)
        lags = {bound: found("execution_start_lag_seconds_bucket", le=bound) for bound in ("0.5", "2", "5", "+Inf")}
        assert lags == {"0.5": 2, "2": 2, "5": 3, "+Inf": 3}
        assert found("execution_start_lag_seconds_sum") == pytest.approx(3.25, abs=0.01)

    def test_counters_only_grow_until_they_begin_anew_at_midnight(self) -> None:
        task = make_task()
        seen = []
        with time_machine.travel(NOON.replace(hour=0, minute=5), tick=False) as clock:
            for _hour in range(24):
                ended(task, rows_count=10)
                seen.append((scrape()("executions_total", state="succeeded"), scrape()("rows_total")))
                for _piece in housework(1):
                    pass
                clock.shift(timedelta(hours=1))
            assert seen == [(number, number * 10) for number in range(1, 25)]
            assert scrape()("executions_total", state="succeeded") == 0
            metrics._settled = None
            clock.shift(timedelta(minutes=-10))  # set back, to the day before
            assert scrape()("executions_total", state="succeeded") == 24

    def test_hours_that_are_over_are_read_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        task = make_task()
        with time_machine.travel(NOON, tick=False):
            for hours in (0, 0.6, 3, 9):
                ended(task, finished_at=NOON - timedelta(hours=hours))
            with CaptureQueriesContext(connection) as first:
                assert scrape()("executions_total", state="succeeded") == 4
            assert metrics._settled is not None
            assert (metrics._settled.until, metrics._settled.ended.states["succeeded"]) == (
                NOON.replace(hour=11, minute=0),
                2,
            )
            with CaptureQueriesContext(connection) as second:
                assert scrape()("executions_total", state="succeeded") == 4
        assert (len(first), len(second)) == (10, 9)

    def test_the_queue_and_what_runs(self) -> None:
        task = make_task()
        now = timezone.now()
        make_execution(task, status=Status.RUNNING)
        make_execution(
            task, queued_at=now - timedelta(hours=9), not_before=now + timedelta(hours=1)
        )  # waits on purpose
        make_execution(task, queued_at=now - timedelta(hours=8), not_before=now - timedelta(seconds=90))
        make_execution(task)
        found = scrape()
        assert (found("executions_running"), found("executions_queued")) == (1, 3)
        assert 90 <= found("queue_oldest_age_seconds") < 120

    def test_schedulers_by_the_clock_of_the_database(self) -> None:
        make_scheduler(7).care()
        for name, minutes in (("dead", 5), ("forgotten", 60 * 25)):
            seen = timezone.now() - timedelta(minutes=minutes)
            SchedulerProcess.objects.create(name=name, seen_at=seen, executor="local", workers=3)
        gone = make_scheduler()
        gone.name = "stopped"
        gone.care()
        gone.stop()
        found = scrape()
        assert found("schedulers_alive") == 1
        ages = {dict(labels)["scheduler"]: age for labels, age in found.by("scheduler_heartbeat_age_seconds").items()}
        assert set(ages) == {"dead", make_scheduler().name}
        assert 290 < ages["dead"] < 330
        assert found("scheduler_workers", scheduler=make_scheduler().name) == 7

    def test_tasks_and_the_next_run(self) -> None:
        soon = timezone.now() + timedelta(hours=1)
        task = make_task(cron="0 9 * * *")
        off = make_task(cron="0 9 * * *", enabled=False)
        ExportTask.objects.filter(pk=task.pk).update(next_run_at=soon)
        ExportTask.objects.filter(pk=off.pk).update(next_run_at=soon - timedelta(minutes=30))
        found = scrape()
        assert (found("tasks", enabled="true"), found("tasks", enabled="false")) == (1, 1)
        assert found("next_run_timestamp_seconds") == pytest.approx(soon.timestamp())

    def test_messages(self) -> None:
        execution = make_execution()
        now = timezone.now()

        def delivery(status: DeliveryStatus, at: datetime = now, reason: str = "") -> None:
            channel = Channel.objects.create(kind="webhook")
            Delivery.objects.create(
                execution=execution, channel=channel, status=status, next_at=at, reason=reason,
                event="success", key=f"{channel.pk}", payload={},
            )  # fmt: skip

        for status in DeliveryStatus:
            delivery(status)
        delivery(DeliveryStatus.DEAD, reason="bad_token")
        delivery(DeliveryStatus.SENT, now - timedelta(days=2))
        delivery(DeliveryStatus.RETRY, now - timedelta(days=2))
        found = scrape()
        opened = {dict(labels)["state"]: value for labels, value in found.by("deliveries_open").items()}
        assert opened == {"pending": 1, "retry": 2, "sending": 1}
        recent = {dict(labels)["state"]: value for labels, value in found.by("deliveries_recent").items()}
        assert recent == {"sent": 1, "dead": 2, "cancelled": 1}
        assert found("deliveries_dead_recent", reason="bad_token") == 1

    def test_the_disk_and_the_build(self, settings: LazySettings, tmp_path: Path) -> None:
        found = scrape()
        assert found("disk_needed_bytes") == settings.CONFIG.export.min_free_disk
        sizes = shutil.disk_usage(tmp_path)
        assert found("disk_size_bytes", directory="output_dir") == sizes.total
        assert 0 < found("disk_free_bytes", directory="temp_dir") <= sizes.total
        assert set(found.by("build_info").values()) == {1.0}
        assert not (tmp_path / "temp").exists(), "to look makes nothing"

    def test_a_database_that_is_away_is_told_and_the_rest_as_well(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*_args: Any, **_kwargs: Any) -> None:
            raise OperationalError("db1 is away: password=hunter22")

        monkeypatch.setattr(metrics, "_PARTS", (fail,))
        monkeypatch.setattr(connection, "close", lambda: None)
        found = scrape()
        assert found("database_up") == 0
        assert found("disk_free_bytes", directory="output_dir") > 0
        assert not found.by("executions_queued")


@pytest.mark.django_db(transaction=True)
def test_a_scrape_of_a_long_log_asks_little_and_scans_nothing() -> None:
    many.make_tasks()
    many.fill(20_000)
    Execution.objects.update(finished_at=timezone.now() - timedelta(days=2))
    Execution.objects.filter(pk__in=list(Execution.objects.order_by("-pk").values_list("pk", flat=True)[:100])).update(
        finished_at=timezone.now()
    )
    many.analyse()
    metrics._settled = None
    with CaptureQueriesContext(connection) as queries:
        list(metrics.collect())
    assert len(queries) <= 10
    assert [plan for entry in queries if (plan := whole_scan(entry["sql"]))] == []


def test_names_and_values_are_escaped() -> None:
    family = exposition.gauge("x_y", 'a\nb \\ "c"').add(1.5, a='q"\\\n', b="中文").add(2)
    assert exposition.render([family]) == (
        '# HELP x_y a\\nb \\\\ "c"\n# TYPE x_y gauge\nx_y{a="q\\"\\\\\\n",b="中文"} 1.5\nx_y 2\n'
    )
    assert parse(exposition.render([family]))["x_y", frozenset()] == 2


@pytest.fixture
def live(instance: Instance) -> Iterator[str]:
    instance.environment["EXPORTER_WEB__METRICS_TOKEN"] = TOKEN
    instance.python(
        "from django.utils import timezone\nfrom datasources.models import DataSource\n"
        "from tasks.models import *\nfrom tasks.states import *\n"
        "source = DataSource.objects.create(name='s', kind='sqlite', database='/nowhere')\n"
        "task = ExportTask.objects.create(name='t', data_source=source, sql='SELECT 1', cron='0 9 * * *')\n"
        "Execution.objects.enqueue(task, trigger=Trigger.MANUAL)\n"
        "Execution.objects.update(status='succeeded', finished_at=timezone.now())\n"
        "SchedulerProcess.objects.beat('host:1:x', executor='local', workers=2)"
    )
    with gunicorn(instance, "--workers", 2) as address:
        yield address


def read(address: str) -> str:
    request = urllib.request.Request(f"{address}/metrics", headers={"Authorization": f"Bearer {TOKEN}"})
    with urllib.request.urlopen(request, timeout=20) as answer:
        text: str = answer.read().decode()
    return text


def expressions() -> dict[str, str]:
    rules = yaml.safe_load(ALERTS.read_text())["groups"][0]["rules"]
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return {rule["alert"]: rule["expr"] for rule in rules} | {
        f"{panel['id']} {panel['title']} {target['refId']}": target["expr"]
        for panel in panels
        for target in panel["targets"]
    }


def test_alerts_and_dashboard_ask_for_what_there_is(live: str) -> None:
    found = Scrape(read(live))
    labels = {name: {label for each, pairs in found.samples if each == name for label in pairs} for name in found.names}
    asked = set()
    for where, expression in expressions().items():
        for name, selector in re.findall(r"\b(data_export_\w+)(\{[^}]*\})?", expression):
            assert name in found.names, f"{where}: {name}"
            asked.add(name)
            for label, values in re.findall(r'(\w+)=~?"([a-z_|]+)"', selector):
                assert {(label, value) for value in values.split("|")} <= labels[name], f"{where}: {selector}"
    assert len(asked) > 15
    for _time in range(8):  # whichever of the two processes answers
        again = Scrape(read(live))
        assert {key: again.samples[key] for key in found.samples if key[0].endswith("_total")} == {
            key: value for key, value in found.samples.items() if key[0].endswith("_total")
        }


def test_the_rules_are_what_prometheus_reads(live: str) -> None:
    rules = yaml.safe_load(ALERTS.read_text())["groups"][0]["rules"]
    for rule in rules:
        assert rule["labels"]["severity"] in ("warning", "critical"), rule["alert"]
        assert {"summary", "description"} <= set(rule["annotations"]), rule["alert"]
        assert rule["expr"].count("(") == rule["expr"].count(")")
    assert len({rule["alert"] for rule in rules}) == len(rules)
    promtool = shutil.which("promtool")
    if promtool is None:
        return  # Debian's package prometheus has it; the names above are checked without.
    cases = ALERTS.with_name("alerts.test.yml")
    for command in (f"check rules {ALERTS}", f"test rules {cases}", "check metrics"):
        done = subprocess.run([promtool, *command.split()], input=read(live), capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.django_db
class TestHealth:
    def test_a_low_disk_is_not_well(self, settings: LazySettings) -> None:
        make_scheduler().care()
        assert Client().get("/healthz").json() == {"status": "ok"}
        export = settings.CONFIG.export.model_copy(update={"min_free_disk": 2**60})
        settings.CONFIG = settings.CONFIG.model_copy(update={"export": export})
        answer = Client().get("/healthz")
        assert (answer.status_code, answer.json()) == (503, {"status": "low disk"})
        assert Client().get("/healthz/web").status_code == 200

    def test_it_names_every_part_that_is_not_well(self, settings: LazySettings) -> None:
        export = settings.CONFIG.export.model_copy(update={"temp_dir": Path("/proc/nothing/temp")})
        settings.CONFIG = settings.CONFIG.model_copy(update={"export": export})
        answer = Client().get("/healthz")
        assert (answer.status_code, answer.json()) == (503, {"status": "no scheduler, low disk"})
