"""The filter of the list of deliveries that asks what people want to know."""

from datetime import timedelta
from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from notifications.models import Delivery
from notifications.states import OPEN, DeliveryStatus


class OutcomeFilter(admin.SimpleListFilter):
    title = _("what became of it")
    parameter_name = "outcome"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [
            ("lost-lately", _("not delivered in the last 24 hours")),
            ("lost", _("not delivered, whenever")),
            ("open", _("waits or is being sent")),
            ("sent", _("delivered")),
        ]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Delivery]) -> QuerySet[Delivery]:
        match self.value():
            case "lost-lately":
                since = timezone.now() - timedelta(days=1)
                return queryset.filter(status=DeliveryStatus.DEAD, finished_at__gte=since)
            case "lost":
                return queryset.filter(status=DeliveryStatus.DEAD)
            case "open":
                return queryset.filter(status__in=OPEN)
            case "sent":
                return queryset.filter(status=DeliveryStatus.SENT)
        return queryset
