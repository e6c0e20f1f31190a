"""How time and memory grow: with rows, with columns, with the length of texts, with exports at the same time."""

import argparse
import math
import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import measure, orders, report
from benchmarks.product import Installation, Task
from benchmarks.stage import Stage, say, stage

ROWS = (100_000, 300_000, 1_000_000, 3_000_000)
LONG_ROWS = (10_000_000,)
COLUMNS = (1, 10, 50, 100, 300, 500)
CELLS = 6_000_000
LONG_WIDE = (200_000, 300)  # rows, columns
LENGTHS = (10, 100, 1_000, 10_000, 100_000, 1_000_000)  # bytes
TEXT_BYTES = 200_000_000
TOGETHER = (1, 2, 4, 8)
TOGETHER_ROWS = 300_000
MOST_TEXTS = 500_000  # rows of a table of texts; what needs more of them reads it several times
MOST_VARCHAR = 1_000  # bytes; longer ones lie in a LONGTEXT
POOL = 4_000_000  # bytes of text that the tables are cut from


@dataclass(frozen=True, slots=True)
class Case:
    """One query. `series` and `size` say what grows; `at_once` is how many exports of it run together."""

    series: str
    size: int
    sql: str
    rows: int
    columns: int
    at_once: int = 1


def run(args: argparse.Namespace) -> None:
    makers = {"rows": _rows, "columns": _columns, "text": _texts, "together": _together}
    chosen = [makers[name] for name in args.only or makers]
    needed = max(_scaled(args, TOGETHER_ROWS), _scaled(args, max(_sizes_of_rows(args))) if _rows in chosen else 1)
    results: list[dict[str, Any]] = []
    with stage(args.kinds, needed) as set_up:
        idle = {count: idle_bytes(set_up.ours, count) for count in TOGETHER}
        for kind in args.kinds:
            for maker in chosen:
                for case in maker(args, set_up, kind):
                    results += [_measure(set_up, kind, format, case, idle[case.at_once]) for format in args.formats]
    _show(results)
    settings = {"scale": args.scale, "long": args.long, "idle_mib": {n: b / report.MIB for n, b in idle.items()}}
    report.write(args.json, "growth", settings, results)


def _scaled(args: argparse.Namespace, number: int) -> int:
    scale: float = args.scale
    return max(1, round(number * scale))


def _sizes_of_rows(args: argparse.Namespace) -> Sequence[int]:
    return ROWS + (LONG_ROWS if args.long else ())


Maker = Callable[[argparse.Namespace, Stage, str], Iterator[Case]]


def _rows(args: argparse.Namespace, set_up: Stage, kind: str) -> Iterator[Case]:
    for size in _sizes_of_rows(args):
        rows = _scaled(args, size)
        yield Case("rows", rows, f"SELECT * FROM orders LIMIT {rows}", rows, len(orders.COLUMNS))


