"""Tasks as YAML and back."""

import pytest
import yaml

from notifications.models import Channel, NotificationRule
from tasks import transfer
from tasks.models import ExportTask
from tests.factories import make_source, make_task

pytestmark = pytest.mark.django_db


def test_what_was_written_loads_without_a_change() -> None:
    make_task(name="每日订单", sql="SELECT 1\nFROM t\n", tags=["财务"], cron="0 9 * * 1-5", params={"shop": "001"})
    text = transfer.dump()
    assert "每日订单" in text
    assert "SELECT 1\n" in text
    assert transfer.load(text) == []
    before = ExportTask.objects.values().get()
    ExportTask.objects.all().delete()
    (change,) = transfer.load(text)
    assert change.is_new
    after = ExportTask.objects.values().get()
    generated = {"id", "created_at", "updated_at"}
    assert {k: v for k, v in after.items() if k not in generated} == {
        k: v for k, v in before.items() if k not in generated
    }


def test_a_change_is_shown_and_a_dry_run_changes_nothing() -> None:
    make_task(name="a", cron="0 9 * * *")
    text = "tasks: [{name: a, cron: 0 8 * * *}]"
    (change,) = transfer.load(text, dry_run=True)
    assert change.fields == {"cron": ("0 9 * * *", "0 8 * * *")}
    assert ExportTask.objects.get().cron == "0 9 * * *"
    transfer.load(text)
    assert ExportTask.objects.get().cron == "0 8 * * *"


def test_secrets_are_not_written_and_not_shown_but_can_be_loaded() -> None:
    make_task(name="a", dingtalk_secret="SECold")
    assert "SECold" not in transfer.dump()
    (change,) = transfer.load("tasks: [{name: a, dingtalk_secret: SECnew}]")
    assert "SEC" not in str(change.fields)
    assert ExportTask.objects.get().dingtalk_secret == "SECnew"
    transfer.load("tasks: [{name: a, description: x}]")
    assert ExportTask.objects.get().dingtalk_secret == "SECnew"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("tasks: [{name: b, data_source: nowhere, sql: SELECT 1}]", "nowhere"),
        ("tasks: [{name: b, data_source: shop, sql: DROP TABLE t}]", "DROP"),
        ("tasks: [{name: b, data_source: shop, sql: SELECT 1, sqll: x}]", "sqll"),
        ("tasks: {name: b}", "tasks"),
        ("tasks: [", "YAML"),
        ("tasks: [{sql: SELECT 1}]", "?"),
        ("tasks: [{name: b, owner: nobody}]", "nobody"),
    ],
)
def test_a_fault_is_named_and_nothing_of_the_file_is_loaded(text: str, words: str) -> None:
    make_source(name="shop")
    if text.startswith("tasks: [{"):
        entries = yaml.safe_load(text)["tasks"]
        text = yaml.safe_dump({"tasks": [{"name": "good", "data_source": "shop", "sql": "SELECT 1"}, *entries]})
    with pytest.raises(transfer.TransferError) as caught:
        transfer.load(text)
    assert words in str(caught.value)
    assert not ExportTask.objects.exists()


class TestRules:
    def test_they_go_along_by_the_names_of_their_channels(self) -> None:
        channel = Channel.objects.create(name="运营群", kind="webhook")
        task = make_task(name="a")
        NotificationRule.objects.create(task=task, channel=channel, events=["failure"], template="{task_name}")
        text = transfer.dump()
        assert transfer.load(text) == []
        NotificationRule.objects.all().delete()
        (change,) = transfer.load(text)
        assert change.fields["rules"] == ([], [{"channel": "运营群", "events": ["failure"], "template": "{task_name}"}])
        assert NotificationRule.objects.get().events == ["failure"]

    def test_without_the_key_they_stay_and_an_empty_list_removes_them(self) -> None:
        task = make_task(name="a")
        NotificationRule.objects.create(task=task, channel=Channel.objects.create(name="群", kind="webhook"))
        transfer.load("tasks: [{name: a, description: x}]")
        assert NotificationRule.objects.exists()
        transfer.load("tasks: [{name: a, rules: []}]")
        assert not NotificationRule.objects.exists()

    @pytest.mark.parametrize(
        ("rules", "words"),
        [
            ("[{channel: 没有}]", "没有"),
            ("[{channel: 群, events: [x]}]", "success"),
            ("[{channel: 群, template: '{rows}'}]", "rows_count"),
            ("[{channel: 群, even: []}]", "even"),
            ("x", "channel"),
        ],
    )
    def test_faults_are_named_and_nothing_is_changed(self, rules: str, words: str) -> None:
        Channel.objects.create(name="群", kind="webhook")
        make_task(name="a")
        with pytest.raises(transfer.TransferError, match=words):
            transfer.load(f"tasks: [{{name: a, description: new, rules: {rules}}}]")
        assert ExportTask.objects.get().description == ""
        assert not NotificationRule.objects.exists()
