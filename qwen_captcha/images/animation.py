"""Compose the frames of an animated captcha into one picture with every character.

The frames are RGB and of one size. Every pixel of the result is that pixel of some frame, and equal
frames give that picture.

Animated captchas let their characters fade in and out in turn, so that no frame shows them all,
over a background that is mostly one colour, while noise jumps from frame to frame. Ink is therefore
what differs from the background colour. Where one frame has the ink of all frames, that frame is
the picture; else each pixel comes from the frame in which it differs most, less the ink that only
flickers.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Columns = NDArray[np.int64]
Indices = NDArray[np.intp]

# A pixel is ink from this difference to the background on, of 255: above the dithering of a
# GIF palette, below a pale character that has half faded away.
INK_DIFFERENCE = 20
# Ink is summed over windows of columns about as wide as a character, relative to the height.
WINDOW_PER_HEIGHT = 0.4
# A window shows text if it has this part of the ink of the fullest window.
TEXT_PART = 0.25
# A frame is complete if it has this part of the strongest frame's ink in every text window.
COMPLETE_PART = 0.6
# A window has a whole character's ink from this part of a typical text window's ink on.
CHARACTER_PART = 0.5
# A picture with more ink than this part of its area has a background of many colours.
BUSY_PART = 0.5
BACKGROUND_SAMPLE_PIXELS = 10_000


def compose_frames(frames: Pixels) -> Pixels:
    """Return one picture with the characters of all frames.

    Args:
        frames: At least one frame, shape (N, H, W, 3).

    Returns:
        The picture, shape (H, W, 3).
    """
    background = _background_colour(frames)
    ink = np.stack([_ink(frame, background) for frame in frames])  # (N, H, W)
    busy = np.count_nonzero(ink.any(axis=0)) > BUSY_PART * ink[0].size
    if busy:
        ink[:, ~_changing(frames)] = 0
    complete = _complete_frame(ink)
    if complete is not None:
        return np.asarray(frames[complete])
    strongest = ink.argmax(axis=0)  # (H, W), indices of frames
    if not busy:
        _drop_flicker(strongest, ink)
    rows, columns = np.indices(strongest.shape, sparse=True)
    return np.asarray(frames[strongest, rows, columns])


def _background_colour(frames: Pixels) -> Pixels:
    """Return the commonest colour of all frames, shape (3,)."""
    pixels = frames.reshape(-1, 3)
    sample = pixels[:: max(1, len(pixels) // BACKGROUND_SAMPLE_PIXELS)]
    # Counted in 8 bins a channel, so that neither dithering nor a soft gradient splits it.
    coarse = (sample >> 5).astype(np.int16)
    bins = (coarse[:, 0] << 6) | (coarse[:, 1] << 3) | coarse[:, 2]
    commonest = np.bincount(bins).argmax()
    colour: Pixels = sample[bins == commonest].mean(axis=0).round().astype(np.uint8)
    return colour


def _ink(frame: Pixels, background: Pixels) -> Pixels:
    """Return each pixel's largest channel difference to the background, 0 where it is none.

    Args:
        frame: Shape (H, W, 3).
        background: Shape (3,).
    """
    difference = np.maximum(frame, background) - np.minimum(frame, background)  # (H, W, 3)
    largest = np.maximum(np.maximum(difference[..., 0], difference[..., 1]), difference[..., 2])
    largest[largest <= INK_DIFFERENCE] = 0
    return np.asarray(largest)


def _changing(frames: Pixels) -> Mask:
    """Return the mask of pixels that differ between frames, shape (H, W)."""
    spread = frames.max(axis=0) - frames.min(axis=0)  # (H, W, 3)
    return np.asarray((spread > INK_DIFFERENCE).any(axis=-1))


def _complete_frame(ink: Pixels) -> int | None:
    """Return the index of the frame that shows what all frames show, if there is one."""
    somewhere = _windowed(np.count_nonzero(ink.any(axis=0), axis=0), ink.shape[1])  # (windows,)
    text = _text_windows(somewhere)
    if not text.any():
        return 0
    strength = _windowed(ink.sum(axis=1, dtype=np.int64), ink.shape[1])[:, text]  # (N, windows)
    weakest = (strength / strength.max(axis=0)).min(axis=1)  # (N,)
    best = int(weakest.argmax())
    return best if weakest[best] >= COMPLETE_PART else None


def _drop_flicker(strongest: Indices, ink: Pixels) -> None:
    """Point away, in place, from ink that only one frame has, if that is noise.

    Args:
        strongest: The frame with the most ink at each pixel, shape (H, W).
        ink: Shape (N, H, W).
    """
    others = ink.copy()
    np.put_along_axis(others, strongest[np.newaxis], 0, axis=0)
    lasting = np.asarray(others.any(axis=0))
    flickering = np.asarray(ink.any(axis=0)) & ~lasting
    if _is_noise(flickering, lasting):
        # Any other frame shows the background there.
        strongest[flickering] = (strongest[flickering] + 1) % len(ink)


def _is_noise(flickering: Mask, lasting: Mask) -> bool:
    """Return whether no character consists of flickering ink.

    A character that only one frame shows fills windows in which lasting ink, that of two or
    more frames, shows none.
    """
    flickering_ink = _windowed(np.count_nonzero(flickering, axis=0), len(flickering))
    lasting_ink = _windowed(np.count_nonzero(lasting, axis=0), len(lasting))
    text = _text_windows(lasting_ink)
    if not text.any():
        return False
    character = CHARACTER_PART * float(np.median(lasting_ink[text]))
    return not np.any((flickering_ink >= character) & (lasting_ink < character))


def _text_windows(windows: Columns) -> Mask:
    """Return the mask of windows with enough ink to be text."""
    return np.asarray((windows > 0) & (windows >= TEXT_PART * windows.max()))


def _windowed(columns: Columns, height: int) -> Columns:
    """Return the sums over all windows of adjacent columns; shape (..., W) to (..., windows)."""
    width = min(max(1, round(WINDOW_PER_HEIGHT * height)), columns.shape[-1])
    padding = [(0, 0)] * (columns.ndim - 1) + [(1, 0)]
    totals = np.cumsum(np.pad(columns, padding), axis=-1)
    return np.asarray(totals[..., width:] - totals[..., :-width])
