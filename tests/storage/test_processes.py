"""A whole installation that keeps its files in a bucket: the commands, the web server, a kill, a backup."""

import io
import json
import signal
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import requests

from exporter_site.config import BASE_DIR
from tests.api.live import gunicorn, prepare
from tests.factories import make_sqlite_file
from tests.faults.load import query_of
from tests.instance import Instance
from tests.servers.objects import Objects
from tests.servers.proxy import Proxy
from tests.storage.conftest import environment
from tests.tasks.test_runtask import add_task, eventually

BIG = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000) SELECT i, hex(randomblob(600)) FROM n"


@pytest.fixture
def shop(instance: Instance, tmp_path: Path, objects: Objects, bucket: str) -> Instance:
    """An installation on a shop of three orders, with the bucket in its environment."""
    instance.environment |= environment(objects.settings(bucket))
    file = make_sqlite_file(tmp_path / "shop.db")
    instance.manage("datasource", "create", "shop", "sqlite", "-", "-", file, "-")
    add_task(instance, name="每日订单", data_source="shop", sql="SELECT * FROM orders ORDER BY id")
    return instance


def links(instance: Instance) -> list[str]:
    """A link to the files of each run, in their order."""
    found: list[str] = prepare(
        instance,
        "from tasks.models import *\n"
        "result['paths'] = [DownloadLink.objects.make(run).path for run in Execution.objects.order_by('pk')]",
    )["paths"]
    return found


def test_a_run_a_browser_and_a_copy(shop: Instance, objects: Objects, bucket: str, tmp_path: Path) -> None:
    done = json.loads(shop.manage("runtask", "每日订单", "--json").stdout)
    (place,) = done["paths"]
    assert place == f"s3://{bucket}/reports/{done['files'][0]['path']}"
    content = objects.content(bucket, place.removeprefix(f"s3://{bucket}/"))
    assert len(content) == done["file_size"]
    copy = tmp_path / "copy.xlsx"
    shop.manage("runtask", "每日订单", "--output", copy)
    assert zipfile.is_zipfile(copy)
    add_task(shop, name="parts", data_source="shop", sql=BIG, format="csv")
    shop.manage("runtask", "parts", env={"EXPORTER_EXPORT__MAX_FILE_SIZE": "9000000"})
    parts = [key for key in objects.keys(bucket) if key.endswith(".csv")]
    assert len(parts) == 3
    single, _copied, several = links(shop)

    with gunicorn(shop) as address:
        page = requests.get(f"{address}{single}", timeout=30)
        assert (page.status_code, "每日订单" in page.text) == (200, True)
        whole = requests.get(f"{address}{single}/file", timeout=30)
        assert (whole.status_code, whole.content) == (200, content)
        piece = requests.get(f"{address}{single}/file", headers={"Range": "bytes=100-199"}, timeout=30)
        assert (piece.status_code, piece.content) == (206, content[100:200])
        assert piece.headers["Content-Range"] == f"bytes 100-199/{len(content)}"
        packed = requests.get(f"{address}{several}/file", timeout=60)
        with zipfile.ZipFile(io.BytesIO(packed.content)) as opened:
            assert {name: opened.read(name) for name in opened.namelist()} == {
                key.rpartition("/")[2]: objects.content(bucket, key) for key in parts
            }

    with gunicorn(shop, env={"EXPORTER_EXPORT__S3_REDIRECT": "true"}) as address:
        sent_on = requests.get(f"{address}{single}/file", allow_redirects=False, timeout=30)
        assert sent_on.status_code == 302
        assert sent_on.headers["Location"].startswith(f"{objects.endpoint}/{bucket}/reports/")
        assert "X-Amz-Expires=60&" in sent_on.headers["Location"]
        assert objects.account.password not in sent_on.headers["Location"]
        assert sent_on.headers["Cache-Control"] == "no-store, private"
        answer = requests.get(f"{address}{single}/file", headers={"Range": "bytes=100-199"}, timeout=30)
        assert (answer.status_code, answer.content) == (206, content[100:200])
        assert answer.history[0].status_code == 302
        assert answer.headers["Content-Disposition"] == whole.headers["Content-Disposition"]
        assert answer.headers["Content-Type"] == whole.headers["Content-Type"]
        assert requests.get(f"{address}{several}/file", timeout=60).content[:2] == b"PK"
        second = requests.get(f"{address}{several}/file?part=2", timeout=60)
        assert second.content == objects.content(bucket, parts[1])
    downloads = query_of(shop)("SELECT part FROM tasks_download ORDER BY id")
    assert downloads == [(1,), (None,), (1,), (None,), (2,)], "each once, however they came"


