"""The outbox against a real mail server: its log of what it accepted is the judge."""

import threading
from collections import Counter
from datetime import timedelta

import pytest
from django.conf import LazySettings
from django.db import connection
from django.utils import timezone

from notifications import outbox, sender
from notifications.models import Arrival, Channel, Delivery, NotificationRule
from notifications.outbox import Outbox
from notifications.states import DeliveryStatus
from tasks import announce
from tasks.models import Execution, ExportTask
from tests.factories import make_user, paths_of
from tests.notifications.runs import A, B, C, deliver, mails_to, run_ended
from tests.servers.mail import Fault, MailServer, configure, read

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("own_directories")]


class TestPerRecipient:
    def test_each_gets_what_its_server_says(self, settings: LazySettings) -> None:
        """a@ accepted, b@ not now, c@ never."""
        with MailServer() as server:
            configure(settings, server, retry_attempts=3, retry_delay=30)
            server.say(B, *["451 4.2.0 try later"] * 3)
            server.say(C, "550 5.1.1 no such user")
            execution = run_ended(email_recipients=[A, B, C])
            for _round in range(6):
                deliver()
            assert mails_to(server) == {A: 1}
            assert Counter(asked.address for asked in server.log.recipients) == {A: 1, B: 3, C: 1}
            row = Delivery.objects.get()
            assert row.status == DeliveryStatus.DEAD
            assert row.is_partial
            assert Arrival.of(execution.deliveries.all()) == Arrival.SOME
            assert {name: entry["tries"] for name, entry in row.recipients.items()} == {A: 1, B: 3, C: 1}
            assert row.recipients[C]["reason"] == "recipient_refused"

            executions = Execution.objects.count()
            announce.resend(execution)
            deliver()
            assert mails_to(server) == {A: 1, B: 1, C: 1}
            assert Arrival.of(execution.deliveries.all()) == Arrival.ALL
            assert Execution.objects.count() == executions

    def test_the_next_try_is_at_the_configured_delay(self, settings: LazySettings) -> None:
        with MailServer() as server:
            configure(settings, server, retry_delay=77)
            server.say(B, "451 4.2.0 try later")
            run_ended(email_recipients=[A, B])
            before = timezone.now()
            assert Outbox(threads=0).deliver() == 1
            row = Delivery.objects.get()
            assert row.status == DeliveryStatus.RETRY
            assert timedelta(seconds=76) < row.next_at - before < timedelta(seconds=80)
            assert Outbox(threads=0).deliver() == 0
            deliver()
            assert mails_to(server) == {A: 1, B: 1}

    def test_a_mail_server_that_is_away_gets_the_same_tries(self, settings: LazySettings) -> None:
        with MailServer() as server:
            configure(settings, server, retry_attempts=2)
        execution = run_ended(email_recipients=[A])
        for _round in range(3):
            deliver()
        row = Delivery.objects.get()
        assert (row.status, row.tries, row.reason) == (DeliveryStatus.DEAD, 2, "unreachable")
        assert Arrival.of(execution.deliveries.all()) == Arrival.NONE


