"""Figures of predictions: per family, per kind, per half, and overall.

Shares of right answers are means over families, so that large and small families have the same
weight. Scores of confidence, characters and time need many images, so they are over all images of
the group.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, median

from evaluation.accuracy.coverage import (
    THRESHOLDS,
    Point,
    answered_share,
    point_at,
)
from evaluation.accuracy.predictions import (
    NO_ANSWER,
    Prediction,
    ScoredFamilies,
    all_predictions,
    text_pairs,
)
from qwen_captcha import scores
from qwen_captcha.samples import KINDS, Family


@dataclass(frozen=True, slots=True)
class Figures:
    """Figures of the images of one or more families.

    Attributes:
        images: Number of images.
        accuracy: Share of right answers; case matters only in case-sensitive families.
        interval: Wilson 95 % interval of `accuracy`.
        exact: Share of answers equal to the label, case included.
        caseless: Share of answers equal to the label, case ignored.
        cer: Character error rate, with case as in `accuracy`.
        ned: Normalised edit distance score (1 is identical), as `cer`.
        ece: Expected calibration error.
        auroc: How well confidence separates right from wrong answers, None if all are alike.
        confidence: Mean confidence.
        answered_at_99: Largest share of images answered at an accuracy of at least 0.99.
        answered_at_95: The same at 0.95.
        median_latency_s: Median seconds from request to reply.
        unanswered: Number of images without an answer.
        baseline: ddddocr's accuracy as known beforehand, or None unless known for each family.
    """

    images: int
    accuracy: float
    interval: tuple[float, float]
    exact: float
    caseless: float
    cer: float | None
    ned: float | None
    ece: float | None
    auroc: float | None
    confidence: float
    answered_at_99: float
    answered_at_95: float
    median_latency_s: float
    unanswered: int
    baseline: float | None


@dataclass(frozen=True, slots=True)
class FamilyScore:
    """The description and the figures of one family.

    Attributes:
        tune: Whether development may look at this family, or None where it is unknown.
        thresholds: The accepted answers at each of `THRESHOLDS`.
    """

    name: str
    kind: str
    case_sensitive: bool
    tune: bool | None
    figures: Figures
    thresholds: tuple[Point, ...]


@dataclass(frozen=True, slots=True)
class GroupScore:
    """The figures of a group of families.

    Attributes:
        name: Name of the group.
        families: Number of families.
        figures: Figures of all families.
        thresholds: The accepted answers at each of `THRESHOLDS`.
    """

    name: str
    families: int
    figures: Figures
    thresholds: tuple[Point, ...]


@dataclass(frozen=True, slots=True)
class Summary:
    """All figures of one reader's evaluation.

    Attributes:
        families: In order of kind, then name.
        kinds: One group a kind, in the order of `KINDS`.
        groups: Digits + Latin, all, and the tune and held-out halves, where they have members.
        errors: Number of images for each error type.
    """

    families: tuple[FamilyScore, ...]
    kinds: tuple[GroupScore, ...]
    groups: tuple[GroupScore, ...]
    errors: dict[str, int]

    @property
    def overall(self) -> GroupScore:
        """The group of all families."""
        return next(group for group in self.groups if group.name == ALL_FAMILIES)


def summarise(scored: ScoredFamilies) -> Summary:
    """Return all figures of an evaluation; every family has at least one prediction."""
    scored = sorted(scored, key=lambda item: (KINDS.index(item[0].kind), item[0].name))
    return Summary(
        families=tuple(_family_score(*item) for item in scored),
        kinds=tuple(_groups(scored, BY_KIND)),
        groups=tuple(_groups(scored, OVERALL)),
        errors=_error_counts(all_predictions(scored)),
    )


def figures_of(scored: ScoredFamilies) -> Figures:
    """Return the figures of one or more families."""
    everything = all_predictions(scored)
    confidences = [prediction.confidence for prediction in everything]
    correct = [prediction.correct for prediction in everything]
    pairs = [pair for item in scored for pair in text_pairs(*item)]
    accuracy = _mean_share(scored, lambda p: p.correct)
    effective = _effective_images(scored)
    return Figures(
        images=len(everything),
        accuracy=accuracy,
        interval=scores.wilson_interval(min(1.0, accuracy) * effective, effective),
        exact=_mean_share(scored, _matches(scores.exact_match)),
        caseless=_mean_share(scored, _matches(scores.caseless_match)),
        cer=scores.cer(pairs),
        ned=scores.ned(pairs),
        ece=scores.ece(confidences, correct),
        auroc=scores.auroc(confidences, correct),
        confidence=fmean(confidences),
        answered_at_99=answered_share(0.99, everything),
        answered_at_95=answered_share(0.95, everything),
        median_latency_s=median(prediction.latency_s for prediction in everything),
        unanswered=sum(not prediction.answered for prediction in everything),
        baseline=_mean_baseline([family for family, _ in scored]),
    )


def _mean_share(scored: ScoredFamilies, holds: Callable[[Prediction], bool]) -> float:
    """Return the mean over families of the share of predictions with a property."""
    return fmean(fmean(map(holds, predictions)) for _, predictions in scored)


def _matches(match: Callable[[str, str], bool]) -> Callable[[Prediction], bool]:
    return lambda p: p.answered and match(p.text, p.label)


def _effective_images(scored: ScoredFamilies) -> float:
    """Return the number of images of one family with the same precision as the mean over families.

    The mean of F shares of n_i images each has the variance p (1 - p) Σ 1/n_i / F².
    """
    return len(scored) ** 2 / sum(1 / len(predictions) for _, predictions in scored)


def _mean_baseline(families: Sequence[Family]) -> float | None:
    known = [family.baseline for family in families if family.baseline is not None]
    return fmean(known) if len(known) == len(families) else None


def _thresholds(scored: ScoredFamilies) -> tuple[Point, ...]:
    everything = all_predictions(scored)
    return tuple(point_at(threshold, everything) for threshold in THRESHOLDS)


def _family_score(family: Family, predictions: Sequence[Prediction]) -> FamilyScore:
    alone = [(family, predictions)]
    return FamilyScore(
        name=family.name,
        kind=family.kind,
        case_sensitive=family.case_sensitive,
        tune=family.tune,
        figures=figures_of(alone),
        thresholds=_thresholds(alone),
    )


def _of_kinds(*kinds: str) -> Callable[[Family], bool]:
    return lambda family: family.kind in kinds


ALL_FAMILIES = "all families"
BY_KIND = {kind: _of_kinds(kind) for kind in KINDS}
OVERALL: dict[str, Callable[[Family], bool]] = {
    "digits + Latin": _of_kinds("digits", "alnum"),
    ALL_FAMILIES: _of_kinds(*KINDS),
    "tune half": lambda family: family.tune is True,
    "held-out half": lambda family: family.tune is False,
}


def _groups(
    scored: ScoredFamilies, members: dict[str, Callable[[Family], bool]]
) -> Iterable[GroupScore]:
    """Yield the figures of each group that has members."""
    for name, belongs in members.items():
        group = [item for item in scored if belongs(item[0])]
        if group:
            yield GroupScore(name, len(group), figures_of(group), _thresholds(group))


def _error_counts(predictions: Iterable[Prediction]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for prediction in predictions:
        if not prediction.answered:
            reason = prediction.error_type or NO_ANSWER
            counts[reason] = counts.get(reason, 0) + 1
    return dict(sorted(counts.items()))
