"""Prepare images and prompts as the arrays of one padded batch.

This covers the size of images, special tokens in callers' prompts, left padding and M-RoPE
positions. A batch equals the output of the checkpoint's own processor for the same images and
prompts, but rows of equal prompts and image sizes are cached.

Dims: B batch, T tokens, P patches of the whole batch, N images of one size, L patches of one of
them, C channels, H/W height and width, h/w patches that are merged into one token.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import NamedTuple

import numpy as np
from PIL import Image

from qwen_captcha.backends.qwen2vl.arrays import Bools, Floats, Ints
from qwen_captcha.images.resize import size_shown, with_borders
from qwen_captcha.recognition.reading import GenerationRequest

# Minimum and maximum pixels of a resized image.
PixelRange = tuple[int, int]
# Rows with the same prompt and image size are equal, as for all captchas of one site.
CACHED_ROWS = 256


class Grid(NamedTuple):
    """Patches of one image."""

    rows: int
    columns: int


@dataclass(frozen=True, slots=True)
class Row:
    """One prompt with the tokens of its image.

    Attributes:
        input_ids: (T,).
        position_ids: (3, T), the M-RoPE positions: temporal, height, width.
    """

    input_ids: Ints
    position_ids: Ints


@dataclass(frozen=True, slots=True)
class Batch:
    """Inputs of the model, rows padded on the left.

    Attributes:
        input_ids: (B, T).
        is_image: (B, T), True for the tokens of the image.
        attention_mask: (B, T), False where padded.
        position_ids: (3, B, T).
        pixel_values: (P, channels x 14 x 14), normalised; the second frame that the model expects
            of a still image would be equal to this one.
        grids: One for each image, in the order of the rows.
    """

    input_ids: Ints
    is_image: Bools
    attention_mask: Bools
    position_ids: Ints
    pixel_values: Floats
    grids: list[Grid]


@dataclass(frozen=True, slots=True)
class ProcessorConfig:
    """The preprocessing of a checkpoint's processor.

    Attributes:
        tokenize: Returns the tokens of a whole chat about one image, given the prompt; the image is
            one token.
        special_tokens: Texts that the tokenizer converts to a special token.
        image_token_id: The token of an image, which is repeated for each part of it.
        pad_token_id: The token of padding.
        patch_size: Side of a patch in pixels.
        merge_size: Side of the square of patches that become one token.
        pixel_range: Minimum and maximum pixels of a resized image.
        rescale_factor: Factor for pixel values from 0 to 255.
        mean: Mean of each channel, subtracted from the rescaled values.
        deviation: Standard deviation of each channel, by which they are divided.
    """

    tokenize: Callable[[str], list[int]]
    special_tokens: Sequence[str]
    image_token_id: int
    pad_token_id: int
    patch_size: int
    merge_size: int
    pixel_range: PixelRange
    rescale_factor: float
    mean: Sequence[float]
    deviation: Sequence[float]


class Preprocessor:
    """Converts requests to batches."""

    def __init__(self, config: ProcessorConfig) -> None:
        self._config = config
        # Like the checkpoint's processor, scale mean and deviation instead of the values.
        scale = np.float32(1 / config.rescale_factor)
        self._mean = np.array(config.mean, np.float32)[:, None] * scale  # (C, 1)
        self._deviation = np.array(config.deviation, np.float32)[:, None] * scale  # (C, 1)
        special = sorted(config.special_tokens, key=len, reverse=True)
        self._special_tokens = re.compile("|".join(map(re.escape, special)) or r"(?!)")
        self._row = lru_cache(maxsize=CACHED_ROWS)(self._build_row)

    def size_shown(
        self, image: Image.Image, pixel_range: PixelRange | None = None
    ) -> tuple[int, int]:
        """Return the width and height of a resized image, in pixels."""
        min_pixels, max_pixels = pixel_range or self._config.pixel_range
        return size_shown(
            image.size,
            cell_side=self._config.patch_size * self._config.merge_size,
            min_pixels=min_pixels,
            max_pixels=max_pixels,
        )

    def prepare(
        self, requests: Sequence[GenerationRequest], pixel_range: PixelRange | None = None
    ) -> Batch:
        """Return the batch of at least one request, one row for each, in order."""
        images = [
            with_borders(request.image).resize(
                self.size_shown(request.image, pixel_range), Image.Resampling.BICUBIC
            )
            for request in requests
        ]
        grids = [self._grid(image) for image in images]
        rows = [
            self._row(request.prompt, grid) for request, grid in zip(requests, grids, strict=True)
        ]
        return self._pad(rows, self._patches(images), grids)

    def _grid(self, image: Image.Image) -> Grid:
        side = self._config.patch_size
        return Grid(image.height // side, image.width // side)

    def _patches(self, images: Sequence[Image.Image]) -> Floats:
        """Return the normalised patches (P, values of one frame) of images of the sizes shown."""
        side, merge = self._config.patch_size, self._config.merge_size
        patches = []
        for (width, height), run in groupby(images, lambda image: image.size):
            pixels = np.stack([np.asarray(image) for image in run])  # (N, H, W, C)
            rows, columns = height // side // merge, width // side // merge
            cells = pixels.reshape(len(pixels), rows, merge, side, columns, merge, side, -1)
            # (N, H / cell, W / cell, h, w, C, side, side)
            ordered = cells.transpose(0, 1, 4, 2, 5, 7, 3, 6)
            values = ordered.reshape(-1, len(self._mean), side**2).astype(np.float32)
            values -= self._mean
            values /= self._deviation
            patches.append(values.reshape(len(values), -1))  # (N * L, values of one frame)
        return np.concatenate(patches)

    def _build_row(self, prompt: str, grid: Grid) -> Row:
        """Return the tokens of a prompt about an image of `grid` patches."""
        # A prompt must not end the turn or contain the token of an image.
        ids = self._config.tokenize(self._special_tokens.sub(" ", prompt))
        image_id = self._config.image_token_id
        if ids.count(image_id) != 1:
            raise ValueError("The chat template of the checkpoint does not place one image.")
        index = ids.index(image_id)
        rows, columns = (side // self._config.merge_size for side in grid)
        input_ids = np.array(ids[:index] + [image_id] * (rows * columns) + ids[index + 1 :])  # (T,)
        return Row(input_ids, _positions(len(ids), index, rows, columns))

    def _pad(self, rows: Sequence[Row], pixel_values: Floats, grids: list[Grid]) -> Batch:
        longest = max(len(row.input_ids) for row in rows)
        shape = (len(rows), longest)
        input_ids = np.full(shape, self._config.pad_token_id)
        attention_mask = np.zeros(shape, dtype=np.bool_)
        position_ids = np.zeros((3, *shape), dtype=np.int64)
        for index, row in enumerate(rows):
            start = longest - len(row.input_ids)
            input_ids[index, start:] = row.input_ids
            attention_mask[index, start:] = True
            position_ids[:, index, start:] = row.position_ids
        is_image = input_ids == self._config.image_token_id
        return Batch(input_ids, is_image, attention_mask, position_ids, pixel_values, grids)


def _positions(tokens: int, index: int, rows: int, columns: int) -> Ints:
    """Return the M-RoPE positions (3, T) of a chat.

    Source: `get_rope_index` of Qwen2-VL in transformers.

    Args:
        tokens: Tokens of the chat, of which the image is one.
        index: Index of the image's token.
        rows: Rows of the tokens that replace it.
        columns: Columns of these tokens.
    """
    before = np.broadcast_to(np.arange(index), (3, index))
    image = np.indices((1, rows, columns)).reshape(3, -1) + index
    after = np.arange(tokens - index - 1) + index + max(rows, columns)
    return np.concatenate([before, image, np.broadcast_to(after, (3, len(after)))], axis=1)


def runs_of_equal_size(grids: Sequence[Grid]) -> Iterator[tuple[int, int, int]]:
    """Yield for each run of equal sizes: number of images, first patch, patch after the last."""
    start = 0
    for grid, run in groupby(grids):
        images = len(list(run))
        end = start + images * grid.rows * grid.columns
        yield images, start, end
        start = end
