"""Trying out a form of the admin as it stands, before it is saved: the buttons of templates/admin/trial.html."""

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from django import forms
from django.core.exceptions import NON_FIELD_ERRORS, PermissionDenied
from django.http import Http404, HttpRequest, JsonResponse
from django.urls import path, reverse
from django.utils.translation import gettext as _
from django.views.decorators.http import require_POST

from exporter_site.modeladmin import FormContextAdmin


@dataclass(frozen=True, slots=True)
class Trial:
    """What came of it, as static/trial.js shows it. All of it is text, never markup.

    `state`: good, warn or bad. `fields`: what must be corrected first, by the names of the form's fields.
    """

    state: str
    title: str
    lines: tuple[str, ...] = ()
    fields: Mapping[str, list[str]] = field(default_factory=dict)


def faults(form: forms.BaseForm, names: Iterable[str]) -> Trial | None:
    """What must be corrected in the fields `names` before anything is tried; None when nothing must. What is wrong with
    other fields, such as a name that is missing, can wait."""
    wrong = {name: [*map(str, form.errors[name])] for name in names if name in form.errors}
    whole = tuple(map(str, form.errors.get(NON_FIELD_ERRORS, ())))
    if not wrong and not whole:
        return None
    return Trial("bad", _("Not tried: correct the marked fields first."), whole, wrong)


class TrialAdmin(FormContextAdmin):
    """A model admin whose page has such a button. `trial_seconds`: how long the page waits for what comes of it."""

    trial_seconds = 30

    @abstractmethod
    def may_try(self, request: HttpRequest, obj: Any) -> bool:
        """Whether the user may try a new object (`obj` is None), or this one."""

    @abstractmethod
    def try_out(self, request: HttpRequest, obj: Any) -> Trial:
        """Try what the form in request.POST says of `obj`, which is not saved. Puts it on record."""

    def get_urls(self) -> Any:
        view = self.admin_site.admin_view(require_POST(self._try_view))  # type: ignore[attr-defined]  # of every model admin
        name = self._trial_name
        own = [path("try/", view, name=f"{name}_new"), path("<int:object_id>/try/", view, name=name)]
        return own + super().get_urls()  # type: ignore[misc]

    @property
    def _trial_name(self) -> str:
        opts = self.model._meta  # type: ignore[attr-defined]
        return f"{opts.app_label}_{opts.model_name}_try"

    def _try_view(self, request: HttpRequest, object_id: int | None = None) -> JsonResponse:
        obj = None
        if object_id is not None:
            if not self.has_view_permission(request):  # type: ignore[attr-defined]
                raise PermissionDenied
            obj = self.get_queryset(request).filter(pk=object_id).first()  # type: ignore[attr-defined]
            if obj is None:
                raise Http404
        if not self.may_try(request, obj):
            raise PermissionDenied
        return JsonResponse(asdict(self.try_out(request, obj)))

    def form_context(self, request: HttpRequest, obj: Any) -> dict[str, Any]:
        context = super().form_context(request, obj)
        if self.may_try(request, obj):
            place = f"admin:{self._trial_name}"
            url = reverse(place, args=[obj.pk]) if obj is not None else reverse(f"{place}_new")
            query = request.META.get("QUERY_STRING", "")
            context["trial"] = {"url": f"{url}?{query}" if query else url, "seconds": self.trial_seconds}
        return context
