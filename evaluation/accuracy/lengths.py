"""Accuracy by the number of characters that an image shows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from evaluation.accuracy.predictions import Prediction


@dataclass(frozen=True, slots=True)
class LengthFigures:
    """The images that show one number of characters.

    Attributes:
        characters: Length of the drawn expression, else of the label, without spaces.
        images: Number of images.
        right: Number of images that are read right.
    """

    characters: int
    images: int
    right: int


def by_length(predictions: Iterable[Prediction]) -> list[LengthFigures]:
    """Return the figures of each length, the shortest first."""
    outcomes: dict[int, list[bool]] = defaultdict(list)
    for prediction in predictions:
        drawn = prediction.expression or prediction.label
        outcomes[len("".join(drawn.split()))].append(prediction.correct)
    return [
        LengthFigures(characters, len(right), sum(right))
        for characters, right in sorted(outcomes.items())
    ]
