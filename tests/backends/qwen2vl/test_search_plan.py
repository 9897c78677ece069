"""When a search is worth its cost, and what it looks for."""

from __future__ import annotations

import math

import pytest

from qwen_captcha.backends.qwen2vl.search_plan import (
    BEAM_WIDTH,
    EVERYTHING,
    plan_searches,
)
from qwen_captcha.recognition.charsets import DIGITS
from qwen_captcha.recognition.constraints import DecodingConstraints
from qwen_captcha.recognition.options import Case, Kind

SURE, UNSURE, UNLIKELY = math.log(0.95), math.log(0.85), math.log(0.6)
IN_DIGITS = DecodingConstraints(DIGITS, 1)


@pytest.mark.parametrize(
    ("constraints", "text", "certainty", "charsets"),
    [
        (DecodingConstraints(), "a3b9", UNSURE, []),
        (DecodingConstraints(), "3+5=?", SURE, []),
        (DecodingConstraints(), "3+5=?", UNSURE, [EVERYTHING]),
        (DecodingConstraints(kind=Kind.TEXT), "3+5=?", UNSURE, []),
        (IN_DIGITS, "1234", SURE, []),
        (IN_DIGITS, "1234", UNSURE, [DIGITS]),
        (IN_DIGITS, "12a4", SURE, [DIGITS]),
        (IN_DIGITS, "3+5=?", SURE, []),
        (IN_DIGITS, "3+5=?", UNSURE, [EVERYTHING]),
        (IN_DIGITS, "3+5=?", UNLIKELY, [DIGITS]),
        (IN_DIGITS, "1234", -math.inf, [DIGITS]),
        (DecodingConstraints(case=Case.LOWER), "aB", SURE, []),
        (DecodingConstraints(case=Case.LOWER), "aB", UNSURE, [EVERYTHING]),
        (DecodingConstraints(alternatives=5), "a3b9", SURE, [EVERYTHING]),
    ],
    ids=[
        "nothing asked",
        "sure arithmetic",
        "unsure arithmetic",
        "no arithmetic wanted",
        "inside and sure",
        "inside and unsure",
        "outside",
        "sure to be arithmetic",
        "likely to be arithmetic",
        "a code misread as arithmetic",
        "cut",
        "case, sure",
        "case, unsure",
        "alternatives",
    ],
)
def test_a_search_is_planned_where_the_greedy_reading_may_not_be_the_best(
    constraints: DecodingConstraints, text: str, certainty: float, charsets: list[object]
) -> None:
    plans = plan_searches(3, 12, constraints, text, certainty)
    assert [plan.charset for plan in plans] == charsets
    assert all((plan.row, plan.max_new_tokens) == (3, 12) for plan in plans)


def test_a_plan_has_the_length_the_case_and_enough_beams() -> None:
    constraints = DecodingConstraints(DIGITS, 4, 6, Case.UPPER, alternatives=5)
    [plan] = plan_searches(0, 12, constraints, "a", SURE)
    assert (plan.min_length, plan.max_length, plan.merge_cases) == (4, 6, True)
    assert (plan.width, plan.wanted) == (6, 6)


def test_arithmetic_gathers_readings_to_add_up() -> None:
    [plan] = plan_searches(0, 12, DecodingConstraints(DIGITS, 1, kind=Kind.MATH), "a", SURE)
    assert plan.wanted == plan.width == BEAM_WIDTH
