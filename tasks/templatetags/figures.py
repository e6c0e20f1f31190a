"""Figures in templates, as exporter_site/formats.py writes them everywhere else."""

from datetime import datetime

from django import template
from django.utils import timezone
from django.utils.timesince import timesince, timeuntil

from exporter_site.formats import human_duration, human_size

register = template.Library()
register.filter("size", human_size)
register.filter("duration", human_duration)


@register.filter
def number(value: int) -> str:
    return f"{value:,}"


@register.filter
def until(moment: datetime) -> str:
    """The time from now until `moment`, in its largest unit; "" for less than a minute."""
    return timeuntil(moment, depth=1) if (moment - timezone.now()).total_seconds() >= 60 else ""


@register.filter
def since(moment: datetime | None) -> str:
    """The time from `moment` until now, in its largest unit; "" for less than a minute, or none."""
    return timesince(moment, depth=1) if moment and (timezone.now() - moment).total_seconds() >= 60 else ""
