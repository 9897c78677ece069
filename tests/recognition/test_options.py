"""Options: what each accepts and rejects, with which message, and the precedence of sources."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest

from qwen_captcha.errors import InvalidOption
from qwen_captcha.images.colors import COLOR_RANGES
from qwen_captcha.recognition.charsets import (
    CHARSET_RANGES,
    DIGITS,
    Charset,
)
from qwen_captcha.recognition.options import (
    MAX_CHARSET_CHARACTERS,
    MAX_PROMPT_CHARACTERS,
    Case,
    Kind,
    Options,
    parse_options,
)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        pytest.param({}, Options(), id="nothing"),
        pytest.param({"lang": "en", "png_fix": True, "image": 3}, Options(), id="unknown fields"),
        pytest.param({"prompt": " Read it.\n"}, Options(prompt="Read it."), id="prompt trimmed"),
        pytest.param({"prompt": "读出验证码"}, Options(prompt="读出验证码"), id="prompt Chinese"),
        pytest.param({"prompt": ""}, Options(), id="prompt empty"),
        pytest.param({"prompt": " \t"}, Options(), id="prompt blank"),
        pytest.param({"prompt": None}, Options(), id="prompt null"),
        pytest.param({"kind": "math"}, Options(kind=Kind.MATH), id="kind"),
        pytest.param({"kind": " Digits "}, Options(kind=Kind.DIGITS), id="kind any case"),
        pytest.param({"kind": ""}, Options(), id="kind empty"),
        pytest.param({"case": "lower"}, Options(case=Case.LOWER), id="case"),
        pytest.param(
            {"charset": "cba a"}, Options(charset=Charset.of("abc")), id="charset normalised"
        ),
        pytest.param(
            {"charset": "天地　人"}, Options(charset=Charset.of("天地人")), id="charset Chinese"
        ),
        pytest.param({"charset": "  "}, Options(), id="charset blank"),
        pytest.param({"charset_range": 0}, Options(charset=DIGITS), id="range number"),
        pytest.param({"charset_range": "0"}, Options(charset=DIGITS), id="range text"),
        pytest.param({"charset_range": ""}, Options(), id="range empty"),
        pytest.param({"length": 4}, Options(length=(4, 4)), id="length number"),
        pytest.param({"length": "4"}, Options(length=(4, 4)), id="length text"),
        pytest.param({"length": " 4 - 6 "}, Options(length=(4, 6)), id="length range"),
        pytest.param({"details": True}, Options(details=True), id="details"),
        pytest.param({"details": "No"}, Options(), id="details off"),
        pytest.param({"min_confidence": "0.9"}, Options(min_confidence=0.9), id="share text"),
        pytest.param({"min_confidence": 1}, Options(min_confidence=1.0), id="share whole"),
        pytest.param({"length": 64}, Options(length=(64, 64)), id="length at its limit"),
        pytest.param(
            {"prompt": "p" * MAX_PROMPT_CHARACTERS},
            Options(prompt="p" * MAX_PROMPT_CHARACTERS),
            id="prompt at its limit",
        ),
    ],
)
def test_fields_become_options(fields: Mapping[str, object], expected: Options) -> None:
    assert parse_options(fields) == expected


@pytest.mark.parametrize("kind", list(Kind))
def test_every_kind_is_accepted(kind: Kind) -> None:
    assert parse_options({"kind": str(kind)}).kind is kind


@pytest.mark.parametrize("case", list(Case))
def test_every_case_is_accepted(case: Case) -> None:
    assert parse_options({"case": str(case)}).case is case


@pytest.mark.parametrize(
    ("number", "members", "strangers"),
    [
        (0, "059", "aZ"),
        (1, "az", "A0"),
        (2, "AZ", "a0"),
        (3, "aZ", "0"),
        (4, "a0", "A"),
        (5, "A0", "a"),
        (6, "aA0", "天"),
        (7, "天×=", "aA0 "),
    ],
)
def test_range_number_stands_for_its_characters(number: int, members: str, strangers: str) -> None:
    charset = parse_options({"charset_range": number}).charset
    assert charset is not None
    assert all(member in charset for member in members)
    assert not any(stranger in charset for stranger in strangers)
    assert charset == CHARSET_RANGES[number]


def test_equal_charsets_make_equal_hashable_options() -> None:
    spelled = parse_options({"charset": "98765432100"})
    numbered = parse_options({"charset_range": "0"})
    assert {spelled: "answer"}[numbered] == "answer"


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        pytest.param({"prompt": 5}, ["prompt", "5", "a text"], id="prompt number"),
        pytest.param({"prompt": ["a"]}, ["prompt", "list", "a text"], id="prompt list"),
        pytest.param({"prompt": False}, ["prompt", "False", "a text"], id="prompt boolean"),
        pytest.param(
            {"prompt": "p" * (MAX_PROMPT_CHARACTERS + 1)},
            ["prompt", "at most 2000 characters"],
            id="prompt too long",
        ),
        pytest.param({"prompt": "a\ud800"}, ["prompt", "Unicode"], id="prompt half a surrogate"),
        pytest.param(
            {"kind": "words"}, ["kind", "'words'", "auto, text, digits, chinese"], id="kind unknown"
        ),
        pytest.param({"kind": 1}, ["kind", "1", "auto"], id="kind number"),
        pytest.param({"case": "title"}, ["case", "'title'", "keep, lower, upper"], id="case"),
        pytest.param({"case": {}}, ["case", "dict", "keep"], id="case object"),
        pytest.param({"charset": 123}, ["charset", "123", "a text"], id="charset number"),
        pytest.param(
            {"charset": "a" * (MAX_CHARSET_CHARACTERS + 1)},
            ["charset", "at most 20000 characters"],
            id="charset too long",
        ),
        pytest.param({"charset_range": 8}, ["charset_range", "8", "0 to 7"], id="range 8"),
        pytest.param({"charset_range": -1}, ["charset_range", "-1", "0 to 7"], id="range -1"),
        pytest.param({"charset_range": "abc"}, ["charset_range", "'abc'"], id="range letters"),
        pytest.param({"charset_range": "０"}, ["charset_range", "0 to 7"], id="range full-width"),
        pytest.param({"charset_range": 1.0}, ["charset_range", "1.0"], id="range float"),
        pytest.param({"charset_range": True}, ["charset_range", "True"], id="range boolean"),
        pytest.param({"charset_range": [0]}, ["charset_range", "list"], id="range list"),
        pytest.param({"details": "perhaps"}, ["details", "true or false"], id="details"),
        pytest.param({"details": []}, ["details", "list"], id="details list"),
        pytest.param({"min_confidence": 1.5}, ["min_confidence", "from 0 to 1"], id="share over 1"),
        pytest.param({"min_confidence": "nan"}, ["min_confidence", "'nan'"], id="share nan"),
        pytest.param({"min_confidence": True}, ["min_confidence", "True"], id="share boolean"),
        pytest.param({"length": 0}, ["length", "0", "1 to 64"], id="length 0"),
        pytest.param({"length": 65}, ["length", "65", "1 to 64"], id="length too long"),
        pytest.param({"length": "6-4"}, ["length", "'6-4'", "4-6"], id="length backwards"),
        pytest.param({"length": "-4"}, ["length", "'-4'"], id="length negative"),
        pytest.param({"length": True}, ["length", "True"], id="length boolean"),
        pytest.param({"length": [4]}, ["length", "list"], id="length list"),
        pytest.param(
            {"charset": "ab", "charset_range": 0},
            ["charset and charset_range", "only one"],
            id="charset twice",
        ),
    ],
)
def test_the_error_names_option_value_and_allowed_values(
    fields: Mapping[str, object], named: list[str]
) -> None:
    with pytest.raises(InvalidOption) as caught:
        parse_options(fields)
    for part in named:
        assert part in caught.value.message
    assert len(caught.value.message) < 200
    assert caught.value.message.encode()


def test_the_error_for_deeply_nested_json_is_short() -> None:
    nested: object = []
    for _ in range(900):
        nested = [nested]
    with pytest.raises(InvalidOption, match="of type list"):
        parse_options({"prompt": nested})


@pytest.mark.parametrize(
    ("body", "query", "expected"),
    [
        pytest.param({"case": "upper"}, {"case": "lower"}, Options(case=Case.UPPER), id="stronger"),
        pytest.param({}, {"case": "lower"}, Options(case=Case.LOWER), id="only the weaker"),
        pytest.param(
            {"prompt": " "}, {"prompt": "Read."}, Options(prompt="Read."), id="empty is not given"
        ),
        pytest.param(
            {"kind": "math"},
            {"prompt": "Read."},
            Options(kind=Kind.MATH, prompt="Read."),
            id="each from where it is",
        ),
        pytest.param(
            {"charset": "01"},
            {"charset_range": "0"},
            Options(charset=Charset.of("01")),
            id="a charset over a range",
        ),
        pytest.param(
            {"charset_range": 0, "charset": ""},
            {"charset": "ab"},
            Options(charset=Charset.of("0123456789")),
            id="a range over a charset",
        ),
        pytest.param(
            {"case": "upper"}, {"case": "wrong"}, Options(case=Case.UPPER), id="overruled is unread"
        ),
    ],
)
def test_the_source_of_higher_precedence_counts(
    body: Mapping[str, object], query: Mapping[str, object], expected: Options
) -> None:
    assert parse_options(body, query) == expected


RED_BOUNDS = [[170, 50, 50], [180, 255, 255], [0, 50, 50], [10, 255, 255]]


@pytest.mark.parametrize(
    "fields",
    [
        {"colors": " Red "},
        {"colors": "red, red,"},
        {"colors": '["red"]'},
        {"colors": ["RED", ""]},
        {"colors": "mine", "custom_color_ranges": {"mine": RED_BOUNDS}},
        {"colors": ["mine"], "custom_color_ranges": json.dumps({"Mine": RED_BOUNDS})},
    ],
)
def test_colors_are_spelled_in_many_ways(fields: dict[str, object]) -> None:
    assert parse_options(fields) == parse_options({"colors": ["red"]})
    assert parse_options(fields).colors == COLOR_RANGES["red"]


@pytest.mark.parametrize("value", ["", "[]", "null", [], None])
def test_no_colors_are_all_colors(value: object) -> None:
    assert parse_options({"colors": value, "custom_color_ranges": "null"}) == Options()


@pytest.mark.parametrize(
    "fields",
    [
        {"colors": "pink"},
        {"colors": ["red", 5]},
        {"colors": {"red": 1}},
        {"colors": "[" * 100_000},
        {"colors": "own", "custom_color_ranges": {"own": []}},
        {"colors": "own", "custom_color_ranges": {"own": [[0, 0, 0]]}},
        {"colors": "own", "custom_color_ranges": {"own": [[0, 0], [1, 1]]}},
        {"colors": "own", "custom_color_ranges": {"own": [[0, 0, 0], [181, 1, 1]]}},
        {"colors": "own", "custom_color_ranges": {"own": [[0, 0, 0], [1, 1, 256]]}},
        {"colors": "own", "custom_color_ranges": {"own": [[9, 0, 0], [1, 1, 1]]}},
        {"colors": "own", "custom_color_ranges": {"own": [[0, 0, 0], [True, 1, 1]]}},
        {"colors": "own", "custom_color_ranges": [[[0, 0, 0], [1, 1, 1]]]},
        {"custom_color_ranges": {"own": [[0, 0, 0], [1, 1, 1]]}},
    ],
)
def test_invalid_colors_are_rejected(fields: dict[str, object]) -> None:
    with pytest.raises(InvalidOption, match="color"):
        parse_options(fields)
