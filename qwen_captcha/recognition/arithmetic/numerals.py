"""Chinese numerals to integers below 100 million: everyday, financial and traditional forms.

An ambiguous or malformed numeral has no value.
"""

from __future__ import annotations

import re

# Each string spells 0 to 9 in order; 两 and 兩 are 2 before a unit and in everyday counting.
_SPELLINGS = (
    "零一二三四五六七八九",
    "〇壹贰叁肆伍陆柒捌玖",
    "〇壹貳參肆伍陸柒捌玖",
    "〇壹贰叄肆伍陆柒捌玖",
)
_DIGITS = {
    **{character: value for digits in _SPELLINGS for value, character in enumerate(digits)},
    "两": 2,
    "兩": 2,
}
# 九千九百九十九万九千九百九十九 has 15 characters.
MAX_CHARACTERS = 16
CHARACTERS = "".join(_DIGITS) + "十拾百佰千仟万萬"

_ZERO = "[零〇]"
_DIGIT = "[" + "".join(character for character, value in _DIGITS.items() if value) + "]"
# A part below 10,000. Ones follow tens, or a zero, or nothing: 一百三 is colloquially 130.
_SECTION = re.compile(
    f"(?:({_DIGIT})[千仟])?"
    f"(?:{_ZERO}?({_DIGIT})[百佰])?"
    f"(?:{_ZERO}?({_DIGIT}?)[十拾])?"
    f"(?:(?:{_ZERO}|(?<=[十拾])|^)({_DIGIT}))?"
)


def parse_numeral(numeral: str) -> int | None:
    """Return the value of a Chinese numeral, or None where it has none.

    Without units, the digits are read in order, as in a year: `二〇二四` is 2024. With units, a
    skipped unit before the ones requires a zero: `一百零三` is 103, while `一百三` has no value.
    """
    if not 1 <= len(numeral) <= MAX_CHARACTERS:
        return None
    if all(character in _DIGITS for character in numeral):
        return int("".join(str(_DIGITS[character]) for character in numeral))
    high, myriad, low = numeral.replace("萬", "万").partition("万")
    if not myriad:
        return _parse_section(numeral)
    myriads, ones = _parse_section(high), _parse_section(low)
    # 一万三 is colloquially 13,000, hence no lone digit after the sign.
    if not myriads or ones is None or low in _DIGITS:
        return None
    return myriads * 10_000 + ones


def _parse_section(section: str) -> int | None:
    """Return the value of a numeral below 10,000 with units, of one digit, or 0 for nothing."""
    match = _SECTION.fullmatch(section)
    if match is None:
        return None
    thousands, hundreds, tens, ones = (_DIGITS.get(digit or "", 0) for digit in match.groups())
    if match[3] == "":
        tens = 1  # 十二 is short for 一十二
    return thousands * 1000 + hundreds * 100 + tens * 10 + ones
