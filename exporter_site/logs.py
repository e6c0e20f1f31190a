"""Log lines: redacted as a whole (message and traceback), one line per event, rotated safely by several processes.

As text for people or as JSON for programs (logging.format); either way what is logged during a run says which.
"""

import json
import logging
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Any

from exporter_site.config import Logging, resolve
from exporter_site.redact import redact
from exporter_site.worker import worker_name

# Also the C1 controls and Unicode's line separators: terminals and viewers obey them.
_CONTROL = {
    code: f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"
    for code in (*range(9), *range(11, 32), *range(127, 160), 0x2028, 0x2029)
}
# JSON escapes the others itself.
_CONTROL_IN_JSON = {code: f"\\u{code:04x}" for code in (*range(127, 160), 0x2028, 0x2029)}


@dataclass(frozen=True, slots=True)
class Run:
    """The attempt of an execution that is being carried out. `task`: its name, "" as long as nobody has read it."""

    execution: int
    attempt: int
    task: str = ""


# A thread starts with an empty context: whoever starts one for a run gives it a copy (contextvars.copy_context).
_current_run: ContextVar[Run | None] = ContextVar("current_run", default=None)


@contextmanager
def during(execution: int, attempt: int, task: str = "") -> Iterator[None]:
    """Let every line that is logged in here bear the number of the execution, and of its attempt."""
    token = _current_run.set(Run(execution, attempt, task))
    try:
        yield
    finally:
        _current_run.reset(token)


class RunFilter(logging.Filter):
    """Gives each record the run it belongs to: `run`, and `run_text` for lines of text."""

    def filter(self, record: logging.LogRecord) -> bool:
        run = _current_run.get()
        record.run = run
        record.run_text = f" [execution {run.execution}/{run.attempt}]" if run else ""
        return True


class RedactingFormatter(logging.Formatter):
    """Formats the record, then removes secrets and whatever could forge a further line in the file."""

    def format(self, record: logging.LogRecord) -> str:
        text = _writable(redact(super().format(record)).translate(_CONTROL))
        # A traceback keeps its lines, indented so that none of them can pass for a log line of its own.
        return text.replace("\n", "\n    ")


class JSONFormatter(logging.Formatter):
    """One JSON object on one line. Each text in it is redacted by itself, so that it stays JSON."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created).astimezone().isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": redact(record.getMessage()),
            "pid": record.process,
            "worker": worker_name(record.process),
            "thread": record.threadName,
        }
        run: Run | None = getattr(record, "run", None)
        if run is not None:
            entry |= {"execution": run.execution, "attempt": run.attempt, "task": redact(run.task)}
        if record.exc_info:
            entry["exception"] = redact(self.formatException(record.exc_info))
        if record.stack_info:
            entry["stack"] = redact(self.formatStack(record.stack_info))
        return _writable(json.dumps(entry, ensure_ascii=False).translate(_CONTROL_IN_JSON))


def _writable(text: str) -> str:
    """Half a surrogate pair can't be written as UTF-8, and the whole line would be lost."""
    return text.encode("utf-8", "backslashreplace").decode()


FORMATTERS: dict[str, dict[str, Any]] = {
    "text": {
        "()": RedactingFormatter,
        "format": "%(asctime)s %(levelname)s %(name)s [%(process)d]%(run_text)s %(message)s",
    },
    "json": {"()": JSONFormatter},
}


def redacting_excepthook(kind: type[BaseException], exc: BaseException, trace: TracebackType | None) -> None:
    """What Python prints of an exception that nobody caught, without secrets."""
    sys.stderr.write(redact("".join(traceback.format_exception(kind, exc, trace))))


def logging_settings(config: Logging) -> dict[str, Any]:
    """`config` as Django's LOGGING. Raises nothing: a file that can't be opened is reported by a system check."""
    file = resolve(config.file)
    handlers = ["console"]
    console = {"class": "logging.StreamHandler", "formatter": "line", "filters": ["run"], "level": "WARNING"}
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a"):
            handlers.append("file")
    except OSError:
        pass  # The console goes on; check exporter.E003 names the file.
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "filters": {"run": {"()": RunFilter}},
        "formatters": {"line": FORMATTERS[config.format]},
        "handlers": {
            "console": console,
            "file": {
                # logging's own RotatingFileHandler loses lines when two processes rotate at once.
                "class": "concurrent_log_handler.ConcurrentRotatingFileHandler",
                "filename": str(file),
                "maxBytes": config.max_size,
                "backupCount": config.backup_count,
                "encoding": "utf-8",
                "formatter": "line",
                "filters": ["run"],
                "delay": True,
            },
        }
        if "file" in handlers
        else {"console": console},
        "root": {"handlers": handlers, "level": config.level},
        # sqlglot and the log handler explain themselves at length; Django's SQL log would hold bound values.
        "loggers": {
            "urllib3": {"level": "INFO"},  # at DEBUG it writes down whole addresses
            "django": {"handlers": []},  # Django's own handlers do not redact
            "sqlglot": {"level": "ERROR"},
            "ConcurrentLogHandler": {"level": "ERROR"},
            "django.db.backends": {"level": "WARNING"},
        },
    }
