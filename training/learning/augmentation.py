"""Changes to finished captchas that keep their text: geometry, colour, clutter, loss.

They make many pictures of one, real or rendered, or join two into one with a longer text. Functions
return new arrays, RGB uint8; boxes follow the geometry.

Units: lengths are fractions of the height, probabilities are in [0, 1].
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from training.rendering.effects import jpeg

Pixels = NDArray[np.uint8]
Boxes = NDArray[np.float32]

_STACKED = 0.25  # of joined captchas, the share that stand in two lines
MAX_JOINED = 16  # characters


@dataclass(frozen=True, slots=True)
class Captcha:
    """A labelled picture on its way into a batch.

    Attributes:
        pixels: RGB, (H, W, 3) uint8.
        text: What is drawn, without spaces.
        kind: One of `texts.KINDS`.
        boxes: (N, 4) as in `render.Drawing`, or None where they are not known.
        family: Name of the generator's family, empty for a rendered one.
        one_line: The characters stand beside one another from left to right.
    """

    pixels: Pixels
    text: str
    kind: str
    boxes: Boxes | None = None
    family: str = ""
    one_line: bool = True


def augment(captcha: Captcha, rng: random.Random) -> Captcha:
    """Return the captcha after a few random changes, or as it is."""
    pixels, boxes = captcha.pixels, captcha.boxes
    noise = np.random.default_rng(rng.getrandbits(32))
    if rng.random() < 0.35:
        pixels, boxes = _bent(pixels, boxes, rng)
    if rng.random() < 0.12:
        pixels, boxes = _padded(pixels, boxes, rng)
    if rng.random() < 0.12:
        pixels = _with_clutter(pixels, rng)
    if rng.random() < 0.06:
        pixels = _with_pale_end(pixels, len(captcha.text), rng)
    if rng.random() < 0.45:
        pixels = _recoloured(pixels, rng, noise)
    if rng.random() < 0.35:
        pixels = _degraded(pixels, rng, noise)
    return replace(captcha, pixels=pixels, boxes=boxes)


def _bent(pixels: Pixels, boxes: Boxes | None, rng: random.Random) -> tuple[Pixels, Boxes | None]:
    """Stretch, squeeze and shift parts piece by piece, then tilt the whole in perspective."""
    height, width = pixels.shape[:2]
    count = rng.randint(3, 6)
    places = np.linspace(0, width - 1, count)
    reach = 0.35 * width / count
    along = places + np.array([rng.uniform(-reach, reach) for _ in places])
    along[0], along[-1] = 0, width - 1
    lift = np.array([rng.uniform(-0.06, 0.06) * height for _ in places])
    across = np.arange(width, dtype=np.float32)
    source_x = np.interp(across, places, along).astype(np.float32)
    shift_y = np.interp(across, places, lift).astype(np.float32)
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    tilt = 0.05 * height
    moves = [[rng.uniform(-tilt, tilt), rng.uniform(-tilt, tilt)] for _ in corners]
    matrix = cv2.getPerspectiveTransform(corners, corners + np.array(moves, np.float32))
    map_x = np.repeat(source_x[None], height, axis=0)
    map_y = np.arange(height, dtype=np.float32)[:, None] + shift_y[None]
    bent = cv2.remap(pixels, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    tilted = cv2.warpPerspective(
        bent, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    if boxes is None or not len(boxes):
        return np.asarray(tilted, np.uint8), boxes
    x = np.interp(boxes[:, 0] * width, along, places)
    y = boxes[:, 1] * height - np.interp(x, across, shift_y)
    centres = cv2.perspectiveTransform(
        np.stack([x, y], axis=1).astype(np.float32)[:, None], matrix
    )[:, 0] / np.array([width, height], np.float32)
    return np.asarray(tilted, np.uint8), np.concatenate([centres, boxes[:, 2:]], axis=1)


def _padded(pixels: Pixels, boxes: Boxes | None, rng: random.Random) -> tuple[Pixels, Boxes | None]:
    """Add margins of the edge's own pixels or of one colour."""
    height, width = pixels.shape[:2]
    top, bottom = (int(rng.random() ** 2 * 0.5 * height) for _ in range(2))
    left, right = (int(rng.random() ** 2 * 0.8 * height) for _ in range(2))
    kind = rng.choice((cv2.BORDER_REPLICATE, cv2.BORDER_CONSTANT))
    colour = [int(value) for value in pixels[0, 0]]
    padded = cv2.copyMakeBorder(pixels, top, bottom, left, right, kind, value=colour)
    if boxes is None:
        return np.asarray(padded, np.uint8), None
    size = np.array([width, height, width, height], np.float32)
    new = np.array([padded.shape[1], padded.shape[0]] * 2, np.float32)
    moved = boxes * size + np.array([left, top, 0, 0], np.float32)
    return np.asarray(padded, np.uint8), (moved / new).astype(np.float32)


