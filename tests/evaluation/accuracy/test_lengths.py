from __future__ import annotations

from evaluation.accuracy.lengths import LengthFigures, by_length
from evaluation.accuracy.predictions import Prediction


def prediction(label: str, *, correct: bool, expression: str | None = None) -> Prediction:
    return Prediction(
        "a.png", label, expression, label, None, 0.9, True, None, correct, latency_s=0.1
    )


def test_images_are_counted_by_what_they_show() -> None:
    predictions = [
        prediction("abcd", correct=True),
        prediction("12cd", correct=False),
        prediction("7", correct=True, expression="3 + 4=?"),
        prediction("ab", correct=False),
    ]
    assert by_length(predictions) == [
        LengthFigures(2, 1, 0),
        LengthFigures(4, 2, 1),
        LengthFigures(5, 1, 1),
    ]


def test_nothing_has_no_lengths() -> None:
    assert by_length([]) == []
