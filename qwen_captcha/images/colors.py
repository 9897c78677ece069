"""The parts of a picture that have certain colors, as a picture of their own.

Source: ddddocr 1.6.1, whose names of colors and ranges these are. Hue, saturation and value are
those of OpenCV for 8-bit pixels: hue from 0 to 179, in steps of two degrees, the others from 0 to
255.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from qwen_captcha.images.transparency import make_opaque

MAX_HUE, MAX_LEVEL = 180, 255
# A division is a multiplication by a whole number and a shift by these bits, as in OpenCV.
_SHIFT = 12


class HsvRange(NamedTuple):
    """The lowest and the highest hue, saturation and value of a color, both included."""

    lower: tuple[int, ...]
    upper: tuple[int, ...]


COLOR_RANGES = {
    "red": (HsvRange((0, 50, 50), (10, 255, 255)), HsvRange((170, 50, 50), (180, 255, 255))),
    "blue": (HsvRange((100, 50, 50), (130, 255, 255)),),
    "green": (HsvRange((40, 50, 50), (80, 255, 255)),),
    "yellow": (HsvRange((20, 50, 50), (40, 255, 255)),),
    "orange": (HsvRange((10, 50, 50), (20, 255, 255)),),
    "purple": (HsvRange((130, 50, 50), (170, 255, 255)),),
    "cyan": (HsvRange((80, 50, 50), (100, 255, 255)),),
    "black": (HsvRange((0, 0, 0), (180, 255, 50)),),
    "white": (HsvRange((0, 0, 200), (180, 30, 255)),),
    "gray": (HsvRange((0, 0, 50), (180, 30, 200)),),
}


def keep_colors(image: Image.Image, ranges: Iterable[HsvRange]) -> Image.Image:
    """Return an RGB image with nothing but the pixels within some ranges of color.

    They stand on white, or on the background that they are visible on. Where they are most of the
    image, its background is among them, and the others get their typical color.
    """
    pixels = np.asarray(image)  # (H, W, 3)
    hsv = hsv_of(pixels)
    kept = np.zeros(pixels.shape[:2], dtype=bool)
    for lower, upper in ranges:
        kept |= ((hsv >= lower) & (hsv <= upper)).all(axis=-1)
    if np.count_nonzero(kept) * 2 > kept.size:
        typical = np.median(pixels[kept], axis=0).astype(np.uint8)
        return Image.fromarray(np.where(kept[..., np.newaxis], pixels, typical))
    if not kept.any():
        return Image.new("RGB", image.size, "white")
    cut_out = image.copy()
    cut_out.putalpha(Image.fromarray(kept.astype(np.uint8) * MAX_LEVEL))
    return make_opaque([cut_out])[0]


def hsv_of(pixels: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Return hue, saturation and value of RGB pixels (H, W, 3), to the bit as OpenCV does."""
    red, green, blue = pixels.astype(np.int32).transpose(2, 0, 1)  # (H, W) each
    value = np.maximum(np.maximum(red, green), blue)
    spread = value - np.minimum(np.minimum(red, green), blue)
    saturation = _shifted(spread * _SATURATION_FACTORS[value])
    sixths = np.where(
        value == red,
        green - blue,
        np.where(value == green, blue - red + 2 * spread, red - green + 4 * spread),
    )
    hue = _shifted(sixths * _HUE_FACTORS[spread])
    return np.stack([hue + np.where(hue < 0, MAX_HUE, 0), saturation, value], axis=-1)


def _factors(numerator: float) -> NDArray[np.int32]:
    """Return the factors that replace dividing `numerator` by each of 0 to 255."""
    divisors = np.arange(MAX_LEVEL + 1)
    return np.where(
        divisors, np.rint((numerator * (1 << _SHIFT)) / np.maximum(divisors, 1)), 0
    ).astype(np.int32)


def _shifted(products: NDArray[np.int32]) -> NDArray[np.int32]:
    """Return the rounded quotients that products with factors stand for."""
    return (products + (1 << (_SHIFT - 1))) >> _SHIFT


_SATURATION_FACTORS = _factors(MAX_LEVEL)
_HUE_FACTORS = _factors(MAX_HUE / 6)
