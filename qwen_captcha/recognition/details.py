"""The details of an answer: a confidence for each character, and alternatives with theirs.

The confidences of the characters and of the end multiply to the answer's. Those of the answer and
its alternatives add up to 1 at most. The JSON is under 2 KB.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from qwen_captcha.recognition.candidates import Candidate
from qwen_captcha.recognition.constraints import MAX_ALTERNATIVES

# Longer texts are no captchas, and would not fit.
MAX_CHARACTERS = 32

Details = dict[str, object]


def details_of(candidates: Sequence[Candidate], confidence: float) -> Details:
    """Return the details of the first of some candidates.

    Args:
        candidates: Answers, the most probable first; at least one.
        confidence: Confidence of the first.
    """
    first, *others = candidates
    return {
        "characters": _characters(first, confidence)[:MAX_CHARACTERS],
        "alternatives": _alternatives(first, others, confidence)[:MAX_ALTERNATIVES],
    }


def _characters(candidate: Candidate, confidence: float) -> list[list[object]]:
    """Return the characters that were read, each with its confidence."""
    tokens = candidate.output.tokens
    total = sum(token.log_probability for token in tokens)
    log_confidence = math.log(confidence) if confidence > 0 else -math.inf
    characters: list[list[object]] = []
    for token in tokens:
        # Where all tokens have probability 1, each has the same share.
        share = token.log_probability / total if total < 0 else 1 / len(tokens)
        for character in token.text:
            part = share / len(token.text)
            value = math.exp(part * log_confidence) if part > 0 else 1.0
            characters.append([character, round(value, 4)])
    return characters


def _alternatives(
    first: Candidate, others: Sequence[Candidate], confidence: float
) -> list[dict[str, object]]:
    """Return other answers with their confidence, in proportion to the first one's.

    An answer that differs only in letter case is left out: the first one's confidence covers both.
    """
    if first.log_mass is None or not math.isfinite(first.log_mass):
        return []
    ratios = {
        other.extracted.text: math.exp(other.log_mass - first.log_mass)
        for other in others
        if other.log_mass is not None
        and len(other.extracted.text) <= MAX_CHARACTERS
        and other.extracted.text.lower() != first.extracted.text.lower()
    }
    scale = min(confidence, (1 - confidence) / (sum(ratios.values()) or 1.0))
    return [{"text": text, "confidence": round(scale * ratio, 4)} for text, ratio in ratios.items()]
