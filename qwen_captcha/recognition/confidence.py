"""From the probabilities of tokens to the probability that an answer is right.

A confidence is from 0 to 1. Without a calibration it is the model's own probability of the answer;
without probabilities it is 0.
"""

from __future__ import annotations

import math

from qwen_captcha.recognition.calibration import Calibration, Evidence
from qwen_captcha.recognition.candidates import Candidate
from qwen_captcha.recognition.charsets import CHINESE


def evidence_of(candidate: Candidate) -> Evidence | None:
    """Return the evidence for an answer, None where the engine gives no probabilities."""
    if candidate.log_mass is None or math.isnan(candidate.log_mass):
        return None
    scores = [token.log_probability for token in candidate.output.tokens]
    # Among what was allowed, and in either case, an output is more probable than among all.
    whole = min(0.0, max([candidate.log_mass, sum(scores)] if scores else [candidate.log_mass]))
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
