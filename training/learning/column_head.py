"""An auxiliary loss on the vision encoder: the text along the columns of patches, by CTC.

The text model may drop a character or repeat one. A head that must find each character in a column
of its own, from left to right, teaches the encoder to separate them. It takes part in training only
and adds nothing to the shipped model. Source: Graves et al. 2006.

Dims: B batch, R/K rows and columns of patches, D width, C tokens chosen among, N characters.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from qwen_captcha.fitting.learning.sampled_vocabulary import IGNORED, SampledVocabulary
from training.build import MERGE_SIZE


class ColumnHead(nn.Module):
    """Reads a text off the columns of patches, with a blank between characters."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.look = nn.Linear(width, 1)  # how much each row of a column counts
        self.project = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width))
        self.blank = nn.Linear(width, 1)

    def forward(
        self,
        patches: torch.Tensor,
        grid: tuple[int, int],
        targets: torch.Tensor,
        vocabulary: SampledVocabulary,
        embedding: torch.Tensor,
    ) -> torch.Tensor:
        """Return the loss of a character, a scalar; 0 where there is no image.

        Args:
            patches: The encoder's features in the processor's order, (B, R * K, D).
            grid: Rows and columns of cells.
            targets: Token ids of the answers, (B, N + 1) with the end token, `IGNORED` after it.
            vocabulary: What a character is chosen among.
            embedding: The output embedding, (V, D), by which characters are distinguished.
        """
        if not len(patches):
            return patches.new_zeros(())
        columns = self._columns(patches, grid)  # (B, K, D)
        states = self.project(columns)
        logits = torch.cat(
            [self.blank(columns).float(), vocabulary.logits(states, embedding)], dim=-1
        )  # (B, K, 1 + C), the blank first
        log_probabilities = logits.log_softmax(dim=-1).transpose(0, 1)  # (K, B, 1 + C)
        lengths = targets.ne(IGNORED).sum(dim=1) - 1  # without the end token
        places = vocabulary.positions[targets[:, :-1].clamp_min(0)].clamp_min(0) + 1
        loss: torch.Tensor = functional.ctc_loss(
            log_probabilities,
            places,
            lengths.new_full((len(patches),), len(log_probabilities)),
            lengths,
            zero_infinity=True,  # a text that needs more columns than there are
        )
        return loss

    def _columns(self, patches: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        """Return each column's rows as one, weighted by their scores, (B, K, D)."""
        rows, columns = grid
        cells = patches.view(len(patches), rows, columns, MERGE_SIZE, MERGE_SIZE, -1)
        by_column = cells.permute(0, 2, 4, 1, 3, 5).flatten(3, 4).flatten(1, 2)  # (B, K, R, D)
        weights = self.look(by_column).softmax(dim=2)
        summed: torch.Tensor = (weights * by_column).sum(dim=2)
        return summed
