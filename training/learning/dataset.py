"""Endless batches of captchas, rendered and real, prepared by worker processes.

Images are mixed, augmented, cropped and stretched as the service does, resized to a grid of cells
and batched. Rendering costs as much as learning, so that each drawing is used several times, each
time changed. The trainer raises the shared level and reports which families are misread. Rendered
captchas are a function of the run's seed, the worker's number and the levels alone.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.sharedctypes import Synchronized, SynchronizedArray

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from qwen_captcha.images.crop import Box, text_box
from qwen_captcha.images.resize import size_shown, stretched
from training.build import CELL, MAX_PIXELS, MIN_PIXELS, STRETCH
from training.learning.augmentation import Captcha, augment, joined
from training.learning.curriculum import Grid, Level
from training.learning.real_captchas import RealCaptchas
from training.rendering.fonts import FontLibrary
from training.rendering.render import Drawing, render
from training.rendering.styles import sample_style, struck
from training.rendering.texts import sample_text

_SHARE_OF_CURRENT = 0.7
EASIEST = 0.2  # least difficulty of what is drawn, as a share of the level's
# Chinese characters have several times a letter's strokes in the same patches: styles that leave a
# letter readable leave nothing of them. Share of the difficulty.
_DIFFICULTY_OF_CHINESE = 0.8
_STRUCK = 0.35  # share of Chinese codes that are turned and struck
# Aspect of a canvas over that of its grid, before the stretch.
_ASPECTS = (0.85, 1.4)
# A canvas is at least this wide for each character of its text, over its height.
_MIN_ASPECT_OF_A_CHARACTER = 0.3
# Each drawing is used this many times; all but the first are always changed.
_USES = 3
_BANK = 3000  # drawings that a worker holds, of which it takes one by chance
_JOINED = 0.12  # share of the captchas to which another one is joined, where they fit
_UNCHANGED = 0.3  # share of the captchas that are shown as they are
# Of crops, one for each by chance. Ten letters have two columns of tokens each only at the last.
_STRETCHES = (STRETCH, STRETCH, 1.25, 1.25, 2.2)
# Standard deviation of the chance in choosing a grid for an image, as a natural log of the aspect.
_GRID_JITTER = 0.12


@dataclass(frozen=True)
class Batch:
    """Images of one shape with their labels."""

    images: torch.Tensor  # (B, H, W, 3) uint8, H and W multiples of 28
    boxes: torch.Tensor  # (B, N, 4) float32 as in `render.Drawing`, zeros after the label's end
    labels: list[str]  # what is drawn, without spaces
    kinds: list[str]
    boxed: torch.Tensor  # (B,) bool: the boxes are known
    one_line: torch.Tensor  # (B,) bool: the characters stand from left to right
    families: list[str]  # of real generators, empty for rendered ones
    levels: list[int]


def draw_captcha(
    level: Level, grid: Grid, fonts: FontLibrary, rng: random.Random, *, easiest: float = EASIEST
) -> tuple[Drawing, str, str]:
    """Draw one captcha of a level; return it with its text as drawn and its kind.

    Args:
        level: What to draw.
        grid: Rows and columns of cells that the image will be resized to; the canvas has about
            their aspect before it is stretched, or more where the text needs it.
        fonts: Where faces come from.
        rng: Source of randomness.
        easiest: Least difficulty, as a share of the most that the kind gets.
    """
    kind = level.choose_kind(rng)
    text = sample_text(rng, kind, level.longest)
    share = _DIFFICULTY_OF_CHINESE if kind == "chinese" else 1.0
    style = sample_style(rng, share * level.difficulty * rng.uniform(easiest, 1.0))
    if kind == "chinese" and rng.random() < _STRUCK:
        style = struck(style, rng)
    aspect = grid[1] / grid[0] / STRETCH * rng.uniform(*_ASPECTS)
    aspect = max(aspect, _MIN_ASPECT_OF_A_CHARACTER * len(text))
    drawing = render(text, style, aspect=aspect, fonts=fonts, seed=rng.getrandbits(32))
    return drawing, text, kind


@dataclass(frozen=True, slots=True)
class Shown:
    """A captcha as the model receives it, before it is resized to a grid."""

    image: Image.Image
    boxes: NDArray[np.float32] | None
    captcha: Captcha


def show(captcha: Captcha, stretch: float = STRETCH) -> Shown:
    """Crop a captcha to its text and stretch the crop sideways, as the service does."""
    box = text_box(captcha.pixels)
    part = captcha.pixels[box.top : box.bottom, box.left : box.right]
    image = stretched(Image.fromarray(np.ascontiguousarray(part)), stretch)
    boxes = captcha.boxes
    if boxes is not None:
        boxes = cropped_boxes(boxes, box, (captcha.pixels.shape[1], captcha.pixels.shape[0]))
    return Shown(image, boxes, captcha)


def cropped_boxes(
    boxes: NDArray[np.float32], part: Box, size: tuple[int, int]
) -> NDArray[np.float32]:
    """Return the characters' boxes within a part of a picture; some may stand outside.

    Args:
        boxes: (N, 4) as in `render.Drawing`.
        part: What is cropped to.
        size: Width and height of the whole picture.
    """
    across, down = size[0] / (part.right - part.left), size[1] / (part.bottom - part.top)
    shift = np.array([part.left / size[0], part.top / size[1], 0, 0], np.float32)
    return (boxes - shift) * np.array([across, down, across, down], np.float32)


def grid_shown(size: tuple[int, int]) -> Grid:
    """Return the rows and columns of cells in which the service shows a stretched crop."""
    width, height = size_shown(size, min_pixels=MIN_PIXELS, max_pixels=MAX_PIXELS)
    return height // CELL, width // CELL


def nearest_grid(size: tuple[int, int], grids: Sequence[Grid], rng: random.Random) -> Grid:
    """Return a grid of about an image's shape (width, height).

    Each batch has one grid, and a model compiled for a dozen of them is enough: an image is bent
    by a tenth to fit the one that chance and its shape choose.
    """
    aspect = math.log(size[0] / size[1])

    def distance(grid: Grid) -> float:
        return abs(math.log(grid[1] / grid[0]) - aspect) + abs(rng.gauss(0, _GRID_JITTER))

    return min(grids, key=distance)


def _padded_boxes(boxes: Sequence[NDArray[np.float32] | None], longest: int) -> torch.Tensor:
    padded = torch.zeros(len(boxes), longest, 4)
    for row, box in zip(padded, boxes, strict=True):
        if box is not None:
            row[: len(box)] = torch.from_numpy(box)
    return padded


def batch_of(shown: Sequence[Shown], grid: Grid, levels: Sequence[int] = ()) -> Batch:
    """Return captchas as a batch, resized to a grid."""
    size = (grid[1] * CELL, grid[0] * CELL)
    images = [np.asarray(one.image.resize(size, Image.Resampling.BICUBIC)) for one in shown]
    captchas = [one.captcha for one in shown]
    longest = max(len(captcha.text) for captcha in captchas)
    return Batch(
        images=torch.from_numpy(np.stack(images)),
        boxes=_padded_boxes([one.boxes for one in shown], longest),
        labels=[captcha.text for captcha in captchas],
        kinds=[captcha.kind for captcha in captchas],
        boxed=torch.tensor([one.boxes is not None for one in shown]),
        one_line=torch.tensor([captcha.one_line for captcha in captchas]),
        families=[captcha.family for captcha in captchas],
        levels=list(levels) or [0] * len(captchas),
    )


def drawn_captcha(level: Level, fonts: FontLibrary, rng: random.Random) -> Captcha:
    """Draw one captcha of a level."""
    drawing, text, kind = draw_captcha(level, level.choose_grid(rng), fonts, rng)
    return Captcha(drawing.image, text.replace(" ", ""), kind, drawing.boxes)


def review(level: int, rng: random.Random) -> int:
    """Return the level of a drawing: mostly the current one, sometimes one of the two before.

    Without the review a new level's first steps undid what the levels before had taught.
    """
    return level if rng.random() < _SHARE_OF_CURRENT else max(0, level - rng.randint(1, 2))


@dataclass(frozen=True)
class Mix:
    """The content of batches.

    Attributes:
        real: Captchas of real generators, or None for rendered ones alone.
        real_share: Share of them in a batch.
        misses: For each of `real.families` the share that is misread lately.
        hardest: Families are weighted by the square of it.
    """

    real: RealCaptchas | None = None
    real_share: float = 0.0
    misses: SynchronizedArray[float] | None = None
    hardest: bool = False


class CaptchaStream(IterableDataset[Batch]):
    """Batches without end, made by each of the loader's workers by itself.

    Args:
        levels: The curriculum.
        level: The current one, raised by the trainer.
        mix: Real captchas and their share.
        fonts: Where faces come from.
        seed: The run's, which with the step that it starts from fixes what is drawn.
        start: Steps that the run has made before.
        batch_size: Images a batch.
    """

    def __init__(
        self,
        levels: tuple[Level, ...],
        level: Synchronized[int],
        mix: Mix,
        fonts: FontLibrary,
        *,
        seed: int,
        start: int,
        batch_size: int,
    ) -> None:
        self.levels = levels
        self.level = level
        self.mix = mix
        self.fonts = fonts
        self.seed = seed
        self.start = start
        self.batch_size = batch_size

    def __iter__(self) -> Iterator[Batch]:
        """Yield batches without end; a grid's is given once it is full."""
        worker = get_worker_info()
        rng = random.Random(f"{self.seed}/{self.start}/{worker.id if worker else 0}")
        source = _Source(self.levels, self.mix, self.fonts, rng)
        waiting: dict[Grid, list[tuple[Shown, int]]] = {}
        while True:
            captcha, level = source.next(self.level.value)
            shown = show(captcha, rng.choice(_STRETCHES))
            grid = nearest_grid(shown.image.size, self.levels[level].choose_scale(rng), rng)
            queue = waiting.setdefault(grid, [])
            queue.append((shown, level))
            if len(queue) == self.batch_size:
                yield batch_of([one for one, _ in queue], grid, [level for _, level in queue])
                queue.clear()


