"""simple_captcha2: waved capitals that ImageMagick draws, plain, embossed or edge-filtered.

ImageMagick's noise has no seed here; images without noise are the same each time.
"""

from __future__ import annotations

import random

from training.generators.drawing import Family, Settings
from training.generators.libraries import Library
from training.generators.texts import dark_colour, light_colour, random_faces, wide_text

LIBRARY = Library(
    name="ruby-simple-captcha2",
    version="0.5.0",
    licence="MIT",
    registry="debian",
    driver="simple_captcha2",
    debian=("ruby-simple-captcha2", "imagemagick"),
    check="/usr/lib/ruby/vendor_ruby/simple_captcha.rb",
)
_STYLES = (
    "embosed_silver",
    "simply_red",
    "simply_green",
    "simply_blue",
    "distorted_black",
    "all_black",
    "charcoal_grey",
)


def _default(rng: random.Random) -> Settings:
    return {"length": rng.choice((5, 5, 6)), "size": rng.choice(("100x28", "120x40"))}


def _styles(rng: random.Random) -> Settings:
    return {
        "length": rng.choice((5, 5, 6)),
        "size": rng.choice(("100x28", "100x28", "120x40")),
        "style": rng.choice(_STYLES),
        "distortion": rng.choice(("low", "medium", "high")),
        "implode": rng.choice(("none", "low", "medium")),
        "noise": rng.choice((0, 0, 1, 2)),
    }


def _wide(rng: random.Random) -> Settings:
    text = wide_text(rng)
    settings: Settings = {
        "text": text,
        # Letters are 22 points high.
        "size": f"{len(text) * 17 + rng.randint(10, 60)}x{rng.randint(28, 60)}",
        "distortion": rng.choice(("low", "low", "medium", "high")),
        "implode": rng.choice(("none", "low", "medium", "medium")),
        "noise": rng.choice((0, 0, 0, 1, 2, 3)),
        "style": rng.choice(_STYLES),
    }
    if rng.random() < 0.6:
        colours = [dark_colour(rng), light_colour(rng)]
        if rng.random() < 0.25:
            colours.reverse()
        fill, background = ("{:02x}{:02x}{:02x}".format(*colour) for colour in colours)
        settings["parameters"] = [f"-fill '#{fill}'", f"-background '#{background}'"]
    if rng.random() < 0.7:
        faces = random_faces(rng, text, 1, (".ttf", ".otf"))
        settings["face"] = faces[0] if faces else None
    return settings


FAMILIES = (
    Family("simplecaptcha2_default", _default),
    Family("simplecaptcha2_styles", _styles),
    Family("simplecaptcha2_wide", _wide),
)
