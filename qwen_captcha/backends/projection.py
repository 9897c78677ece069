"""Linear layers of a checkpoint, run with as few calls as possible.

Responsible for: layers that share their input (queries, keys and values; gate and up) as one matrix
product; small weights in the order in which a CPU multiplies them. Invariants: the results are
those of the layers one by one; weights exist once in memory but for small ones, and the layers
themselves keep views of the joined ones.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.backends import mkldnn
from torch.nn import functional

# A second copy of a matrix of up to so many numbers is worth its memory: a captcha takes a fifth
# less time. The bundled checkpoint's are smaller, most of the 2B's are larger.
LARGEST_PACKED = 2 * 1024**2


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
        self._packed = None if self._weight is None else _pack(self._weight)

    def __call__(self, states: torch.Tensor) -> torch.Tensor:
        """Return the layers' results for states (..., C), side by side along the last dim."""
        if self._packed is not None:
            return _multiply(states, self._packed, self._bias)
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


def _pack(weight: torch.Tensor) -> torch.Tensor | None:
    """Return a small weight matrix as oneDNN multiplies it, None where that brings nothing.

    Otherwise oneDNN puts it into that order in each call. These operators are what torch's own
    compiler calls for a linear layer whose weight it has frozen.
    """
    present: bool = mkldnn.is_available()  # type: ignore[no-untyped-call]
    if weight.device.type != "cpu" or weight.numel() > LARGEST_PACKED or not present:
        return None
    try:
        packed: torch.Tensor = torch.ops.mkldnn._reorder_linear_weight(weight)
    except (AttributeError, RuntimeError):  # This processor's build of torch is without it.
        return None
    return packed


def _multiply(
    states: torch.Tensor, packed: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    """Return what a linear layer of a packed weight makes of states (..., C)."""
    result: torch.Tensor = torch.ops.mkldnn._linear_pointwise(states, packed, bias, "none", [], "")
    return result
