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
            allowed tokens, in either case of its letters.
        complete: The end token was chosen within the row's maximum of tokens.
    """

    token_ids: list[int] = field(default_factory=list)
    log_probability: float = 0.0
    scores: list[float] = field(default_factory=list)
    complete: bool = False


@dataclass(frozen=True, slots=True)
class _Choice:
    """The most probable token of one row after a certain token or a draft token.

    Attributes:
        token: Its id.
        log_probability: Natural log of its probability.
        other_case: Log-probability of the token in the other letter case, -inf where it has none.
    """

    token: int
    log_probability: float
    other_case: float


def log_of_sum(first: float, second: float) -> float:
    """Return the log of the sum of two probabilities, given by their logs; `first` is finite."""
    return first + math.log1p(math.exp(second - first))


def decode_greedily(
    prompts: Prompts[CacheT], vocabulary: Vocabulary, max_new_tokens: Sequence[int]
) -> list[Decoded]:
    """Decode all rows of a batch.

    Each pass reads one certain token and the draft tokens after it, for all rows. The most probable
    tokens of a pass are the drafts of the next one. Without drafts, a pass reads one token.

    Source: Jacobi decoding, Song et al. 2021, https://arxiv.org/abs/2002.03629 and Santilli et al.
    2023, https://arxiv.org/abs/2305.10427.

    Args:
        prompts: The prompts that the rows continue.
        vocabulary: The model's tokens.
        max_new_tokens: Maximum tokens of each row, the end token included.

    Raises:
        NonFiniteLogitsError: The model computed infinities or NaN.
    """
    cache, log_probabilities = prompts.cache, prompts.log_probabilities
    cached = 0
    decoded = [Decoded() for _ in max_new_tokens]
    running = {index for index, limit in enumerate(max_new_tokens) if limit > 0}
    drafted: list[list[int]] = prompts.drafted.tolist()
    while running:
        chosen, choices = _find_choices(log_probabilities, vocabulary)
        accepted = 0
        while _add(choices, accepted, decoded, running, max_new_tokens, vocabulary):
            if accepted == len(choices[0]) - 1 or any(
                drafted[row][accepted] != choices[row][accepted].token for row in running
            ):
                # Finished rows stay in the batch: removing them would copy the whole cache.
                cached += accepted
                tokens = chosen[:, accepted:][:, : prompts.steps - 1 - cached]
                cache, log_probabilities = prompts.model.extend(cache, tokens, cached)
                cached += 1
                drafted = [[choice.token for choice in row[accepted + 1 :]] for row in choices]
                break
            accepted += 1
    return decoded


def _find_choices(
    log_probabilities: Floats, vocabulary: Vocabulary
) -> tuple[Ints, list[list[_Choice]]]:
    """Return the most probable tokens (B, N) after the certain token and each draft token.

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
    position: int,
    decoded: Sequence[Decoded],
    running: set[int],
    max_new_tokens: Sequence[int],
    vocabulary: Vocabulary,
) -> bool:
    """Add the choices at a position to the running rows; return whether any row still runs."""
    for index in list(running):
        choice, row = choices[index][position], decoded[index]
        row.log_probability += choice.log_probability
        row.scores.append(log_of_sum(choice.log_probability, choice.other_case))
        row.complete = choice.token in vocabulary.end_ids
        if not row.complete:
            row.token_ids.append(choice.token)
        if row.complete or len(row.scores) == max_new_tokens[index]:
            running.remove(index)
    return bool(running)
