"""django-simple-captcha: small blurred letters, dots and arcs."""

from __future__ import annotations

import io
import random
from types import SimpleNamespace
from typing import Any

from PIL import Image, ImageFont

from training.generators.drawing import Drawing, Family, Settings, kind_of
from training.generators.libraries import Library
from training.generators.texts import (
    CAPITALS,
    DIGITS,
    arithmetic,
    dark_colour,
    hexadecimal,
    light_colour,
    random_faces,
    random_text,
    wide_text,
)

LIBRARY = Library(
    name="django-simple-captcha",
    version="0.7.0",
    licence="MIT",
    registry="pypi",
    driver="django_simple_captcha",
    requires=(
        "Django==5.2.19",
        "django-ranged-response==0.2.0",
        "asgiref==3.13.0",
        "sqlparse==0.6.1",
    ),
)
_ARCS, _DOTS = "captcha.helpers.noise_arcs", "captcha.helpers.noise_dots"
_LETTER_COLOURS = "captcha.helpers.random_letter_color_challenge"
_defaults: dict[str, Any] = {}


def _char(rng: random.Random) -> Settings:
    return {"text": random_text(rng, CAPITALS, (4,))}


def _math(rng: random.Random) -> Settings:
    return _expression(rng, "*")


def _char_v1(rng: random.Random) -> Settings:
    text = random_text(rng, CAPITALS, (4, 4, 4, 5, 6))
    look = _one_change(rng, ((120, 50), (100, 40)), len(text) == 4)
    return look | {"text": text}


def _digits_v2(rng: random.Random) -> Settings:
    settings: Settings = {"text": random_text(rng, DIGITS, (4, 5, 6))}
    change = rng.randrange(3)
    if change == 1:
        settings["CAPTCHA_FONT_SIZE"] = 30
    elif change == 2:
        settings["scale"] = 2
    return settings


def _math_v1(rng: random.Random) -> Settings:
    look = _one_change(rng, ((120, 40), (100, 30)), True)
    return look | _expression(rng, rng.choice("*x×"))


def _expression(rng: random.Random, product: str) -> Settings:
    first, second = rng.randint(1, 10), rng.randint(1, 10)
    operator = rng.choice(f"+-{product}")
    if operator == "-":
        first, second = max(first, second), min(first, second)
    results = {"+": first + second, "-": first - second, product: first * second}
    return {"text": f"{first}{operator}{second}=", "result": str(results[operator])}


def _one_change(rng: random.Random, sizes: tuple[tuple[int, int], ...], fits: bool) -> Settings:
    """Return a look in which one documented setting differs from its default."""
    changes: list[Settings] = [
        {"scale": 2},
        {"CAPTCHA_FONT_SIZE": rng.choice((26, 30))},
        {"CAPTCHA_LETTER_COLOR_FUNCT": _LETTER_COLOURS},
        {"CAPTCHA_NOISE_FUNCTIONS": [_ARCS]},
        {"CAPTCHA_NOISE_FUNCTIONS": [_DOTS]},
        {"CAPTCHA_NOISE_FUNCTIONS": []},
        {"CAPTCHA_FOREGROUND_COLOR": rng.choice(("#1c4fa0", "#002288", "#aa2211"))},
    ]
    if fits:
        changes += [{"CAPTCHA_IMAGE_SIZE": rng.choice(sizes)}] * 2
    return rng.choice(changes)


def _wide(rng: random.Random) -> Settings:
    return _wide_style(rng, wide_text(rng))


def _math_wide(rng: random.Random) -> Settings:
    expression, result = arithmetic(rng, rng.choice(("+-*", "+-x", "+-×")), rng.choice((10, 99)))
    expression += rng.choice(("=", "=", "=?", ""))
    return _wide_style(rng, expression) | {"result": result}


def _wide_style(rng: random.Random, text: str) -> Settings:
    size = rng.choice((20, 22, 22, 24, 26, 30, 34, 40, 48))
    angle = rng.choice((None, 10, 20, 35, 35, 45))
    colour, background = dark_colour(rng, 130), light_colour(rng)
    if rng.random() < 0.15:
        colour, background = background, colour
    settings: Settings = {
        "text": text,
        "CAPTCHA_FONT_SIZE": size,
        "CAPTCHA_LETTER_ROTATION": None if angle is None else (-angle, angle),
        "CAPTCHA_NOISE_FUNCTIONS": rng.choice(
            ([_ARCS, _DOTS], [_ARCS, _DOTS], [_ARCS], [_DOTS], [])
        ),
    }
    if rng.random() < 0.65:
        settings["CAPTCHA_FONT_PATH"] = random_faces(rng, text, 1) or None
    if rng.random() < 0.5:
        settings["CAPTCHA_FOREGROUND_COLOR"] = hexadecimal(colour)
        settings["CAPTCHA_BACKGROUND_COLOR"] = hexadecimal(background)
    elif rng.random() < 0.3:
        settings["CAPTCHA_LETTER_COLOR_FUNCT"] = _LETTER_COLOURS
    if rng.random() < 0.2:
        settings["CAPTCHA_FILTER_FUNCTIONS"] = []
    if rng.random() < 0.3:
        # Glyphs of monospaced faces are 0.6 em wide and gain width as they turn.
        settings["CAPTCHA_IMAGE_SIZE"] = (
            int(len(text) * size * rng.uniform(1.2, 1.6)) + 12,
            int(size * rng.uniform(1.6, 2.2)),
        )
    return settings


FAMILIES = (
    Family("djsimple_char", _char),
    Family("djsimple_math", _math),
    Family("djsimple_char_v1", _char_v1),
    Family("djsimple_char_v2", _digits_v2),
    Family("djsimple_math_v1", _math_v1),
    Family("djsimple_wide", _wide),
    Family("djsimple_math_wide", _math_wide),
)


def draw(settings: Settings) -> Drawing:
    """Draw one image."""
    library: Any = _views()
    for name, default in _defaults.items():
        value = settings.get(name, default)
        setattr(library.settings, name, default if value is None and "FONT" in name else value)
    store = SimpleNamespace(challenge=settings["text"])
    image = library._captcha_image(store, settings.get("scale", 1)).content
    text = settings["text"]
    _check_width(image, text, settings)
    if "result" in settings:
        return Drawing(image, settings["result"], "math", text)
    return Drawing(image, text, kind_of(text))


def _check_width(image: bytes, text: str, settings: Settings) -> None:
    """Raise ValueError for a text that is cut off.

    The library draws on twice the width of the text and cuts the rest off: turned letters of some
    faces need more, and the image ends in black.
    """
    face = settings.get("CAPTCHA_FONT_PATH")
    if face and "CAPTCHA_IMAGE_SIZE" not in settings:
        left, _, right, _ = ImageFont.truetype(face[0], settings["CAPTCHA_FONT_SIZE"]).getbbox(text)
        with Image.open(io.BytesIO(image)) as opened:
            if opened.width > 2 * (right - left):
                raise ValueError(f"{text} is cut off in {face[0]}")


def _views() -> Any:
    """Import the library's views, with Django set up on the first call."""
    import django
    from django.conf import settings as django_settings

    if not django_settings.configured:
        django_settings.configure(INSTALLED_APPS=["captcha"], USE_TZ=False)
        django.setup()
    from captcha import views

    if not _defaults:
        names = [name for name in vars(views.settings) if name.startswith("CAPTCHA_")]
        _defaults.update({name: getattr(views.settings, name) for name in names})
    return views
