"""A loaded Qwen2-VL of transformers as the search's `LanguageModel`.

One thread uses a model. Running out of memory is a MemoryError on every device.

Dims: B rows, R rows that are extended, T tokens of the prompts, N tokens of one pass, S size of a
head.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import Qwen2VLForConditionalGeneration

from qwen_captcha.backends.qwen2vl.arrays import Bools, Floats, Ints
from qwen_captcha.backends.qwen2vl.language_model import (
    extension_mask,
    prompt_mask,
    with_later_positions,
)
from qwen_captcha.backends.qwen2vl.preprocessing import Batch
from qwen_captcha.backends.qwen2vl.pytorch.layers import Rotation
from qwen_captcha.backends.qwen2vl.pytorch.text_decoder import KeyValueCache, TextDecoder
from qwen_captcha.backends.qwen2vl.pytorch.vision_encoder import VisionEncoder

# The message of torch's CPU allocator, a plain RuntimeError.
CPU_OUT_OF_MEMORY = ("can't allocate memory", "not enough memory")


@dataclass(frozen=True, slots=True)
class PyTorchCache:
    """A batch after a pass.

    Attributes:
        states: Keys and values.
        attention_mask: (B, T) of the prompts.
        rotation: (B, steps - 1, 1, S) of the tokens after the prompts.
    """

    states: KeyValueCache
    attention_mask: Bools
    rotation: Rotation


class PyTorchModel:
    """Runs a model on the devices that it was loaded to; see `LanguageModel`.

    Attributes:
        vision: Its vision encoder.
        decoder: Its text model.
    """

    def __init__(self, model: Qwen2VLForConditionalGeneration) -> None:
        self.vision = VisionEncoder(model.model.visual)
        self.decoder = TextDecoder(model)

    def prefill(self, batch: Batch, drafted: Ints, steps: int) -> tuple[PyTorchCache, Floats]:
        """Read the images and prompts of a batch."""
        tokens, drafts = batch.input_ids.shape[1], drafted.shape[1]
        with torch.inference_mode(), _memory_errors():
            states = self.decoder.new_cache(tokens + steps - 1)
            positions = self._tensor(with_later_positions(batch.position_ids, steps))
            rotation = self.decoder.rotation(positions)
            embeddings = self._embed(batch)
            if drafts:
                later = self.decoder.embed(self._tensor(drafted))
                embeddings = torch.cat([embeddings, later], dim=1)
            logits = self.decoder.forward(
                embeddings,
                rotation.between(0, tokens + drafts),
                self._mask(prompt_mask(batch.attention_mask, drafts)),
                states,
                wanted=1 + drafts,
            )
            later_rotation = rotation.between(tokens, tokens + steps - 1)
            cache = PyTorchCache(states, batch.attention_mask, later_rotation)
            return cache, _log_probabilities(logits)

    def extend(
        self, cache: PyTorchCache, tokens: Ints, cached: int, rows: Ints | None = None
    ) -> tuple[PyTorchCache, Floats]:
        """Read more tokens."""
        count = tokens.shape[1]
        with torch.inference_mode(), _memory_errors():
            cache = self._shortened(cache, cached, rows)
            logits = self.decoder.forward(
                self.decoder.embed(self._tensor(tokens)),
                cache.rotation.between(cached, cached + count),
                self._mask(extension_mask(cache.attention_mask, cached, count)),
                cache.states,
                wanted=count,
            )
            return cache, _log_probabilities(logits)

    def _shortened(self, cache: PyTorchCache, cached: int, rows: Ints | None) -> PyTorchCache:
        """Return a cache of some rows: the prompts and the first `cached` tokens after them."""
        length = cache.attention_mask.shape[1] + cached
        if rows is None:
            states = cache.states.shared(length)
            return PyTorchCache(states, cache.attention_mask, cache.rotation)
        indices = torch.from_numpy(rows)
        return PyTorchCache(
            cache.states.selected(indices, length),
            cache.attention_mask[rows],
            cache.rotation.rows(indices),
        )

    def _embed(self, batch: Batch) -> torch.Tensor:
        """Return the embeddings (B, T, C) of the prompts with the image tokens in place."""
        embeddings = self.decoder.embed(self._tensor(batch.input_ids))
        seen = self.vision.encode(torch.from_numpy(batch.pixel_values), batch.grids)
        embeddings[self._tensor(batch.is_image)] = seen.to(embeddings)
        return embeddings

    def _tensor(self, array: NDArray[np.generic]) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.decoder.device)

    def _mask(self, mask: Bools | None) -> torch.Tensor | None:
        return None if mask is None else self._tensor(mask)


def _log_probabilities(logits: torch.Tensor) -> Floats:
    return np.asarray(logits.float().log_softmax(dim=-1).cpu().numpy())


@contextmanager
def _memory_errors() -> Iterator[None]:
    """Raise MemoryError where torch raises an error of the GPU or the CPU about memory."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        torch.cuda.empty_cache()
        raise MemoryError("The batch does not fit the GPU's memory.") from error
    except RuntimeError as error:
        if any(phrase in str(error) for phrase in CPU_OUT_OF_MEMORY):
            raise MemoryError("The batch does not fit the memory.") from error
        raise
