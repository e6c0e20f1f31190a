import argparse
import sys
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from django.core.management.base import CommandParser
from django.utils import timezone
from django.utils.translation import gettext as _

from datasources.connectors.base import ConnectorError
from exporter_site.command import ExporterCommand, Failed, WrongUse
from exporter_site.formats import human_duration, human_size
from notifications.models import Arrival
from notifications.outbox import Outbox
from tasks import announce, backfill, schedule, transfer
from tasks.launch import LaunchError, find_task, parse_date, typed_params
from tasks.management.commands.runtask import add_run_arguments, parse_params, run_and_print, say_deliveries
from tasks.models import Execution, ExportTask
from tasks.preview import preview

SHOWN_CELL = 30  # characters of a cell in `task test`


class Command(ExporterCommand):
    help = "Export tasks: list, execute, test, logs, backfill, cancel, resend, export, import."

    def add_arguments(self, parser: CommandParser) -> None:
        verbs = parser.add_subparsers(dest="verb", required=True)
        self.add_json(verbs.add_parser("list", help="all tasks"))
        add_run_arguments(verbs.add_parser("execute", help="the same as runtask"))
        test = verbs.add_parser("test", help="check the SQL, show columns and first rows; no file, no message")
        test.add_argument("task", metavar="ID_OR_NAME")
        test.add_argument("--date", default="", help="planned time, YYYY-MM-DD[THH:MM]")
        test.add_argument("--param", action="append", default=[], metavar="NAME=VALUE")
        test.add_argument("--rows", type=int, default=10, help="how many rows to show")
        self.add_json(test)
        logs = verbs.add_parser("logs", help="the last executions of a task")
        logs.add_argument("task", metavar="ID_OR_NAME")
        logs.add_argument("--last", type=int, default=20)
        self.add_json(logs)
        backfill = verbs.add_parser("backfill", help="queue the planned times of a range of dates")
        backfill.add_argument("task", metavar="ID_OR_NAME")
        backfill.add_argument("--from", dest="first", required=True, help="first date, YYYY-MM-DD[THH:MM]")
        backfill.add_argument("--to", dest="last", required=True, help="last date, this day included")
        backfill.add_argument("--again", action="store_true", help="also the times that already succeeded")
        backfill.add_argument("--no-notify", action="store_true", help="send no messages")
        backfill.add_argument("--dry-run", action="store_true", help="only show the times")
        self.add_json(backfill)
        cancel = verbs.add_parser("cancel", help="stop an execution that is queued or running")
        cancel.add_argument("execution", type=int, metavar="EXECUTION_ID")
        resend = verbs.add_parser("resend", help="send the messages of an execution again, from the same file")
        resend.add_argument("execution", type=int, metavar="EXECUTION_ID")
        resend.add_argument("--all", action="store_true", help="to everybody, not only to those they did not reach")
        export = verbs.add_parser("export", help="all tasks as YAML")
        export.add_argument("file", type=Path, help="a new file, or - for standard output")
        imports = verbs.add_parser("import", help="load tasks from YAML, matched by name")
        imports.add_argument("file", type=argparse.FileType("r", encoding="utf-8"), help="the file, or -")
        imports.add_argument("--dry-run", action="store_true", help="only show what would change")
        self.add_json(imports)

    def handle_list(self, options: dict[str, Any]) -> None:
        tasks = ExportTask.objects.select_related("data_source")
        if options["as_json"]:
            self.print_json([_task_json(task) for task in tasks])
            return
        heads = (_("ID"), _("name"), _("data source"), _("format"), _("schedule"), _("next run"), _("enabled"))
        self.print_table(heads, (_task_row(task) for task in tasks))

    def handle_execute(self, options: dict[str, Any]) -> None:
        run_and_print(self, options)

    def handle_test(self, options: dict[str, Any]) -> None:
        try:
            task = find_task(options["task"])
            planned_at = parse_date(options["date"], task.timezone) if options["date"] else None
            params = typed_params(task, parse_params(options["param"]))
        except LaunchError as exc:
            raise WrongUse(exc) from None
        try:
            shown = preview(task, limit=options["rows"], planned_at=planned_at, params=params)
        except (ConnectorError, ValueError) as exc:
            raise Failed(exc) from None
        if options["as_json"]:
            columns = [
                {"name": column.name, "type": column.type.value, "server_type": column.server_type}
                for column in shown.columns
            ]
            self.print_json(
                {"columns": columns, "rows": shown.rows, "more": shown.more, "seconds": round(shown.seconds, 3)}
            )
            return
        self.say(shown.sql)
        self.say()
        heads = [column.name for column in shown.columns]
        types = [column.server_type or column.type.value for column in shown.columns]
        self.print_table(heads, [types, *([_short(cell) for cell in row] for row in shown.rows)])
        self.say()
        more = _("and more") if shown.more else _("all of them")
        self.say(
            _("{count} rows shown ({more}), {duration}").format(
                count=len(shown.rows), more=more, duration=human_duration(shown.seconds)
            )
        )

    def handle_logs(self, options: dict[str, Any]) -> None:
        try:
            task = find_task(options["task"])
        except LaunchError as exc:
            raise WrongUse(exc) from None
        executions = Execution.objects.filter(task=task).prefetch_related("deliveries")[: options["last"]]
        if options["as_json"]:
            from tasks.serializers import ExecutionSerializer  # takes a tenth of the start-up time

            self.print_json(ExecutionSerializer(executions, many=True).data)
            return
        heads: tuple[str, ...] = (_("ID"), _("planned time"), _("state"), _("rows"), _("size"), _("duration"))
        heads += (_("messages"), _("file or reason"))
        self.print_table(heads, (_execution_row(execution) for execution in executions))

    def handle_backfill(self, options: dict[str, Any]) -> None:
        try:
            task = find_task(options["task"])
            moments = backfill.moments(
                task, parse_date(options["first"], task.timezone), backfill.end_of(options["last"], task.timezone)
            )
        except LaunchError as exc:
            raise WrongUse(exc) from None
        if not options["again"]:
            moments = backfill.without_succeeded(task, moments)
        if not options["dry_run"]:
            backfill.enqueue(task, moments, notify=not options["no_notify"])
        if options["as_json"]:
            self.print_json({"task": task.name, "queued": not options["dry_run"], "times": moments})
            return
        zone = ZoneInfo(task.timezone)
        for moment in moments:
            self.say(moment.astimezone(zone).strftime("%Y-%m-%d %H:%M %Z"))
        done = _("{count} runs would be queued.") if options["dry_run"] else _("{count} runs are queued.")
        self.say(done.format(count=len(moments)))

    def handle_cancel(self, options: dict[str, Any]) -> None:
        execution = _find_execution(options["execution"])
        if not Execution.objects.request_cancel(execution.pk):
            raise Failed(_("{execution} has already ended.").format(execution=execution))
        self.say(_("{execution} is being cancelled.").format(execution=execution))

    def handle_resend(self, options: dict[str, Any]) -> None:
        execution = _find_execution(options["execution"])
        if not announce.resend(execution, everybody=options["all"]):
            raise Failed(_("Nothing to send: everybody has it, or it is on its way."))
        Outbox(threads=0).deliver_all([execution.pk])
        say_deliveries(self, execution)

    def handle_export(self, options: dict[str, Any]) -> None:
        text = transfer.dump()
        if str(options["file"]) == "-":
            self.stdout.write(text, ending="")
            return
        try:
            options["file"].write_text(text, encoding="utf-8")
        except OSError as exc:
            raise Failed(
                _("{path} can't be written: {error}").format(path=options["file"], error=exc.strerror)
            ) from None
        self.say(_("{count} tasks written to {path}.").format(count=ExportTask.objects.count(), path=options["file"]))

    def handle_import(self, options: dict[str, Any]) -> None:
        with options["file"] as file:
            text = file.read() if file is not sys.stdin else sys.stdin.read()
        try:
            changes = transfer.load(text, dry_run=options["dry_run"])
        except transfer.TransferError as exc:
            raise Failed(exc) from None
        if options["as_json"]:
            self.print_json([change.as_json() for change in changes])
            return
        for change in changes:
            for line in change.lines():
                self.say(line)
        done = _("{count} tasks would change.") if options["dry_run"] else _("{count} tasks changed.")
        self.say(done.format(count=len(changes)))


