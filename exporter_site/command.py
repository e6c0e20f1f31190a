"""What all our management commands share: one plain sentence on stderr, exit codes 0, 1 and 2, `--json`.

Exit code 1 means that the thing asked for failed (raise `Failed`), 2 that the command was used wrongly.
"""

import atexit
import json
import logging
import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any, Literal, NoReturn
from unicodedata import east_asian_width

from django.core.exceptions import NON_FIELD_ERRORS, ValidationError
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.core.serializers.json import DjangoJSONEncoder
from django.db import InterfaceError, OperationalError, ProgrammingError
from django.utils.translation import gettext as _

from exporter_site.redact import redact

logger = logging.getLogger(__name__)


class Failed(CommandError):
    """The command did its best and failed: exit code 1, the text is for the operator."""

    def __init__(self, message: object, returncode: int = 1) -> None:
        super().__init__(str(message), returncode=returncode)


class WrongUse(CommandError):
    """The command was called with something that can't be right: exit code 2."""

    def __init__(self, message: object) -> None:
        super().__init__(str(message), returncode=2)


class ExporterCommand(BaseCommand):
    """A command with verbs, each a method `handle_<verb>(options)` declared in `add_verbs`; or plain `handle`."""

    requires_system_checks: list[str] | tuple[str, ...] | Literal["__all__"] = ()

    def add_json(self, parser: CommandParser) -> None:
        parser.add_argument("--json", action="store_true", dest="as_json", help="print JSON for programs")

    def handle(self, *args: Any, **options: Any) -> None:
        getattr(self, f"handle_{options['verb']}")(options)

    def say(self, text: object = "") -> None:
        self.stdout.write(str(text))

    def print_json(self, value: object) -> None:
        self.stdout.write(json.dumps(value, cls=DjangoJSONEncoder, ensure_ascii=False, indent=2))

    def print_table(self, heads: Sequence[object], rows: Iterable[Sequence[object]]) -> None:
        """A table aligned for a terminal, where a Chinese character is two columns wide."""
        lines = [[str(cell) for cell in row] for row in (heads, *rows)]
        widths = [max(display_width(line[i]) for line in lines) for i in range(len(heads))]
        for line in lines:
            cells = (cell + " " * (width - display_width(cell)) for cell, width in zip(line, widths, strict=True))
            self.say("  ".join(cells).rstrip())

    def execute(self, *args: Any, **options: Any) -> str | None:
        try:
            return super().execute(*args, **options)
        except CommandError as exc:
            if not getattr(self, "_called_from_command_line", False):
                raise
            # Django would put the name of the class in front.
            self.stderr.write(str(exc))
            sys.exit(exc.returncode)

    def run_from_argv(self, argv: list[str]) -> None:
        leave(self._exit_code(argv))

    def _exit_code(self, argv: list[str]) -> int:
        try:
            super().run_from_argv(argv)
        except KeyboardInterrupt:
            return 1
        except SystemExit as exc:
            if isinstance(exc.code, str):
                sys.stderr.write(exc.code + "\n")
            return exc.code if isinstance(exc.code, int) else int(exc.code is not None)
        except (OperationalError, InterfaceError, ProgrammingError) as exc:
            logger.info(
                "the system database failed", exc_info=True
            )  # the file has the details, the terminal a sentence
            sys.stderr.write(
                _(
                    "The system database can't be used: {error} Is it reachable, and did “manage.py migrate” run?"
                ).format(error=redact(str(exc)).strip())
                + "\n"
            )
            return 1
        return 0


def leave(code: int) -> NoReturn:
    """End this process as at the end of a program, but without taking the interpreter to pieces: that takes a quarter
    of the time of a short command."""
    atexit._run_exitfuncs()  # the logs among them
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            code = code or 1  # nobody reads any more
    os._exit(code)


def display_width(text: str) -> int:
    """Columns that `text` takes on a terminal."""
    return sum(2 if east_asian_width(character) in "WF" else 1 for character in text)


def sentences(exc: ValidationError) -> str:
    """What a form would show, on one line: field, then its messages."""
    if not hasattr(exc, "error_dict"):
        return " ".join(exc.messages)
    parts = (f"{field}: {' '.join(messages)}" for field, messages in exc.message_dict.items())
    return " ".join(part.removeprefix(f"{NON_FIELD_ERRORS}: ") for part in parts)
