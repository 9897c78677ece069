"""Cosines and sines of the rotary position embeddings.

Dims: B rows, T tokens, L patches of one image, S size of a head.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from qwen_captcha.backends.qwen2vl.arrays import Floats, Ints
from qwen_captcha.backends.qwen2vl.preprocessing import Grid


class Rotary(NamedTuple):
    """Cosine and sine of each position's angles; the last dim is half a head."""

    cos: Floats
    sin: Floats

    def between(self, start: int, end: int) -> Rotary:
        """Return the positions from `start` to before `end`, along the second dim."""
        return Rotary(self.cos[:, start:end], self.sin[:, start:end])

    def rows(self, indices: Ints) -> Rotary:
        """Return the rotations of some rows, the first dim."""
        return Rotary(self.cos[indices], self.sin[indices])


def vision_rotary(grid: Grid, *, head_size: int, theta: float, merge_size: int) -> Rotary:
    """Return the rotation of one image's patches (L, S / 2), the patches of a token together.

    Half of the angles depend on the row of a patch, half on its column.
    """
    shape = (grid.rows // merge_size, merge_size, grid.columns // merge_size, merge_size)
    row, column = np.indices(grid).reshape(2, *shape).transpose(0, 1, 3, 2, 4).reshape(2, -1)
    frequencies = _frequencies(head_size // 2, theta)
    angles = [np.multiply.outer(axis.astype(np.float32), frequencies) for axis in (row, column)]
    return _rotary(np.concatenate(angles, axis=1))


def text_rotary(
    position_ids: Ints, *, head_size: int, theta: float, sections: tuple[int, int, int]
) -> Rotary:
    """Return the rotation (B, T, S / 2) of M-RoPE positions (3, B, T)."""
    axes = np.repeat(np.arange(3), sections)  # (S / 2,)
    positions = np.moveaxis(position_ids[axes], 0, -1).astype(np.float32)  # (B, T, S / 2)
    return _rotary(positions * _frequencies(head_size, theta))


def _frequencies(size: int, theta: float) -> Floats:
    """Return the change of each of `size` / 2 angles from one position to the next."""
    exponents = np.arange(0, size, 2, dtype=np.float32) / np.float32(size)
    return np.asarray(1 / np.float32(theta) ** exponents, dtype=np.float32)


def _rotary(angles: Floats) -> Rotary:
    return Rotary(np.cos(angles), np.sin(angles))
