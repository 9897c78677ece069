"""captchagenerator: bold outlined text on a pale gradient, curves and specks.

Images are halved in size, as 720x240 is more than the text needs.
"""

from __future__ import annotations

import colorsys
import math
import random
from typing import Any

import numpy as np
from PIL import Image

from training.generators.drawing import Drawing, Family, Settings, kind_of, png_bytes
from training.generators.libraries import Library
from training.generators.texts import (
    CAPITALS,
    DIGITS,
    LOWER,
    arithmetic,
    random_faces,
    random_text,
    wide_text,
)

LIBRARY = Library(
    name="captchagenerator",
    version="2.0.0",
    licence="MIT",
    registry="pypi",
    driver="captchagenerator",
)
_STYLES = ("modern", "minimal", "wave", "arc", "mesh")
_COLOURS = ("red", "green", "blue", "purple", "black", "navy", "darkred", "teal", "brown")
_FACES = [
    f"/usr/share/fonts/truetype/{face}.ttf"
    for face in (
        "liberation2/LiberationSans-Bold",
        "liberation2/LiberationSerif-Bold",
        "dejavu/DejaVuSans-Bold",
        "dejavu/DejaVuSerif-Bold",
    )
]


def _text(rng: random.Random) -> Settings:
    charset = rng.choice((DIGITS, CAPITALS + DIGITS, LOWER + CAPITALS))
    return {
        "text": random_text(rng, charset, (4, 5, 6)),
        "faces": _FACES,
        "colours": rng.choice((["red", "green", "blue"], ["black"], ["purple", "blue", "darkred"])),
        "difficulty": rng.choice(("easy", "medium", "hard")),
        "style": rng.choice(_STYLES),
        "background": None,
    }


def _math(rng: random.Random) -> Settings:
    difficulty = rng.choice(("easy", "medium"))
    largest = {"easy": 10, "medium": 20}[difficulty]
    while True:
        first, second = rng.randint(1, largest), rng.randint(1, largest)
        operator = rng.choice("+-*")
        if operator == "-" and second > first:
            first, second = second, first
        # The library clips expressions of two two-digit numbers.
        if min(first, second) < 10:
            break
    results = {"+": first + second, "-": first - second, "*": first * second}
    return {
        "text": f"{first} {operator} {second}",
        "result": str(results[operator]),
        "faces": _FACES,
        "colours": None,
        "difficulty": difficulty,
        "style": rng.choice(_STYLES),
        "background": None,
    }


def _wide(rng: random.Random) -> Settings:
    result = None
    if rng.random() < 0.3:
        text, result = arithmetic(rng, rng.choice(("+-", "+-*", "+-x")), rng.choice((9, 20, 99)))
    else:
        # Longer texts leave the image.
        text = wide_text(rng)[:7]
    return {
        "text": text,
        "result": result,
        "faces": random_faces(rng, text, rng.choice((1, 2, 4))) or _FACES,
        "colours": rng.choice((None, rng.sample(_COLOURS, 1), rng.sample(_COLOURS, 4))),
        "difficulty": rng.choice(("easy", "medium", "hard", "hard", "extreme")),
        "style": rng.choice(_STYLES),
        "background": rng.choice((None, None, [rng.randint(180, 255) for _ in range(3)])),
        "scale": rng.choice((2, 2, 3, 4)),
    }


FAMILIES = (
    Family("captchagenerator_text", _text),
    Family("captchagenerator_math", _math),
    Family("captchagenerator_wide", _wide),
)


def draw(settings: Settings) -> Drawing:
    """Draw one image."""
    from CaptchaGenerator.base import BaseCaptchaGenerator
    from CaptchaGenerator.core.renderer import render_captcha
    from PIL import ImageFilter

    generator: Any = BaseCaptchaGenerator()
    background = Image.new("RGB", (720, 240), tuple(settings["background"] or (0, 0, 0)))
    if not settings["background"]:
        background = _gradient().filter(ImageFilter.GaussianBlur(0.8))
    text = settings["text"]
    image = render_captcha(
        text,
        font_loader=generator._load_font,
        fonts=settings["faces"],
        background=background,
        preferred_colors=settings["colours"],
        difficulty=settings["difficulty"],
        style=settings["style"],
    )
    scale = settings.get("scale", 2)
    image = image.resize((720 // scale, 240 // scale), Image.Resampling.LANCZOS)
    if settings.get("result") is not None:
        return Drawing(png_bytes(image), settings["result"], "math", text)
    return Drawing(png_bytes(image), text, kind_of(text))


def _gradient() -> Image.Image:
    """Return the library's gradient; its own loop over pixels takes most of a second."""
    hue = random.randint(205, 245)
    base = colorsys.hsv_to_rgb(hue / 360, random.uniform(0.08, 0.18), random.uniform(0.90, 0.98))
    turned = (hue + random.randint(-25, 25)) % 360
    accent = colorsys.hsv_to_rgb(
        turned / 360, random.uniform(0.08, 0.20), random.uniform(0.82, 0.94)
    )
    rows = np.linspace(0, 1, 240)[:, None]  # (240, 1)
    columns = np.sin(np.arange(720) / 720 * math.tau)[None] * 0.025  # (1, 720)
    mix = np.clip(rows + columns, 0, 1)[..., None]  # (240, 720, 1)
    pixels = np.asarray(base) * (1 - mix) + np.asarray(accent) * mix  # (240, 720, 3)
    return Image.fromarray((pixels * 255).astype(np.uint8))
