"""Draw a captcha from a text, a style and a seed.

The same arguments give the same pixels.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from training.rendering import (
    clutter,
    effects,
    glyphs,
)
from training.rendering.clutter import Colour
from training.rendering.fonts import FontLibrary
from training.rendering.styles import Style, Traits

# An image is too small to share among threads, and OpenCV's pool does not survive a fork.
cv2.setNumThreads(0)

_UNEVEN = 0.5  # share of the hollow letters whose outline is not of one width


@dataclass(frozen=True)
class Drawing:
    """A captcha and where its characters stand.

    Attributes:
        image: RGB, (H, W, 3) uint8.
        boxes: One row a visible character in reading order, (N, 4) float32: centre x and y, half
            width and half height, as fractions of W and H. A character may be cut at an edge.
    """

    image: NDArray[np.uint8]
    boxes: NDArray[np.float32]


def _luminance(colour: Colour) -> float:
    return 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]


def _base_colour(style: Style, rng: random.Random) -> Colour:
    if style.background == "white" and not style.dark_background:
        return (255.0, 255.0, 255.0)
    low, high = (0, 90) if style.dark_background else (150, 255)
    grey = rng.uniform(low, high)
    tint = rng.choice((0, 15, 50))
    red, green, blue = (min(255.0, max(0.0, grey + rng.uniform(-tint, tint))) for _ in range(3))
    return (red, green, blue)


def _ink_colour(style: Style, base: Colour, rng: random.Random) -> Colour:
    """Return a colour whose distance from `base` is about `contrast` of what is possible."""
    if style.colours == "black" and not style.dark_background:
        grey = rng.uniform(0, 60)
        target: Colour = (grey, grey, grey)
    else:
        distance = 0.0
        for _ in range(12):
            target = clutter.random_colour(rng)
            distance = abs(_luminance(target) - _luminance(base))
            spread = sum(abs(t - b) for t, b in zip(target, base, strict=True))
            if distance > 70 or (distance > 35 and spread > 200):
                break
    k = style.contrast
    red, green, blue = (b + k * (t - b) for t, b in zip(target, base, strict=True))
    return (red, green, blue)


def _heavy_side(style: Style, em: float, rng: random.Random) -> tuple[int, int]:
    """Return the offset at which outlines are thickest, the same for all letters."""
    reach = max(1, round(style.stroke * em))
    if style.fill == "relief":
        return rng.choice((-reach, reach)), rng.choice((-reach, reach))
    if rng.random() < _UNEVEN:
        return rng.randint(-reach, reach), rng.randint(-reach, reach)
    return 0, 0


def _shifted(mask: glyphs.Mask, down: int, right: int) -> glyphs.Mask:
    """Return the coverage moved by some pixels; what leaves the canvas is gone."""
    height, width = mask.shape
    move = np.array([[1, 0, right], [0, 1, down]], np.float32)
    return np.asarray(cv2.warpAffine(mask, move, (width, height), flags=cv2.INTER_NEAREST))


def _decorated(
    mask: glyphs.Mask, style: Style, em: float, heavy_side: tuple[int, int], rng: random.Random
) -> glyphs.Mask:
    """Return the coverage after hollowing, carving, hatching or nothing."""
    reach = max(1, round(style.stroke * em))
    if style.fill == "hollow":
        kernel = np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)
        inner = _shifted(mask, *heavy_side)
        return np.asarray(np.maximum(0, cv2.dilate(mask, kernel) - inner * np.float32(0.95)))
    if style.fill == "relief":  # the edges that face one way, strongest there
        rim = np.asarray(cv2.dilate(mask, np.ones((3, 3), np.uint8))) - mask
        lit = _shifted(mask, *heavy_side) - mask
        return np.asarray(np.clip(np.maximum(lit, np.float32(0.6) * rim), 0, 1))
    if style.fill == "hatched":
        step = max(2, round(0.12 * em))
        rows = (np.arange(mask.shape[0]) + rng.randrange(step)) % step
        return mask * (rows > 0)[:, None].astype(np.float32)
    return mask


def _ink_text(
    image: NDArray[np.float32],
    placed: list[glyphs.PlacedGlyph],
    style: Style,
    em: float,
    inks: list[Colour],
    source: tuple[NDArray[np.float32], NDArray[np.float32]] | None,
    part: Traits,
) -> None:
    """Blend the characters, `em` pixels large, into `image` (H, W, 3) in place."""
    height, width = image.shape[:2]
    coverage = np.zeros((height, width), np.float32)
    colour = np.zeros((height, width, 3), np.float32)
    colour[:] = inks[0]
    rng = part["text"]
    heavy_side = _heavy_side(style, em, rng)
    pale = part["pale_end"].choice((placed[0], placed[-1])) if style.pale_end else None
    for glyph, ink in zip(placed, inks, strict=True):
        layer = np.zeros((height, width), np.float32)
        if glyphs.paste(layer, glyph) is None:
            continue
        if style.aliased:
            layer = np.where(layer > 0.5, np.float32(1), np.float32(0))
        piece = _decorated(layer, style, em, heavy_side, rng) if style.fill != "solid" else layer
        if style.fade:
            piece = piece * (1 - style.fade * rng.random())
        if glyph is pale:
            piece = piece * (1 - style.pale_end)
        stronger = piece > coverage
        colour[stronger] = ink
        np.maximum(coverage, piece, out=coverage)
    if style.fill == "gradient":
        ramp = np.linspace(-60, 60, width, dtype=np.float32) * rng.choice((-1, 1))
        colour += ramp[None, :, None]
    if source is not None:
        coverage = effects.warp(coverage, source)
        colour = effects.warp(colour, source)
    if style.shadow:
        _blend_shadow(image, coverage, style, em, rng)
    if style.fill == "outlined":
        kernel = np.ones((3, 3), np.uint8)
        rim = np.asarray(cv2.dilate(coverage, kernel))
        rim_colour = np.array(clutter.random_colour(rng), np.float32)
        image += rim[..., None] * (rim_colour - image)
    image += coverage[..., None] * (colour - image)


def _blend_shadow(
    image: NDArray[np.float32], coverage: glyphs.Mask, style: Style, em: float, rng: random.Random
) -> None:
    shift = max(1, round(style.shadow * em))
    dx, dy = rng.choice((-shift, shift)), rng.choice((-shift, shift))
    shadow = _shifted(coverage, dy, dx)
    if rng.random() < 0.6:
        shadow = np.asarray(cv2.GaussianBlur(shadow, (0, 0), max(0.6, shift / 2)))
    grey = rng.choice((0, 60, 120, 200))
    tone = clutter.random_colour(rng) if rng.random() < 0.3 else (grey, grey, grey)
    image += rng.uniform(0.3, 0.9) * shadow[..., None] * (np.array(tone, np.float32) - image)


def _strike_points(
    placed: list[glyphs.PlacedGlyph], size: tuple[int, int], rng: random.Random
) -> list[tuple[float, float]]:
    """Return the path of a striking line: near each character's middle, and beyond both ends."""
    height, width = size
    astray = rng.choice((0.3, 0.3, 0.05))  # of a character's height
    middles = sorted(
        (
            glyph.left + glyph.mask.shape[1] / 2,
            glyph.top + glyph.mask.shape[0] * rng.uniform(0.5 - astray, 0.5 + astray),
        )
        for glyph in placed
    )
    ends = [
        rng.uniform(-0.1, 0.6) * middles[0][0],
        width - rng.uniform(-0.1, 0.6) * (width - middles[-1][0]),
    ]
    y = [rng.uniform(0.2, 0.8) * height for _ in ends]
    return [(ends[0], y[0]), *middles, (ends[1], y[1])]


