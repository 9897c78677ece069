"""Scores of text recognition and of confidence, as pure functions.

These are exact and caseless match, edit distance, CER, NED, the Wilson interval, ECE and AUROC.
Nothing is rounded. A score that is undefined for its input is None, never 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

# Standard normal quantile of 0.975: a two-sided 95 % interval.
Z_95 = 1.959963984540054
ECE_BINS = 10


def exact_match(text: str, label: str) -> bool:
    """Return whether `text` is the label, case included."""
    return text == label


def caseless_match(text: str, label: str) -> bool:
    """Return whether `text` is the label when upper and lower case count as one."""
    return text.casefold() == label.casefold()


def edit_distance(text: str, label: str) -> int:
    """Return the fewest insertions, deletions and substitutions that turn one into the other."""
    return edit_costs(text, label)[-1][-1]


def edit_costs(text: str, label: str) -> list[list[int]]:
    """Return the edit distance of each beginning of `text` (row) and of `label` (column)."""
    costs = [list(range(len(label) + 1))]
    for i, left in enumerate(text, start=1):
        above, row = costs[-1], [i]
        for j, right in enumerate(label, start=1):
            row.append(min(above[j - 1] + (left != right), above[j] + 1, row[-1] + 1))
        costs.append(row)
    return costs


def cer(pairs: Sequence[tuple[str, str]]) -> float | None:
    """Return the character error rate over (text, label) pairs.

    All edit distances divided by all label characters, so long labels weigh more and the rate can
    exceed 1. None where the labels hold no character.
    """
    characters = sum(len(label) for _, label in pairs)
    if characters == 0:
        return None
    return sum(edit_distance(text, label) for text, label in pairs) / characters


def ned(pairs: Sequence[tuple[str, str]]) -> float | None:
    """Return the mean normalised edit distance score over (text, label) pairs.

    One pair scores 1 - distance / length of the longer text: 1 is identical, 0 shares nothing, two
    empty texts are identical. None without pairs.
    """
    if not pairs:
        return None
    return sum(_similarity(text, label) for text, label in pairs) / len(pairs)


def _similarity(text: str, label: str) -> float:
    longest = max(len(text), len(label))
    return 1.0 if longest == 0 else 1.0 - edit_distance(text, label) / longest


def wilson_interval(successes: float, trials: float) -> tuple[float, float]:
    """Return the Wilson score interval of a share, two-sided at 95 %.

    Args:
        successes: How many trials succeeded, 0 to `trials`; not whole where a mean over groups of
            unequal size is worth so many trials.
        trials: How many there were; without any, every share is possible: (0, 1).

    Raises:
        ValueError: `successes` lies outside 0 to `trials`.
    """
    if not 0 <= successes <= trials:
        raise ValueError(f"{successes} successes in {trials} trials")
    if trials == 0:
        return 0.0, 1.0
    share, z = successes / trials, Z_95
    scale = 1.0 + z * z / trials
    centre = (share + z * z / (2 * trials)) / scale
    spread = z / scale * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    return max(0.0, centre - spread), min(1.0, centre + spread)


def ece(confidences: Sequence[float], correct: Sequence[bool]) -> float | None:
    """Return the expected calibration error over ten equal-width bins.

    The mean over all predictions of |mean confidence - share that is right| of their bin. A
    confidence on a border belongs to the upper bin, 1.0 to the last one.

    Args:
        confidences: Probabilities in [0, 1].
        correct: Whether each prediction is right; as long as `confidences`.

    Returns:
        A value in [0, 1], or None without predictions.

    Raises:
        ValueError: The lengths differ, or a confidence lies outside [0, 1].
    """
    _check_confidences(confidences, correct)
    if not confidences:
        return None
    # Each bin's sum of (confidence - right): its count cancels out of the weighted mean.
    surplus = [0.0] * ECE_BINS
    for confidence, right in zip(confidences, correct, strict=True):
        surplus[bin_of(confidence)] += confidence - right
    return sum(abs(gap) for gap in surplus) / len(confidences)


def bin_of(confidence: float) -> int:
    """Return the index of the bin of equal width that a confidence of [0, 1] falls into."""
    return min(int(confidence * ECE_BINS), ECE_BINS - 1)


def auroc(confidences: Sequence[float], correct: Sequence[bool]) -> float | None:
    """Return the chance that a right prediction has a higher confidence than a wrong one.

    A tie counts half, so a constant confidence scores 0.5.

    Returns:
        A value in [0, 1], or None unless there are both right and wrong predictions.

    Raises:
        ValueError: The lengths differ, or a confidence lies outside [0, 1].
    """
    _check_confidences(confidences, correct)
    positives = sum(correct)
    negatives = len(correct) - positives
    if positives == 0 or negatives == 0:
        return None
    ranks = _average_ranks(confidences)
    rank_sum = sum(rank for rank, right in zip(ranks, correct, strict=True) if right)
    return (rank_sum - positives * (positives + 1) / 2) / (positives * negatives)


def _average_ranks(values: Sequence[float]) -> list[float]:
    """Return each value's rank from 1 on; equal values share the mean of their ranks."""
    order = sorted(range(len(values)), key=values.__getitem__)
    ranks = [0.0] * len(values)
    start = 0
    while start < len(order):
        end = start
        while end < len(order) and values[order[end]] == values[order[start]]:
            end += 1
        for index in order[start:end]:
            ranks[index] = (start + 1 + end) / 2
        start = end
    return ranks


def _check_confidences(confidences: Sequence[float], correct: Sequence[bool]) -> None:
    if len(confidences) != len(correct):
        raise ValueError(f"{len(confidences)} confidences for {len(correct)} predictions")
    for confidence in confidences:
        if not 0.0 <= confidence <= 1.0:
            raise ValueError(f"confidence {confidence} is outside [0, 1]")
