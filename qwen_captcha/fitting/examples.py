"""Batches of labelled captchas for training: decoded, changed, cropped, resized.

An example is preprocessed as the service would do it, in one of the views in which it reads.
Captchas of one site have almost one shape: each batch has the size of one of its images, and the
others of about its shape are stretched to it.
"""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PIL import Image

from qwen_captcha.fitting.learning.augmentation import augment

# Images in one batch differ by at most this in the logarithm of width over height.
_ALIKE = 0.15
# What is cut off an augmented image at most at each side, of its height: half of what the crop to
# the text leaves around it.
_TRIM = 0.06

Size = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Example:
    """One labelled captcha.

    Attributes:
        name: Of its file, for reports.
        picture: RGB, as decoded.
        text: What is drawn, without spaces.
        label: What a person must type.
    """

    name: str
    picture: Image.Image
    text: str
    label: str


@dataclass(frozen=True, slots=True)
class Batch:
    """Pictures of one size, which the model takes as they are, and what they show."""

    pictures: list[Image.Image]
    texts: list[str]


@dataclass(frozen=True, slots=True)
class PreparedView:
    """A way in which the service shows a picture to the model.

    Attributes:
        show: Returns what it shows of a decoded picture, before it is resized.
        size_shown: Returns the size that it is resized to.
        max_pixels: Of that size.
    """

    show: Callable[[Image.Image], Image.Image]
    size_shown: Callable[[Image.Image], Size]
    max_pixels: int


class Examples:
    """Examples of one origin, from which batches are drawn.

    Args:
        examples: At least one.
        views: At least one. Each batch has one by chance, large ones the more seldom the longer
            they take; tests have the first.
    """

    def __init__(self, examples: Sequence[Example], views: Sequence[PreparedView]) -> None:
        self._examples = list(examples)
        self._views = views
        shapes = [views[0].show(example.picture).size for example in examples]
        self._aspects = [math.log(width / height) for width, height in shapes]

    @property
    def texts(self) -> list[str]:
        """The texts of the examples."""
        return [example.text for example in self._examples]

    def draw(self, count: int, rng: random.Random) -> Batch:
        """Return a batch of up to `count` examples of about one shape, each changed."""
        aspect = rng.choice(self._aspects)
        alike = [
            example
            for example, other in zip(self._examples, self._aspects, strict=True)
            if abs(other - aspect) <= _ALIKE
        ]
        chosen = rng.sample(alike, min(count, len(alike)))
        view = rng.choices(self._views, [1 / view.max_pixels for view in self._views])[0]
        shown = [view.show(augment(example.picture, rng)) for example in chosen]
        size = view.size_shown(shown[0])
        pictures = [_trimmed(picture, size, rng) for picture in shown]
        return Batch(pictures, [example.text for example in chosen])

    def batches(self, count: int) -> list[Batch]:
        """Return all examples unchanged, in batches of up to `count` of one size."""
        by_size: dict[Size, Batch] = defaultdict(lambda: Batch([], []))
        for example in self._examples:
            shown = self._views[0].show(example.picture)
            size = self._views[0].size_shown(shown)
            by_size[size].pictures.append(shown.resize(size, Image.Resampling.BICUBIC))
            by_size[size].texts.append(example.text)
        return [
            Batch(batch.pictures[start : start + count], batch.texts[start : start + count])
            for batch in by_size.values()
            for start in range(0, len(batch.texts), count)
        ]


def _trimmed(picture: Image.Image, size: Size, rng: random.Random) -> Image.Image:
    """Return a picture resized, after a little was cut off its sides."""
    left, top, right, bottom = (rng.uniform(0, _TRIM) * picture.height for _ in range(4))
    box = (left, top, picture.width - right, picture.height - bottom)
    return picture.resize(size, Image.Resampling.BICUBIC, box=box)
