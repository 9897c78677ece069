"""Chinese numerals: every spelling of a number, and no guess at an ambiguous one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_captcha.recognition.arithmetic.numerals import (
    CHARACTERS,
    MAX_CHARACTERS,
    parse_numeral,
)

EVERYDAY = ("零一二三四五六七八九", "千百十", "万")
FINANCIAL = ("零壹贰叁肆伍陆柒捌玖", "仟佰拾", "万")
TRADITIONAL = ("零壹貳參肆伍陸柒捌玖", "仟佰拾", "萬")


def spell_section(value: int, digits: str, units: str) -> str:
    """Spell 1 to 9,999 in full: each place with its unit, one zero for skipped places."""
    spelled, skipped = "", False
    for place, unit in zip((1000, 100, 10, 1), (*units, ""), strict=True):
        digit = value // place % 10
        if digit:
            spelled += (digits[0] if skipped and spelled else "") + digits[digit] + unit
        skipped = digit == 0 if spelled else False
    return spelled


def spell(value: int, style: tuple[str, str, str]) -> str:
    """Spell 0 to 99,999,999 in full."""
    digits, units, myriad = style
    high, low = divmod(value, 10_000)
    if not value:
        return digits[0]
    spelled = spell_section(high, digits, units) + myriad if high else ""
    gap = digits[0] if high and 0 < low < 1000 else ""
    return spelled + gap + (spell_section(low, digits, units) if low else "")


@pytest.mark.parametrize(
    ("numeral", "value"),
    [
        ("零", 0),
        ("〇", 0),
        ("七", 7),
        ("两", 2),
        ("兩", 2),
        ("十", 10),
        ("拾", 10),
        ("十二", 12),
        ("壹拾贰", 12),
        ("二十", 20),
        ("九十九", 99),
        ("一百", 100),
        ("两百五十", 250),
        ("一百零三", 103),
        ("一百〇三", 103),
        ("一百一十", 110),
        ("一百十二", 112),
        ("一千零三十", 1030),
        ("两千零二", 2002),
        ("九千九百九十九", 9999),
        ("一万", 10_000),
        ("十二万三千四百五十六", 123_456),
        ("一万零五", 10_005),
        ("貳萬伍仟", 25_000),
        ("九千九百九十九万九千九百九十九", 99_999_999),
        ("一二三", 123),
        ("二〇二四", 2024),
        ("〇〇七", 7),
    ],
)
def test_value(numeral: str, value: int):
    assert parse_numeral(numeral) == value


@pytest.mark.parametrize(
    "numeral",
    [
        "",
        "百",
        "千十",
        "万",
        "零万",
        "十十",
        "十百",
        "一百二百",
        "一十二三",
        "一二十",
        "一百三",
        "两千五",
        "一万三",
        "一万零",
        "一万一万",
        "一百零",
        "5",
        "三5",
        "三个",
        "一" * (MAX_CHARACTERS + 1),
        "一" * 100_000,
    ],
)
def test_ambiguous_or_malformed_has_no_value(numeral: str):
    assert parse_numeral(numeral) is None


@pytest.mark.parametrize("style", [EVERYDAY, FINANCIAL, TRADITIONAL])
@given(value=st.integers(0, 99_999_999))
def test_full_spelling_has_its_value(style: tuple[str, str, str], value: int):
    assert parse_numeral(spell(value, style)) == value


@given(value=st.integers(0, 10**12 - 1))
def test_digits_without_units_count_by_place(value: int):
    assert parse_numeral("".join(EVERYDAY[0][int(digit)] for digit in str(value))) == value


@given(st.text(CHARACTERS, max_size=MAX_CHARACTERS + 4))
def test_any_run_of_numeral_characters_is_safe(numeral: str):
    value = parse_numeral(numeral)

    assert value is None or 0 <= value < 10**MAX_CHARACTERS