class TestLostAnswers:
    def test_it_goes_out_once_more_with_the_same_number_and_says_so(self, settings: LazySettings) -> None:
        with MailServer() as server:
            configure(settings, server)
            server.say("BODY", Fault.CUT)
            run_ended(email_recipients=[A])
            deliver()
            row = Delivery.objects.get()
            assert (row.status, row.answer_lost, row.possibly_duplicate) == (DeliveryStatus.RETRY, True, False)
            deliver()
            row.refresh_from_db()
            assert (row.status, row.possibly_duplicate) == (DeliveryStatus.SENT, True)
            numbers = {
                line for mail in server.log.mails for line in mail.content.split(b"\r\n") if b"Message-ID" in line
            }
            assert len(server.log.mails) == 2
            assert len(numbers) == 1

    def test_not_more_than_once_more(self, settings: LazySettings) -> None:
        with MailServer() as server:
            configure(settings, server, retry_attempts=5)
            server.say("BODY", *[Fault.CUT] * 5)
            run_ended(email_recipients=[A])
            for _round in range(5):
                deliver()
            assert len(server.log.mails) == 2
            row = Delivery.objects.get()
            assert (row.status, row.reason) == (DeliveryStatus.DEAD, "answer_lost")

    def test_a_sender_that_died_is_replaced(self, settings: LazySettings) -> None:
        with MailServer() as server:
            configure(settings, server)
            run_ended(email_recipients=[A])
            row = Delivery.objects.get()
            assert Delivery.objects.claim([row], worker="elsewhere:1:another")
            box = Outbox(threads=0)
            assert box.reap() == 0  # It may live.
            box._seen = {pk: (state, since - outbox.LEASE) for pk, (state, since) in box._seen.items()}
            assert box.reap() == 1
            deliver()
            row.refresh_from_db()
            assert (row.status, row.possibly_duplicate) == (DeliveryStatus.SENT, True)
            assert mails_to(server) == {A: 1}

    def test_a_sender_that_lives_is_not_replaced(self) -> None:
        run_ended(email_recipients=[A])
        row = Delivery.objects.get()
        assert Delivery.objects.claim([row], worker="elsewhere:1:another")
        box = Outbox(threads=0)
        box.reap()
        box._seen = {pk: (state, since - outbox.LEASE) for pk, (state, since) in box._seen.items()}
        Delivery.objects.beat([row])
        assert box.reap() == 0

    def test_a_sender_that_was_replaced_stores_nothing(self) -> None:
        run_ended(email_recipients=[A])
        stale = Delivery.objects.get()
        assert Delivery.objects.claim([stale], worker="elsewhere:1:another")
        assert Delivery.objects.take_back(stale)
        assert not Delivery.objects.settle(stale, DeliveryStatus.SENT)

    def test_a_message_that_kills_its_senders_has_an_end(self) -> None:
        run_ended(email_recipients=[A])
        for _sender in range(20):
            row = Delivery.objects.get()
            if row.is_finished:
                break
            assert Delivery.objects.claim([row], worker="elsewhere:1:another")
            assert sender.take_back(row)
        assert (row.status, row.reason, row.tries) == (DeliveryStatus.DEAD, "worker_lost", 10)

    def test_a_resent_message_that_may_have_arrived_says_so(self, settings: LazySettings) -> None:
        with MailServer() as server:
            configure(settings, server, retry_attempts=1)
            server.say("BODY", Fault.CUT)
            execution = run_ended(email_recipients=[A])
            deliver()
            announce.resend(execution)
            deliver()
            row = Delivery.objects.get()
            assert (row.status, row.possibly_duplicate, len(server.log.mails)) == (DeliveryStatus.SENT, True, 2)

    def test_an_answer_with_odd_characters_is_stored(self, settings: LazySettings) -> None:
        with MailServer() as server:
            configure(settings, server)
            server.say("BODY", "250 ok\0 \x1b[31m")
            run_ended(email_recipients=[A])
            deliver()
            assert Delivery.objects.get().status == DeliveryStatus.SENT

    def test_a_sender_that_looks_seldom_does_not_take_others_for_dead(self) -> None:
        run_ended(email_recipients=[A])
        assert Delivery.objects.claim([Delivery.objects.get()], worker="elsewhere:1:another")
        box = Outbox(threads=0)
        box.reap()
        box._seen = {pk: (state, since - 1000) for pk, (state, since) in box._seen.items()}
        box._looked_at -= 1000
        assert box.reap() == 0


class TestAttachments:
    def test_a_file_goes_along_with_its_name(self, settings: LazySettings) -> None:
        with MailServer() as server:
            configure(settings, server)
            run_ended(email_recipients=[A], size=1000)
            deliver()
            text, attached = read(server.log.mails[0])
            assert attached == ["每日订单.xlsx"]
            assert "https://reports.example.com/d/" in text

    def test_one_too_large_becomes_a_link_and_the_reason(self, settings: LazySettings) -> None:
        with MailServer() as server:
            configure(settings, server)
            run_ended(email_recipients=[A], size=30 * 1024 * 1024)
            deliver()
            [mail] = server.log.mails
            assert len(mail.content) < 20_000
            text, attached = read(mail)
            assert "每日订单.xlsx" in text
            assert "25.0MB" in text
            assert "https://reports.example.com/d/" in text
            assert attached == []

    def test_a_file_that_is_gone_is_not_promised(self, settings: LazySettings) -> None:
        with MailServer() as server:
            configure(settings, server)
            execution = run_ended(email_recipients=[A])
            for path in paths_of(execution):
                path.unlink()
            deliver()
            text, attached = read(server.log.mails[0])
            assert attached == []
            assert "不再保留" in text


class TestWarnings:
    """A message that did not arrive is itself announced."""

    def test_another_channel_says_so(self, settings: LazySettings) -> None:
        with MailServer() as server:
            configure(settings, server)
            server.say(B, "550 5.1.1 no such user")
            owner = make_user(email="owner@example.com")
            execution = run_ended(email_recipients=[B], owner=owner, name="每日订单")
            deliver()
            assert mails_to(server) == {"owner@example.com": 1}
            warning = Delivery.objects.get(event="undelivered")
            assert warning.execution == execution
            assert "每日订单" in warning.payload["title"]
            assert B in str(warning.payload["facts"])
            # It is no message of the run, and none about itself follows.
            assert Arrival.of(execution.deliveries.all()) == Arrival.NONE
            deliver()
            assert Delivery.objects.count() == 2

    def test_a_warning_that_does_not_arrive_is_not_announced(self, settings: LazySettings) -> None:
        with MailServer() as server:
            configure(settings, server)
            for address in (B, "owner@example.com"):
                server.say(address, "550 5.1.1 no such user")
            run_ended(email_recipients=[B], owner=make_user(email="owner@example.com"))
            for _round in range(3):
                deliver()
            assert Delivery.objects.count() == 2

    def test_one_warning_names_all_messages_of_the_run(self, settings: LazySettings) -> None:
        with MailServer() as server:
            configure(settings, server)
            channel = Channel(name="名单", kind="email")
            channel.set_settings({"recipients": [C]})
            channel.save()
            NotificationRule.objects.create(channel=channel)
            for address in (B, C):
                server.say(address, "550 5.1.1 no such user")
            run_ended(email_recipients=[B], owner=make_user(email="owner@example.com"))
            deliver()
            warning = Delivery.objects.get(event="undelivered")
            facts = dict(warning.payload["facts"])
            assert B in facts["未送达"]
            assert C in facts["未送达"]
            assert mails_to(server)["owner@example.com"] >= 1

    def test_a_message_that_killed_its_senders_is_announced(self) -> None:
        run_ended(email_recipients=[B], owner=make_user(email="owner@example.com"))
        for _sender in range(10):
            row = Delivery.objects.get(event="success")
            assert Delivery.objects.claim([row], worker="elsewhere:1:another")
            assert sender.take_back(row)
        assert Delivery.objects.filter(event="undelivered").count() == 1


