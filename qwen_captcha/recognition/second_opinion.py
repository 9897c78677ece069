"""The comparison of two answers to one image.

An answer within the constraints ranks above one outside, and a known confidence above an unknown
one.
"""

from __future__ import annotations

from qwen_captcha.recognition.answer import NOT_RESTRICTED, Answer
from qwen_captcha.recognition.options import Kind, Options
from qwen_captcha.recognition.reading import Capabilities


def likelier(first: Answer, second: Answer) -> Answer:
    """Return the answer that is more probably right; the first if both are equally probable."""
    return max(first, second, key=_rank)


def agree(first: Answer, second: Answer) -> bool:
    """Return whether two answers have the same text, letter case ignored."""
    return first.success and second.success and first.text.casefold() == second.text.casefold()


def is_beyond(options: Options, first: Capabilities, second: Capabilities) -> bool:
    """Return whether only the second model can do what a request asks for."""
    prompted = options.prompt is not None
    if prompted and not first.follows_prompts and second.follows_prompts:
        return True
    asked = options.kind is Kind.QUESTION
    return asked and not first.answers_questions and second.answers_questions


def _rank(answer: Answer) -> tuple[bool, bool, float]:
    # An unknown confidence is 0.
    return answer.success, NOT_RESTRICTED not in answer.warnings, answer.confidence
