"""Changes to a captcha that keep its text: geometry, colors, loss of detail, lines.

A few pictures then teach as many do. Only Pillow and numpy are used, so that it runs wherever the
service does. The text stays readable where it was, and the picture keeps its size.

Units: lengths are shares of the picture's height.
"""

from __future__ import annotations

import io
import random
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

Quad = tuple[float, ...]


def augment(picture: Image.Image, rng: random.Random) -> Image.Image:
    """Return an RGB picture after a few random changes."""
    if rng.random() < 0.8:
        picture = _bent(picture, rng)
    if rng.random() < 0.15:
        picture = _with_lines(picture, rng)
    if rng.random() < 0.6:
        picture = _recolored(picture, rng)
    if rng.random() < 0.4:
        picture = _degraded(picture, rng)
    return picture


def _bent(picture: Image.Image, rng: random.Random) -> Image.Image:
    """Stretch, squeeze, slant and shift the picture strip by strip."""
    width, height = picture.size
    count = rng.randint(2, 6)
    border = round(0.2 * height)
    edges = ((border, border), (border, border), (0, 0))
    padded = Image.fromarray(np.pad(np.asarray(picture), edges, mode="edge"))
    slant, tilt = rng.uniform(-0.12, 0.12) * height, rng.uniform(-0.05, 0.05) * height
    zoom = rng.uniform(-0.07, 0.07) * height
    reach = 0.3 * width / count
    nodes = []  # of each strip's side: its place, and the source of its upper and its lower end
    for index in range(count + 1):
        place = round(index * width / count)
        inner = 0 < index < count
        across = border + place + (rng.uniform(-reach, reach) if inner else 0.0)
        down = border + rng.uniform(-0.05, 0.05) * height + tilt * (index / count - 0.5)
        upper = (across + slant, down + zoom)
        lower = (across - slant, down + height - zoom)
        nodes.append((place, upper, lower))
    mesh: list[tuple[tuple[int, int, int, int], Quad]] = [
        ((left, 0, right, height), (*upper, *lower, *lower_right, *upper_right))
        for (left, upper, lower), (right, upper_right, lower_right) in pairwise(nodes)
    ]
    return padded.transform(
        (width, height), Image.Transform.MESH, mesh, resample=Image.Resampling.BILINEAR
    )


def _with_lines(picture: Image.Image, rng: random.Random) -> Image.Image:
    """Draw lines across, mostly in the color of a pixel of the picture."""
    width, height = picture.size
    picture = picture.copy()
    draw = ImageDraw.Draw(picture)
    for _ in range(rng.randint(1, 3)):
        color = picture.getpixel((rng.randrange(width), rng.randrange(height)))
        ends = [
            (rng.uniform(low, high) * width, rng.random() * height)
            for low, high in ((-0.05, 0.5), (0.5, 1.05))
        ]
        thickness = max(1, round(rng.uniform(0.01, 0.04) * height))
        draw.line(ends, fill=color, width=thickness)
    return picture


def _recolored(picture: Image.Image, rng: random.Random) -> Image.Image:
    """Change colors, as another palette of the same site would."""
    choice = rng.random()
    pixels = np.asarray(picture)
    if choice < 0.25:
        hue, saturation, value = picture.convert("HSV").split()
        turn = rng.randrange(256)
        hue = hue.point([(level + turn) % 256 for level in range(256)])
        return Image.merge("HSV", (hue, saturation, value)).convert("RGB")
    if choice < 0.4:
        return Image.fromarray(pixels[..., rng.sample(range(3), 3)])
    if choice < 0.5:
        return picture.convert("L").convert("RGB")
    if choice < 0.56:
        return Image.fromarray(255 - pixels)
    gamma = np.exp(rng.uniform(-0.5, 0.5))
    low, high = rng.uniform(0, 50), rng.uniform(190, 255)
    levels = low + (high - low) * (np.arange(256) / 255) ** gamma
    return Image.fromarray(levels.astype(np.uint8)[pixels])


def _degraded(picture: Image.Image, rng: random.Random) -> Image.Image:
    """Blur the picture, show it smaller, add noise or compress it."""
    width, height = picture.size
    choice = rng.random()
    if choice < 0.25:
        return picture.filter(ImageFilter.GaussianBlur(max(0.4, rng.uniform(0.005, 0.02) * height)))
    if choice < 0.5:
        factor = rng.uniform(0.5, 0.9)
        small = picture.resize((max(8, int(width * factor)), max(8, int(height * factor))))
        return small.resize((width, height), Image.Resampling.BILINEAR)
    if choice < 0.75:
        return Image.fromarray(_with_noise(np.asarray(picture), rng))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=rng.randint(30, 85))
    return Image.open(file).convert("RGB")


def _with_noise(pixels: NDArray[np.uint8], rng: random.Random) -> NDArray[np.uint8]:
    noise = np.random.default_rng(rng.getrandbits(32))
    grain = noise.normal(0, rng.uniform(3, 16), (*pixels.shape[:2], rng.choice((1, 3))))
    return np.clip(pixels + grain, 0, 255).astype(np.uint8)
