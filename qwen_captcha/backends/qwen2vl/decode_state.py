"""Prompts that a text model has read, and the rows of tokens that go on from them.

Responsible for: masks, positions and the cache over the steps; rows that branch off, change places
or end. Invariants: a row does not depend on its neighbours, and prompts that were read once can be
gone on from any number of times.

A pass may read tokens that are only drafted behind those that are certain: where a draft token
turns out right, what follows it is known without a pass of its own. Which are right is up to the
caller, and those that were not are forgotten.

Dims: B rows, T tokens of the prompts, N tokens of one pass, one certain and the others drafted,
R rows chosen among B, V vocabulary, S size of a head.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from qwen_captcha.backends.qwen2vl.layers import Rotation
from qwen_captcha.backends.qwen2vl.text_decoder import KeyValueCache, TextDecoder


class NonFiniteLogitsError(ArithmeticError):
    """The model computed infinities or NaN, as Qwen2-VL does in float16."""


@dataclass(frozen=True, slots=True)
class Prompts:
    """A batch of prompts after their prefill; `read` makes them.

    Attributes:
        decoder: Runs the text model.
        cache: Holds the prompts.
        logits: (B, N, V) of the first token behind each and behind each draft token.
        drafted: (B, N - 1) tokens that were drafted.
        attention_mask: (B, T) bool, False where a row is padded on its left.
        rotation: (B, steps - 1, 1, S) of the tokens to come.
        steps: Most tokens to come, the end token included.
    """

    decoder: TextDecoder
    cache: KeyValueCache
    logits: torch.Tensor
    drafted: torch.Tensor
    attention_mask: torch.Tensor
    rotation: Rotation
    steps: int

    @classmethod
    def read(
        cls,
        decoder: TextDecoder,
        embeddings: torch.Tensor,
        attention_mask: torch.Tensor,
        position_ids: torch.Tensor,
        steps: int,
        drafted: torch.Tensor,
    ) -> Prompts:
        """Run the prefill.

        Args:
            decoder: Runs the text model.
            embeddings: (B, T, width) of the prompts, image tokens in place.
            attention_mask: (B, T) bool, False where a row is padded on its left.
            position_ids: (3, B, T) M-RoPE positions.
            steps: Most tokens to come, the end token included.
            drafted: (B, N - 1) tokens to come, fewer than `steps`, none or any.
        """
        tokens, drafts = embeddings.shape[1], drafted.shape[1]
        cache = decoder.new_cache(tokens + steps - 1)
        rotation = decoder.rotation(_all_positions(position_ids, steps))
        if drafts:
            embeddings = torch.cat([embeddings, decoder.embed(drafted)], dim=1)
        logits = decoder.forward(
            embeddings,
            rotation.between(0, tokens + drafts),
            _prompt_mask(_with_later_tokens(attention_mask, drafts)),
            cache,
            wanted=1 + drafts,
        )
        later = rotation.between(tokens, tokens + steps - 1)
        return cls(decoder, cache, logits, drafted, attention_mask, later, steps)

    @property
    def device(self) -> torch.device:
        """Where places of rows are."""
        return self.attention_mask.device

    def go_on(self) -> DecodeState:
        """Return what goes on from all prompts, without a copy.

        It ends what was gone on with before in this way.
        """
        cache = self.cache.shared(self.attention_mask.shape[1])
        return DecodeState(self, cache, self.logits, self.attention_mask, self.rotation)

    def go_on_at(self, rows: torch.Tensor) -> DecodeState:
        """Return what goes on from the prompts at some places (R,), without the drafts."""
        return DecodeState(
            self,
            self.cache.selected(rows, self.attention_mask.shape[1]),
            self.logits[rows.to(self.logits.device), :1],
            self.attention_mask[rows],
            self.rotation.rows(rows),
        )


class DecodeState:
    """Rows of equally many tokens behind their prompts."""

    def __init__(
        self,
        prompts: Prompts,
        cache: KeyValueCache,
        logits: torch.Tensor,
        attention_mask: torch.Tensor,
        rotation: Rotation,
    ) -> None:
        self._decoder = prompts.decoder
        self._steps = prompts.steps
        self._prompt_tokens = prompts.attention_mask.shape[1]
        self._chosen = 0
        self._cache = cache
        self._logits = logits
        self._rotation = rotation
        self._padded = not bool(attention_mask.all())
        self._visible = _with_later_tokens(attention_mask, prompts.steps - 1)

    @property
    def device(self) -> torch.device:
        """Where places of rows are."""
        return self._visible.device

    def log_probabilities(self) -> torch.Tensor:
        """Return the log-probabilities (B, N, V) of the next token, and behind each draft token.

        Not finite ones are left to the caller, who fetches results from the device anyhow.
        """
        return self._logits.float().log_softmax(dim=-1)

    def choose(self, tokens: torch.Tensor, right: int = 0) -> None:
        """Put more tokens behind each row.

        Args:
            tokens: (B, N), one that is certain and draft tokens for what follows it. Draft tokens
                beyond the steps are left out.
            right: How many of the draft tokens before were right in all rows.
        """
        self._cache.advance(right)
        start = self._chosen + right
        tokens = tokens[:, : self._steps - 1 - start].to(self._decoder.device)
        count = tokens.shape[1]
        self._logits = self._decoder.forward(
            self._decoder.embed(tokens),
            self._rotation.between(start, start + count),
            self._mask(start, count),
            self._cache,
            wanted=count,
        )
        self._chosen = start + 1
        self._cache.forget(count - 1)

    def _mask(self, start: int, count: int) -> torch.Tensor | None:
        """Return which tokens of a pass see which, (B, 1, N, K); None where one sees all."""
        if count == 1 and not self._padded:
            return None
        before = self._prompt_tokens + start
        visible = self._visible[:, None, None, : before + count]  # (B, 1, 1, K)
        square = visible.new_ones(count, before + count)  # (N, K)
        return visible & square.tril(before)

    def select(self, rows: torch.Tensor) -> None:
        """Keep the rows at some places (R,), in that order, each as often as it is there."""
        self._cache = self._cache.selected(rows, self._prompt_tokens + self._chosen)
        self._logits = self._logits[rows.to(self._logits.device)]
        self._visible = self._visible[rows]
        self._rotation = self._rotation.rows(rows)


def _prompt_mask(attention_mask: torch.Tensor) -> torch.Tensor | None:
    """Return which tokens of padded prompts see which, (B, 1, T, T); None without padding."""
    if bool(attention_mask.all()):
        return None
    tokens = attention_mask.shape[1]
    square = torch.ones(tokens, tokens, dtype=torch.bool, device=attention_mask.device)
    visible = attention_mask[:, None] & square.tril()  # (B, T, T)
    # Padding sees itself: a row of attention that sees nothing would be NaN.
    return (visible | square.diag().diag()).unsqueeze(1)


def _with_later_tokens(attention_mask: torch.Tensor, count: int) -> torch.Tensor:
    """Return an attention mask (B, T) with that of tokens to come, which are never padding."""
    return torch.nn.functional.pad(attention_mask, (0, count), value=True)


def _all_positions(position_ids: torch.Tensor, steps: int) -> torch.Tensor:
    """Return M-RoPE positions (3, B, T) and those of the tokens to come, (3, B, T + steps - 1)."""
    # Text goes on after the largest position, which an image's width may have set.
    first = position_ids.amax(dim=(0, 2)) + 1  # (B,)
    later = first.unsqueeze(1) + torch.arange(steps - 1, device=first.device)  # (B, steps - 1)
    return torch.cat([position_ids, later.expand(3, -1, -1)], dim=2)