def _with_clutter(pixels: Pixels, rng: random.Random) -> Pixels:
    """Draw a few lines or many dots over the picture, in its own darkest colour or any other."""
    height, width = pixels.shape[:2]
    image = pixels.copy()
    ink = pixels.reshape(-1, 3)[int(pixels.sum(axis=2).argmin())]

    def colour() -> tuple[int, int, int]:
        if rng.random() < 0.4:
            return (int(ink[0]), int(ink[1]), int(ink[2]))
        return (rng.randrange(256), rng.randrange(256), rng.randrange(256))

    thickness = max(1, round(rng.uniform(0.01, 0.045) * height))
    if rng.random() < 0.3:
        for _ in range(rng.randint(10, 60)):
            centre = (rng.randrange(width), rng.randrange(height))
            cv2.circle(image, centre, rng.randint(0, max(1, height // 30)), colour(), -1)
        return image
    for _ in range(rng.randint(1, 4)):
        if rng.random() < 0.5:
            start, end = (
                (int(rng.uniform(a, b) * width), int(rng.random() * height))
                for a, b in ((-0.05, 0.5), (0.5, 1.05))
            )
            cv2.line(image, start, end, colour(), thickness, cv2.LINE_AA)
        else:
            t = np.linspace(0, 1, 40)
            swing, turns = rng.uniform(0.05, 0.35) * height, rng.uniform(0.5, 3) * 6.3
            y = rng.uniform(0.25, 0.75) * height + swing * np.sin(turns * t + rng.uniform(0, 6.3))
            points = np.stack([t * width, y], axis=1).astype(np.int32)
            cv2.polylines(image, [points], False, colour(), thickness, cv2.LINE_AA)
    return image


def _with_pale_end(pixels: Pixels, characters: int, rng: random.Random) -> Pixels:
    """Let the first or the last character fade towards the background's colour."""
    width = pixels.shape[1]
    reach = max(2, round(width / max(1, characters) * rng.uniform(0.7, 1.2)))
    strength = np.zeros(width, np.float32)
    strength[:reach] = rng.uniform(0.3, 0.75)
    if rng.random() < 0.5:
        strength = strength[::-1]
    ground = np.median(pixels.reshape(-1, 3), axis=0).astype(np.float32)
    image = pixels.astype(np.float32)
    image += strength[None, :, None] * (ground - image)
    return image.astype(np.uint8)


def _recoloured(pixels: Pixels, rng: random.Random, noise: np.random.Generator) -> Pixels:
    """Change colours, as strongly as another palette would."""
    choice = rng.random()
    if choice < 0.12:
        return 255 - pixels
    if choice < 0.3:
        order = [int(channel) for channel in noise.permutation(3)]
        return np.ascontiguousarray(np.take(pixels, order, axis=2))
    if choice < 0.42:
        grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
        return np.repeat(np.asarray(grey, np.uint8)[..., None], 3, axis=2)
    if choice < 0.62:
        hsv = cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV)
        hue = (hsv[..., 0].astype(np.int16) + rng.randrange(180)) % 180
        hsv[..., 0] = hue.astype(np.uint8)
        return np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB), np.uint8)
    image = pixels.astype(np.float32)
    if choice < 0.72:  # another ground under dark ink
        tint = noise.uniform(0.45, 1.0, 3).astype(np.float32)
        return (image * tint).astype(np.uint8)
    if choice < 0.8:  # a gradient or patches of light over all
        grid = noise.uniform(0.6, 1.0, (2, rng.randint(2, 5), 3)).astype(np.float32)
        size = (image.shape[1], image.shape[0])
        field = np.asarray(cv2.resize(grid, size, interpolation=cv2.INTER_LINEAR), np.float32)
        return (image * field).astype(np.uint8)
    gamma = float(np.exp(rng.uniform(-0.6, 0.6)))
    low, high = rng.uniform(0, 70), rng.uniform(170, 255)
    table = low + (high - low) * (np.arange(256, dtype=np.float32) / 255) ** gamma
    return np.asarray(table.astype(np.uint8)[pixels])


