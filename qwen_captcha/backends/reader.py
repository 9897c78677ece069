"""A loaded Qwen2-VL that reads batches of images.

Responsible for: one batch from tasks to readings. Leaves loading to `loading.py` and the parts
of the work to their modules. Invariants: one thread uses a reader; readings come in the order of
the tasks; running out of memory is a MemoryError, whatever the device calls it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from transformers import Qwen2VLForConditionalGeneration, Qwen2VLProcessor

from qwen_captcha.backends.base import Reading, ReadingTask
from qwen_captcha.backends.greedy import Decoded, decode_greedily
from qwen_captcha.backends.preprocessing import Batch, Preprocessor
from qwen_captcha.backends.text_decoder import TextDecoder
from qwen_captcha.backends.vision_encoder import VisionEncoder

# What torch's CPU allocator says, as a plain RuntimeError.
CPU_OUT_OF_MEMORY = ("can't allocate memory", "not enough memory")
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
        self._end_ids = end_token_ids(model, processor)

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
            decoded = self._decode([tasks[index] for index in order])
        by_index = dict(zip(order, decoded, strict=True))
        return [self._reading(by_index[index]) for index in range(len(tasks))]

    def _decode(self, tasks: Sequence[ReadingTask]) -> list[Decoded]:
        batch = self._preprocessor.prepare(tasks)
        device = self._decoder.device
        return decode_greedily(
            self._decoder,
            self._embed(batch),
            batch.attention_mask.to(device),
            batch.position_ids.to(device),
            end_ids=self._end_ids,
            max_new_tokens=[task.max_new_tokens for task in tasks],
        )

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
        return Reading(text, decoded.log_probability, decoded.complete)


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
