"""svg-captcha: outlined letters that a few curves cross."""

from __future__ import annotations

import random

from training.generators.drawing import Family, Settings
from training.generators.libraries import Library
from training.generators.texts import (
    CAPITALS,
    DIGITS,
    LOWER,
    arithmetic,
    dark_colour,
    hexadecimal,
    light_colour,
    random_faces,
    wide_text,
)

LIBRARY = Library(
    name="svg-captcha",
    version="1.4.0",
    licence="MIT",
    registry="npm",
    driver="svg_captcha",
    requires=("@resvg/resvg-js@2.6.2",),
)
_BACKGROUNDS = ("#f0f0f0", "#cccccc", "#cc9966", "#000000")


def _default(rng: random.Random) -> Settings:
    return {"options": {}}


def _colour(rng: random.Random) -> Settings:
    return {"options": {"color": True, "noise": 2}}


def _tan(rng: random.Random) -> Settings:
    look = {"ignoreChars": "0o1i", "noise": 3, "color": True, "background": "#cc9966"}
    return {"options": {"size": 5, **look}}


def _math(rng: random.Random) -> Settings:
    return {"mode": "math", "options": {"mathMin": 1, "mathMax": 20, "mathOperator": "+-"}}


def _tutorials_v1(rng: random.Random) -> Settings:
    size = rng.choice((4, 4, 4, 4, 5, 6))
    sizes = ((150, 50), (150, 50), (150, 50), (110, 38), (120, 40), (160, 60), (100, 40))
    width, height = (180, 50) if size == 6 else rng.choice(sizes)
    options = _style(rng, (None, None, None, "#f0f0f0", "#cccccc", "#000000"), 4)
    options |= {"size": size, "width": width, "height": height, "ignoreChars": "01iIlo"}
    return {"options": options | {"fontSize": rng.randint(40, min(56, height + 6))}}


def _digits_v2(rng: random.Random) -> Settings:
    size, (width, height) = rng.choice(
        ((4, (150, 50)), (4, (150, 50)), (4, (100, 40)), (5, (150, 50)), (6, (180, 50)))
    )
    options = _style(rng, (None, None, None, "#cc9966"), 3)
    options |= {"size": size, "width": width, "height": height, "charPreset": DIGITS}
    return {"options": options | {"fontSize": 44 if height == 40 else 56}}


def _one_case_v3(rng: random.Random) -> Settings:
    charset = rng.choice((CAPITALS, LOWER, LOWER + "23456789", CAPITALS + "23456789"))
    options = _style(rng, (None, None, None, "#f0f0f0"), 3)
    return {"options": options | {"size": rng.choice((4, 4, 5)), "charPreset": charset}}


def _math_v1(rng: random.Random) -> Settings:
    largest = rng.choice((9, 20, 50, 99))
    options = _style(rng, (None, None, None, "#f0f0f0", "#cc9966"), 3)
    options |= {"mathMin": 1, "mathMax": largest, "mathOperator": rng.choice(("+", "+-"))}
    return {"mode": "math", "options": options | {"width": rng.choice((150, 150, 150, 180))}}


def _style(
    rng: random.Random, backgrounds: tuple[str | None, ...], max_noise: int
) -> dict[str, object]:
    background = rng.choice(backgrounds)
    look: dict[str, object] = {
        "noise": rng.randint(1, max_noise),
        "color": background is not None or rng.random() < 0.4,
    }
    return look | ({} if background is None else {"background": background})


def _wide(rng: random.Random) -> Settings:
    return _wide_style(rng, wide_text(rng))


def _math_wide(rng: random.Random) -> Settings:
    expression, result = arithmetic(
        rng, rng.choice(("+-", "+-", "+-*", "+-x")), rng.choice((9, 20, 50, 99))
    )
    expression += rng.choice(("", "", "=", "=?"))
    return _wide_style(rng, expression) | {"result": result}


def _wide_style(rng: random.Random, text: str) -> Settings:
    height = rng.choice((30, 36, 40, 44, 50, 50, 60, 70, 80))
    options: dict[str, object] = {
        "height": height,
        # Characters are set at equal steps.
        "width": int((len(text) + 1) * height * rng.uniform(0.45, 0.75)),
        "fontSize": int(height * rng.uniform(0.75, 1.2)),
        "noise": rng.choice((0, 1, 1, 2, 3, 4, 6)),
        "color": rng.random() < 0.5,
        "inverse": False,
    }
    chance = rng.random()
    if chance < 0.25:
        options["background"] = rng.choice(_BACKGROUNDS)
    elif chance < 0.5:
        options["background"] = hexadecimal(light_colour(rng, 150))
    elif chance < 0.6:
        options["background"] = hexadecimal(dark_colour(rng, 70))
    faces = random_faces(rng, text, 1) if rng.random() < 0.6 else []
    return {"mode": "text", "text": text, "face": faces[0] if faces else None, "options": options}


FAMILIES = (
    Family("svgcaptcha_default", _default),
    Family("svgcaptcha_color", _colour),
    Family("svgcaptcha_noise_color_bg", _tan),
    Family("svgcaptcha_math", _math),
    Family("svgcaptcha_default_v1", _tutorials_v1),
    Family("svgcaptcha_default_v2", _digits_v2),
    Family("svgcaptcha_default_v3", _one_case_v3),
    Family("svgcaptcha_math_v1", _math_v1),
    Family("svgcaptcha_wide", _wide),
    Family("svgcaptcha_math_wide", _math_wide),
)
