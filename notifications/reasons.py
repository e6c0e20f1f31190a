"""Why a message did not arrive: codes with a sentence and a remedy, in the user's language."""

from typing import NamedTuple

from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

Text = str | Promise


class Reason(NamedTuple):
    sentence: Text
    remedy: Text = ""


_TRIED_AGAIN = _(
    "Messages of runs are tried again by themselves; once that is given up, send them again when the server is well."
)
REASONS: dict[str, Reason] = {
    # the network and the other side in general
    "unreachable": Reason(
        _("The server could not be reached."), _("Check its address, and that this machine may go there.")
    ),
    "timed_out": Reason(
        _("The server took too long to answer."),
        _(
            "Check the network and the server. Messages of runs are tried again by themselves; once that is given up, send them again."
        ),
    ),
    "answer_lost": Reason(
        _("The message was handed over and no answer came; it may have arrived."),
        _("Ask a reader before it is sent again."),
    ),
    "server_error": Reason(_("The server had a fault of its own."), _TRIED_AGAIN),
    "unreadable_answer": Reason(
        _("The answer could not be understood; the message may have arrived."),
        _("Check the address: a page may have answered where a robot was expected."),
    ),
    "rejected": Reason(_("The server refused the message."), _("Its own words are below.")),
    "tls_failed": Reason(
        _("No safe connection could be made (certificate or TLS)."),
        _("Check the host name and the certificate authority."),
    ),
    "address_refused": Reason(
        _("This address is not allowed."),
        _("It must be https and public; others are listed in notifications.private_hosts of config.yaml."),
    ),
    "redirected": Reason(
        _("The server answered with another address, which is not followed."),
        _("Enter the address that it leads to, if that is the right one."),
    ),
    # our own side
    "not_configured": Reason(_("The channel lacks a setting."), _("Complete the channel, or config.yaml.")),
    "secret_unreadable": Reason(
        _("A stored secret can't be decrypted."), _("Restore the key file, or enter the secret again.")
    ),
    "channel_deleted": Reason(
        _("The channel has been deleted."), _("Choose another channel for the task: later runs tell it.")
    ),
    "channel_inactive": Reason(_("The channel is switched off."), _("Activate it, then send the message again.")),
    "worker_lost": Reason(
        _("The process that sent it died; the message may have arrived."), _("Ask a reader, then send it again.")
    ),
    "file_unavailable": Reason(
        _("The file of the message could not be read from where it is kept."),
        _("Look at “manage.py system doctor”: is the disk mounted, does the object storage answer?"),
    ),
    "internal_error": Reason(_("The system itself failed."), _("The log has the details; please report them.")),
    "restored": Reason(
        _("The system was restored from a backup that was made before this was sent; it may have arrived since."),
        _("Ask a reader, then send it again."),
    ),
    # robots
    "rate_limited": Reason(
        _("The robot has been sent too much lately."), _("It waits, and messages that wait are put together.")
    ),
    "bad_token": Reason(
        _("The robot is not known there: the webhook address is wrong, or the robot was removed."),
        _("Copy the webhook address of the robot again."),
    ),
    "robot_disabled": Reason(_("The robot is switched off."), _("Switch it on in the group's settings.")),
    "keyword_missing": Reason(
        _("The robot only takes messages with its keyword."), _("Enter the robot's keyword in the channel.")
    ),
    "bad_signature": Reason(
        _("The robot's signature does not match."), _("Copy the signing secret (SEC…) of the robot again.")
    ),
    "clock_skew": Reason(
        _("The robot found the time of the message wrong."),
        _("Set this machine's clock: it is off by an hour or more."),
    ),
    "ip_not_allowed": Reason(
        _("The robot does not take messages from this machine's address."),
        _("Add this machine's public address to the robot's list."),
    ),
    "too_long": Reason(_("The message was too long."), _("Shorten the template: that holds for later runs.")),
    # mail
    "auth_failed": Reason(
        _("The mail server refused the login."),
        _("Check email.username and email.password; many providers want an app password."),
    ),
    "tls_missing": Reason(
        _("The mail server offers no encryption, and the password is not sent without it."),
        _("Use port 465 or a server with STARTTLS."),
    ),
    "sender_refused": Reason(
        _("The mail server refused the sender."), _("email.username must be the address that it may send from.")
    ),
    "recipient_refused": Reason(_("The mail server refused this address."), _("Correct the address.")),
    "mailbox_busy": Reason(_("The mail server could not take the mail for this address now."), _TRIED_AGAIN),
    "message_too_large": Reason(
        _("The mail server found the mail too large."),
        _("It was refused without its files, too: have the server's limit raised. Its own words are below."),
    ),
    "content_refused": Reason(_("The mail server refused the content."), _("Its own words are below.")),
}


def sentence(code: str) -> Text:
    return REASONS[code].sentence if code in REASONS else code


def remedy(code: str) -> Text:
    return REASONS[code].remedy if code in REASONS else ""
