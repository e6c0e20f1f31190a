"""Downloads in the admin."""

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.translation import gettext as _t
from django.utils.translation import gettext_lazy as _
from unfold.decorators import display

from exporter_site.formats import human_size
from exporter_site.modeladmin import LogAdmin, ScopedAdmin, TimesFilter
from tasks.models import Download


@display(description=_("who"))
def reader_of(download: Download) -> str:
    """A name, or the number of a link that needs none."""
    if download.username:
        return download.username
    return _t("whoever had the link {link}").format(link=download.link) if download.link else _t("whoever had a link")


@display(description=_("size"))
def size_of(download: Download) -> str:
    return human_size(download.bytes) if download.bytes is not None else "-"


class ThroughFilter(admin.SimpleListFilter):
    title = _("how it was reached")
    parameter_name = "through"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [("link", _("without login, through a link")), ("login", _("after login"))]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Download]) -> QuerySet[Download]:
        if self.value() == "link":
            return queryset.filter(username="")
        return queryset.exclude(username="") if self.value() == "login" else queryset


@admin.register(Download)
class DownloadAdmin(ScopedAdmin, LogAdmin):
    list_display = ("at", "task_name", "filename", size_of, reader_of, "address")
    list_filter = (ThroughFilter, ("at", TimesFilter))
    list_filter_submit = True
    list_select_related = ("link",)
    search_fields = ("task_name", "filename", "username", "address", "user_agent")
    readonly_fields = (size_of, reader_of)
    fields = (
        "filename",
        ("task_name", "execution"),
        ("part", size_of),
        (reader_of, "link"),
        ("at", "address"),
        "user_agent",
    )
