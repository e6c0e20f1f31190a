"""The older system's tasks, from a dump of its table: YAML, JSON or CSV, with its own names of fields or Chinese heads.

    name, sql, cron_expression, data_source, is_active, dingtalk_webhook, dingtalk_message_template, email_recipients …

What can't be taken over exactly is refused, with the row and what to do; then nothing is changed. Matched by name as
transfer.py does: importing twice changes nothing, importing a newer dump shows what differs.
"""

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import yaml
from django.utils import timezone
from django.utils.translation import gettext as _

from tasks import legacy_cron, schedule, transfer
from tasks.legacy_cron import LegacyCronError, WeekdayBase
from tasks.models import default_timezone, known_timezones
from tasks.transfer import Change, TransferError

SHOWN_RUNS = 5
# Our field -> what the older system, its API and its pages call it.
NAMES: dict[str, tuple[str, ...]] = {
    "name": ("name", "task_name", "任务名称", "任务名", "名称"),
    "description": ("description", "描述", "任务描述", "说明"),
    "data_source": ("data_source", "data_source_name", "datasource", "数据源", "数据源名称"),
    "sql": ("sql", "sql_query", "sql_content", "query", "SQL语句", "查询语句", "查询SQL"),
    "cron": ("cron", "cron_expression", "schedule", "Cron表达式", "定时", "调度", "定时表达式"),
    "timezone": ("timezone", "时区"),
    "enabled": ("enabled", "is_active", "active", "status", "启用", "是否启用", "状态"),
    "long_running": ("long_running", "is_long_running", "长任务"),
    "format": ("format", "export_format", "文件格式", "导出格式", "格式"),
    "filename_template": ("filename_template", "filename", "export_filename", "文件名", "导出文件名"),
    "tags": ("tags", "标签"),
    "email_recipients": ("email_recipients", "recipients", "emails", "邮件收件人", "收件人", "邮箱"),
    "dingtalk_webhook": ("dingtalk_webhook", "钉钉Webhook", "钉钉Webhook地址", "钉钉机器人Webhook地址", "钉钉机器人"),
    "dingtalk_secret": ("dingtalk_secret", "钉钉密钥", "钉钉签名密钥", "钉钉机器人签名密钥", "签名密钥"),
    "dingtalk_message_template": ("dingtalk_message_template", "钉钉消息模板", "消息模板"),
}
# What the older system keeps about itself.
LEFT_OUT: tuple[str, ...] = (
    "id",
    "data_source_id",
    "created_at",
    "updated_at",
    "created_by",
    "last_run_at",
    "last_run",
    "next_run_at",
)
LEFT_OUT += ("next_run", "last_status", "编号", "序号", "数据源ID", "创建时间", "更新时间", "上次执行", "下次执行")
YES = ("1", "true", "yes", "y", "on", "active", "enabled", "是", "启用", "已启用", "活跃")
NO = ("0", "false", "no", "n", "off", "inactive", "disabled", "paused", "否", "停用", "禁用", "已停用", "已禁用")
FORMATS = {"xlsx": "xlsx", "excel": "xlsx", "xls": "xlsx", "csv": "csv"}
_OLD_NAME = re.compile(r"(?<!\{)\{\s*(\w+)\s*\}(?!\})")
_EXTENSION = re.compile(r"\.(xlsx|xls|csv)$", re.IGNORECASE)
_LISTED = re.compile(r"[,;，；、\s]+")


@dataclass(slots=True)
class Imported:
    """One task of the dump. `change` is None when it is here as it is there. `before`, `after`: the next runs, planned
    by the older system and by ours; they are the same, or the dump is refused."""

    row: str
    name: str
    legacy_cron: str
    cron: str
    timezone: str
    before: list[datetime] = field(default_factory=list)
    after: list[datetime] = field(default_factory=list)
    change: Change | None = None


@dataclass(slots=True)
class Row:
    """One task as the dump has it. `label` says where it stands."""

    label: str
    values: dict[str, Any]
    faults: list[str] = field(default_factory=list)


