"""What happens to links and downloads; the rows are in models.py, their signed addresses in exporter_site/links.py."""

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.db import transaction
from django.db.models import F
from django.utils import timezone

from exporter_site.access import audit
from exporter_site.access.scope import ScopedQuerySet
from exporter_site.links import id_of

if TYPE_CHECKING:
    from tasks.models import Download, DownloadLink, Execution


GOES_ON_FOR = timedelta(days=1)  # what begins later, in the middle of a file, is a download of its own


class DownloadLinkQuerySet(ScopedQuerySet["DownloadLink"]):
    """Holds every change of a link's state."""

    def valid(self) -> "DownloadLinkQuerySet":
        return self.filter(revoked_at=None, expires_at__gt=timezone.now())

    def find(self, token: str) -> "DownloadLink | None":
        """The valid link that `token` was made for, with its execution. A token that we did not sign costs no query."""
        link_id = id_of(token)
        return None if link_id is None else self.valid().select_related("execution").filter(pk=link_id).first()

    def issue(self, execution: "Execution") -> "DownloadLink":
        """The newest valid link to the files of `execution`, or a new one where there is none.

        One that was made under another web.link_access stays valid, but is not handed out any more.
        """
        usable = self.valid().filter(execution=execution, login_required=_login_required())
        return usable.order_by("-id").first() or self.make(execution)

    def make(self, execution: "Execution") -> "DownloadLink":
        """A new link, valid for the whole of web.link_expires_hours."""
        lifetime = timedelta(hours=settings.CONFIG.web.link_expires_hours)
        return self.create(execution=execution, expires_at=timezone.now() + lifetime, login_required=_login_required())

    def revoke(self, by: Any) -> int:
        """valid -> revoked, by the user `by`. Returns how many links that were."""
        links = list(self.valid().select_related("execution"))
        revoked = self.valid().filter(pk__in=[link.pk for link in links])
        count = revoked.update(revoked_at=timezone.now(), revoked_by=by)
        for link in links:
            audit.record(audit.Action.REVOKE, link.execution, note=str(link))
        return count


def _login_required() -> bool:
    return bool(settings.CONFIG.web.link_access == "login")


class DownloadQuerySet(ScopedQuerySet["Download"]):
    def begin(self, download: "Download", *, continues: bool) -> bool:
        """Put `download` (not saved yet) on record and count it on its link.

        False for one that `continues`, from a later byte, what the same reader has begun: that is on record already.
        Without such a beginning it is a download like any other; a file without its first byte is still the file.
        """
        begun = self.filter(
            at__gt=timezone.now() - GOES_ON_FOR,
            execution=download.execution,
            link=download.link,
            user=download.user,
            address=download.address,
            user_agent=download.user_agent,
            part=download.part,
        )
        if continues and begun.exists():
            return False
        with transaction.atomic():
            if download.link is not None:
                type(download.link).objects.filter(pk=download.link.pk).update(downloads=F("downloads") + 1)
            download.save(force_insert=True)
            audit.record(audit.Action.DOWNLOAD, download.execution, note=download.filename)
        return True
