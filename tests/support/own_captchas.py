"""Captchas of a user, drawn with Pillow's own typeface."""

from __future__ import annotations

import random
from pathlib import Path

from PIL import Image, ImageDraw


def draw_text(text: str, size: tuple[int, int] = (112, 40)) -> Image.Image:
    """Return a picture of a text, black on white."""
    picture = Image.new("RGB", size, "white")
    ImageDraw.Draw(picture).text((10, 4), text, fill="black", font_size=26)
    return picture


def write_captchas(folder: Path, count: int, characters: str = "0123456789") -> Path:
    """Write captchas of four characters, each with another text, as `a3b9_1.png` is named."""
    folder.mkdir(parents=True)
    rng = random.Random(1)
    for number in range(count):
        text = "".join(rng.choices(characters, k=4))
        draw_text(text).save(folder / f"{text}_{number}.png")
    return folder
