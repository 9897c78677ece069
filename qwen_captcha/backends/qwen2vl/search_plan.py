"""Decide whether an output requires a search, and plan it.

Without constraints only arithmetic with an uncertain output is searched for, so that ordinary
requests cost no more than greedy decoding. This module is importable without torch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from qwen_captcha.recognition.arithmetic.evaluate import looks_like_arithmetic
from qwen_captcha.recognition.charsets import Charset
from qwen_captcha.recognition.constraints import DecodingConstraints
from qwen_captcha.recognition.options import Case, Kind

EVERYTHING = ~Charset(())
# Of two outputs with this much for one, the other can be neither more probable nor matter.
CERTAIN = math.log(0.9)
# With a charset no arithmetic is expected: an expression has to be this probable to count.
LIKELY = math.log(0.8)
# Live hypotheses. The time of a step grows with them; what 8 find beyond 4 was not measured.
BEAM_WIDTH = 4


@dataclass(frozen=True, slots=True)
class SearchPlan:
    """The goal of one search.

    Attributes:
        row: The place of its prompt.
        max_new_tokens: Most tokens of an output, the end token included; at least 1.
        width: Most live hypotheses.
        wanted: Readings after which it ends, unless a better one may come.
        charset: The allowed characters.
        min_length: Fewest characters.
        max_length: Most characters, None for any number.
        merge_cases: Letters count as one in either case.
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
        row: The place of its prompt.
        max_new_tokens: Most tokens of an output.
        constraints: What the output may look like.
        text: The greedy output, which knows no constraints.
        certainty: Log-probability of that output; -inf where it was cut.
    """
    computes = constraints.kind is Kind.AUTO and looks_like_arithmetic(text)
    # Arithmetic knows no charset, but a code that is misread as an expression does.
    free = not constraints.restricts or (computes and certainty >= LIKELY)
    settled = constraints.alternatives == 0 and (
        (certainty >= CERTAIN and (free or constraints.allows(text)))
        or (free and not computes and not _merges(constraints))
    )
    if settled:
        return []
    wanted = 1 + constraints.alternatives
    if (free and computes) or constraints.kind is Kind.MATH:
        # Expressions of the same value add up.
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
