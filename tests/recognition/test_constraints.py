"""From options to the constraints of an engine."""

from __future__ import annotations

import pytest

from qwen_captcha.errors import InvalidOption
from qwen_captcha.recognition.charsets import (
    DIGITS,
    Charset,
    visible,
)
from qwen_captcha.recognition.constraints import DecodingConstraints, constraints_for
from qwen_captcha.recognition.options import (
    Case,
    Kind,
    Options,
)


def constraints(*, follows_prompts: bool = False, **options: object) -> DecodingConstraints:
    return constraints_for(Options(**options), follows_prompts=follows_prompts)


@pytest.mark.parametrize(
    ("options", "allowed", "refused"),
    [
        ({}, ["", "a 3b?"], []),
        ({"charset": Charset.of("ab")}, ["a", "abba"], ["", "abc", "a b", "A"]),
        ({"length": (4, 5)}, ["a3b9", "天地人天地"], ["a3b", "a3b9a3", "a3 b9"]),
        ({"charset": DIGITS, "length": (2, 2)}, ["12"], ["1", "123", "1a"]),
        ({"kind": Kind.DIGITS}, ["0123"], ["", "12a", "1 2"]),
        ({"kind": Kind.CHINESE}, ["天地"], ["天a", "天，"]),
        ({"kind": Kind.TEXT}, ["a3B9", "天"], ["3+5", "a 3"]),
        ({"kind": Kind.MATH}, ["3+5=?", "叁加5 等于?", "12x３"], ["", "a3b9"]),
        ({"kind": Kind.DIGITS, "charset": Charset.of("12ab")}, ["1221"], ["a", "3"]),
        ({"case": Case.LOWER, "charset": Charset.of("aB1")}, ["aAbB1"], ["c"]),
        ({"kind": Kind.MATH, "charset": DIGITS, "length": (1, 1)}, ["3+5"], ["a"]),
        ({"kind": Kind.QUESTION}, ["Paris, I think"], []),
    ],
    ids=lambda value: ", ".join(map(str, value)) if isinstance(value, dict) else None,
)
def test_options_say_which_responses_are_allowed(
    options: dict[str, object], allowed: list[str], refused: list[str]
) -> None:
    told = constraints(**options)
    assert [text for text in allowed if not told.allows(text)] == []
    assert [text for text in refused if told.allows(text)] == []
    assert told.restricts == bool(refused)


def test_a_model_that_follows_prompts_may_emit_spaces() -> None:
    assert not constraints(kind=Kind.TEXT, follows_prompts=True).restricts
    assert constraints(kind=Kind.DIGITS, follows_prompts=True).restricts


def test_a_length_without_a_charset_allows_visible_characters() -> None:
    assert constraints(length=(4, 4)).charset == visible()


def test_charset_and_kind_that_exclude_each_other_are_rejected() -> None:
    with pytest.raises(InvalidOption, match="charset and kind=digits have no character in common"):
        constraints(charset=Charset.of("ab"), kind=Kind.DIGITS)


def test_equal_options_are_equal_constraints() -> None:
    first = constraints(charset=Charset.of("ab"), length=(4, 4), case=Case.UPPER)
    assert first == constraints(charset=Charset.of("ba"), length=(4, 4), case=Case.UPPER)
    assert hash(first) == hash(first)
