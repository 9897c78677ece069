"""Read the configuration files of a checkpoint without transformers.

Only the layout of transformers 5 is supported. Every checkpoint that was trained or fitted with
this project has it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from qwen_captcha.backends.qwen2vl.preprocessing import ProcessorConfig
from qwen_captcha.backends.qwen2vl.vocabulary import Vocabulary, named_end_ids


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """The parameters of a model that the shapes of its weights do not define.

    Attributes:
        vision_heads: Heads of the vision encoder.
        vision_theta: Base of the vision encoder's rotary embedding.
        merge_size: Side of the square of patches that become one token.
        heads: Query heads of the text decoder.
        key_value_heads: Key-value heads of the text decoder.
        theta: Base of the text decoder's rotary embedding.
        mrope_sections: Number of its angles for the temporal position, the height and the width.
        epsilon: Epsilon of its norms.
    """

    vision_heads: int
    vision_theta: float
    merge_size: int
    heads: int
    key_value_heads: int
    theta: float
    mrope_sections: tuple[int, int, int]
    epsilon: float


class UnsupportedModelError(ValueError):
    """The graphs do not support a part of the checkpoint."""


def read_model_config(folder: Path) -> ModelConfig:
    """Return the parameters of a checkpoint's model.

    Raises:
        UnsupportedModelError: The graphs do not support a part of it.
    """
    config = _read(folder / "config.json")
    try:
        vision, text = config["vision_config"], config["text_config"]
        vision_rope, rope = vision["rope_parameters"], text["rope_parameters"]
        expected = {
            "vision_config.hidden_act": (vision["hidden_act"], "quick_gelu"),
            "vision_config.rope_type": (vision_rope["rope_type"], "axial"),
            "text_config.hidden_act": (text["hidden_act"], "silu"),
            "text_config.rope_type": (rope["rope_type"], "default"),
            "text_config.use_sliding_window": (text["use_sliding_window"], False),
        }
        for name, (found, supported) in expected.items():
            if found != supported:
                raise UnsupportedModelError(
                    f"{name} is {found}, but the graphs support only {supported}"
                )
        return ModelConfig(
            vision_heads=vision["num_heads"],
            vision_theta=vision_rope["rope_theta"],
            merge_size=vision["spatial_merge_size"],
            heads=text["num_attention_heads"],
            key_value_heads=text["num_key_value_heads"],
            theta=rope["rope_theta"],
            mrope_sections=tuple(rope["mrope_section"]),
            epsilon=text["rms_norm_eps"],
        )
    except KeyError as error:
        raise UnsupportedModelError(
            f"config.json has no {error.args[0]}; it must be as transformers 5 writes it"
        ) from error


def read_processor_config(folder: Path, pixel_range: tuple[int, int]) -> ProcessorConfig:
    """Return the preprocessing of a checkpoint's processor."""
    images = _read(folder / "processor_config.json")["image_processor"]
    names = _read(folder / "tokenizer_config.json")
    tokenizer = _tokenizer(folder)
    render = _renderer(folder)
    return ProcessorConfig(
        tokenize=lambda prompt: tokenizer.encode(render(prompt)).ids,
        special_tokens=[token.content for token in tokenizer.get_added_tokens_decoder().values()],
        image_token_id=_read(folder / "config.json")["image_token_id"],
        pad_token_id=_token_id(tokenizer, names["pad_token"]),
        patch_size=images["patch_size"],
        merge_size=images["merge_size"],
        pixel_range=pixel_range,
        rescale_factor=images["rescale_factor"],
        mean=images["image_mean"],
        deviation=images["image_std"],
    )


def read_vocabulary(folder: Path, size: int) -> Vocabulary:
    """Return the vocabulary of a model whose logits have `size` entries."""
    tokenizer = _tokenizer(folder)
    ends = named_end_ids(
        tokenizer,
        _read(folder / "config.json")["text_config"]["eos_token_id"],
        _read(folder / "generation_config.json").get("eos_token_id"),
        _token_id(tokenizer, _read(folder / "tokenizer_config.json")["eos_token"]),
    )
    return Vocabulary(tokenizer, size, ends)


def _tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def _token_id(tokenizer: Tokenizer, token: str) -> int:
    number: int | None = tokenizer.token_to_id(token)
    if number is None:
        raise KeyError(token)
    return number


def _renderer(folder: Path) -> Callable[[str], str]:
    """Return the function that renders the chat with a prompt about one image."""
    # A sandbox, as in transformers: the template of a checkpoint must not run code.
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    source = (folder / "chat_template.jinja").read_text(encoding="utf-8")
    template = environment.from_string(source)

    def render(prompt: str) -> str:
        content = [{"type": "image"}, {"type": "text", "text": prompt}]
        messages = [{"role": "user", "content": content}]
        return template.render(messages=messages, add_generation_prompt=True)

    return render


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
