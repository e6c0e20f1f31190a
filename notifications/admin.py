"""Channels, rules and deliveries in the admin."""

from collections.abc import Iterator
from copy import copy
from datetime import datetime
from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.actions import delete_selected
from django.core.exceptions import PermissionDenied
from django.db.models import Count, IntegerField, OuterRef, QuerySet, Subquery
from django.db.models.functions import Coalesce
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _t
from django.utils.translation import gettext_lazy as _
from unfold.admin import ModelAdmin
from unfold.decorators import action, display

from exporter_site.access import audit
from exporter_site.access.scope import ALL_SOURCES
from exporter_site.modeladmin import LogAdmin, ScopedAdmin, SubmitActionsAdmin
from exporter_site.redact import redact, remember_secret
from exporter_site.trial import Trial, TrialAdmin, faults
from notifications import reasons, sender, usage
from notifications.delivery_filters import OutcomeFilter
from notifications.forms import PREFIX, REMOVE, RuleForm, channel_form, removable
from notifications.messages import LINK_MARK, Event, event_words
from notifications.models import Channel, Delivery, NotificationRule
from notifications.states import DeliveryStatus
from notifications.transports import transports
from notifications.transports.base import ROBOT, Answer, Verdict

COLOURS = {
    DeliveryStatus.PENDING.value: "info",
    DeliveryStatus.SENDING.value: "primary",
    DeliveryStatus.SENT.value: "success",
    DeliveryStatus.RETRY.value: "warning",
    DeliveryStatus.DEAD.value: "danger",
    DeliveryStatus.CANCELLED.value: "info",
}


def verdict_words(verdict: str) -> str:
    words = {
        Verdict.ACCEPTED: _t("delivered"),
        Verdict.REFUSED: _t("refused"),
        Verdict.DEFERRED: _t("not now"),
        Verdict.LIMITED: _t("too many messages"),
        Verdict.UNKNOWN: _t("no answer, perhaps delivered"),
    }
    return words.get(Verdict(verdict), verdict)


