"""E-mail: to each recipient, with the files attached when they fit, else with a link and the reason."""

import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from django.conf import settings as site
from django.core.exceptions import ValidationError
from django.core.mail.utils import DNS_NAME
from django.core.validators import validate_email
from django.utils.translation import gettext as _t
from django.utils.translation import gettext_lazy as _

from exporter_site.config import Email as Server
from exporter_site.config import is_placeholder
from exporter_site.formats import human_size
from notifications.transports.base import Answer, Message, Patience, Setting, Transport, Verdict
from notifications.transports.mime import compose, encoded_size, names_and_sizes, wire_form
from notifications.transports.smtp import Conversation

MAX_RECIPIENTS = 100  # what every server takes (RFC 5321, 4.5.3.1.8)
_NAME = "data-export-system"
_TIMEOUTS = 4  # times smtp_timeout: after that nothing new is begun


class Email(Transport):
    """The server is that of config.yaml."""

    fields = (
        Setting(
            "recipients",
            _("recipients"),
            kind="list",
            required=True,
            help=_("The mail addresses, with commas between."),
        ),
    )
    markup = "plain"

    @classmethod
    def clean(cls, settings: dict[str, Any]) -> None:
        unique: dict[str, str] = {}
        for address in (str(item).strip() for item in settings["recipients"]):
            unique.setdefault(address.casefold(), address)
        settings["recipients"] = list(unique.values())
        if len(unique) > MAX_RECIPIENTS:
            raise ValidationError({"recipients": _t("At most {limit} addresses.").format(limit=MAX_RECIPIENTS)})
        wrong = [address for address in unique.values() if not _is_valid(address)]
        if wrong:
            raise ValidationError(
                {"recipients": [_t("{address} is not a mail address.").format(address=item) for item in wrong]}
            )

    @property
    def recipients(self) -> list[str]:
        return list(self.settings["recipients"])

    def patience(self, tries: int) -> Patience:
        """config.yaml's: as many tries as email.retry_attempts says, at least one, email.retry_delay apart."""
        server: Server = site.CONFIG.email
        return Patience(max(1, server.retry_attempts), float(server.retry_delay))

    def send(self, message: Message, recipients: Sequence[str]) -> dict[str, Answer]:
        server: Server = site.CONFIG.email
        sender = wire_form(server.username) if server.username else f"{_NAME}@{DNS_NAME}"
        if not _is_configured(server) or not sender:
            reason = "sender_refused" if _is_configured(server) else "not_configured"
            return dict.fromkeys(recipients, Answer(Verdict.REFUSED, reason))
        compose_for_all = partial(
            compose,
            message,
            sender=sender,
            sender_name=server.from_name,
            to=[wire for wire in map(wire_form, self.recipients) if wire],
            domain=sender.rpartition("@")[2] if "@" in server.username else _NAME,
        )
        addresses = {name: wire_form(name) for name in recipients}
        answers = {name: Answer(Verdict.REFUSED, "recipient_refused") for name in addresses}
        end = time.monotonic() + _TIMEOUTS * server.smtp_timeout
        mail = compose_for_all(not_attached=_why_not_attached(message, server))
        answers |= Conversation(server, end).deliver(mail, {name: wire for name, wire in addresses.items() if wire})
        too_large = {name: addresses[name] for name, answer in answers.items() if answer.reason == "message_too_large"}
        if too_large and mail.files:
            mail = compose_for_all(not_attached=_what_the_server_found(message))
            answers |= Conversation(server, end).deliver(mail, too_large)
        return answers


def _is_valid(address: str) -> bool:
    try:
        validate_email(address)
    except ValidationError:
        return False
    return bool(wire_form(address))


def _is_configured(server: Server) -> bool:
    values = (server.smtp_server, server.username, server.password.get_secret_value())
    return bool(server.smtp_server) and not any(map(is_placeholder, values))


def _why_not_attached(message: Message, server: Server) -> str:
    """The reason in words; "" when the files fit."""
    size = encoded_size(message.attachments)
    if size <= server.max_attachment_size:
        return ""
    return _t("Not attached: {files}. In a mail that is {size}, and the limit is {limit}.").format(
        files=names_and_sizes(message.attachments), size=human_size(size), limit=human_size(server.max_attachment_size)
    )


def _what_the_server_found(message: Message) -> str:
    return _t("Not attached: {files}. The mail server found that too large.").format(
        files=names_and_sizes(message.attachments)
    )
