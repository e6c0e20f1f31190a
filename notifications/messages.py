"""What a message says: the variables of templates, the default texts, and how they are filled.

Templates are filled, not evaluated: `{name}` is looked up in a fixed table of texts and nothing else means anything.
A value that came from a user or a database can't become markup.
"""

import difflib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from django.db import models
from django.utils.functional import Promise
from django.utils.translation import gettext as _t
from django.utils.translation import gettext_lazy as _

LONGEST_TEMPLATE = 10_000  # characters
MARKDOWN, PLAIN = "markdown", "plain"

# Stands in a stored text for the address of the file: its signature is made when the message goes out.
LINK_MARK = "\ue000link\ue000"

# name -> (what it is, an example). The first six are the older system's, spelled and formed as there.
VARIABLES: dict[str, tuple[str | Promise, str]] = {
    "task_name": (_("name of the task"), "用户数据导出"),
    "execution_time": (_("when the run started"), "2025-08-12 15:30:00"),
    "rows_count": (_("number of rows"), "1,000"),
    "file_size": (_("size of the file"), "2.5MB"),
    "duration": (_("how long the run took"), "3.2秒"),
    "filename": (_("name of the file"), "export_20250812.xlsx"),
    "download_url": (_("address of the file"), "https://reports.example.com/d/…"),
    "status": (_("state of the run"), "成功"),
    "error": (_("why it failed, and what to do"), ""),
    "scheduled_for": (_("planned time"), "2025-08-12 15:30:00"),
}

_VARIABLE = re.compile(r"\{([a-z_]+)\}")
# Whatever looks as if it was meant to be filled: {name}, {0.x}, {name!r}, {name:>9}. `{ "a": 1 }` does not.
_MEANT = re.compile(r"\{([^\s{}\"'][^{}\n]*)\}")
_EMPTY_LINK = re.compile(r"\[[^\[\]\n]*\]\(" + LINK_MARK + r"\)")
_BREAKS = re.compile(r"[\s\x00-\x1f\x7f-\x9f\u2028\u2029\ue000\ue001]+")
# What markdown would take as markup, in the wide form that reads the same: no two chat clients agree on escapes.
_WIDE = str.maketrans("*`[]<>#@_~|\\", "＊｀［］＜＞＃＠＿～｜＼")
# Within a word they are no markup: file names are full of underscores, and addresses have an @.
_WITHIN_A_WORD = re.compile(r"(?<=\w)_(?=\w)|(?<=[A-Za-z0-9])@(?=[A-Za-z0-9])")
_KEPT = {"_": "\ue000", "@": "\ue001"}


class Event(models.TextChoices):
    SUCCESS = "success", _("success")
    EMPTY = "empty", _("empty result")
    FAILURE = "failure", _("failure")
    MISSED = "missed", _("missed")
    RECOVERED = "recovered", _("success after a failure")
    UNDELIVERED = "undelivered", _("a message was not delivered")


def event_words(events: Sequence[str]) -> str:
    return ", ".join(str(Event(event).label) for event in events if event in Event)


# What rules may ask for; a warning that a message did not arrive finds its own way.
ANNOUNCED = [(event.value, event.label) for event in Event if event != Event.UNDELIVERED]

TITLES: dict[str, str | Promise] = {
    Event.SUCCESS: _("✅ {task_name}: export finished"),
    Event.RECOVERED: _("✅ {task_name}: works again, export finished"),
    Event.EMPTY: _("ℹ️ {task_name}: the result is empty"),
    Event.FAILURE: _("❌ {task_name}: export failed"),
    Event.MISSED: _("⚠️ {task_name}: a run was missed"),
    Event.UNDELIVERED: _("❗ {task_name}: a message was not delivered"),
}
# The facts of a default message, in their order; those without a value are left out.
_FILE_FACTS = ("execution_time", "rows_count", "file_size", "duration", "filename")
FACTS: dict[str, tuple[str, ...]] = {
    Event.SUCCESS: _FILE_FACTS,
    Event.RECOVERED: _FILE_FACTS,
    Event.EMPTY: ("execution_time", "rows_count", "duration", "filename"),
    Event.FAILURE: ("status", "scheduled_for", "execution_time", "duration", "error"),
    Event.MISSED: ("status", "scheduled_for", "error"),
    Event.UNDELIVERED: ("channel", "recipients", "error"),
}
LABELS: dict[str, str | Promise] = {
    "execution_time": _("Started"),
    "rows_count": _("Rows"),
    "file_size": _("Size"),
    "duration": _("Duration"),
    "filename": _("File"),
    "status": _("State"),
    "error": _("Reason"),
    "scheduled_for": _("Planned time"),
    "channel": _("Channel"),
    "recipients": _("Not reached"),
}


