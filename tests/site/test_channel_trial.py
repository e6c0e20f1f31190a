"""Channels and deliveries in the admin: tried before they are saved, shown with their rules, quick with many rows."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.conf import LazySettings
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from exporter_site.access.models import AuditEvent
from notifications.models import Channel, Delivery, NotificationRule, clean_settings
from notifications.states import DeliveryStatus
from tests.access.world import form_of
from tests.api.conftest import robots  # noqa: F401  # a fixture
from tests.factories import make_admin, make_execution, make_task, make_user
from tests.servers.mail import MailServer, configure
from tests.servers.robots import Robots, says

pytestmark = pytest.mark.django_db

LIST = reverse("admin:notifications_channel_changelist")
TRY_NEW = reverse("admin:notifications_channel_try_new")
DELIVERIES = reverse("admin:notifications_delivery_changelist")
NASTY = "<script>window.hacked=1</script>"


def logged_in(user: Any) -> Client:
    client = Client(headers={"accept-language": "en"})
    client.force_login(user)
    return client


@pytest.fixture
def browser() -> Client:
    return logged_in(make_admin())


@pytest.fixture
def mail_server(settings: LazySettings) -> Iterator[MailServer]:
    with MailServer() as server:
        configure(settings, server)
        yield server


def make_channel(name: str = "hook") -> Channel:
    channel = Channel(name=name, kind="webhook")
    channel.set_settings(clean_settings("webhook", {"url": "https://hooks.example.com/a"}))
    channel.save()
    return channel


def place(view: str, channel: Channel) -> str:
    return reverse(f"admin:notifications_channel_{view}", args=[channel.pk])


def test_each_recipient_has_its_answer_in_words(browser: Client, mail_server: MailServer) -> None:
    mail_server.say("b@x.cn", "550 5.1.1 no such user")
    form = {"is_active": "on", "setting_recipients": "a@x.cn, b@x.cn"}  # not even a name yet
    found = browser.post(f"{TRY_NEW}?kind=email", form).json()
    assert (found["state"], found["fields"]) == ("warn", {})
    assert "a@x.cn: The test message was sent." in found["lines"]
    assert any(line.startswith("b@x.cn: ") and "no such user" in line for line in found["lines"])
    assert [mail.recipients for mail in mail_server.log.mails] == [("a@x.cn",)]
    assert not Channel.objects.exists()
    assert AuditEvent.objects.filter(action="test").count() == 1


def test_a_robot_is_tried_before_it_is_saved(browser: Client, robots: Robots) -> None:  # noqa: F811
    robot = robots.add("dingtalk", secret="SECcanary0451")
    form = {"is_active": "on", "setting_webhook_url": robot.url, "setting_message_type": "markdown"}
    refused = browser.post(f"{TRY_NEW}?kind=dingtalk", form | {"setting_secret": "SECwrong"}).json()
    assert refused["state"] == "bad"
    assert "signature" in str(refused["lines"])
    taken = browser.post(f"{TRY_NEW}?kind=dingtalk", form | {"setting_secret": "SECcanary0451"}).json()
    assert taken["state"] == "good"
    robots.script(says(310000, "SECcanary0451 sign not match"))
    assert (
        "canary"
        not in browser.post(f"{TRY_NEW}?kind=dingtalk", form | {"setting_secret": "SECcanary0451"}).content.decode()
    )


def test_what_is_wrong_is_said_at_its_field_and_nothing_is_sent(browser: Client) -> None:
    found = browser.post(f"{TRY_NEW}?kind=webhook", {"setting_url": "http://127.0.0.1/"}).json()
    assert (found["state"], set(found["fields"])) == ("bad", {"setting_url"})
    assert not AuditEvent.objects.filter(action="test").exists()


def test_trying_changes_nothing_that_is_stored(browser: Client, robots: Robots) -> None:  # noqa: F811
    channel = make_channel()
    before = Channel.objects.values().get()
    robot = robots.add("webhook")
    form = form_of(browser, place("change", channel)) | {"name": "new", "setting_url": robot.url}
    assert browser.post(place("try", channel), form).json()["state"] == "good"
    assert Channel.objects.values().get() == before


def test_who_may_not_change_channels_sends_nothing() -> None:
    client = logged_in(make_user(role="operator"))
    channel = make_channel()
    assert client.post(place("try", channel)).status_code == 403
    assert "data-trial" not in client.get(place("change", channel)).content.decode()


def test_the_rules_that_lead_to_it_are_listed_and_go_with_it(browser: Client) -> None:
    channel = make_channel(NASTY)
    task = make_task(name="daily orders")
    NotificationRule.objects.create(task=task, channel=channel, events=["failure"])
    NotificationRule.objects.create(channel=channel)
    page = browser.get(place("change", channel)).content.decode()
    section = page[page.index('id="usage"') :]
    assert reverse("admin:tasks_exporttask_change", args=[task.pk]) in section
    assert "every task" in section
    chosen = {"action": "delete_selected", "_selected_action": [channel.pk]}
    for question in (browser.get(place("delete", channel)), browser.post(LIST, chosen)):
        text = question.content.decode()
        assert "2 rules send to" in text
        assert "daily orders" in text
        assert NASTY not in text
    assert browser.post(LIST, chosen | {"post": "yes"}).status_code == 302
    assert not Channel.objects.exists()


def test_a_page_shows_fifty_rules_in_as_many_queries_as_one(browser: Client) -> None:
    channel = make_channel()
    queries = []
    for count in (1, 60):
        for _number in range(count):
            NotificationRule.objects.create(task=make_task(), channel=channel)
        browser.get(place("change", channel))
        with CaptureQueriesContext(connection) as captured:
            page = browser.get(place("change", channel))
        queries.append(len(captured))
    assert queries[0] == queries[1]
    assert (len(page.context["usage"].rows), page.context["usage"].total) == (50, 61)
    assert browser.get(page.context["usage"].url).context["cl"].result_count == 61


def test_a_rule_of_what_is_not_granted_is_not_told() -> None:
    channel, task = make_channel(), make_task(name="hidden name")
    NotificationRule.objects.create(task=task, channel=channel)
    NotificationRule.objects.create(channel=channel)
    client = logged_in(make_user(role="operator"))
    page = client.get(place("change", channel))
    assert "hidden name" not in page.content.decode()
    assert page.context["usage"].total == 0
    assert [row.rules_count for row in client.get(LIST).context["cl"].result_list] == [0]


def test_the_list_of_channels_counts_rules_in_a_constant_number_of_queries(browser: Client) -> None:
    queries = []
    for count in (10, 200):
        channels = [Channel(name=f"{count} {number}", kind="email") for number in range(count)]
        Channel.objects.bulk_create(channels)
        named = Channel.objects.filter(name__startswith=f"{count} ")
        NotificationRule.objects.bulk_create(NotificationRule(channel=channel) for channel in named)
        browser.get(LIST)
        with CaptureQueriesContext(connection) as captured:
            page = browser.get(LIST)
        queries.append(len(captured))
    assert queries[0] == queries[1]
    assert {row.rules_count for row in page.context["cl"].result_list} == {1}


# ---- Deliveries


def make_deliveries(count: int, status: DeliveryStatus = DeliveryStatus.SENT) -> None:
    execution = make_execution()
    now = timezone.now()
    Delivery.objects.bulk_create(
        Delivery(
            execution=execution,
            event="success",
            channel_name="hook",
            status=status,
            key=f"{execution.pk}-{number}",
            payload={"title": "t", "text": "x", "facts": [], "files": []},
            next_at=now,
            finished_at=now,
        )
        for number in range(count)
    )


def test_ten_thousand_deliveries_cost_as_many_queries_as_ten(browser: Client) -> None:
    queries = []
    for count in (10, 9_990):
        make_deliveries(count)
        pages = (
            DELIVERIES,
            f"{DELIVERIES}?outcome=sent&q=hook",
            reverse("admin:notifications_delivery_change", args=[Delivery.objects.latest("pk").pk]),
        )
        for url in pages:
            browser.get(url)
        with CaptureQueriesContext(connection) as captured:
            for url in pages:
                assert browser.get(url).status_code == 200
        queries.append(len(captured))
    assert Delivery.objects.count() == 10_000
    assert queries[0] == queries[1]


@pytest.mark.parametrize(
    ("outcome", "count"), [("lost-lately", 1), ("lost", 3), ("open", 4), ("sent", 5), ("nonsense", 12)]
)
def test_the_filter_asks_what_people_want_to_know(browser: Client, outcome: str, count: int) -> None:
    make_deliveries(2, DeliveryStatus.DEAD)
    Delivery.objects.update(finished_at=timezone.now() - timedelta(days=2))
    for number, status in (
        (1, DeliveryStatus.DEAD),
        (3, DeliveryStatus.PENDING),
        (1, DeliveryStatus.RETRY),
        (5, DeliveryStatus.SENT),
    ):
        make_deliveries(number, status)
    page = browser.get(DELIVERIES, {"outcome": outcome})
    assert page.context["cl"].result_count == count
    assert "not delivered in the last 24 hours" in page.content.decode()
