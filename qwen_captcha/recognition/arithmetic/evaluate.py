"""Arithmetic captchas: from the drawn expression to the integer to type.

    evaluate_expression("3+5=?")         # 8
    evaluate_expression("8乘以7等于?")   # 56
    evaluate_expression("3+( )=8")       # 5
    evaluate_expression("a3b9")          # None

Numbers and signs may be Chinese (`壹拾贰减叁`), of full width, or already answered by the model
(`3+5=8`). A value is an exact integer. Time and depth are bounded for any text, and no text raises
an error.

× and ÷ bind tighter than + and -; operators of one precedence apply from left to right. Steps are
exact rationals, so that 6÷4×2 is 3, while 7÷2 has no value. `6除以3` is 2 and so is `3除6`: 除
alone divides its right side by its left. Where that gives no integer, 除 is read as
除以: `6除3` is 2.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from qwen_captcha.recognition.arithmetic import expressions, numerals
from qwen_captcha.recognition.arithmetic.expressions import (
    DIVIDES,
    UNKNOWN,
    NoValueError,
    Number,
    Token,
)

# Captchas draw under 20 characters. This also bounds the parser's depth, to about 100 calls.
MAX_CHARACTERS = 64
# Maximum digits of an operand, and of the value.
MAX_DIGITS = 12

# Each sign of the grammar, and the equals sign, with its spellings.
_SPELLINGS = {
    "+": ["+", "＋", "﹢", "➕", "加上", "加"],
    "-": [*"-－−–—‐‑‒―﹣➖", "减去", "減去", "减", "減", "负", "負"],
    "*": [*"*＊×✕✖⨯╳∗⋅·•∙xXｘＸ", "乘以", "乘上", "乘於", "乘"],
    "/": [*"/／÷➗∕:：∶", "除以", "除於"],
    DIVIDES: ["除"],
    "(": [*"(（"],
    ")": [*")）"],
    "=": [*"=＝﹦", "等于", "等於", "是", "为", "為", "得"],
    UNKNOWN: [*"?？﹖_＿□", "()", "（）", "多少", "什么", "什麼", "几", "幾"],
}
_SIGNS = {spelling: sign for sign, spellings in _SPELLINGS.items() for spelling in spellings}
# Every character that an expression may hold, spaces aside.
CHARACTERS = "".join(_SIGNS) + "0123456789０１２３４５６７８９" + numerals.CHARACTERS
_OPERATORS = ("+", "-", "*", "/", DIVIDES)
# English words for signs. They stand between spaces, which codes lack.
_WORDS = {"plus": "+", "minus": "-", "times": "*", "multiplied by": "*", "divided by": "/"}
_WORD = re.compile(rf"(?<=[0-9])\s+({'|'.join(_WORDS)})\s+(?=[0-9?])", re.IGNORECASE)
# Operators that codes contain, too.
_IN_CODES = "xXｘＸ·•∙:：∶"


def _any_of(*signs: str, without: str = "") -> str:
    """Return a regular expression for the spellings of some signs, the longest first."""
    spellings = [s for sign in signs for s in _SPELLINGS[sign] if s not in without]
    return "(?:" + "|".join(map(re.escape, sorted(spellings, key=len, reverse=True))) + ")"


_NUMBER = f"(?:[0-9０-９]+|[{numerals.CHARACTERS}]+)"
_TOKEN = re.compile(f"({_NUMBER})|{_any_of(*_SPELLINGS)}")
_ONLY_TOKENS = re.compile(f"(?:{_NUMBER}|{_any_of(*_SPELLINGS)})*+")
_AFTER_OPERAND = f"(?<=[0-9０-９{numerals.CHARACTERS})）?？])"
_JOINS = re.compile(_AFTER_OPERAND + _any_of(*_OPERATORS))
_SURELY_JOINS = re.compile(_AFTER_OPERAND + _any_of(*_OPERATORS, without=_IN_CODES))
_OPERATOR = re.compile(_any_of(*_OPERATORS))
# Two numbers with nothing else: a sum where it has a value, else a time of day such as 12:30.
_BARE = re.compile("[1-9][0-9]{0,2}[·•∙:：∶][1-9][0-9]{0,2}")
# Hardly any generator draws codes of three characters; some draw products so.
_BARE_PRODUCT = re.compile("[0-9]x[0-9]")
# 是, 为 and 得 are too common in Chinese to make an equation of any text.
_EQUALS = re.compile("[=＝﹦]|等[于於]")
_ASKS = re.compile(_any_of("=", UNKNOWN))


def with_signs(text: str) -> str:
    """Return a text with signs for the English words between its numbers: `3 plus 5` is `3+5`."""
    return _WORD.sub(lambda match: _WORDS[match[1].lower()], text)


def looks_like_arithmetic(text: str) -> bool:
    """Return whether a text is to be computed, instead of typed as it is.

    Numbers joined by a sign that codes lack are arithmetic: `64-42`, `3×7`, `三加五`. A letter x
    joins them only where an equals sign or a question mark stands, too, or between two digits
    alone: `13x7=?` and `3x7`, but not `13x7`. A colon or a dot joins two numbers to an integer,
    too: `12:4`, but not `12:30` nor `12:04`. An equals sign beside an operator is arithmetic
    whatever else was read. A bare number is not, so that the code `0042` remains a code. The
    expression may have no value.
    """
    compact = "".join(text.split())
    equals = _EQUALS.search(compact) is not None
    if not _ONLY_TOKENS.fullmatch(compact):
        return equals and _OPERATOR.search(compact) is not None
    if _BARE_PRODUCT.fullmatch(compact):
        return True
    if _BARE.fullmatch(compact):
        return evaluate_expression(compact) is not None
    joins = _JOINS if _ASKS.search(compact) else _SURELY_JOINS
    return equals or joins.search(compact) is not None


def evaluate_expression(text: str) -> int | None:
    """Return the value of an expression, of the unknown in an equation, or of a bare integer.

    An answer that the text already gives is ignored: `3+5=9` is 8. Of a chain of equals signs only
    the first two sides are used.

    Returns:
        None where the text is no expression, or longer than `MAX_CHARACTERS` without its spaces;
        where a number has more than `MAX_DIGITS` digits; on a division by zero; where the value is
        no integer; and where there are several unknowns or several solutions.
    """
    compact = "".join(text.split())
    if len(compact) > MAX_CHARACTERS:
        return None
    try:
        tokens = _tokenize(compact)
    except NoValueError:
        return None
    value = _integer(tokens)
    if value is None and DIVIDES in tokens:
        value = _integer(["/" if token == DIVIDES else token for token in tokens])
    return value


def _tokenize(compact: str) -> list[Token]:
    """Return the numbers and signs of a text without whitespace; blanks in a row are one."""
    tokens: list[Token] = []
    position = 0
    while position < len(compact):
        match = _TOKEN.match(compact, position)
        if match is None:
            raise NoValueError
        token = _parse_number(match[1]) if match[1] else _SIGNS[match[0]]
        if token != UNKNOWN or tokens[-1:] != [UNKNOWN]:
            tokens.append(token)
        position = match.end()
    return tokens


def _parse_number(spelled: str) -> Number:
    """Return the value of a number in Arabic digits, full-width or not, or a Chinese numeral."""
    is_numeral = spelled[0] in numerals.CHARACTERS
    value = numerals.parse_numeral(spelled) if is_numeral else int(spelled)
    if value is None or value >= 10**MAX_DIGITS:
        raise NoValueError
    return Number(value)


def _integer(tokens: Sequence[Token]) -> int | None:
    """Return the value or the unknown of an equation, if it is an integer within `MAX_DIGITS`."""
    try:
        value = _asked_value(tokens)
    except NoValueError:
        return None
    return int(value) if value.denominator == 1 and abs(value) < 10**MAX_DIGITS else None


def _asked_value(tokens: Sequence[Token]) -> Number:
    """Return the unknown if an operand is one, else the value of the side with an operator."""
    # A side that is only a question mark is the blank for the result.
    sides = [side for side in _split_sides(tokens) if side not in ([], [UNKNOWN])]
    if not sides:
        raise NoValueError
    first, second = (expressions.parse(side) for side in (*sides, sides[0])[:2])
    first_value, second_value = expressions.compute(first), expressions.compute(second)
    if first_value is not None and second_value is not None:
        return first_value if isinstance(first, expressions.Operation) else second_value
    if second_value is not None:
        return expressions.solve(first, second_value)
    if first_value is not None:
        return expressions.solve(second, first_value)
    raise NoValueError


def _split_sides(tokens: Sequence[Token]) -> list[list[Token]]:
    """Return the tokens between the equals signs."""
    sides: list[list[Token]] = [[]]
    for token in tokens:
        if token == "=":
            sides.append([])
        else:
            sides[-1].append(token)
    return sides
