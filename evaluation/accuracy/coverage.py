"""Accuracy and share of answers at each threshold of the confidence.

A threshold keeps every answer whose confidence is not below it, so that equal confidences are kept
or dropped together. Shares are of all images, those without an answer included.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import fmean

from evaluation.accuracy.predictions import Prediction
from qwen_captcha.scores import ECE_BINS, bin_of

THRESHOLDS = (0.0, 0.5, 0.8, 0.9, 0.95, 0.99)


@dataclass(frozen=True, slots=True)
class Point:
    """The answers that remain above a threshold of the confidence.

    Attributes:
        threshold: The lowest confidence that is kept, a request's `min_confidence`.
        answered: Share of all images that keep an answer.
        accuracy: Share of right ones among the kept answers, or None where none is kept.
        read: Share of all images with a kept and right answer.
    """

    threshold: float
    answered: float
    accuracy: float | None
    read: float


@dataclass(frozen=True, slots=True)
class Bin:
    """The answers whose confidence lies in one of ten equal parts of [0, 1].

    Attributes:
        low: Lower end of the bin.
        images: How many fall into it, at least one.
        confidence: Their mean confidence.
        accuracy: Their share of right answers.
    """

    low: float
    images: int
    confidence: float
    accuracy: float


def point_at(threshold: float, predictions: Sequence[Prediction]) -> Point:
    """Return the answers above a threshold; there is at least one prediction."""
    kept = [p for p in predictions if p.answered and p.confidence >= threshold]
    right = sum(p.correct for p in kept)
    return Point(
        threshold=threshold,
        answered=len(kept) / len(predictions),
        accuracy=right / len(kept) if kept else None,
        read=right / len(predictions),
    )


def coverage_curve(predictions: Sequence[Prediction]) -> list[Point]:
    """Return a point for each confidence that occurs, the highest first."""
    answered = sorted((p for p in predictions if p.answered), key=lambda p: -p.confidence)
    points, kept, right = [], 0, 0
    for confidence, group in groupby(answered, key=lambda p: p.confidence):
        outcomes = [p.correct for p in group]
        kept += len(outcomes)
        right += sum(outcomes)
        images = len(predictions)
        points.append(Point(confidence, kept / images, right / kept, right / images))
    return points


def at_accuracy(target: float, curve: Sequence[Point]) -> Point | None:
    """Return the point that keeps the most answers at an accuracy of at least `target`.

    The threshold is chosen on the same images that it is measured on, which flatters it a little.
    """
    reaching = [p for p in curve if p.accuracy is not None and p.accuracy >= target]
    return max(reaching, key=lambda p: p.answered, default=None)


def answered_share(target: float, predictions: Sequence[Prediction]) -> float:
    """Return the largest share of images answered at an accuracy of at least `target`."""
    point = at_accuracy(target, coverage_curve(predictions))
    return 0.0 if point is None else point.answered


def reliability(predictions: Sequence[Prediction]) -> list[Bin]:
    """Return the bins that hold images, in order; without an answer the confidence is 0."""
    members: list[list[Prediction]] = [[] for _ in range(ECE_BINS)]
    for prediction in predictions:
        members[bin_of(prediction.confidence)].append(prediction)
    return [
        Bin(
            low=index / ECE_BINS,
            images=len(inside),
            confidence=fmean(p.confidence for p in inside),
            accuracy=fmean(p.correct for p in inside),
        )
        for index, inside in enumerate(members)
        if inside
    ]
