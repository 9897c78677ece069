"""Write checkpoints with random weights in exactly the layout of Qwen2-VL-2B-Instruct.

    python -m evaluation.published.layout /tmp/shape     writes one of the 2B's shape, 4.4 GB

Each file is as `from_pretrained` finds it in that repository: the flat configuration, shards with
the old parameter names, a generation configuration that samples, processor and tokenizer files, and
the cache folder of a hub name. Nothing is written by transformers' own `save` functions, which
write a newer layout.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

from evaluation.published.vocabulary import Vocabulary, read_vocabulary

SHARDS = 2
REVISION = "0" * 40
# Mean and deviation of each channel in the training of the vision encoder.
IMAGE_MEAN = (0.48145466, 0.4578275, 0.40821073)
IMAGE_DEVIATION = (0.26862954, 0.26130258, 0.27577711)
# New prefix -> old prefix; the first match is used.
OLD_PREFIXES = (
    ("model.visual.", "visual."),
    ("model.language_model.", "model."),
    ("lm_head.", "lm_head."),
)
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "{% endif %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for content in message['content'] %}"
    "{% if content['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif 'text' in content %}{{ content['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass(frozen=True, slots=True)
class Shape:
    """The parameters that differ between published checkpoints; the defaults are the 2B's.

    Attributes:
        tied: Whether the head shares its weights with the embeddings.
        weight_spread: Standard deviation of the random weights.
    """

    hidden_size: int = 1536
    intermediate_size: int = 8960
    layers: int = 28
    heads: int = 12
    key_value_heads: int = 2
    mrope_section: tuple[int, int, int] = (16, 24, 24)
    vision_depth: int = 32
    vision_width: int = 1280
    vision_heads: int = 16
    vocabulary_size: int = 151936
    tied: bool = True
    weight_spread: float = 0.02


SHAPE_7B = Shape(
    hidden_size=3584,
    intermediate_size=18944,
    heads=28,
    key_value_heads=4,
    vocabulary_size=152064,
    tied=False,
)


def write_into_cache(cache: Path, repo_id: str, shape: Shape, vocabulary: Vocabulary) -> Path:
    """Write a checkpoint into the cache of `hf download`; return its snapshot folder.

    Args:
        cache: The folder `hub` of `HF_HOME`.
        repo_id: The hub name of the checkpoint.
        shape: Shape of the model.
        vocabulary: Vocabulary of the tokenizer.
    """
    repository = cache / f"models--{repo_id.replace('/', '--')}"
    snapshot = repository / "snapshots" / REVISION
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(REVISION, encoding="utf-8")
    write_checkpoint(snapshot, shape, vocabulary)
    return snapshot


def write_checkpoint(folder: Path, shape: Shape, vocabulary: Vocabulary) -> None:
    """Write every file of a checkpoint into an empty folder."""
    config = flat_config(shape)
    _write_json(folder / "config.json", config)
    _write_weights(folder, config, shape.weight_spread)
    _write_processor(folder)
    _write_tokenizer(folder, vocabulary)
    _write_json(
        folder / "generation_config.json",
        {
            "bos_token_id": 151643,
            "pad_token_id": 151643,
            "eos_token_id": [151645, 151643],
            "do_sample": True,
            "temperature": 0.01,
            "top_k": 1,
            "top_p": 0.001,
            # Value of the base 2B; it would ruin an answer such as `1111`.
            "repetition_penalty": 1.05,
        },
    )


def flat_config(shape: Shape) -> dict[str, Any]:
    """Return `config.json`, with the text model's parameters at its top level."""
    return {
        "architectures": ["Qwen2VLForConditionalGeneration"],
        "attention_dropout": 0.0,
        "bos_token_id": 151643,
        "eos_token_id": 151645,
        "vision_start_token_id": 151652,
        "vision_end_token_id": 151653,
        "vision_token_id": 151654,
        "image_token_id": 151655,
        "video_token_id": 151656,
        "hidden_act": "silu",
        "hidden_size": shape.hidden_size,
        "initializer_range": 0.02,
        "intermediate_size": shape.intermediate_size,
        "max_position_embeddings": 32768,
        "max_window_layers": shape.layers,
        "model_type": "qwen2_vl",
        "num_attention_heads": shape.heads,
        "num_hidden_layers": shape.layers,
        "num_key_value_heads": shape.key_value_heads,
        "rms_norm_eps": 1e-06,
        "rope_theta": 1000000.0,
        "sliding_window": 32768,
        "tie_word_embeddings": shape.tied,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.41.2",
        "use_cache": True,
        "use_sliding_window": False,
        "vision_config": {
            "depth": shape.vision_depth,
            "embed_dim": shape.vision_width,
            "mlp_ratio": 4,
            "num_heads": shape.vision_heads,
            "in_chans": 3,
            "hidden_size": shape.hidden_size,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "spatial_patch_size": 14,
            "temporal_patch_size": 2,
        },
        "rope_scaling": {"type": "mrope", "mrope_section": list(shape.mrope_section)},
        "vocab_size": shape.vocabulary_size,
    }


