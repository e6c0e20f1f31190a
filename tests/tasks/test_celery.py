"""Runs by Celery workers over a real Redis: once each, whatever dies."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from exporter_site.config import BASE_DIR
from tests import servers
from tests.instance import Instance
from tests.servers.mariadb import MariaDB
from tests.servers.redis import Redis
from tests.tasks.test_executors import ENQUEUE
from tests.tasks.test_runtask import add_task, eventually, files_below, last_execution, server_shop

SLOW = "SELECT a.seq, SLEEP(0.02) AS s FROM seq_1_to_200 a"  # 4 seconds


@pytest.fixture(scope="module")
def redis() -> Iterator[Redis]:
    try:
        server = Redis()
    except servers.MissingServer as exc:
        if os.environ.get("EXPORTER_TESTS_ALLOW_MISSING") == "1":
            pytest.skip(str(exc))
        pytest.fail(str(exc), pytrace=False)
    yield server.start()
    server.stop()


@pytest.fixture
def celery(instance: Instance, redis: Redis) -> Instance:
    """An installation that hands its runs to Celery."""
    instance.environment["EXPORTER_SCHEDULER__EXECUTOR"] = "celery"
    instance.environment["EXPORTER_CELERY__BROKER_URL"] = redis.url
    return instance


def start_worker(instance: Instance) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            "celery",
            "-A",
            "exporter_site.celery",
            "worker",
            "--concurrency=2",
            "--loglevel=WARNING",
        ],
        cwd=BASE_DIR,
        env=instance.environment,
        stdin=subprocess.DEVNULL,
        preexec_fn=servers.die_with_parent(signal.SIGKILL),
    )


@pytest.fixture
def worker(celery: Instance) -> Iterator[subprocess.Popen[bytes]]:
    process = start_worker(celery)
    yield process
    process.kill()
    process.wait()


def add_slow(instance: Instance, mariadb: MariaDB, **fields: object) -> None:
    server_shop(instance, mariadb, "mysql")
    add_task(instance, name="slow", data_source="mysql", sql=SLOW, **fields)


def test_a_worker_carries_out_what_is_queued_and_a_message_that_comes_twice_does_nothing(
    celery: Instance, worker: subprocess.Popen[bytes], mariadb: MariaDB
) -> None:
    add_slow(celery, mariadb)
    celery.python(ENQUEUE)
    celery.spawn("runscheduler")
    assert eventually(lambda: last_execution(celery)["status"] == "running")
    celery.python(
        "from tasks.executors.celery_worker import run_execution\nfor _ in range(3): run_execution.apply_async(args=[1])"
    )
    assert eventually(lambda: last_execution(celery)["status"] == "succeeded")
    time.sleep(1)
    assert last_execution(celery)["attempt"] == 1
    assert len(files_below(celery.output_dir)) == 1


def test_a_worker_that_is_killed_is_replaced_and_the_run_is_taken_up_once(
    celery: Instance, worker: subprocess.Popen[bytes], mariadb: MariaDB
) -> None:
    add_slow(celery, mariadb, max_retries=1, retry_delay=1)
    celery.python(ENQUEUE)
    celery.spawn("runscheduler")
    assert eventually(lambda: bool(mariadb.running("exp:1:1")))
    pid = int(last_execution(celery)["worker"].split(":")[1])
    assert pid != worker.pid
    os.kill(pid, signal.SIGKILL)
    assert eventually(lambda: last_execution(celery)["status"] == "succeeded", 60)
    row = last_execution(celery)
    assert (row["attempt"], [attempt["reason"] for attempt in row["history"]]) == (2, ["worker_lost"])
    assert len(files_below(celery.output_dir)) == 1


def test_while_the_broker_is_away_runs_wait_and_then_go_on(
    celery: Instance, redis: Redis, worker: subprocess.Popen[bytes], mariadb: MariaDB
) -> None:
    add_slow(celery, mariadb)
    redis.stop()
    try:
        scheduler = celery.spawn("runscheduler")
        celery.python(ENQUEUE)
        time.sleep(5)
        assert last_execution(celery)["status"] == "queued"
        assert scheduler.poll() is None
    finally:
        redis.start()
    assert eventually(lambda: last_execution(celery)["status"] == "succeeded", 90)
    assert last_execution(celery)["attempt"] == 1
    said = Path(celery.log_file).read_text(encoding="utf-8")
    assert 1 <= said.count("the broker can't be reached") < 10


def test_without_a_broker_the_scheduler_does_not_start(instance: Instance) -> None:
    done = instance.manage("runscheduler", "--executor=celery", "--once", check=False)
    assert done.returncode == 1
    assert "celery.broker_url" in done.stderr
