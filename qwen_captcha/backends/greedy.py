"""The greedy decoding loop: the most probable token, until the end, for every checkpoint.

Responsible for: choosing tokens, stopping each row, the probability of what was chosen. Leaves
caches and masks to `continuation.py`. Invariants: the tokens are those of `generate` without
sampling and penalties, whatever a checkpoint's generation config asks for (a repetition penalty
ruins `1111`); a row's result does not depend on its neighbours; logits that are not finite are an
error and never an answer.

Dims: B batch, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from qwen_captcha.backends.continuation import Continuation, NonFiniteLogitsError
from qwen_captcha.backends.vocabulary import Vocabulary


@dataclass(slots=True)
class Decoded:
    """What was decoded for one row.

    Attributes:
        token_ids: The chosen tokens, without the end token.
        log_probability: Natural log of the probability of all choices, the end token included.
        scores: For each choice, the end token included, the natural log of its probability among
            what was allowed, either case of its letters counted.
        complete: The end token was chosen before the row's tokens were used up.
    """

    token_ids: list[int] = field(default_factory=list)
    log_probability: float = 0.0
    scores: list[float] = field(default_factory=list)
    complete: bool = False


def decode_greedily(
    rows: Continuation, vocabulary: Vocabulary, max_new_tokens: Sequence[int]
) -> list[Decoded]:
    """Decode all rows of a batch.

    Args:
        rows: Prompts without tokens behind them.
        vocabulary: The model's tokens.
        max_new_tokens: For each row, most tokens it may choose, the end token included.

    Raises:
        NonFiniteLogitsError: The model's results cannot be used.
    """
    decoded = [Decoded() for _ in max_new_tokens]
    running = {index for index, limit in enumerate(max_new_tokens) if limit > 0}
    for step in range(max(max_new_tokens)):
        chosen = _choose(rows, decoded, running, vocabulary)
        running -= {i for i in running if decoded[i].complete or step + 1 == max_new_tokens[i]}
        if not running:
            break
        # Finished rows go on as ballast: dropping them would copy the whole cache.
        rows.choose(chosen)
    return decoded


def _choose(
    rows: Continuation, decoded: list[Decoded], running: set[int], vocabulary: Vocabulary
) -> torch.Tensor:
    """Add the most probable token to each row that still runs; return the tokens (B,)."""
    log_probabilities = rows.log_probabilities()  # (B, V)
    best, chosen = log_probabilities.max(dim=-1)  # (B,) each
    other = vocabulary.other_case(log_probabilities, chosen)  # (B,)
    # One NaN or infinity among the logits makes the sum not finite.
    total = log_probabilities.sum(dim=-1)  # (B,)
    # Fetched together: each fetch waits for the device. Ids are below 2^24, exact in float32.
    fetched = torch.stack([total, chosen.float(), best, other]).tolist()
    if not all(map(math.isfinite, fetched[0])):
        raise NonFiniteLogitsError("The model's logits are not finite.")
    for index, (token, log_probability, twin) in enumerate(zip(*fetched[1:], strict=True)):
        if index in running:
            row = decoded[index]
            row.log_probability += log_probability
            # The most probable token is at least as probable as its twin.
            row.scores.append(log_probability + math.log1p(math.exp(twin - log_probability)))
            row.complete = int(token) in vocabulary.end_ids
            if not row.complete:
                row.token_ids.append(int(token))
    return chosen
