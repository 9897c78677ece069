"""Resize an image to a size that Qwen2-VL accepts without change.

The size is in whole cells and within a range of pixels, as the model's own processor would choose
it; a very long and narrow image gets borders. No torch is needed.
"""

from __future__ import annotations

import math

from PIL import Image

# 28 = patch 14 x merge 2: what one visual token shows, in pixels each way.
CELL_SIDE = 28
# Qwen2-VL rejects a size beyond 200:1, and rounding a height of almost two rows of cells down to
# one doubles a ratio. An image beyond this one gets borders.
MAX_SHOWN_RATIO = 100


def size_shown(
    size: tuple[int, int], *, cell_side: int = CELL_SIDE, min_pixels: int, max_pixels: int
) -> tuple[int, int]:
    """Return the width and height at which an image is shown, in pixels.

    Source: `smart_resize` of the Qwen2-VL image processor in transformers.
    """
    width, height = bordered_size(size)
    columns, rows = round(width / cell_side), round(height / cell_side)
    pixels = columns * rows * cell_side**2
    if pixels > max_pixels:
        shrink = math.sqrt(width * height / max_pixels)
        columns = max(1, math.floor(width / shrink / cell_side))
        rows = max(1, math.floor(height / shrink / cell_side))
    elif pixels < min_pixels:
        grow = math.sqrt(min_pixels / (width * height))
        columns = math.ceil(width * grow / cell_side)
        rows = math.ceil(height * grow / cell_side)
    return columns * cell_side, rows * cell_side


def stretched(image: Image.Image, factor: float) -> Image.Image:
    """Return the image `factor` times as wide, for more columns of tokens on each character."""
    if factor == 1:
        return image
    width = round(factor * image.width)
    return image.resize((width, image.height), Image.Resampling.BICUBIC)


def bordered_size(size: tuple[int, int]) -> tuple[int, int]:
    """Return an image's size, its shorter side raised so that the ratio can be shown."""
    minimum = -(-max(size) // MAX_SHOWN_RATIO)
    return max(size[0], minimum), max(size[1], minimum)


def with_borders(image: Image.Image) -> Image.Image:
    """Return the image with borders of its corner's colour where it is too long and narrow."""
    width, height = bordered_size(image.size)
    if (width, height) == image.size:
        return image
    canvas = Image.new(image.mode, (width, height), image.getpixel((0, 0)))
    canvas.paste(image, ((width - image.width) // 2, (height - image.height) // 2))
    return canvas
