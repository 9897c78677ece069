"""react-captcha-code: hollow coloured serif letters, one thin line a letter."""

from __future__ import annotations

import random

from training.generators.drawing import Family, Settings
from training.generators.drivers.captcha_canvas import CANVAS_PACKAGES
from training.generators.libraries import Library
from training.generators.texts import dark_colour, hexadecimal, light_colour, wide_text

LIBRARY = Library(
    name="react-captcha-code",
    version="1.0.7",
    licence="MIT",
    registry="npm",
    driver="react_captcha_code",
    requires=("react@17.0.2", "react-test-renderer@17.0.2", "canvas@2.11.2"),
    builds=("canvas",),
    debian=CANVAS_PACKAGES,
)


def _default(rng: random.Random) -> Settings:
    characters, width = rng.choice(((4, 100), (4, 100), (4, 120), (5, 130), (6, 150)))
    return {
        "width": width,
        "height": 40,
        "characters": characters,
        "background": rng.choice((None, None, "#ffffff", "#f0f0f0")),
    }


def _wide(rng: random.Random) -> Settings:
    text = wide_text(rng)[:7]
    size = rng.choice((20, 25, 25, 30, 36, 44))
    width = int(len(text) * size * rng.uniform(0.75, 1.2)) + 10
    ground = light_colour(rng) if rng.random() < 0.85 else dark_colour(rng, 60)
    return {
        "text": text,
        "characters": len(text),
        "width": width,
        # Letters are turned about the upper left corner: those on the right leave low images.
        "height": int(size * rng.uniform(1.1, 1.5) + width * 0.13),
        "size": size,
        "background": rng.choice((None, "#ffffff", hexadecimal(ground), hexadecimal(ground))),
    }


FAMILIES = (Family("reactcaptchacode_default", _default), Family("reactcaptchacode_wide", _wide))
