"""What every page of the admin shows above its content."""

from typing import Any

from django.http import HttpRequest
from django.utils.functional import SimpleLazyObject
from django.utils.translation import gettext as _

from tasks import status
from tasks.models import Pause


def system_banner(request: HttpRequest) -> dict[str, Any]:
    """`system_banner` with problems and a pause; looked up only where a page shows it, and only for staff."""
    user = getattr(request, "user", None)
    if user is None or not user.is_staff:
        return {}
    return {"system_banner": SimpleLazyObject(lambda: _banner(user))}


def _banner(user: Any) -> dict[str, Any]:
    pause = Pause.objects.active().first()
    words = ""
    if pause:
        words = _("All runs have been paused by {who} since {when}. {note}").format(
            who=pause.begun_by, when=status.local(pause.begun_at), note=pause.note
        )
    problems = status.problems(user)
    return {"problems": problems, "pause": words} if problems or words else {}
