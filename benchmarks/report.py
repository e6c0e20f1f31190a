"""What every benchmark does with its figures: a table for people, and a JSON file that says where they come from."""

import json
import os
import platform
import statistics
import subprocess
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmarks.product import ROOT

MIB = 1 << 20


def write(path: Path | None, benchmark: str, settings: dict[str, Any], results: Sequence[dict[str, Any]]) -> None:
    """`results` with the machine and the settings as JSON; nothing without a path."""
    if path is None:
        return
    content = {"benchmark": benchmark, "settings": settings, "machine": machine(), "results": list(results)}
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    print(f"\nwritten to {path}")


def machine() -> dict[str, Any]:
    return {
        "measured_at": datetime.now().astimezone().isoformat(timespec="seconds"),
        "commit": _commit(),
        "python": platform.python_version(),
        "system": platform.platform(),
        "processor": _first(Path("/proc/cpuinfo"), "model name"),
        "cores": os.cpu_count(),
        "memory_kib": _first(Path("/proc/meminfo"), "MemTotal"),
    }


def _first(path: Path, name: str) -> str:
    lines = (line.partition(":") for line in path.read_text().splitlines())
    return next((value.strip() for key, _colon, value in lines if key.strip() == name), "")


def _commit() -> str:
    """The commit that was measured, with a + when files differ from it; "" outside a repository."""
    try:
        told = [
            subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=True).stdout
            for arguments in (["rev-parse", "--short", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        ]
    except (OSError, subprocess.CalledProcessError):
        return ""
    return told[0].strip() + ("+" if told[1].strip() else "")


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print rows in columns; the first one to the left, the others to the right."""
    cells = [list(heads), *([shown(cell) for cell in row] for row in rows)]
    widths = [max(len(line[index]) for line in cells) for index in range(len(heads))]
    for line in cells:
        first, *others = (
            cell.ljust(width) if not i else cell.rjust(width) for i, (cell, width) in _pairs(line, widths)
        )
        print("  ".join([first, *others]))


def _pairs(line: Sequence[str], widths: Sequence[int]) -> Iterable[tuple[int, tuple[str, int]]]:
    return enumerate(zip(line, widths, strict=True))


def shown(cell: object) -> str:
    if cell is None:
        return "-"
    return f"{cell:,.2f}" if isinstance(cell, float) else f"{cell:,}" if isinstance(cell, int) else str(cell)


def median(values: Iterable[float]) -> float | None:
    """None of nothing."""
    found = list(values)
    return statistics.median(found) if found else None
