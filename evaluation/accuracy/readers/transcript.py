"""Replies of readers that transcribe an image and compute nothing."""

from __future__ import annotations

from evaluation.accuracy.predictions import NO_ANSWER
from evaluation.accuracy.readers.base import Reply
from evaluation.services.client import Answer
from qwen_captcha.recognition.arithmetic.evaluate import evaluate_expression


def transcript_reply(raw_text: str, confidence: float, kind: str, latency_s: float) -> Reply:
    """Return the reply for a transcript, from which sums are computed.

    Args:
        raw_text: The transcript; empty for no answer.
        confidence: Confidence of the reader, from 0 to 1.
        kind: The kind of the image's family.
        latency_s: Seconds that the reading took.
    """
    text = computed(raw_text) if kind == "math" else raw_text
    if not text:
        return Reply(Answer("", 0.0, False, raw_text, NO_ANSWER), latency_s)
    return Reply(Answer(text, confidence, True, raw_text, None), latency_s)


def computed(text: str) -> str:
    """Return the value of the expression before the first `=`, or the text if it has none."""
    value = evaluate_expression(text.partition("=")[0])
    return text if value is None else str(value)
