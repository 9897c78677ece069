"""Draw a training run's log as a picture: losses, exact match of each kind, and level.

    python -m training.curves runs/next/log.jsonl --out curves.png

Figures are drawn without smoothing; the trainer logs means over recent batches.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, ScalarFormatter

from training.rendering.texts import KINDS

Row = dict[str, float]


def read_log(path: Path) -> list[Row]:
    """Return the rows of a log, in order of time; a restart's rows that it repeats are dropped.

    Raises:
        ValueError: A line is not JSON, or there is none.
    """
    rows: list[Row] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        while rows and rows[-1]["images"] >= row["images"]:
            rows.pop()
        rows.append(row)
    if not rows:
        raise ValueError(f"{path} is empty")
    return rows


def _draw_series(axes: Axes, rows: list[Row], names: tuple[str, ...], title: str) -> None:
    for name in names:
        points = [(row["images"] / 1000, row[name]) for row in rows if name in row]
        if points:
            axes.plot(*zip(*points, strict=True), label=name, linewidth=1.2)
    axes.set_title(title, loc="left")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)


def draw_curves(rows: list[Row]) -> Figure:
    """Return the picture of a run."""
    figure = Figure(figsize=(9, 8), layout="constrained")
    losses, matches, pace = figure.subplots(3, 1, sharex=True, height_ratios=(3, 3, 1))
    _draw_series(losses, rows, ("loss", "glyph"), "loss: next token, character in a box")
    losses.set_yscale("log")
    losses.yaxis.set_minor_locator(LogLocator(subs=(2, 3, 5)))
    for formatter in (losses.yaxis.set_major_formatter, losses.yaxis.set_minor_formatter):
        formatter(ScalarFormatter())
    _draw_series(matches, rows, KINDS, "exact match on fresh captchas, letter case ignored")
    matches.set_ylim(0, 1)
    _draw_series(pace, rows, ("level",), "level of the curriculum")
    pace.set_xlabel("thousand images")
    return figure


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("log", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="PNG or SVG")
    arguments = parser.parse_args()
    draw_curves(read_log(arguments.log)).savefig(arguments.out, dpi=110)
    print(f"wrote {arguments.out}")


if __name__ == "__main__":
    main()
