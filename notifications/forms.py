"""The form of a channel, made from what its transport declares; and that of a rule."""

from typing import Any

from django import forms
from django.core.exceptions import ValidationError
from django.utils.text import format_lazy
from django.utils.translation import gettext as _t
from django.utils.translation import gettext_lazy as _
from unfold.widgets import (
    UnfoldAdminPasswordWidget,
    UnfoldAdminSelectWidget,
    UnfoldAdminTextareaWidget,
    UnfoldAdminTextInputWidget,
    UnfoldBooleanSwitchWidget,
)

from notifications.messages import ANNOUNCED
from notifications.models import Channel, NotificationRule, all_events, clean_settings
from notifications.transports import transports
from notifications.transports.base import Setting

PREFIX = "setting_"
REMOVE = "remove_"  # before the name of a setting: its stored secret shall go


class SecretFormField(forms.CharField):
    """A stored secret: never sent to the browser; left empty, the stored one stays (the form's clean_… sees to that)."""

    def __init__(self, *, help_text: Any = "", **options: Any) -> None:
        words = _("Stored encrypted and never shown again. Leave empty to keep the stored one.")
        widget = UnfoldAdminPasswordWidget(attrs={"autocomplete": "new-password"})
        # Whether one is needed is known only with the stored one.
        options |= {"required": False, "widget": widget}
        super().__init__(help_text=format_lazy("{} {}", help_text, words) if help_text else words, **options)


def form_field(setting: Setting) -> forms.Field:
    common: dict[str, Any] = {"label": setting.label, "help_text": setting.help, "required": setting.required}
    if setting.kind == "secret":
        return SecretFormField(label=setting.label, help_text=setting.help)
    if setting.kind == "flag":
        return forms.BooleanField(**common | {"required": False}, widget=UnfoldBooleanSwitchWidget)
    if setting.kind == "choice":
        return forms.ChoiceField(**common, choices=setting.choices, widget=UnfoldAdminSelectWidget)
    if setting.kind == "list":
        return forms.CharField(**common, widget=UnfoldAdminTextareaWidget(attrs={"rows": 2}))
    return forms.CharField(**common, widget=UnfoldAdminTextInputWidget)


class ChannelForm(forms.ModelForm):  # type: ignore[type-arg]
    """`kind` is that of the instance; channel_form() adds the fields of its settings."""

    class Meta:
        model = Channel
        fields = ("name", "is_active")
        widgets = {"name": UnfoldAdminTextInputWidget, "is_active": UnfoldBooleanSwitchWidget}

    kind = ""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.instance.pk is None:
            self.instance.kind = self.kind
        for setting in transports.get(self.kind).fields:
            if setting.kind != "secret":
                value = self.instance.settings.get(setting.name, setting.empty)
                shown = ", ".join(value) if isinstance(value, list) else value
                self.fields[PREFIX + setting.name].initial = shown
        for name in removable(self.instance):
            self.fields[REMOVE + name] = forms.BooleanField(
                label=_t("Remove “{name}”").format(name=_label(self.kind, name)),
                required=False,
                widget=UnfoldBooleanSwitchWidget,
                help_text=_("The stored one is forgotten when this is saved."),
            )
        if "name" in self.fields:
            self.fields["name"].required = True

    def clean(self) -> dict[str, Any] | None:
        cleaned = super().clean()
        values: dict[str, Any] = {}
        for setting in transports.get(self.kind).fields:
            value = self.cleaned_data.get(PREFIX + setting.name, setting.empty)
            if value or setting.kind != "secret" or self.cleaned_data.get(REMOVE + setting.name):
                values[setting.name] = value  # a secret that is left out is the stored one
        try:
            values = self.instance.with_stored_secrets(values)
            self.instance.set_settings(clean_settings(self.kind, values))
        except ValidationError as exc:
            for name, words in exc.message_dict.items():
                self.add_error(PREFIX + name, words)
        return cleaned


def removable(channel: Channel) -> list[str]:
    """The stored secrets that the channel can do without."""
    stored = channel.stored_secrets if channel.pk else {}
    return [
        setting.name for setting in channel.transport_class.fields if setting.name in stored and not setting.required
    ]


def _label(kind: str, name: str) -> str:
    return next(str(setting.label) for setting in transports.get(kind).fields if setting.name == name)


def channel_form(kind: str) -> type[ChannelForm]:
    """The form class for channels of `kind`."""
    fields = {PREFIX + setting.name: form_field(setting) for setting in transports.get(kind).fields}
    return type("ChannelForm", (ChannelForm,), {**fields, "kind": kind})


class RuleForm(forms.ModelForm):  # type: ignore[type-arg]
    events = forms.MultipleChoiceField(
        label=_("Events"),
        choices=ANNOUNCED,
        initial=all_events,
        required=False,
        widget=forms.CheckboxSelectMultiple,
        help_text=_("None: this channel hears nothing."),
    )

    class Meta:
        model = NotificationRule
        fields = "__all__"  # noqa: DJ007  # the admin names them
        widgets = {"template": UnfoldAdminTextareaWidget(attrs={"rows": 4, "class": "exporter-code"})}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if "channel" in self.fields:
            self.fields["channel"].queryset = Channel.objects.shared()  # type: ignore[attr-defined]