@admin.register(Channel)
class ChannelAdmin(TrialAdmin, SubmitActionsAdmin):
    trial_seconds = 90  # a mail server may take one, and each recipient has an answer
    list_before_template = "admin/notifications/channel/empty_list.html"
    list_display = ("name", "kind_shown", "active_shown", "rules_shown", "updated_at")
    list_filter = ("kind", "is_active")
    search_fields = ("name",)
    actions = ("send_tests", "delete_selected")
    actions_submit_line = ("save_and_test",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Channel]:
        Channel.objects.of_config()  # The robot of config.yaml is seen before it is first used.
        queryset: QuerySet[Channel] = super().get_queryset(request)
        rules = NotificationRule.objects.for_user(request.user).filter(channel=OuterRef("pk")).order_by()
        count = Subquery(rules.values("channel").annotate(count=Count("pk")).values("count"), IntegerField())
        return queryset.filter(task=None, user=None).annotate(rules_count=Coalesce(count, 0))

    def add_view(self, request: HttpRequest, form_url: str = "", extra_context: Any = None) -> HttpResponse:
        """First the kind, then the form with the settings of that kind."""
        if not self.has_add_permission(request):
            raise PermissionDenied
        if request.GET.get("kind", "") in transports:
            return super().add_view(request, form_url, extra_context)  # type: ignore[no-any-return]
        context = {
            **self.admin_site.each_context(request),
            "title": _("Which kind of channel?"),
            "opts": self.model._meta,
            "kinds": transports.choices(),
        }
        return TemplateResponse(request, "admin/notifications/channel/choose_kind.html", context)

    def _kind(self, request: HttpRequest, obj: Channel | None) -> str:
        return obj.kind if obj is not None else request.GET.get("kind", "")

    def get_form(self, request: HttpRequest, obj: Channel | None = None, change: bool = False, **kwargs: Any) -> Any:
        if self._kind(request, obj) not in transports:
            return super().get_form(request, obj, change, **kwargs)
        # As declared: modelform_factory would look for the settings among the model's fields.
        return channel_form(self._kind(request, obj))

    def get_fieldsets(self, request: HttpRequest, obj: Channel | None = None) -> Any:
        kind = self._kind(request, obj)
        names: list[str] = []
        kept = removable(obj) if obj is not None and self.has_change_permission(request, obj) else []
        for setting in transports.get(kind).fields if kind in transports else ():
            names += [PREFIX + setting.name, *[REMOVE + setting.name] * (setting.name in kept)]
        if obj is not None and obj.config_managed:
            return [(None, {"fields": ("name", "kind_shown", "is_active")})]
        return [(None, {"fields": ("name", "is_active")}), (transports.label(kind), {"fields": names})]

    def get_readonly_fields(self, request: HttpRequest, obj: Channel | None = None) -> tuple[str, ...]:
        return ("kind_shown",)

    def has_change_permission(self, request: HttpRequest, obj: Channel | None = None) -> bool:
        if obj is not None and obj.config_managed:
            return False
        return bool(super().has_change_permission(request, obj))

    def has_delete_permission(self, request: HttpRequest, obj: Channel | None = None) -> bool:
        if obj is not None and obj.config_managed:
            return False
        return bool(super().has_delete_permission(request, obj))

    def form_context(self, request: HttpRequest, obj: Channel | None) -> dict[str, Any]:
        context = super().form_context(request, obj)
        if obj is not None:
            context["usage"] = usage.usage_of(obj, request.user)
            context["may_add_rule"] = request.user.has_perm("notifications.add_notificationrule")
        return context

    def delete_view(self, request: HttpRequest, object_id: str, extra_context: Any = None) -> Any:
        channel = self.get_object(request, object_id)
        lost = usage.lost_with(channel) if channel is not None else []
        return super().delete_view(request, object_id, {**(extra_context or {}), "lost": lost})

    @action(description=_("Delete selected %(verbose_name_plural)s"), permissions=["delete"])
    def delete_selected(self, request: HttpRequest, queryset: QuerySet[Channel]) -> Any:
        page = delete_selected(self, request, queryset)
        if page is not None and page.context_data is not None:
            page.context_data["lost"] = [sentence for channel in queryset for sentence in usage.lost_with(channel)]
        return page

    @display(description=_("rules"), ordering="rules_count")
    def rules_shown(self, channel: Channel) -> int:
        return getattr(channel, "rules_count", 0)

    @display(description=_("kind"), ordering="kind")
    def kind_shown(self, channel: Channel) -> str:
        kind = transports.label(channel.kind)
        return _t("{kind} · config-managed").format(kind=kind) if channel.config_managed else str(kind)

    @display(description=_("active"), boolean=True, ordering="is_active")
    def active_shown(self, channel: Channel) -> bool:
        return channel.is_active

    @action(description=_("Send a test message"), permissions=["view"])
    def send_tests(self, request: HttpRequest, queryset: QuerySet[Channel]) -> None:
        if not request.user.has_perm("notifications.change_channel"):
            messages.error(request, _t("You may not send test messages."))
            return
        for channel in queryset:
            self._test(request, channel)

    @action(description=_("Save and send a test message"))
    def save_and_test(self, request: HttpRequest, obj: Channel) -> None:
        self._test(request, obj)

    def _test(self, request: HttpRequest, channel: Channel) -> None:
        audit.record(audit.Action.TEST, channel)
        for is_sent, words in tested(channel):
            (messages.success if is_sent else messages.error)(request, words)

    def may_try(self, request: HttpRequest, obj: Channel | None) -> bool:
        if obj is not None:
            return request.user.has_perm("notifications.change_channel")
        return request.GET.get("kind", "") in transports and self.has_add_permission(request)

    def try_out(self, request: HttpRequest, obj: Channel | None) -> Trial:
        if obj is not None and not self.has_change_permission(request, obj):
            audit.record(audit.Action.TEST, obj)
            return _tried(obj)
        stored = copy(obj)
        form = self.get_form(request, obj, change=obj is not None)(request.POST, instance=obj)
        if wrong := faults(form, [name for name in form.fields if name.startswith(PREFIX)]):
            return wrong
        channel: Channel = form.instance
        for secret in channel.stored_secrets.values():
            remember_secret(secret)
        note = _t("Values that are not saved: {values}").format(values=transports.label(channel.kind))
        audit.record(audit.Action.TEST, stored, note=note)
        return _tried(channel)


def answer_words(answer: Answer) -> str:
    """Why it was not taken, what to do about it, and the other side's own words."""
    return f"{reasons.sentence(answer.reason)} {reasons.remedy(answer.reason)} {answer.text}".strip()


