"""Find the text in a picture, so that a small model receives little else.

The result is the box with most edges. In a captcha the text has edges; margins, frames, bars,
gradients and pale patterns have few. Over a canvas full of noise the box is the canvas. Training
crops its drawings with the same code, which needs no torch.

Dims: H/W pixels, C channels.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

# Steps from pixel to pixel up to this, of 255, are no edges but noise of JPEG or a gradient.
_NOISE = 8
# Steps above this count no more than this: a pale letter beside black ones has edges, too. With
# larger ones, letters at a third of the contrast were cut off at the ends of two texts in three.
_STRONG = 16
# Pixels at a picture's sides that may be a frame, and are not looked at.
_FRAME = 3
# Share of all edges that is left out at each side.
_OUTSIDE = 0.005
# Lines with this share of the edges of those with most, or less, are left out at each side, too, as
# dots and lines beside the text make. Some lines are looked at together: rows, as a share of the
# picture's height, and columns, of the text's, so that no letter loses its end.
_SPARSE = 0.15
_ROWS, _COLUMNS = 0.06, 0.5
# What is added to the box on each side, of its height.
_MARGIN = 0.12
# A box below this share of the height is a speck, not text.
_MIN_SHARE = 0.12
# Width over height that boxes are widened to, as far as the picture goes.
_MIN_ASPECT, _MAX_ASPECT = 1.7, 6.0
# Edges of a larger picture are looked for in a smaller one.
_MAX_SIDE = 640


class Box(NamedTuple):
    """A part of a picture, in pixels; `right` and `bottom` are outside."""

    left: int
    top: int
    right: int
    bottom: int


def text_box(pixels: NDArray[np.uint8]) -> Box:
    """Return the part of a picture (H, W, C) to look at, which holds its text."""
    height, width = pixels.shape[:2]
    inside = pixels[_FRAME:-_FRAME, _FRAME:-_FRAME]
    planes = inside.transpose(2, 0, 1).astype(np.int16, order="C")  # (C, H, W)
    # Bars and lines across have no edges along a row. Along a column nothing is that harmless: a
    # letter may be one upright stroke.
    upright = _edges(planes, axis=2)
    top, bottom = _extent(upright.sum(axis=1), int(_ROWS * height))
    across = np.pad(upright[top:bottom].sum(axis=0), (0, 1))
    along = _edges(planes[:, top:bottom], axis=1).sum(axis=0)
    left, right = _extent(across + along, int(_COLUMNS * (bottom - top)))
    if bottom - top < _MIN_SHARE * height or right - left < _MIN_SHARE * height:
        return Box(0, 0, width, height)
    margin = max(_FRAME, math.ceil(_MARGIN * (bottom - top)))
    box = Box(
        max(0, left + _FRAME - margin),
        max(0, top + _FRAME - margin),
        min(width, right + _FRAME + margin),
        min(height, bottom + _FRAME + margin),
    )
    return widened(box, (width, height), _MIN_ASPECT, _MAX_ASPECT)


def _edges(planes: NDArray[np.int16], axis: int) -> NDArray[np.int16]:
    """Return by how much pixels (C, H, W) differ from their neighbours along an axis."""
    steps = np.abs(np.diff(planes, axis=axis)).max(axis=0)  # (H, W), one less along the axis
    return np.asarray(np.clip(steps, _NOISE, _NOISE + _STRONG) - np.int16(_NOISE))


def _extent(edges: NDArray[np.int_], neighbours: int) -> tuple[int, int]:
    """Return the first and past the last of the lines that hold nearly all edges, densely."""
    total = edges.sum()
    if not total:
        return 0, len(edges)
    share = np.cumsum(edges) / total
    first = np.searchsorted(share, _OUTSIDE, side="right")
    last = np.searchsorted(share, 1 - _OUTSIDE, side="left")
    near = np.convolve(edges, np.ones(min(neighbours, len(edges) - 1) // 2 * 2 + 1), "same")
    dense = np.flatnonzero(near >= _SPARSE * near.max())
    return max(int(first), int(dense[0])), min(int(last), int(dense[-1])) + 1


def widened(box: Box, size: tuple[int, int], narrowest: float, widest: float) -> Box:
    """Return a box enlarged about its middle to an aspect in a range, as far as there is room.

    Args:
        box: The box.
        size: Width and height of the picture.
        narrowest: Least width over height.
        widest: Greatest width over height.
    """
    wide, high = box.right - box.left, box.bottom - box.top
    left, right = _stretch(box.left, box.right, round(narrowest * high), size[0])
    top, bottom = _stretch(box.top, box.bottom, round(wide / widest), size[1])
    return Box(left, top, right, bottom)


def _stretch(start: int, stop: int, wanted: int, limit: int) -> tuple[int, int]:
    """Return an interval of at least `wanted`, or of all there is, around another one."""
    length = min(limit, max(wanted, stop - start))
    start = min(max(0, (start + stop - length) // 2), limit - length)
    return start, start + length


def crop_to_text(image: Image.Image) -> Image.Image:
    """Return the part of an RGB image that holds its text."""
    shrink = -(-max(image.size) // _MAX_SIDE)
    small = image.reduce(shrink) if shrink > 1 else image
    box = Box(*(shrink * side for side in text_box(np.asarray(small))))
    return image.crop(
        (box.left, box.top, min(box.right, image.width), min(box.bottom, image.height))
    )
