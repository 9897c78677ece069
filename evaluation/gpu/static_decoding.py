"""Decoding in memory of fixed size with equal steps, which a CUDA graph can repeat.

A step chooses the most probable token, and writes keys and values at the index in a tensor. No step
waits for the CPU, and all steps have the same shapes.

Dims: B rows, K tokens that the cache has room for, S size of a head, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from qwen_captcha.backends.qwen2vl.pytorch.layers import Rotation
from qwen_captcha.backends.qwen2vl.pytorch.model import PyTorchCache
from qwen_captcha.backends.qwen2vl.pytorch.text_decoder import KeyValueCache, TextDecoder


class StaticCache(KeyValueCache):
    """The memory of a prefilled cache, written at one index and read as a whole.

    Args:
        prefilled: The cache, allocated for all tokens.
        index: (1,), the index of the next token.
    """

    def __init__(self, prefilled: KeyValueCache, index: torch.Tensor) -> None:
        super().__init__(len(prefilled._stores), prefilled._capacity)
        self._stores = prefilled._stores
        self._index = index

    def append(self, layer: int, states: torch.Tensor) -> torch.Tensor:
        """Store the states (B, 1, 2 * G, S) of a step; return the whole store (B, 2 * G, K, S)."""
        store = self._stores[layer]
        assert store is not None
        store.index_copy_(2, self._index, states.transpose(1, 2))
        return store

    def advance(self, tokens: int) -> None:
        """Do nothing: the step itself advances the index."""


class StaticDecoding:
    """Greedy decoding of a prefilled batch whose rows have one length.

    Args:
        decoder: The decoder that has read the prompts.
        cache: The cache of the prompts.
        first: (B, 1) the tokens that were chosen after the prompts.
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
        self._index = torch.zeros(1, dtype=torch.int64, device=device)
        self._count = torch.zeros_like(self._index)
        self._token = torch.zeros_like(first)
        rows, capacity = len(first), self._prompt + steps - 1
        self._visible = torch.zeros((rows, 1, 1, capacity), dtype=torch.bool, device=device)
        # The chosen tokens of each row, and the log-probability of each token.
        self._tokens = torch.zeros((rows, steps), dtype=torch.int64, device=device)
        self._scores = torch.zeros((rows, steps), device=device)
        self._cache = StaticCache(cache.states, self._index)

    def run(self, step: Callable[[], None]) -> torch.Tensor:
        """Return the chosen tokens (B, steps) on the CPU, each time from the prompts on.

        Args:
            step: `self.step`, or a compiled or recorded form of it.
        """
        self._index.fill_(self._prompt)
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
        self._visible.index_fill_(3, self._index, True)
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
        self._index.add_(1)
        self._count.add_(1)


def as_graph(decoding: StaticDecoding, step: Callable[[], None]) -> Callable[[], None]:
    """Return a step that replays the recorded kernels of `step`; CUDA only."""
    # The first call initializes libraries and compiled code, which cannot be recorded.
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        decoding.run(step)
    torch.cuda.current_stream().wait_stream(stream)
    # Recording runs nothing, but the index tensors must be within their range.
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay
