"""Endless batches of freshly drawn captchas, drawn by worker processes.

Responsible for: seeding, cropping to the text, resizing to the model's grid and batching.
Invariant: a batch is a function of the run's seed, its index and the level alone.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing.sharedctypes import Synchronized

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from qwen_captcha.images.crop import (
    Box,
    text_box,
    widened,
)
from qwen_captcha.images.resize import size_shown
from training.build import CELL, MAX_PIXELS, MIN_PIXELS
from training.learning.curriculum import Grid, Level
from training.rendering.fonts import FontLibrary
from training.rendering.render import Drawing, render
from training.rendering.styles import sample_style
from training.rendering.texts import sample_text

_SHARE_OF_CURRENT = 0.7
EASIEST = 0.4  # least difficulty of what is drawn, as a share of the level's
# Chinese characters have several times a letter's strokes in the same patches: looks that leave a
# letter readable leave nothing of them. Share of the difficulty.
_DIFFICULTY_OF_CHINESE = 0.7
# Aspect of a canvas over that of its grid. The image processor rounds to whole cells: what it shows
# in two rows is mostly less wide than they are, in more rows wider.
_ASPECTS_OF_TWO_ROWS, _ASPECTS = (0.75, 1.15), (0.9, 1.45)
# The same of an image for a grid that the processor does not choose for it.
_NARROWEST, _WIDEST = 0.8, 1.25
_TRIES = 3


@dataclass(frozen=True)
class Batch:
    """Images of one shape with their labels."""

    images: torch.Tensor  # (B, H, W, 3) uint8, H and W multiples of 28
    boxes: torch.Tensor  # (B, N, 4) float32 as in `render.Drawing`, zeros after a label's end
    labels: list[str]  # what is drawn, without spaces
    kinds: list[str]
    level: int = 0


def draw_captcha(
    level: Level, grid: Grid, fonts: FontLibrary, rng: random.Random, *, easiest: float = EASIEST
) -> tuple[Drawing, str, str]:
    """Draw one captcha of a level; return it with its text as drawn and its kind.

    Args:
        level: What to draw.
        grid: Rows and columns of cells that the image will be resized to; the canvas has about
            their aspect, as the image processor would choose them.
        fonts: Where faces come from.
        rng: Source of randomness.
        easiest: Least difficulty, as a share of the most that the kind gets.
    """
    kind = level.choose_kind(rng)
    text = sample_text(rng, kind, level.longest)
    share = _DIFFICULTY_OF_CHINESE if kind == "chinese" else 1.0
    style = sample_style(rng, share * level.difficulty * rng.uniform(easiest, 1.0))
    aspect = grid[1] / grid[0] * rng.uniform(*(_ASPECTS_OF_TWO_ROWS if grid[0] == 2 else _ASPECTS))
    drawing = render(text, style, aspect=aspect, fonts=fonts, seed=rng.getrandbits(32))
    return drawing, text, kind


def draw_cropped(
    level: Level, grid: Grid, fonts: FontLibrary, rng: random.Random
) -> tuple[Drawing, str, str]:
    """Draw one captcha and crop it to its text, as the service does; return it as `draw_captcha`.

    Of a few it is the first whose text the service shows in the grid, or the last with more of the
    canvas around it.
    """
    aspect = grid[1] / grid[0]
    low, high = _NARROWEST * aspect, _WIDEST * aspect
    smaller = grid[0] * grid[1] * CELL**2 < MIN_PIXELS  # than the service shows any, for beginners
    for _ in range(_TRIES):
        drawn, text, kind = draw_captcha(level, grid, fonts, rng)
        box = text_box(drawn.image)
        if grid_shown(box) == grid:
            return cropped(drawn, box), text, kind
        if smaller and low <= (box.right - box.left) / (box.bottom - box.top) <= high:
            break
    height, width = drawn.image.shape[:2]
    return cropped(drawn, widened(box, (width, height), low, high)), text, kind


def grid_shown(box: Box) -> Grid:
    """Return the rows and columns of cells in which the service shows a part of a picture."""
    size = (box.right - box.left, box.bottom - box.top)
    width, height = size_shown(size, min_pixels=MIN_PIXELS, max_pixels=MAX_PIXELS)
    return height // CELL, width // CELL


def cropped(drawn: Drawing, box: Box) -> Drawing:
    """Return a part of a drawing; characters may be cut at its edge or stand outside."""
    height, width = drawn.image.shape[:2]
    across, down = width / (box.right - box.left), height / (box.bottom - box.top)
    shift = np.array([box.left / width, box.top / height, 0, 0], np.float32)
    scale = np.array([across, down, across, down], np.float32)
    part = drawn.image[box.top : box.bottom, box.left : box.right]
    return Drawing(part, (drawn.boxes - shift) * scale)


def _padded(boxes: list[NDArray[np.float32]]) -> torch.Tensor:
    padded = torch.zeros(len(boxes), max(map(len, boxes)), 4)
    for row, box in zip(padded, boxes, strict=True):
        row[: len(box)] = torch.from_numpy(box)
    return padded


def draw_batch(level: Level, index: int, fonts: FontLibrary, seed: int, batch_size: int) -> Batch:
    """Draw a batch.

    Args:
        level: What to draw.
        index: The batch's number, part of its seed.
        fonts: Where faces come from.
        seed: The run's seed.
        batch_size: Number of images.
    """
    rng = random.Random(f"{seed}/{index}")
    grid = level.choose_grid(rng)
    return batch_of([draw_cropped(level, grid, fonts, rng) for _ in range(batch_size)], grid)


def batch_of(captchas: Sequence[tuple[Drawing, str, str]], grid: Grid) -> Batch:
    """Return captchas with their texts and kinds as a batch, resized to a grid."""
    size = (grid[1] * CELL, grid[0] * CELL)
    images = [
        np.asarray(Image.fromarray(drawn.image).resize(size, Image.Resampling.BICUBIC))
        for drawn, _, _ in captchas
    ]
    return Batch(
        torch.from_numpy(np.stack(images)),
        _padded([drawn.boxes for drawn, _, _ in captchas]),
        [text.replace(" ", "") for _, text, _ in captchas],
        [kind for _, _, kind in captchas],
    )


def review(level: int, seed: int, index: int) -> int:
    """Return the level of a batch: mostly the current one, sometimes one of the two before.

    Without the review a new level's first steps undid what the levels before had taught.
    """
    rng = random.Random(f"{seed}/{index}/level")
    return level if rng.random() < _SHARE_OF_CURRENT else max(0, level - rng.randint(1, 2))


class CaptchaStream(IterableDataset[Batch]):
    """Batches from `start` on, dealt to the loader's workers in turn."""

    def __init__(
        self,
        levels: tuple[Level, ...],
        level: Synchronized[int],
        *,
        seed: int,
        start: int,
        batch_size: int,
    ) -> None:
        self.levels = levels
        self.level = level
        self.seed = seed
        self.start = start
        self.batch_size = batch_size

    def __iter__(self) -> Iterator[Batch]:
        """Yield batches without end."""
        fonts = FontLibrary.open()
        worker = get_worker_info()
        step = worker.num_workers if worker else 1
        index = self.start + (worker.id if worker else 0)
        while True:
            level = review(self.level.value, self.seed, index)
            batch = draw_batch(self.levels[level], index, fonts, self.seed, self.batch_size)
            yield replace(batch, level=level)
            index += step


def open_loader(stream: CaptchaStream, workers: int) -> DataLoader[Batch]:
    """Return a loader that keeps a few batches ahead; 0 workers draw in this process."""
    return DataLoader(
        stream, batch_size=None, num_workers=workers, prefetch_factor=4 if workers else None
    )
