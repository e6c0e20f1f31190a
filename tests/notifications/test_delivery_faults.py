"""What may happen between two statements of a sender: edits, stale rows, a database that is away, clocks that jump."""

import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.conf import LazySettings
from django.db import OperationalError, connection
from django.utils import timezone

from exporter_site.config import Notifications
from notifications import outbox, sender
from notifications.models import Channel, Delivery, SendingLimit
from notifications.outbox import Outbox
from notifications.states import DeliveryStatus
from tasks import announce
from tasks.models import DownloadLink, ExportTask
from tests.factories import make_task, make_user, paths_of
from tests.notifications.runs import A, B, deliver, mails_to, run_ended
from tests.servers.mail import Fault, MailServer, configure, read
from tests.servers.robots import Robots, answers, says

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("own_directories")]


def allow(settings: LazySettings, server: Robots) -> None:
    """Messages may go to `server`."""
    lists = Notifications(private_hosts=[server.place])
    settings.CONFIG = settings.CONFIG.model_copy(update={"notifications": lists})


def mail_channel(*recipients: str, name: str = "名单") -> Channel:
    channel = Channel(name=name, kind="email")
    channel.set_settings({"recipients": list(recipients)})
    channel.save()
    return channel


def robot_channel(url: str, name: str = "群") -> Channel:
    channel = Channel(name=name, kind="dingtalk")
    channel.set_settings({"webhook_url": url})
    channel.save()
    return channel


def owe(channel: Channel, count: int = 1, **payload: Any) -> list[Delivery]:
    """Messages to `channel` about runs of their own; `payload` is put over what is usual."""
    made = []
    for _number in range(count):
        execution = run_ended()
        markup = channel.transport_class.markup
        usual = announce.payload_of(execution, "success", "", markup, execution.link_for_messages())
        Delivery.objects.owe(execution.pk, "success", channel, usual | payload)
        made.append(Delivery.objects.get(execution=execution))
    return made


def after_the_first(monkeypatch: pytest.MonkeyPatch, action: Callable[[], Any]) -> None:
    """Have `action` done once, as soon as one message has been sent."""
    todo = [action]

    def send(*args: Any) -> float:
        wait = sender.send(*args)
        if todo:
            todo.pop()()
        return wait

    monkeypatch.setattr(outbox, "send", send)


