"""Effects on a whole captcha: warps, filters and the losses of real image files.

Functions take and return arrays of the same height and width, float32 RGB in [0, 255].
"""

from __future__ import annotations

import math
import random

import cv2
import numpy as np
import PIL.Image
from numpy.typing import NDArray

from training.rendering.styles import Style

Image = NDArray[np.float32]


def displacement(
    style: Style, size: tuple[int, int], rng: random.Random
) -> tuple[NDArray[np.float32], NDArray[np.float32]] | None:
    """Return the source coordinates (x, y), each (H, W), of the style's warp, or None."""
    warps = (style.wave, style.ripple, style.bend, style.swirl, style.lens, style.scatter)
    if not any(warps):
        return None
    height, width = size
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    source_x, source_y = x.copy(), y.copy()
    if style.wave:
        length = style.wave_length * height / (2 * math.pi)
        source_y += style.wave * length * np.sin(x / length + rng.uniform(0, 6.3))
        if rng.random() < 0.6:
            length = rng.uniform(0.5, 2.0) * height / (2 * math.pi)
            source_x += style.wave * length * np.sin(y / length + rng.uniform(0, 6.3))
    if style.ripple:
        length = rng.uniform(0.08, 0.45) * height
        source_x += style.ripple * height * np.sin(2 * math.pi * y / length + rng.uniform(0, 6.3))
        source_y += style.ripple * height * np.sin(2 * math.pi * x / length + rng.uniform(0, 6.3))
    if style.bend:  # waves in any direction, other ones across than along
        for source in (source_x, source_y):
            for _ in range(2):
                angle, turns = rng.uniform(0, 6.3), 6.3 / (rng.uniform(0.4, 1.6) * height)
                phase = turns * (x * math.cos(angle) + y * math.sin(angle)) + rng.uniform(0, 6.3)
                source += 0.6 * style.bend * height * np.sin(phase)
    if style.swirl or style.lens:
        centre_x = rng.uniform(0.2, 0.8) * width
        centre_y = rng.uniform(0.3, 0.7) * height
        dx, dy = source_x - centre_x, source_y - centre_y
        near = np.exp(-(dx * dx + dy * dy) / (0.7 * height) ** 2)
        angle = style.swirl * near
        zoom = 1 - style.lens * near
        source_x = centre_x + zoom * (dx * np.cos(angle) - dy * np.sin(angle))
        source_y = centre_y + zoom * (dx * np.sin(angle) + dy * np.cos(angle))
    if style.scatter:
        noise = np.random.default_rng(rng.getrandbits(32))
        reach = style.scatter * height
        source_x += noise.uniform(-reach, reach, size).astype(np.float32)
        source_y += noise.uniform(-reach, reach, size).astype(np.float32)
    if style.jagged:
        return np.rint(source_x), np.rint(source_y)
    return source_x, source_y


def warp(layer: Image, source: tuple[NDArray[np.float32], NDArray[np.float32]]) -> Image:
    """Sample `layer`, (H, W) or (H, W, C), at the source coordinates; edges are repeated."""
    return np.asarray(
        cv2.remap(layer, *source, interpolation=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    )


def _filtered(image: Image, name: str) -> Image:
    if name == "invert":
        return 255 - image
    kernel = {
        "edges": np.array([[-1, -1, -1], [-1, 8, -1], [-1, -1, -1]], np.float32),
        "emboss": np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]], np.float32),
    }[name]
    filtered = np.asarray(cv2.filter2D(image, -1, kernel))
    return 255 - np.abs(filtered) if name == "edges" else filtered


def _low_resolution(image: Image, factor: float) -> Image:
    height, width = image.shape[:2]
    small = cv2.resize(
        image,
        (max(8, int(width * factor)), max(8, int(height * factor))),
        interpolation=cv2.INTER_AREA,
    )
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR))


def _palette(image: NDArray[np.uint8], colours: int) -> NDArray[np.uint8]:
    """Keep the image's own `colours` colours, as a GIF or PNG with a palette does."""
    quantised = PIL.Image.fromarray(image).quantize(colours, PIL.Image.Quantize.FASTOCTREE)
    return np.asarray(quantised.convert("RGB"))


def jpeg(image: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    """Return an RGB image as a JPEG of a quality from 1 to 100 leaves it."""
    swapped = image[..., ::-1]  # OpenCV takes blue first, and colours lose more than brightness
    _, data = cv2.imencode(".jpg", swapped, [cv2.IMWRITE_JPEG_QUALITY, quality])
    decoded = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), dtype=np.uint8)
    return np.ascontiguousarray(decoded[..., ::-1])


def _frame(image: Image, style: Style, rng: random.Random) -> None:
    """Draw border and letterbox bars in place."""
    if style.letterbox:
        bar = int(style.letterbox * image.shape[0])
        image[:bar] = image[-bar:] = rng.choice((0, 0, 255))
    if style.border:
        colour = (
            [rng.uniform(0, 255)] * 3
            if rng.random() < 0.7
            else [rng.uniform(0, 255) for _ in "rgb"]
        )
        height, width = image.shape[:2]
        cv2.rectangle(image, (0, 0), (width - 1, height - 1), colour, rng.choice((1, 1, 2)))


def develop(
    image: Image, style: Style, rng: random.Random, noise: np.random.Generator
) -> NDArray[np.uint8]:
    """Return the finished image, (H, W, 3) uint8, after filter, blur, noise and file losses."""
    height, width = image.shape[:2]
    if style.filter:
        image = _filtered(image, style.filter)
    if style.blur:
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), max(0.4, style.blur * height)))
    if style.low_resolution:
        image = _low_resolution(image, style.low_resolution)
    if style.noise:
        channels = 1 if rng.random() < 0.4 else 3
        image = image + noise.normal(0, style.noise, (height, width, channels)).astype(np.float32)
    if style.specks:
        hit = noise.random((height, width)) < style.specks
        image[hit] = noise.choice(np.array([0.0, 255.0, 128.0], np.float32), int(hit.sum()))[
            :, None
        ]
    _frame(image, style, rng)
    finished = np.clip(image, 0, 255).astype(np.uint8)
    if style.palette:
        finished = _palette(finished, style.palette)
    return jpeg(finished, style.jpeg) if style.jpeg else finished
