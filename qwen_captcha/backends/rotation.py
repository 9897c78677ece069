"""The rotary position embedding, in the form that needs the fewest operations.

Responsible for: turning queries and keys by angles that are given. Invariant: exactly the values of
the usual x * cos + rotate_half(x) * sin, where rotate_half swaps the halves of x and negates the
first one; here the sign is in the sine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Rotation:
    """Cosine and signed sine of each position's angles; the last dim is a head's size."""

    cos: torch.Tensor
    signed_sin: torch.Tensor

    @classmethod
    def from_cos_sin(cls, cos: torch.Tensor, sin: torch.Tensor) -> Rotation:
        """Return the rotation by angles of which cosine and sine are known."""
        first, second = sin.chunk(2, dim=-1)
        return cls(cos, torch.cat([-first, second], dim=-1))

    @classmethod
    def concatenated(cls, rotations: Sequence[Rotation]) -> Rotation:
        """Return the rotations of one position after the other, along the first dim."""
        if len(rotations) == 1:
            return rotations[0]
        return cls(
            torch.cat([rotation.cos for rotation in rotations]),
            torch.cat([rotation.signed_sin for rotation in rotations]),
        )

    def turn_in_place(self, states: torch.Tensor) -> None:
        """Turn the states; their shape must broadcast with the rotation's."""
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

    def rows(self, places: torch.Tensor) -> Rotation:
        """Return the rotations at some places of the first dim."""
        places = places.to(self.cos.device)
        return Rotation(self.cos[places], self.signed_sin[places])
