"""Robots of Feishu (Lark) groups: https://open.feishu.cn/document/client-docs/bot-v3/add-custom-bot."""

import time
from typing import Any

from django.utils.translation import gettext_lazy as _

from notifications.transports.base import Setting
from notifications.transports.robot import (
    ADDRESS_LABEL,
    KEYWORD,
    OPEN_FILE,
    RobotTransport,
    Rule,
    limited,
    refused,
    signature,
)


class Feishu(RobotTransport):
    fields = (
        Setting(
            "webhook_url",
            ADDRESS_LABEL,
            "secret",
            required=True,
            help=_("From the robot's page in the group's settings: https://open.feishu.cn/open-apis/bot/v2/hook/…"),
        ),
        Setting("secret", _("Signing secret"), "secret", help=_("If the robot asks for signatures.")),
        KEYWORD,
    )
    hosts = ("open.feishu.cn", "open.larksuite.com")
    code_names = ("code", "StatusCode")  # the second one is how the first version of the interface answers
    words_name = "msg"
    rules = (
        # The same code is given for a body that it can't read: waiting would not help that one.
        Rule((9499,), refused("rejected"), "bad request"),
        Rule((9499, 11232), limited(60)),
        Rule((19021,), refused("bad_signature")),
        Rule((19024,), refused("keyword_missing")),
        Rule((19022,), refused("ip_not_allowed")),
        Rule((19001,), refused("bad_token")),
    )

    def content(self, title: str, text: str, url: str) -> dict[str, Any]:
        elements: list[dict[str, Any]] = [{"tag": "markdown", "content": text}]
        if url:
            button = {"tag": "button", "text": {"tag": "plain_text", "content": str(OPEN_FILE)}, "url": url}
            elements.append({"tag": "action", "actions": [button | {"type": "primary"}]})
        header = {"title": {"tag": "plain_text", "content": title}}
        card = {"config": {"wide_screen_mode": True}, "header": header, "elements": elements}
        return {"msg_type": "interactive", "card": card}

    def signed(self, content: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        secret = self.settings["secret"]
        if not secret:
            return self.url, content
        timestamp = str(int(time.time()))
        # Feishu takes the text as the key and signs nothing with it.
        return self.url, {"timestamp": timestamp, "sign": signature(f"{timestamp}\n{secret}", ""), **content}
