"""Log lines as JSON, and which run a line belongs to."""

import json
import logging
import logging.config
import threading
from contextvars import copy_context
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from exporter_site.config import Config, ConfigError, Logging, load_config
from exporter_site.logs import JSONFormatter, RunFilter, during, logging_settings
from exporter_site.redact import MASK, remember_secret
from exporter_site.worker import worker_name
from tests.factories import make_sqlite_file
from tests.instance import Instance
from tests.tasks.test_runtask import eventually

NASTY = 'x\n2025-01-01 INFO all is well\r\x1b[2J\x7f\x9b\u2028\x85\ud800“"}\\'


def record(message: str, *args: object, exc: BaseException | None = None) -> logging.LogRecord:
    trace = (type(exc), exc, exc.__traceback__) if exc else None
    made = logging.LogRecord("tasks.runner", logging.ERROR, "runner.py", 1, message, args, trace)
    RunFilter().filter(made)
    return made


def entry(message: str, *args: object, exc: BaseException | None = None) -> dict[str, Any]:
    line = JSONFormatter().format(record(message, *args, exc=exc))
    assert len(line.splitlines()) == 1, "an entry is one line, whatever is in it"
    line.encode()  # and can be written
    found: dict[str, Any] = json.loads(line)
    return found


def test_a_line_has_who_when_and_what() -> None:
    found = entry("任务 %s 😀", "日报")
    assert found["message"] == "任务 日报 😀"
    assert (found["level"], found["logger"], found["worker"]) == ("ERROR", "tasks.runner", worker_name())
    assert datetime.fromisoformat(found["time"]).tzinfo is not None
    assert not {"execution", "attempt", "task", "exception"} & set(found)


def test_a_message_can_neither_forge_a_line_nor_command_a_terminal() -> None:
    line = JSONFormatter().format(record("%s", NASTY))
    assert not [char for char in line if ord(char) < 32 or 127 <= ord(char) < 160 or char in "\u2028\u2029"]
    assert entry("%s", NASTY)["message"] == NASTY


def test_secrets_are_masked_and_it_stays_json() -> None:
    remember_secret('Tr0ub"dor&3')
    try:
        raise ValueError('mysql://u:other-secret@h refused {"password": "third-secret"}')
    except ValueError as exc:
        found = entry('login with %s, token="fourth-secret"', 'Tr0ub"dor&3', exc=exc)
    text = json.dumps(found)
    assert not [word for word in ("dor&3", "other-secret", "third-secret", "fourth-secret") if word in text]
    assert found["exception"].startswith("Traceback (most recent call last):")
    assert MASK in found["message"]


def test_a_line_of_a_run_says_which_also_in_a_thread_of_its_own() -> None:
    found: list[dict[str, Any]] = []
    with during(12, 3, "日报"):
        found.append(entry("here"))
        for target in (copy_context().run, lambda act: act()):
            thread = threading.Thread(target=target, args=(lambda: found.append(entry("there")),))
            thread.start()
            thread.join()
    found.append(entry("afterwards"))
    assert [(each.get("execution"), each.get("attempt"), each.get("task")) for each in found] == [
        (12, 3, "日报"),
        (12, 3, "日报"),
        (None, None, None),  # a thread that is not the run's
        (None, None, None),
    ]


@pytest.mark.parametrize("format", ["text", "json"])
def test_the_format_is_that_of_the_configuration(tmp_path: Path, format: str) -> None:
    file = tmp_path / "app.log"
    config = Config.model_validate({"logging": {"file": file, "format": format}})
    before = logging.root.handlers[:], logging.root.level
    try:
        logging.config.dictConfig(logging_settings(config.logging))
        with during(7, 1):
            logging.getLogger("tasks").info("it runs")
        logging.getLogger("tasks").info("nothing runs")
    finally:
        for handler in set(logging.root.handlers) - set(before[0]):
            handler.close()
        logging.root.handlers[:], logging.root.level = before
    inside, outside = file.read_text().splitlines()
    if format == "json":
        assert (json.loads(inside)["execution"], "execution" in json.loads(outside)) == (7, False)
    else:
        assert "] [execution 7/1] it runs" in inside
        assert "] nothing runs" in outside


def test_another_format_is_refused(english: None, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("logging: {format: xml}")
    with pytest.raises(ConfigError, match=r"`logging.format` has a wrong value. Expected: 'text', 'json'"):
        load_config(tmp_path / "config.yaml", {})
    assert logging_settings(Logging(file=tmp_path / "x.log"))["formatters"]["line"]["format"]


MAKE = """
from datasources.models import DataSource
from tasks.models import Execution, ExportTask
from tasks.states import Trigger
source = DataSource.objects.create(name="shop", kind="sqlite", database={shop!r})
task = ExportTask.objects.create(name="daily", data_source=source, sql="SELECT * FROM orders")
Execution.objects.enqueue(task, trigger=Trigger.MANUAL)
"""
# What is logged while rows flow comes from the run's own thread.
TALKATIVE = (
    "import logging\n"
    "from datasources.connectors import sqlite\n"
    "stream = sqlite.SQLite.stream\n"
    "def talk(self, *args):\n"
    "    logging.getLogger('datasources').info('rows flow')\n"
    "    return stream(self, *args)\n"
    "sqlite.SQLite.stream = talk\n"
    "from django.core.management import execute_from_command_line\n"
    "execute_from_command_line(['manage.py', 'runtask', 'daily'])\n"
)


def test_every_line_of_a_run_bears_its_number(instance: Instance, tmp_path: Path) -> None:
    instance.environment["EXPORTER_LOGGING__FORMAT"] = "json"
    shop = make_sqlite_file(tmp_path / "shop.db")
    instance.python(MAKE.format(shop=str(shop)))
    instance.manage("runscheduler", "--once")
    lines = [json.loads(line) for line in instance.log_file.read_text().splitlines()]
    assert eventually(lambda: any("succeeded" in line["message"] for line in lines))
    (done,) = [line for line in lines if "succeeded" in line["message"]]
    assert (done["execution"], done["attempt"], done["task"]) == (1, 1, "daily")
    assert done["logger"] == "tasks.runner"


def test_the_thread_that_moves_the_rows_belongs_to_the_run(instance: Instance, tmp_path: Path) -> None:
    instance.environment["EXPORTER_LOGGING__FORMAT"] = "json"
    shop = make_sqlite_file(tmp_path / "shop.db")
    instance.python(MAKE.format(shop=str(shop)))
    instance.python(TALKATIVE)
    (line,) = [
        found
        for found in map(json.loads, instance.log_file.read_text().splitlines())
        if found["message"] == "rows flow"
    ]
    assert (line["thread"], line["task"], line["attempt"]) == ("export", "daily", 1)
