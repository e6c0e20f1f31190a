"""Log lines: redacted as a whole (message and traceback), one line per event, rotated safely by several processes."""

import logging
import sys
import traceback
from types import TracebackType
from typing import Any

from exporter_site.config import Logging, resolve
from exporter_site.redact import redact

# Also the C1 controls and Unicode's line separators: terminals and viewers obey them.
_CONTROL = {
    code: f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"
    for code in (*range(9), *range(11, 32), *range(127, 160), 0x2028, 0x2029)
}


class RedactingFormatter(logging.Formatter):
    """Formats the record, then removes secrets and whatever could forge a further line in the file."""

    def format(self, record: logging.LogRecord) -> str:
        text = redact(super().format(record)).translate(_CONTROL)
        # Half a surrogate pair can't be written as UTF-8, and the whole line would be lost.
        text = text.encode("utf-8", "backslashreplace").decode()
        # A traceback keeps its lines, indented so that none of them can pass for a log line of its own.
        return text.replace("\n", "\n    ")


def redacting_excepthook(kind: type[BaseException], exc: BaseException, trace: TracebackType | None) -> None:
    """What Python prints of an exception that nobody caught, without secrets."""
    sys.stderr.write(redact("".join(traceback.format_exception(kind, exc, trace))))


def logging_settings(config: Logging) -> dict[str, Any]:
    """`config` as Django's LOGGING. Raises nothing: a file that can't be opened is reported by a system check."""
    file = resolve(config.file)
    handlers = ["console"]
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a"):
            handlers.append("file")
    except OSError:
        pass  # The console goes on; check exporter.E003 names the file.
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "line": {
                "()": RedactingFormatter,
                "format": "%(asctime)s %(levelname)s %(name)s [%(process)d] %(message)s",
            }
        },
        "handlers": {
            "console": {"class": "logging.StreamHandler", "formatter": "line", "level": "WARNING"},
            "file": {
                # logging's own RotatingFileHandler loses lines when two processes rotate at once.
                "class": "concurrent_log_handler.ConcurrentRotatingFileHandler",
                "filename": str(file),
                "maxBytes": config.max_size,
                "backupCount": config.backup_count,
                "encoding": "utf-8",
                "formatter": "line",
                "delay": True,
            },
        }
        if "file" in handlers
        else {"console": {"class": "logging.StreamHandler", "formatter": "line", "level": "WARNING"}},
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
