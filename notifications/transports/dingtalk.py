"""Robots of DingTalk groups ("custom robots").

https://open.dingtalk.com/document/robots/custom-robot-access: message types, signing, 20 messages a minute and then ten
minutes of silence. Error codes beyond that page are from reports of those who met them.
"""

import time
from typing import Any
from urllib.parse import parse_qsl, quote_plus, urlencode, urlsplit

from django.utils.translation import gettext_lazy as _

from notifications.transports.base import Answer, Setting
from notifications.transports.robot import (
    ADDRESS_LABEL,
    KEYWORD,
    OPEN_FILE,
    SERVER_ERROR,
    RobotTransport,
    Rule,
    clean_mobiles,
    limited,
    refused,
    signature,
)

_SECURITY = (310000,)  # any of the robot's safety settings; the words say which, in one of two languages


class DingTalk(RobotTransport):
    fields = (
        Setting(
            "webhook_url",
            ADDRESS_LABEL,
            "secret",
            required=True,
            help=_(
                "From the robot's page in the group's settings: https://oapi.dingtalk.com/robot/send?access_token=…"
            ),
        ),
        Setting("secret", _("Signing secret"), "secret", help=_("SEC…, if the robot asks for signatures.")),
        KEYWORD,
        Setting("at_mobiles", _("Mention"), "list", help=_("Mobile numbers of members of the group.")),
        Setting("at_all", _("Mention everybody"), "flag"),
        Setting(
            "message_type",
            _("Message type"),
            "choice",
            choices=(("markdown", _("Text with links")), ("action_card", _("Card with a button"))),
        ),
    )
    hosts = ("oapi.dingtalk.com",)
    token_name = "access_token"  # noqa: S105 - a name
    rules = (
        Rule((130101, 410100, 90030), limited(600)),
        Rule(_SECURITY, refused("keyword_missing"), "keyword|关键词"),
        # Before the time: DingTalk's sentence about signatures speaks of timestamps too.
        Rule(_SECURITY, refused("bad_signature"), "sign not match|签名不匹配"),
        Rule(_SECURITY, refused("clock_skew"), "timestamp|时间戳"),
        Rule(_SECURITY, refused("ip_not_allowed"), r"\bip\b|白名单"),
        Rule((300001, 300005, 400101), refused("bad_token")),
        Rule((400102,), refused("robot_disabled")),
        Rule((101002, 460101), refused("too_long")),
        Rule((-1,), SERVER_ERROR),
        Rule((), refused("bad_token"), "token"),
    )

    @classmethod
    def problems(cls, settings: dict[str, Any]) -> dict[str, str]:
        problems = super().problems(settings)
        if not problems:
            settings["webhook_url"] = _unsigned(settings["webhook_url"])
        try:
            settings["at_mobiles"] = clean_mobiles(settings["at_mobiles"])
        except ValueError as exc:
            problems["at_mobiles"] = str(exc)
        return problems

    @property
    def endings(self) -> list[str]:
        # Who is only named in `at` gets the message, but nobody sees it.
        mentions = " ".join(f"@{mobile}" for mobile in self.settings["at_mobiles"])
        return [*super().endings, *filter(None, [mentions])]

    def content(self, title: str, text: str, url: str) -> dict[str, Any]:
        at = {"atMobiles": self.settings["at_mobiles"], "isAtAll": self.settings["at_all"]}
        if url and self.settings["message_type"] == "action_card":
            card = {"title": title, "text": text, "singleTitle": str(OPEN_FILE), "singleURL": url}
            return {"msgtype": "actionCard", "actionCard": card, "at": at}
        return {"msgtype": "markdown", "markdown": {"title": title, "text": text}, "at": at}

    def _meaning(self, code: int, words: str) -> Answer:
        answer = super()._meaning(code, words)
        # Where there is no signature there is no time either, and the robot may speak of that first.
        if answer.reason == "clock_skew" and not self.settings["secret"]:
            return refused("bad_signature")
        return answer

    def signed(self, content: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        secret = self.settings["secret"]
        if not secret:
            return self.url, content
        timestamp = time.time_ns() // 1_000_000
        sign = quote_plus(signature(secret, f"{timestamp}\n{secret}"))
        return f"{self.url}&timestamp={timestamp}&sign={sign}", content


def _unsigned(url: str) -> str:
    """`url` without a signature: people copy addresses from where they worked once."""
    parts = urlsplit(url)
    query = [(name, value) for name, value in parse_qsl(parts.query) if name not in ("timestamp", "sign")]
    return parts._replace(query=urlencode(query), fragment="").geturl()
