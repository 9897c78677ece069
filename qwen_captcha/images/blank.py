"""Detect pictures without anything that could be a character.

A model that transcribes gives some character for any picture. A picture without contrast, and one
whose pixels have nothing to do with their neighbors, is therefore not shown to it.

Not found are lines alone, blots, and noise that a JPEG encoder or a resize has smoothed: the answer
to those has a low confidence.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

# Pixels at a picture's sides that may be a frame.
_FRAME = 3
# The smallest digits in use are 3 x 5 pixels.
_MIN_WIDTH, _MIN_HEIGHT = 3, 5
# Differences of a channel's values up to this, of 255, are no contrast that a person sees.
_MAX_FLAT_RANGE = 8
# Correlation of a pixel with the next one. Noise has 0.00 to 0.02 at 160 x 60 pixels, captchas of
# 70 kinds have 0.44 and more,
# the faintest print over noise that a person could read had 0.04.
_MAX_NOISE_CORRELATION = 0.03
# In fewer pixels a correlation means little, and larger pictures are photographs.
_MIN_NOISE_PIXELS, _MAX_NOISE_PIXELS = 2000, 1_000_000


def is_blank(image: Image.Image) -> bool:
    """Return whether an RGB image is of one color, a frame aside, or noise alone."""
    width, height = image.size
    if width < _MIN_WIDTH or height < _MIN_HEIGHT:
        return True
    framed = min(width - _MIN_WIDTH, height - _MIN_HEIGHT) > 2 * _FRAME
    inside = image.crop((_FRAME, _FRAME, width - _FRAME, height - _FRAME)) if framed else image
    ranges = inside.getextrema()
    if all(high - low <= _MAX_FLAT_RANGE for low, high in ranges):  # type: ignore[misc]
        return True
    return _MIN_NOISE_PIXELS <= width * height <= _MAX_NOISE_PIXELS and _is_noise(inside)


def _is_noise(image: Image.Image) -> bool:
    """Return whether neighboring pixels of an image have nothing to do with each other."""
    levels = np.asarray(image.convert("L"), dtype=np.float32)  # (H, W)
    levels -= levels.mean()
    variance = float(np.mean(levels**2))
    along = float(np.mean(levels[:, 1:] * levels[:, :-1]))
    down = float(np.mean(levels[1:] * levels[:-1]))
    return max(along, down) <= _MAX_NOISE_CORRELATION * variance
