"""A loaded Qwen2-VL that reads batches of images.

Responsible for: one batch from requests to outputs. Invariants: one thread uses an engine; outputs
come in the order of the requests; running out of memory is a MemoryError, whatever the device calls
it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from transformers import Qwen2VLForConditionalGeneration, Qwen2VLProcessor

from qwen_captcha.backends.qwen2vl.beam_search import search
from qwen_captcha.backends.qwen2vl.decode_state import Prompts
from qwen_captcha.backends.qwen2vl.greedy import Decoded, decode_greedily
from qwen_captcha.backends.qwen2vl.preprocessing import Batch, Preprocessor
from qwen_captcha.backends.qwen2vl.search_plan import SearchPlan, plan_searches
from qwen_captcha.backends.qwen2vl.text_decoder import TextDecoder
from qwen_captcha.backends.qwen2vl.vision_encoder import VisionEncoder
from qwen_captcha.backends.qwen2vl.vocabulary import Vocabulary
from qwen_captcha.recognition.reading import GenerationOutput, GenerationRequest

# What torch's CPU allocator says, as a plain RuntimeError.
CPU_OUT_OF_MEMORY = ("can't allocate memory", "not enough memory")
# Tokens drafted ahead of a lone image's answer: common answers have 5 to 7, the end included. The
# bundled checkpoint, which was trained on drafts, then reads a captcha in 2.2 passes
# instead of 6, in a fifth less time.
DRAFT_TOKENS = 6
# Tokens that end an answer of any Qwen2-VL, also where a configuration names only one of them.
END_TOKENS = ("<|im_end|>", "<|endoftext|>")


class Qwen2VLEngine:
    """Reads images with a loaded model and its processor."""

    def __init__(self, model: Qwen2VLForConditionalGeneration, processor: Qwen2VLProcessor) -> None:
        self._tokenizer = processor.tokenizer
        self._image_token_id = processor.image_token_id
        self._preprocessor = Preprocessor(processor, model.model)
        self._vision = VisionEncoder(model.model.visual)
        self._decoder = TextDecoder(model)
        self._vocabulary = Vocabulary(
            processor.tokenizer,
            model.lm_head.out_features,
            end_token_ids(model, processor),
            self._decoder.device,
        )

    @torch.inference_mode()
    def read(self, requests: Sequence[GenerationRequest]) -> list[GenerationOutput]:
        """Read a batch.

        Raises:
            MemoryError: The batch does not fit the device's memory.
            NonFiniteLogitsError: The model's results cannot be used.
        """
        # Images of equal size next to each other share the calls of the vision encoder.
        order = sorted(
            range(len(requests)),
            key=lambda index: self._preprocessor.size_shown(requests[index].image),
        )
        with _memory_errors():
            outputs = self._read_in_order([requests[index] for index in order])
        by_index = dict(zip(order, outputs, strict=True))
        return [by_index[index] for index in range(len(requests))]

    def _read_in_order(self, requests: Sequence[GenerationRequest]) -> list[GenerationOutput]:
        limits = [request.max_new_tokens for request in requests]
        batch = self._preprocessor.prepare(requests)
        device = self._decoder.device
        prompts = Prompts.read(
            self._decoder,
            self._embed(batch),
            batch.attention_mask.to(device),
            batch.position_ids.to(device),
            max(limits),
            self._draft_tokens(len(requests), max(limits)),
        )
        greedy = decode_greedily(prompts, self._vocabulary, limits)
        found = [[self._output(decoded)] for decoded in greedy]
        plans = [
            plan
            for row, (request, [output]) in enumerate(zip(requests, found, strict=True))
            for plan in _plan_searches(row, request, output)
        ]
        return self._searched(prompts, plans, found)

    def _searched(
        self, prompts: Prompts, plans: Sequence[SearchPlan], found: list[list[GenerationOutput]]
    ) -> list[GenerationOutput]:
        """Return what searches found for their rows, and for the others what is known."""
        for row in {plan.row for plan in plans}:
            found[row] = []
        if plans:
            results = search(prompts, self._vocabulary, plans)
            for plan, result in zip(plans, results, strict=True):
                found[plan.row] += map(self._output, result)
        return [_most_probable_first(outputs) for outputs in found]

    def _draft_tokens(self, rows: int, steps: int) -> torch.Tensor:
        """Return the tokens (rows, N - 1) that the prefill reads behind the prompts as drafts."""
        # Fetching the weights takes most of a pass over a few tokens, arithmetic one over many.
        count = min(DRAFT_TOKENS, steps - 1) if rows == 1 else 0
        return torch.full((rows, count), self._vocabulary.draft_token, device=self._decoder.device)

    def _embed(self, batch: Batch) -> torch.Tensor:
        """Return the embeddings (B, T, width) of the prompts with the image tokens in place."""
        input_ids = batch.input_ids.to(self._decoder.device)
        embeddings = self._decoder.embed(input_ids)
        seen = self._vision.encode(batch.pixel_values, batch.grids)
        embeddings[input_ids == self._image_token_id] = seen.to(embeddings)
        return embeddings

    def _output(self, decoded: Decoded) -> GenerationOutput:
        text = self._tokenizer.decode(
            decoded.token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
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
        # Nothing that the model can say is allowed.
        return GenerationOutput("", -math.inf, complete=True)
    first, *others = sorted(outputs, key=lambda output: -(output.log_probability or 0.0))
    return replace(first, alternatives=tuple(others))


def end_token_ids(
    model: Qwen2VLForConditionalGeneration, processor: Qwen2VLProcessor
) -> frozenset[int]:
    """Return every token that the configurations, the tokenizer or Qwen2-VL itself ends with."""
    named = [
        model.config.text_config.eos_token_id,
        model.generation_config.eos_token_id,
        processor.tokenizer.eos_token_id,
        *(processor.tokenizer.get_added_vocab().get(token) for token in END_TOKENS),
    ]
    ids: set[int] = set()
    for value in named:
        ids.update([value] if isinstance(value, int) else value or [])
    return frozenset(ids)


@contextmanager
def _memory_errors() -> Iterator[None]:
    """Turn every device's way of running out of memory into MemoryError."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        torch.cuda.empty_cache()
        raise MemoryError("The batch does not fit the GPU's memory.") from error
    except RuntimeError as error:
        if any(phrase in str(error) for phrase in CPU_OUT_OF_MEMORY):
            raise MemoryError("The batch does not fit the memory.") from error
        raise
