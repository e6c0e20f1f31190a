from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class NotificationsConfig(AppConfig):
    name = "notifications"
    verbose_name = _("notifications")

    def ready(self) -> None:
        from exporter_site.access import audit
        from notifications.models import Channel, NotificationRule

        # Those of one task, one person and config.yaml are made by the system itself.
        audit.watch(Channel, when=lambda channel: channel.name is not None and not channel.config_managed)
        audit.watch(NotificationRule)
