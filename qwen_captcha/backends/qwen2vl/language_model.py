"""The interface between the search and an engine: prefill prompts, extend them token by token.

Everything that crosses is a NumPy array, so that one search serves PyTorch and ONNX Runtime. A
pass may read draft tokens behind those that are certain: where a draft turns out right, what
follows it is known without a pass of its own.

Dims: B rows, R rows that go on, T tokens of the prompts, N tokens of one pass, one certain and the
others drafted, K keys of a pass, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import numpy as np

from qwen_captcha.backends.qwen2vl.arrays import Bools, Floats, Ints
from qwen_captcha.backends.qwen2vl.preprocessing import Batch

# Keys and values of a batch, as an engine keeps them.
CacheT = TypeVar("CacheT")


class NonFiniteLogitsError(ArithmeticError):
    """The model computed infinities or NaN, as Qwen2-VL does in float16."""


class LanguageModel(Protocol[CacheT]):
    """A loaded Qwen2-VL. Log-probabilities that are not finite are left to the caller."""

    def prefill(self, batch: Batch, drafted: Ints, steps: int) -> tuple[CacheT, Floats]:
        """Read the images and prompts of a batch.

        Args:
            batch: The images and prompts.
            drafted: (B, N - 1) draft tokens behind each prompt, fewer than `steps`.
            steps: Maximum number of tokens to come, the end token included.

        Returns:
            The cache; and the log-probabilities (B, N, V) of the token behind each prompt and
            behind each draft token.
        """

    def extend(
        self, cache: CacheT, tokens: Ints, kept: int, rows: Ints | None = None
    ) -> tuple[CacheT, Floats]:
        """Read more tokens.

        Args:
            cache: What earlier passes returned. One without its draft tokens can be extended any
                number of times; the drafts of all but the latest are overwritten where `rows` is
                None.
            tokens: (R, N), one that is certain and draft tokens behind it.
            kept: How many of the tokens behind the prompts were right and stay.
            rows: (R,) the rows of the cache that go on; None: all of them.

        Returns:
            The cache of these rows, and the log-probabilities (R, N, V) behind each token.
        """


@dataclass(frozen=True, slots=True)
class Prompts(Generic[CacheT]):
    """A batch of prompts after their prefill, which can be extended any number of times.

    Attributes:
        model: Has read them.
        cache: Holds them.
        log_probabilities: (B, N, V) behind each prompt and each draft token.
        drafted: (B, N - 1) draft tokens.
        steps: Maximum number of tokens to come, the end token included.
    """

    model: LanguageModel[CacheT]
    cache: CacheT
    log_probabilities: Floats
    drafted: Ints
    steps: int

    @classmethod
    def read(
        cls, model: LanguageModel[CacheT], batch: Batch, drafted: Ints, steps: int
    ) -> Prompts[CacheT]:
        """Run the prefill; the arguments are those of `LanguageModel.prefill`."""
        return cls(model, *model.prefill(batch, drafted, steps), drafted, steps)


def check_finite(log_probabilities: Floats) -> None:
    """Refuse log-probabilities of which one is not finite.

    Raises:
        NonFiniteLogitsError: One NaN or infinity among the logits makes the least not finite.
    """
    if not np.isfinite(log_probabilities.min()):
        raise NonFiniteLogitsError("The model's logits are not finite.")


def prompt_mask(attention_mask: Bools, drafted: int) -> Bools | None:
    """Return which tokens of padded prompts and of drafts behind them attend to which.

    Args:
        attention_mask: (B, T), False where a row is padded on its left.
        drafted: Draft tokens behind each prompt.

    Returns:
        (B, 1, K, K); None where attention is causal.
    """
    if attention_mask.all():
        return None
    visible = _with_later_tokens(attention_mask, drafted)  # (B, K)
    tokens = visible.shape[1]
    square = np.tri(tokens, dtype=np.bool_)
    # Padding attends to itself: a fully masked row of attention would be NaN.
    mask = (visible[:, None] & square) | np.eye(tokens, dtype=np.bool_)
    return mask[:, None]


def extension_mask(attention_mask: Bools, kept: int, tokens: int) -> Bools | None:
    """Return which tokens attend to which in a pass behind the prompts and the tokens kept.

    Args:
        attention_mask: (R, T) of the prompts.
        kept: Tokens between the prompts and those of the pass.
        tokens: N.

    Returns:
        (R, 1, N, K); None where one token attends to all before it.
    """
    if tokens == 1 and attention_mask.all():
        return None
    before = attention_mask.shape[1] + kept
    visible = _with_later_tokens(attention_mask, kept + tokens)  # (R, K)
    return visible[:, None, None] & np.tri(tokens, before + tokens, before, dtype=np.bool_)


def with_later_positions(position_ids: Ints, steps: int) -> Ints:
    """Return M-RoPE positions (3, B, T) and those of the tokens to come, (3, B, T + steps - 1)."""
    # Text goes on after the largest position, which an image's width may have set.
    first = position_ids.max(axis=(0, 2)) + 1  # (B,)
    later = first[:, None] + np.arange(steps - 1)  # (B, steps - 1)
    return np.concatenate([position_ids, np.broadcast_to(later, (3, *later.shape))], axis=2)


def _with_later_tokens(attention_mask: Bools, count: int) -> Bools:
    """Return an attention mask (B, T) with that of tokens to come, which are never padding."""
    return np.pad(attention_mask, ((0, 0), (0, count)), constant_values=True)