def load(file: Path, base: WeekdayBase | None, *, dry_run: bool = False) -> list[Imported]:
    """Make the tasks of the dump exist here; all of them or none. Raises TransferError with every fault."""
    rows = list(read(file))
    imported: list[Imported] = []
    entries: list[dict[str, Any]] = []
    labels: dict[str, str] = {}
    for row in rows:
        entry = entry_of(row)
        name = str(entry.get("name", ""))
        if not name:
            row.faults.append(_("A task needs a name."))
        elif name in labels:
            row.faults.append(_("this name is also that of {row}.").format(row=labels[name]))
        labels.setdefault(name, row.label)
        if (planned := _plan(row, entry, base)) is not None and not row.faults:
            entries.append(entry)
            imported.append(planned)
    faults = _unknown_heads(rows) + [f"{row.label}: {fault}" for row in rows for fault in row.faults]
    changes: list[Change] = []
    try:
        changes = transfer.load_entries(entries, dry_run=dry_run or bool(faults), labels=labels)
    except TransferError as exc:
        faults.append(str(exc))
    if faults:
        raise TransferError("\n".join(faults))
    by_name = {change.name: change for change in changes}
    for task in imported:
        task.change = by_name.get(task.name)
    return imported


def read(file: Path) -> Iterator[Row]:
    """The tasks of a dump. Raises TransferError when it can't be read."""
    try:
        content = file.read_bytes()
    except OSError as exc:
        raise TransferError(_("{file} can't be read: {error}").format(file=file, error=exc.strerror)) from None
    readers: dict[str, Callable[[str], Iterator[Row]]] = {
        ".csv": _read_csv,
        ".yaml": _read_yaml,
        ".yml": _read_yaml,
        ".json": _read_yaml,  # which is YAML, too
    }
    reader = readers.get(file.suffix.lower())
    if reader is None:
        raise TransferError(
            _("{file}: the name must end with {suffixes}.").format(file=file.name, suffixes=", ".join(readers))
        )
    yield from reader(_text(content, file.name))


def _text(content: bytes, name: str) -> str:
    """UTF-8, with or without a byte order mark, else GBK as Excel in China writes it."""
    for encoding in ("utf-8-sig", "gb18030"):
        try:
            return content.decode(encoding)
        except UnicodeDecodeError:
            continue
    raise TransferError(_("{file} is neither UTF-8 nor GBK. Save it as “CSV UTF-8”.").format(file=name))


def _read_csv(text: str) -> Iterator[Row]:
    first = text.partition("\n")[0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(",\t;", key=first.count), strict=True)
    try:
        heads = next(reader, [])
        line = reader.line_num + 1
        for cells in reader:
            label = _("line {number}").format(number=line)
            line = reader.line_num + 1
            if not any(cell.strip() for cell in cells):
                continue
            values = dict(zip(heads, cells, strict=False))
            row = Row(_labelled(label, values), values)
            if len(cells) != len(heads):
                row.faults.append(
                    _("{count} cells, and {heads} heads. Is a comma or a quote missing?").format(
                        count=len(cells), heads=len(heads)
                    )
                )
            yield row
    except csv.Error as exc:
        raise TransferError(
            _("line {number}: this is not valid CSV ({error}).").format(number=line, error=exc)
        ) from None


def _read_yaml(text: str) -> Iterator[Row]:
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as exc:
        raise TransferError(_("This is not valid YAML: {error}").format(error=exc)) from None
    entries = content.get("tasks") if isinstance(content, dict) else content
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise TransferError(_("The file must have a list `tasks:` of tasks."))
    for number, entry in enumerate(entries, start=1):
        yield Row(_labelled(_("task {number}").format(number=number), entry), {str(k): v for k, v in entry.items()})


def _labelled(place: str, values: dict[str, Any]) -> str:
    name = next((value for head, value in values.items() if _field_of(str(head)) == "name" and value), None)
    return f"{place} “{name}”" if name else place


def _key(head: str) -> str:
    return re.sub(r"[\s_\-]", "", head).casefold()


_FIELD_OF = {_key(name): ours for ours, names in NAMES.items() for name in names}
_IGNORED = {_key(name) for name in LEFT_OUT}


def _field_of(head: str) -> str | None:
    return _FIELD_OF.get(_key(head))


