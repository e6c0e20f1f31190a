import socket
from typing import Any

from django.core.management.base import CommandParser

from exporter_site.command import ExporterCommand
from tasks.executors.forkserver import ForkServer, preload


class Command(ExporterCommand):
    help = "Internal: starts the processes of exports. The scheduler starts it; people use runtask."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("channel", type=int, help="the open socket to the scheduler, by its number")

    def handle(self, *args: Any, **options: Any) -> None:
        with socket.socket(fileno=options["channel"]) as channel:
            preload()
            ForkServer(channel).serve()
