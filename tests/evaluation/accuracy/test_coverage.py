from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.accuracy.coverage import (
    answered_share,
    at_accuracy,
    coverage_curve,
    point_at,
    reliability,
)
from evaluation.accuracy.predictions import Prediction
from qwen_captcha.scores import ece
from tests.support.readings import (
    NOTHING_READ,
    answered,
    family_of,
    scored,
)


def predictions_of(*outcomes: tuple[float, bool] | None) -> list[Prediction]:
    """Return predictions with a confidence, right or wrong; None is no answer."""
    family = family_of("one", "alnum", *("a" for _ in outcomes))
    answers = [
        NOTHING_READ if outcome is None else answered("a" if outcome[1] else "b", outcome[0])
        for outcome in outcomes
    ]
    return scored(family, *answers)[1]


MIXED = predictions_of((0.9, True), (0.8, True), (0.8, False), (0.3, False), None)


@pytest.mark.parametrize(
    ("threshold", "kept", "accuracy", "read"),
    [
        pytest.param(0.0, 0.8, 0.5, 0.4, id="no-answer-is-never-kept"),
        pytest.param(0.8, 0.6, 2 / 3, 0.4, id="equal-is-kept"),
        pytest.param(0.81, 0.2, 1.0, 0.2, id="the-surest"),
        pytest.param(0.95, 0.0, None, 0.0, id="none"),
    ],
)
def test_the_share_above_a_threshold(
    threshold: float, kept: float, accuracy: float | None, read: float
) -> None:
    point = point_at(threshold, MIXED)
    assert (point.answered, point.accuracy, point.read) == pytest.approx((kept, accuracy, read))


def test_equal_confidences_are_one_point_of_the_curve() -> None:
    assert [point.threshold for point in coverage_curve(MIXED)] == [0.9, 0.8, 0.3]


@pytest.mark.parametrize(("target", "threshold"), [(0.99, 0.9), (0.6, 0.8), (0.5, 0.3), (0.1, 0.3)])
def test_the_most_answers_at_an_accuracy(target: float, threshold: float) -> None:
    point = at_accuracy(target, coverage_curve(MIXED))
    assert point is not None
    assert point.threshold == threshold


def test_an_accuracy_that_is_never_reached_has_no_threshold() -> None:
    wrong = predictions_of((0.9, False), None)
    assert at_accuracy(0.95, coverage_curve(wrong)) is None
    assert answered_share(0.95, wrong) == 0.0


def test_an_accuracy_may_be_reached_again_at_a_lower_threshold() -> None:
    late = predictions_of((0.9, False), (0.5, True), (0.4, True), (0.3, True))
    assert answered_share(0.75, late) == 1.0


outcomes = st.lists(
    st.one_of(st.none(), st.tuples(st.sampled_from([0.0, 0.3, 0.95, 1.0]), st.booleans())),
    min_size=1,
    max_size=12,
)


@given(outcomes)
def test_each_point_of_the_curve_is_the_share_above_its_threshold(
    drawn: list[tuple[float, bool] | None],
) -> None:
    predictions = predictions_of(*drawn)
    for point in coverage_curve(predictions):
        assert point_at(point.threshold, predictions) == point


@given(outcomes)
def test_the_bins_gaps_are_the_calibration_error(drawn: list[tuple[float, bool] | None]) -> None:
    predictions = predictions_of(*drawn)
    bins = reliability(predictions)
    assert sum(b.images for b in bins) == len(predictions)
    gap = sum(b.images * abs(b.confidence - b.accuracy) for b in bins) / len(predictions)
    error = ece([p.confidence for p in predictions], [p.correct for p in predictions])
    assert gap == pytest.approx(error)
    assert all(b.low - 1e-9 <= b.confidence <= b.low + 0.1 + 1e-9 for b in bins)
