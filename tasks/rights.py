"""The rights of a task's owner, checked when it runs: they may have gone since it was saved."""

from django.utils.translation import gettext as _

from datasources.models import DataSource
from tasks.models import ExportTask

WRITE = "tasks.change_exporttask"


def refusal(task: ExportTask, source: DataSource) -> str:
    """Why `task` may no longer read `source` for its owner, in words; "" when it may. One without an owner may."""
    owner = task.owner
    if owner is None:
        return ""
    if not owner.is_active:
        return _("The owner {user} has been deactivated.").format(user=owner)
    if not owner.has_perm(WRITE):
        return _("The owner {user} may no longer write tasks.").format(user=owner)
    if not DataSource.objects.for_user(owner).filter(pk=source.pk).exists():
        return _("The data source “{name}” is not granted to the owner {user}.").format(name=source.name, user=owner)
    return ""
