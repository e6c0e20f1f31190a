"""A program of the user's own: any https address that takes JSON."""

import hmac
import time

from django.utils.translation import gettext_lazy as _

from notifications.transports.base import ACCEPTED, Answer, Message, Setting
from notifications.transports.http import encode, post_json
from notifications.transports.robot import WebTransport


class Webhook(WebTransport):
    """The body is Message.data with key, title, text and url.

    X-Exporter-Delivery is the same at every try of a message. With a secret, X-Exporter-Signature is "sha256=" and the
    hexadecimal HMAC-SHA256 of X-Exporter-Timestamp (seconds since 1970), a dot and the body.
    """

    fields = (
        Setting("url", _("Address"), "secret", required=True, help=_("It gets each message as JSON, by POST.")),
        Setting("secret", _("Signing secret"), "secret", help=_("If set, each message is signed with it.")),
    )
    address = "url"
    markup = "plain"

    def answer(self, message: Message) -> Answer:
        body = encode(
            {
                **message.data,
                "key": message.key,
                "title": message.title,
                "text": message.text,
                "url": message.url,
            }
        )
        reply = post_json(self.url, body, headers=self._headers(message.key, body), hosts=self.hosts)
        return reply.refusal or ACCEPTED

    def _headers(self, key: str, body: bytes) -> dict[str, str]:
        timestamp = str(int(time.time()))
        headers = {"X-Exporter-Delivery": key, "X-Exporter-Timestamp": timestamp}
        if secret := self.settings["secret"]:
            signed = hmac.new(secret.encode(), f"{timestamp}.".encode() + body, "sha256")
            headers["X-Exporter-Signature"] = f"sha256={signed.hexdigest()}"
        return headers
