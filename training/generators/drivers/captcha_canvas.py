"""captcha-canvas: skewed letters that a zig-zag joins, among decoys, on a transparent ground."""

from __future__ import annotations

import random

from PIL import ImageFont

from training.generators.drawing import Family, Settings
from training.generators.libraries import Library
from training.generators.texts import (
    CAPITALS,
    DIGITS,
    LOWER,
    dark_colour,
    hexadecimal,
    light_colour,
    random_faces,
    random_text,
    wide_text,
)

# `canvas` is compiled against Cairo and Pango.
CANVAS_PACKAGES = (
    "build-essential",
    "pkg-config",
    "libcairo2-dev",
    "libpango1.0-dev",
    "libjpeg-dev",
    "libgif-dev",
    "librsvg2-dev",
)
LIBRARY = Library(
    name="captcha-canvas",
    version="2.4.1",
    licence="Apache-2.0",
    registry="npm",
    driver="captcha_canvas",
    requires=("canvas@2.11.2",),
    builds=("canvas",),
    debian=CANVAS_PACKAGES,
)
_SIZES = ((300, 100), (300, 100), (450, 150), (450, 150), (600, 200))
_COLOURS = (
    "#32cf7e",
    "#e91e8c",
    "#8e44ad",
    "#4a90e2",
    "#ff0000",
    "#0000ff",
    "#008000",
    "#ffa500",
    "#333333",
)


def _default(rng: random.Random) -> Settings:
    return {"width": 450, "height": 150, "decoy": {"opacity": 0.5}}


def _texts_v1(rng: random.Random) -> Settings:
    width, height = rng.choice(_SIZES)
    charset = rng.choice((CAPITALS, DIGITS, LOWER + CAPITALS, CAPITALS + DIGITS))
    text = random_text(rng, charset, (4, 5, 6))
    colour = rng.choice(_COLOURS)
    return {
        "width": width,
        "height": height,
        "captcha": {"text": text, "color": colour, "size": rng.choice((40, 40, 50, 60))},
        "trace": {"color": rng.choice((colour, colour, "#32cf7e"))},
        "decoy": {"opacity": rng.choice((0.5, 0.8))},
    }


def _colours_v2(rng: random.Random) -> Settings:
    width, height = rng.choice(_SIZES[:4])
    charset = rng.choice((CAPITALS, DIGITS, CAPITALS + DIGITS))
    colours = rng.sample(_COLOURS, rng.randint(3, 6))
    return {
        "width": width,
        "height": height,
        "captcha": {"text": random_text(rng, charset, (4, 5, 6)), "colors": colours},
        "trace": {"color": rng.choice(("#32cf7e", *colours))},
        "decoy": {"opacity": rng.choice((0.5, 0.8))},
    }


def _wide(rng: random.Random) -> Settings:
    text = wide_text(rng)
    size = rng.choice((26, 30, 36, 40, 40, 48, 60))
    # Letters keep 30 pixels from the upper and the lower edge.
    height = 60 + int(size * rng.uniform(0.2, 2.2))
    width = int(len(text) * size * rng.uniform(1.0, 1.8))
    dark = rng.random() < 0.2
    colours = [hexadecimal(_ink(rng, dark)) for _ in range(rng.choice((1, 1, 3, 5)))]
    captcha: dict[str, object] = {
        "text": text,
        "size": size,
        "color": colours[0],
        "colors": colours if len(colours) > 1 else [],
        "skew": rng.random() < 0.7,
        "rotate": rng.choice((0, 5, 5, 15, 25)),
        "opacity": rng.choice((0.6, 0.8, 0.8, 1)),
    }
    settings: Settings = {
        "width": width,
        "height": height,
        "captcha": captcha,
        "trace": {
            "color": rng.choice((colours[0], hexadecimal(_ink(rng, dark)))),
            "size": rng.choice((1, 2, 3, 3, 4)),
            "opacity": rng.choice((0, 0.5, 1, 1)),
        },
        "decoy": {
            "opacity": rng.choice((0, 0.3, 0.5, 0.5, 0.8)),
            "size": rng.choice((14, 20, 20)),
        },
    }
    if rng.random() < 0.7:
        for face in random_faces(rng, text, 1):
            # Pango finds installed faces by the name of their family.
            captcha["font"] = f'"{ImageFont.truetype(face).getname()[0]}"'
    if dark or rng.random() < 0.6:
        ground = dark_colour if dark else light_colour
        shades = (hexadecimal(ground(rng, 60 if dark else 200)) for _ in range(rng.choice((1, 2))))
        settings["background"] = list(shades)
    return settings


def _ink(rng: random.Random, dark: bool) -> tuple[int, int, int]:
    return light_colour(rng, 150) if dark else dark_colour(rng, 160)


FAMILIES = (
    Family("captchacanvas_default", _default),
    Family("captchacanvas_default_v1", _texts_v1),
    Family("captchacanvas_default_v2", _colours_v2),
    Family("captchacanvas_wide", _wide),
)
