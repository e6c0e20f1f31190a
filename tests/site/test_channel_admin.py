"""Channels, rules and deliveries in the admin: forms made of what a transport declares, secrets that are never shown."""

import json
from collections.abc import Iterator

import pytest
from django.conf import LazySettings
from django.contrib.auth.models import Permission
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone
from pydantic import SecretStr

from notifications.models import Channel, Delivery, NotificationRule
from notifications.states import DeliveryStatus
from tasks import announce
from tasks.models import Execution
from tasks.states import Status
from tests.factories import make_admin, make_execution, make_task, make_user
from tests.servers.mail import MailServer, configure

pytestmark = pytest.mark.django_db

WEBHOOK = "https://oapi.dingtalk.com/robot/send?access_token=canary-of-the-webhook"
ADD = reverse("admin:notifications_channel_add")


@pytest.fixture
def client() -> Client:
    client = Client()
    client.force_login(make_admin())
    return client


@pytest.fixture
def mail_server(settings: LazySettings) -> Iterator[MailServer]:
    with MailServer() as server:
        configure(settings, server)
        yield server


def make_channel(kind: str = "dingtalk", **settings: object) -> Channel:
    channel = Channel(name="运营群", kind=kind)
    channel.set_settings(settings or {"webhook_url": WEBHOOK, "secret": "SECcanary"})
    channel.save()
    return channel


def make_delivery(status: DeliveryStatus = DeliveryStatus.DEAD) -> Delivery:
    execution = Execution.objects.claim(make_execution(make_task(email_recipients=["a@x.cn"])).pk, worker="a:1:b")
    assert execution is not None
    Execution.objects.finish(execution, Status.FAILED, reason="sql_error")
    Delivery.objects.update(status=status, reason="recipient_refused")
    return Delivery.objects.get()


class TestForms:
    def test_first_the_kind(self, client: Client) -> None:
        page = client.get(ADD).content.decode()
        for kind, label in {"dingtalk": "钉钉机器人", "email": "电子邮件", "wecom": "企业微信机器人"}.items():
            assert f'href="?kind={kind}"' in page
            assert label in page

    def test_then_what_matters_for_it(self, client: Client) -> None:
        page = client.get(ADD, {"kind": "email"}).content.decode()
        assert "setting_recipients" in page
        assert "setting_webhook_url" not in page

    def test_a_channel_is_stored_with_its_secrets_apart(self, client: Client) -> None:
        data = {"name": "运营群", "is_active": "on", "setting_webhook_url": WEBHOOK, "setting_secret": "SECcanary"}
        data |= {"setting_at_mobiles": "13800000000，13900000000", "setting_message_type": "markdown"}
        answer = client.post(f"{ADD}?kind=dingtalk", data)
        assert answer.status_code == 302, answer.content.decode()
        channel = Channel.objects.get()
        assert channel.kind == "dingtalk"
        assert channel.all_settings["webhook_url"] == WEBHOOK
        assert channel.settings["at_mobiles"] == ["13800000000", "13900000000"]
        assert "canary" not in json.dumps(channel.settings)

    def test_a_stored_secret_is_not_shown_and_stays_when_left_empty(self, client: Client) -> None:
        channel = make_channel()
        url = reverse("admin:notifications_channel_change", args=[channel.pk])
        assert "canary" not in client.get(url).content.decode()
        data = {"name": "另一个名称", "is_active": "on", "setting_message_type": "markdown"}
        assert client.post(url, data).status_code == 302
        channel.refresh_from_db()
        assert channel.name == "另一个名称"
        assert channel.all_settings["secret"] == "SECcanary"
        assert channel.all_settings["webhook_url"] == WEBHOOK

    def test_a_fault_is_at_its_field(self, client: Client) -> None:
        data = {"name": "群", "is_active": "on", "setting_message_type": "markdown"}
        page = client.post(
            f"{ADD}?kind=dingtalk", data | {"setting_webhook_url": "http://example.com/"}
        ).content.decode()
        assert not Channel.objects.exists()
        assert "errorlist" in page or "text-red" in page
        page = client.post(f"{ADD}?kind=email", {"name": "名单", "setting_recipients": "no address"}).content.decode()
        assert not Channel.objects.exists()

    def test_the_robot_of_config_is_shown_and_read_only(self, client: Client, settings: LazySettings) -> None:
        dingtalk = settings.CONFIG.dingtalk.model_copy(update={"webhook_url": SecretStr(WEBHOOK)})
        settings.CONFIG = settings.CONFIG.model_copy(update={"dingtalk": dingtalk})
        page = client.get(reverse("admin:notifications_channel_changelist")).content.decode()
        assert "由配置文件管理" in page
        channel = Channel.objects.get()
        page = client.get(reverse("admin:notifications_channel_change", args=[channel.pk])).content.decode()
        assert "canary" not in page
        assert 'name="name"' not in page

    def test_private_channels_are_not_listed(self, client: Client) -> None:
        task = make_task(dingtalk_webhook=WEBHOOK, name="每日订单")
        Channel.objects.of_task(task, "dingtalk")
        assert "每日订单" not in client.get(reverse("admin:notifications_channel_changelist")).content.decode()

    def test_save_and_test_sends_a_message(self, client: Client, mail_server: MailServer) -> None:
        data = {
            "name": "名单",
            "is_active": "on",
            "setting_recipients": "a@x.cn, b@x.cn",
            "notifications_channel_save_and_test": "1",
        }
        mail_server.say("b@x.cn", "550 5.1.1 no such user")
        page = client.post(f"{ADD}?kind=email", data, follow=True).content.decode()
        assert [mail.recipients for mail in mail_server.log.mails] == [("a@x.cn",)]
        assert "a@x.cn：测试消息已发送" in page
        assert "no such user" in page


