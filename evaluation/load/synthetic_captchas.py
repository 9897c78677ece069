"""Plain captchas for measuring speed.

They need Pillow alone, with its built-in font. The same arguments give the same pixels, and no two
images of one call are equal, so that no answer comes from a cache.
"""

from __future__ import annotations

import io
import random
import string

from PIL import Image, ImageDraw, ImageFont

SIZE = (160, 60)  # Width and height in pixels: the commonest size of the old callers.
LENGTHS = (4, 5, 6)
CHARACTERS = string.digits + string.ascii_letters
FONT_PIXELS = 36


def draw_captchas(count: int, seed: int = 0) -> list[tuple[bytes, str]]:
    """Return `count` captchas as (PNG, label), 4 to 6 Latin letters and digits each."""
    rng = random.Random(seed)
    labels: set[str] = set()
    while len(labels) < count:
        labels.add("".join(rng.choices(CHARACTERS, k=rng.choice(LENGTHS))))
    return [(_draw(label, rng), label) for label in sorted(labels)]


def _draw(label: str, rng: random.Random) -> bytes:
    image = Image.new("RGB", SIZE, _colour(rng, 215, 255))
    canvas = ImageDraw.Draw(image)
    for _ in range(3):
        ends = [(rng.randrange(SIZE[0]), rng.randrange(SIZE[1])) for _ in range(2)]
        canvas.line(ends, fill=_colour(rng, 120, 200), width=1)
    font = ImageFont.load_default(size=FONT_PIXELS)
    step = (SIZE[0] - 20) / len(label)
    for index, character in enumerate(label):
        corner = (10 + index * step, rng.uniform(4, 14))
        canvas.text(corner, character, fill=_colour(rng, 0, 110), font=font)
    encoded = io.BytesIO()
    image.save(encoded, "PNG")
    return encoded.getvalue()


def _colour(rng: random.Random, low: int, high: int) -> tuple[int, int, int]:
    return rng.randint(low, high), rng.randint(low, high), rng.randint(low, high)
