from typing import Any

from django.core.management.base import CommandParser
from django.utils.translation import gettext as _

from exporter_site.access import audit
from exporter_site.command import ExporterCommand, Failed, WrongUse
from notifications import reasons, sender
from notifications.models import Channel
from notifications.transports import transports
from notifications.transports.base import ROBOT, Verdict


class Command(ExporterCommand):
    help = "Channels that messages go through: list, test."

    def add_arguments(self, parser: CommandParser) -> None:
        verbs = parser.add_subparsers(dest="verb", required=True)
        self.add_json(verbs.add_parser("list", help="all shared channels"))
        test = verbs.add_parser("test", help="send a test message now")
        test.add_argument("channel", metavar="ID_OR_NAME")
        self.add_json(test)

    def handle_list(self, options: dict[str, Any]) -> None:
        Channel.objects.of_config()
        channels = Channel.objects.shared()
        if options["as_json"]:
            names = ("id", "name", "kind", "is_active", "config_managed")
            self.print_json([{name: getattr(channel, name) for name in names} for channel in channels])
            return
        heads = (_("ID"), _("name"), _("kind"), _("active"))
        self.print_table(
            heads,
            (
                (channel.pk, channel.name, transports.label(channel.kind), _("yes") if channel.is_active else _("no"))
                for channel in channels
            ),
        )

    def handle_test(self, options: dict[str, Any]) -> None:
        channel = find_channel(options["channel"])
        audit.record(audit.Action.TEST, channel)
        answers = sender.send_test(channel)
        if options["as_json"]:
            self.print_json(
                {
                    name: {"verdict": answer.verdict, "reason": answer.reason, "text": answer.text}
                    for name, answer in answers.items()
                }
            )
        failed = []
        for name, answer in answers.items():
            whom = "" if name in ("", ROBOT) else f"{name}: "
            if answer.verdict != Verdict.ACCEPTED:
                words = f"{reasons.sentence(answer.reason)} {reasons.remedy(answer.reason)} {answer.text}"
                failed.append(whom + words.strip())
            elif not options["as_json"]:
                self.say(whom + _("The test message was sent."))
        if failed:
            raise Failed("\n".join(failed))


def find_channel(id_or_name: str) -> Channel:
    """The channel with this number, else with this name. Raises WrongUse."""
    channels = Channel.objects.shared()
    found = channels.filter(pk=int(id_or_name)).first() if id_or_name.isdecimal() else None
    found = found or channels.filter(name=id_or_name).first()
    if found is None:
        raise WrongUse(_("There is no channel “{name}”. “manage.py channel list” shows them.").format(name=id_or_name))
    return found
