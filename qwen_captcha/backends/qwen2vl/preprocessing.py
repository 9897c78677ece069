"""Images and prompts made into the tensors of one padded batch.

Responsible for: the size at which the model sees an image, the chat template, special tokens in
callers' prompts, left padding, M-RoPE positions. Invariant: a batch equals what the checkpoint's
own processor returns for the same images and prompts, but the expensive part of a prompt is done
once and not for each request.

Dims: B batch, T tokens, P patches of the whole batch, N images of one size, L patches of one of
them, C/H/W.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from qwen_vl_utils import fetch_image
from transformers import Qwen2VLModel, Qwen2VLProcessor

from qwen_captcha.images.resize import size_shown, with_borders
from qwen_captcha.recognition.reading import GenerationRequest

# Rows of the same prompt and image size are alike: captchas of one site always are.
CACHED_ROWS = 256


class Grid(NamedTuple):
    """Patches of one image."""

    rows: int
    columns: int


@dataclass(frozen=True, slots=True)
class Row:
    """One prompt with the image's tokens in place.

    Attributes:
        input_ids: (T,).
        position_ids: (3, T), the M-RoPE positions: temporal, height, width.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor


@dataclass(frozen=True, slots=True)
class Batch:
    """Inputs of the model, rows padded on the left.

    Attributes:
        input_ids: (B, T).
        attention_mask: (B, T) bool, False where padded.
        position_ids: (3, B, T).
        pixel_values: (P, channels x 14 x 14), normalised; the second frame that the model expects
            of a still image would be equal to this one.
        grids: One for each image, in the order of the rows.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    position_ids: torch.Tensor
    pixel_values: torch.Tensor
    grids: list[Grid]


class Preprocessor:
    """Turns requests into batches with a checkpoint's processor and its model's position rule.

    Args:
        processor: The checkpoint's; its image processor's `size` is the range of pixels.
        model: Computes M-RoPE positions.
    """

    def __init__(self, processor: Qwen2VLProcessor, model: Qwen2VLModel) -> None:
        self._processor = processor
        self._model = model
        images = processor.image_processor
        self._patch_size: int = images.patch_size
        self._cell_side = images.patch_size * images.merge_size
        self._cell_patches = images.merge_size**2
        special = sorted(processor.tokenizer.get_added_vocab(), key=len, reverse=True)
        self._special_tokens = re.compile("|".join(map(re.escape, special)) or r"(?!)")
        self._row = lru_cache(maxsize=CACHED_ROWS)(self._build_row)

    def size_shown(self, image: Image.Image) -> tuple[int, int]:
        """Return the width and height at which the model sees an image, in pixels."""
        limits = self._processor.image_processor.size
        return size_shown(
            image.size,
            cell_side=self._cell_side,
            min_pixels=limits["shortest_edge"],
            max_pixels=limits["longest_edge"],
        )

    def prepare(self, requests: Sequence[GenerationRequest]) -> Batch:
        """Return the batch of at least one request, a row each, in order."""
        # `fetch_image` gets the size that the processor would choose. With a range of pixels
        # instead, it rounds differently and the processor would resize its result once more.
        images = [self._fetch(request.image) for request in requests]
        grids = [self._grid(image) for image in images]
        rows = [
            self._row(request.prompt, grid) for request, grid in zip(requests, grids, strict=True)
        ]
        return self._pad(rows, self._patches(images), grids)

    def _fetch(self, image: Image.Image) -> Image.Image:
        width, height = self.size_shown(image)
        shown = {
            "image": with_borders(image),
            "resized_width": width,
            "resized_height": height,
        }
        resized: Image.Image = fetch_image(shown)
        return resized

    def _grid(self, image: Image.Image) -> Grid:
        return Grid(image.height // self._patch_size, image.width // self._patch_size)

    def _patches(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """Return the normalised patches (P, values of one frame) of images of the sizes shown.

        The steps are the processor's own; around them it spends more time on its arguments, and it
        repeats the frame.
        """
        steps = self._processor.image_processor
        patches = []
        for _, run in groupby(images, lambda image: image.size):
            pixels = np.stack([np.asarray(image) for image in run])  # (N, H, W, C)
            values = steps.rescale_and_normalize(
                # In order, for arithmetic on strided numbers takes several times as long.
                torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(),
                steps.do_rescale,
                steps.rescale_factor,
                steps.do_normalize,
                steps.image_mean,
                steps.image_std,
            )  # (N, C, H, W)
            # (N, L, values of one frame)
            flat, _, _ = steps.patchify(values, steps.patch_size, steps.merge_size, 1)
            patches.append(flat.flatten(0, 1))
        return torch.cat(patches)

    def _build_row(self, prompt: str, grid: Grid) -> Row:
        """Return the tokens of a prompt about an image of `grid` patches."""
        ids: list[int] = self._processor.tokenizer(self._render(prompt))["input_ids"]
        image_id = self._processor.image_token_id
        if ids.count(image_id) != 1:
            raise ValueError("The chat template of the checkpoint does not place one image.")
        place = ids.index(image_id)
        cells = grid.rows * grid.columns // self._cell_patches
        input_ids = torch.tensor(ids[:place] + [image_id] * cells + ids[place + 1 :])  # (T,)
        position_ids, _ = self._model.get_rope_index(
            input_ids[None],
            mm_token_type_ids=(input_ids[None] == image_id).int(),
            image_grid_thw=torch.tensor([[1, *grid]]),
        )
        return Row(input_ids, position_ids[:, 0])

    def _render(self, prompt: str) -> str:
        """Return the whole text that the chat template makes of a prompt."""
        # A caller must not be able to end the turn, or to announce an image that is not there.
        harmless = self._special_tokens.sub(" ", prompt)
        content = [{"type": "image"}, {"type": "text", "text": harmless}]
        text: str = self._processor.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        return text

    def _pad(self, rows: Sequence[Row], pixel_values: torch.Tensor, grids: list[Grid]) -> Batch:
        longest = max(len(row.input_ids) for row in rows)
        shape = (len(rows), longest)
        input_ids = torch.full(shape, self._processor.tokenizer.pad_token_id)
        attention_mask = torch.zeros(shape, dtype=torch.bool)
        position_ids = torch.zeros(3, *shape, dtype=torch.long)
        for index, row in enumerate(rows):
            start = longest - len(row.input_ids)
            input_ids[index, start:] = row.input_ids
            attention_mask[index, start:] = True
            position_ids[:, index, start:] = row.position_ids
        return Batch(input_ids, attention_mask, position_ids, pixel_values, grids)
