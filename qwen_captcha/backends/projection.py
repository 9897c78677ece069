"""Linear layers of a checkpoint, run with as few calls as possible.

Responsible for: layers that share their input (queries, keys and values; gate and up) as one
matrix product. Leaves what the results mean to `text_decoder.py` and `vision_encoder.py`.
Invariants: the results are those of the layers one by one, and weights exist once in memory: the
layers themselves keep views of the joined ones.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional


class Projection:
    """One linear layer, or several of the same input whose results are wanted side by side.

    Layers that only look like linear ones, as those of a quantised checkpoint, are called as
    they are.

    Args:
        layers: On one device; all with a bias, or none.
    """

    def __init__(self, *layers: nn.Module) -> None:
        self._layers = layers
        plain = [layer for layer in layers if type(layer) is nn.Linear]
        self._weight: torch.Tensor | None = None
        self._bias: torch.Tensor | None = None
        if len(plain) == len(layers):
            self._weight = _join(plain, "weight")
            self._bias = None if plain[0].bias is None else _join(plain, "bias")

    def __call__(self, states: torch.Tensor) -> torch.Tensor:
        """Return the layers' results for states (..., C), side by side along the last dim."""
        if self._weight is not None:
            return functional.linear(states, self._weight, self._bias)
        return torch.cat([layer(states) for layer in self._layers], dim=-1)


def _join(layers: Sequence[nn.Linear], name: str) -> torch.Tensor:
    """Return a parameter of all layers, one below the other; each keeps a view of its part."""
    parts: list[torch.Tensor] = [getattr(layer, name).detach() for layer in layers]
    if len(parts) == 1:
        return parts[0]
    whole = torch.cat(parts)
    views = torch.split(whole, [len(part) for part in parts])
    for layer, view in zip(layers, views, strict=True):
        setattr(layer, name, nn.Parameter(view, requires_grad=False))
    return whole
