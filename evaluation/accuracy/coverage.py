"""Accuracy and share of answers at each threshold of the confidence.

An answer is accepted if its confidence is not below the threshold, so that answers with equal
confidence are treated alike. Shares are of all images, those without an answer included.
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
    """The accepted answers at a threshold of the confidence.

    Attributes:
        threshold: The lowest accepted confidence, a request's `min_confidence`.
        answered: Share of all images with an accepted answer.
        accuracy: Share of right ones among the accepted answers, None if there are none.
        read: Share of all images with an accepted and right answer.
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
        images: Number of images in it, at least one.
        confidence: Their mean confidence.
        accuracy: Their share of right answers.
    """

    low: float
    images: int
    confidence: float
    accuracy: float


def point_at(threshold: float, predictions: Sequence[Prediction]) -> Point:
    """Return the point at a threshold; there is at least one prediction."""
    accepted = [p for p in predictions if p.answered and p.confidence >= threshold]
    right = sum(p.correct for p in accepted)
    return Point(
        threshold=threshold,
        answered=len(accepted) / len(predictions),
        accuracy=right / len(accepted) if accepted else None,
        read=right / len(predictions),
    )


def coverage_curve(predictions: Sequence[Prediction]) -> list[Point]:
    """Return a point for each confidence that occurs, the highest first."""
    answered = sorted((p for p in predictions if p.answered), key=lambda p: -p.confidence)
    points, accepted, right = [], 0, 0
    for confidence, group in groupby(answered, key=lambda p: p.confidence):
        outcomes = [p.correct for p in group]
        accepted += len(outcomes)
        right += sum(outcomes)
        images = len(predictions)
        points.append(Point(confidence, accepted / images, right / accepted, right / images))
    return points


def at_accuracy(target: float, curve: Sequence[Point]) -> Point | None:
    """Return the point with the most answers at an accuracy of at least `target`.

    The threshold is chosen on the same images as the measurement, so the share is slightly too
    high.
    """
    reaching = [p for p in curve if p.accuracy is not None and p.accuracy >= target]
    return max(reaching, key=lambda p: p.answered, default=None)


def answered_share(target: float, predictions: Sequence[Prediction]) -> float:
    """Return the largest share of images answered at an accuracy of at least `target`."""
    point = at_accuracy(target, coverage_curve(predictions))
    return 0.0 if point is None else point.answered


def reliability(predictions: Sequence[Prediction]) -> list[Bin]:
    """Return the bins with images, in order; the confidence without an answer is 0."""
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
