"""One labelled image, and the family that it belongs to."""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from PIL import Image

Settings = dict[str, Any]
"""Arguments of one image; JSON values only, as they travel to another process."""


@dataclass(frozen=True)
class Drawing:
    """An encoded image and the text that it shows.

    Attributes:
        image: An encoded file: PNG, JPEG, GIF or WebP.
        label: The text as drawn, case included; for arithmetic the result.
        kind: `digits`, `alnum`, `math` or `chinese`.
        expression: The arithmetic as drawn; empty for other kinds.
    """

    image: bytes
    label: str
    kind: str
    expression: str = ""


@dataclass(frozen=True)
class Family:
    """Images of one library with settings that one rule picks.

    Attributes:
        name: File name of the archive, without its suffix.
        settings: Returns the settings of one image.
    """

    name: str
    settings: Callable[[random.Random], Settings]


def kind_of(text: str) -> str:
    """Return the kind of a text that is no arithmetic: `digits` or `alnum`."""
    return "digits" if text.isdecimal() else "alnum"


def png_bytes(image: Image.Image) -> bytes:
    """Return an image as a PNG file, quickly: the archive compresses it again."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def smallest_file(image: bytes) -> tuple[bytes, str]:
    """Return an image as lossless WebP where that is smaller, and the suffix of the file.

    Animations stay as they are.  A palette image becomes RGB or RGBA, as WebP has no palettes.
    """
    with Image.open(io.BytesIO(image)) as opened:
        suffix = {"JPEG": "jpg"}.get(opened.format or "", (opened.format or "").lower())
        if getattr(opened, "n_frames", 1) > 1:
            return image, suffix
        transparent = opened.has_transparency_data
        pixels = opened.convert("RGBA" if transparent else "RGB")
    buffer = io.BytesIO()
    # `exact` keeps the colour under transparent pixels.  Method 4, the usual one, takes two to four
    # times as long as 2, and files of these images are as large.
    pixels.save(buffer, "WEBP", lossless=True, exact=True, method=2)
    webp = buffer.getvalue()
    return (webp, "webp") if len(webp) < len(image) else (image, suffix)
