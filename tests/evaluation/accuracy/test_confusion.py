from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.accuracy.confusion import aligned_pairs, confusions
from qwen_captcha.scores import edit_distance
from tests.support.readings import (
    NOTHING_READ,
    answered,
    family_of,
    scored,
)

short_texts = st.text(alphabet="ab1", max_size=6)


@pytest.mark.parametrize(
    ("label", "text", "pairs"),
    [
        pytest.param("a3b9", "a3b9", ["aa", "33", "bb", "99"], id="right"),
        pytest.param("a3b9", "a8b9", ["aa", "38", "bb", "99"], id="taken-for-another"),
        pytest.param("abc", "bc", ["a", "bb", "cc"], id="first-lost"),
        pytest.param("ab", "", ["a", "b"], id="all-lost"),
    ],
)
def test_alignment(label: str, text: str, pairs: list[str]) -> None:
    assert ["".join(pair) for pair in aligned_pairs(label, text)] == pairs


@given(short_texts, short_texts)
def test_an_alignment_spells_both_texts_at_the_least_cost(label: str, text: str) -> None:
    pairs = list(aligned_pairs(label, text))
    assert "".join(drawn for drawn, _ in pairs) == label
    assert "".join(read for _, read in pairs) == text
    assert sum(drawn != read for drawn, read in pairs) == edit_distance(text, label)


def test_mistakes_are_counted_without_arithmetic_and_without_unanswered_images() -> None:
    letters = family_of("letters", "alnum", "O0", "O1", "xy")
    sums = family_of("sums", "math", "12")
    counted = confusions(
        [
            scored(letters, answered("00"), answered("o1z"), NOTHING_READ),
            scored(sums, answered("13")),
        ]
    )
    assert counted.mistakes == {("o", "0"): 1, ("", "z"): 1}
    assert counted.drawn == {"o": 2, "0": 1, "1": 1}
