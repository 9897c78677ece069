"""The label of one image and one reader's answer.

An answer without success is never right, whatever its text.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from evaluation.services.client import Answer
from qwen_captcha import scores
from qwen_captcha.samples import Family, Sample

NO_ANSWER = "no_answer"


@dataclass(frozen=True, slots=True)
class Prediction:
    """One image's label and answer.

    Attributes:
        file: Name of the image file.
        label: The text of the image, as in the labelled folder.
        expression: The text that is drawn, where it differs from the label.
        text: The answer, empty where there is none.
        raw_response: The output of the model, where the reply had it.
        confidence: The reader's probability that `text` is right.
        answered: Whether there was an answer.
        error_type: The reason why there was none, or None.
        correct: Whether `text` is the label; case matters only in a case-sensitive family.
        latency_s: Seconds from request to reply.
        warnings: Warnings of the reply.
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
    warnings: tuple[str, ...] = ()


# Each family with one prediction a sample, in the samples' order.
ScoredFamilies = Sequence[tuple[Family, Sequence[Prediction]]]


def score(family: Family, sample: Sample, answer: Answer, latency_s: float) -> Prediction:
    """Return an answer with its comparison with the label."""
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
        warnings=answer.warnings,
    )


def all_predictions(scored: ScoredFamilies) -> list[Prediction]:
    """Return the predictions of all families in one list."""
    return [prediction for _, predictions in scored for prediction in predictions]


def text_pairs(family: Family, predictions: Iterable[Prediction]) -> list[tuple[str, str]]:
    """Return (text, label) pairs, in lower case unless the family is case-sensitive."""
    if family.case_sensitive:
        return [(p.text, p.label) for p in predictions]
    return [(p.text.casefold(), p.label.casefold()) for p in predictions]
