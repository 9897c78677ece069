"""Muon for the matrices inside blocks, AdamW for embeddings, norms, biases and the patch kernel.

Responsible for: which parameter is learnt by which rule, as one object. Source: K. Jordan's Muon
in PyTorch's version, with the step scaled to AdamW's size, so that both share one learning rate.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

# Without the merger's 1024 x 1024 matrix: orthogonalising it costs more than all the others do.
_INSIDE = ("visual.blocks.", "language_model.layers.")


class Optimizers:
    """The two optimisers of a run, stepped together at one learning rate."""

    def __init__(self, module: nn.Module) -> None:
        matrices: list[nn.Parameter] = []
        others: list[nn.Parameter] = []
        for name, parameter in module.named_parameters():
            inside = parameter.ndim == 2 and any(part in name for part in _INSIDE)
            (matrices if inside else others).append(parameter)
        self.muon = torch.optim.Muon(
            matrices, momentum=0.95, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"
        )
        self.adamw = torch.optim.AdamW(others, betas=(0.9, 0.98), weight_decay=0.01, fused=True)

    def zero_grad(self) -> None:
        """Drop all gradients."""
        self.muon.zero_grad(set_to_none=True)
        self.adamw.zero_grad(set_to_none=True)

    def step(self, learning_rate: float) -> None:
        """Take one step at `learning_rate`."""
        optimizers: tuple[torch.optim.Optimizer, ...] = (self.muon, self.adamw)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate
            optimizer.step()

    def state_dict(self) -> dict[str, Any]:
        """Return both states."""
        return {"muon": self.muon.state_dict(), "adamw": self.adamw.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from both states."""
        self.muon.load_state_dict(state["muon"])
        self.adamw.load_state_dict(state["adamw"])
