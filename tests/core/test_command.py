"""What all commands share: exit codes, JSON, tables that line up in Chinese."""

import io
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.core.management import call_command
from django.core.management.base import CommandError, CommandParser

from exporter_site.command import ExporterCommand, Failed, WrongUse, display_width, sentences


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
    verb: str, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        Greet().run_from_argv(["manage.py", "greet", verb])
    assert caught.value.code == code
    assert "Traceback" not in capsys.readouterr().err


def test_called_from_code_they_raise() -> None:
    with pytest.raises(CommandError, match="did not work"):
        run("fail")


def test_a_validation_error_is_one_line_with_field_names() -> None:
    assert sentences(ValidationError("plain")) == "plain"
    error = ValidationError({"cron": ["bad field"], "__all__": ["and so on"], "name": ["a", "b"]})
    assert sentences(error) == "cron: bad field and so on name: a b"
