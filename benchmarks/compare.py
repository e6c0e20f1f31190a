"""Our exports against other libraries and against the servers' own programs, in turns."""

import argparse
import zipfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks import contenders, measure, report
from benchmarks.contenders import WARM_ROWS, Contender
from benchmarks.measure import Measured
from benchmarks.stage import Stage, say, stage

# What one contender cost, by round.
Rounds = dict[str, dict[int, Measured]]


class WrongResult(Exception):
    """A contender ended well, but its file does not hold the rows."""


def run(args: argparse.Namespace) -> None:
    with stage(("mysql", "postgresql"), args.rows) as set_up:
        taking_part = _chosen(set_up, args.only, args.venv)
        for contender in taking_part:
            say(f"trying {contender.name}")
            _run(contender, WARM_ROWS, set_up.directory, WARM_ROWS)
        measured, sizes = _rounds(taking_part, args, set_up.directory)
    results = [_result(contender, measured, sizes) for contender in taking_part]
    _show(results)
    settings = {name: getattr(args, name) for name in ("rows", "rounds", "slow_rounds")}
    report.write(args.json, "compare", settings, results)


def _chosen(set_up: Stage, only: Sequence[str], venv: Path) -> list[Contender]:
    """All contenders, or those named; in the order in which they run. Raises SystemExit for an unknown name."""
    found = [*contenders.limits(set_up), *contenders.ours(set_up), *contenders.peers(set_up, venv)]
    unknown = set(only) - {contender.name for contender in found}
    if unknown:
        raise SystemExit(f"unknown: {', '.join(unknown)}. Known: {', '.join(each.name for each in found)}")
    return [contender for contender in found if not only or contender.name in only]


def _rounds(
    taking_part: Sequence[Contender], args: argparse.Namespace, directory: Path
) -> tuple[Rounds, dict[str, int]]:
    """Each contender once per round, all in turns: what the machine does beside it, hits all of them."""
    measured: Rounds = defaultdict(dict)
    sizes: dict[str, int] = {}
    for number in range(args.rounds):
        for contender in taking_part:
            if contender.slow and number >= args.slow_rounds:
                continue
            cost, sizes[contender.name] = _run(contender, None, directory, args.rows if number == 0 else None)
            measured[contender.name][number] = cost
            say(f"round {number + 1}: {contender.name} {cost.seconds:.2f} s")
    return measured, sizes


def _run(contender: Contender, rows: int | None, directory: Path, expected: int | None) -> tuple[Measured, int]:
    """One run of `rows` rows (None: all). Returns its cost and the size of its files in bytes; they are removed.

    With `expected` the rows in them are counted, behind the measurement. Raises CommandFailed, WrongResult.
    """
    output = directory / f"{contender.name}{contender.suffix}"
    cost = measure.run(contender.start(rows, output))
    paths = contender.files() if contender.files else [output]
    size = sum(path.stat().st_size for path in paths)
    if expected is not None:
        found = sum(_count_rows(path) for path in paths)
        if found < expected + 1:  # with the header
            raise WrongResult(f"{contender.name} wrote {found:,} rows with the header, not {expected + 1:,}")
    for path in paths:
        path.unlink()
    return cost, size


def _count_rows(path: Path) -> int:
    """Rows with headers; in text formats the lines, of which a row may have several."""
    if path.suffix != ".xlsx":
        with path.open("rb") as file:
            return sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))
    with zipfile.ZipFile(path) as archive:
        sheets = [name for name in archive.namelist() if name.startswith("xl/worksheets/sheet")]
        return sum(sum(block.count(b"</row>") for block in _blocks(archive, name)) for name in sheets)


def _blocks(archive: zipfile.ZipFile, name: str) -> Iterator[bytes]:
    """The entry in pieces; each begins with what the piece before has behind its last tag."""
    with archive.open(name) as file:
        rest = b""
        while block := file.read(1 << 20):
            head, tag, rest = (rest + block).rpartition(b">")
            yield head + tag


def _result(contender: Contender, measured: Rounds, sizes: dict[str, int]) -> dict[str, object]:
    mine = measured[contender.name]
    return {
        "name": contender.name,
        "title": contender.title,
        "seconds": report.median(cost.seconds for cost in mine.values()),
        "cpu_seconds": report.median(cost.cpu_seconds for cost in mine.values()),
        "peak_mib": max(cost.peak_bytes for cost in mine.values()) / report.MIB,
        "file_mb": sizes[contender.name] / 1e6,
        "to_ours": _ratio(mine, measured.get(contender.ours, {})),
        "to_limit": _ratio(mine, measured.get(contender.limit, {})),
        "rounds": [asdict(cost) for cost in mine.values()],
    }


def _ratio(mine: dict[int, Measured], other: dict[int, Measured]) -> float | None:
    """The median of the ratios of the rounds that both took part in."""
    return report.median(mine[number].seconds / other[number].seconds for number in mine.keys() & other.keys())


def _show(results: Sequence[dict[str, object]]) -> None:
    names = ("title", "seconds", "cpu_seconds", "peak_mib", "file_mb", "to_ours", "to_limit")
    heads = ("", "wall s", "CPU s", "peak MiB", "file MB", "× ours", "× limit")
    report.table(heads, ([result[name] for name in names] for result in results))
