"""Decoding in memory of fixed size, whose every step is the same work: what a CUDA graph repeats.

A step chooses the most probable token and writes what it has read to where a tensor says, so that
no step waits for the CPU and none has a shape of its own.

Dims: B rows, K tokens that the cache has room for, S size of a head, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from qwen_captcha.backends.qwen2vl.pytorch.layers import Rotation
from qwen_captcha.backends.qwen2vl.pytorch.model import PyTorchCache
from qwen_captcha.backends.qwen2vl.pytorch.text_decoder import KeyValueCache, TextDecoder


class StaticCache(KeyValueCache):
    """The memory of a prefilled cache, written at one place and read as a whole.

    Args:
        prefilled: Has room for the tokens to come.
        place: (1,) where the next token goes.
    """

    def __init__(self, prefilled: KeyValueCache, place: torch.Tensor) -> None:
        super().__init__(len(prefilled._stores), prefilled._capacity)
        self._stores = prefilled._stores
        self._place = place

    def append(self, layer: int, states: torch.Tensor) -> torch.Tensor:
        """Store the states (B, 1, 2 * G, S) of a step; return the whole store (B, 2 * G, K, S)."""
        store = self._stores[layer]
        assert store is not None
        store.index_copy_(2, self._place, states.transpose(1, 2))
        return store

    def advance(self, tokens: int) -> None:
        """Do nothing: the step itself moves on."""


class StaticDecoding:
    """Greedy decoding of a prefilled batch whose rows have one length.

    Args:
        decoder: Has read the prompts.
        cache: What it has read.
        first: (B, 1) the tokens that were chosen behind the prompts.
        steps: Tokens to choose for each row, the first included.
    """

    def __init__(
        self, decoder: TextDecoder, cache: PyTorchCache, first: torch.Tensor, steps: int
    ) -> None:
        self._decoder = decoder
        self._rotation = cache.rotation
        self._prompt = cache.attention_mask.shape[1]
        self._first = first
        self._steps = steps
        device = first.device
        self._place = torch.zeros(1, dtype=torch.int64, device=device)
        self._count = torch.zeros_like(self._place)
        self._token = torch.zeros_like(first)
        rows, capacity = len(first), self._prompt + steps - 1
        self._visible = torch.zeros((rows, 1, 1, capacity), dtype=torch.bool, device=device)
        # Of each row, the chosen tokens and the log-probability of each.
        self._tokens = torch.zeros((rows, steps), dtype=torch.int64, device=device)
        self._scores = torch.zeros((rows, steps), device=device)
        self._cache = StaticCache(cache.states, self._place)

    def run(self, step: Callable[[], None]) -> torch.Tensor:
        """Return the chosen tokens (B, steps), on the CPU; `step` is `self.step` or a form of it.

        It starts behind the prompts each time.
        """
        self._place.fill_(self._prompt)
        self._count.fill_(1)
        self._visible.zero_()
        self._visible[..., : self._prompt] = True
        self._token.copy_(self._first)
        self._tokens[:, :1] = self._first
        for _ in range(self._steps - 1):
            step()
        return self._tokens.cpu()

    def step(self) -> None:
        """Read the last token and choose the next one."""
        self._visible.index_fill_(3, self._place, True)
        before = self._count - 1
        rotation = Rotation(
            self._rotation.cos.index_select(1, before),
            self._rotation.signed_sin.index_select(1, before),
        )
        embedded = self._decoder.embed(self._token)  # (B, 1, C)
        logits = self._decoder.forward(embedded, rotation, self._visible, self._cache)  # (B, 1, V)
        best = logits[:, 0].float().log_softmax(dim=-1).max(dim=-1, keepdim=True)  # (B, 1) each
        self._token.copy_(best.indices)
        self._tokens.index_copy_(1, self._count, best.indices)
        self._scores.index_copy_(1, self._count, best.values)
        self._place.add_(1)
        self._count.add_(1)


def as_graph(decoding: StaticDecoding, step: Callable[[], None]) -> Callable[[], None]:
    """Return a step that repeats a recording of the kernels of `step`; CUDA only."""
    # Libraries and compiled code prepare themselves at the first call, which cannot be recorded.
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        decoding.run(step)
    torch.cuda.current_stream().wait_stream(stream)
    # A recording runs nothing, but the tensors that it moves on must be within their range.
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay
