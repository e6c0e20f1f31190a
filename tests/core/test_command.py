"""What all commands share: exit codes, JSON, tables that line up in Chinese."""

import atexit
import io
import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.core.management import call_command
from django.core.management.base import CommandError, CommandParser

from exporter_site.command import ExporterCommand, Failed, WrongUse, display_width, sentences
from exporter_site.config import BASE_DIR


class Greet(ExporterCommand):
    def add_arguments(self, parser: CommandParser) -> None:
        verbs = parser.add_subparsers(dest="verb", required=True)
        for verb in ("hello", "fail", "misuse", "interrupt"):
            self.add_json(verbs.add_parser(verb))

    def handle_hello(self, options: dict[str, Any]) -> None:
        if options["as_json"]:
            return self.print_json({"name": "张三", "at": datetime(2025, 1, 1, tzinfo=UTC)})
        self.print_table(["name", "n"], [["张三", 1], ["bob", 22]])

    def handle_fail(self, options: dict[str, Any]) -> None:
        raise Failed("it did not work")

    def handle_misuse(self, options: dict[str, Any]) -> None:
        raise WrongUse("that can't be right")

    def handle_interrupt(self, options: dict[str, Any]) -> None:
        raise KeyboardInterrupt


def run(*args: str) -> str:
    out = io.StringIO()
    call_command(Greet(stdout=out), *args)
    return out.getvalue()


def test_json_is_readable_by_programs_and_keeps_chinese() -> None:
    printed = run("hello", "--json")
    assert json.loads(printed) == {"name": "张三", "at": "2025-01-01T00:00:00Z"}
    assert "张三" in printed


def test_tables_line_up_where_a_chinese_character_is_two_wide() -> None:
    assert run("hello").splitlines() == ["name  n", "张三  1", "bob   22"]
    assert display_width("张三ab") == 6


@pytest.mark.parametrize(("verb", "code"), [("fail", 1), ("misuse", 2), ("interrupt", 1), ("nonsense", 2)])
def test_exit_codes_and_one_sentence_without_a_traceback(
    verb: str, code: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    left: list[int] = []
    monkeypatch.setattr(os, "_exit", left.append)
    monkeypatch.setattr(atexit, "_run_exitfuncs", lambda: None)
    Greet().run_from_argv(["manage.py", "greet", verb])
    assert left == [code]
    assert "Traceback" not in capsys.readouterr().err


LEAVE = """
import atexit, sys
from exporter_site.command import leave
atexit.register(lambda: sys.stderr.write("exit function"))
sys.stdout.write("printed, not flushed")
leave(3)
"""


def test_leaving_loses_no_output_and_no_exit_function() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LEAVE],
        cwd=BASE_DIR,
        env=os.environ | {"DJANGO_SETTINGS_MODULE": "exporter_site.settings"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (3, "printed, not flushed", "exit function")


def test_called_from_code_they_raise() -> None:
    with pytest.raises(CommandError, match="did not work"):
        run("fail")


def test_a_validation_error_is_one_line_with_field_names() -> None:
    assert sentences(ValidationError("plain")) == "plain"
    error = ValidationError({"cron": ["bad field"], "__all__": ["and so on"], "name": ["a", "b"]})
    assert sentences(error) == "cron: bad field and so on name: a b"
