"""The vision encoder of Qwen2-VL, run over all images of a batch at once.

The result equals that of the model's own forward pass. That one is slower on a CPU: it runs the
patch embedding as a three-dimensional convolution over two frames, which are equal in a still
image, and attention image by image. Here, adjacent images of equal size share one call.

Dims: P patches of the whole batch, N images of one size, L patches of one of them, C width, H
heads, S size of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import nn
from torch.nn import functional
from transformers.models.qwen2_vl.modeling_qwen2_vl import (
    PatchMerger,
    Qwen2VisionTransformerPretrainedModel,
    Qwen2VLVisionBlock,
)
from transformers.vision_utils import get_vision_position_ids

from qwen_captcha.backends.qwen2vl.preprocessing import Grid, runs_of_equal_size
from qwen_captcha.backends.qwen2vl.pytorch.layers import FusedLinear, Rotation

# x * sigmoid(1.702 * x), in all Qwen2-VL checkpoints.
ACTIVATION = "quick_gelu"
# 2 MB for one of the largest images of the 2B.
CACHED_ROTATIONS = 32


class VisionEncoder:
    """Runs the layers of a loaded model's vision encoder."""

    def __init__(self, visual: Qwen2VisionTransformerPretrainedModel) -> None:
        if visual.config.hidden_act != ACTIVATION:
            raise ValueError(
                f"The vision encoder has the activation {visual.config.hidden_act}; only "
                f"{ACTIVATION} is supported."
            )
        self._visual = visual
        self._blocks = [_Block(block) for block in visual.blocks]
        self._project = FusedLinear(_linear_layer(visual.patch_embed.proj))
        self._merger = _Merger(visual.merger)
        self._merge_size: int = visual.spatial_merge_size
        self._rotation = lru_cache(maxsize=CACHED_ROTATIONS)(self._build_rotation)

    def encode(self, pixel_values: torch.Tensor, grids: Sequence[Grid]) -> torch.Tensor:
        """Return the image tokens (P / 4, width of the text model), image after image.

        Args:
            pixel_values: (P, values of a patch of one frame).
            grids: The images' sizes. Adjacent images of equal size are run together.
        """
        hidden = self._embed(pixel_values)  # (P, C)
        rotation = Rotation.concatenated([self._rotation(grid) for grid in grids])  # (P, S)
        for block in self._blocks:
            hidden, rotation = hidden.to(block.device), rotation.to(block.device)
            hidden = block.forward(hidden, rotation, grids)
        return self._merger.forward(hidden)

    def _embed(self, pixel_values: torch.Tensor) -> torch.Tensor:
        kernel = self._visual.patch_embed.proj.weight
        return self._project(pixel_values.to(kernel.device, kernel.dtype))

    def _build_rotation(self, grid: Grid) -> Rotation:
        """Return the rotary embedding of one image's patches, (L, 1, 1, S)."""
        positions = get_vision_position_ids(torch.tensor([[1, *grid]]), self._merge_size)  # (L, 2)
        device = self._visual.patch_embed.proj.weight.device
        cos, sin = self._visual.rotary_pos_emb(
            torch.empty(0, device=device), positions.to(device)
        )  # (L, S) each
        return Rotation.from_cos_sin(cos[:, None, None].float(), sin[:, None, None].float())


class _Block:
    """One block, with the weights of a loaded block."""

    def __init__(self, block: Qwen2VLVisionBlock) -> None:
        self.device: torch.device = block.norm1.weight.device
        self._heads: int = block.attn.num_heads
        self._before_attention = block.norm1
        self._states = FusedLinear(block.attn.qkv)
        self._mix = FusedLinear(block.attn.proj)
        self._before_mlp = block.norm2
        self._widen = FusedLinear(block.mlp.fc1)
        self._narrow = FusedLinear(block.mlp.fc2)

    def forward(
        self, hidden: torch.Tensor, rotation: Rotation, grids: Sequence[Grid]
    ) -> torch.Tensor:
        """Return the block's result for patches (P, C)."""
        normed = _norm(self._before_attention, hidden)
        hidden = hidden + self._attend(normed, rotation, grids)
        return hidden + self._feed_forward(_norm(self._before_mlp, hidden))

    def _attend(
        self, normed: torch.Tensor, rotation: Rotation, grids: Sequence[Grid]
    ) -> torch.Tensor:
        """Return the attention (P, C) between the patches (P, C) of each image."""
        states = self._states(normed).view(len(normed), 3, self._heads, -1)  # (P, 3, H, S)
        # Rotated in fp32, as the model does.
        turned = states[:, :2].float()  # (P, 2, H, S)
        rotation.turn_in_place(turned)
        states[:, :2] = turned
        seen = []
        for images, start, end in runs_of_equal_size(grids):
            run = states[start:end].view(images, -1, *states.shape[1:])  # (N, L, 3, H, S)
            # The copy is a fiftieth of the time of attention, which takes a fifth less with it.
            query, key, value = run.permute(2, 0, 3, 1, 4).contiguous()  # (N, H, L, S) each
            mixed = functional.scaled_dot_product_attention(query, key, value)  # (N, H, L, S)
            seen.append(mixed.transpose(1, 2).reshape(end - start, -1))  # (N * L, C)
        return self._mix(seen[0] if len(seen) == 1 else torch.cat(seen))  # (P, C)

    def _feed_forward(self, normed: torch.Tensor) -> torch.Tensor:
        """Run the two linear layers over patches (P, C)."""
        inner = self._widen(normed)  # (P, 4 * C)
        # In place: with eight images these tensors are larger than a core's cache.
        return self._narrow(inner.mul_((inner * 1.702).sigmoid_()))


class _Merger:
    """Merges the four patches of a square into one image token."""

    def __init__(self, merger: PatchMerger) -> None:
        self._device: torch.device = merger.ln_q.weight.device
        self._before = merger.ln_q
        self._width: int = merger.hidden_size
        widen, self._activation, narrow = merger.mlp
        self._widen, self._narrow = FusedLinear(widen), FusedLinear(narrow)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return the image tokens (P / 4, width of the text model) of patches (P, C)."""
        normed = _norm(self._before, hidden.to(self._device))
        squares = normed.view(-1, self._width)  # (P / 4, 4 * C)
        return self._narrow(self._activation(self._widen(squares)))


def _linear_layer(convolution: nn.Conv3d) -> nn.Linear:
    """Return the linear layer that equals a patch embedding for a still image.

    The stride of that convolution is the size of its kernel. The matrix product is 7 times faster.
    """
    kernel = still_image_kernel(convolution.weight.detach())
    layer = nn.Linear(kernel.shape[1], kernel.shape[0], bias=False, device="meta")
    layer.weight = nn.Parameter(kernel, requires_grad=False)
    return layer


def still_image_kernel(weight: torch.Tensor) -> torch.Tensor:
    """Return the kernel for one frame of a patch embedding (C, channels, frames, 14, 14).

    The frames of a still image are equal, so the sum of the kernel's frames replaces them.

    Returns:
        (C, values of one frame), summed in fp32.
    """
    return weight.float().sum(dim=2).to(weight.dtype).flatten(1)


def _norm(norm: nn.LayerNorm, hidden: torch.Tensor) -> torch.Tensor:
    return functional.layer_norm(hidden, norm.weight.shape, norm.weight, norm.bias, norm.eps)
