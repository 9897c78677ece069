"""From predictions to figures: per family, per group of families, and overall.

Responsible for: what counts as right, and which families each mean covers. Leaves the formulas to
`scores.py` and the looks to `table.py`. Invariant: a group's mean is the mean over its families,
never over its images, so that a large family counts no more than a small one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, median

from evaluation import scores
from evaluation.client import Answer
from evaluation.samples import KINDS, Family, Sample

NO_ANSWER = "no_answer"


@dataclass(frozen=True, slots=True)
class Prediction:
    """One image's truth and answer.

    Attributes:
        file: Name of the image file.
        label: The truth.
        expression: What is drawn, where that is not the label.
        text: The answer, empty where there is none.
        raw_response: The model's own words, where the reply had them.
        confidence: The service's probability that `text` is right.
        answered: Whether the service gave an answer.
        error_type: Why it did not, or None.
        correct: Whether `text` is the label, ignoring case unless the family counts it.
        latency_s: Seconds from request to reply.
    """

    file: str
    label: str
    expression: str | None
    text: str
    raw_response: str | None
    confidence: float
    answered: bool
    error_type: str | None
    correct: bool
    latency_s: float


@dataclass(frozen=True, slots=True)
class FamilyScore:
    """One family's figures.

    Attributes:
        accuracy: Share of right answers, ignoring case unless `case_sensitive`.
        interval: Wilson 95 % interval of `accuracy`.
        exact: Share of answers equal to the label, case included.
        caseless: Share of answers equal to the label, case ignored.
        cer: Character error rate, ignoring case unless `case_sensitive`.
        ned: Normalised edit distance score (1 is identical), as `cer` about case.
        baseline: ddddocr's accuracy, or None where unknown.
        confidence: Mean confidence.
        unanswered: How many images got no answer.
        tune: Whether development may look at this family, or None where nothing is said.
    """

    name: str
    kind: str
    case_sensitive: bool
    tune: bool | None
    images: int
    accuracy: float
    interval: tuple[float, float]
    exact: float
    caseless: float
    cer: float | None
    ned: float | None
    baseline: float | None
    confidence: float
    unanswered: int


@dataclass(frozen=True, slots=True)
class GroupScore:
    """Means over the families of a group.

    Attributes:
        name: What the group holds.
        families: How many families.
        images: How many images in all.
        accuracy: Mean of the families' accuracies.
        baseline: Mean of ddddocr's, or None unless it is known for every family.
        confidence: Mean of the families' mean confidences.
        unanswered: How many images got no answer.
    """

    name: str
    families: int
    images: int
    accuracy: float
    baseline: float | None
    confidence: float
    unanswered: int


@dataclass(frozen=True, slots=True)
class Summary:
    """Everything that one evaluation says.

    Attributes:
        families: In order of kind, then name.
        kinds: Means per kind, in the order of `KINDS`.
        groups: Means over digits + Latin, over all, and over the tune and held-out halves.
        ece: Expected calibration error over all images.
        auroc: How well confidence tells right from wrong, over all images.
        cer: Character error rate over all images.
        median_latency_s: Median seconds from request to reply.
        errors: How often each error type was met.
    """

    families: tuple[FamilyScore, ...]
    kinds: tuple[GroupScore, ...]
    groups: tuple[GroupScore, ...]
    ece: float | None
    auroc: float | None
    cer: float | None
    median_latency_s: float
    errors: dict[str, int]


def judge(family: Family, sample: Sample, answer: Answer, latency_s: float) -> Prediction:
    """Compare an answer with the truth; without success there is no right answer."""
    matches = scores.exact_match if family.case_sensitive else scores.caseless_match
    return Prediction(
        file=sample.path.name,
        label=sample.label,
        expression=sample.expression,
        text=answer.text,
        raw_response=answer.raw_response,
        confidence=answer.confidence,
        answered=answer.success,
        error_type=answer.error_type,
        correct=answer.success and matches(answer.text, sample.label),
        latency_s=latency_s,
    )


def summarise(judged: Sequence[tuple[Family, Sequence[Prediction]]]) -> Summary:
    """Return all figures of an evaluation; every family has at least one prediction."""
    families = sorted(
        (score_family(family, predictions) for family, predictions in judged),
        key=lambda family: (KINDS.index(family.kind), family.name),
    )
    everything = [prediction for _, predictions in judged for prediction in predictions]
    confidences = [prediction.confidence for prediction in everything]
    correct = [prediction.correct for prediction in everything]
    return Summary(
        families=tuple(families),
        kinds=tuple(_groups(families, {kind: _of_kinds(kind) for kind in KINDS})),
        groups=tuple(_groups(families, _OVERALL)),
        ece=scores.ece(confidences, correct),
        auroc=scores.auroc(confidences, correct),
        cer=scores.cer([pair for item in judged for pair in _pairs(*item)]),
        median_latency_s=median(prediction.latency_s for prediction in everything),
        errors=_error_counts(everything),
    )


def score_family(family: Family, predictions: Sequence[Prediction]) -> FamilyScore:
    """Return one family's figures."""
    right = sum(prediction.correct for prediction in predictions)
    pairs = _pairs(family, predictions)
    return FamilyScore(
        name=family.name,
        kind=family.kind,
        case_sensitive=family.case_sensitive,
        tune=family.tune,
        images=len(predictions),
        accuracy=right / len(predictions),
        interval=scores.wilson_interval(right, len(predictions)),
        exact=_share(predictions, scores.exact_match),
        caseless=_share(predictions, scores.caseless_match),
        cer=scores.cer(pairs),
        ned=scores.ned(pairs),
        baseline=family.baseline,
        confidence=fmean(prediction.confidence for prediction in predictions),
        unanswered=sum(not prediction.answered for prediction in predictions),
    )


def _share(predictions: Sequence[Prediction], matches: Callable[[str, str], bool]) -> float:
    return fmean(p.answered and matches(p.text, p.label) for p in predictions)


def _pairs(family: Family, predictions: Iterable[Prediction]) -> list[tuple[str, str]]:
    """Return (text, label) pairs, in one case where the family does not count it."""
    if family.case_sensitive:
        return [(p.text, p.label) for p in predictions]
    return [(p.text.casefold(), p.label.casefold()) for p in predictions]


def _of_kinds(*kinds: str) -> Callable[[FamilyScore], bool]:
    return lambda family: family.kind in kinds


_OVERALL: dict[str, Callable[[FamilyScore], bool]] = {
    "digits + Latin": _of_kinds("digits", "alnum"),
    "all families": _of_kinds(*KINDS),
    "tune half": lambda family: family.tune is True,
    "held-out half": lambda family: family.tune is False,
}


def _groups(
    families: Sequence[FamilyScore], members: dict[str, Callable[[FamilyScore], bool]]
) -> Iterable[GroupScore]:
    """Yield the mean over each group that has members."""
    for name, belongs in members.items():
        group = [family for family in families if belongs(family)]
        if group:
            baselines = [family.baseline for family in group if family.baseline is not None]
            yield GroupScore(
                name=name,
                families=len(group),
                images=sum(family.images for family in group),
                accuracy=fmean(family.accuracy for family in group),
                baseline=fmean(baselines) if len(baselines) == len(group) else None,
                confidence=fmean(family.confidence for family in group),
                unanswered=sum(family.unanswered for family in group),
            )


def _error_counts(predictions: Iterable[Prediction]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for prediction in predictions:
        if not prediction.answered:
            reason = prediction.error_type or NO_ANSWER
            counts[reason] = counts.get(reason, 0) + 1
    return dict(sorted(counts.items()))