def _find_execution(number: int) -> Execution:
    execution = Execution.objects.select_related("task").filter(pk=number).first()
    if execution is None:
        raise WrongUse(_("There is no execution {number}. “manage.py task logs” shows them.").format(number=number))
    return execution


def _task_json(task: ExportTask) -> dict[str, Any]:
    names = ("id", "name", "description", "sql", "cron", "timezone", "enabled", "format", "tags", "next_run_at")
    return {name: getattr(task, name) for name in names} | {"data_source": task.data_source.name}


def _task_row(task: ExportTask) -> tuple[object, ...]:
    when = schedule.describe(task.cron) if task.cron else _("by hand")
    next_run = timezone.localtime(task.next_run_at).strftime("%Y-%m-%d %H:%M") if task.next_run_at else "-"
    return task.pk, task.name, task.data_source.name, task.format, when, next_run, _("yes") if task.enabled else _("no")


def _execution_row(execution: Execution) -> tuple[object, ...]:
    rows = f"{execution.rows_count:,}" if execution.rows_count is not None else "-"
    size = human_size(execution.file_size) if execution.file_size is not None else "-"
    duration = human_duration(execution.duration_seconds) if execution.duration_seconds is not None else "-"
    planned = timezone.localtime(execution.planned_at).strftime("%Y-%m-%d %H:%M")
    what = execution.filename or execution.reason_sentence
    arrival = Arrival.of(execution.deliveries.all())
    messages = arrival.label if arrival else "-"
    return execution.pk, planned, execution.get_status_display(), rows, size, duration, messages, what


def _short(cell: str | None) -> str:
    if cell is None:
        return "NULL"
    line = " ".join(cell.split()) if cell.strip() else cell
    return line if len(line) <= SHOWN_CELL else line[: SHOWN_CELL - 1] + "…"
