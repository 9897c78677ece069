"""The reliability diagram and the coverage curve as SVG.

An SVG refers to nothing outside itself; its letters are outlines, so that it needs no font.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from evaluation.accuracy.coverage import coverage_curve, reliability
from evaluation.accuracy.lengths import by_length
from evaluation.accuracy.predictions import ScoredFamilies, all_predictions
from qwen_captcha.scores import wilson_interval

# Our reader first, then the competitors.
COLOURS = ("#1f5fa8", "#c8663a", "#7a8b2f")
SIZE_INCHES = (5.6, 4.2)
GREY = "#8a8a8a"
STYLE: dict[Any, Any] = {
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "axes.axisbelow": True,
    "svg.fonttype": "path",
    # Equal figures give equal files.
    "svg.hashsalt": "evaluation",
}

# A reader's name and its predictions.
Named = Sequence[tuple[str, ScoredFamilies]]


def reliability_diagram(readers: Named) -> str:
    """Return accuracy against confidence in ten bins; a dot's size is the share of images."""
    with rc_context(STYLE):
        figure = Figure(figsize=SIZE_INCHES, layout="constrained")
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle="--", label="calibrated")
        for (name, scored), colour in zip(readers, COLOURS, strict=False):
            predictions = all_predictions(scored)
            bins = reliability(predictions)
            x, y = [b.confidence for b in bins], [b.accuracy for b in bins]
            sizes = [12 + 300 * b.images / len(predictions) for b in bins]
            axes.plot(x, y, color=colour, linewidth=1.2, label=name)
            axes.scatter(x, y, s=sizes, color=colour, alpha=0.55, linewidths=0)
        _finish(axes, "mean confidence of a bin", "share right")
        axes.legend(loc="upper left", frameon=False)
        return _svg(figure)


def coverage_diagram(readers: Named) -> str:
    """Return accuracy of the accepted answers against the share of images with one."""
    with rc_context(STYLE):
        figure = Figure(figsize=SIZE_INCHES, layout="constrained")
        axes = figure.subplots()
        for (name, scored), colour in zip(readers, COLOURS, strict=False):
            points = coverage_curve(all_predictions(scored))
            x = [point.answered for point in points]
            y = [point.read / point.answered for point in points]
            axes.plot(x, y, color=colour, linewidth=1.6, label=name, drawstyle="steps-post")
        for accuracy in (0.99, 0.95):
            axes.axhline(accuracy, color=GREY, linewidth=0.8, linestyle=":")
        _finish(axes, "share of images answered, surest first", "share right of those")
        axes.legend(loc="lower left", frameon=False)
        return _svg(figure)


def length_diagram(readers: Named) -> str:
    """Return accuracy against the number of characters, with 95 % intervals of our reader."""
    with rc_context(STYLE):
        figure = Figure(figsize=SIZE_INCHES, layout="constrained")
        axes = figure.subplots()
        for number, (name, scored) in enumerate(readers[: len(COLOURS)]):
            rows = by_length(all_predictions(scored))
            x = [row.characters for row in rows]
            y = [row.right / row.images for row in rows]
            axes.plot(x, y, color=COLOURS[number], linewidth=1.6, marker="o", label=name)
            if number == 0:
                bounds = [wilson_interval(row.right, row.images) for row in rows]
                low, high = zip(*bounds, strict=True) if bounds else ((), ())
                axes.fill_between(x, low, high, color=COLOURS[0], alpha=0.15, linewidth=0)
                axes.set_xticks(x)
        axes.set(ylim=(-0.02, 1.04), xlabel="characters shown", ylabel="share right")
        axes.legend(loc="lower left", frameon=False)
        return _svg(figure)


def _finish(axes: Axes, across: str, up: str) -> None:
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.04), xlabel=across, ylabel=up)


def _svg(figure: Figure) -> str:
    """Return the figure from its `<svg` on, without a date or a reference to a DTD."""
    file = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(file, format="svg", metadata=nothing)
    content = file.getvalue()
    return content[content.index("<svg") :]