class TestChannels:
    def test_a_channel_that_is_switched_off_forgets_nobody_who_has_it(self, settings: LazySettings) -> None:
        with MailServer() as server:
            configure(settings, server)
            channel = Channel(name="名单", kind="email")
            channel.set_settings({"recipients": [A, B]})
            channel.save()
            server.say(B, "451 4.2.0 later")
            execution = run_ended()
            payload = announce.payload_of(execution, "success", "", "plain", None)
            Delivery.objects.owe(execution.pk, "success", channel, payload)
            deliver()
            Channel.objects.update(is_active=False)
            deliver()
            assert Delivery.objects.get().status == DeliveryStatus.DEAD
            Channel.objects.update(is_active=True)
            announce.resend(execution)
            deliver()
            assert mails_to(server) == {A: 1, B: 1}

    def test_who_was_taken_off_the_list_is_owed_nothing(self, settings: LazySettings) -> None:
        with MailServer() as server:
            configure(settings, server)
            server.say(B, "451 4.2.0 later")
            execution = run_ended(email_recipients=[A, B])
            deliver()
            ExportTask.objects.update(email_recipients=[A])
            deliver()
            assert Delivery.objects.get().status == DeliveryStatus.SENT
            assert Arrival.of(execution.deliveries.all()) == Arrival.ALL

    def test_what_a_channel_lacks_is_said(self, settings: LazySettings) -> None:
        channel = Channel.objects.create(name="群", kind="dingtalk")
        execution = run_ended()
        payload = announce.payload_of(execution, "success", "", "markdown", None)
        Delivery.objects.owe(execution.pk, "success", channel, payload)
        deliver()
        row = Delivery.objects.get()
        assert (row.status, row.reason) == (DeliveryStatus.DEAD, "not_configured")

    def test_a_channel_that_was_mended_serves_at_once(self, settings: LazySettings) -> None:
        with MailServer() as server:
            configure(settings, server)
            channel = Channel.objects.create(name="名单", kind="email")
            execution = run_ended()
            Delivery.objects.owe(
                execution.pk, "success", channel, announce.payload_of(execution, "success", "", "plain", None)
            )
            deliver()
            channel.set_settings({"recipients": [A]})
            channel.save()
            announce.resend(execution)
            deliver()
            assert mails_to(server) == {A: 1}

    def test_a_deleted_channel_leaves_its_record(self) -> None:
        channel = Channel.objects.create(name="名单", kind="email")
        execution = run_ended()
        Delivery.objects.owe(
            execution.pk, "success", channel, announce.payload_of(execution, "success", "", "plain", None)
        )
        channel.delete()
        deliver()
        row = Delivery.objects.get()
        assert (row.status, row.reason, row.channel_name) == (DeliveryStatus.DEAD, "channel_deleted", "名单")

    def test_a_test_message_arrives(self, settings: LazySettings) -> None:
        with MailServer() as server:
            configure(settings, server)
            channel = Channel(name="名单", kind="email")
            channel.set_settings({"recipients": [A]})
            channel.save()
            answers = sender.send_test(channel)
            assert [str(answer.verdict) for answer in answers.values()] == ["accepted"]
            assert mails_to(server) == {A: 1}


@pytest.mark.django_db(transaction=True)
def test_eight_threads_send_each_message_once(settings: LazySettings) -> None:
    with MailServer() as server:
        configure(settings, server)
        for _number in range(20):
            run_ended(email_recipients=[A])

        def work() -> None:
            box = Outbox(threads=0)
            while box.deliver():
                pass
            connection.close()

        threads = [threading.Thread(target=work) for _number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert Counter(row.status for row in Delivery.objects.all()) == {DeliveryStatus.SENT: 20}
        assert mails_to(server) == {A: 20}
        assert not Delivery.objects.filter(possibly_duplicate=True).exists()


@pytest.mark.django_db(transaction=True)
def test_a_pool_sends_several_at_once(settings: LazySettings) -> None:
    with MailServer() as server:
        configure(settings, server)
        for _number in range(10):
            run_ended(email_recipients=[A])
        box = Outbox(threads=4)
        while box.deliver() or box.in_flight:
            box.finish(10)
        box.close()
        assert mails_to(server) == {A: 10}
