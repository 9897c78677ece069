from __future__ import annotations

import pytest

from evaluation.accuracy.predictions import all_predictions, text_pairs
from evaluation.accuracy.summary import figures_of
from evaluation.services.client import Answer
from tests.support.readings import (
    NOTHING_READ,
    answered,
    family_of,
    scored,
)


@pytest.mark.parametrize(
    ("text", "case_sensitive", "correct"),
    [
        pytest.param("A3b9", False, True, id="case-ignored"),
        pytest.param("A3b9", True, False, id="case-counts"),
        pytest.param("a3b9", True, True, id="identical"),
        pytest.param("a3b", False, False, id="wrong"),
        pytest.param(None, False, False, id="no-answer"),
    ],
)
def test_correct_predictions(text: str | None, case_sensitive: bool, correct: bool) -> None:
    family = family_of("one", "alnum", "a3b9", case_sensitive=case_sensitive)
    _, (prediction,) = scored(family, NOTHING_READ if text is None else answered(text))
    assert prediction.correct is correct
    assert prediction.answered is (text is not None)
    assert prediction.error_type == ("no_answer" if text is None else None)


def test_text_without_success_is_never_right() -> None:
    family = family_of("one", "alnum", "a3b9")
    refused = scored(family, Answer("a3b9", 0.9, False, "a3b9", "no_answer"))
    assert [prediction.correct for prediction in refused[1]] == [False]
    figures = figures_of([refused])
    assert (figures.exact, figures.caseless) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("case_sensitive", "pairs"),
    [(False, [("ab", "ab"), ("", "c")]), (True, [("aB", "Ab"), ("", "C")])],
)
def test_text_pairs_are_in_one_case_unless_it_counts(
    case_sensitive: bool, pairs: list[tuple[str, str]]
) -> None:
    family = family_of("one", "alnum", "Ab", "C", case_sensitive=case_sensitive)
    assert text_pairs(*scored(family, answered("aB"), NOTHING_READ)) == pairs


def test_all_predictions_are_in_order() -> None:
    readings = [scored(family_of(name, "alnum", name), answered(name)) for name in "ab"]
    assert [prediction.text for prediction in all_predictions(readings)] == ["a", "b"]