def _degraded(pixels: Pixels, rng: random.Random, noise: np.random.Generator) -> Pixels:
    """Blur, coarsen, add noise or compress."""
    height, width = pixels.shape[:2]
    choice = rng.random()
    if choice < 0.25:
        sigma = max(0.4, rng.uniform(0.005, 0.02) * height)
        return np.asarray(cv2.GaussianBlur(pixels, (0, 0), sigma), np.uint8)
    if choice < 0.5:
        factor = rng.uniform(0.45, 0.85)
        size = (max(8, int(width * factor)), max(8, int(height * factor)))
        small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
        how = rng.choice((cv2.INTER_LINEAR, cv2.INTER_NEAREST))
        return np.asarray(cv2.resize(small, (width, height), interpolation=how), np.uint8)
    if choice < 0.75:
        grain = noise.normal(0, rng.uniform(3, 20), (height, width, rng.choice((1, 3))))
        return np.clip(pixels + grain.astype(np.float32), 0, 255).astype(np.uint8)
    return jpeg(pixels, rng.randint(25, 85))


def joined(first: Captcha, second: Captcha, rng: random.Random) -> Captcha | None:
    """Return both in one picture, beside or above one another, or None where they do not fit.

    Source: the recognition augmentation of PP-OCR, which joins labelled pictures.
    """
    codes = ("digits", "latin", "chinese")
    if first.kind not in codes or second.kind not in codes:
        return None
    if len(first.text) + len(second.text) > MAX_JOINED or not (first.one_line and second.one_line):
        return None
    kind = first.kind if first.kind == second.kind else "latin"
    if "chinese" in (first.kind, second.kind):
        kind = "chinese"
    family = first.family if first.family == second.family else ""
    stacked = rng.random() < _STACKED and max(len(first.text), len(second.text)) <= 6
    one, other = first.pixels, second.pixels
    side = 1 if stacked else 0  # the side that must be equal
    scale = one.shape[side] / other.shape[side]
    size = (max(4, round(other.shape[1] * scale)), max(4, round(other.shape[0] * scale)))
    size = (one.shape[1], size[1]) if stacked else (size[0], one.shape[0])
    other = np.asarray(cv2.resize(other, size, interpolation=cv2.INTER_AREA), np.uint8)
    pixels = np.concatenate([one, other], axis=0 if stacked else 1)
    boxes = None
    if first.boxes is not None and second.boxes is not None:
        boxes = np.concatenate(
            [
                _within(first.boxes, one, pixels, 0.0, stacked),
                _within(second.boxes, other, pixels, float(one.shape[1 - side]), stacked),
            ]
        )
    return Captcha(pixels, first.text + second.text, kind, boxes, family, not stacked)


def _within(boxes: Boxes, part: Pixels, whole: Pixels, offset: float, stacked: bool) -> Boxes:
    """Return the boxes of a part as fractions of the whole that it stands in."""
    size = np.array([part.shape[1], part.shape[0]] * 2, np.float32)
    moved = boxes * size
    moved[:, 1 if stacked else 0] += offset
    return np.asarray(moved / np.array([whole.shape[1], whole.shape[0]] * 2, np.float32))
