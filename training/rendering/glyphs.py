"""Characters as coverage masks: drawn by FreeType, turned, sheared, stretched and laid out.

Masks are float32 in [0, 1], at the canvas's resolution.
"""

from __future__ import annotations

import math
import random
import unicodedata
from dataclasses import dataclass, replace
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from training.rendering.alphabet import is_hanzi
from training.rendering.fonts import (
    FontLibrary,
    draws,
    open_face,
)
from training.rendering.styles import Style

Mask = NDArray[np.float32]

_MIN_GAP = -0.25  # em; letters that lie on each other any further cannot be read


@dataclass(frozen=True)
class PlacedGlyph:
    """One character's coverage and the canvas position of its top left corner, in pixels."""

    mask: Mask  # (h, w)
    left: int
    top: int


@lru_cache(maxsize=32768)
def raw_mask(character: str, face: str, size: int) -> tuple[Mask, float, float]:
    """Return coverage (shared, read only), advance and height above the baseline, in pixels."""
    font = open_face(face, size)
    bitmap, (_, offset_y) = font.getmask2(character, mode="L", anchor="ls")
    width, height = bitmap.size
    mask = np.frombuffer(bytes(bitmap), dtype=np.uint8).reshape(height, width)
    return mask.astype(np.float32) / np.float32(255), font.getlength(character), -offset_y


def _transform(mask: Mask, matrix: NDArray[np.float64]) -> Mask:
    """Apply a 2x2 matrix about the centre; the result is as large as needed."""
    height, width = mask.shape
    corners = np.array([[-width, -height], [width, -height], [width, height], [-width, height]]) / 2
    moved = corners @ matrix.T
    new_width, new_height = (np.ceil(np.ptp(moved, axis=0)) + 2).astype(int)
    offset = np.array([new_width, new_height]) / 2 - matrix @ np.array([width, height]) / 2
    affine = np.concatenate([matrix, offset[:, None]], axis=1)
    return np.asarray(
        cv2.warpAffine(mask, affine, (int(new_width), int(new_height)), flags=cv2.INTER_LINEAR)
    )


def _in_perspective(mask: Mask, reach: float, rng: random.Random) -> Mask:
    """Move each corner by up to `reach` of width and height; the result is as large as needed."""
    height, width = mask.shape
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    moves = [[rng.uniform(-reach, reach) * side for side in (width, height)] for _ in corners]
    moved = corners + np.array(moves, np.float32)
    moved -= moved.min(axis=0)
    new_width, new_height = np.ceil(moved.max(axis=0)).astype(int) + 1
    matrix = cv2.getPerspectiveTransform(corners, moved)
    return np.asarray(cv2.warpPerspective(mask, matrix, (int(new_width), int(new_height))))


def _matrix(style: Style, scale: float, rng: random.Random) -> NDArray[np.float64]:
    angle = math.radians(rng.uniform(-style.rotation, style.rotation))
    shear = style.common_shear + rng.uniform(-style.shear, style.shear)
    size = scale * (1 + rng.uniform(-style.size_jitter, style.size_jitter))
    stretch = style.stretch * (1 + rng.uniform(-style.stretch_jitter, style.stretch_jitter))
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    slant = np.array([[1.0, -shear], [0.0, 1.0]])
    return np.asarray(turn @ slant @ np.diag([size * stretch, size]))


def _drawable(character: str, face: str, fonts: FontLibrary, rng: random.Random) -> tuple[str, str]:
    """Return the character to draw and its face, where `face` lacks the character."""
    forms = dict.fromkeys((character, unicodedata.normalize("NFKC", character)))
    for _ in range(16):
        for form in forms:
            if draws(face, form):
                return form, face
        face = fonts.choose(rng, hanzi=is_hanzi(character))
    raise ValueError(f"no installed face draws {character!r}")


