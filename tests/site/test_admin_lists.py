"""Every list of the admin takes as many queries for very many rows as for ten."""

import uuid
from collections.abc import Callable
from datetime import timedelta

import pytest
from django.contrib import admin
from django.contrib.auth.models import Group, User
from django.db import connection
from django.db.models import QuerySet
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from datasources.models import DataSource
from exporter_site.access.models import ApiKey, AuditEvent
from exporter_site.modeladmin import LogAdmin
from exporter_site.paging import MOST_COUNTED
from notifications.messages import Event
from notifications.models import Channel, Delivery, NotificationRule
from notifications.states import DeliveryStatus
from tasks.models import Download, DownloadLink, Execution, ExportTask, Pause, SchedulerProcess
from tasks.states import Status, Trigger
from tests.factories import make_admin

pytestmark = pytest.mark.django_db
FEW, MANY, VERY_MANY = 10, 1000, 10_100
RELATED = 100  # a page's worth: each row of it with another source, task, user

admin.autodiscover()


def sources(count: int) -> list[DataSource]:
    begin = DataSource.objects.count()
    new = [
        DataSource(name=f"source {begin + number}", kind="sqlite", database="/nowhere")
        for number in range(max(0, count - begin))
    ]
    DataSource.objects.bulk_create(new)
    return list(DataSource.objects.order_by("pk"))


def users(count: int) -> list[User]:
    begin = User.objects.count()
    User.objects.bulk_create([User(username=f"user {begin + number}") for number in range(max(0, count - begin))])
    found = list(User.objects.order_by("pk"))
    groups(3)
    for user in found[:RELATED]:
        user.groups.set(Group.objects.all()[:3])
    return found


def groups(count: int) -> None:
    begin = Group.objects.count()
    Group.objects.bulk_create([Group(name=f"group {begin + number}") for number in range(max(0, count - begin))])


def tasks(count: int) -> list[ExportTask]:
    begin, some, owners = ExportTask.objects.count(), sources(RELATED), users(RELATED)
    ExportTask.objects.bulk_create(
        [
            ExportTask(
                name=f"task {begin + number}",
                data_source=some[number % len(some)],
                owner=owners[number % len(owners)],
                sql="SELECT 1",
            )
            for number in range(max(0, count - begin))
        ]
    )
    return list(ExportTask.objects.order_by("pk"))


def executions(count: int) -> list[Execution]:
    begin, some = Execution.objects.count(), tasks(RELATED)
    people = users(RELATED)
    Execution.objects.bulk_create(
        [
            Execution(
                task=some[number % len(some)],
                task_name=f"task {number}",
                data_source_id=some[number % len(some)].data_source_id,
                trigger=Trigger.MANUAL,
                status=list(Status)[number % len(Status)],
                planned_at=timezone.now(),
                created_by=people[number % len(people)],
            )
            for number in range(max(0, count - begin))
        ],
        batch_size=1000,
    )
    return list(Execution.objects.order_by("-pk")[:RELATED])


def channels(count: int) -> list[Channel]:
    begin = Channel.objects.count()
    Channel.objects.bulk_create(
        [Channel(name=f"channel {begin + number}", kind="webhook") for number in range(max(0, count - begin))]
    )
    return list(Channel.objects.exclude(name=None).order_by("pk"))


