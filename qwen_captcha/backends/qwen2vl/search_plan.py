"""Decide whether an output requires a search, and plan it.

Without constraints, only an uncertain output that looks like arithmetic requires a search, so that
ordinary requests cost no more than greedy decoding. This module is importable without torch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from qwen_captcha.recognition.arithmetic.evaluate import looks_like_arithmetic
from qwen_captcha.recognition.charsets import Charset
from qwen_captcha.recognition.constraints import DecodingConstraints
from qwen_captcha.recognition.options import Case, Kind

EVERYTHING = ~Charset(())
# If one output has this probability, no other output is more probable or changes the answer.
CERTAIN = math.log(0.9)
# With a charset, an expression is accepted as arithmetic only with this probability.
LIKELY = math.log(0.8)
# Live hypotheses. The time of a step grows with them; the benefit of 8 over 4 was not measured.
BEAM_WIDTH = 4


@dataclass(frozen=True, slots=True)
class SearchPlan:
    """The goal of one search.

    Attributes:
        row: The row of its prompt in the batch.
        max_new_tokens: Maximum tokens of an output, the end token included; at least 1.
        width: Maximum number of live hypotheses.
        wanted: Outputs after which it ends, unless a more probable one is still possible.
        charset: The allowed characters.
        min_length: Minimum characters.
        max_length: Maximum characters, None for any number.
        merge_cases: Whether both cases of a letter are treated as one.
    """

    row: int
    max_new_tokens: int
    width: int
    wanted: int
    charset: Charset = EVERYTHING
    min_length: int = 0
    max_length: int | None = None
    merge_cases: bool = False


def plan_searches(
    row: int, max_new_tokens: int, constraints: DecodingConstraints, text: str, certainty: float
) -> list[SearchPlan]:
    """Return the searches that one image needs after greedy decoding, often none.

    Args:
        row: The row of its prompt in the batch.
        max_new_tokens: Maximum tokens of an output.
        constraints: The allowed outputs.
        text: The greedy output, without constraints.
        certainty: Log-probability of that output; -inf if it was cut at `max_new_tokens`.
    """
    computes = constraints.kind is Kind.AUTO and looks_like_arithmetic(text)
    # A charset does not apply to arithmetic, but to a code that is misread as an expression.
    free = not constraints.restricts or (computes and certainty >= LIKELY)
    settled = constraints.alternatives == 0 and (
        (certainty >= CERTAIN and (free or constraints.allows(text)))
        or (free and not computes and not _merges(constraints))
    )
    if settled:
        return []
    wanted = 1 + constraints.alternatives
    if (free and computes) or constraints.kind is Kind.MATH:
        # The probabilities of expressions with the same value are added.
        wanted = max(wanted, BEAM_WIDTH)
    plan = SearchPlan(row, max_new_tokens, max(wanted, BEAM_WIDTH), wanted)
    if free and computes:
        return [plan]
    return [
        replace(
            plan,
            charset=constraints.charset or EVERYTHING,
            min_length=constraints.min_length,
            max_length=constraints.max_length,
            merge_cases=_merges(constraints),
        )
    ]


def _merges(constraints: DecodingConstraints) -> bool:
    return constraints.case is not Case.KEEP
