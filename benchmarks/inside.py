"""What runs inside an installation's process, with Django ready: the idle worker, the bare loop, the profile.

    python -m benchmarks.inside idle
    python -m benchmarks.inside overhead TASK ROUNDS     prints JSON
    python -m benchmarks.inside small TASK TIMES         prints JSON
    python -m benchmarks.inside profile TASK TOP         prints the table of cProfile

The environment says which installation (benchmarks/product.py).
"""

import cProfile
import json
import pstats
import shutil
import sys
import tempfile
import time
from pathlib import Path

import django

django.setup()

from django.conf import settings  # noqa: E402
from django.utils import timezone  # noqa: E402

from datasources.connectors.base import Query  # noqa: E402
from exporter_site.worker import worker_name  # noqa: E402
from tasks import files, runner  # noqa: E402
from tasks.models import Execution, ExportTask  # noqa: E402
from tasks.states import Status, Trigger  # noqa: E402
from tasks.writers import writers  # noqa: E402
from tasks.writers.base import WriterOptions  # noqa: E402


def idle() -> None:
    """A worker that has everything imported and nothing to do, until its input ends."""
    print("ready", flush=True)
    sys.stdin.read()


def overhead(task: ExportTask, rounds: int) -> None:
    """The bare loop and the whole run in turns, in this one warm process."""
    bare(task), product(task)
    print(json.dumps([{"bare": bare(task), "product": product(task)} for _round in range(rounds)]))


def small(task: ExportTask, times: int) -> None:
    product(task)
    print(json.dumps([product(task) for _time in range(times)]))


def profile(task: ExportTask, top: int) -> None:
    """Only this thread is seen: what a writer compresses in another one is not in the table."""
    bare(task)
    profiler = cProfile.Profile()
    profiler.enable()
    bare(task)
    profiler.disable()
    pstats.Stats(profiler).sort_stats("tottime").print_stats(top)


def bare(task: ExportTask) -> float:
    """Seconds of connector and writer alone: no execution, no supervisor, nothing published."""
    directory = Path(tempfile.mkdtemp(dir=_existing(files.temp_root())))
    export = settings.CONFIG.export
    options = WriterOptions(task.name, export.max_file_size, task.format_options)
    started = time.perf_counter()
    with task.data_source.connector(timezone=task.timezone, label="exp:0:1", query_timeout=3600) as connector:
        result = connector.stream(Query((task.sql,)), export.chunk_size)
        writer = writers.get(task.format)(directory, "bare", result.columns, options)
        for batch in result.batches:
            writer.write(batch)
        writer.finish()
    seconds = time.perf_counter() - started
    shutil.rmtree(directory)
    return seconds


def product(task: ExportTask) -> float:
    """Seconds of an execution: queued, claimed, run, published."""
    started = time.perf_counter()
    queued = Execution.objects.enqueue(task, trigger=Trigger.CLI, planned_at=timezone.now())
    execution = Execution.objects.claim(queued.pk, worker=worker_name())
    assert execution is not None
    ended = runner.run(execution)
    seconds = time.perf_counter() - started
    if ended.status != Status.SUCCEEDED:
        raise RuntimeError(f"{ended.status} {ended.reason}: {ended.error}")
    for file in ended.stored_files():
        file.store.remove(file.place)
    return seconds


def _existing(directory: Path) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def main(program: str, *args: str) -> None:
    if program == "idle":
        idle()
        return
    name, number = args
    task = ExportTask.objects.select_related("data_source").get(name=name)
    {"overhead": overhead, "small": small, "profile": profile}[program](task, int(number))


if __name__ == "__main__":
    main(*sys.argv[1:])
