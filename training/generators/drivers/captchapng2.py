"""captchapng2: digits of two bitmap faces, each in a colour of its own."""

from __future__ import annotations

import random

from training.generators.drawing import Family, Settings
from training.generators.libraries import Library
from training.generators.texts import DIGITS, random_text

LIBRARY = Library(
    name="captchapng2", version="1.0.3", licence="MIT", registry="npm", driver="captchapng2"
)


def _digits(rng: random.Random) -> Settings:
    return {"text": str(rng.randint(1000, 9999)), "width": 80, "height": 30}


def _digits_v1(rng: random.Random) -> Settings:
    length, width, height = rng.choice(
        ((4, 70, 30), (4, 80, 30), (4, 100, 30), (5, 100, 40), (6, 120, 40), (4, 100, 40))
    )
    return {"text": random_text(rng, DIGITS, (length,)), "width": width, "height": height}


def _wide(rng: random.Random) -> Settings:
    text = random_text(rng, DIGITS, (3, 4, 4, 5, 5, 6, 6, 7, 8, 9, 10))
    # The faces are 19 pixels high and up to 16 wide.
    width = int(len(text) * rng.uniform(15, 32))
    return {"text": text, "width": width, "height": rng.randint(20, 60)}


FAMILIES = (
    Family("captchapng2_digits", _digits),
    Family("captchapng2_digits_v1", _digits_v1),
    Family("captchapng2_wide", _wide),
)
