"""The kinds of channels that messages go through. A new kind is one file here and one line in this table."""

from django.utils.translation import gettext_lazy as _

from exporter_site.registry import Label, Registry
from notifications.transports.base import Transport

transports: Registry[Transport] = Registry(
    {
        "dingtalk": (_("DingTalk robot"), "notifications.transports.dingtalk.DingTalk"),
        "email": (_("E-mail"), "notifications.transports.email.Email"),
        "wecom": (_("WeCom robot"), "notifications.transports.wecom.WeCom"),
        "feishu": (_("Feishu robot"), "notifications.transports.feishu.Feishu"),
        "webhook": (_("Webhook"), "notifications.transports.webhook.Webhook"),
    }
)


def transport_choices() -> list[tuple[str, Label]]:
    return transports.choices()
