"""Sets of characters of any size, as hashable values, and ddddocr's range numbers.

Equal sets are equal values. A set has whitespace only if that was listed explicitly.
"""

from __future__ import annotations

import string
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

LAST_CODE_POINT = 0x10FFFF
# The basic plane holds the letters and digits of living scripts.
_LAST_OF_BASIC_PLANE = 0xFFFF


@dataclass(frozen=True, slots=True)
class Charset:
    """A set of characters.

    Attributes:
        ranges: First and last code point of each run, sorted; runs neither touch nor overlap.
    """

    ranges: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, characters: Iterable[str]) -> Charset:
        """Return the set of some characters."""
        return cls(_merged((ord(character), ord(character)) for character in characters))

    @classmethod
    def between(cls, *ranges: tuple[int, int]) -> Charset:
        """Return the set of all code points in some ranges, both ends included."""
        return cls(_merged(ranges))

    def __bool__(self) -> bool:
        return bool(self.ranges)

    def __contains__(self, character: str) -> bool:
        index = bisect_right(self.ranges, (ord(character), LAST_CODE_POINT))
        return index > 0 and ord(character) <= self.ranges[index - 1][1]

    def __and__(self, other: Charset) -> Charset:
        return ~(~self | ~other)

    def __or__(self, other: Charset) -> Charset:
        return Charset.between(*self.ranges, *other.ranges)

    def __invert__(self) -> Charset:
        starts = [0, *(last + 1 for _, last in self.ranges)]
        ends = [*(first - 1 for first, _ in self.ranges), LAST_CODE_POINT]
        pairs = zip(starts, ends, strict=True)
        return Charset.between(*((first, last) for first, last in pairs if first <= last))

    def overlaps(self, first: int, last: int) -> bool:
        """Return whether any code point from `first` to `last` is in the set."""
        return any(low <= last and high >= first for low, high in self.ranges)

    def in_either_case(self) -> Charset:
        """Return the set with the other case of each ASCII letter in it."""
        letters = (letter for letter in string.ascii_letters if letter in self)
        return self | Charset.of(letter.swapcase() for letter in letters)


def _merged(ranges: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Return ranges sorted, with ranges that touch or overlap joined."""
    merged: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    return tuple(merged)


@cache
def letters_and_digits() -> Charset:
    """Return the letters and digits of every script of the basic plane."""
    return Charset.of(filter(str.isalnum, map(chr, range(_LAST_OF_BASIC_PLANE + 1))))


@cache
def visible() -> Charset:
    """Return everything but whitespace."""
    return ~Charset.of(filter(str.isspace, map(chr, range(_LAST_OF_BASIC_PLANE + 1))))


DIGITS = Charset.of(string.digits)
# Ideographs of the basic plane, its two blocks and the zero that is apart, and the rarer ones.
CHINESE = Charset.between((0x3007, 0x3007), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0x20000, 0x3347F))

_LOWER = Charset.of(string.ascii_lowercase)
_UPPER = Charset.of(string.ascii_uppercase)
# ddddocr's `set_ranges` numbers. Source: the table in the description of its package, 1.6.1. Its 7
# is "the default charset without letters and digits", here everything visible without them.
CHARSET_RANGES = {
    0: DIGITS,
    1: _LOWER,
    2: _UPPER,
    3: _LOWER | _UPPER,
    4: _LOWER | DIGITS,
    5: _UPPER | DIGITS,
    6: _LOWER | _UPPER | DIGITS,
    7: visible() & ~(_LOWER | _UPPER | DIGITS),
}