def check(template: str) -> None:
    """Refuse a template with names that do not exist. Raises ValueError with the nearest known one."""
    if len(template) > LONGEST_TEMPLATE:
        raise ValueError(_t("The template is longer than {count} characters.").format(count=LONGEST_TEMPLATE))
    for match in _MEANT.finditer(template):
        name = match[1]
        if name not in VARIABLES:
            near = difflib.get_close_matches(name, VARIABLES, n=1, cutoff=0.5)
            hint = _t(" Did you mean {{{near}}}?").format(near=near[0]) if near else ""
            known = ", ".join(f"{{{known}}}" for known in VARIABLES)
            raise ValueError(_t("Unknown variable {name}.").format(name=match[0]) + hint + " " + known)


def fill(template: str, values: Mapping[str, str], markup: str = PLAIN) -> str:
    """`template` with its variables filled. What is no variable stays as it is written."""

    def value(match: re.Match[str]) -> str:
        found = values.get(match[1])
        if found is None:
            return match[0]
        if match[1] == "download_url":
            return found
        return harmless(found, markup)

    return _VARIABLE.sub(value, template)


def harmless(value: str, markup: str) -> str:
    """One line of text that means nothing but itself in `markup`."""
    line = _BREAKS.sub(" ", value).strip()
    if markup != MARKDOWN:
        return line
    kept = _WITHIN_A_WORD.sub(lambda match: _KEPT[match[0]], line)
    return kept.translate(_WIDE).replace(_KEPT["_"], "_").replace(_KEPT["@"], "@")


def facts_of(event: str, values: Mapping[str, str]) -> list[tuple[str, str]]:
    """(label, value) pairs of a default message, plain."""
    return [(str(LABELS[name]), values[name]) for name in FACTS[event] if values.get(name)]


def title_of(event: str, values: Mapping[str, str]) -> str:
    return fill(str(TITLES[event]), values)


def default_text(event: str, values: Mapping[str, str], markup: str, number: int) -> str:
    """The text of a message without a template of its own."""
    if markup == PLAIN:
        return ""  # The title and the facts say it all.
    lines = [f"### {fill(str(TITLES[event]), values, markup)}", ""]
    lines += [f"**{label}**: {harmless(value, markup)}  " for label, value in facts_of(event, values)]
    if values.get("download_url"):
        lines += ["", f"[{_t('Download')}]({values['download_url']})"]
    lines += ["", f"> #{number}"]
    return "\n".join(lines)


def sample_values() -> dict[str, str]:
    """Values for a preview when there is no run to take them from."""
    return {name: example for name, (_words, example) in VARIABLES.items()}


def render(event: str, values: Mapping[str, str], template: str, markup: str, number: int) -> dict[str, Any]:
    """What is stored of a message: {"title", "text", "facts"}. The address of the file is LINK_MARK in it."""
    text = fill(template, values, markup) if template.strip() else default_text(event, values, markup, number)
    facts = [] if template.strip() else facts_of(event, values)
    return {"title": title_of(event, values), "text": text, "facts": facts}


def with_address(text: str, url: str) -> str:
    """A stored text with the file's address; without one, without the words that would have led to it."""
    return text.replace(LINK_MARK, url) if url else _EMPTY_LINK.sub("", text).replace(LINK_MARK, "")


def undelivered(payload: Mapping[str, Any], values: Mapping[str, str], markup: str) -> dict[str, Any]:
    """The payload of a message about another one, `payload`, that did not arrive. `values`: task_name, channel,
    recipients, error."""
    number = payload.get("number", 0)
    rendered = render(Event.UNDELIVERED, values, "", markup, number)
    data = {"event": str(Event.UNDELIVERED), "execution": number, **values}
    return {**rendered, "number": number, "task": values["task_name"], "link": None, "files": [], "data": data}


def digest(payloads: Sequence[Mapping[str, Any]], most_bytes: int) -> tuple[str, str, int]:
    """(title, markdown, how many it holds) for the first of `payloads` in one message of at most `most_bytes`, as JSON
    has it; 0 for no limit. `url` of a payload: where its file is, or ""."""
    lines: list[str] = []
    size = 200  # for the head
    for payload in payloads:
        line = f"- {harmless(payload.get('title', ''), MARKDOWN)} `#{payload.get('number', '')}`"
        if payload["url"]:
            line += f" [{_t('Download')}]({payload['url']})"
        size += len(json.dumps(line, ensure_ascii=False).encode("utf-8", "replace"))
        if lines and most_bytes and size > most_bytes:
            break
        lines.append(line)
    title = _t("{count} messages of the data export system").format(count=len(lines))
    return title, "\n".join([f"### {title}", "", *lines]), len(lines)