def test_ctrl_c_ends_an_upload(shop: Instance, objects: Objects, bucket: str) -> None:
    add_task(shop, name="big", data_source="shop", sql=BIG, format="csv")
    query = query_of(shop)
    with Proxy("127.0.0.1", objects.port, pause=0.5) as proxy:
        process = shop.spawn("runtask", "big", env={"EXPORTER_EXPORT__S3_ENDPOINT": f"http://127.0.0.1:{proxy.port}"})
        assert eventually(lambda: "uploaded" in str(query("SELECT progress FROM tasks_execution")), 60)
        process.send_signal(signal.SIGINT)
        _out, err = process.communicate(timeout=60)  # it would go on for a quarter of an hour
    assert "Traceback" not in err
    assert query("SELECT status, reason FROM tasks_execution") == [("cancelled", "cancelled")]
    assert eventually(lambda: objects.keys(bucket) + objects.unfinished(bucket) == [])


KILLED = """
import os, signal
from django.core.management import call_command
from tasks.states import ExecutionQuerySet
ExecutionQuerySet.finish = lambda *args, **fields: os.kill(os.getpid(), signal.SIGKILL)
call_command("runtask", "每日订单")
"""


def test_a_kill_between_upload_and_record_leaves_nothing(shop: Instance, objects: Objects, bucket: str) -> None:
    killed = subprocess.run(
        [sys.executable, "-c", f"import django\ndjango.setup()\n{KILLED}"],
        cwd=BASE_DIR,
        env=shop.environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert len(objects.keys(bucket)) == 1
    query = query_of(shop)
    assert query("SELECT status FROM tasks_execution") == [("running",)]
    shop.manage("runscheduler", "--once")
    assert query("SELECT status, reason FROM tasks_execution") == [("failed", "worker_lost")]
    assert objects.keys(bucket) == []


def test_a_scheduler_runs_into_the_bucket(shop: Instance, objects: Objects, bucket: str) -> None:
    """In processes that were forked from one in which the client had been made."""
    shop.python(
        "from tasks.models import *; from tasks.states import *\n"
        "for _number in range(3):\n    Execution.objects.enqueue(ExportTask.objects.get(), trigger=Trigger.MANUAL)\n"
        "ExportTask.objects.update(overlap='parallel')"
    )
    process = shop.spawn("runscheduler", "--workers=2")
    query = query_of(shop)
    states = "SELECT status, count(*) FROM tasks_execution GROUP BY status"
    assert eventually(lambda: query(states) == [("succeeded", 3)], 60), query(states)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    assert len(objects.keys(bucket)) == 3


def system(instance: Instance, *args: object, check: bool = True) -> Any:
    done = instance.manage("system", *args, "--json", check=check, env={"LANGUAGE": "en"})
    return json.loads(done.stdout) if check else done.stderr


def test_a_backup_with_files_brings_them_back(shop: Instance, objects: Objects, bucket: str) -> None:
    for _time in range(2):
        shop.manage("runtask", "每日订单")
    kept, lost = objects.keys(bucket)
    content = objects.content(bucket, lost)
    made = system(shop, "backup", "--with-files")
    assert made["files"] == 2
    shop.manage("runtask", "每日订单")
    (later,) = set(objects.keys(bucket)) - {kept, lost}
    objects.client.delete_object(Bucket=bucket, Key=lost)

    shop.environment["EXPORTER_EXPORT__S3_BUCKET"] = ""
    refused = system(shop, "restore", made["archive"], "--yes", check=False)
    assert "export.s3_bucket" in refused
    assert query_of(shop)("SELECT count(*) FROM tasks_execution") == [(3,)], "nothing was touched"

    shop.environment["EXPORTER_EXPORT__S3_BUCKET"] = bucket
    done = system(shop, "restore", made["archive"], "--yes")
    assert (done["files"], done["missing"], done["quarantined"]) == (1, 0, 1)
    assert done["quarantine"].startswith(f"s3://{bucket}/reports/quarantine-")
    assert objects.content(bucket, lost) == content
    assert later not in objects.keys(bucket)
    aside = done["quarantine"].removeprefix(f"s3://{bucket}/")
    assert sorted(objects.keys(bucket)) == sorted([kept, lost, f"{aside}/{later.removeprefix('reports/')}"])


def test_a_backup_without_files_says_which_are_missing(shop: Instance, objects: Objects, bucket: str) -> None:
    for _time in range(2):
        shop.manage("runtask", "每日订单")
    _kept, lost = objects.keys(bucket)
    made = system(shop, "backup")
    objects.client.delete_object(Bucket=bucket, Key=lost)
    done = system(shop, "restore", made["archive"], "--yes")
    assert (done["files"], done["missing"], done["quarantined"], done["quarantine"]) == (0, 1, 0, None)
    assert sorted(query_of(shop)("SELECT reason FROM tasks_execution")) == [("",), ("file_missing",)]


def test_nothing_of_boto3_is_loaded_without_a_bucket(instance: Instance) -> None:
    """Every process of a run would carry it."""
    program = (
        "import sys\nfrom tasks.executors.forkserver import preload\nfrom exporter_site import urls\n"
        "from django.core.checks import run_checks\npreload(); run_checks()\n"
        "print([name for name in ('boto3', 'botocore', 'storages', 's3transfer') if name in sys.modules])"
    )
    assert instance.python(program).strip() == "[]"