def _boxes(
    placed: list[glyphs.PlacedGlyph],
    size: tuple[int, int],
    source: tuple[NDArray[np.float32], NDArray[np.float32]] | None,
) -> NDArray[np.float32]:
    """Return the characters' boxes, (N, 4); the warp moves centres, its bending is ignored."""
    height, width = size
    boxes = np.zeros((len(placed), 4), np.float32)
    for box, glyph in zip(boxes, placed, strict=True):
        half_height, half_width = glyph.mask.shape[0] / 2, glyph.mask.shape[1] / 2
        x, y = glyph.left + half_width, glyph.top + half_height
        if source is not None:
            row, column = min(height - 1, max(0, int(y))), min(width - 1, max(0, int(x)))
            x -= float(source[0][row, column]) - column
            y -= float(source[1][row, column]) - row
        box[:] = (x / width, y / height, half_width / width, half_height / height)
    return boxes


def render(text: str, style: Style, *, aspect: float, fonts: FontLibrary, seed: int) -> Drawing:
    """Draw `text`.

    Args:
        text: What to draw; spaces leave gaps.
        style: How it looks.
        aspect: Canvas width over height.
        fonts: Where faces come from.
        seed: Fixes every random choice that the style leaves open.

    Returns:
        The drawing, `style.canvas_height` pixels high.
    """
    part = Traits(seed)
    noise = np.random.default_rng(seed)
    size = (style.canvas_height, max(8, round(style.canvas_height * aspect)))
    base = _base_colour(style, part["base"])
    image = clutter.paint_background(style, size, base, part["background"], noise)
    placed, em = glyphs.lay_out(text, style, size, fonts, part["layout"])
    if style.cut_end:
        placed = glyphs.cut_at_an_end(placed, style.cut_end, size[1], part["cut_end"])
    first = _ink_colour(style, base, part["ink"])
    each = style.colours == "each"
    inks = [_ink_colour(style, base, part["inks"]) if each else first for _ in placed]
    source = effects.displacement(style, size, part["warp"])
    if style.decoys:
        clutter.draw_decoys(image, style, base, fonts, part["decoys"])
    if not style.lines_over:
        clutter.draw_lines(image, style, first, base, part["lines"])
        clutter.draw_dots(image, style, first, base, part["dots"])
    if placed:
        warp = None if style.warp_everything else source
        ground = image.copy() if style.erasers else image
        _ink_text(image, placed, style, em, inks, warp, part)
        if style.erasers:
            letters = [
                (float(glyph.left), float(glyph.top), glyph.mask.shape[1], glyph.mask.shape[0])
                for glyph in placed
            ]
            clutter.erase(image, ground, style, letters, part["erasers"])
        if style.strike:
            rng = part["strike"]
            colour = first if rng.random() < 0.7 else _ink_colour(style, base, rng)
            clutter.draw_strike(image, style, _strike_points(placed, size, rng), colour, rng)
    if style.lines_over:
        clutter.draw_lines(image, style, first, base, part["lines"])
        clutter.draw_dots(image, style, first, base, part["dots"])
    if source is not None and style.warp_everything:
        image = effects.warp(image, source)
    finished = effects.develop(image, style, part["develop"], noise)
    return Drawing(finished, _boxes(placed, size, source))
