"""Draws the figures that the benchmarks wrote as JSON: python -m benchmarks.plot FIGURES.json … --output DIRECTORY.

Needs matplotlib, so the environment of the peers: .venv-benchmarks/bin/python -m benchmarks.plot …
"""

import argparse
import itertools
import json
import math
from pathlib import Path
from typing import Any

import matplotlib  # type: ignore[import-not-found,unused-ignore]

matplotlib.use("Agg")

from matplotlib import pyplot, ticker  # type: ignore[import-not-found,unused-ignore]

OURS, LIMIT, OTHERS = "#2f6fde", "#9aa5b1", "#e0b252"
COLORS = {"mysql": "#2f6fde", "postgresql": "#e07b39"}
LINES = {"xlsx": "o-", "csv": "o--"}
AXES = {
    "rows": ("rows", "export_seconds", "seconds", "log"),
    "columns": ("columns, at a constant number of cells", "us_per_cell", "µs per cell", "log"),
    "text": ("bytes per text, at a constant number of bytes", "text_mb_per_second", "MB of text per second", "log"),
    "together": ("exports at once", "rows_per_second", "rows per second, together", "linear"),
}


def draw_compare(figures: dict[str, Any], path: Path) -> None:
    """Bars of seconds, the fastest on top; the peak of memory stands behind each."""
    results = sorted(figures["results"], key=lambda result: float(result["seconds"]), reverse=True)
    figure, axes = pyplot.subplots(figsize=(9, 0.42 * len(results) + 1.2), layout="constrained")
    bars = axes.barh(
        [result["title"] for result in results],
        [result["seconds"] for result in results],
        color=[_color(result["name"], result["title"]) for result in results],
    )
    axes.bar_label(bars, [f"{r['seconds']:.1f} s · {r['peak_mib']:.0f} MiB" for r in results], padding=4, fontsize=8)
    axes.margins(x=0.22)
    axes.set_xlabel(f"seconds for {figures['settings']['rows']:,} rows × 12 columns; peak of memory")
    _finish(figure, figures, path)


def _color(name: str, title: str) -> str:
    return OURS if name.startswith("ours") else LIMIT if title.startswith("limit") else OTHERS


def draw_growth(figures: dict[str, Any], path: Path) -> None:
    """One panel for each series that was measured, and one for the memory by rows."""
    series = [name for name in AXES if any(result["series"] == name for result in figures["results"])]
    panels = [(name, *AXES[name]) for name in series]
    if "rows" in series:
        panels.append(("rows", "rows", "above_idle_mib", "MiB above an idle worker", "log"))
    across = min(3, len(panels))
    down = math.ceil(len(panels) / across)
    figure, grid = pyplot.subplots(down, across, figsize=(4 * across, 3.2 * down), layout="constrained", squeeze=False)
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    for axes, (name, label, value, unit, scale) in zip(grid.flat, panels, strict=False):
        for kind, format in itertools.product(COLORS, LINES):
            points = [r for r in figures["results"] if (r["series"], r["kind"], r["format"]) == (name, kind, format)]
            if points:
                sizes, values = [r["size"] for r in points], [r[value] for r in points]
                axes.plot(sizes, values, LINES[format], color=COLORS[kind], markersize=4, label=f"{kind} → {format}")
        axes.set_xscale(scale)
        axes.xaxis.set_minor_formatter(ticker.NullFormatter())
        if value == "export_seconds":
            axes.set_yscale("log")
        else:
            axes.set_ylim(bottom=0)
        axes.set_xlabel(label)
        axes.set_ylabel(unit)
        axes.grid(alpha=0.3)
    grid[0][0].legend(fontsize=8)
    _finish(figure, figures, path)


def _finish(figure: Any, figures: dict[str, Any], path: Path) -> None:
    machine = figures["machine"]
    where = (
        f"{machine['processor']}, {machine['cores']} cores, Python {machine['python']}, {machine['measured_at'][:10]}"
    )
    figure.suptitle(where, fontsize=8, color="#666666")
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
    print(path)


DRAWINGS = {"compare": draw_compare, "growth": draw_growth}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plot", description=__doc__)
    parser.add_argument("figures", nargs="+", type=Path, help="JSON files of `compare` and `growth`")
    parser.add_argument("--output", type=Path, default=Path("docs/images"), help="a directory")
    parser.add_argument("--format", choices=("png", "svg"), default="png")
    args = parser.parse_args()
    for file in args.figures:
        figures = json.loads(file.read_text())
        if figures["benchmark"] in DRAWINGS:
            target = args.output / f"benchmark-{figures['benchmark']}.{args.format}"
            DRAWINGS[figures["benchmark"]](figures, target)


if __name__ == "__main__":
    main()
