"""The greedy decoding loop: the most probable token, until the end, for every checkpoint.

The tokens are those of `generate` without sampling and penalties, whatever a checkpoint's
generation config contains (a repetition penalty ruins `1111`). A row's result does not depend on
the other rows. Logits that are not finite are an error and never an answer.

Dims: B batch, N tokens of a pass, one certain and the others drafted, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from qwen_captcha.backends.qwen2vl.arrays import Floats, Ints
from qwen_captcha.backends.qwen2vl.language_model import CacheT, Prompts, check_finite
from qwen_captcha.backends.qwen2vl.vocabulary import Vocabulary


@dataclass(slots=True)
class Decoded:
    """The decoded tokens of one row.

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


@dataclass(frozen=True, slots=True)
class _Choice:
    """The most probable next token of one row, behind certain tokens or behind a draft token.

    Attributes:
        token: Its id.
        log_probability: Natural log of its probability.
        other_case: That of the token in the other case of its letters, -inf where it has none.
    """

    token: int
    log_probability: float
    other_case: float


def log_of_sum(first: float, second: float) -> float:
    """Return the log of the sum of two probabilities, given by theirs; the first is not -inf."""
    return first + math.log1p(math.exp(second - first))


def decode_greedily(
    prompts: Prompts[CacheT], vocabulary: Vocabulary, max_new_tokens: Sequence[int]
) -> list[Decoded]:
    """Decode all rows of a batch.

    Each pass reads one token that is certain and the draft tokens behind it, all rows alike; the
    most probable tokens that it finds are the next drafts. As soon as none is left to try, a pass
    reads one token.

    Source: Jacobi decoding, Song et al. 2021, https://arxiv.org/abs/2002.03629 and Santilli et al.
    2023, https://arxiv.org/abs/2305.10427.

    Args:
        prompts: What the rows go on from.
        vocabulary: The model's tokens.
        max_new_tokens: Maximum tokens of each row, the end token included.

    Raises:
        NonFiniteLogitsError: The model's results cannot be used.
    """
    cache, log_probabilities = prompts.cache, prompts.log_probabilities
    kept = 0
    decoded = [Decoded() for _ in max_new_tokens]
    running = {index for index, limit in enumerate(max_new_tokens) if limit > 0}
    drafted: list[list[int]] = prompts.drafted.tolist()
    while running:
        chosen, choices = _find_choices(log_probabilities, vocabulary)
        right = 0
        while _add(choices, right, decoded, running, max_new_tokens, vocabulary):
            if right == len(choices[0]) - 1 or any(
                drafted[row][right] != choices[row][right].token for row in running
            ):
                # Finished rows go on as ballast: dropping them would copy the whole cache.
                kept += right
                tokens = chosen[:, right:][:, : prompts.steps - 1 - kept]
                cache, log_probabilities = prompts.model.extend(cache, tokens, kept)
                kept += 1
                drafted = [[choice.token for choice in row[right + 1 :]] for row in choices]
                break
            right += 1
    return decoded


def _find_choices(
    log_probabilities: Floats, vocabulary: Vocabulary
) -> tuple[Ints, list[list[_Choice]]]:
    """Return the most probable tokens (B, N) behind each row and each draft token.

    Args:
        log_probabilities: (B, N, V).
        vocabulary: The model's tokens.
    """
    check_finite(log_probabilities)
    chosen = log_probabilities.argmax(axis=-1, keepdims=True)  # (B, N, 1)
    best = np.take_along_axis(log_probabilities, chosen, axis=-1)  # (B, N, 1)
    other = vocabulary.other_case(log_probabilities, chosen)  # (B, N, 1)
    choices = [
        [_Choice(*choice) for choice in zip(*row, strict=True)]
        for row in zip(*(a[..., 0].tolist() for a in (chosen, best, other)), strict=True)
    ]
    return chosen[..., 0], choices


def _add(
    choices: Sequence[Sequence[_Choice]],
    place: int,
    decoded: Sequence[Decoded],
    running: set[int],
    max_new_tokens: Sequence[int],
    vocabulary: Vocabulary,
) -> bool:
    """Add the choice at a place to each row that runs; return whether any still does."""
    for index in list(running):
        choice, row = choices[index][place], decoded[index]
        row.log_probability += choice.log_probability
        row.scores.append(log_of_sum(choice.log_probability, choice.other_case))
        row.complete = choice.token in vocabulary.end_ids
        if not row.complete:
            row.token_ids.append(choice.token)
        if row.complete or len(row.scores) == max_new_tokens[index]:
            running.remove(index)
    return bool(running)
