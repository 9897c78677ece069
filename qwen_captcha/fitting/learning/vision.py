"""The vision encoder over a batch of images of one shape, for training.

It computes the same as `Qwen2VisionTransformerPretrainedModel.forward`, which attends image by
image, for images that share a grid; a test compares the two. A compiled block made a training step
on one CPU thread 1.3 times faster, but it needs a C++ compiler.

Dims: B batch, R/K rows and columns of cells, P patches an image, D width.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional
from transformers.models.qwen2_vl.modeling_qwen2_vl import (
    Qwen2VisionTransformerPretrainedModel,
    Qwen2VLVisionBlock,
    rotate_half,
)

from qwen_captcha.backends.qwen2vl.pytorch.vision_encoder import still_image_kernel


def _rotations(
    grid: tuple[int, int], merge_size: int, head_dim: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return cosines and sines of the two-dimensional rotary embedding, each (P, head_dim)."""
    rows, columns = grid
    shape = (rows, columns, merge_size, merge_size)
    step = torch.arange(merge_size, device=device)
    y = torch.arange(rows, device=device).view(-1, 1, 1, 1) * merge_size + step.view(1, 1, -1, 1)
    x = torch.arange(columns, device=device).view(1, -1, 1, 1) * merge_size + step.view(1, 1, 1, -1)
    quarter = torch.arange(0, head_dim // 2, 2, device=device).float() / (head_dim // 2)
    frequencies = 10000.0**-quarter
    angles = [axis.expand(shape).reshape(-1, 1) * frequencies for axis in (y, x)]
    angle = torch.cat([*angles, *angles], dim=-1)  # (P, head_dim)
    return angle.cos(), angle.sin()


def _rotate(states: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    rotated: torch.Tensor = states * cos + rotate_half(states) * sin
    return rotated


def run_block(
    block: Qwen2VLVisionBlock, hidden: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
) -> torch.Tensor:
    """Run one vision block on (B, P, D)."""
    batch, patches, width = hidden.shape
    qkv = block.attn.qkv(block.norm1(hidden)).view(batch, patches, 3, block.attn.num_heads, -1)
    query, key, value = qkv.permute(2, 0, 3, 1, 4)  # each (B, heads, P, head_dim)
    # Written out: the fused kernel's backward pass took a seventh of a step on a CPU.
    scores = _rotate(query, cos, sin) @ _rotate(key, cos, sin).mT  # (B, heads, P, P)
    weights = (scores.float() * query.shape[-1] ** -0.5).softmax(dim=-1)
    attended = weights.to(value.dtype) @ value
    hidden = hidden + block.attn.proj(attended.transpose(1, 2).reshape(batch, patches, width))
    result: torch.Tensor = hidden + block.mlp(block.norm2(hidden))
    return result


RunBlock = Callable[[Qwen2VLVisionBlock, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def compiled_block() -> RunBlock:
    """Return a compiled `run_block`."""
    # One compilation a grid and batch size; the curriculum has 29.
    torch._dynamo.config.recompile_limit = 64
    return torch.compile(run_block, dynamic=False)


def encode_images(
    visual: Qwen2VisionTransformerPretrainedModel,
    pixel_values: torch.Tensor,
    grid: tuple[int, int],
    run_block: RunBlock = run_block,
) -> torch.Tensor:
    """Return the patch features before merging, (B, P, D).

    Args:
        visual: The encoder.
        pixel_values: Patches of one frame, (B, P, C * 14 * 14).
        grid: Rows and columns of cells.
        run_block: Runs one block; `compiled_block()` where a compiler is at hand.
    """
    kernel = still_image_kernel(visual.patch_embed.proj.weight)  # (D, C * 14 * 14)
    hidden = functional.linear(pixel_values, kernel)
    head_dim = visual.config.embed_dim // visual.config.num_heads
    cos, sin = _rotations(grid, visual.spatial_merge_size, head_dim, hidden.device)
    for block in visual.blocks:
        hidden = run_block(block, hidden, cos, sin)
    return hidden