def _write_weights(folder: Path, config: dict[str, Any], spread: float) -> None:
    """Write bf16 shards with old names and their index, one shard in memory at a time."""
    parameters = list(_old_parameters(config))
    total = sum(size.numel() * 2 for _, size in parameters)
    generator = torch.Generator().manual_seed(0)
    weight_map: dict[str, str] = {}
    written = 0
    shard: dict[str, torch.Tensor] = {}
    for name, size in parameters:
        number = min(SHARDS, written * SHARDS // total + 1)
        file = f"model-{number:05}-of-{SHARDS:05}.safetensors"
        if shard and file != weight_map[next(iter(shard))]:
            save_file(shard, folder / weight_map[next(iter(shard))], metadata={"format": "pt"})
            shard = {}
        shard[name] = _random_weights(name, size, spread, generator)
        weight_map[name] = file
        written += size.numel() * 2
    save_file(shard, folder / file, metadata={"format": "pt"})
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    _write_json(folder / "model.safetensors.index.json", index)


def _old_parameters(config: dict[str, Any]) -> Iterator[tuple[str, torch.Size]]:
    """Yield the parameters' old names and sizes; a tied head has none of its own."""
    with torch.device("meta"):
        model = Qwen2VLForConditionalGeneration(Qwen2VLConfig(**config))
    for name, parameter in model.named_parameters():
        for new, old in OLD_PREFIXES:
            if name.startswith(new):
                yield old + name.removeprefix(new), parameter.shape
                break


def _random_weights(
    name: str, size: torch.Size, spread: float, generator: torch.Generator
) -> torch.Tensor:
    if "norm" in name or ".ln_q." in name:
        values = torch.ones(size) if name.endswith("weight") else torch.zeros(size)
    else:
        values = torch.randn(size, generator=generator) * spread
    return values.to(torch.bfloat16)


def _write_processor(folder: Path) -> None:
    _write_json(folder / "chat_template.json", {"chat_template": CHAT_TEMPLATE})
    _write_json(
        folder / "preprocessor_config.json",
        {
            "min_pixels": 3136,
            "max_pixels": 12845056,
            "patch_size": 14,
            "temporal_patch_size": 2,
            "merge_size": 2,
            "image_mean": [*IMAGE_MEAN],
            "image_std": [*IMAGE_DEVIATION],
            "image_processor_type": "Qwen2VLImageProcessor",
            "processor_class": "Qwen2VLProcessor",
        },
    )


def _write_tokenizer(folder: Path, vocabulary: Vocabulary) -> None:
    _write_json(folder / "vocab.json", vocabulary.ids)
    merges = "".join(f"{left} {right}\n" for left, right in vocabulary.merges)
    (folder / "merges.txt").write_text("#version: 0.2\n" + merges, encoding="utf-8")
    fast_tokenizer(vocabulary).save(str(folder / "tokenizer.json"))
    special = {
        str(number): {
            "content": token,
            "lstrip": False,
            "normalized": False,
            "rstrip": False,
            "single_word": False,
            "special": True,
        }
        for token, number in vocabulary.special_ids.items()
    }
    _write_json(
        folder / "tokenizer_config.json",
        {
            "add_prefix_space": False,
            "added_tokens_decoder": special,
            "additional_special_tokens": list(vocabulary.special_ids)[1:],
            "bos_token": None,
            "chat_template": CHAT_TEMPLATE,
            "clean_up_tokenization_spaces": False,
            "eos_token": "<|im_end|>",
            "errors": "replace",
            "model_max_length": 32768,
            "pad_token": "<|endoftext|>",
            "padding_side": "left",
            "split_special_tokens": False,
            "tokenizer_class": "Qwen2Tokenizer",
            "unk_token": None,
        },
    )


def fast_tokenizer(vocabulary: Vocabulary) -> Tokenizer:
    """Return the tokenizer of `tokenizer.json`."""
    tokenizer = Tokenizer(models.BPE(vocabulary.ids, vocabulary.merges))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in vocabulary.special_ids]
    )
    return tokenizer


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def main(arguments: Sequence[str] | None = None, shape: Shape | None = None) -> None:
    """Write a checkpoint of the 2B's shape to the folder given.

    Args:
        arguments: Arguments of the command line; None for those of the process.
        shape: Another shape than the 2B's.
    """
    parser = argparse.ArgumentParser(description="Write a random checkpoint of the 2B's shape.")
    parser.add_argument("folder", type=Path, help="folder for 4.4 GB")
    folder: Path = parser.parse_args(arguments).folder
    folder.mkdir(parents=True, exist_ok=True)
    write_checkpoint(folder, shape or Shape(), read_vocabulary())
    print(f"{folder} holds the checkpoint.")


if __name__ == "__main__":
    main()
