"""Qwen2-VL's vision encoder, run over all images of a batch at once.

Responsible for: the forward pass from patches to image tokens, with the checkpoint's own layers.
Leaves patches to `preprocessing.py`. Invariant: the result equals that of the model's own
forward pass, which is slower on a CPU: it runs the patch embedding as a three-dimensional
convolution and attention image by image, where here images of equal size share one call.

Dims: P patches of the whole batch, N images of one size, L patches of one of them, C width,
H heads, S size of a head.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import groupby

import torch
from torch.nn import functional
from transformers.models.qwen2_vl.modeling_qwen2_vl import (
    Qwen2VisionTransformerPretrainedModel,
    VisionAttention,
    VisionMlp,
)
from transformers.vision_utils import get_vision_position_ids

from qwen_captcha.backends.preprocessing import Grid
from qwen_captcha.backends.rotation import Rotation

# x * sigmoid(1.702 * x), in all Qwen2-VL checkpoints.
ACTIVATION = "quick_gelu"
# 2 MB for one of the largest images of the 2B.
CACHED_ROTATIONS = 32


class VisionEncoder:
    """Runs the layers of a loaded model's vision encoder."""

    def __init__(self, visual: Qwen2VisionTransformerPretrainedModel) -> None:
        if visual.config.hidden_act != ACTIVATION:
            raise ValueError(f"The vision encoder has the activation {visual.config.hidden_act}.")
        self._visual = visual
        self._merge_size: int = visual.spatial_merge_size
        self._rotation = lru_cache(maxsize=CACHED_ROTATIONS)(self._build_rotation)

    def encode(self, pixel_values: torch.Tensor, grids: Sequence[Grid]) -> torch.Tensor:
        """Return the image tokens (P / 4, width of the text model), image after image.

        Args:
            pixel_values: (P, values of a patch).
            grids: The images' sizes. Neighbours of equal size are run together.
        """
        hidden = self._embed(pixel_values)  # (P, C)
        rotation = Rotation.concatenated([self._rotation(grid) for grid in grids])  # (P, S)
        for block in self._visual.blocks:
            device = block.norm1.weight.device
            hidden, rotation = hidden.to(device), rotation.to(device)
            hidden = hidden + self._attend(block.attn, block.norm1(hidden), rotation, grids)
            hidden = hidden + _feed_forward(block.mlp, block.norm2(hidden))
        tokens: torch.Tensor = self._visual.merger(hidden)  # (P / 4, width of the text model)
        return tokens

    def _embed(self, pixel_values: torch.Tensor) -> torch.Tensor:
        # The convolution's stride is its kernel: a matrix product, 7 times faster as one.
        kernel = self._visual.patch_embed.proj.weight.flatten(1)  # (C, values of a patch)
        return functional.linear(pixel_values.to(kernel.device, kernel.dtype), kernel)

    def _attend(
        self,
        attention: VisionAttention,
        hidden: torch.Tensor,
        rotation: Rotation,
        grids: Sequence[Grid],
    ) -> torch.Tensor:
        """Let the patches (P, C) of each image see each other."""
        heads = attention.num_heads
        states: torch.Tensor = attention.qkv(hidden).view(len(hidden), 3, heads, -1)  # (P, 3, H, S)
        # Rotated in fp32, as the model does.
        turned = rotation.turn(states[:, :2].float()).to(states.dtype)  # (P, 2, H, S)
        seen = []
        for images, start, end in _runs_of_equal_size(grids):
            query, key, value = (
                part[start:end].reshape(images, -1, heads, part.shape[-1]).transpose(1, 2)
                for part in (turned[:, 0], turned[:, 1], states[:, 2])
            )  # (N, H, L, S) each
            mixed = functional.scaled_dot_product_attention(query, key, value)  # (N, H, L, S)
            seen.append(mixed.transpose(1, 2).reshape(end - start, -1))  # (N * L, C)
        projected: torch.Tensor = attention.proj(torch.cat(seen))  # (P, C)
        return projected

    def _build_rotation(self, grid: Grid) -> Rotation:
        """Return the rotary embedding of one image's patches, (L, 1, 1, S)."""
        positions = get_vision_position_ids(torch.tensor([[1, *grid]]), self._merge_size)  # (L, 2)
        device = self._visual.patch_embed.proj.weight.device
        cos, sin = self._visual.rotary_pos_emb(
            torch.empty(0, device=device), positions.to(device)
        )  # (L, S) each
        return Rotation.from_cos_sin(cos[:, None, None].float(), sin[:, None, None].float())


def _feed_forward(mlp: VisionMlp, hidden: torch.Tensor) -> torch.Tensor:
    """Run a block's two linear layers over patches (P, C)."""
    inner = mlp.fc1(hidden)  # (P, 4 * C)
    # In place: with eight images these tensors are larger than a core's cache.
    result: torch.Tensor = mlp.fc2(inner.mul_((inner * 1.702).sigmoid_()))
    return result


def _runs_of_equal_size(grids: Sequence[Grid]) -> Iterator[tuple[int, int, int]]:
    """Yield for each run of equal neighbours: images, first patch, patch after the last."""
    start = 0
    for grid, run in groupby(grids):
        images = len(list(run))
        end = start + images * grid.rows * grid.columns
        yield images, start, end
        start = end
