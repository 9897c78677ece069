"""Auxiliary losses on the vision encoder: the character in each box, and their order.

The renderer knows the place of every character, so that the encoder need not learn it from the text
alone: with these losses whole codes are learnt from the first thousand images on. The heads read
the patch features before merging. They take part in training only and add nothing to the shipped
model.

Dims: B batch, N characters, P patches, D width, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from qwen_captcha.fitting.learning.sampled_vocabulary import IGNORED, SampledVocabulary
from training.build import MERGE_SIZE

MAX_CHARACTERS = 24  # most characters whose order is distinguished


def patch_centres(grid: tuple[int, int], device: torch.device) -> torch.Tensor:
    """Return the patches' centres (P, 2), x and y as fractions, in the processor's order."""
    rows, columns = grid[0] * MERGE_SIZE, grid[1] * MERGE_SIZE
    y = (torch.arange(rows, device=device) + 0.5) / rows
    x = (torch.arange(columns, device=device) + 0.5) / columns
    centres = torch.stack(
        [x.expand(rows, columns), y[:, None].expand(rows, columns)], dim=-1
    )  # (rows, columns, 2)
    cells = centres.view(grid[0], MERGE_SIZE, grid[1], MERGE_SIZE, 2).transpose(1, 2)
    return cells.reshape(-1, 2)


def box_distances(boxes: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """Return each patch's distance from each box, (B, N, P), 1 on the box's edge.

    A side counts as at least one patch, so that a small character still owns one.
    """
    centres = patch_centres(grid, boxes.device)
    least = boxes.new_tensor([0.5 / (grid[1] * MERGE_SIZE), 0.5 / (grid[0] * MERGE_SIZE)])
    half = torch.maximum(boxes[:, :, None, 2:], least)  # (B, N, 1, 2)
    offset = (centres - boxes[:, :, None, :2]) / half  # (B, N, P, 2)
    return offset.abs().amax(dim=-1)


class GlyphHeads(nn.Module):
    """Reads characters and their order off the patches that their boxes cover."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.project = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width))
        self.order = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, MAX_CHARACTERS + 1))

    def forward(
        self,
        patches: torch.Tensor,
        grid: tuple[int, int],
        boxes: torch.Tensor,
        targets: torch.Tensor,
        vocabulary: SampledVocabulary,
        embedding: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the two losses, scalars.

        Args:
            patches: The encoder's features, (B, P, D).
            grid: Rows and columns of cells.
            boxes: (B, N, 4), N at least that of the longest label.
            targets: Token ids of the answers, (B, N + 1) with the end token, `IGNORED` after it.
            vocabulary: What a character is chosen among.
            embedding: The output embedding, (V, D), by which characters are distinguished.
        """
        characters = targets[:, 1:].ne(IGNORED)  # (B, N): a token follows, so no end token
        distances = box_distances(boxes, grid)
        nearness = torch.softmax(-2 * distances.square(), dim=-1).to(patches.dtype)  # (B, N, P)
        pooled = self.project(nearness @ patches)[characters]  # (characters, D)
        logits = vocabulary.logits(pooled, embedding)
        glyph_loss = vocabulary.losses(logits, targets[:, :-1][characters]).mean()
        absent = ~characters[..., None]
        nearest, owner = distances.masked_fill(absent, torch.inf).min(dim=1)  # each (B, P)
        order = torch.where(nearest <= 1, owner.clamp_max(MAX_CHARACTERS - 1) + 1, 0)
        order_loss = functional.cross_entropy(
            self.order(patches).float().flatten(0, 1), order.flatten()
        )
        return glyph_loss, order_loss
