from __future__ import annotations

import json
from dataclasses import replace

import pytest

from qwen_captcha.fitting.card import Card, Score, calibration_error, recommended_confidence

CARD = Card(
    name="mine",
    base="bundled",
    learnt_from=34,
    left_out=2,
    new_characters="",
    minutes=4.0,
    steps=180,
    before=Score(2, 6),
    after=Score(6, 6),
    rehearsal_before=Score(120, 160),
    rehearsal_after=Score(121, 160),
    min_confidence=0.8,
    ece=0.04,
)


def test_scores_have_their_interval() -> None:
    assert str(Score(6, 6)) == "1.00 (0.61 – 1.00, 6 of 6)"
    assert str(Score(0, 0)) == "none"


def test_the_card_has_the_result() -> None:
    text = CARD.as_markdown()
    assert "| the user's | 0.33 (0.10 – 0.70, 2 of 6) | 1.00 (0.61 – 1.00, 6 of 6) |" in text
    assert "Recommended `min_confidence`: 0.8" in text
    assert "New characters" not in text
    assert "New characters: жщ" in replace(CARD, new_characters="жщ").as_markdown()
    assert json.loads(CARD.as_json())["after"] == {"right": 6, "images": 6}


@pytest.mark.parametrize(
    ("confidences", "expected"),
    [
        ([0.94, 0.97], 0.0),
        ([0.2, 0.94, 0.97], 0.3),
        ([0.6, 0.85, 0.9, 0.97], 0.95),
        ([0.99, 0.4], 0.5),
        ([0.5], 0.98),
        ([], 0.98),
    ],
)
def test_the_lowest_confidence_above_which_answers_should_be_right(
    confidences: list[float], expected: float
) -> None:
    assert recommended_confidence(confidences) == expected


def test_an_error_without_answers_is_unknown() -> None:
    assert calibration_error([], []) is None
    assert calibration_error([0.75, 0.75], [True, False]) == 0.25