def _tried(channel: Channel) -> Trial:
    """Send the test message; a line for each recipient."""
    answers = sender.send_test(channel)
    taken = [name for name, answer in answers.items() if answer.verdict == Verdict.ACCEPTED]
    lines = []
    for name, answer in answers.items():
        words = _t("The test message was sent.") if answer.verdict == Verdict.ACCEPTED else answer_words(answer)
        lines.append(redact(words if name in ("", ROBOT) else f"{name}: {words}"))
    if len(taken) == len(answers):
        return Trial("good", _t("The test message was taken."), tuple(lines))
    if taken:
        return Trial("warn", _t("Some recipients did not take the test message."), tuple(lines))
    return Trial("bad", _t("The test message was not taken."), tuple(lines))


def tested(channel: Channel) -> Iterator[tuple[bool, str]]:
    """Send a test message now: for each recipient whether it was taken, and that in words."""
    for name, answer in sender.send_test(channel).items():
        whom = "" if name in ("", ROBOT) else f" {name}"
        if answer.verdict == Verdict.ACCEPTED:
            yield True, _t("“{name}”{whom}: the test message was sent.").format(name=channel, whom=whom)
        else:
            yield False, f"{channel}{whom}: {answer_words(answer)}"


@admin.register(NotificationRule)
class NotificationRuleAdmin(ScopedAdmin, ModelAdmin):  # type: ignore[misc]
    form = RuleForm
    list_display = ("channel", "task_shown", "events_shown")
    list_select_related = ("channel", "task")
    list_filter = (("channel", admin.RelatedOnlyFieldListFilter),)
    fields = ("task", "channel", "events", "template")
    autocomplete_fields = ("task",)

    def get_form(self, request: HttpRequest, obj: NotificationRule | None = None, **kwargs: Any) -> Any:
        form = super().get_form(request, obj, **kwargs)
        if "task" in form.base_fields and not request.user.has_perm(ALL_SOURCES):
            form.base_fields["task"].required = True
        return form

    @display(description=_("task"), ordering="task")
    def task_shown(self, rule: NotificationRule) -> str:
        return str(rule.task) if rule.task else _t("every task")

    @display(description=_("events"))
    def events_shown(self, rule: NotificationRule) -> str:
        return event_words(rule.events) or _t("none")


