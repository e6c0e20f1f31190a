"""Scheduler processes and pauses in the admin."""

from typing import Any

from django.contrib import admin, messages
from django.db.models import Exists, OuterRef, QuerySet
from django.http import HttpRequest
from django.utils.translation import gettext as _t
from django.utils.translation import gettext_lazy as _
from unfold.decorators import action, display

from exporter_site.modeladmin import LogAdmin
from tasks.models import Pause, SchedulerProcess


@admin.register(SchedulerProcess)
class SchedulerProcessAdmin(LogAdmin):
    list_display = ("name", "alive", "started_at", "seen_at", "stopped_at", "executor", "workers", "running")
    fields = ("name", "started_at", "seen_at", "stopped_at", "executor", "workers", "running")

    def get_queryset(self, request: HttpRequest) -> QuerySet[SchedulerProcess]:
        alive = SchedulerProcess.objects.alive().filter(pk=OuterRef("pk"))
        queryset: QuerySet[SchedulerProcess] = super().get_queryset(request)
        return queryset.annotate(is_alive=Exists(alive))

    @display(description=_("alive"), boolean=True)
    def alive(self, process: SchedulerProcess) -> bool:
        return bool(getattr(process, "is_alive", False))


@admin.register(Pause)
class PauseAdmin(LogAdmin):
    """Adding a pause is pausing; an action ends it."""

    list_display = ("begun_at", "begun_by", "note", "ended_at", "ended_by")
    fields = ("note",)
    actions = ("resume",)

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm("tasks.add_pause") and not Pause.objects.active().exists()

    def save_model(self, request: HttpRequest, obj: Pause, form: Any, change: bool) -> None:
        obj.begun_by, obj.active_key = request.user.get_username(), Pause.ACTIVE
        super().save_model(request, obj, form, change)

    @action(description=_("Resume"), permissions=["resume"])
    def resume(self, request: HttpRequest, queryset: QuerySet[Pause]) -> None:
        if Pause.objects.end(request.user.get_username()):
            messages.success(request, _t("Runs are started again."))
        else:
            messages.warning(request, _t("Nothing is paused."))

    def has_resume_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("tasks.add_pause")
