"""multicolorcaptcha: characters in random faces on a colour band between black bars.

The library draws four characters, or two numbers of two digits.  The `wide` families join more or
fewer of its one-character images in the way that it does, with the same lines, circles and bars.
"""

from __future__ import annotations

import random
from typing import Any

from training.generators.drawing import Drawing, Family, Settings, kind_of, png_bytes
from training.generators.libraries import Library

LIBRARY = Library(
    name="multicolorcaptcha",
    version="1.2.0",
    licence="GPL-3.0-only",
    registry="pypi",
    driver="multicolorcaptcha",
)
_DIGITS = "0123456789"
_HEX = "ABCDEF0123456789"
_CAPITALS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_generators: dict[int, Any] = {}


def _digits(rng: random.Random) -> Settings:
    return {"size": 1, "level": 2, "mode": "nums"}


def _digits_v1(rng: random.Random) -> Settings:
    return _varied(rng) | {"mode": "nums"}


def _letters_v2(rng: random.Random) -> Settings:
    return _varied(rng) | {"mode": rng.choice(("hex", "ascii")), "level": rng.randint(1, 2)}


def _math(rng: random.Random) -> Settings:
    return {"size": 1, "level": 0, "mode": "math"}


def _math_v1(rng: random.Random) -> Settings:
    return _varied(rng) | {"mode": "math", "multiplication": rng.random() < 0.4}


def _varied(rng: random.Random) -> Settings:
    return {
        "size": rng.choice((0, 0, 1, 1, 2)),
        "level": rng.randint(0, 2),
        "multicolor": rng.random() < 0.3,
        "margin": rng.random() < 0.6,
    }


def _wide(rng: random.Random) -> Settings:
    charset = rng.choice((_DIGITS, _HEX, _CAPITALS, _CAPITALS + _DIGITS))
    text = "".join(rng.choices(charset, k=rng.choice((3, 4, 5, 5, 6, 6, 7, 8, 9, 10))))
    return _wide_style(rng) | {"mode": "text", "text": text, "lines": rng.choice((0, 1, 2, 2, 3))}


def _math_wide(rng: random.Random) -> Settings:
    operator = rng.choice("+-x")
    largest = 20 if operator == "x" else 99
    first, second = rng.randint(0, largest), rng.randint(0, largest)
    if operator == "-":
        first, second = max(first, second), min(first, second)
    results = {"+": first + second, "-": first - second, "x": first * second}
    expression = f"{first}{operator}{second}"
    return _wide_style(rng) | {
        "mode": "text",
        "text": expression,
        "expression": expression,
        "result": str(results[operator]),
        "lines": rng.choice((0, 0, 1)),
    }


def _wide_style(rng: random.Random) -> Settings:
    return {
        "size": rng.choice((0, 0, 1, 1, 1, 2, 3)),
        "level": rng.choice((0, 0, 1, 1, 2, 2, 3, 4)),
        "multicolor": rng.random() < 0.4,
        "margin": rng.random() < 0.4,
        "rotation": rng.choice((5, 25, 40, 55, 55)),
    }


FAMILIES = (
    Family("multicolor_digits", _digits),
    Family("multicolor_math", _math),
    Family("multicolor_digits_v1", _digits_v1),
    Family("multicolor_digits_v2", _letters_v2),
    Family("multicolor_math_v1", _math_v1),
    Family("multicolor_wide", _wide),
    Family("multicolor_math_wide", _math_wide),
)


def draw(settings: Settings) -> Drawing:
    """Draw one image."""
    from multicolorcaptcha import CaptchaGenerator

    size = settings["size"]
    generator = _generators.get(size)
    if generator is None:
        generator = _generators[size] = CaptchaGenerator(size)
        # The order of a folder's files differs between file systems.
        generator.l_fonts.sort()
    if settings["mode"] == "text":
        return _draw_text(generator, settings)
    look = {
        "difficult_level": settings["level"],
        "multicolor": settings.get("multicolor", False),
        "margin": settings.get("margin", True),
    }
    if settings["mode"] == "math":
        captcha = generator.gen_math_captcha_image(
            allow_multiplication=settings.get("multiplication", False), **look
        )
        return Drawing(
            png_bytes(captcha.image), captcha.equation_result, "math", captcha.equation_str
        )
    captcha = generator.gen_captcha_image(chars_mode=settings["mode"], **look)
    return Drawing(png_bytes(captcha.image), captcha.characters, kind_of(captcha.characters))


def _draw_text(generator: Any, settings: Settings) -> Drawing:
    """Draw a text of any length, as the library draws its four characters."""
    from multicolorcaptcha._constants import DIFFICULT_LEVELS_VALUES
    from multicolorcaptcha._models import RGBModel
    from PIL import Image

    text = settings["text"]
    # A cell is a quarter of the width for text, a fifth for arithmetic.
    cell = int(generator.captcha_size[0] / random.uniform(4, 5))
    generator.one_char_image_size = (cell, cell)
    background = generator.gen_rand_color()
    images = []
    for character in text:
        if settings["multicolor"]:
            background = generator.gen_rand_color()
        rotation = 5 if character in "+-x" else settings["rotation"]
        drawn = generator.gen_captcha_char_image(
            character, (cell, cell), settings["lines"], background, (-rotation, rotation)
        )
        images.append(drawn.image)
    image = generator.images_join_horizontal(images)
    lines, circles = DIFFICULT_LEVELS_VALUES[settings["level"]]
    for _ in range(lines):
        generator.add_rand_horizontal_line_to_image(image, random.randint(1, 5))
    for _ in range(circles):
        generator.add_rand_circle_to_image(image, int(0.05 * cell), int(0.15 * cell))
    if settings["margin"]:
        framed = Image.new("RGB", (image.width, image.height * 9 // 4), RGBModel(0, 0, 0).color)
        framed.paste(image, (0, (framed.height - image.height) // 2))
        image = framed
    expression = settings.get("expression", "")
    if expression:
        return Drawing(png_bytes(image), settings["result"], "math", expression)
    return Drawing(png_bytes(image), text, kind_of(text))
