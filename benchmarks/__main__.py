"""python -m benchmarks compare | growth | overhead | profile | scheduler | logs | admin-lists. See benchmarks/README.md."""

import argparse
import signal
import sys
from pathlib import Path

from benchmarks import compare, growth, logs, overhead, scheduling
from benchmarks.contenders import DEFAULT_VENV
from benchmarks.measure import CommandFailed
from benchmarks.servers import KINDS
from tests.servers import MissingServer

FORMATS = ("xlsx", "csv")


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m benchmarks", description="Measures the data export system.")
    verbs = top.add_subparsers(required=True)

    comparing = verbs.add_parser("compare", help="our exports against other libraries and the servers' programs")
    comparing.add_argument("--rows", type=int, default=1_000_000)
    comparing.add_argument("--rounds", type=int, default=3)
    comparing.add_argument("--slow-rounds", type=int, default=1, help="rounds of XlsxWriter and openpyxl")
    comparing.add_argument("--only", nargs="+", default=[], metavar="NAME", help="these contenders")
    comparing.add_argument("--venv", type=Path, default=DEFAULT_VENV, help="the peers' environment, made when missing")
    comparing.set_defaults(run=compare.run)

    growing = verbs.add_parser("growth", help="how time and memory grow with rows, columns, texts and exports at once")
    growing.add_argument("--only", nargs="+", choices=("rows", "columns", "text", "together"))
    growing.add_argument("--formats", nargs="+", choices=FORMATS, default=FORMATS)
    growing.add_argument("--long", action="store_true", help="also 10 million rows, and 200,000 rows of 300 columns")
    growing.add_argument("--scale", type=float, default=1.0, help="all sizes times this; 0.02 to try it out")
    _add_kinds(growing)
    growing.set_defaults(run=growth.run)

    above = verbs.add_parser("overhead", help="the product against its bare connector and writer; exports of 10 rows")
    above.add_argument("--rows", type=int, default=300_000)
    above.add_argument("--rounds", type=int, default=5)
    _add_kinds(above)
    above.set_defaults(run=overhead.run)

    profiling = verbs.add_parser("profile", help="where connector and writer spend their time")
    profiling.add_argument("--kind", choices=KINDS, default="mysql")
    profiling.add_argument("--format", choices=FORMATS, default="xlsx")
    profiling.add_argument("--rows", type=int, default=300_000)
    profiling.set_defaults(run=overhead.profile)

    planning = verbs.add_parser("scheduler", help="how fast the scheduler starts what is due, what it costs when idle")
    planning.add_argument("--system-db", nargs="+", choices=scheduling.KINDS, default=scheduling.KINDS)
    planning.add_argument("--tasks", type=int, default=1000, help="due in the same moment")
    planning.add_argument("--schedulers", type=int, default=2)
    planning.add_argument("--workers", type=int, default=4, help="of each scheduler")
    planning.add_argument("--enabled", type=int, default=10_000, help="tasks for the idle tick")
    planning.add_argument("--executions", type=int, default=5000, help="for the growth of memory")
    planning.set_defaults(run=scheduling.run)

    looking = verbs.add_parser("logs", help="how long GET /api/logs takes over a long log")
    looking.set_defaults(run=logs.run)
    leafing = verbs.add_parser("admin-lists", help="how long the admin's list of executions takes over a long log")
    leafing.set_defaults(run=logs.run_admin)
    for verb in (looking, leafing):
        verb.add_argument("--system-db", nargs="+", choices=logs.KINDS, default=logs.KINDS)
        verb.add_argument("--rows", type=int, default=100_000)
        verb.add_argument("--rounds", type=int, default=100, help="requests of each view")

    for verb in (comparing, growing, above, planning, looking, leafing):
        verb.add_argument("--json", type=Path, help="also write the figures to this file")
    return top


def _add_kinds(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--kinds", nargs="+", choices=KINDS, default=tuple(KINDS), help="the servers to read from")


def main() -> None:
    args = parser().parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # an exit, so that servers and files are removed
    try:
        args.run(args)
    except (CommandFailed, MissingServer) as exc:
        sys.exit(str(exc))


if __name__ == "__main__":
    main()
