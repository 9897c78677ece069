"""A loaded Qwen2-VL that reads batches of images.

One thread uses an engine. Outputs come in the order of the requests.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Generic

import numpy as np

from qwen_captcha.backends.qwen2vl.arrays import Ints
from qwen_captcha.backends.qwen2vl.beam_search import search
from qwen_captcha.backends.qwen2vl.greedy import Decoded, decode_greedily
from qwen_captcha.backends.qwen2vl.language_model import CacheT, LanguageModel, Prompts
from qwen_captcha.backends.qwen2vl.preprocessing import PixelRange, Preprocessor
from qwen_captcha.backends.qwen2vl.search_plan import SearchPlan, plan_searches
from qwen_captcha.backends.qwen2vl.vocabulary import Vocabulary
from qwen_captcha.recognition.reading import GenerationOutput, GenerationRequest

# Tokens drafted ahead of a lone image's answer: common answers have 5 to 7, the end included. The
# bundled checkpoint, which was trained on drafts, then reads a captcha in 2.2 passes
# instead of 6, in a fifth less time.
DRAFT_TOKENS = 6


class Qwen2VLEngine(Generic[CacheT]):
    """Reads images with a loaded model.

    Args:
        model: The model of the forward passes.
        preprocessor: Prepares the inputs of the model.
        vocabulary: The tokens of the model.
    """

    def __init__(
        self, model: LanguageModel[CacheT], preprocessor: Preprocessor, vocabulary: Vocabulary
    ) -> None:
        self._model = model
        self._preprocessor = preprocessor
        self._vocabulary = vocabulary

    def read(
        self, requests: Sequence[GenerationRequest], pixel_range: PixelRange | None = None
    ) -> list[GenerationOutput]:
        """Read a batch.

        Args:
            requests: At least one request.
            pixel_range: Minimum and maximum pixels of a resized image; None for the range of the
                checkpoint.

        Raises:
            MemoryError: The batch does not fit the device's memory.
            NonFiniteLogitsError: The model computed infinities or NaN.
        """
        # Adjacent images of equal size share the calls of the vision encoder.
        order = sorted(
            range(len(requests)),
            key=lambda index: self._preprocessor.size_shown(requests[index].image, pixel_range),
        )
        outputs = self._read_in_order([requests[index] for index in order], pixel_range)
        by_index = dict(zip(order, outputs, strict=True))
        return [by_index[index] for index in range(len(requests))]

    def _read_in_order(
        self, requests: Sequence[GenerationRequest], pixel_range: PixelRange | None
    ) -> list[GenerationOutput]:
        limits = [request.max_new_tokens for request in requests]
        batch = self._preprocessor.prepare(requests, pixel_range)
        drafted = self._draft_tokens(len(requests), max(limits))
        prompts = Prompts.read(self._model, batch, drafted, max(limits))
        greedy = decode_greedily(prompts, self._vocabulary, limits)
        found = [[self._output(decoded)] for decoded in greedy]
        plans = [
            plan
            for row, (request, [output]) in enumerate(zip(requests, found, strict=True))
            for plan in _plan_searches(row, request, output)
        ]
        return self._searched(prompts, plans, found)

    def _searched(
        self,
        prompts: Prompts[CacheT],
        plans: Sequence[SearchPlan],
        found: list[list[GenerationOutput]],
    ) -> list[GenerationOutput]:
        """Return each row's outputs: those of its searches, else the greedy one."""
        for row in {plan.row for plan in plans}:
            found[row] = []
        if plans:
            results = search(prompts, self._vocabulary, plans)
            for plan, result in zip(plans, results, strict=True):
                found[plan.row] += map(self._output, result)
        return [_most_probable_first(outputs) for outputs in found]

    def _draft_tokens(self, rows: int, steps: int) -> Ints:
        """Return the tokens (rows, N - 1) that the prefill reads after the prompts as drafts."""
        # A pass over few tokens mostly waits for weights, so drafts of one row cost little. A pass
        # over many tokens mostly computes.
        count = min(DRAFT_TOKENS, steps - 1) if rows == 1 else 0
        return np.full((rows, count), self._vocabulary.draft_token)

    def _output(self, decoded: Decoded) -> GenerationOutput:
        text = self._vocabulary.decode(decoded.token_ids)
        tokens = self._vocabulary.read_tokens(decoded.token_ids, decoded.scores)
        return GenerationOutput(text, decoded.log_probability, decoded.complete, tuple(tokens))


def _plan_searches(
    row: int, request: GenerationRequest, greedy: GenerationOutput
) -> list[SearchPlan]:
    certainty = greedy.log_probability if greedy.complete else None
    return plan_searches(
        row,
        request.max_new_tokens,
        request.constraints,
        greedy.raw_response,
        -math.inf if certainty is None else certainty,
    )


def _most_probable_first(outputs: list[GenerationOutput]) -> GenerationOutput:
    """Return the most probable output with the others as its alternatives."""
    if not outputs:
        # The constraints allow no output of the model.
        return GenerationOutput("", -math.inf, complete=True)
    first, *others = sorted(outputs, key=lambda output: -(output.log_probability or 0.0))
    return replace(first, alternatives=tuple(others))
