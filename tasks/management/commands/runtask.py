from pathlib import Path
from typing import Any

from django.core.management.base import CommandParser
from django.utils.translation import gettext as _

from exporter_site.command import ExporterCommand, Failed, WrongUse
from notifications.outbox import Outbox
from notifications.states import DeliveryStatus
from tasks.launch import LaunchError, Output, Request, find_task, hand_over, known_format, launch, parse_date
from tasks.models import Execution
from tasks.progress import ProgressLine, summary
from tasks.states import Status


def add_run_arguments(parser: CommandParser) -> None:
    """The arguments of a run, shared by `runtask` and `task execute`."""
    parser.add_argument("task", metavar="ID_OR_NAME")
    parser.add_argument("--date", default="", help="planned time, YYYY-MM-DD[THH:MM]; now when left out")
    parser.add_argument(
        "--param", action="append", default=[], metavar="NAME=VALUE", help="a value for {{ params.NAME }}"
    )
    parser.add_argument("--no-notify", action="store_true", help="send no messages")
    parser.add_argument("--output", type=Path, help="also copy the file to this path or directory")
    parser.add_argument("--format", default="", help="another file format than the task's")
    parser.add_argument("--json", action="store_true", dest="as_json", help="print the execution as JSON")


def parse_params(given: list[str]) -> dict[str, str]:
    pairs = [item.partition("=") for item in given]
    for name, equals, _value in pairs:
        if not name or not equals:
            raise WrongUse(_("--param takes NAME=VALUE, not “{text}”.").format(text=name))
    return {name: value for name, _equals, value in pairs}


def run_and_print(command: ExporterCommand, options: dict[str, Any]) -> None:
    """Run a task in the foreground. Raises Failed when it did not succeed, WrongUse when it can't be what was meant."""
    line = ProgressLine()
    try:
        task = find_task(options["task"])
        request = Request(
            task=task,
            planned_at=parse_date(options["date"], task.timezone) if options["date"] else None,
            params=parse_params(options["param"]),
            notify=not options["no_notify"],
            output=Output.at(options["output"]) if options["output"] else None,
            format=known_format(options["format"]),
        )
    except LaunchError as exc:
        raise WrongUse(exc) from None
    try:
        execution = launch(request, line)
    except LaunchError as exc:
        raise Failed(exc) from None
    finally:
        line.end()
    fault = None
    try:
        paths = hand_over(execution, request.output)
    except LaunchError as exc:
        paths, fault = [str(file) for file in execution.stored_files()], exc
    Outbox(threads=0).deliver_all([execution.pk])  # there may be no scheduler that would
    succeeded = execution.status == Status.SUCCEEDED
    if options["as_json"]:
        from tasks.serializers import ExecutionSerializer  # takes a tenth of the start-up time

        command.print_json({**ExecutionSerializer(execution).data, "paths": paths})
    elif succeeded:
        command.say(summary(execution, paths))
    if not options["as_json"]:
        say_deliveries(command, execution)
    if not succeeded:
        raise Failed(summary(execution, paths))
    if fault is not None:
        raise Failed(fault)


def say_deliveries(command: ExporterCommand, execution: Execution) -> None:
    """A line for each message of a run: where it goes, and what has become of it."""
    for delivery in execution.deliveries.order_by("id"):
        words = f"{delivery.get_status_display()} {delivery.reason_sentence}".strip()
        line = _("Message to {channel}: {state}").format(channel=delivery.channel_name, state=words)
        (command.say if delivery.status == DeliveryStatus.SENT else command.stderr.write)(line)


class Command(ExporterCommand):
    help = "Runs one task now, in the foreground."

    def add_arguments(self, parser: CommandParser) -> None:
        add_run_arguments(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        run_and_print(self, options)