def entry_of(row: Row) -> dict[str, Any]:
    """The task as transfer.py takes it. What can't be taken over is added to the faults of `row`."""
    entry: dict[str, Any] = {}
    for head, value in row.values.items():
        ours = _field_of(head)
        if ours is None:
            continue
        if isinstance(value, str):
            value = value.strip()
        if value in (None, "", []) and ours != "cron":
            continue  # stays as it is, or as it is by default
        try:
            convert: Callable[[Any], Any] = _CONVERTERS.get(ours, _as_text)
            entry[ours] = convert(value)
        except ValueError as exc:
            row.faults.append(f"{head}: {exc}")
    if "data_source" not in entry:
        row.faults.append(
            _(
                "the name of its data source is missing; numbers of the older system mean nothing here. Add a column data_source with the name."
            )
        )
    return entry


def _unknown_heads(rows: Iterable[Row]) -> list[str]:
    """A sentence for each column that means nothing to us."""
    heads = dict.fromkeys(head for row in rows for head in row.values)
    return [_unknown(head) for head in heads if _field_of(head) is None and _key(head) not in _IGNORED]


def _unknown(head: str) -> str:
    near = get_close_matches(_key(head), _FIELD_OF, n=1)
    known = next((name for names in NAMES.values() for name in names if near and _key(name) == near[0]), "")
    hint = _(" Did you mean {near}?").format(near=known) if known else ""
    return _("unknown column “{head}”. Rename or remove it.").format(head=head) + hint


def _plan(row: Row, entry: dict[str, Any], base: WeekdayBase | None) -> Imported | None:
    """Convert the schedule of `entry` in place. None, and a fault, when it can't be."""
    written, zone = entry.get("cron", ""), entry.get("timezone") or default_timezone()
    planned = Imported(row.label, str(entry.get("name", "")), written, "", zone)
    if not written:
        return planned
    if base is None and legacy_cron.counts_weekdays(written):
        row.faults.append(
            _(
                "“{cron}” names weekdays by numbers. Say whose they are: --weekday-base apscheduler (0 is Monday, as the older system's scheduler counts) or --weekday-base cron (0 is Sunday)."
            ).format(cron=written)
        )
        return None
    try:
        entry["cron"] = planned.cron = legacy_cron.convert(written, base or WeekdayBase.APSCHEDULER)
        legacy = legacy_cron.parse(written, base or WeekdayBase.APSCHEDULER)
    except LegacyCronError as exc:
        row.faults.append(str(exc))
        return None
    if zone in known_timezones():
        now = timezone.now()
        planned.before = list(islice(legacy.runs(ZoneInfo(zone), now), SHOWN_RUNS))
        planned.after = schedule.next_runs(planned.cron, zone, now, SHOWN_RUNS)
    return planned


def _as_text(value: Any) -> str:
    if not isinstance(value, (str, int, float)) or isinstance(value, bool):
        raise ValueError(_("a text is expected."))
    return str(value)


def _as_truth(value: Any) -> bool:
    text = str(value).casefold()
    if text not in YES + NO:
        raise ValueError(_("“{value}” is neither yes nor no. Write 1 or 0.").format(value=value))
    return text in YES


def _as_list(value: Any) -> list[str]:
    """From a list, a JSON list as text, or a text with separators between."""
    if isinstance(value, str) and value.startswith("["):
        try:
            value = json.loads(value)
        except ValueError:
            raise ValueError(_("this is not a valid list.")) from None
    items: Iterable[Any] = _LISTED.split(value) if isinstance(value, str) else value
    if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
        raise ValueError(_("A list of texts is expected."))
    return [item for item in items if item]


def _as_format(value: Any) -> str:
    found = FORMATS.get(str(value).casefold().lstrip("."))
    if found is None:
        raise ValueError(_("Unknown format. Known are: {formats}.").format(formats=", ".join(FORMATS)))
    return found


def _as_filename(value: Any) -> str:
    """Without extension, and with our names: a file name is filled by {{ … }} here."""
    text = _EXTENSION.sub("", _as_text(value)).replace("{task_name}", "{{ task }}")
    if old := _OLD_NAME.search(text):
        raise ValueError(
            _(
                "{name} means nothing in a file name here. Write {{{{ ds_nodash }}}} for the date, {{{{ time }}}} for the time."
            ).format(name=old[0])
        )
    return text


_CONVERTERS: dict[str, Callable[[Any], Any]] = {
    "enabled": _as_truth,
    "long_running": _as_truth,
    "format": _as_format,
    "filename_template": _as_filename,
    "tags": _as_list,
    "email_recipients": _as_list,
}
