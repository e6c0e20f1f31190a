"""Robots of WeCom groups: https://developer.work.weixin.qq.com/document/path/91770."""

import re
from collections.abc import Mapping
from typing import Any

from django.utils.translation import gettext_lazy as _

from notifications.transports.base import Setting
from notifications.transports.robot import (
    ADDRESS_LABEL,
    SERVER_ERROR,
    RobotTransport,
    Rule,
    clean_mobiles,
    limited,
    refused,
)

_TEXT_LIMIT = 2048  # bytes of a message of the type "text"; markdown has twice as many
_EVERYBODY = "@all"


class WeCom(RobotTransport):
    """Markdown, unless members are mentioned: only the type "text" can do that by mobile number."""

    fields = (
        Setting(
            "webhook_url",
            ADDRESS_LABEL,
            "secret",
            required=True,
            help=_("From the robot's page: https://qyapi.weixin.qq.com/cgi-bin/webhook/send?key=…"),
        ),
        Setting(
            "mentioned_mobiles",
            _("Mention"),
            "list",
            help=_("Mobile numbers of members, or @all. Such messages are plain text."),
        ),
    )
    hosts = ("qyapi.weixin.qq.com",)
    max_bytes = 4096
    token_name = "key"  # noqa: S105 - a name
    rules = (
        Rule((45009,), limited(60)),
        Rule((93000,), refused("bad_token")),
        Rule((45002,), refused("too_long")),
        Rule((40058,), refused("too_long"), "exceed max length"),
        Rule((-1,), SERVER_ERROR),
    )

    def __init__(self, settings: Mapping[str, Any]) -> None:
        super().__init__(settings)
        if self.settings["mentioned_mobiles"]:
            self.max_bytes = _TEXT_LIMIT  # type: ignore[misc] # of this channel, while it mentions members

    @classmethod
    def problems(cls, settings: dict[str, Any]) -> dict[str, str]:
        problems = super().problems(settings)
        try:
            settings["mentioned_mobiles"] = clean_mobiles(settings["mentioned_mobiles"], also=[_EVERYBODY])
        except ValueError as exc:
            problems["mentioned_mobiles"] = str(exc)
        return problems

    def link(self, url: str) -> str:
        return url if self.settings["mentioned_mobiles"] else super().link(url)

    def content(self, title: str, text: str, url: str) -> dict[str, Any]:
        mobiles = self.settings["mentioned_mobiles"]
        if mobiles:
            return {"msgtype": "text", "text": {"content": without_markup(text), "mentioned_mobile_list": mobiles}}
        return {"msgtype": "markdown", "markdown": {"content": text}}


def without_markup(text: str) -> str:
    """Markdown as plain text: good enough to be read, and never longer than it was."""
    text = re.sub(r"\[([^\]\n]*)\]\(([^)\s]*)\)", r"\1 \2", text)
    return re.sub(r"^(?:#{1,6}|>) +|\*\*", "", text, flags=re.MULTILINE)
