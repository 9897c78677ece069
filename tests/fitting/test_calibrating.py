"""Fitting a calibration: a known curve is found again, and outcomes are scored as answers are."""

from __future__ import annotations

import math
import random

import pytest

from qwen_captcha.fitting.calibrating import (
    Outcome,
    figures_of,
    fit,
    fit_curve,
    fit_to_copies,
    outcomes_of,
)
from qwen_captcha.recognition.calibration import Curve, Evidence
from qwen_captcha.recognition.options import Options
from qwen_captcha.recognition.plan import plan_recognition
from qwen_captcha.recognition.reading import Capabilities, GenerationOutput

pytestmark = pytest.mark.live

TRUE_CURVE = Curve(bias=-2.0, whole=0.4, weakest=0.3)


def outcomes(count: int, kind: str, curve: Curve, seed: int = 1) -> list[Outcome]:
    """Return outcomes that follow a curve."""
    rng = random.Random(seed)
    made = []
    for _ in range(count):
        weakest = -rng.expovariate(0.7)
        evidence = Evidence(weakest * rng.uniform(1, 3), weakest)
        made.append(Outcome(kind, evidence, rng.random() < curve.probability(evidence)))
    return made


def test_a_known_curve_is_recovered() -> None:
    fitted = fit_curve(outcomes(4000, "text", TRUE_CURVE))
    for outcome in outcomes(100, "text", TRUE_CURVE, seed=2):
        expected = TRUE_CURVE.probability(outcome.evidence)
        assert fitted.probability(outcome.evidence) == pytest.approx(expected, abs=0.06)


def test_fitting_lowers_the_confidence_of_an_overconfident_model() -> None:
    fitted = fit(outcomes(3000, "text", TRUE_CURVE))
    fresh = outcomes(3000, "text", TRUE_CURVE, seed=2)
    assert figures_of(None, fresh)["ece"] > 0.1
    assert figures_of(fitted, fresh)["ece"] < 0.03


def test_a_kind_has_a_curve_of_its_own_where_there_is_enough_of_it() -> None:
    easy = Curve(bias=1.0, whole=0.5, weakest=0.5)
    many, few = outcomes(600, "digits", easy), outcomes(60, "math", easy)
    fitted = fit([*outcomes(600, "text", TRUE_CURVE), *many, *few])
    assert set(fitted.kinds) == {"digits", "text"}
    evidence = Evidence(-0.7, -0.7)
    assert fitted.confidence("digits", evidence) > fitted.confidence("text", evidence) + 0.2
    assert fitted.confidence("math", evidence) == fitted.default.probability(evidence)


@pytest.mark.parametrize("right", [True, False])
def test_slopes_do_not_fall_and_stay_finite_where_all_outcomes_are_alike(right: bool) -> None:
    same = [Outcome(o.kind, o.evidence, right) for o in outcomes(200, "text", TRUE_CURVE)]
    curve = fit_curve(same)
    assert min(curve.whole, curve.weakest) >= 0
    assert (curve.probability(Evidence(-0.5, -0.5)) > 0.5) is right


def test_without_outcomes_the_curve_of_few_images_is_the_likely_one() -> None:
    curve = fit_to_copies([], 8).default
    assert (curve.bias, curve.whole) == pytest.approx((-0.8, 0.8), abs=1e-6)


def test_six_lucky_images_do_not_make_a_sure_checkpoint() -> None:
    sure = Evidence(math.log(0.9), math.log(0.9))
    lucky = [Outcome("text", sure, right=True)] * 48
    assert 0.7 < fit_to_copies(lucky, 8).confidence("text", sure) < 0.9
    assert fit_curve(lucky).probability(sure) > 0.95


def test_many_images_outweigh_the_likely_curve() -> None:
    fitted = fit_to_copies(outcomes(4000, "text", TRUE_CURVE), 1).default
    for outcome in outcomes(100, "text", TRUE_CURVE, seed=2):
        expected = TRUE_CURVE.probability(outcome.evidence)
        assert fitted.probability(outcome.evidence) == pytest.approx(expected, abs=0.1)


def test_outputs_are_scored_as_the_service_answers() -> None:
    said = {"aB3": "Ab3", "3+5=?": "5+3=", "9": "8", "5/0": "5/0", "7": ""}
    readings = [GenerationOutput(text, math.log(0.5), complete=True) for text in said.values()]
    scored = outcomes_of(list(said), readings, plan_recognition(Options(), Capabilities()))
    # Neither an expression without a value nor an image without an answer is an outcome.
    assert [(outcome.kind, outcome.right) for outcome in scored] == [
        ("text", True),
        ("math", True),
        ("digits", False),
    ]
