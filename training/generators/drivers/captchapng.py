"""captchapng: digits of two bitmap faces, in one colour."""

from __future__ import annotations

import random

from training.generators.drawing import Family, Settings
from training.generators.libraries import Library
from training.generators.texts import DIGITS, dark_colour, light_colour, random_text

LIBRARY = Library(
    name="captchapng", version="0.0.1", licence="BSD", registry="npm", driver="captchapng"
)
# Paint and background, as red, green, blue and opacity.
_README = ((80, 80, 80, 255), (0, 0, 0, 0))
_PAINTS = (
    ((0, 0, 0, 255), (255, 255, 255, 255)),
    ((255, 255, 255, 255), (0, 0, 0, 255)),
    ((80, 80, 80, 255), (255, 255, 255, 255)),
    ((30, 90, 200, 255), (240, 240, 240, 255)),
    ((20, 110, 40, 255), (170, 170, 230, 255)),
    ((0, 0, 0, 255), (0, 0, 0, 0)),
)


def _digits(rng: random.Random) -> Settings:
    return _settings(str(rng.randint(1000, 9999)), (80, 30), _README)


def _digits_v1(rng: random.Random) -> Settings:
    length, size = rng.choice(
        (
            (4, (60, 25)),
            (4, (80, 30)),
            (4, (100, 30)),
            (4, (100, 40)),
            (5, (100, 40)),
            (6, (120, 40)),
            (5, (120, 40)),
        )
    )
    return _settings(random_text(rng, DIGITS, (length,)), size, rng.choice((_README, *_PAINTS)))


def _wide(rng: random.Random) -> Settings:
    text = random_text(rng, DIGITS, (3, 4, 4, 5, 5, 6, 6, 7, 8, 9, 10))
    # The faces are 19 pixels high and up to 16 wide.
    size = int(len(text) * rng.uniform(15, 32)), rng.randint(20, 60)
    colours = [dark_colour(rng), light_colour(rng, 180)]
    if rng.random() < 0.25:
        colours.reverse()
    paint, background = ((*colour, 255) for colour in colours)
    if rng.random() < 0.2:
        background = (0, 0, 0, 0)
    return _settings(text, size, (paint, background))


def _settings(
    text: str, size: tuple[int, int], colours: tuple[tuple[int, ...], tuple[int, ...]]
) -> Settings:
    paint, background = colours
    return {
        "text": text,
        "width": size[0],
        "height": size[1],
        "paint": paint,
        "background": background,
    }


FAMILIES = (
    Family("captchapng_digits", _digits),
    Family("captchapng_digits_v1", _digits_v1),
    Family("captchapng_wide", _wide),
)
