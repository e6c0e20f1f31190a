"""Log lines: none is lost, none is forged, none tells a secret."""

import logging
import logging.config
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from exporter_site.config import BASE_DIR, Logging
from exporter_site.logs import RedactingFormatter, logging_settings
from exporter_site.redact import MASK, remember_secret

LINE = "%(asctime)s %(levelname)s %(name)s [%(process)d] %(message)s"


def formatted(message: object, *args: object, exc_info: BaseException | None = None) -> str:
    trace = (type(exc_info), exc_info, exc_info.__traceback__) if exc_info else None
    record = logging.LogRecord("tasks.runner", logging.ERROR, "runner.py", 1, message, args, trace)
    return RedactingFormatter(LINE).format(record)


@pytest.mark.parametrize(
    "attack",
    [
        "x\n2025-01-01 00:00:00,000 INFO admin [1] all is well",
        "x\r\n2025-01-01 00:00:00,000 INFO admin [1] all is well",
        "x\r2025-01-01 00:00:00,000 INFO admin [1] all is well",
        "x\u20282025-01-01 00:00:00,000 INFO admin [1] all is well",
        "x\x852025-01-01 00:00:00,000 INFO admin [1] all is well",
        "x\x0b2025-01-01 INFO",
        "x\x0c2025-01-01 INFO",
        "x\x1c2025-01-01 INFO",
    ],
)
def test_a_message_can_not_forge_a_line(attack: str) -> None:
    for text in (formatted("task %s failed", attack), formatted(attack)):
        first, *others = text.splitlines()
        assert first.startswith("20")
        assert all(line.startswith("    ") for line in others)


@pytest.mark.parametrize("sequence", ["\x1b[2J", "\x9b2J", "\x07", "\x08", "\x7f", "\x00"])
def test_a_message_can_not_command_the_terminal(sequence: str) -> None:
    text = formatted("a%sb", sequence)
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", text)
    assert rf"a\x{ord(sequence[0]):02x}" in text


def test_half_a_surrogate_pair_does_not_lose_the_line() -> None:
    assert formatted("name \ud800 end").encode().endswith(rb"name \ud800 end")


def test_chinese_tabs_and_emoji_stay() -> None:
    assert formatted("任务\t“日报” 😀").endswith("任务\t“日报” 😀")


def test_secrets_are_masked_in_messages_arguments_and_tracebacks() -> None:
    remember_secret("Tr0ub4dor&3")
    try:
        raise ValueError("mysql://u:other-secret@h refused Tr0ub4dor&3")
    except ValueError as exc:
        text = formatted("login with %s failed", "Tr0ub4dor&3", exc_info=exc)
    assert "Tr0ub4dor" not in text
    assert "other-secret" not in text
    assert text.count(MASK) >= 3
    assert "\n    Traceback (most recent call last):" in text


WRITER = """
import logging, logging.config, sys, time
from exporter_site.config import Logging
from exporter_site.logs import logging_settings

file, name, count, start = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
logging.config.dictConfig(logging_settings(Logging(file=file, max_size=20_000, backup_count=200)))
time.sleep(max(0, start - time.time()))
for number in range(count):
    logging.getLogger("tasks").info("%s line %05d %s", name, number, "x" * 100)
logging.shutdown()
"""


def test_processes_that_write_and_rotate_together_lose_no_line(tmp_path: Path) -> None:
    import time

    file, count = tmp_path / "logs" / "app.log", 400
    start = str(time.time() + 0.8)
    processes = [
        subprocess.Popen([sys.executable, "-c", WRITER, file, name, str(count), start], cwd=BASE_DIR, env=os.environ)
        for name in ("first", "second", "third")
    ]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    files = sorted(path for path in file.parent.iterdir() if re.fullmatch(r"app\.log(\.\d+)?", path.name))
    assert len(files) > 5
    lines = [line for path in files for line in path.read_text().splitlines()]
    found = sorted(match[0] for line in lines if (match := re.search(r"\w+ line \d{5}", line)))
    assert found == sorted(
        f"{name} line {number:05d}" for name in ("first", "second", "third") for number in range(count)
    )
    assert max(path.stat().st_size for path in files) < 21_000


def test_a_log_file_that_can_not_be_opened_leaves_the_console(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    settings = logging_settings(Logging(file=tmp_path / "file" / "app.log"))
    assert list(settings["handlers"]) == ["console"]
    assert settings["root"]["handlers"] == ["console"]


def test_the_settings_come_from_the_configuration(tmp_path: Path) -> None:
    settings = logging_settings(Logging(file=tmp_path / "x.log", level="DEBUG", max_size=5000, backup_count=2))
    handler = settings["handlers"]["file"]
    assert (settings["root"]["level"], handler["maxBytes"], handler["backupCount"]) == ("DEBUG", 5000, 2)
    assert settings["loggers"]["django.db.backends"]["level"] == "WARNING"
