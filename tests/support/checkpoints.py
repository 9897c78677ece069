"""Small checkpoints with random weights, and images to read with them."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from PIL import Image
from qwen_vl_utils import process_vision_info
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    BatchFeature,
    PreTrainedTokenizerFast,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
)
from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

from evaluation.published import layout as published
from evaluation.published.vocabulary import Vocabulary, read_vocabulary

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
CHARACTERS = "0123456789abcdefghijklmnopqrstuvwxyz ?."
IDS = {token: number for number, token in enumerate([*SPECIAL_TOKENS, *CHARACTERS])}
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{% for content in message['content'] %}"
    "{% if content['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ content['text'] }}{% endif %}{% endfor %}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>{% endif %}"
)
PIXEL_RANGE = (4 * 784, 20 * 784)
# In the published layout.
SMALL_PUBLISHED_SHAPE = published.Shape(
    hidden_size=32,
    intermediate_size=64,
    layers=2,
    heads=4,
    key_value_heads=2,
    mrope_section=(2, 1, 1),
    vision_depth=2,
    vision_width=32,
    vision_heads=2,
)
# A random model hardly ever chooses one certain token: each of these ends an answer in tests.
END_IDS = (IDS["<|im_end|>"], IDS["<|endoftext|>"], *range(IDS["a"], IDS["h"]))


@dataclass(frozen=True)
class Shape:
    """The numbers of a small Qwen2-VL."""

    width: int = 64
    text_layers: int = 2
    heads: int = 4
    key_value_heads: int = 2
    vision_depth: int = 2
    vision_width: int = 48
    vision_heads: int = 3
    tied: bool = True


SHAPES = {
    "shared key-value heads, tied head": Shape(),
    "as many key-value heads, untied head": Shape(key_value_heads=4, tied=False),
    "one layer, one key-value head": Shape(text_layers=1, key_value_heads=1, vision_depth=1),
}


def small_model(shape: Shape, seed: int = 0) -> Qwen2VLForConditionalGeneration:
    """Return a model in fp32 whose answers depend on the image."""
    torch.manual_seed(seed)
    model = Qwen2VLForConditionalGeneration(_config(shape)).float().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            # The usual small weights would answer every image alike.
            if parameter.ndim > 1:
                parameter.normal_(std=1.5 / parameter.shape[-1] ** 0.5)
    # Of the kind that is published: it samples and forbids repetitions.
    settings = model.generation_config
    settings.eos_token_id = list(END_IDS)
    settings.pad_token_id = IDS["<|endoftext|>"]
    settings.do_sample, settings.temperature, settings.repetition_penalty = True, 5.0, 1.05
    return model


def _config(shape: Shape) -> Qwen2VLConfig:
    half_head = shape.width // shape.heads // 2
    return Qwen2VLConfig(
        vision_config={
            "depth": shape.vision_depth,
            "embed_dim": shape.vision_width,
            "num_heads": shape.vision_heads,
            "hidden_size": shape.width,
        },
        text_config={
            "vocab_size": len(IDS),
            "hidden_size": shape.width,
            "intermediate_size": shape.width * 2,
            "num_hidden_layers": shape.text_layers,
            "num_attention_heads": shape.heads,
            "num_key_value_heads": shape.key_value_heads,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [half_head - 2 * (half_head // 3), *[half_head // 3] * 2],
            },
            "bos_token_id": None,
            "eos_token_id": IDS["<|im_end|>"],
            "pad_token_id": IDS["<|endoftext|>"],
        },
        image_token_id=IDS["<|image_pad|>"],
        video_token_id=IDS["<|video_pad|>"],
        vision_start_token_id=IDS["<|vision_start|>"],
        vision_end_token_id=IDS["<|vision_end|>"],
        tie_word_embeddings=shape.tied,
    )


def small_processor() -> Qwen2VLProcessor:
    """Return a processor with a tokenizer of single characters."""
    tokenizer = Tokenizer(models.WordLevel(IDS, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.decoder = decoders.Fuse()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        additional_special_tokens=list(SPECIAL_TOKENS[1:]),
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
    size = {"shortest_edge": PIXEL_RANGE[0], "longest_edge": PIXEL_RANGE[1]}
    return Qwen2VLProcessor(
        image_processor=Qwen2VLImageProcessor(size=size),
        tokenizer=fast,
        video_processor=Qwen2VLVideoProcessor(size=size),
        chat_template=CHAT_TEMPLATE,
    )


def write_small_checkpoint(
    folder: Path, facts: object | None = None, shape: Shape | None = None
) -> Path:
    """Write a small checkpoint in bf16, with a `captcha.json` if there are facts; return it."""
    small_model(shape or Shape()).to(torch.bfloat16).save_pretrained(folder)
    small_processor().save_pretrained(folder)
    if facts is not None:
        (folder / "captcha.json").write_text(json.dumps(facts), encoding="utf-8")
    return folder


def noise_image(width: int, height: int, seed: int = 0) -> Image.Image:
    """Return an image on which no two seeds agree."""
    values = random.Random(f"{width}x{height}/{seed}").randbytes(width * height * 3)
    return Image.frombytes("RGB", (width, height), values)


def noise_images(sizes: Sequence[tuple[int, int]]) -> list[Image.Image]:
    """Return an image of each size, no two of them equal."""
    return [noise_image(width, height, seed) for seed, (width, height) in enumerate(sizes)]


def documented_inputs(
    processor: Qwen2VLProcessor,
    images: Sequence[Image.Image],
    prompt: str,
    pixel_range: tuple[int, int],
) -> BatchFeature:
    """Return a padded batch in the way that Qwen2-VL's own documentation teaches."""
    low, high = pixel_range
    conversations = [
        [
            {
                "role": "user",
                "content": [
                    {"type": "image", "image": image, "min_pixels": low, "max_pixels": high},
                    {"type": "text", "text": prompt},
                ],
            }
        ]
        for image in images
    ]
    texts = [
        processor.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True)
        for conversation in conversations
    ]
    shown, _ = process_vision_info(conversations)
    return processor(text=texts, images=shown, padding=True, return_tensors="pt")


@cache
def published_vocabulary() -> Vocabulary:
    """Return the published checkpoints' vocabulary, which takes seconds to make."""
    return read_vocabulary()