def rules(count: int) -> None:
    begin, places, some = NotificationRule.objects.count(), channels(RELATED), tasks(RELATED)
    new = [
        NotificationRule(channel=places[number % RELATED], task=some[(number // RELATED) % RELATED])
        for number in range(begin, count)
    ]
    NotificationRule.objects.bulk_create(new)


def deliveries(count: int) -> None:
    begin, runs = Delivery.objects.count(), executions(RELATED)
    Delivery.objects.bulk_create(
        [
            Delivery(
                execution=runs[number % len(runs)],
                event=Event.FAILURE,
                channel_name="mail",
                status=DeliveryStatus.DEAD,
                key=uuid.uuid4().hex,
                payload={},
                next_at=timezone.now(),
                recipients={"a@x.cn": {"verdict": "refused", "reason": "", "text": "", "at": "2026-01-01T00:00:00Z"}},
            )
            for number in range(max(0, count - begin))
        ],
        batch_size=1000,
    )


def downloads(count: int) -> None:
    begin, runs = Download.objects.count(), executions(RELATED)
    links = [DownloadLink.objects.make(run) for run in runs[: RELATED - DownloadLink.objects.count()]]
    links = links or list(DownloadLink.objects.all())
    Download.objects.bulk_create(
        [
            Download(
                execution=runs[number % len(runs)],
                task_name="task",
                filename="file.xlsx",
                link=links[number % len(links)],
                bytes=1,
            )
            for number in range(max(0, count - begin))
        ],
        batch_size=1000,
    )


def keys(count: int) -> None:
    begin, people = ApiKey.objects.count(), users(RELATED)
    for number in range(begin, count):
        ApiKey.objects.make(people[number % len(people)], f"key {number}", "read", timezone.now() + timedelta(days=1))


def events(count: int) -> None:
    begin, people = AuditEvent.objects.count(), users(RELATED)
    # Past its own QuerySet, which adds them one by one only.
    QuerySet[AuditEvent](AuditEvent).bulk_create(
        [
            AuditEvent(user_number=people[number % len(people)].pk, username="somebody", action="edit", via="admin")
            for number in range(max(0, count - begin))
        ],
        batch_size=1000,
    )


def schedulers(count: int) -> None:
    begin = SchedulerProcess.objects.count()
    SchedulerProcess.objects.bulk_create(
        [
            SchedulerProcess(name=f"host:{number}:a", seen_at=timezone.now(), executor="local", workers=1)
            for number in range(begin, count)
        ]
    )


def pauses(count: int) -> None:
    Pause.objects.bulk_create([Pause(begun_by="root") for _number in range(count - Pause.objects.count())])


MAKERS: dict[type, Callable[[int], object]] = {
    DataSource: sources,
    ExportTask: tasks,
    Execution: executions,
    Channel: channels,
    NotificationRule: rules,
    Delivery: deliveries,
    Download: downloads,
    User: users,
    Group: groups,
    ApiKey: keys,
    AuditEvent: events,
    SchedulerProcess: schedulers,
    Pause: pauses,
}
# Those of which there are thousands in a year.
LOGS = (Execution, Delivery, Download, AuditEvent)


def test_every_model_of_the_admin_is_looked_at_here() -> None:
    assert set(admin.site._registry) == set(MAKERS)


@pytest.mark.parametrize("model", MAKERS, ids=lambda model: model.__name__)
def test_a_list_takes_as_many_queries_for_very_many_rows_as_for_ten(model: type) -> None:
    client = Client()
    client.force_login(make_admin())
    url = reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_changelist")  # type: ignore[attr-defined]
    for tables in (sources, tasks):
        tables(RELATED)  # what filters offer is as much both times
    taken, shown = [], []
    for count in (FEW, VERY_MANY if model in LOGS else MANY):
        MAKERS[model](count)
        client.get(url)
        with CaptureQueriesContext(connection) as queries:
            answer = client.get(url)
        assert answer.status_code == 200
        taken.append([entry["sql"] for entry in queries])
        shown.append(len(answer.context["cl"].result_list))
    assert shown[0] >= FEW
    assert shown[1] >= 50
    assert len(taken[0]) == len(taken[1]), "\n".join(taken[1])


@pytest.mark.parametrize("model", LOGS, ids=lambda model: model.__name__)
def test_a_log_is_counted_no_further_than_it_must_and_leafed_through(model: type) -> None:
    client = Client(headers={"accept-language": "en"})
    client.force_login(make_admin())
    url = reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_changelist")  # type: ignore[attr-defined]
    assert isinstance(admin.site._registry[model], LogAdmin)
    MAKERS[model](VERY_MANY)
    first = client.get(url)
    assert f"more than {MOST_COUNTED:,}" in first.content.decode()
    shown = first.context["cl"]
    assert (shown.previous_url, shown.first_url) == ("", "")
    second = client.get(url + shown.next_url).context["cl"]
    pages = [[row.pk for row in page.result_list] for page in (shown, second)]
    assert len(set(pages[0] + pages[1])) == 2 * shown.list_per_page
    assert min(pages[0]) > max(pages[1])
    assert second.previous_url
    last = -(-model._base_manager.count() // shown.list_per_page)  # type: ignore[attr-defined]
    assert client.get(f"{url}?p={last}").context["cl"].next_url == ""
