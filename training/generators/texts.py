"""Texts, arithmetic, colours and faces that the families of several libraries share."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import lru_cache

from training.rendering.fonts import FontLibrary, FontsMissingError, draws

DIGITS = "0123456789"
LOWER = "abcdefghijklmnopqrstuvwxyz"
CAPITALS = LOWER.upper()
CHARSETS = (
    DIGITS,
    LOWER,
    CAPITALS,
    LOWER + DIGITS,
    CAPITALS + DIGITS,
    LOWER + CAPITALS,
    LOWER + CAPITALS + DIGITS,
    "23456789ABCDEFGHJKLMNPQRSTUVWXYZ",
    "23456789abcdefghjkmnpqrstuvwxyz",
    "0123456789ABCDEF",
)
_CHARSET_WEIGHTS = (4, 2, 2, 2, 3, 2, 5, 2, 1, 1)
_LENGTH_WEIGHTS = {3: 2, 4: 5, 5: 5, 6: 5, 7: 3, 8: 3, 9: 1, 10: 1}


def random_text(rng: random.Random, charset: str, lengths: Sequence[int]) -> str:
    """Return a text of characters of one set; each length is as likely."""
    return "".join(rng.choices(charset, k=rng.choice(lengths)))


def wide_text(rng: random.Random) -> str:
    """Return a text of 3 to 10 characters of one of the usual sets."""
    (charset,) = rng.choices(CHARSETS, weights=_CHARSET_WEIGHTS)
    (length,) = rng.choices(list(_LENGTH_WEIGHTS), weights=list(_LENGTH_WEIGHTS.values()))
    return "".join(rng.choices(charset, k=length))


def arithmetic(rng: random.Random, operators: str, largest: int) -> tuple[str, str]:
    """Return an expression of two numbers and its result.

    Args:
        rng: Source of chance.
        operators: Signs as drawn: `+`, `-`, and `*`, `x` or `×` for a product.
        largest: Largest operand; a product has at least one operand of at most 20.
    """
    operator = rng.choice(operators)
    first, second = rng.randint(0, largest), rng.randint(0, largest)
    if operator == "-":
        first, second = max(first, second), min(first, second)
        return f"{first}-{second}", str(first - second)
    if operator == "+":
        return f"{first}+{second}", str(first + second)
    second = min(second, 20)
    return f"{first}{operator}{second}", str(first * second)


def dark_colour(rng: random.Random, largest: int = 150) -> tuple[int, int, int]:
    """Return a colour for text on a light background."""
    return rng.randint(0, largest), rng.randint(0, largest), rng.randint(0, largest)


def light_colour(rng: random.Random, smallest: int = 190) -> tuple[int, int, int]:
    """Return a colour for a light background, or for text on a dark one."""
    return rng.randint(smallest, 255), rng.randint(smallest, 255), rng.randint(smallest, 255)


def hexadecimal(colour: tuple[int, int, int]) -> str:
    """Return a colour as CSS writes it: `#1a2b3c`."""
    return "#{:02x}{:02x}{:02x}".format(*colour)


@lru_cache(maxsize=1)
def _faces() -> FontLibrary | None:
    try:
        return FontLibrary.open()
    except FontsMissingError:
        return None


def random_faces(
    rng: random.Random, text: str, number: int, suffixes: tuple[str, ...] = (".ttf",)
) -> list[str]:
    """Return faces for training that draw each character of a text, in its case.

    The list is shorter where few faces do, and empty where none is installed: the library's own
    faces take their place then.
    """
    library = _faces()
    found: list[str] = []
    if library is None:
        return found
    for _ in range(100 * number):
        face = library.choose(rng, hanzi=False)
        if face.endswith(suffixes) and all(draws(face, character) for character in text):
            found.append(face)
            if len(found) == number:
                break
    return found
