"""The roles: groups with rights, made by a migration. Each has all that the one before it has.

A role says what somebody may do; with which data sources, a grant says (scope.py). Whoever has `all_datasources` needs
no grant.
"""

from typing import Any

from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

LABELS: dict[str, Promise] = {
    "viewer": _("Viewer"),
    "operator": _("Operator"),
    "editor": _("Editor"),
    "admin": _("Administrator"),
}
SUMMARIES: dict[str, Promise] = {
    "viewer": _("sees the runs of granted sources, and fetches their files"),
    "operator": _("also runs, cancels, sends again, sees SQL, makes and revokes links"),
    "editor": _("also writes tasks and their rules on granted sources"),
    "admin": _("everything, with all sources"),
}

_VIEWER = (
    "tasks.view_exporttask",
    "tasks.view_execution",
    "tasks.download_execution",
    "tasks.view_schedulerprocess",
    "tasks.view_pause",
    "notifications.view_delivery",
)
_OPERATOR = (
    *_VIEWER,
    "datasources.view_datasource",
    "tasks.run_exporttask",
    "tasks.view_sql",
    "datasources.test_datasource",
    "tasks.view_downloadlink",
    "tasks.add_downloadlink",
    "tasks.change_downloadlink",
    "tasks.view_download",
    "notifications.view_channel",
    "notifications.view_notificationrule",
)
_EDITOR = (
    *_OPERATOR,
    "tasks.add_exporttask",
    "tasks.change_exporttask",
    "tasks.delete_exporttask",
    "notifications.add_notificationrule",
    "notifications.change_notificationrule",
    "notifications.delete_notificationrule",
)
RIGHTS: dict[str, tuple[str, ...]] = {"viewer": _VIEWER, "operator": _OPERATOR, "editor": _EDITOR}
OURS = ("datasources", "tasks", "notifications", "access", "auth")


def make_roles(apps: Any) -> None:
    """Make the groups that are missing, and give each role the rights of this file that it lacks.

    For migrations: `apps` is their registry. Rights that a user added or a group of their own are left alone.
    """
    group_model = apps.get_model("auth", "Group")
    permission_model = apps.get_model("auth", "Permission")
    known = {
        f"{right.content_type.app_label}.{right.codename}": right
        for right in permission_model.objects.select_related("content_type").filter(content_type__app_label__in=OURS)
    }
    for role in LABELS:
        group, _made = group_model.objects.get_or_create(name=role)
        names = RIGHTS.get(role, tuple(known))
        group.permissions.add(*(known[name] for name in names if name in known))
