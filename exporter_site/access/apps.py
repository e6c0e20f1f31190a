from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class AccessConfig(AppConfig):
    name = "exporter_site.access"
    label = "access"
    verbose_name = _("Access")

    def ready(self) -> None:
        from django.contrib.auth.models import Group, User

        from exporter_site.access import audit, signals  # noqa: F401  # signals connects itself
        from exporter_site.access.models import ApiKey, Grant

        audit.watch(
            User, leave_out=("last_login", "date_joined"), secret=("password",), many=("groups", "user_permissions")
        )
        audit.watch(Group, many=("permissions",))
        audit.watch(Grant, created=audit.Action.GRANT, deleted=audit.Action.REVOKE)
        audit.watch(ApiKey, leave_out=("last_used_at",), secret=("digest",))
