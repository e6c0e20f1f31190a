"""The dialogs that run a task from its page or the list: once, for a date, or for each planned time of a range."""

from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from django import forms
from django.conf import settings
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _t
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext
from unfold.forms import BaseDialogForm
from unfold.widgets import UnfoldAdminTextInputWidget, UnfoldBooleanSwitchWidget

from tasks import backfill
from tasks.launch import LaunchError, parse_date
from tasks.models import ExportTask, known_timezones


def zone_of(task: ExportTask) -> str:
    """The task's zone; the system's for one that names none that there is."""
    return task.timezone if task.timezone in known_timezones() else str(settings.TIME_ZONE)


def lead_to(request: HttpRequest, url: str) -> HttpResponse:
    """To `url` from a dialog: the script in the page follows a header, no redirect."""
    if request.headers.get("HX-Request"):
        return HttpResponse(headers={"HX-Redirect": url})
    return HttpResponseRedirect(url)


class _TaskDialog(BaseDialogForm):  # type: ignore[misc]  # untyped library
    """`task`: what the dialog was opened for. It is there: the admin looks before it makes the form."""

    def __init__(self, request: HttpRequest, object_id: Any = None, *args: Any, **kwargs: Any) -> None:
        super().__init__(request, object_id, *args, **kwargs)
        self.task = ExportTask.objects.for_user(request.user).select_related("data_source").get(pk=object_id)
        self.zone = zone_of(self.task)

    def render_before_template(self) -> SafeString:
        return format_html('<p class="mb-3"><strong>{}</strong></p>', self.task)

    def _moment(self, name: str, convert: Any = parse_date) -> datetime | None:
        """What was typed into this field, as a moment in the task's zone; None, and the fault said, if it is none."""
        text = self.cleaned_data.get(name, "")
        try:
            return convert(text, self.zone) if text else None
        except LaunchError as exc:
            self.add_error(name, str(exc))
            return None


class RunForm(_TaskDialog):
    planned_at = forms.CharField(
        label=_("Planned time"), required=False, widget=UnfoldAdminTextInputWidget(attrs={"type": "datetime-local"})
    )
    notify = forms.BooleanField(
        label=_("Send messages"), required=False, initial=True, widget=UnfoldBooleanSwitchWidget
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        planned = self.fields["planned_at"]
        planned.initial = timezone.now().astimezone(ZoneInfo(self.zone)).strftime("%Y-%m-%dT%H:%M")
        planned.help_text = _t("The dates in SQL and file name count from it ({zone}). The run starts now.").format(
            zone=self.zone
        )

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or self.cleaned_data
        cleaned["planned"] = self._moment("planned_at")
        return cleaned


RUN = {
    "title": _("Run now, or for a date"),
    "form_class": RunForm,
    "form_submit_text": _("Run"),
}


class BackfillForm(_TaskDialog):
    """Valid when the number of runs has been shown and is still the same."""

    start = forms.CharField(label=_("First day"), widget=UnfoldAdminTextInputWidget(attrs={"type": "date"}))
    end = forms.CharField(label=_("Last day"), widget=UnfoldAdminTextInputWidget(attrs={"type": "date"}))
    again = forms.BooleanField(
        label=_("Also times that have succeeded already"), required=False, widget=UnfoldBooleanSwitchWidget
    )
    notify = forms.BooleanField(
        label=_("Send messages"), required=False, initial=False, widget=UnfoldBooleanSwitchWidget
    )
    confirmed = forms.CharField(required=False, widget=forms.HiddenInput)

    data: Any
    moments: list[datetime] | None = None

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or self.cleaned_data
        first, last = self._moment("start"), self._moment("end", backfill.end_of)
        if first is None or last is None:
            return cleaned
        try:
            if last < first:
                raise LaunchError(_t("The last day is before the first one."))
            moments = backfill.moments(self.task, first, last)
        except LaunchError as exc:
            self.add_error("end", str(exc))
            return cleaned
        self.moments = moments if cleaned["again"] else backfill.without_succeeded(self.task, moments)
        shown = str(len(self.moments))
        if cleaned["confirmed"] != shown or not self.moments:
            self.add_error(None, forms.ValidationError("", code="unconfirmed"))
            self.data = {**self.data.dict(), "confirmed": shown}
        return cleaned

    def render_after_template(self) -> str | SafeString:
        if self.moments is None:
            return ""
        if not self.moments:
            return self._said(_t("Nothing to do: each of these times has succeeded or is on its way."))
        words = ngettext(
            "This is {count} run, from {first} to {last}. Press the button once more to queue it.",
            "These are {count} runs, from {first} to {last}. Press the button once more to queue them.",
            len(self.moments),
        )
        zone = ZoneInfo(self.zone)
        first, last = (self.moments[place].astimezone(zone).strftime("%Y-%m-%d %H:%M") for place in (0, -1))
        return self._said(words.format(count=len(self.moments), first=first, last=last))

    def _said(self, words: str) -> SafeString:
        return format_html('<p class="exporter-banner mt-6" role="status">{}</p>', words)


BACKFILL = {
    "title": _("Backfill"),
    "description": _("A run for each planned time of the past; each day, for a task without a schedule."),
    "form_class": BackfillForm,
    "form_submit_text": _("Queue the runs"),
}