class TestRules:
    def test_a_rule_for_every_task(self, client: Client) -> None:
        channel = make_channel()
        url = reverse("admin:notifications_notificationrule_add")
        data = {"channel": channel.pk, "events": ["failure", "missed"], "template": "{task_name}"}
        assert client.post(url, data).status_code == 302
        assert NotificationRule.objects.get().events == ["failure", "missed"]

    def test_an_unknown_variable_is_refused(self, client: Client) -> None:
        url = reverse("admin:notifications_notificationrule_add")
        page = client.post(url, {"channel": make_channel().pk, "template": "{rows}"}).content.decode()
        assert "{rows_count}" in page
        assert not NotificationRule.objects.exists()


class TestDeliveries:
    @pytest.mark.parametrize("page", ["changelist", "change"])
    def test_the_pages_show_whom_and_why(self, client: Client, page: str) -> None:
        delivery = make_delivery()
        args = [] if page == "changelist" else [delivery.pk]
        text = client.get(reverse(f"admin:notifications_delivery_{page}", args=args)).content.decode()
        assert "未送达" in text
        assert delivery.channel_name in text

    def test_send_again(self, client: Client) -> None:
        delivery = make_delivery()
        url = reverse("admin:notifications_delivery_changelist")
        client.post(url, {"action": "send_again", "_selected_action": [delivery.pk]})
        delivery.refresh_from_db()
        assert delivery.status == DeliveryStatus.PENDING
        client.post(url, {"action": "cancel", "_selected_action": [delivery.pk]})
        delivery.refresh_from_db()
        assert delivery.status == DeliveryStatus.CANCELLED

    def test_whoever_only_looks_sends_nothing(self) -> None:
        delivery = make_delivery()
        client = Client()
        user = make_user(is_staff=True)
        user.user_permissions.add(Permission.objects.get(codename="view_delivery"))
        client.force_login(user)
        url = reverse("admin:notifications_delivery_changelist")
        client.post(url, {"action": "send_again", "_selected_action": [delivery.pk]})
        delivery.refresh_from_db()
        assert delivery.status == DeliveryStatus.DEAD

    def test_a_constant_number_of_queries(self, client: Client) -> None:
        url = reverse("admin:notifications_delivery_changelist")
        counts = []
        for _round in range(2):
            make_task()
            execution = Execution.objects.claim(
                make_execution(make_task(email_recipients=["a@x.cn"])).pk, worker="a:1:b"
            )
            assert execution is not None
            Execution.objects.finish(execution, Status.FAILED, reason="sql_error")
            client.get(url)
            with CaptureQueriesContext(connection) as queries:
                client.get(url)
            counts.append(len(queries))
        assert counts[0] == counts[1]


def test_a_list_of_executions_says_what_arrived(client: Client) -> None:
    delivery = make_delivery()
    url = reverse("admin:tasks_execution_changelist")
    assert "未送达" in client.get(url).content.decode()
    Delivery.objects.update(recipients={"a@x.cn": {"verdict": "accepted"}, "b@x.cn": {"verdict": "refused"}})
    assert "部分送达" in client.get(url).content.decode()
    Delivery.objects.filter(pk=delivery.pk).update(status=DeliveryStatus.SENT)
    assert "已送达" in client.get(url).content.decode()


def test_messages_that_did_not_arrive_are_seen_on_every_page(client: Client) -> None:
    make_delivery()
    Delivery.objects.update(finished_at=timezone.now())
    assert "1 条通知" in client.get(reverse("admin:index")).content.decode()


def test_the_execution_page_shows_its_messages_and_sends_them_again(client: Client) -> None:
    delivery = make_delivery()
    url = reverse("admin:tasks_execution_change", args=[delivery.execution_id])
    assert "未送达" in client.get(url).content.decode()
    listing = reverse("admin:tasks_execution_changelist")
    client.post(listing, {"action": "send_again", "_selected_action": [delivery.execution_id]})
    delivery.refresh_from_db()
    assert delivery.status == DeliveryStatus.PENDING
    assert announce.resend(delivery.execution) == []
