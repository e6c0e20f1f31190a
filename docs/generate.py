"""Writes docs/commands.md from the commands themselves: .venv/bin/python docs/generate.py

A test compares the file with what this gives."""

import argparse
import os
import sys
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
OUR_APPS = ("exporter_site", "exporter_site.access", "datasources", "tasks", "notifications")
COMMON = {
    "help",
    "version",
    "verbosity",
    "settings",
    "pythonpath",
    "traceback",
    "no_color",
    "force_color",
    "skip_checks",
}
HEAD = """# Commands

`.venv/bin/python manage.py COMMAND`. Written by `docs/generate.py` from the commands themselves; `--help` says the same.
Exit code 0: done; 1: it failed; 2: wrong use. Errors are one sentence on stderr. `LANGUAGE=en` gives English.
"""


def commands() -> str:
    """All of docs/commands.md."""
    import django
    from django.core.management import get_commands, load_command_class
    from django.utils import translation

    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "exporter_site.settings")
    django.setup()
    parts = [HEAD]
    with translation.override("en"):
        for name, app in sorted(get_commands().items()):
            if app in OUR_APPS:
                parser = load_command_class(app, name).create_parser("manage.py", name)
                parts.append("\n".join(_chapter(name, parser)))
    return "\n".join(parts)


def _chapter(name: str, parser: argparse.ArgumentParser) -> Iterator[str]:
    yield f"## {name}\n"
    if parser.description:
        yield parser.description.strip() + "\n"
    verbs = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    yield from _table(name, parser)
    for action in verbs:
        helps = {choice.dest: choice.help or "" for choice in action._choices_actions}
        for verb, inner in action.choices.items():
            yield f"### {name} {verb}\n"
            words = helps.get(verb) or inner.description or ""
            if words:
                yield f"{words}\n"
            yield from _table(f"{name} {verb}", inner)


def _table(name: str, parser: argparse.ArgumentParser) -> Iterator[str]:
    rows = []
    for action in parser._actions:
        if action.dest in COMMON or isinstance(action, argparse._SubParsersAction):
            continue
        spelled = ", ".join(action.option_strings) or str(action.metavar or action.dest).upper()
        if action.option_strings and action.nargs != 0:
            spelled += (
                f" {action.metavar or ('|'.join(map(str, action.choices)) if action.choices else action.dest.upper())}"
            )
        words = (action.help or "").replace("%(default)s", str(action.default)).replace("|", "\\|").replace("\n", " ")
        rows.append(f"| `{spelled.replace('|', chr(92) + '|')}` | {words} |")
    if rows:
        yield "| argument | meaning |\n|---|---|"
        yield from rows
        yield ""


if __name__ == "__main__":
    (HERE / "commands.md").write_text(commands(), encoding="utf-8")
