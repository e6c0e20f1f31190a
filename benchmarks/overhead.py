"""What the product costs above its own connector and writer, and how long the smallest export takes.

Also here: the profile of connector and writer, which runs in the same way.
"""

import argparse
import json
import statistics
from typing import Any

from benchmarks import measure, report
from benchmarks.product import Task
from benchmarks.stage import Stage, say, stage

FORMATS = ("xlsx", "csv")
SMALL_ROWS = 10
SMALL_TIMES = 20
TOP = 25  # functions in the profile


def run(args: argparse.Namespace) -> None:
    results: list[dict[str, Any]] = []
    with stage(args.kinds, args.rows) as set_up:
        _add_tasks(set_up)
        for kind in args.kinds:
            for format in FORMATS:
                say(f"{kind} → {format}")
                results.append({"kind": kind, "format": format} | _measure(set_up, f"{kind}-{format}", args.rounds))
    report.table(
        ("", "bare s", "product s", "product / bare", f"{SMALL_ROWS} rows ms"),
        (
            (f"{r['kind']} → {r['format']}", r["bare"], r["product"], r["ratio"], r["small_seconds"] * 1000)
            for r in results
        ),
    )
    report.write(args.json, "overhead", {"rows": args.rows, "rounds": args.rounds}, results)


def profile(args: argparse.Namespace) -> None:
    with stage([args.kind], args.rows) as set_up:
        _add_tasks(set_up)
        say("profiling; a profiled export takes several times as long")
        print(_inside(set_up, "profile", f"{args.kind}-{args.format}", TOP))


def _add_tasks(set_up: Stage) -> None:
    set_up.ours.add_tasks(
        Task(f"{kind}-{format}{suffix}", kind, f"SELECT * FROM orders{limit}", format)
        for kind in set_up.servers
        for format in FORMATS
        for suffix, limit in (("", ""), ("-small", f" LIMIT {SMALL_ROWS}"))
    )


def _measure(set_up: Stage, task: str, rounds: int) -> dict[str, Any]:
    pairs = json.loads(_inside(set_up, "overhead", task, rounds))
    return {
        "bare": statistics.median(pair["bare"] for pair in pairs),
        "product": statistics.median(pair["product"] for pair in pairs),
        "ratio": statistics.median(pair["product"] / pair["bare"] for pair in pairs),
        "small_seconds": statistics.median(json.loads(_inside(set_up, "small", f"{task}-small", SMALL_TIMES))),
        "rounds": pairs,
    }


def _inside(set_up: Stage, *args: object) -> str:
    return measure.run(set_up.ours.program(*args)).printed[0]