def _columns(args: argparse.Namespace, set_up: Stage, kind: str) -> Iterator[Case]:
    """The columns of `orders` again and again, from a text on: the mix of types stays about the same."""
    sizes = [("columns", CELLS // size, size) for size in COLUMNS]
    for series, most, size in [*sizes, ("wide", *LONG_WIDE)] if args.long else sizes:
        rows = _scaled(args, most)
        names = [orders.COLUMNS[(index + 2) % len(orders.COLUMNS)] for index in range(size)]
        cells = ", ".join(f"o.{name} AS c{number}" for number, name in enumerate(names, start=1))
        yield Case(series, size, _repeated(f"SELECT {cells} FROM orders o", set_up.rows, rows), rows, size)


def _texts(args: argparse.Namespace, set_up: Stage, kind: str) -> Iterator[Case]:
    for length in LENGTHS:
        rows = max(1, _scaled(args, TEXT_BYTES) // length)
        table = f"texts_{length}"
        file = set_up.directory / "texts.tsv"
        _write_texts(file, min(rows, MOST_TEXTS), length)
        wide = "LONGTEXT" if kind == "mysql" else "text"
        set_up.load_column(kind, table, f"varchar({length})" if length <= MOST_VARCHAR else wide, file)
        file.unlink()
        sql = _repeated(f"SELECT body FROM {table}", min(rows, MOST_TEXTS), rows)
        yield Case("text", length, sql, rows, 1)
        set_up.execute(kind, f"DROP TABLE {table}")


def _write_texts(path: Path, count: int, length: int) -> None:
    """`count` different texts of `length` bytes, a few less where a character would be cut; one per line."""
    words = (cell or "" for row in orders.rows(POOL // 150) for cell in (row[4], row[11]))
    pool = " ".join("".join(char for char in word if char.isprintable() and char != "\\") for word in words).encode()
    with path.open("wb") as file:
        for number in range(count):
            start = number * 4_999 % (len(pool) - length)
            text = pool[start : start + length].decode(errors="ignore")
            file.write(text.encode() + b"\n")


def _together(args: argparse.Namespace, set_up: Stage, kind: str) -> Iterator[Case]:
    rows = _scaled(args, TOGETHER_ROWS)
    for count in TOGETHER:
        yield Case("together", count, f"SELECT * FROM orders LIMIT {rows}", rows, len(orders.COLUMNS), at_once=count)


def _repeated(select: str, table_rows: int, rows: int) -> str:
    """`select` as often as its table must be read for `rows` rows.

    Not a join: that may repeat each row at once, which compresses better than any real table. The parts of a UNION ALL
    that is no subquery are streamed one after the other, by both servers.
    """
    return " UNION ALL ".join([select] * math.ceil(rows / table_rows)) + f" LIMIT {rows}"


def _measure(set_up: Stage, kind: str, format: str, case: Case, idle: int) -> dict[str, Any]:
    name = f"{kind}-{format}-{case.series}-{case.size}"
    set_up.ours.add_tasks([Task(name, kind, case.sql, format)])
    cost = measure.run_together([set_up.ours.runtask(name)] * case.at_once)
    runs = set_up.ours.new_runs()
    if len(runs) != case.at_once or any(run.rows != case.rows for run in runs):
        raise RuntimeError(f"{name} exported {[run.rows for run in runs]} rows, not {case.at_once} × {case.rows:,}")
    size = sum(run.bytes for run in runs)
    for run in runs:
        run.remove()
    exported = max(run.seconds for run in runs)
    rows = case.rows * case.at_once
    say(f"{name}: {cost.seconds:.2f} s")
    return {
        "kind": kind,
        "format": format,
        "series": case.series,
        "size": case.size,
        "rows": rows,
        "cells": rows * case.columns,
        "seconds": cost.seconds,
        "export_seconds": exported,
        "cpu_seconds": cost.cpu_seconds,
        "us_per_cell": exported * 1e6 / (rows * case.columns),
        "rows_per_second": rows / cost.seconds,
        "text_mb_per_second": rows * case.size / exported / 1e6 if case.series == "text" else None,
        "peak_mib": cost.peak_bytes / report.MIB,
        "above_idle_mib": (cost.peak_bytes - idle) / report.MIB,
        "file_mb": size / 1e6,
    }


def idle_bytes(ours: Installation, count: int) -> int:
    """Memory in bytes of `count` workers of this installation together that have nothing to do."""
    command = ours.program("idle")
    with ExitStack() as stack:
        processes = [
            stack.enter_context(
                subprocess.Popen(
                    command.args, env=command.env, cwd=command.cwd, stdin=subprocess.PIPE, stdout=subprocess.PIPE
                )
            )
            for _number in range(count)
        ]
        for process in processes:
            assert process.stdout is not None
            if process.stdout.readline() != b"ready\n":
                raise RuntimeError("the idle worker did not start")
        return sum(measure.tree_bytes(process.pid) for process in processes)


def _show(results: Sequence[dict[str, Any]]) -> None:
    shown = {
        "seconds": "s",
        "export_seconds": "export s",
        "us_per_cell": "µs/cell",
        "text_mb_per_second": "text MB/s",
        "rows_per_second": "rows/s",
        "peak_mib": "peak MiB",
        "above_idle_mib": "above idle",
        "file_mb": "file MB",
    }
    groups = dict.fromkeys((r["series"], r["kind"], r["format"]) for r in results)
    for series, kind, format in groups:
        print(f"\n{series}: {kind} → {format}" + (f" on {os.cpu_count()} cores" if series == "together" else ""))
        lines = [r for r in results if (r["series"], r["kind"], r["format"]) == (series, kind, format)]
        report.table(("size", *shown.values()), ([f"{r['size']:,}", *(r[name] for name in shown)] for r in lines))
