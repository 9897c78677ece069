"""A loaded Qwen2-VL that reads batches of images.

Responsible for: one batch from tasks to readings. Invariants: one thread uses a reader; readings
come in the order of the tasks; running out of memory is a MemoryError, whatever the device calls
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
from qwen_captcha.recognition.reading import Reading, ReadingTask

# What torch's CPU allocator says, as a plain RuntimeError.
CPU_OUT_OF_MEMORY = ("can't allocate memory", "not enough memory")
# Tokens guessed ahead of a lone image's answer: common answers have 5 to 7, the end included. The
# bundled checkpoint, which was trained to be guessed with, then reads a captcha in 2.2 passes
# instead of 6, in a fifth less time.
GUESSES = 6
# Tokens that end an answer of any Qwen2-VL, also where a configuration names only one of them.
END_TOKENS = ("<|im_end|>", "<|endoftext|>")


class CaptchaReader:
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
    def read(self, tasks: Sequence[ReadingTask]) -> list[Reading]:
        """Read a batch.

        Raises:
            MemoryError: The batch does not fit the device's memory.
            NonFiniteLogitsError: The model's results cannot be used.
        """
        # Images of equal size next to each other share the calls of the vision encoder.
        order = sorted(
            range(len(tasks)), key=lambda index: self._preprocessor.size_shown(tasks[index].image)
        )
        with _memory_errors():
            readings = self._read_in_order([tasks[index] for index in order])
        by_index = dict(zip(order, readings, strict=True))
        return [by_index[index] for index in range(len(tasks))]

    def _read_in_order(self, tasks: Sequence[ReadingTask]) -> list[Reading]:
        limits = [task.max_new_tokens for task in tasks]
        batch = self._preprocessor.prepare(tasks)
        device = self._decoder.device
        prompts = Prompts.read(
            self._decoder,
            self._embed(batch),
            batch.attention_mask.to(device),
            batch.position_ids.to(device),
            max(limits),
            self._guessed(len(tasks), max(limits)),
        )
        greedy = decode_greedily(prompts, self._vocabulary, limits)
        found = [[self._reading(decoded)] for decoded in greedy]
        plans = [
            plan
            for row, (task, [reading]) in enumerate(zip(tasks, found, strict=True))
            for plan in _plan_searches(row, task, reading)
        ]
        return self._searched(prompts, plans, found)

    def _searched(
        self, prompts: Prompts, plans: Sequence[SearchPlan], found: list[list[Reading]]
    ) -> list[Reading]:
        """Return what searches found for their rows, and for the others what is known."""
        for row in {plan.row for plan in plans}:
            found[row] = []
        if plans:
            results = search(prompts, self._vocabulary, plans)
            for plan, result in zip(plans, results, strict=True):
                found[plan.row] += map(self._reading, result)
        return [_most_probable_first(readings) for readings in found]

    def _guessed(self, rows: int, steps: int) -> torch.Tensor:
        """Return the tokens (rows, N - 1) that the prefill reads behind the prompts as guesses."""
        # Fetching the weights takes most of a pass over a few tokens, arithmetic one over many.
        count = min(GUESSES, steps - 1) if rows == 1 else 0
        return torch.full((rows, count), self._vocabulary.guess, device=self._decoder.device)

    def _embed(self, batch: Batch) -> torch.Tensor:
        """Return the embeddings (B, T, width) of the prompts with the image tokens in place."""
        input_ids = batch.input_ids.to(self._decoder.device)
        embeddings = self._decoder.embed(input_ids)
        seen = self._vision.encode(batch.pixel_values, batch.grids)
        embeddings[input_ids == self._image_token_id] = seen.to(embeddings)
        return embeddings

    def _reading(self, decoded: Decoded) -> Reading:
        text = self._tokenizer.decode(
            decoded.token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        tokens = self._vocabulary.read_tokens(decoded.token_ids, decoded.scores)
        return Reading(text, decoded.log_probability, decoded.complete, tuple(tokens))


def _plan_searches(row: int, task: ReadingTask, greedy: Reading) -> list[SearchPlan]:
    certainty = greedy.log_probability if greedy.complete else None
    return plan_searches(
        row,
        task.max_new_tokens,
        task.constraints,
        greedy.raw_response,
        -math.inf if certainty is None else certainty,
    )


def _most_probable_first(readings: list[Reading]) -> Reading:
    """Return the most probable reading with the others as its alternatives."""
    if not readings:
        # Nothing that the model can say is allowed.
        return Reading("", -math.inf, complete=True)
    first, *others = sorted(readings, key=lambda reading: -(reading.log_probability or 0.0))
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
