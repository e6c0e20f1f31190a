"""Who takes part in the comparison, and how each one is started."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measure import Command
from benchmarks.product import ROOT, Task
from benchmarks.stage import Stage, say

REQUIREMENTS = ROOT / "requirements-benchmarks.txt"
DEFAULT_VENV = ROOT / ".venv-benchmarks"
C_SOURCE = ROOT / "benchmarks" / "peers" / "with_libxlsxwriter.c"
WARM_ROWS = 10

# How to start a contender: the number of rows (None: all), and where the file is wanted.
Start = Callable[[int | None, Path], Command]


@dataclass(frozen=True, slots=True)
class Contender:
    """`ours` and `limit`: the names of those that it is compared with. `slow`: takes part in fewer rounds.

    `files`: asks it for the files of its last run; the others write where they are told.
    """

    name: str
    title: str
    ours: str
    limit: str
    suffix: str
    start: Start
    slow: bool = False
    files: Callable[[], list[Path]] | None = None


class MissingPeer(Exception):
    """A peer can't be had on this machine; the text says why, and what would help."""


def ours(stage: Stage) -> Iterator[Contender]:
    """Our exports from each server in each format; their tasks are made here."""
    sql = {None: "SELECT * FROM orders", WARM_ROWS: f"SELECT * FROM orders LIMIT {WARM_ROWS}"}
    pairs = [(kind, format) for kind in stage.servers for format in ("xlsx", "csv")]
    stage.ours.add_tasks(
        Task(_task_name(kind, format, rows), kind, sql[rows], format) for kind, format in pairs for rows in sql
    )
    limits = {"mysql": "mysql-b", "postgresql": "psql-copy"}
    titles = {"mysql": "MariaDB", "postgresql": "PostgreSQL"}
    for kind, format in pairs:
        name = f"ours-{kind}-{format}"

        def start(rows: int | None, _output: Path, kind: str = kind, format: str = format) -> Command:
            return stage.ours.runtask(_task_name(kind, format, rows))

        title = f"ours: {titles[kind]} → {format}"
        yield Contender(name, title, name, limits[kind], f".{format}", start, files=lambda: _files(stage))


def _files(stage: Stage) -> list[Path]:
    return [path for run in stage.ours.new_runs() for path in run.paths]


def _task_name(kind: str, format: str, rows: int | None) -> str:
    return f"{kind}-{format}-{rows or 'all'}"


def limits(stage: Stage) -> Iterator[Contender]:
    """The servers' own programs, which write text as it comes: nothing that reads the result can be much faster."""
    if "mysql" in stage.servers:
        yield Contender(
            "mysql-b",
            "limit: mysql --quick -B > file",
            "ours-mysql-xlsx",
            "mysql-b",
            ".tsv",
            lambda rows, output: _mysql(stage, rows, output),
        )
    if "postgresql" in stage.servers:
        yield Contender(
            "psql-copy",
            "limit: psql copy to stdout csv > file",
            "ours-postgresql-xlsx",
            "psql-copy",
            ".csv",
            lambda rows, output: _psql(stage, rows, output),
        )


def _mysql(stage: Stage, rows: int | None, output: Path) -> Command:
    host, port, user, password, database = place(stage, "mysql")
    options = (f"--host={host}", f"--port={port}", f"--user={user}", f"--password={password}")
    # --no-defaults must come first.
    args = ("mysql", "--no-defaults", "--quick", "-B", "--default-character-set=utf8mb4", *options)
    return Command((*args, "-e", _select(rows), database), output=output)


def _psql(stage: Stage, rows: int | None, output: Path) -> Command:
    host, port, user, password, database = place(stage, "postgresql")
    options = ("-X", "-h", host, "-p", port, "-U", user, "-d", database)
    copy = f"copy ({_select(rows)}) to stdout csv header"
    return Command(("psql", *options, "-c", copy), env={**os.environ, "PGPASSWORD": password}, output=output)


def peers(stage: Stage, venv: Path) -> Iterator[Contender]:
    """The libraries, each from MariaDB. Those that can't be had are named and left out."""
    for make in (python_peers, c_peer):
        try:
            yield from make(stage, venv)
        except MissingPeer as exc:
            say(f"left out: {exc}")


def python_peers(stage: Stage, venv: Path) -> Iterator[Contender]:
    python = ensure_venv(venv)
    for name, title, slow in (
        ("duckdb", "DuckDB: mysql_query → COPY TO xlsx", False),
        ("rustpy", "rustpy-xlsxwriter (Rust), generator", False),
        ("xlsxwriter", "XlsxWriter, constant_memory", True),
        ("openpyxl", "openpyxl, write-only", True),
    ):
        program = (str(python), "-m", f"benchmarks.peers.with_{name}")
        yield _peer(stage, name, title, program, slow=slow)


def c_peer(stage: Stage, _venv: Path) -> Iterator[Contender]:
    program = compile_c(stage.directory / "with_libxlsxwriter")
    yield _peer(stage, "libxlsxwriter", "C: libmariadb + libxlsxwriter, constant_memory", (str(program),))


def _peer(stage: Stage, name: str, title: str, program: tuple[str, ...], *, slow: bool = False) -> Contender:
    def start(rows: int | None, output: Path) -> Command:
        limit = () if rows is None else ("--rows", str(rows))
        return Command((*program, *place(stage, "mysql"), str(output), *limit), cwd=ROOT)

    return Contender(name, title, "ours-mysql-xlsx", "mysql-b", ".xlsx", start, slow)


def place(stage: Stage, kind: str) -> tuple[str, str, str, str, str]:
    """Host, port, user, password, database."""
    server = stage.servers[kind]
    return server.host, str(server.port), server.reader.username, server.reader.password, stage.databases[kind]


def _select(rows: int | None) -> str:
    return "SELECT * FROM orders" + (f" LIMIT {rows}" if rows is not None else "")


def ensure_venv(venv: Path) -> Path:
    """The Python of the peers' environment, which is made or completed first. Raises MissingPeer."""
    python = venv / "bin" / "python"
    stamp = venv / "requirements.txt"
    if stamp.exists() and stamp.read_bytes() == REQUIREMENTS.read_bytes():
        return python
    say(f"installing the peers into {venv}")
    for command in (
        [sys.executable, "-m", "venv", str(venv)],
        [str(python), "-m", "pip", "install", "--quiet", "-r", str(REQUIREMENTS)],
    ):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise MissingPeer(f"the Python libraries can't be installed: {done.stderr[-2000:]}")
    (venv / ".gitignore").write_text("*\n")
    stamp.write_bytes(REQUIREMENTS.read_bytes())
    return python


def compile_c(program: Path) -> Path:
    """The C peer, compiled to `program`. Raises MissingPeer."""
    try:
        flags = subprocess.run(
            ["pkg-config", "--cflags", "--libs", "xlsxwriter", "libmariadb"], capture_output=True, text=True, check=True
        ).stdout.split()
        subprocess.run(
            ["gcc", "-O2", "-o", str(program), str(C_SOURCE), *flags], capture_output=True, text=True, check=True
        )
    except FileNotFoundError as exc:
        raise MissingPeer(f"C needs {exc.filename}: apt-get install gcc pkg-config") from None
    except subprocess.CalledProcessError as exc:
        raise MissingPeer(
            f"C can't be compiled; apt-get install libxlsxwriter-dev libmariadb-dev may help: {exc.stderr[-2000:]}"
        ) from None
    return program