class TestEditsInFlight:
    def test_a_channel_that_is_switched_off_sends_nothing_more(
        self, settings: LazySettings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with MailServer() as server:
            configure(settings, server)
            rows = owe(mail_channel(A), 3)
            after_the_first(monkeypatch, lambda: Channel.objects.update(is_active=False))
            Outbox(threads=0).deliver()
            assert mails_to(server) == {A: 1}
            states = Delivery.objects.filter(pk__in=[row.pk for row in rows]).order_by("id")
            assert [row.reason for row in states] == ["", "channel_inactive", "channel_inactive"]

    def test_who_is_taken_off_the_list_gets_nothing_more(
        self, settings: LazySettings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with MailServer() as server:
            configure(settings, server)
            task = make_task(email_recipients=[A, B])
            for _number in range(3):
                execution = run_ended()
                payload = announce.payload_of(execution, "success", "", "plain", None)
                Delivery.objects.owe(execution.pk, "success", Channel.objects.of_task(task, "email"), payload)
            after_the_first(monkeypatch, lambda: ExportTask.objects.update(email_recipients=[A]))
            deliver()
            assert mails_to(server) == {A: 3, B: 1}

    def test_a_channel_that_is_deleted_sends_nothing_more(
        self, settings: LazySettings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with Robots() as server:
            allow(settings, server)
            owe(robot_channel(server.add("dingtalk").url), 3)
            after_the_first(monkeypatch, lambda: Channel.objects.all().delete())
            deliver()
            assert len(server.accepted) == 1
            assert [row.reason for row in Delivery.objects.order_by("id")] == ["", *["channel_deleted"] * 2]

    def test_another_robot_is_held_to_its_own_limit(
        self, settings: LazySettings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with Robots() as server:
            allow(settings, server)
            old, new = server.add("dingtalk"), server.add("dingtalk")
            channel = robot_channel(old.url)
            owe(channel, 3)

            def edit() -> None:
                channel.set_settings({"webhook_url": new.url})
                channel.save()

            after_the_first(monkeypatch, edit)
            deliver()
            assert [message.token for message in server.accepted] == [old.token, new.token, new.token]
            assert sorted(len(limit.times) for limit in SendingLimit.objects.all()) == [1, 2]

    def test_an_owner_who_has_left_gets_no_file(self, settings: LazySettings) -> None:
        with MailServer() as server:
            configure(settings, server)
            owner = make_user(email="owner@example.com")
            owe(Channel.objects.of_user(owner))
            owner.is_active = False
            owner.save()
            deliver()
            assert not server.log.mails
            row = Delivery.objects.get()
            assert (row.status, row.reason) == (DeliveryStatus.DEAD, "channel_inactive")


class TestStaleRows:
    """A sender may have read its rows minutes ago."""

    def test_what_was_cancelled_and_sent_again_goes_out_as_it_is_now(self) -> None:
        execution = run_ended(email_recipients=[A])
        stale = Delivery.objects.get()
        assert Delivery.objects.cancel(stale.pk)
        assert announce.resend(execution, everybody=True)
        assert not Delivery.objects.claim([stale], worker="elsewhere:1:another")
        assert Delivery.objects.claim([Delivery.objects.get()], worker="elsewhere:1:another")

    def test_a_page_that_is_old_sends_nothing_again(self) -> None:
        execution = run_ended(email_recipients=[A])
        Delivery.objects.update(status=DeliveryStatus.DEAD)
        stale = Delivery.objects.get()
        assert announce.resend(execution)
        assert Delivery.objects.cancel(stale.pk)
        assert not Delivery.objects.resend(stale, link=None)
        assert len(Delivery.objects.get().history) == 1

    def test_two_losses_at_once_are_both_told(self) -> None:
        """The sender of the warning has read it before the second loss was added."""
        row = owe(mail_channel(A))[0]
        stale = Delivery.objects.get(pk=row.pk)
        assert Delivery.objects.amend(row, {**row.payload, "title": "两条"})
        assert not Delivery.objects.claim([stale], worker="elsewhere:1:another")


class TestPayloadsOfAnotherVersion:
    def test_one_that_lacks_what_is_new_is_sent_all_the_same(self, settings: LazySettings) -> None:
        with MailServer() as server:
            configure(settings, server)
            (row,) = owe(mail_channel(A))
            Delivery.objects.update(payload={"title": "导出完成", "text": "好了", "number": 7})
            deliver()
            assert "好了" in read(server.log.mails[0])[0]
            row.refresh_from_db()
            assert row.status == DeliveryStatus.SENT

    def test_one_that_cannot_be_read_is_given_up_and_nobody_says_that_it_was_sent(self, settings: LazySettings) -> None:
        with MailServer() as server:
            configure(settings, server, retry_attempts=2)
            channel = mail_channel(A)
            (bad,) = owe(channel, files=["orders.xlsx"])
            (good,) = owe(channel)
            for _round in range(3):
                deliver()
            assert mails_to(server) == {A: 1}
            bad.refresh_from_db()
            good.refresh_from_db()
            assert good.status == DeliveryStatus.SENT
            assert (bad.status, bad.reason, bad.tries) == (DeliveryStatus.DEAD, "internal_error", 2)
            assert (bad.answer_lost, bad.possibly_duplicate) == (False, False)

    def test_one_that_cannot_be_read_keeps_no_digest_from_going_out(self, settings: LazySettings) -> None:
        with Robots() as server:
            allow(settings, server)
            channel = robot_channel(server.add("dingtalk").url)
            (bad,) = owe(channel, files=["orders.xlsx"])
            others = owe(channel, 12)
            deliver()
            bad.refresh_from_db()
            assert (bad.status, bad.reason) == (DeliveryStatus.RETRY, "internal_error")
            assert all(f"#{row.payload['number']}`" in "".join(server.texts()) for row in others)

    def test_one_that_killed_its_senders_does_not_stop_the_reaper(self) -> None:
        channel = mail_channel(A)
        bad, good = owe(channel, 2)
        alerts = [mail_channel(B, name="值班").pk]
        Delivery.objects.filter(pk=bad.pk).update(payload={"alerts": alerts}, tries=9)
        for row in Delivery.objects.all():
            assert Delivery.objects.claim([row], worker="elsewhere:1:another")
        box = Outbox(threads=0)
        box.reap()
        box._seen = {pk: (state, since - outbox.LEASE) for pk, (state, since) in box._seen.items()}
        assert box.reap() == 2
        good.refresh_from_db()
        assert good.status == DeliveryStatus.RETRY
        assert Delivery.objects.get(event="undelivered").channel_id == alerts[0]


class TestDatabaseAway:
    def test_senders_that_could_not_show_that_they_live_are_not_taken_for_dead(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (row,) = owe(mail_channel(A))
        assert Delivery.objects.claim([row], worker="elsewhere:1:another")
        box, now = Outbox(threads=0), [1000.0]
        monkeypatch.setattr(time, "monotonic", lambda: now[0])
        assert box.reap() == 0
        with monkeypatch.context() as away:
            away.setattr(Delivery.objects, "sending", lambda: _raise(OperationalError("gone")))
            for _look in range(40):
                now[0] += 2
                with pytest.raises(OperationalError):
                    box.reap()
        now[0] += 2
        assert box.reap() == 0
        row.refresh_from_db()
        assert row.status == DeliveryStatus.SENDING

    def test_what_was_answered_is_not_forgotten_for_minutes(
        self, settings: LazySettings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A database server that was killed may take minutes to come back."""
        slept: list[float] = []
        store = Delivery.objects.settle

        def settle(*args: Any, **fields: Any) -> bool:
            if sum(slept) < 300:
                raise OperationalError("server has gone away")
            return bool(store(*args, **fields))

        monkeypatch.setattr(time, "sleep", slept.append)
        monkeypatch.setattr(connection, "close", lambda: None)
        monkeypatch.setattr(Delivery.objects, "settle", settle)
        with MailServer() as server:
            configure(settings, server)
            owe(mail_channel(A))
            deliver()
            assert mails_to(server) == {A: 1}
            assert Delivery.objects.get().status == DeliveryStatus.SENT

    def test_a_channel_is_not_blamed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Channel, "transport", lambda self: _raise(OperationalError("gone")))
        with pytest.raises(OperationalError):
            sender.route_of(mail_channel(A))


def _raise(exc: Exception) -> None:
    raise exc


class TestClocks:
    def test_a_clock_that_was_set_back_keeps_nothing_waiting(self, settings: LazySettings) -> None:
        with MailServer() as server:
            configure(settings, server)
            new, again, soon = owe(mail_channel(A), 3)
            year = timezone.now() + timedelta(days=365)
            Delivery.objects.filter(pk=new.pk).update(next_at=year)
            Delivery.objects.filter(pk=again.pk).update(status=DeliveryStatus.RETRY, next_at=year)
            later = timezone.now() + timedelta(minutes=10)
            Delivery.objects.filter(pk=soon.pk).update(status=DeliveryStatus.RETRY, next_at=later)
            Outbox(threads=0).deliver()
            states = dict(Delivery.objects.values_list("pk", "status"))
            assert states == {
                new.pk: DeliveryStatus.SENT,
                again.pk: DeliveryStatus.SENT,
                soon.pk: DeliveryStatus.RETRY,
            }

    def test_a_delay_of_config_longer_than_usual_is_waited_for(self, settings: LazySettings) -> None:
        with MailServer() as server:
            configure(settings, server, retry_delay=86_400)
            (row,) = owe(mail_channel(A))
            later = timezone.now() + timedelta(hours=23)
            Delivery.objects.filter(pk=row.pk).update(status=DeliveryStatus.RETRY, next_at=later)
            assert Outbox(threads=0).deliver() == 0

    def test_a_robot_that_was_left_alone_is_not_left_alone_for_days(self) -> None:
        SendingLimit.objects.create(key="robot", blocked_until=timezone.now() + timedelta(days=3))
        assert SendingLimit.objects.admit("robot", 18) == 0

    def test_messages_before_the_clock_was_set_back_count(self) -> None:
        ahead = time.time() + 3600
        SendingLimit.objects.create(key="robot", times=[ahead + number for number in range(18)])
        assert 0 < SendingLimit.objects.admit("robot", 18) <= 60
        limit = SendingLimit.objects.get()
        assert max(limit.times) <= time.time() + 1
        SendingLimit.objects.update(times=[moment - 61 for moment in limit.times])  # A minute later.
        assert SendingLimit.objects.admit("robot", 18) == 0

    def test_what_is_sent_again_after_days_loses_no_try_to_a_limit(self, settings: LazySettings) -> None:
        with Robots() as server:
            allow(settings, server)
            (row,) = owe(robot_channel(server.add("dingtalk").url))
            old = timezone.now() - timedelta(days=5)
            Delivery.objects.filter(pk=row.pk).update(status=DeliveryStatus.DEAD, created_at=old)
            assert announce.resend(row.execution)
            server.script(says(130101, "send too fast"))
            deliver()
            row.refresh_from_db()
            assert (row.status, row.tries) == (DeliveryStatus.RETRY, 0)


class TestLinks:
    def test_a_link_that_expired_while_the_message_waited_is_replaced(self, settings: LazySettings) -> None:
        with MailServer() as server:
            configure(settings, server)
            owe(mail_channel(A))
            old = timezone.now() - timedelta(days=8)
            Delivery.objects.update(created_at=old)
            DownloadLink.objects.update(expires_at=timezone.now() - timedelta(hours=1))
            deliver()
            (valid,) = DownloadLink.objects.valid()
            assert valid.url in read(server.log.mails[0])[0]

    def test_one_that_was_revoked_stays_revoked(self, settings: LazySettings) -> None:
        with MailServer() as server:
            configure(settings, server)
            owe(mail_channel(A))
            Delivery.objects.update(created_at=timezone.now() - timedelta(days=8))
            DownloadLink.objects.update(
                expires_at=timezone.now() - timedelta(hours=1), revoked_at=timezone.now() - timedelta(days=1)
            )
            deliver()
            assert len(server.log.mails) == 1
            assert not DownloadLink.objects.valid().exists()

    def test_a_file_that_is_gone_is_not_linked_to(self, settings: LazySettings) -> None:
        with MailServer() as server:
            configure(settings, server)
            (row,) = owe(mail_channel(A))
            for path in paths_of(row.execution):
                path.unlink()
            deliver()
            text, _attached = read(server.log.mails[0])
            assert "不再保留" in text
            assert "/d/" not in text

    def test_a_digest_links_only_to_what_has_an_address(self, settings: LazySettings) -> None:
        with Robots() as server:
            allow(settings, server)
            channel = robot_channel(server.add("dingtalk").url)
            rows = owe(channel, 12)
            for path in paths_of(rows[0].execution):
                path.unlink()
            deliver()
            (text,) = server.texts()
            assert text.count("](https://reports.example.com/d/") == 11

            web = settings.CONFIG.web.model_copy(update={"public_url": ""})
            settings.CONFIG = settings.CONFIG.model_copy(update={"web": web})
            owe(channel, 12)
            deliver()
            assert "](" not in server.texts()[1]

    def test_a_warning_that_is_sent_again_leads_to_no_file(self, settings: LazySettings) -> None:
        """It goes to a channel that hears of failures only."""
        with MailServer() as server:
            configure(settings, server)
            server.say(B, "550 5.1.1 no such user")
            execution = run_ended(email_recipients=[B], owner=make_user(email="owner@example.com"))
            deliver()
            warning = Delivery.objects.get(event="undelivered")
            assert Delivery.objects.resend(warning, link=execution.link_for_messages(), everybody=True)
            deliver()
            assert not [mail for mail in server.log.mails if "/d/" in read(mail)[0] and mail.recipients != (B,)]

    def test_what_a_run_owes_is_sent_again_without_old_warnings(self, settings: LazySettings) -> None:
        with MailServer() as server:
            configure(settings, server)
            server.say(B, "550 5.1.1 no such user")
            execution = run_ended(email_recipients=[B], owner=make_user(email="owner@example.com"))
            deliver()
            assert [row.event for row in announce.resend(execution, everybody=True)] == ["success"]
            deliver()
            assert mails_to(server) == {B: 1, "owner@example.com": 1}


def test_a_webhook_that_has_had_too_much_gets_nothing_more_for_a_while(settings: LazySettings) -> None:
    with Robots() as server:
        allow(settings, server)
        channel = Channel(name="程序", kind="webhook")
        channel.set_settings({"url": server.add("webhook").url})
        channel.save()
        owe(channel, 3)
        server.script(answers(429, Retry_After="120"))
        box = Outbox(threads=0)
        box.deliver()
        box.deliver()
        assert len(server.requests) == 1
        assert sorted(Delivery.objects.values_list("status", flat=True)) == ["pending", "pending", "retry"]


def test_a_digest_of_names_full_of_quotes_is_not_cut(settings: LazySettings) -> None:
    with Robots() as server:
        allow(settings, server)
        rows = owe(robot_channel(server.add("dingtalk").url), 90, title='"' * 180)
        deliver()
        texts = "".join(server.texts())
        assert all(f"#{row.payload['number']}`" in texts for row in rows)


@pytest.mark.django_db(transaction=True)
def test_many_mails_of_a_server_that_hangs_do_not_hide_what_comes_after_them(
    settings: LazySettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "MOST_DUE", 4)
    with Robots() as server, MailServer() as mail:
        allow(settings, server)
        configure(settings, mail, smtp_timeout=3)
        mail.say("CONNECT", *[Fault.SILENCE] * 20)
        for number in range(12):
            owe(mail_channel(A, name=f"名单{number}"))
        owe(robot_channel(server.add("dingtalk").url))
        box = Outbox(threads=3)
        until = time.monotonic() + 5
        while not server.accepted and time.monotonic() < until:
            box.deliver()
            time.sleep(0.05)
        arrived_while_hanging = bool(server.accepted) and box.in_flight > 0
        box._closed.set()
        box.finish(60)
        box.close()
        assert arrived_while_hanging


def test_who_begins_to_send_when_the_beat_is_about_to_end_is_seen_to_live(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "BEAT_EVERY", 0.01)
    box, ended = Outbox(threads=0), threading.Event()

    def held() -> list[Delivery]:
        if ended.is_set():
            time.sleep(0.05)
            return []
        begins = threading.Thread(target=box._keep_beating)
        begins.start()
        begins.join(0.2)
        ended.set()
        monkeypatch.setattr(outbox, "BEAT_EVERY", 60)
        return []

    monkeypatch.setattr(box, "_held", held)
    box._keep_beating()
    first = box._beater
    assert first is not None
    assert ended.wait(5)
    first.join(5)
    time.sleep(0.1)
    beats = box._beater is not None and box._beater.is_alive()
    box.close()
    assert beats
