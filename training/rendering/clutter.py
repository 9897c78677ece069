"""Everything on a captcha that is not its text: backgrounds, lines, arcs, dots, decoy letters.

Functions draw in place, on images that are float32 RGB in [0, 255].
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from contextlib import contextmanager

import cv2
import numpy as np
from numpy.typing import NDArray

from training.rendering.alphabet import LATIN
from training.rendering.fonts import FontLibrary
from training.rendering.glyphs import raw_mask
from training.rendering.styles import Style

_INVERTING = 3  # a strike that inverts letters is this many times as thick as one in ink

Image = NDArray[np.float32]
Canvas = NDArray[np.uint8]  # an image while lines are drawn on it
Colour = tuple[float, float, float]
Rectangle = tuple[float, float, float, float]  # left, top, width, height


def _field(noise: np.random.Generator, size: tuple[int, int], cell: float, channels: int) -> Image:
    """Return smooth noise in [-1, 1], (H, W, channels), with features of `cell` pixels."""
    height, width = size
    small = (max(2, round(height / cell)), max(2, round(width / cell)), channels)
    grid = noise.uniform(-1, 1, small).astype(np.float32)
    field = np.asarray(cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC))
    return field.reshape(height, width, channels)


def paint_background(
    style: Style,
    size: tuple[int, int],
    base: Colour,
    rng: random.Random,
    noise: np.random.Generator,
) -> Image:
    """Return the background, (H, W, 3), around the colour `base`."""
    height, width = size
    image = np.empty((height, width, 3), np.float32)
    image[:] = base
    swing = 110 * style.background_strength
    if style.background == "gradient":
        angle = rng.uniform(0, 2 * math.pi)
        y, x = np.mgrid[0:height, 0:width].astype(np.float32)
        ramp = (x / width - 0.5) * math.cos(angle) + (y / height - 0.5) * math.sin(angle)
        image += (
            ramp[..., None]
            * swing
            * rng.choice((1, 1, 2, 4))
            * noise.uniform(0.3, 1.6, 3).astype(np.float32)
        )
    elif style.background == "bands":
        step = max(2, int(rng.uniform(0.1, 0.6) * height))
        axis = np.arange(width if rng.random() < 0.7 else height) // step
        shade = noise.uniform(-swing / 2, swing / 2, (int(axis.max()) + 1, 3)).astype(np.float32)
        image += shade[axis][None, :] if len(axis) == width else shade[axis][:, None]
    elif style.background == "blobs":
        for octave in (1.2, 0.4, 0.12):
            channels = rng.choice((1, 3))
            image += _field(noise, size, max(2.0, octave * height), channels) * swing * 0.45
    elif style.background == "grain":
        image += _field(noise, size, rng.uniform(1.0, 3.0), rng.choice((1, 3))) * swing * 0.7
    elif style.background == "shapes":
        _draw_shapes(image, base, swing, rng)
    elif style.background in ("grid", "rings", "spokes"):
        with _in_8_bits(image) as canvas:
            _draw_lattice(canvas, style, base, rng)
    return image


def _line_type(style: Style) -> int:
    return int(cv2.LINE_AA if style.smooth_lines else cv2.LINE_8)


@contextmanager
def _in_8_bits(image: Image) -> Iterator[Canvas]:
    """Give the image to draw on as OpenCV draws smooth lines: on 8-bit images alone."""
    canvas = np.clip(image, 0, 255).astype(np.uint8)
    yield canvas
    image[:] = canvas


def _draw_shapes(image: Image, base: Colour, swing: float, rng: random.Random) -> None:
    """Fill the canvas with overlapping polygons and ellipses, as a cut of a photograph has them."""
    height, width = image.shape[:2]
    for _ in range(rng.randint(4, 18)):
        colour = tuple(value + rng.uniform(-swing, swing) for value in base)
        x, y = rng.uniform(0, width), rng.uniform(0, height)
        reach = rng.uniform(0.15, 1.2) * height
        points = [
            (int(x + rng.uniform(-reach, reach)), int(y + rng.uniform(-reach, reach)))
            for _ in range(rng.randint(3, 6))
        ]
        if rng.random() < 0.5:
            cv2.fillPoly(image, [np.array(points, np.int32)], colour)
        else:
            axes = (max(1, int(reach)), max(1, int(reach * rng.uniform(0.3, 1))))
            cv2.ellipse(image, points[0], axes, rng.uniform(0, 180), 0, 360, colour, -1)


def _draw_lattice(image: Canvas, style: Style, base: Colour, rng: random.Random) -> None:
    height, width = image.shape[:2]
    shift = rng.choice((-1, 1)) * (15 + 90 * style.background_strength)
    red, green, blue = (value + shift * rng.uniform(0.4, 1.0) for value in base)
    colour = (red, green, blue)
    step = max(3, int(rng.uniform(0.06, 0.3) * height))
    if style.background == "grid":
        for x in range(rng.randrange(step), width, step):
            cv2.line(image, (x, 0), (x, height), colour, 1)
        for y in range(rng.randrange(step), height, step):
            cv2.line(image, (0, y), (width, y), colour, 1)
        return
    centre = (rng.randrange(width), rng.randrange(height))
    if style.background == "spokes":
        _draw_spokes(image, style, centre, colour, rng)
        step *= 2
    for radius in range(step, width, step):
        cv2.circle(image, centre, radius, colour, 1, _line_type(style))


def _draw_spokes(
    image: Canvas, style: Style, centre: tuple[int, int], colour: Colour, rng: random.Random
) -> None:
    """Draw wavering lines from `centre` outwards in place."""
    count, wavering = rng.randint(12, 60), rng.uniform(0, 0.15)
    radii = np.linspace(0, image.shape[1], 24)
    for index in range(count):
        turns = 2 * math.pi * index / count + wavering * np.sin(radii / rng.uniform(2, 12))
        points = np.stack([np.cos(turns), np.sin(turns)], axis=1) * radii[:, None] + centre
        cv2.polylines(image, [points.astype(np.int32)], False, colour, 1, _line_type(style))


def random_colour(rng: random.Random) -> Colour:
    """Return any RGB colour."""
    return (rng.uniform(0, 255), rng.uniform(0, 255), rng.uniform(0, 255))


def _clutter_colour(style: Style, ink: Colour, base: Colour, rng: random.Random) -> Colour:
    if style.lines_in_ink and rng.random() < 0.9:
        return ink
    colour = random_colour(rng)
    pale = rng.uniform(0, 0.7)
    return tuple(pale * b + (1 - pale) * c for b, c in zip(base, colour, strict=True))  # type: ignore[return-value]


def draw_lines(image: Image, style: Style, ink: Colour, base: Colour, rng: random.Random) -> None:
    """Draw straight lines, curves, arcs and short strokes in place."""
    with _in_8_bits(image) as canvas:
        _draw_lines(canvas, style, ink, base, rng)


def _draw_lines(image: Canvas, style: Style, ink: Colour, base: Colour, rng: random.Random) -> None:
    height, width = int(image.shape[0]), int(image.shape[1])

    def point() -> tuple[int, int]:
        return (int(rng.uniform(-0.05, 1.05) * width), int(rng.uniform(-0.05, 1.05) * height))

    def thickness() -> int:
        return max(1, round(style.line_width * height * rng.uniform(0.6, 1.3)))

    one_colour = _clutter_colour(style, ink, base, rng)
    shared = rng.random() < 0.4

    def colour() -> Colour:
        return one_colour if shared else _clutter_colour(style, ink, base, rng)

    for _ in range(style.straight_lines):
        points = [point() for _ in range(2 if rng.random() < 0.75 else rng.randint(3, 7))]
        if rng.random() < 0.5:
            points.sort()
            points[0] = (int(rng.uniform(-0.05, 0.25) * width), points[0][1])
            points[-1] = (int(rng.uniform(0.75, 1.05) * width), points[-1][1])
        cv2.polylines(
            image, [np.array(points, np.int32)], False, colour(), thickness(), _line_type(style)
        )
    for _ in range(style.curves):
        cv2.polylines(
            image, [_curve((height, width), rng)], False, colour(), thickness(), _line_type(style)
        )
    for _ in range(style.arcs):
        radius = rng.uniform(0.04, 0.3) if rng.random() < 0.6 else rng.uniform(0.3, 1.5)
        axes = (max(1, int(radius * height * rng.uniform(0.6, 1.7))), max(1, int(radius * height)))
        start = rng.uniform(0, 360)
        sweep = 360 if rng.random() < 0.6 else rng.uniform(40, 200)
        cv2.ellipse(
            image,
            point(),
            axes,
            rng.uniform(0, 180),
            start,
            start + sweep,
            colour(),
            thickness(),
            _line_type(style),
        )
    for _ in range(style.strokes):
        x, y = point()
        reach = max(2.0, 0.12 * height)
        end = (int(x + rng.uniform(-reach, reach)), int(y + rng.uniform(-reach, reach)))
        cv2.line(image, (x, y), end, colour(), 1, _line_type(style))


def _curve(size: tuple[int, int], rng: random.Random) -> NDArray[np.int32]:
    """Return the points, (N, 2), of a sine or a cubic Bezier across the canvas."""
    height, width = size
    t = np.linspace(0, 1, 40)
    if rng.random() < 0.5:
        x = np.interp(t, [0, 1], [rng.uniform(-0.1, 0.3) * width, rng.uniform(0.7, 1.1) * width])
        swing = rng.uniform(0.05, 0.4) * height
        y = rng.uniform(0.2, 0.8) * height + swing * np.sin(
            2 * math.pi * t * rng.uniform(0.4, 3.0) + rng.uniform(0, 6.3)
        )
    else:
        control = [
            (across * width + rng.uniform(-0.15, 0.15) * width, rng.uniform(0, 1) * height)
            for across in (0.05, 0.35, 0.65, 0.95)
        ]
        weights = np.stack([(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3])
        x, y = (weights.T @ np.array(control)).T
    return np.stack([x, y], axis=1).astype(np.int32)


def draw_strike(
    image: Image,
    style: Style,
    through: list[tuple[float, float]],
    colour: Colour,
    rng: random.Random,
) -> None:
    """Draw the line that strikes a word out, in place.

    Args:
        image: (H, W, 3).
        style: Gives thickness and whether the line bends smoothly or in corners and is hatched.
        through: Points (x, y) in pixels from left to right, at least two.
        colour: Usually the text's own.
        rng: Source of randomness.
    """
    points = np.array(through)
    if style.strike_smooth:
        x = np.linspace(points[0, 0], points[-1, 0], 48)
        y = np.interp(x, *points.T)
        reach = max(1, round(0.3 * len(x) / (len(points) - 1)))
        kernel = np.hanning(2 * reach + 3)[1:-1]
        padded = np.pad(y, reach, mode="edge")
        points = np.stack([x, np.convolve(padded, kernel / kernel.sum(), "valid")], axis=1)
    width = style.strike * (_INVERTING if style.strike_inverts else 1)
    thickness = max(1, round(width * min(1.0, 1.4 * style.em) * image.shape[0]))
    line = [points.astype(np.int32)]
    coverage = np.zeros(image.shape[:2], np.uint8)
    thickness += style.strike_hatched
    cv2.polylines(coverage, line, False, 255, thickness, _line_type(style))
    if style.strike_hatched:
        y, x = np.mgrid[0 : image.shape[0], 0 : image.shape[1]]
        coverage[(x + rng.choice((-1, 0, 1)) * y) % rng.randint(2, 5) == 0] = 0
    share = coverage[..., None] / np.float32(255)
    over = 255 - image if style.strike_inverts else np.array(colour, np.float32)
    image += share * (over - image)


def erase(
    image: Image, ground: Image, style: Style, letters: list[Rectangle], rng: random.Random
) -> None:
    """Take spots and strips out of the letters, so that the ground shows again, in place.

    Args:
        image: (H, W, 3), with the text.
        ground: (H, W, 3), what it was before.
        style: Gives the number of spots and strips.
        letters: Left, top, width and height of each letter in pixels.
        rng: Source of randomness.
    """
    holes = np.zeros(image.shape[:2], np.uint8)
    for _ in range(style.erasers):
        left, top, width, height = rng.choice(letters)
        x, y = int(left + rng.random() * width), int(top + rng.random() * height)
        radius = max(1, round(rng.uniform(0.05, 0.13) * height))
        if rng.random() < 0.6:
            cv2.circle(holes, (x, y), radius, 1, -1)
        else:
            end = (int(left + rng.random() * width), int(top + rng.random() * height))
            cv2.line(holes, (x, y), end, 1, max(1, radius // 2))
    image[holes > 0] = ground[holes > 0]


def draw_dots(image: Image, style: Style, ink: Colour, base: Colour, rng: random.Random) -> None:
    """Draw filled dots in place."""
    height, width = image.shape[:2]
    largest = max(1.0, rng.choice((0.01, 0.02, 0.04)) * height)
    one_colour = _clutter_colour(style, ink, base, rng)
    shared = rng.random() < 0.5
    for _ in range(style.dots):
        centre = (rng.randrange(width), rng.randrange(height))
        colour = one_colour if shared else _clutter_colour(style, ink, base, rng)
        cv2.circle(image, centre, int(rng.uniform(0, largest)), colour, -1)


def draw_decoys(
    image: Image, style: Style, base: Colour, fonts: FontLibrary, rng: random.Random
) -> None:
    """Draw small pale letters that are not part of the text, in place."""
    height, width = image.shape[:2]
    face = fonts.choose(rng, hanzi=False)
    size = max(8, 4 * int(rng.uniform(0.12, 0.28) * height / 4))
    for _ in range(style.decoys):
        mask, _, _ = raw_mask(rng.choice(LATIN), face, size)
        h, w = mask.shape
        if h >= height or w >= width or not mask.size:
            continue
        top, left = rng.randrange(height - h), rng.randrange(width - w)
        pale = rng.uniform(0.35, 0.8)
        colour = np.array(
            [pale * b + (1 - pale) * c for b, c in zip(base, random_colour(rng), strict=True)],
            np.float32,
        )
        part = image[top : top + h, left : left + w]
        part += mask[..., None] * (colour - part)
