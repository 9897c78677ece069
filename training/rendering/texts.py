"""Random labels of every kind.

Every label consists of characters of `alphabet.ALPHABET`.
"""

from __future__ import annotations

import random
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

from training.rendering.alphabet import (
    DIGITS,
    HANZI_FREQUENT,
    HANZI_LEVEL_1,
    LATIN,
    LOWER,
    UPPER,
)

Value = TypeVar("Value")

KINDS = ("digits", "latin", "math", "chinese", "chinese_math")

_POOLS = (
    (LATIN, 5),
    (LOWER + DIGITS, 4),
    (UPPER + DIGITS, 4),
    (UPPER, 2),
    (LOWER, 2),
    (LOWER + UPPER, 1),
)
# Many generators leave out what people confuse.
_CONFUSED = frozenset("0oO1lIi")
_WITHOUT_CONFUSED = 0.5
# Letters that differ by a stroke or its direction, as N from H, M and W; they come oftener.
_MISTAKEN = frozenset("MWNHUVYKXBRDmwnuvhbd")
_MISTAKEN_WEIGHT = 1.6
_DOUBLED = 0.12  # codes with a letter made twice: rare by chance, and read as one where they touch
# Share of the longer codes that consist of three characters: of equal neighbours one was left out,
# or another one added.
_FEW_SHARE = 0.15
_FEW_MIN_LENGTH = 5
_LENGTHS = (
    *((1, 0.5), (2, 1), (3, 2.5), (4, 12), (5, 10), (6, 9), (7, 6), (8, 6), (9, 4), (10, 4)),
    *((11, 4), (12, 3.5), (13, 2), (14, 2), (15, 1.5), (16, 2)),
)
_WORDS = 0.3  # share of the Latin codes that are words
_WORD_LIST = Path("/usr/share/dict/words")  # Debian's wamerican; made-up words where it is missing
_MADE_UP = 0.4  # share of the words that are syllables in a row, as some generators make them
_GLUED = 0.4  # of the words from the list, those of the halves of two, as other generators do
_CONSONANTS, _VOWELS = "bcdfghjklmnpqrstvwxyz", "aeiou"
_HAN_LENGTHS = ((1, 1), (2, 3), (3, 3), (4, 10), (5, 2), (6, 0.5))
_HAN_FREQUENT = 0.4  # share of the codes whose characters are all frequent ones
_OPERATORS = (
    *(("+", 8), ("-", 7), ("*", 4), ("×", 4), ("x", 2), ("X", 1), ("/", 2), ("÷", 2)),
    *((":", 1.2), ("·", 1.2)),
)
_LARGEST = ((9, 9), (20, 3), (99, 8), (999, 4))  # operands and how often they are that large
_BRACKETS, _UNKNOWN = 0.1, 0.07  # share of the expressions with either
_ENDINGS = (("=?", 7), ("=", 5), ("", 3), ("?", 0.3))
_HAN_DIGITS = ("零一二三四五六七八九十", "零壹贰叁肆伍陆柒捌玖拾")
_HAN_OPERATORS = ("加", "减", "乘", "除以", "乘以", "加上", "减去", "+", "-", "×")
# One form of the question mark: in a picture they are alike.
_HAN_ENDINGS = ("等于", "等于?", "等于?", "等于几", "=?", "=", "得", "")


def _weighted(rng: random.Random, table: tuple[tuple[Value, float], ...]) -> Value:
    return rng.choices([value for value, _ in table], weights=[weight for _, weight in table])[0]


def sample_length(rng: random.Random, longest: int) -> int:
    """Return a code length between 1 and `longest` with the weights of real generators."""
    table = tuple((n, w if n < longest else w + 0.5) for n, w in _LENGTHS if n <= longest)
    return _weighted(rng, table or ((longest, 1.0),))


def _spaced(rng: random.Random, parts: list[str]) -> str:
    return (" " if rng.random() < 0.3 else "").join(part for part in parts if part)


