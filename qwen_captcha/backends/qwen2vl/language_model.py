"""The interface between the search and an engine: prefill prompts, extend them token by token.

All inputs and outputs are NumPy arrays, so that PyTorch and ONNX Runtime share one search. A pass
may read draft tokens after a certain one: if a draft is right, the token after it needs no further
pass.

Dims: B rows, R rows that are extended, T tokens of the prompts, N tokens of one pass, one certain
and the others drafted, K keys of a pass, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import numpy as np

from qwen_captcha.backends.qwen2vl.arrays import Bools, Floats, Ints
from qwen_captcha.backends.qwen2vl.preprocessing import Batch

# Keys and values of a batch, in the form of the engine.
CacheT = TypeVar("CacheT")


class NonFiniteLogitsError(ArithmeticError):
    """The model computed infinities or NaN, as Qwen2-VL does in float16."""


class LanguageModel(Protocol[CacheT]):
    """A loaded Qwen2-VL. The caller checks log-probabilities with `check_finite`."""

    def prefill(self, batch: Batch, drafted: Ints, steps: int) -> tuple[CacheT, Floats]:
        """Read the images and prompts of a batch.

        Args:
            batch: The images and prompts.
            drafted: (B, N - 1) draft tokens after each prompt, fewer than `steps`.
            steps: Maximum number of tokens to come, the end token included.

        Returns:
            The cache, and the log-probabilities (B, N, V) of the token after each prompt and
            after each draft token.
        """

    def extend(
        self, cache: CacheT, tokens: Ints, cached: int, rows: Ints | None = None
    ) -> tuple[CacheT, Floats]:
        """Read more tokens.

        Args:
            cache: The result of an earlier pass. It can be extended any number of times, but
                without `rows` its draft tokens are overwritten.
            tokens: (R, N), one certain token and the draft tokens after it.
            cached: Number of tokens after the prompts that remain in the cache.
            rows: (R,) the rows of the cache that are extended; None for all rows.

        Returns:
            The cache of these rows, and the log-probabilities (R, N, V) after each token.
        """


@dataclass(frozen=True, slots=True)
class Prompts(Generic[CacheT]):
    """A batch of prompts after their prefill, which can be extended any number of times.

    Attributes:
        model: The model that has read the prompts.
        cache: The keys and values of the prompts.
        log_probabilities: (B, N, V) after each prompt and each draft token.
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
    """Check that all log-probabilities are finite.

    One NaN or infinity among the logits of a row makes its least log-probability not finite.

    Raises:
        NonFiniteLogitsError: A log-probability is not finite.
    """
    if not np.isfinite(log_probabilities.min()):
        raise NonFiniteLogitsError("The model's logits are not finite.")


def prompt_mask(attention_mask: Bools, drafted: int) -> Bools | None:
    """Return the attention mask of padded prompts and the draft tokens after them.

    Args:
        attention_mask: (B, T), False where a row is padded on its left.
        drafted: Number of draft tokens after each prompt.

    Returns:
        (B, 1, K, K), True where a token attends to another; None for causal attention.
    """
    if attention_mask.all():
        return None
    visible = _with_later_tokens(attention_mask, drafted)  # (B, K)
    tokens = visible.shape[1]
    square = np.tri(tokens, dtype=np.bool_)
    # Padding attends to itself: a fully masked row of attention would be NaN.
    mask = (visible[:, None] & square) | np.eye(tokens, dtype=np.bool_)
    return mask[:, None]


def extension_mask(attention_mask: Bools, cached: int, tokens: int) -> Bools | None:
    """Return the attention mask of a pass after the prompts and further cached tokens.

    Args:
        attention_mask: (R, T) of the prompts.
        cached: Number of tokens between the prompts and those of the pass.
        tokens: N.

    Returns:
        (R, 1, N, K); None if the pass is one token that attends to all before it.
    """
    if tokens == 1 and attention_mask.all():
        return None
    before = attention_mask.shape[1] + cached
    visible = _with_later_tokens(attention_mask, cached + tokens)  # (R, K)
    return visible[:, None, None] & np.tri(tokens, before + tokens, before, dtype=np.bool_)


def with_later_positions(position_ids: Ints, steps: int) -> Ints:
    """Return M-RoPE positions (3, B, T) and those of the tokens to come, (3, B, T + steps - 1)."""
    # Text continues after the largest position, which may be that of an image's last column.
    first = position_ids.max(axis=(0, 2)) + 1  # (B,)
    later = first[:, None] + np.arange(steps - 1)  # (B, steps - 1)
    return np.concatenate([position_ids, np.broadcast_to(later, (3, *later.shape))], axis=2)


def _with_later_tokens(attention_mask: Bools, count: int) -> Bools:
    """Return an attention mask (B, T) with that of tokens to come, which are never padding."""
    return np.pad(attention_mask, ((0, 0), (0, count)), constant_values=True)
