"""A Qwen2-VL with random weights that are made on the device, without files or a vocabulary."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from tokenizers import Tokenizer, models
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

from evaluation.published.layout import IMAGE_DEVIATION, IMAGE_MEAN, Shape, flat_config
from qwen_captcha.backends.qwen2vl.preprocessing import Preprocessor, ProcessorConfig
from qwen_captcha.backends.qwen2vl.vocabulary import Vocabulary

# Tokens of the published chat template and the service's prompt around the image.
TOKENS_BEFORE, TOKENS_BEHIND = 15, 19
IMAGE_TOKEN, PAD_TOKEN = 151655, 151643
# The service's defaults for a checkpoint without a range of its own.
PIXEL_RANGE = (64_000, 360_000)


@dataclass(frozen=True, slots=True)
class RandomModel:
    """A model with its preprocessor and vocabulary.

    Attributes:
        model: The model in bf16, on its device.
        preprocessor: Like that of the published checkpoints, with as many tokens in the prompt.
        vocabulary: A vocabulary without an end token: each answer has the maximum of tokens.
    """

    model: Qwen2VLForConditionalGeneration
    preprocessor: Preprocessor
    vocabulary: Vocabulary

    @property
    def decoder_bytes(self) -> int:
        """Bytes of the weights that are read for each token."""
        parts = (*self.model.model.language_model.layers, self.model.lm_head)
        return sum(p.numel() * p.element_size() for part in parts for p in part.parameters())


def random_model(shape: Shape, device: str) -> RandomModel:
    """Return a model of a shape."""
    torch.manual_seed(0)
    config = Qwen2VLConfig(**flat_config(shape))
    with torch.device(device):
        model = Qwen2VLForConditionalGeneration._from_config(config, dtype=torch.bfloat16)
    processor = ProcessorConfig(
        tokenize=lambda prompt: [*range(TOKENS_BEFORE), IMAGE_TOKEN, *range(TOKENS_BEHIND)],
        special_tokens=(),
        image_token_id=IMAGE_TOKEN,
        pad_token_id=PAD_TOKEN,
        patch_size=14,
        merge_size=2,
        pixel_range=PIXEL_RANGE,
        rescale_factor=1 / 255,
        mean=IMAGE_MEAN,
        deviation=IMAGE_DEVIATION,
    )
    tokenizer = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    vocabulary = Vocabulary(tokenizer, shape.vocabulary_size, frozenset())
    return RandomModel(model.eval(), Preprocessor(processor), vocabulary)
