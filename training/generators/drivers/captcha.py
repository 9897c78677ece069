"""captcha: warped text of one colour, dots and one arc on a pale background."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

from training.generators.drawing import Drawing, Family, Settings, kind_of, png_bytes
from training.generators.libraries import Library
from training.generators.texts import (
    CAPITALS,
    DIGITS,
    LOWER,
    dark_colour,
    light_colour,
    random_faces,
    random_text,
    wide_text,
)

LIBRARY = Library(
    name="captcha", version="0.7.1", licence="BSD-3-Clause", registry="pypi", driver="captcha"
)
_DEJAVU = (
    "/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf",
    "/usr/share/fonts/truetype/dejavu/DejaVuSerif.ttf",
)
_FONT_SIZES = ((22, 26, 28), (28, 32, 36), (30, 34, 38), (34, 38, 42))


def _digits(rng: random.Random) -> Settings:
    return {"text": random_text(rng, DIGITS, (4, 5, 6))}


def _lower(rng: random.Random) -> Settings:
    return {"text": random_text(rng, LOWER + DIGITS, (4, 5, 6))}


def _upper(rng: random.Random) -> Settings:
    return {"text": random_text(rng, CAPITALS + DIGITS, (4, 5, 6))}


def _digits_v1(rng: random.Random) -> Settings:
    width, height = rng.choice(((100, 40), (120, 50), (160, 60), (200, 60)))
    return {
        "text": random_text(rng, DIGITS, (4, 4, 5, 6)),
        "width": width,
        "height": height,
        "fonts": rng.choice((None, *([face] for face in _DEJAVU))),
        "sizes": rng.choice(_FONT_SIZES[:2] if height <= 40 else _FONT_SIZES),
    }


def _upper_v1(rng: random.Random) -> Settings:
    width, height = rng.choice(((128, 64), (160, 60), (160, 60), (200, 80)))
    charset = rng.choice((CAPITALS, LOWER + CAPITALS, LOWER + CAPITALS + DIGITS, CAPITALS + DIGITS))
    return {
        "text": random_text(rng, charset, (4, 4, 5)),
        "width": width,
        "height": height,
        "fonts": rng.choice((None, *([face] for face in _DEJAVU))),
    }


def _wide(rng: random.Random) -> Settings:
    text = wide_text(rng)
    height = rng.choice((40, 50, 60, 60, 60, 70, 80, 100))
    width = max(int(height * rng.uniform(1.8, 3.6)), int(len(text) * height * 0.3))
    faces = random_faces(rng, text, rng.choice((1, 1, 2, 3)))
    largest = rng.uniform(0.65, 0.95) * height
    angle = rng.choice((0, 15, 30, 30, 45))
    warp = rng.choice((0.0, 0.1, 0.3, 0.3, 0.35))
    colours = None
    if rng.random() < 0.5:
        colours = [dark_colour(rng, 130), light_colour(rng, 200)]
        if rng.random() < 0.3:
            colours.reverse()
    return {
        "text": text,
        "width": width,
        "height": height,
        "fonts": faces if faces and rng.random() < 0.75 else None,
        "sizes": [max(12, int(largest * scale)) for scale in (0.75, 0.9, 1.0)],
        "colours": colours,
        # The library's 30 dots on 160x60 are 1 in 320 pixels.
        "dots": int(width * height / 320 * rng.choice((0.0, 0.5, 1.0, 1.0, 1.5, 2.0))),
        "dot_width": rng.choice((1, 2, 2, 3, 3)),
        "curves": rng.choice((0, 1, 1, 2, 3)),
        "class": {
            "character_rotate": (-angle, angle),
            "character_warp_dx": (min(0.1, warp), warp),
            "character_warp_dy": (min(0.2, warp), warp),
            "character_offset_dx": (0, rng.choice((0, 4, 8))),
            "character_offset_dy": (0, rng.choice((0, 6, 12))),
            "word_space_probability": rng.choice((0.5, 0.5, 0.8, 1.0)),
            "word_offset_dx": rng.choice((0.0, 0.1, 0.2, 0.25)),
        },
    }


FAMILIES = (
    Family("pycaptcha_digits", _digits),
    Family("pycaptcha_lower", _lower),
    Family("pycaptcha_upper", _upper),
    Family("pycaptcha_digits_v1", _digits_v1),
    Family("pycaptcha_upper_v1", _upper_v1),
    Family("pycaptcha_wide", _wide),
)


def draw(settings: Settings) -> Drawing:
    """Draw one image."""
    from captcha import image as library
    from PIL import ImageFilter

    # The library takes its chance from `secrets`, which has no seed.
    library.secrets = SimpleNamespace(
        randbelow=random.randrange, choice=random.choice, randbits=random.getrandbits
    )
    generator: Any = library.ImageCaptcha(
        settings.get("width", 160),
        settings.get("height", 60),
        settings.get("fonts"),
        settings.get("sizes"),
    )
    text = settings["text"]
    if "class" not in settings:
        return Drawing(png_bytes(generator.generate_image(text)), text, kind_of(text))
    for name, value in settings["class"].items():
        setattr(generator, name, tuple(value) if isinstance(value, list) else value)
    # As `generate_image`, with numbers of dots and arcs that it does not pass on.
    colours = settings["colours"]
    if colours is None:
        background = library.random_color(238, 255)
        colour = library.random_color(10, 200, random.randint(220, 255))
    else:
        colour, background = (tuple(value) for value in colours)
    image = generator.create_captcha_image(text, colour, background)
    generator.create_noise_dots(image, colour, settings["dot_width"], settings["dots"])
    for _ in range(settings["curves"]):
        generator.create_noise_curve(image, colour)
    image = image.filter(ImageFilter.SMOOTH)
    return Drawing(png_bytes(image), text, kind_of(text))
