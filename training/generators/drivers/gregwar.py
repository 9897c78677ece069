"""gregwar/captcha: distorted text in random colours with lines, sometimes inverted.

Debian's package has eight faces of its own in place of the library's six, so that only the family
`gregwar_default_v3` is as the library draws it elsewhere.  The image is a JPEG.
"""

from __future__ import annotations

import random

from training.generators.drawing import Family, Settings
from training.generators.libraries import Library
from training.generators.texts import dark_colour, light_colour, random_faces, wide_text

LIBRARY = Library(
    name="php-gregwar-captcha",
    version="1.1.9+ds",
    licence="MIT",
    registry="debian",
    driver="gregwar",
    debian=("php-cli", "php-gd", "php-mbstring", "php-gregwar-captcha"),
    check="/usr/share/php/Gregwar/Captcha/CaptchaBuilder.php",
)


def _debian_v3(rng: random.Random) -> Settings:
    width, height = rng.choice(((150, 40), (150, 40), (250, 70)))
    return {"length": rng.choice((4, 5, 5)), "width": width, "height": height}


def _wide(rng: random.Random) -> Settings:
    text = wide_text(rng)
    height = rng.choice((36, 40, 40, 50, 60, 70, 80, 100))
    # The size of the letters is the width divided by their number.
    width = int(len(text) * height * rng.uniform(0.55, 0.95))
    calls: dict[str, list[object]] = {
        "setDistortion": [rng.random() < 0.7],
        "setMaxAngle": [rng.choice((0, 8, 8, 15, 25))],
        "setMaxOffset": [rng.choice((0, 5, 5, 8))],
        "setIgnoreAllEffects": [rng.random() < 0.12],
    }
    if rng.random() < 0.3:
        # The text has the colour of the lines in front of it.
        calls["setBackgroundColor"] = list(light_colour(rng))
        calls["setTextColor"] = list(dark_colour(rng))
    elif rng.random() < 0.15:
        calls["setBackgroundColor"] = list(dark_colour(rng, 60))
        calls["setTextColor"] = list(light_colour(rng, 170))
    for method in ("setMaxBehindLines", "setMaxFrontLines"):
        # Without a limit there is a line for each 2500 pixels.
        if rng.random() < (0.4 if width * height < 12_000 else 0.9):
            calls[method] = [rng.choice((0, 1, 2, 3, 4, 6))]
    faces = random_faces(rng, text, 1, (".ttf", ".otf")) if rng.random() < 0.7 else []
    return {
        "text": text,
        "width": width,
        "height": height,
        "quality": rng.choice((60, 75, 90, 90, 95)),
        "face": faces[0] if faces else None,
        "calls": calls,
    }


FAMILIES = (Family("gregwar_default_v3", _debian_v3), Family("gregwar_wide", _wide))
