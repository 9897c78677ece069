"""Rounds of alternating measurements: medians, spreads, ratios and their table.

A ratio is taken within a round, whose measurements are next to each other in time, so that a slow
phase of the machine affects both sides.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from evaluation.accuracy.table import aligned


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of a few measurements, the lowest and the highest."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Return the spread of at least one value."""
        return cls(median(values), min(values), max(values))


@dataclass(frozen=True, slots=True)
class Way:
    """One way of reading images, measured over rounds.

    Attributes:
        name: Name of the way.
        rounds: Images per second of each round.
        images_per_s: Spread of `rounds`.
        times_baseline: Spread of each round's ratio to the first way.
    """

    name: str
    rounds: tuple[float, ...]
    images_per_s: Spread
    times_baseline: Spread


def measure_rounds(
    ways: Mapping[str, Callable[[], object]],
    images: int,
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
) -> list[Way]:
    """Measure each way once per round, in reverse order in every other round.

    Args:
        ways: Name -> function that reads all images once. The first way is the baseline.
        images: Number of images that each way reads.
        rounds: Number of rounds.
        clock: Monotonic clock, in seconds.
    """
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds):
        names = list(ways) if number % 2 == 0 else list(ways)[::-1]
        for name in names:
            start = clock()
            ways[name]()
            rates[name].append(images / (clock() - start))
    baseline = rates[next(iter(ways))]
    return [_way(name, measured, baseline) for name, measured in rates.items()]


def _way(name: str, rates: Sequence[float], baseline: Sequence[float]) -> Way:
    ratios = [rate / base for rate, base in zip(rates, baseline, strict=True)]
    return Way(name, tuple(rates), Spread.of(rates), Spread.of(ratios))


def agreement(texts: Sequence[str | None], reference: Sequence[str | None]) -> float:
    """Return the share of images with equal texts; there is at least one image."""
    return sum(a == b for a, b in zip(texts, reference, strict=True)) / len(reference)


def render_ways(ways: Sequence[Way]) -> str:
    """Return the table of ways: images per second and times the first way, with spreads."""
    header = ["", "images/s", "lowest – highest", "times", "lowest – highest"]
    rows = [_row(way) for way in ways]
    return "\n".join(aligned([header, None, *rows]))


def _row(way: Way) -> list[str]:
    rate, ratio = way.images_per_s, way.times_baseline
    return [
        way.name,
        f"{rate.median:.1f}",
        f"{rate.low:.1f} – {rate.high:.1f}",
        f"{ratio.median:.2f}",
        f"{ratio.low:.2f} – {ratio.high:.2f}",
    ]
