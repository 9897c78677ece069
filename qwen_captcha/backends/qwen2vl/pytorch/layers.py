"""Linear layers and the rotary position embedding, run with as few operations as possible.

Layers that share their input (queries, keys and values; gate and up) are one matrix product, and
small weights are also stored in the order in which a CPU multiplies them. The results equal those
of the separate layers. All but small weights exist once in memory: the layers have views of the
joined ones. The rotation equals x * cos + rotate_half(x) * sin, where rotate_half swaps the halves
of x and negates the first one; here the sign is part of the sine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.backends import mkldnn
from torch.nn import functional

# Maximum size of a matrix that is stored a second time, which reduces the time of a captcha by a
# fifth. Matrices of the bundled checkpoint are smaller, most of the 2B's are larger.
MAX_PACKED_PARAMETERS = 2 * 1024**2


class FusedLinear:
    """One linear layer, or several with the same input, whose results are concatenated.

    Layers of another class than `nn.Linear`, as in a quantised checkpoint, are called unchanged.

    Args:
        layers: Layers on one device; all of them with a bias, or none.
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
        """Return the layers' results for states (..., C), concatenated along the last dim."""
        if self._packed is not None:
            return _multiply(states, self._packed, self._bias)
        if self._weight is not None:
            return functional.linear(states, self._weight, self._bias)
        return torch.cat([layer(states) for layer in self._layers], dim=-1)


def _join(layers: Sequence[nn.Linear], name: str) -> torch.Tensor:
    """Return a parameter of all layers, concatenated; each layer's becomes a view of its part."""
    parts: list[torch.Tensor] = [getattr(layer, name).detach() for layer in layers]
    if len(parts) == 1:
        return parts[0]
    whole = torch.cat(parts)
    views = torch.split(whole, [len(part) for part in parts])
    for layer, view in zip(layers, views, strict=True):
        setattr(layer, name, nn.Parameter(view, requires_grad=False))
    return whole


def _pack(weight: torch.Tensor) -> torch.Tensor | None:
    """Return a small weight matrix in the layout of oneDNN, None where that has no benefit.

    Otherwise oneDNN reorders it in each call. torch's compiler uses the same operators for a linear
    layer with a frozen weight.
    """
    present: bool = mkldnn.is_available()  # type: ignore[no-untyped-call]
    if weight.device.type != "cpu" or weight.numel() > MAX_PACKED_PARAMETERS or not present:
        return None
    try:
        packed: torch.Tensor = torch.ops.mkldnn._reorder_linear_weight(weight)
    except (AttributeError, RuntimeError):  # Builds of torch for some processors lack it.
        return None
    return packed


def _multiply(
    states: torch.Tensor, packed: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    """Return the output of a linear layer with a packed weight for states (..., C)."""
    result: torch.Tensor = torch.ops.mkldnn._linear_pointwise(states, packed, bias, "none", [], "")
    return result


@dataclass(frozen=True, slots=True)
class Rotation:
    """Cosine and signed sine of each position's angles; the last dim is a head's size."""

    cos: torch.Tensor
    signed_sin: torch.Tensor

    @classmethod
    def from_cos_sin(cls, cos: torch.Tensor, sin: torch.Tensor) -> Rotation:
        """Return the rotation by angles, given by their cosine and sine."""
        first, second = sin.chunk(2, dim=-1)
        return cls(cos, torch.cat([-first, second], dim=-1))

    @classmethod
    def concatenated(cls, rotations: Sequence[Rotation]) -> Rotation:
        """Return rotations concatenated along the first dim."""
        if len(rotations) == 1:
            return rotations[0]
        return cls(
            torch.cat([rotation.cos for rotation in rotations]),
            torch.cat([rotation.signed_sin for rotation in rotations]),
        )

    def turn_in_place(self, states: torch.Tensor) -> None:
        """Rotate the states in place; their shape must broadcast with the rotation's."""
        swapped = states.roll(states.shape[-1] // 2, dims=-1).mul_(self.signed_sin)
        states.mul_(self.cos).add_(swapped)

    def to(self, device: torch.device) -> Rotation:
        """Return the rotation on another device."""
        if self.cos.device == device:
            return self
        return Rotation(self.cos.to(device), self.signed_sin.to(device))

    def between(self, start: int, end: int) -> Rotation:
        """Return the positions from `start` to before `end`, along the second dim."""
        return Rotation(self.cos[:, start:end], self.signed_sin[:, start:end])

    def rows(self, indices: torch.Tensor) -> Rotation:
        """Return the rotations of some rows, the first dim."""
        indices = indices.to(self.cos.device)
        return Rotation(self.cos[indices], self.signed_sin[indices])