@admin.register(Delivery)
class DeliveryAdmin(ScopedAdmin, LogAdmin):
    list_display = ("id", "task_shown", "event_shown", "channel_name", "state", "recipients_short", "next_shown")
    list_filter = (OutcomeFilter, "status", "event", "possibly_duplicate")
    list_before_template = "admin/notifications/delivery/empty_list.html"
    search_fields = ("channel_name", "execution__task_name")
    list_select_related = ("execution",)
    show_full_result_count = False
    actions = ("send_again", "send_again_to_everybody", "cancel")
    fieldsets = (
        (None, {"fields": ("task_shown", "event_shown", "channel_name", "state_shown", "reason_shown", "error_shown")}),
        (_("Recipients"), {"fields": ("recipients_shown",)}),
        (_("Message"), {"fields": ("title_shown", "text_shown", "files_shown")}),
        (
            _("Details"),
            {
                "fields": (
                    ("created_at", "finished_at", "next_shown"),
                    ("attempt", "tries"),
                    "possibly_duplicate",
                    "merged",
                )
            },
        ),
    )

    def get_fieldsets(self, request: HttpRequest, obj: Delivery | None = None) -> Any:
        if obj is None or obj.event != Event.FAILURE or request.user.has_perm("tasks.view_sql"):
            return self.fieldsets
        # The text holds the database's own words, and those quote the SQL.
        return [
            (title, {"fields": tuple(name for name in options["fields"] if name != "text_shown")})
            for title, options in self.fieldsets
        ]

    def get_readonly_fields(self, request: HttpRequest, obj: Delivery | None = None) -> tuple[str, ...]:
        names: list[str] = []
        for _title, options in self.fieldsets:
            for row in options["fields"]:
                names += (row,) if isinstance(row, str) else row
        return tuple(names)

    @display(description=_("execution"))
    def task_shown(self, delivery: Delivery) -> SafeString:
        url = reverse("admin:tasks_execution_change", args=[delivery.execution_id])
        return format_html('<a href="{}" class="underline">{}</a>', url, delivery.execution)

    @display(description=_("event"), ordering="event")
    def event_shown(self, delivery: Delivery) -> str:
        return str(delivery.get_event_display())

    @display(description=_("state"), label=COLOURS, ordering="status")
    def state(self, delivery: Delivery) -> tuple[str, str]:
        return delivery.status, state_words(delivery)

    @display(description=_("state"))
    def state_shown(self, delivery: Delivery) -> str:
        return state_words(delivery)

    @display(description=_("recipients"))
    def recipients_short(self, delivery: Delivery) -> str:
        if not delivery.recipients or ROBOT in delivery.recipients:
            return "-"
        return f"{len(delivery.reached)}/{len(delivery.recipients)}"

    @display(description=_("next try"))
    def next_shown(self, delivery: Delivery) -> str:
        if delivery.is_finished:
            return "-"
        return timezone.localtime(delivery.next_at).strftime("%Y-%m-%d %H:%M:%S")

    @display(description=_("reason"))
    def reason_shown(self, delivery: Delivery) -> str:
        return delivery.reason_sentence or "-"

    @display(description=_("message of the server"))
    def error_shown(self, delivery: Delivery) -> str | SafeString:
        return format_html('<pre class="exporter-code">{}</pre>', delivery.error) if delivery.error else "-"

    @display(description=_("recipients"))
    def recipients_shown(self, delivery: Delivery) -> str | SafeString:
        return recipient_lines(delivery) or "-"

    @display(description=_("title"))
    def title_shown(self, delivery: Delivery) -> str:
        return str(delivery.payload["title"])

    @display(description=_("text"))
    def text_shown(self, delivery: Delivery) -> SafeString:
        facts = "\n".join(f"{label}: {value}" for label, value in delivery.payload["facts"])
        text = delivery.payload["text"].replace(LINK_MARK, _t("(link)")) or facts
        return format_html('<pre class="exporter-code">{}</pre>', text)

    @display(description=_("files"))
    def files_shown(self, delivery: Delivery) -> str:
        return ", ".join(file["name"] for file in delivery.payload["files"]) or "-"

    @action(description=_("Send again to those it did not reach"), permissions=["operate"])
    def send_again(self, request: HttpRequest, queryset: QuerySet[Delivery]) -> None:
        self._resend(request, queryset, everybody=False)

    @action(description=_("Send again to everybody"), permissions=["operate"])
    def send_again_to_everybody(self, request: HttpRequest, queryset: QuerySet[Delivery]) -> None:
        self._resend(request, queryset, everybody=True)

    def _resend(self, request: HttpRequest, queryset: QuerySet[Delivery], *, everybody: bool) -> None:
        count = 0
        for delivery in queryset.select_related("execution__task"):
            link = delivery.execution.link_for_messages()
            if Delivery.objects.resend(delivery, link=link, everybody=everybody):
                count += 1
                audit.record(audit.Action.RESEND, delivery)
        say_resent(request, count)

    @action(description=_("Cancel"), permissions=["operate"])
    def cancel(self, request: HttpRequest, queryset: QuerySet[Delivery]) -> None:
        cancelled = [delivery for delivery in queryset if Delivery.objects.cancel(delivery.pk)]
        for delivery in cancelled:
            audit.record(audit.Action.CANCEL, delivery)
        count = len(cancelled)
        messages.success(request, _t("{count} messages cancelled.").format(count=count))

    def has_operate_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("tasks.run_exporttask")


def say_resent(request: HttpRequest, count: int) -> None:
    if count:
        messages.success(request, _t("{count} messages are sent again.").format(count=count))
    else:
        messages.warning(request, _t("Nothing to send: everybody has it, or it is on its way."))


def state_words(delivery: Delivery) -> str:
    words = [_t("partly delivered") if delivery.is_partial else str(delivery.get_status_display())]
    words += [_t("in a digest")] * delivery.merged + [_t("possibly sent twice")] * delivery.possibly_duplicate
    return " · ".join(words)


def recipient_lines(delivery: Delivery) -> str | SafeString:
    """A line for each recipient: who, what became of it, when, and why."""
    lines = (
        (
            delivery.channel_name if name in ("", ROBOT) else name,
            verdict_words(entry["verdict"]),
            timezone.localtime(datetime.fromisoformat(entry["at"])).strftime("%m-%d %H:%M:%S"),
            reasons.sentence(entry["reason"]) if entry["reason"] else "",
            entry["text"],
        )
        for name, entry in delivery.recipients.items()
    )
    return format_html_join("", "{} · {} · {} {} {}<br>", lines)
