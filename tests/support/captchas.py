"""Plain captchas as image files."""

from __future__ import annotations

import io
from typing import Any

from PIL import Image, ImageDraw, ImageFont


def draw(text: str, size: tuple[int, int] = (160, 60), mode: str = "RGB") -> Image.Image:
    """Draw a plain captcha."""
    image = Image.new("RGB", size, "white")
    ImageDraw.Draw(image).text((12, 10), text, "black", ImageFont.load_default(36))
    return image.convert(mode)


def file_of(image: Image.Image, image_format: str = "PNG", **options: Any) -> bytes:
    """Return an image file."""
    file = io.BytesIO()
    image.save(file, image_format, **options)
    return file.getvalue()


CAPTCHA = file_of(draw("4711"))