def lay_out(
    text: str, style: Style, size: tuple[int, int], fonts: FontLibrary, rng: random.Random
) -> tuple[list[PlacedGlyph], float]:
    """Place each visible character of `text` on a canvas of `size` (height, width) pixels.

    Returns:
        The characters, and the em in pixels: the style's, or less where the text needs it.
    """
    height, width = size
    hanzi = any(map(is_hanzi, text))
    face = fonts.choose(rng, hanzi=hanzi)
    em = style.em * height
    source = int(min(96, max(12, 4 * math.ceil(em / 4))))  # few sizes keep the face cache small
    drawn = []
    for character in text:
        if style.font_per_character:
            face = fonts.choose(rng, hanzi=hanzi)
        drawn.append((character, *raw_mask(*_drawable(character, face, fonts, rng), source)))
    tracking = max(style.tracking, -0.12) - (0.1 if style.layout == "tight" else 0.0)
    natural = sum((advance / source + tracking) * style.stretch for _, _, advance, _ in drawn)
    fill = rng.uniform(0.8, 1.02) if len(text) > 2 else 0.95
    em = min(em, fill * width / max(natural, 0.4), 1.25 * height)
    changes = _gap_changes(len(drawn), style.gap_jitter, rng)
    gaps = [max(_MIN_GAP, tracking + change) * em * style.stretch for change in changes]
    return _place(drawn, style, (height, width), em / source, gaps, rng), em


def cut_at_an_end(
    placed: list[PlacedGlyph], share: float, width: int, rng: random.Random
) -> list[PlacedGlyph]:
    """Return the characters moved sideways until the canvas's edge cuts the first or the last.

    Args:
        placed: The characters.
        share: How much of that character's width is cut off.
        width: Of the canvas, in pixels.
        rng: Source of randomness.
    """
    if not placed:
        return placed
    if rng.random() < 0.5:
        first = min(placed, key=lambda glyph: glyph.left)
        move = -first.left - round(share * first.mask.shape[1])
    else:
        last = max(placed, key=lambda glyph: glyph.left + glyph.mask.shape[1])
        move = width - last.left - round((1 - share) * last.mask.shape[1])
    return [replace(glyph, left=glyph.left + move) for glyph in placed]


def _gap_changes(count: int, jitter: float, rng: random.Random) -> list[float]:
    """Return by how much the gap behind each character is wider, in em; their sum is 0."""
    changes = [rng.uniform(-jitter, jitter) for _ in range(count)]
    mean = sum(changes) / max(1, count)
    return [change - mean for change in changes]


def _place(
    drawn: list[tuple[str, Mask, float, float]],
    style: Style,
    size: tuple[int, int],
    scale: float,
    gaps: list[float],
    rng: random.Random,
) -> list[PlacedGlyph]:
    height, width = size
    advances = [
        advance * scale * style.stretch + gap
        for (_, _, advance, _), gap in zip(drawn, gaps, strict=True)
    ]
    slack = width - sum(advances)
    if style.layout == "cells":
        steps, x = [advance + slack / len(drawn) for advance in advances], 0.0
    else:
        steps, x = advances, slack * style.align
    tallest = max((above for _, _, _, above in drawn), default=0.0) * scale
    room = height - tallest
    baseline = tallest + room * (0.5 + rng.uniform(-0.25, 0.25) * min(1.0, style.rotation + 0.3))
    glyphs = []
    for (character, mask, _, above), advance, step in zip(drawn, advances, steps, strict=True):
        if not character.isspace():
            matrix = _matrix(style, scale, rng)
            turned = _transform(mask, matrix) if mask.size else np.zeros((1, 1), np.float32)
            if style.quad:
                turned = _in_perspective(turned, style.quad, rng)
            middle_x = x + step / 2 if style.layout == "cells" else x + advance / 2
            middle_y = baseline + (mask.shape[0] / 2 - above) * scale
            middle_y += rng.uniform(-style.rise, style.rise) * height
            glyphs.append(
                PlacedGlyph(
                    turned,
                    round(middle_x - turned.shape[1] / 2),
                    round(middle_y - turned.shape[0] / 2),
                )
            )
        x += step
    return glyphs


def paste(layer: Mask, glyph: PlacedGlyph) -> tuple[slice, slice] | None:
    """Add a glyph's coverage to `layer` (H, W) in place; return the part it touched."""
    height, width = layer.shape
    h, w = glyph.mask.shape
    top, left = max(0, glyph.top), max(0, glyph.left)
    bottom, right = min(height, glyph.top + h), min(width, glyph.left + w)
    if bottom <= top or right <= left:
        return None
    part = (slice(top, bottom), slice(left, right))
    piece = glyph.mask[top - glyph.top : bottom - glyph.top, left - glyph.left : right - glyph.left]
    np.maximum(layer[part], piece, out=layer[part])
    return part
