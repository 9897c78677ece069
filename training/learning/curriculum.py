"""The levels of the training, from one plain character to heavily distorted captchas.

A small model that starts with whole captchas stays on the plateau of character frequencies for tens
of thousands of images; one that starts with one character does not. The last level is the
distribution that is trained for.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

Grid = tuple[int, int]  # rows and columns of 28-pixel cells, one visual token each


@dataclass(frozen=True)
class Level:
    """One stage of the curriculum.

    Attributes:
        longest: Most characters of a code.
        difficulty: Passed to `styles.sample_style`.
        grids: Image shapes with their weights.
        kinds: Kinds of label with their weights.
        step_up_at: Exact match, over recent batches, above which the next level starts.
        other_scales: Image shapes of smaller and of larger views.
    """

    longest: int
    difficulty: float
    grids: tuple[tuple[Grid, float], ...]
    kinds: tuple[tuple[str, float], ...]
    step_up_at: float = 0.6
    other_scales: tuple[tuple[Grid, ...], ...] = ()

    def choose_scale(self, rng: random.Random) -> tuple[Grid, ...]:
        """Return the shapes in one of which an image is shown, all of about the same size."""
        if self.other_scales and rng.random() < _OTHER_SCALES:
            return rng.choice(self.other_scales)
        return tuple(grid for grid, _ in self.grids)

    def choose_grid(self, rng: random.Random) -> Grid:
        """Return the shape of one batch's images."""
        return rng.choices([g for g, _ in self.grids], weights=[w for _, w in self.grids])[0]

    def choose_kind(self, rng: random.Random) -> str:
        """Return the kind of one label."""
        return rng.choices([k for k, _ in self.kinds], weights=[w for _, w in self.kinds])[0]


# What 28 to 56 visual tokens make of the canvases of real generators, cropped to their text and
# stretched, and some smaller ones. The weights are those with which canvases are drawn for them.
WHOLE_IMAGE_GRIDS: tuple[tuple[Grid, float], ...] = (
    ((3, 11), 8),
    ((3, 13), 8),
    ((3, 9), 2),
    ((2, 14), 4),
    ((2, 17), 4),
    ((2, 21), 2),
    ((2, 26), 1),
    ((2, 11), 1),
    ((3, 16), 2),
    ((4, 8), 1),
    ((4, 10), 4),
    ((4, 12), 2),
    ((5, 9), 1),
)
# What 16 to 40 and what 48 to 84 visual tokens make of them. A captcha is read small first, and
# large where that is not sure.
_OTHER_GRIDS: tuple[tuple[Grid, ...], ...] = (
    ((1, 17), (2, 8), (2, 10), (2, 12), (2, 15), (3, 8), (3, 10)),
    ((2, 30), (3, 18), (3, 22), (4, 13), (4, 15), (4, 19), (5, 12)),
)
_OTHER_SCALES = 0.6  # share of the images that are shown in one of these shapes
_CODES = (("digits", 4.0), ("latin", 8.0))
_CODES_AND_MATH = (*_CODES, ("math", 3.0), ("chinese_math", 0.4))
_MOSTLY_CHINESE = (
    ("digits", 0.5),
    ("latin", 1.0),
    ("math", 0.4),
    ("chinese_math", 0.4),
    ("chinese", 12.0),
)
_EVERYTHING = (*_CODES_AND_MATH, ("chinese", 4.0))

# Small images first: a level costs as many patches as it needs. Thousands of Chinese characters
# last: brought in before Latin codes were read, their loss was half of all and did not fall. They
# get a level of their own, whose batches the last one reviews.
LEVELS = (
    Level(1, 0.1, (((2, 2), 1),), _CODES, 0.5),
    Level(3, 0.2, (((2, 4), 1),), _CODES, 0.35),
    Level(6, 0.35, WHOLE_IMAGE_GRIDS, _CODES_AND_MATH, 0.35),
    Level(8, 0.8, WHOLE_IMAGE_GRIDS, _CODES_AND_MATH, 0.6),
    Level(16, 1.0, WHOLE_IMAGE_GRIDS, _CODES_AND_MATH, 0.8),
    Level(16, 0.6, WHOLE_IMAGE_GRIDS, _MOSTLY_CHINESE, 0.4, _OTHER_GRIDS),
    Level(16, 0.7, WHOLE_IMAGE_GRIDS, _EVERYTHING, 1.1, _OTHER_GRIDS),
)
