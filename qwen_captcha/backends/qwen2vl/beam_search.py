"""Beam search: the most probable outputs among those that are allowed.

All hypotheses of all searches share one forward pass a step. A search does not depend on the
others. Every output that ended is inside its search's charset and length.

Dims: R live hypotheses of all searches, V vocabulary, k choices a hypothesis.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np

from qwen_captcha.backends.qwen2vl.arrays import Bools, Floats, Ints
from qwen_captcha.backends.qwen2vl.greedy import Decoded, log_of_sum
from qwen_captcha.backends.qwen2vl.language_model import CacheT, Prompts, check_finite
from qwen_captcha.backends.qwen2vl.search_plan import SearchPlan
from qwen_captcha.backends.qwen2vl.vocabulary import Vocabulary, count_characters, log_sum

# An output this much less probable than another one is pruned: one in 10,000.
NEGLIGIBLE = math.log(1e-4)


@dataclass(frozen=True, slots=True)
class _Hypothesis:
    """The tokens of an output, which may have ended.

    Attributes:
        token_ids: The tokens, without the end token.
        log_probability: Sum over all choices, relative to the whole vocabulary.
        scores: As in `Decoded`.
        spelling: The bytes of the tokens.
        pending: The bytes at the end of `spelling` that are no whole character yet.
        parent: The index of the row that it extends.
    """

    token_ids: tuple[int, ...] = ()
    log_probability: float = 0.0
    scores: tuple[float, ...] = ()
    spelling: bytes = b""
    pending: bytes = b""
    parent: int = 0

    def decoded(self, *, complete: bool) -> Decoded:
        """Return the hypothesis as an output."""
        return Decoded(list(self.token_ids), self.log_probability, list(self.scores), complete)


@dataclass(frozen=True, slots=True)
class _Choices:
    """The allowed continuations of each live hypothesis: log-probabilities, -inf where forbidden.

    Attributes:
        tokens: (R, k), the most probable tokens.
        values: (R, k), log-probabilities of `tokens`.
        other_cases: (R, k), those in the other letter case, -inf where `values` includes them.
        ends: (R), log-probabilities of the end.
        masses: (R), logs of the total probability of everything allowed.
    """

    tokens: list[list[int]]
    values: list[list[float]]
    other_cases: list[list[float]]
    ends: list[float]
    masses: list[float]


def search(
    prompts: Prompts[CacheT], vocabulary: Vocabulary, plans: Sequence[SearchPlan]
) -> list[list[Decoded]]:
    """Run searches together.

    Args:
        prompts: The prompts that the outputs continue.
        vocabulary: The model's tokens.
        plans: One plan for each search; several may have the same row.

    Returns:
        For each search its outputs, the most probable first. It has an incomplete output only if
        none ended within the maximum of tokens, and no output if nothing is allowed.

    Raises:
        NonFiniteLogitsError: The model computed infinities or NaN.
    """
    searches = [_Search(plan, number, vocabulary) for number, plan in enumerate(plans)]
    # The row of the cache that each live hypothesis extends.
    rows = np.array([plan.row for plan in plans])
    cache, log_probabilities = prompts.cache, prompts.log_probabilities[rows]
    cached = 0
    while True:
        choices = _choices(log_probabilities[:, 0], searches, vocabulary)
        first_row = 0
        for one in searches:
            count = len(one.live)
            one.advance(choices, first_row)
            first_row += count
        live = [hypothesis for one in searches for hypothesis in one.live]
        if not live:
            return [one.outputs() for one in searches]
        parents = np.array([hypothesis.parent for hypothesis in live])
        tokens = np.array([hypothesis.token_ids[-1:] for hypothesis in live])  # (R, 1)
        cache, log_probabilities = prompts.model.extend(cache, tokens, cached, rows[parents])
        rows = np.arange(len(live))
        cached += 1


def _choices(
    log_probabilities: Floats, searches: Sequence[_Search], vocabulary: Vocabulary
) -> _Choices:
    """Return the most probable allowed tokens of each live hypothesis.

    Args:
        log_probabilities: (R, V).
        searches: Their live hypotheses are the rows, in order.
        vocabulary: The model's tokens.
    """
    check_finite(log_probabilities)
    masks = np.stack([mask for one in searches for mask in one.masks()])  # (R, V)
    may_end = np.array([b for one in searches for b in one.may_end()])  # (R,)
    merging = np.array([one.plan.merge_cases for one in searches for _ in one.live])  # (R,)
    values = log_probabilities.copy()
    if merging.any():
        values[merging] = vocabulary.merge_cases(log_probabilities[merging])
    values[~masks] = -math.inf  # (R, V)
    ends = log_probabilities[:, sorted(vocabulary.end_ids)].max(axis=1)
    ends[~may_end] = -math.inf  # (R,)
    masses = np.logaddexp(log_sum(values), ends)  # (R,)
    tokens = _most_probable(values, max(one.plan.width for one in searches))  # (R, k)
    best = np.take_along_axis(values, tokens, axis=1)  # (R, k)
    other_cases = vocabulary.other_case(values, tokens)  # (R, k)
    if merging.any():
        other_cases[merging] = -math.inf
        tokens[merging] = vocabulary.spell_case(log_probabilities[merging], tokens[merging])
    return _Choices(
        tokens.tolist(), best.tolist(), other_cases.tolist(), ends.tolist(), masses.tolist()
    )


def _most_probable(values: Floats, count: int) -> Ints:
    """Return the columns (R, k) of the largest values (R, V), the largest first."""
    count = min(count, values.shape[1])
    largest = np.argpartition(-values, count - 1, axis=1)[:, :count]
    order = np.argsort(-np.take_along_axis(values, largest, axis=1), axis=1, kind="stable")
    return np.take_along_axis(largest, order, axis=1)


class _Search:
    """One search: its live hypotheses and the outputs found."""

    def __init__(self, plan: SearchPlan, number: int, vocabulary: Vocabulary) -> None:
        self.plan = plan
        self.live = [_Hypothesis(parent=number)]
        self._found: dict[bytes, _Hypothesis] = {}
        self._cut: list[_Hypothesis] = []
        self._vocabulary = vocabulary
        self._rules = vocabulary.rules(plan.charset)

    def masks(self) -> list[Bools]:
        """Return (V,) bool for each live hypothesis, the tokens that may follow."""
        masks = []
        for hypothesis in self.live:
            mask = self._rules.allowed(hypothesis.pending)
            if self.plan.max_length is not None:
                room = self.plan.max_length - count_characters(hypothesis.spelling)
                mask = mask & (self._vocabulary.characters <= room)
            masks.append(mask)
        return masks

    def may_end(self) -> list[bool]:
        """Return for each live hypothesis whether it is a whole output."""
        return [
            not hypothesis.pending and count_characters(hypothesis.spelling) >= self.plan.min_length
            for hypothesis in self.live
        ]

    def advance(self, choices: _Choices, first_row: int) -> None:
        """Extend the live hypotheses; their choices begin at `first_row`."""
        grown: dict[bytes, _Hypothesis] = {}
        for row, hypothesis in enumerate(self.live, first_row):
            if choices.ends[row] > -math.inf:
                score = choices.ends[row] - choices.masses[row]
                _add(self._found, _grown(hypothesis, choices.ends[row], score))
            # A wider search in the same batch may have needed more choices.
            found = zip(
                choices.tokens[row], choices.values[row], choices.other_cases[row], strict=True
            )
            for token, value, other_case in islice(found, self.plan.width):
                if value > -math.inf:
                    score = log_of_sum(value, other_case) - choices.masses[row]
                    longer = _grown(hypothesis, value, score)
                    _add(grown, self._with_token(longer, token, row))
        useful = (h for h in _by_probability(grown) if h.log_probability > self._min_useful())
        self.live = list(islice(useful, self.plan.width))
        if self.live and len(self.live[0].token_ids) == self.plan.max_new_tokens:
            self._cut, self.live = self.live[:1], []

    def outputs(self) -> list[Decoded]:
        """Return the outputs found, the most probable first."""
        if not self._found:
            return [hypothesis.decoded(complete=False) for hypothesis in self._cut]
        found = _by_probability(self._found)
        minimum = found[0].log_probability + NEGLIGIBLE
        useful = (h for h in found[: self.plan.wanted] if h.log_probability > minimum)
        return [hypothesis.decoded(complete=True) for hypothesis in useful]

    def _with_token(self, hypothesis: _Hypothesis, token: int, row: int) -> _Hypothesis:
        spelling = self._vocabulary.spellings[token] or b""
        return replace(
            hypothesis,
            token_ids=(*hypothesis.token_ids, token),
            spelling=hypothesis.spelling + spelling,
            pending=self._rules.rest(hypothesis.pending + spelling) or b"",
            parent=row,
        )

    def _min_useful(self) -> float:
        """Return the log-probability above which a hypothesis is extended."""
        if not self._found:
            return -math.inf
        found = _by_probability(self._found)
        last = found[self.plan.wanted - 1 :][:1]
        enough = last[0].log_probability if last else -math.inf
        return max(enough, found[0].log_probability + NEGLIGIBLE)


def _grown(hypothesis: _Hypothesis, value: float, score: float) -> _Hypothesis:
    """Return a hypothesis with the probabilities of one more choice."""
    return replace(
        hypothesis,
        log_probability=hypothesis.log_probability + value,
        scores=(*hypothesis.scores, score),
    )


def _add(hypotheses: dict[bytes, _Hypothesis], new: _Hypothesis) -> None:
    """Add a hypothesis; add its probability to that of one with the same spelling."""
    old = hypotheses.get(new.spelling)
    if old is not None:
        first, second = sorted((old, new), key=lambda h: -h.log_probability)
        both = log_of_sum(first.log_probability, second.log_probability)
        new = replace(first, log_probability=both)
    hypotheses[new.spelling] = new


def _by_probability(hypotheses: dict[bytes, _Hypothesis]) -> list[_Hypothesis]:
    return sorted(hypotheses.values(), key=lambda hypothesis: -hypothesis.log_probability)