def _expression(rng: random.Random) -> str:
    top = _weighted(rng, _LARGEST)
    operands = 3 if top < 999 and rng.random() < 0.2 else 2
    parts = [str(rng.randint(0, top))]
    for _ in range(operands - 1):
        parts += [_weighted(rng, _OPERATORS), str(rng.randint(0, top))]
    if operands == 2 and rng.random() < _UNKNOWN:
        parts[rng.choice((0, 2))] = "?"
        return _spaced(rng, [*parts, "=", str(rng.randint(0, top))])
    if operands == 3 and rng.random() < _BRACKETS / 0.2:
        opened = rng.choice((0, 2))
        parts[opened], parts[opened + 2] = f"({parts[opened]}", f"{parts[opened + 2]})"
    return _spaced(rng, [*parts, _weighted(rng, _ENDINGS)])


@lru_cache(maxsize=1)
def _dictionary() -> tuple[str, ...]:
    """Return lower-case words of 3 to 10 letters, none where no list is installed."""
    if not _WORD_LIST.is_file():
        return ()
    words = _WORD_LIST.read_text(encoding="utf-8").split()
    return tuple(word for word in words if word.isascii() and word.islower() and word.isalpha())


def _word(rng: random.Random, longest: int) -> str:
    """Return a word in lower case, seldom in another one, of at most `longest` letters."""
    words = _dictionary()
    if not words or rng.random() < _MADE_UP:
        length = rng.randint(min(4, longest), min(10, longest))
        letters = (_CONSONANTS, _VOWELS) if rng.random() < 0.5 else (_VOWELS, _CONSONANTS)
        word = "".join(rng.choice(letters[place % 2]) for place in range(length))
    else:
        word = rng.choice(words)
        if rng.random() < _GLUED:
            other = rng.choice(words)
            word = word[: max(2, len(word) // 2)] + other[len(other) // 2 :]
        word = word[:longest]
    return rng.choices((word, word.upper(), word.capitalize()), (8, 1.5, 0.5))[0]


def _chinese_expression(rng: random.Random) -> str:
    digits = rng.choice(_HAN_DIGITS)
    operator = rng.choice(_HAN_OPERATORS)
    first, second = rng.choice(digits), rng.choice(digits)
    if rng.random() < 0.4:
        top = rng.choice((9, 20, 99))
        first = str(rng.randint(0, top))
        second = str(rng.randint(0, top))
    return _spaced(rng, [first, operator, second, rng.choice(_HAN_ENDINGS)])


def sample_text(rng: random.Random, kind: str, longest: int) -> str:
    """Return a label.

    Args:
        rng: Source of randomness.
        kind: One of `KINDS`.
        longest: Most characters of a code (not of an expression).
    """
    if kind == "math":
        return _expression(rng)
    if kind == "chinese_math":
        return _chinese_expression(rng)
    if kind == "chinese":
        hanzi = HANZI_FREQUENT if rng.random() < _HAN_FREQUENT else HANZI_LEVEL_1
        return "".join(rng.choices(hanzi, k=min(_weighted(rng, _HAN_LENGTHS), longest)))
    length = sample_length(rng, longest)
    few = length >= _FEW_MIN_LENGTH and rng.random() < _FEW_SHARE
    if kind == "digits":
        return "".join(rng.choices(rng.sample(DIGITS, 3) if few else DIGITS, k=length))
    if not few and rng.random() < _WORDS:
        return _word(rng, longest)
    pool = _weighted(rng, _POOLS)
    if rng.random() < _WITHOUT_CONFUSED:
        pool = "".join(letter for letter in pool if letter not in _CONFUSED)
    if few:
        pool = "".join(rng.sample(pool, 3))
    weights = [_MISTAKEN_WEIGHT if letter in _MISTAKEN else 1.0 for letter in pool]
    code = rng.choices(pool, weights, k=length)
    if length > 1 and rng.random() < _DOUBLED:
        place = rng.randrange(1, length)
        code[place] = code[place - 1]
    return "".join(code)
