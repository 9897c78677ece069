"""The candidates for the answer to one image and their confidence, from the outputs of the model.

Outputs with the same answer (expressions of one value, letters in either case) are one candidate.
Candidates outside the constraints are removed, unless all are outside.

A confidence is from 0 to 1. Without a calibration it is the model's own probability of the answer;
without probabilities it is 0.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from qwen_captcha.recognition.calibration import Calibration, Evidence
from qwen_captcha.recognition.charsets import CHINESE
from qwen_captcha.recognition.extraction import ExtractedAnswer, extract_answer
from qwen_captcha.recognition.plan import RecognitionPlan
from qwen_captcha.recognition.reading import GenerationOutput, either_case_log_probability


@dataclass(frozen=True, slots=True)
class Candidate:
    """One answer.

    Attributes:
        extracted: The answer.
        output: The most probable output with this answer.
        log_mass: Natural log of the probability of all outputs with this answer; None where the
            engine reports none.
    """

    extracted: ExtractedAnswer
    output: GenerationOutput
    log_mass: float | None


def find_candidates(output: GenerationOutput, plan: RecognitionPlan) -> list[Candidate]:
    """Return the answers in an output and its alternatives, the most probable first."""
    outputs_of: dict[ExtractedAnswer, list[GenerationOutput]] = defaultdict(list)
    for one in (output, *output.alternatives):
        extracted = extract_answer(
            one.raw_response,
            plan.options,
            answers_questions=plan.capabilities.answers_questions,
        )
        if extracted is not None:
            outputs_of[extracted].append(one)
    allowed = [
        extracted
        for extracted in outputs_of
        if extracted.computed or plan.constraints.allows(extracted.text)
    ]
    candidates = [_candidate(answer, outputs_of[answer]) for answer in allowed or outputs_of]
    return sorted(candidates, key=lambda candidate: -(candidate.log_mass or 0.0))


def evidence_of(candidate: Candidate) -> Evidence | None:
    """Return the evidence for an answer, None where the engine gives no probabilities."""
    if candidate.log_mass is None or math.isnan(candidate.log_mass):
        return None
    tokens = candidate.output.tokens
    whole = min(0.0, either_case_log_probability(candidate.log_mass, tokens))
    scores = [token.log_probability for token in tokens]
    weakest = min(0.0, max(whole, min(scores, default=whole)))
    return Evidence(whole, weakest)


def kind_of_answer(candidate: Candidate) -> str:
    """Return `math`, `digits`, `chinese` or `text`, by the answer itself."""
    text = candidate.extracted.text
    if candidate.extracted.computed:
        return "math"
    if text.isascii() and text.isdigit():
        return "digits"
    return "chinese" if any(character in CHINESE for character in text) else "text"


def confidence_of(candidate: Candidate, calibration: Calibration | None) -> float:
    """Return the probability that an answer is right, from 0 to 1; 0 where it is unknown."""
    evidence = evidence_of(candidate)
    if evidence is None:
        return 0.0
    if calibration is None:
        return round(math.exp(evidence.whole), 6)
    return round(calibration.confidence(kind_of_answer(candidate), evidence), 6)


def _candidate(extracted: ExtractedAnswer, outputs: Sequence[GenerationOutput]) -> Candidate:
    # An output comes before its alternatives, and those in the order of their probabilities.
    best = outputs[0]
    known = [one.log_probability for one in outputs if one.log_probability is not None]
    if not known or not math.isfinite(known[0]):
        return Candidate(extracted, best, known[0] if known else None)
    mass = sum(math.exp(log_probability - known[0]) for log_probability in known)
    return Candidate(extracted, best, min(0.0, known[0] + math.log(mass)))
