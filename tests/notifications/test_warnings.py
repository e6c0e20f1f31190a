"""A message that was given up is announced, and so is the next one, whenever that is."""

import threading
from typing import Any

import pytest
from django.conf import LazySettings
from django.db import connection, transaction

from notifications import messages, sender
from notifications.models import Channel, Delivery, NotificationRule
from notifications.outbox import Outbox
from notifications.states import DeliveryStatus
from tasks.models import Execution
from tests.factories import make_user
from tests.notifications.runs import A, B, C, deliver, mails_to, run_ended
from tests.servers.mail import MailServer, configure, read

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("own_directories")]


def run_with_two_channels() -> tuple[Execution, Delivery, Delivery]:
    """A run that owes a mail to B, one to C, and its owner hears when they do not arrive."""
    channel = Channel(name="名单", kind="email")
    channel.set_settings({"recipients": [C]})
    channel.save()
    NotificationRule.objects.create(channel=channel)
    execution = run_ended(email_recipients=[B], owner=make_user(email="owner@example.com"))
    return execution, Delivery.objects.exclude(channel=channel).get(), Delivery.objects.get(channel=channel)


def give_up(row: Delivery) -> None:
    with transaction.atomic():
        Delivery.objects.filter(pk=row.pk).update(status=DeliveryStatus.DEAD, reason="recipient_refused")
        row.refresh_from_db()
        sender.warn_of(row)


def told(payload: dict[str, Any]) -> str:
    return str(payload["data"]["channel"])


def test_what_is_lost_while_the_warning_is_on_its_way_is_told_next(settings: LazySettings) -> None:
    with MailServer() as server:
        configure(settings, server)
        _execution, of_b, of_c = run_with_two_channels()
        give_up(of_b)
        warning = Delivery.objects.get(event="undelivered")
        assert Delivery.objects.claim([warning], worker="elsewhere:1:another")
        give_up(of_c)
        warning.refresh_from_db()
        assert of_c.channel_name not in told(warning.payload)
        sender.send(sender.route_of(warning.channel), [warning])
        deliver()
        assert mails_to(server) == {"owner@example.com": 2}
        first, second = (read(mail)[0] for mail in server.log.mails)
        assert of_b.channel_name in first
        assert of_c.channel_name not in first
        assert of_b.channel_name in second
        assert of_c.channel_name in second


def test_what_is_lost_while_the_warning_fails_is_told_by_its_next_try(settings: LazySettings) -> None:
    with MailServer() as server:
        configure(settings, server)
        server.say("owner@example.com", "451 4.2.0 later")
        _execution, of_b, of_c = run_with_two_channels()
        give_up(of_b)
        warning = Delivery.objects.get(event="undelivered")
        assert Delivery.objects.claim([warning], worker="elsewhere:1:another")
        give_up(of_c)
        warning.refresh_from_db()
        sender.send(sender.route_of(warning.channel), [warning])
        deliver()
        (mail,) = server.log.mails
        assert of_c.channel_name in read(mail)[0]


def test_one_that_was_told_already_is_not_told_twice(settings: LazySettings) -> None:
    with MailServer() as server:
        configure(settings, server)
        _execution, of_b, of_c = run_with_two_channels()
        give_up(of_b)
        give_up(of_c)
        deliver()
        deliver()
        assert mails_to(server) == {"owner@example.com": 1}


def test_a_channel_that_cannot_be_used_warns_of_nothing_and_another_does(settings: LazySettings) -> None:
    """One of an unknown kind: its message is given up, and so must a warning in it never keep another from its end."""
    with MailServer() as server:
        configure(settings, server)
        unknown = Channel.objects.create(name="旧插件", kind="pigeon")
        robot = Channel.objects.create(name="空", kind="dingtalk")
        left = Channel.objects.of_user(make_user(email="left@example.com", is_active=False))
        other = Channel(name="名单", kind="email")
        other.set_settings({"recipients": [A]})
        other.save()
        server.say(B, "550 5.1.1 no such user")
        run_ended(email_recipients=[B])
        row = Delivery.objects.get()
        Delivery.objects.update(payload={**row.payload, "alerts": [unknown.pk, robot.pk, left.pk, other.pk]})
        deliver()
        row.refresh_from_db()
        assert (row.status, row.reason) == (DeliveryStatus.DEAD, "recipient_refused")
        assert mails_to(server) == {A: 1}


def test_a_warning_that_cannot_be_made_keeps_no_message_from_its_end(
    settings: LazySettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with MailServer() as server:
        configure(settings, server)
        server.say(B, "550 5.1.1 no such user")
        run_ended(email_recipients=[B], owner=make_user(email="owner@example.com"))
        monkeypatch.setattr(messages, "undelivered", lambda *args: 1 / 0)
        Outbox(threads=0).deliver()
        assert Delivery.objects.get().status == DeliveryStatus.DEAD


@pytest.mark.django_db(transaction=True)
def test_two_senders_that_give_up_at_once_tell_of_both() -> None:
    _execution, of_b, of_c = run_with_two_channels()
    begun, go_on = threading.Event(), threading.Event()

    def first() -> None:
        with transaction.atomic():
            give_up(of_b)
            begun.set()
            go_on.wait(10)
        connection.close()

    def second() -> None:
        assert begun.wait(10)
        give_up(of_c)
        connection.close()

    threads = [threading.Thread(target=first), threading.Thread(target=second)]
    for thread in threads:
        thread.start()
    threads[1].join(1)
    go_on.set()
    for thread in threads:
        thread.join(30)
    warning = Delivery.objects.get(event="undelivered")
    assert of_b.channel_name in told(warning.payload)
    assert of_c.channel_name in told(warning.payload)
