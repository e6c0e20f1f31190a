"""The one rule of who sees what: a right says what somebody may do, a grant says with which data sources.

A model that belongs to a data source names the way there in `source_path`, and its QuerySet is a ScopedQuerySet. Whatever
shows, changes or runs rows for a user takes them from for_user(); what is not in there does not exist for that user.
"""

from typing import Any, TypeVar

from django.db import models
from django.db.models import Q

ALL_SOURCES = "datasources.all_datasources"

M = TypeVar("M", bound=models.Model)


class ScopedQuerySet(models.QuerySet[M]):
    def for_user(self, user: Any) -> "ScopedQuerySet[M]":
        """The rows whose data source is granted to `user`; all of them, with the right to all sources."""
        if user.has_perm(ALL_SOURCES):
            return self.all()
        path: str = self.model.source_path  # type: ignore[attr-defined]  # of every scoped model
        return self.filter(**{f"{path}__in": granted_sources(user)})


def granted_sources(user: Any) -> list[int]:
    """The numbers of the sources that are granted to `user`, or to one of the user's groups."""
    from exporter_site.access.models import Grant

    if not user.is_active or user.pk is None:
        return []
    granted = Grant.objects.filter(Q(user=user) | Q(group__in=user.groups.all()))
    # As numbers: a subquery makes the databases read the log of all sources.
    return sorted(set(granted.values_list("data_source_id", flat=True)))
