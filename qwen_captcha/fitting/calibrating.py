"""Fit the calibration of a checkpoint to its right and wrong answers.

Outcomes are those of the service: they are found with the same plan. Letter case is ignored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace

import torch
from torch.nn import functional

from qwen_captcha.recognition.calibration import (
    Calibration,
    Curve,
    Evidence,
    log_odds_of,
)
from qwen_captcha.recognition.candidates import evidence_of, find_candidates, kind_of_answer
from qwen_captcha.recognition.extraction import extract_answer
from qwen_captcha.recognition.plan import RecognitionPlan
from qwen_captcha.recognition.reading import GenerationOutput
from qwen_captcha.scores import auroc, ece

# Below these a kind's own curve is more noise than knowledge.
MIN_OF_A_KIND = 300
MIN_OF_EACH_OUTCOME = 30


@dataclass(frozen=True, slots=True)
class Prior:
    """The curve that is likely before any outcome is known.

    Attributes:
        curve: Its most likely parameters.
        weight: Of their squared distance from these, beside one outcome.
    """

    curve: Curve
    weight: float


# Half of each log-odds is the bare probability where one token alone is unsure.
BARE = Prior(Curve(0.0, 0.5, 0.5), 2.0)
# A checkpoint that was fitted to few images is too sure of others of the same look. These are the
# curves of two fits to 40 images (0.67 less and 0.92 times, 1.02 less and 0.69 times the log-odds
# of 120 other images), which six images alone do not show.
FITTED_TO_FEW = Prior(Curve(-0.8, 0.8, 0.0), 20.0)


@dataclass(frozen=True, slots=True)
class Outcome:
    """One answer of the model.

    Attributes:
        kind: Kind of the answer, as the service finds it.
        evidence: Log-probabilities of the answer.
        right: Whether the answer is right, letter case ignored.
    """

    kind: str
    evidence: Evidence
    right: bool


def outcomes_of(
    texts: Sequence[str], readings: Sequence[GenerationOutput], plan: RecognitionPlan
) -> list[Outcome]:
    """Return an outcome for each output that makes an answer.

    Args:
        texts: The texts in the images, one for each output.
        readings: The outputs of the model.
        plan: The plan of the requests.
    """
    answers_questions = plan.capabilities.answers_questions
    outcomes = []
    for drawn, reading in zip(texts, readings, strict=True):
        truth = extract_answer(drawn, plan.options, answers_questions=answers_questions)
        candidates = find_candidates(reading, plan)
        evidence = evidence_of(candidates[0]) if candidates else None
        # A drawn expression without a value has no right answer.
        if truth is not None and evidence is not None:
            right = candidates[0].extracted.text.casefold() == truth.text.casefold()
            outcomes.append(Outcome(kind_of_answer(candidates[0]), evidence, right))
    return outcomes


def fit(outcomes: Sequence[Outcome]) -> Calibration:
    """Return a curve for all outcomes, and one for each kind that has enough outcomes."""
    kinds = {outcome.kind for outcome in outcomes}
    by_kind = {kind: [o for o in outcomes if o.kind == kind] for kind in kinds}
    curves = {kind: fit_curve(some) for kind, some in by_kind.items() if _enough(some)}
    return Calibration(fit_curve(outcomes), curves)


def fit_to_copies(outcomes: Sequence[Outcome], copies: int) -> Calibration:
    """Return the calibration of a checkpoint that was fitted to a user's captchas.

    Args:
        outcomes: Of images that it did not learn from, each changed in several ways.
        copies: How many times each image occurs; together they count as two images at most.
    """
    prior = replace(FITTED_TO_FEW, weight=FITTED_TO_FEW.weight * max(1, copies / 2))
    return Calibration(fit_curve(outcomes, prior), {})


def fit_curve(outcomes: Sequence[Outcome], prior: Prior = BARE) -> Curve:
    """Return the most likely curve whose slopes do not fall."""
    features = torch.tensor(
        [
            [1.0, log_odds_of(e.whole), log_odds_of(e.weakest)]
            for e in (outcome.evidence for outcome in outcomes)
        ],
        dtype=torch.float64,
    ).view(-1, 3)  # (N, 3)
    right = torch.tensor([float(outcome.right) for outcome in outcomes], dtype=torch.float64)
    likely = torch.tensor(astuple(prior.curve), dtype=torch.float64)
    parameters = likely.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([parameters], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        weights = _rising(parameters)
        misfit = functional.binary_cross_entropy_with_logits(
            features @ weights, right, reduction="sum"
        )
        total: torch.Tensor = misfit + prior.weight * (weights - likely).square().sum()
        total.backward()  # type: ignore[no-untyped-call]
        return total

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    return Curve(*_rising(parameters).tolist())


def _rising(parameters: torch.Tensor) -> torch.Tensor:
    """Return the bias and the slopes, which are not below zero."""
    bias, whole, weakest = parameters
    return torch.stack([bias, whole.abs(), weakest.abs()])


def _enough(outcomes: Sequence[Outcome]) -> bool:
    right = sum(outcome.right for outcome in outcomes)
    fewest = min(right, len(outcomes) - right)
    return len(outcomes) >= MIN_OF_A_KIND and fewest >= MIN_OF_EACH_OUTCOME


def figures_of(calibration: Calibration | None, outcomes: Sequence[Outcome]) -> dict[str, object]:
    """Return the calibration error and AUROC of a calibration, or of the bare probability."""
    bare = Calibration(Curve(0.0, 1.0, 0.0), {})
    scale = calibration or bare
    confidences = [scale.confidence(outcome.kind, outcome.evidence) for outcome in outcomes]
    right = [outcome.right for outcome in outcomes]
    return {"ece": short(ece(confidences, right)), "auroc": short(auroc(confidences, right))}


def short(value: float | None) -> float | None:
    """Return a figure as it is printed, to four decimals."""
    return None if value is None else round(value, 4)
