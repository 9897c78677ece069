"""Muon for the matrices inside blocks, AdamW for embeddings, norms, biases and the patch kernel.

Both share one learning rate: Muon's step is scaled to AdamW's size. PyTorch's own Muon computes in
bf16 everywhere, which takes six times as long as all the rest of a step on a processor without
instructions for it. Source: K. Jordan's Muon, https://kellerjordan.github.io/posts/muon/.

Dims: N matrices of one shape, R rows, C columns.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

# Without the merger's 1024 x 1024 matrix: orthogonalising it costs more than all the others do.
_INSIDE = ("visual.blocks.", "language_model.layers.")
_MOMENTUM = 0.95
_WEIGHT_DECAY = 0.01
_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # steep at zero, and near enough to one after 5 rounds
_ROUNDS = 5


def orthogonalise(matrices: torch.Tensor) -> torch.Tensor:
    """Return matrices (N, R, C) with their singular values brought to between about 0.7 and 1.2."""
    a, b, c = _NEWTON_SCHULZ
    tall = matrices.size(1) > matrices.size(2)
    x = matrices.mT if tall else matrices
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp_min(1e-7)
    for _ in range(_ROUNDS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Momentum whose step is orthogonalised, matrices of one shape together.

    Args:
        matrices: Parameters (R, C).
        dtype: What the step is orthogonalised in, bf16 where that is faster.
    """

    def __init__(self, matrices: list[nn.Parameter], dtype: torch.dtype) -> None:
        super().__init__(matrices, {"lr": 0.0})
        self._dtype = dtype

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Take one step along the gradients that there are."""
        if closure is not None:
            raise ValueError("Muon takes no closure.")
        for group in self.param_groups:
            alike: defaultdict[torch.Size, list[nn.Parameter]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    alike[parameter.shape].append(parameter)
            for shape, parameters in alike.items():
                self._step_alike(parameters, group["lr"], 0.2 * max(shape) ** 0.5)

    def _step_alike(self, parameters: list[nn.Parameter], rate: float, scale: float) -> None:
        updates = torch.stack([self._momentum(parameter) for parameter in parameters])
        steps = orthogonalise(updates.to(self._dtype)).to(updates.dtype)
        for parameter, step in zip(parameters, steps, strict=True):
            parameter.mul_(1 - rate * _WEIGHT_DECAY).add_(step, alpha=-rate * scale)

    def _momentum(self, parameter: nn.Parameter) -> torch.Tensor:
        """Return Nesterov's look ahead along the running mean of the gradients."""
        gradient = parameter.grad
        assert gradient is not None
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        mean: torch.Tensor = state["momentum_buffer"].lerp_(gradient, 1 - _MOMENTUM)
        return gradient.lerp(mean, _MOMENTUM)


class Optimizers:
    """The two optimisers of a run, stepped together at one learning rate.

    Args:
        module: What learns.
        bf16: Whether Muon computes in bf16.
    """

    def __init__(self, module: nn.Module, *, bf16: bool) -> None:
        matrices: list[nn.Parameter] = []
        others: list[nn.Parameter] = []
        for name, parameter in module.named_parameters():
            inside = parameter.ndim == 2 and any(part in name for part in _INSIDE)
            (matrices if inside else others).append(parameter)
        self.muon = Muon(matrices, torch.bfloat16 if bf16 else torch.float32)
        self.adamw = torch.optim.AdamW(
            others, betas=(0.9, 0.98), weight_decay=_WEIGHT_DECAY, fused=True
        )

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
