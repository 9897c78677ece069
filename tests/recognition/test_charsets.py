"""Charset compared with Python's own sets, over the characters that matter."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_captcha.recognition.charsets import (
    CHARSET_RANGES,
    CHINESE,
    DIGITS,
    Charset,
    letters_and_digits,
    visible,
)

# Few enough that runs touch, overlap and have gaps.
CHARACTERS = "abcdefgh" + chr(0) + "\U0010ffff" + "中丮"
subsets = st.frozensets(st.sampled_from(CHARACTERS))


def members(charset: Charset) -> set[str]:
    return {character for character in CHARACTERS if character in charset}


@given(subsets, subsets)
def test_charsets_combine_as_sets_do(first: frozenset[str], second: frozenset[str]) -> None:
    one, other = Charset.of(first), Charset.of(second)
    assert members(one) == first
    assert members(one & other) == first & second
    assert members(one | other) == first | second
    assert members(~one) == set(CHARACTERS) - first
    assert bool(one) == bool(first)
    assert (one == other) == (first == second)


@given(subsets, st.sampled_from(CHARACTERS), st.sampled_from(CHARACTERS))
def test_overlaps_equals_a_test_of_each_member(
    characters: frozenset[str], one: str, other: str
) -> None:
    first, last = sorted((one, other))
    expected = any(first <= character <= last for character in characters)
    assert Charset.of(characters).overlaps(ord(first), ord(last)) == expected


def test_equal_sets_are_equal_values() -> None:
    assert Charset.of("9876543210") == DIGITS == Charset.between((0x30, 0x34), (0x33, 0x39))
    assert {DIGITS: 1}[~~DIGITS] == 1


@pytest.mark.parametrize(
    ("charset", "members", "strangers"),
    [
        (DIGITS, "09", "a０"),
        (CHINESE, "天〇龥", "aあ×、"),
        (visible(), "a×天", " \t\n　"),
        (letters_and_digits(), "a9天é", " +=？。"),
        (Charset.of("aB1").in_either_case(), "aAbB1", "cC2"),
        (CHARSET_RANGES[7], "天×é", string.ascii_letters + string.digits + " "),
    ],
    ids=["digits", "Chinese", "visible", "letters and digits", "either case", "range 7"],
)
def test_the_named_sets_have_the_characters_of_their_names(
    charset: Charset, members: str, strangers: str
) -> None:
    assert [character for character in members if character not in charset] == []
    assert [character for character in strangers if character in charset] == []
