"""The greedy decoding loop: the most probable token, until the end, for every checkpoint.

Responsible for: masks and positions over the steps, choosing tokens, stopping each row, the
probability of what was chosen. Leaves the forward passes to `text_decoder.py`. Invariants: the
tokens are those of `generate` without sampling and penalties, whatever a checkpoint's generation
config asks for (a repetition penalty ruins `1111`); a row's result does not depend on its
neighbours; logits that are not finite are an error and never an answer.

Dims: B batch, T tokens of the prompt, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from qwen_captcha.backends.rotation import Rotation
from qwen_captcha.backends.text_decoder import TextDecoder


class NonFiniteLogitsError(ArithmeticError):
    """The model computed infinities or NaN, as Qwen2-VL does in float16."""


@dataclass(slots=True)
class Decoded:
    """What was decoded for one row.

    Attributes:
        token_ids: The chosen tokens, without the end token.
        log_probability: Natural log of the probability of all choices, the end token included.
        complete: The end token was chosen before the row's tokens were used up.
    """

    token_ids: list[int] = field(default_factory=list)
    log_probability: float = 0.0
    complete: bool = False


def decode_greedily(
    decoder: TextDecoder,
    embeddings: torch.Tensor,
    attention_mask: torch.Tensor,
    position_ids: torch.Tensor,
    *,
    end_ids: frozenset[int],
    max_new_tokens: Sequence[int],
) -> list[Decoded]:
    """Decode all rows of a batch.

    Args:
        decoder: Runs the text model.
        embeddings: (B, T, width) of the prompts, image tokens in place.
        attention_mask: (B, T) bool, False where a row is padded on its left.
        position_ids: (3, B, T) M-RoPE positions.
        end_ids: Each of these tokens ends a row.
        max_new_tokens: For each row, most tokens it may choose, the end token included.

    Raises:
        NonFiniteLogitsError: The model's results cannot be used.
    """
    rows = [Decoded() for _ in max_new_tokens]
    running = {index for index, limit in enumerate(max_new_tokens) if limit > 0}
    steps = max(max_new_tokens)
    prompt_tokens = embeddings.shape[1]
    cache = decoder.new_cache(prompt_tokens + steps - 1)
    masks = _Masks(attention_mask, steps)
    later = _later_rotation(decoder, position_ids, steps)
    logits = decoder.forward(embeddings, decoder.rotation(position_ids), masks.prefill(), cache)
    for step in range(steps):
        chosen = _choose(logits, rows, running, end_ids)
        running -= {i for i in running if rows[i].complete or step + 1 == max_new_tokens[i]}
        if not running:
            break
        # Finished rows go on as ballast: dropping them would copy the whole cache.
        logits = decoder.forward(
            decoder.embed(chosen.unsqueeze(1).to(decoder.device)),
            later.between(step, step + 1),
            masks.step(prompt_tokens + step + 1),
            cache,
        )
    return rows


def _choose(
    logits: torch.Tensor, rows: list[Decoded], running: set[int], end_ids: frozenset[int]
) -> torch.Tensor:
    """Add the most probable token to each row that still runs; return the tokens (B,)."""
    log_probabilities = logits.float().log_softmax(dim=-1)  # (B, V)
    best, chosen = log_probabilities.max(dim=-1)  # (B,) each
    # One NaN or infinity among the logits makes the sum not finite.
    if not torch.isfinite(log_probabilities.sum()):
        raise NonFiniteLogitsError("The model's logits are not finite.")
    for index, (token, log_probability) in enumerate(
        zip(chosen.tolist(), best.tolist(), strict=True)
    ):
        if index in running:
            row = rows[index]
            row.log_probability += log_probability
            row.complete = token in end_ids
            if not row.complete:
                row.token_ids.append(token)
    return chosen


def _later_rotation(decoder: TextDecoder, position_ids: torch.Tensor, steps: int) -> Rotation:
    """Return the rotary embedding of the tokens to come, (B, 1, steps - 1, head size)."""
    # Text goes on after the largest position, which an image's width may have set.
    first = position_ids.amax(dim=(0, 2)) + 1  # (B,)
    positions = first.unsqueeze(1) + torch.arange(steps - 1, device=first.device)  # (B, steps - 1)
    return decoder.rotation(positions.expand(3, -1, -1))


class _Masks:
    """Attention masks over padded prompts; none where no row is padded."""

    def __init__(self, attention_mask: torch.Tensor, steps: int) -> None:
        self._prompt = attention_mask  # (B, T)
        self._padded = not bool(attention_mask.all())
        # (B, T + steps - 1): chosen tokens are never padding.
        self._all = torch.nn.functional.pad(attention_mask, (0, steps - 1), value=True)

    def prefill(self) -> torch.Tensor | None:
        """Return which tokens of the prompt see which, (B, 1, T, T)."""
        if not self._padded:
            return None
        tokens = self._prompt.shape[1]
        square = torch.ones(tokens, tokens, dtype=torch.bool, device=self._prompt.device)
        visible = self._prompt[:, None] & square.tril()  # (B, T, T)
        # Padding sees itself: a row of attention that sees nothing would be NaN.
        return (visible | square.diag().diag()).unsqueeze(1)

    def step(self, length: int) -> torch.Tensor | None:
        """Return what the newest of `length` tokens sees, (B, 1, 1, length)."""
        return self._all[:, None, None, :length] if self._padded else None
