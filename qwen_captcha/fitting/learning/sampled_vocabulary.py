"""A sampled softmax: the tokens among which the losses of one step choose.

A few hundred tokens stand for all. Scoring 7,000 characters for every token of an answer took a
tenth of a training step. The expected normaliser is that of the whole vocabulary. Source:
importance sampling of the normaliser, Bengio and Senecal 2003; Jean et al. 2015,
https://arxiv.org/abs/1412.2007.

Dims: V vocabulary, C tokens chosen among, D width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch.nn import functional

IGNORED = -100
FREQUENT = 128  # the first token ids: special tokens, digits, letters, signs
SAMPLED = 256  # of the other tokens, those that stand for the rest in a step


@dataclass(frozen=True)
class SampledVocabulary:
    """The tokens of one step."""

    ids: torch.Tensor  # (C,) of tokens, each once
    offsets: torch.Tensor  # (C,) float32, added to logits: how many tokens each one stands for
    positions: torch.Tensor  # (V,) each token's index in `ids`, `IGNORED` where it has none

    @classmethod
    def sample(cls, targets: torch.Tensor, size: int) -> SampledVocabulary:
        """Return the frequent tokens, those of `targets` and `SAMPLED` others.

        Args:
            targets: Token ids of any shape, or `IGNORED`.
            size: V.
        """
        certain = torch.zeros(size, dtype=torch.bool, device=targets.device)
        certain[:FREQUENT] = True
        certain[targets[targets != IGNORED]] = True
        rest = torch.nonzero(~certain).flatten()
        drawn = rest[torch.randperm(len(rest), device=rest.device)[:SAMPLED]]
        ids = torch.cat([torch.nonzero(certain).flatten(), drawn])
        offsets = torch.zeros(len(ids), device=ids.device)
        if len(drawn):
            offsets[-len(drawn) :] = math.log(len(rest) / len(drawn))
        return cls(ids, offsets, _positions(ids, size))

    @classmethod
    def whole(cls, size: int, device: torch.device) -> SampledVocabulary:
        """Return all V tokens."""
        ids = torch.arange(size, device=device)
        return cls(ids, torch.zeros(size, device=device), ids)

    def logits(self, states: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        """Return the scores (..., C) of states (..., D) by an output embedding (V, D)."""
        return functional.linear(states, embedding[self.ids]).float() + self.offsets

    def losses(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the cross entropies (...) of logits (..., C) for token ids (...), 0 if ignored."""
        wanted = torch.where(targets == IGNORED, targets, self.positions[targets.clamp_min(0)])
        losses = functional.cross_entropy(
            logits.flatten(0, -2), wanted.flatten(), ignore_index=IGNORED, reduction="none"
        )
        return losses.view(targets.shape)


def _positions(ids: torch.Tensor, size: int) -> torch.Tensor:
    positions = torch.full((size,), IGNORED, device=ids.device)
    positions[ids] = torch.arange(len(ids), device=ids.device)
    return positions
