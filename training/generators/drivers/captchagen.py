"""captchagen: letters in mixed faces, many dark dots and lines."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from training.generators.drawing import Drawing, Family, Settings, kind_of, png_bytes
from training.generators.libraries import Library
from training.generators.texts import random_faces, wide_text

LIBRARY = Library(
    name="captchagen", version="0.1.0", licence="MIT", registry="pypi", driver="captchagen"
)
_FACES = [
    f"/usr/share/fonts/truetype/{face}.ttf"
    for face in (
        "liberation2/LiberationSans-Regular",
        "liberation2/LiberationSerif-Bold",
        "dejavu/DejaVuSans",
        "dejavu/DejaVuSans-Bold",
        "dejavu/DejaVuSerif",
    )
]


def _mix(rng: random.Random) -> Settings:
    width, height = rng.choice(((200, 80), (200, 80), (200, 80), (160, 60)))
    modes = ("digits", "lower", "upper", "letters", "alnum", "alnum")
    return {
        "faces": _FACES,
        "config": {
            "width": width,
            "height": height,
            "text_mode": rng.choice(modes),
            "rotate": rng.random() < 0.6,
            "noise": rng.random() < 0.8,
            "random_color": rng.random() < 0.5,
        },
    }


def _wide(rng: random.Random) -> Settings:
    text = wide_text(rng)
    height = rng.choice((40, 50, 60, 70, 80, 100))
    width = max(int(height * rng.uniform(2, 3.5)), int(len(text) * height * 0.4))
    return {
        "faces": random_faces(rng, text, rng.choice((1, 2, 5))) or _FACES,
        "text": text,
        "config": {
            "width": width,
            "height": height,
            "rotate": rng.random() < 0.7,
            "noise": rng.random() < 0.85,
            "random_color": rng.random() < 0.6,
            "dot_count": int(width * height / 80 * rng.choice((0.0, 0.3, 0.6, 1.0))),
            "line_count": rng.choice((0, 2, 4, 6, 8, 10)),
        },
    }


FAMILIES = (Family("captchagen_mix", _mix), Family("captchagen_wide", _wide))


def draw(settings: Settings) -> Drawing:
    """Draw one image."""
    from CaptchaGen import CaptchaConfig, CaptchaGenerator

    faces = settings["faces"]
    config = CaptchaConfig(**settings["config"])
    generator: Any = CaptchaGenerator(str(Path(faces[0]).parent), config)
    generator.fonts = faces
    if "text" in settings:
        generator._random_text = lambda: settings["text"]
    image, text = generator.generate()
    return Drawing(png_bytes(image), text, kind_of(text))