class _Source:
    """Captchas of one worker: real ones, fresh drawings, and drawings used again."""

    def __init__(
        self, levels: tuple[Level, ...], mix: Mix, fonts: FontLibrary, rng: random.Random
    ) -> None:
        self._levels = levels
        self._mix = mix
        self._fonts = fonts
        self._rng = rng
        self._bank: list[tuple[Captcha, int]] = []

    def next(self, level: int) -> tuple[Captcha, int]:
        """Return a captcha and its level."""
        captcha, level, used = self._one(level)
        if self._rng.random() < _JOINED:
            other, _, used_too = self._one(level)
            used |= used_too
            captcha = joined(captcha, other, self._rng) or captcha
        if used or self._rng.random() > _UNCHANGED:
            captcha = augment(captcha, self._rng)
        return captcha, level

    def _one(self, level: int) -> tuple[Captcha, int, bool]:
        """Return a captcha, its level and whether it has been used before."""
        rng, mix = self._rng, self._mix
        if mix.real and mix.misses is not None and rng.random() < mix.real_share:
            real = mix.real.choose(rng, mix.misses[:], hardest=mix.hardest)
            return Captcha(real.pixels, real.text, real.kind, None, real.family), level, False
        if len(self._bank) < _BANK // 10 or rng.random() < 1 / _USES:
            chosen = review(level, rng)
            drawing = (drawn_captcha(self._levels[chosen], self._fonts, rng), chosen)
            if len(self._bank) < _BANK:
                self._bank.append(drawing)
            else:
                self._bank[rng.randrange(_BANK)] = drawing
            return (*drawing, False)
        return (*rng.choice(self._bank), True)


def open_loader(stream: CaptchaStream, workers: int) -> DataLoader[Batch]:
    """Return a loader that keeps a few batches ahead; 0 workers draw in this process."""
    return DataLoader(
        stream, batch_size=None, num_workers=workers, prefetch_factor=4 if workers else None
    )
