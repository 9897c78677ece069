"""A background for pictures with transparency that keeps their ink visible.

All frames of a picture get one background colour. Frames without transparency stay as they are.

Web pages show a captcha on white, so the background is white, unless that hides the ink: light ink
gets black, and a mixture of light and dark ink a grey that contrasts with both. A picture that is
mostly opaque has its own background, and the transparent rest is a detail.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Ink = NDArray[np.float64]

WHITE, BLACK, GREY = 255, 0, 128
# Ink less than this away from the background's luminance (of 255) fades; at 0 it is invisible.
FADING_DISTANCE = 80
# A background that swallows at most this part of the ink is good: anti-aliased edges, outlines.
ACCEPTED_LOSS = 0.2
# A picture that is more opaque than this on average brings its own background. Then only a loss
# of nearly everything matters: letters cut out of a white sheet.
MOSTLY_OPAQUE = 0.5
ACCEPTED_LOSS_OF_OPAQUE = 0.97
# A large image is weighed by this many of its columns and rows.
SAMPLE_SIDE_PIXELS = 512


def make_opaque(frames: Sequence[Image.Image]) -> list[Image.Image]:
    """Return the frames in mode RGB, transparent ones on a background common to all.

    Args:
        frames: Frames of one picture, in mode RGB or RGBA.
    """
    inks = [_ink_by_luminance(frame) for frame in frames if _is_translucent(frame)]
    # A broken alpha channel hides all ink.
    if not np.any(inks):
        return [frame.convert("RGB") for frame in frames]
    level = _background_level(np.mean(inks, axis=0))
    background = Image.new("RGBA", frames[0].size, (level, level, level))
    return [
        Image.alpha_composite(background, frame.convert("RGBA")).convert("RGB") for frame in frames
    ]


def _is_translucent(frame: Image.Image) -> bool:
    """Return whether a frame has a pixel that is not opaque."""
    return frame.mode == "RGBA" and frame.getchannel("A").getextrema() != (255, 255)


def _ink_by_luminance(frame: Image.Image) -> Ink:
    """Return the part of an RGBA frame, by opacity, that has each luminance, shape (256,)."""
    size = (min(frame.width, SAMPLE_SIDE_PIXELS), min(frame.height, SAMPLE_SIDE_PIXELS))
    sample = frame if frame.size == size else frame.resize(size, Image.Resampling.NEAREST)
    luminance = np.asarray(sample.convert("L")).ravel()
    opacity = np.asarray(sample.getchannel("A")).ravel() / 255
    return np.bincount(luminance, weights=opacity, minlength=256) / luminance.size


def _background_level(ink: Ink) -> int:
    """Return the luminance of the background that ink of these luminances stands out from."""
    losses = {level: _lost_part(ink, level) for level in (WHITE, BLACK, GREY)}
    mostly_opaque = ink.sum() > MOSTLY_OPAQUE
    if losses[WHITE] <= (ACCEPTED_LOSS_OF_OPAQUE if mostly_opaque else ACCEPTED_LOSS):
        return WHITE
    if losses[BLACK] <= ACCEPTED_LOSS:
        return BLACK
    return min(losses, key=lambda level: losses[level])


def _lost_part(ink: Ink, level: int) -> float:
    """Return the part of the ink, 0 to 1, that fades into a background of this luminance."""
    distance = np.abs(np.arange(256) - level)
    faded = np.clip(1 - distance / FADING_DISTANCE, 0, 1)
    return float(np.average(faded, weights=ink))
