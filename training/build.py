"""Build an untrained Qwen2-VL checkpoint for captchas: model, tokenizer, processor, template.

    python -m training.build FOLDER

The shape is that of the bundled checkpoint; it must not change between runs that resume from one
another. The result loads with plain `AutoProcessor` and
`Qwen2VLForConditionalGeneration.from_pretrained`.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
)
from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

from qwen_captcha.backends.qwen2vl.onnx.export import export_if_possible
from qwen_captcha.checkpoints.files import View, Views
from qwen_captcha.recognition.calibration import CALIBRATION
from training.rendering.alphabet import ALPHABET

PATCH_SIZE = 14
MERGE_SIZE = 2
CELL = PATCH_SIZE * MERGE_SIZE  # 28 pixels a side: one visual token
# 28 to 56 visual tokens, of a crop that is stretched sideways first: a captcha of 160x60 pixels
# becomes 336x84, 36 tokens in three rows, two or more columns for each of its characters.
MIN_PIXELS = 28 * CELL * CELL
MAX_PIXELS = 56 * CELL * CELL
STRETCH = 1.6
# An image is read small first: two thirds of the seen families' are sure then. Of 700 images of
# seen and 700 of unseen families 0.866 and 0.578 are read right so, in 1.84 and 3.56 times the
# cells of one reading at 28 to 56 cells, which reads 0.831 and 0.527. Without the last view 0.864
# and 0.569, with the first and the third alone 0.850 and 0.562.
VIEWS = Views(
    sure=0.8,
    views=(
        View(STRETCH, (16 * CELL * CELL, 32 * CELL * CELL)),
        View(STRETCH, (48 * CELL * CELL, 84 * CELL * CELL)),
        View(1.25, (48 * CELL * CELL, 84 * CELL * CELL)),
        View(1.25, (64 * CELL * CELL, 112 * CELL * CELL)),
    ),
)
# In a checkpoint of a run: the heads that only training uses, in fp16, for the run after it.
AUXILIARY_HEADS = "auxiliary_heads.safetensors"

PAD = "<|endoftext|>"
SPECIAL_TOKENS = [
    PAD,
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
    "<|unknown|>",
]
# The checkpoint transcribes every image: text instructions are dropped here, on purpose.
CHAT_TEMPLATE = (
    "{% for message in messages %}{% if message['content'] is not string %}"
    "{% for content in message['content'] %}"
    "{% if content['type'] == 'image' or 'image' in content %}"
    "<|vision_start|><|image_pad|><|vision_end|>"
    "{% endif %}{% endfor %}{% endif %}{% endfor %}"
)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Return the character-level tokenizer: special tokens first, then `ALPHABET`."""
    vocabulary = {token: index for index, token in enumerate([*SPECIAL_TOKENS, *ALPHABET])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<|unknown|>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token="<|im_end|>",
        unk_token="<|unknown|>",
        additional_special_tokens=SPECIAL_TOKENS[1:7],
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def build_processor() -> Qwen2VLProcessor:
    """Return the processor with the checkpoint's own pixel range."""
    size = {"shortest_edge": MIN_PIXELS, "longest_edge": MAX_PIXELS}
    return Qwen2VLProcessor(
        image_processor=Qwen2VLImageProcessor(
            size=size, patch_size=PATCH_SIZE, merge_size=MERGE_SIZE
        ),
        tokenizer=build_tokenizer(),
        video_processor=Qwen2VLVideoProcessor(size=size),
        chat_template=CHAT_TEMPLATE,
    )


def build_config(
    *, depth: int = 4, width: int = 256, text_layers: int = 2, heads: int = 4
) -> Qwen2VLConfig:
    """Return the model's shape.

    Args:
        depth: Vision blocks.
        width: Vision and text width; a multiple of `heads` x 16.
        text_layers: Decoder layers: a decode step is overhead, so few.
        heads: Attention heads of both parts; the text has half as many key-value heads.
    """
    ids = {token: index for index, token in enumerate(SPECIAL_TOKENS)}
    half = width // heads // 2
    section = [half - 2 * (half * 3 // 8), half * 3 // 8, half * 3 // 8]
    return Qwen2VLConfig(
        vision_config={
            "depth": depth,
            "embed_dim": width,
            "num_heads": heads,
            "mlp_ratio": 4,
            "in_channels": 3,
            "hidden_size": width,
            "patch_size": PATCH_SIZE,
            "spatial_merge_size": MERGE_SIZE,
            "temporal_patch_size": 2,
        },
        text_config={
            "vocab_size": len(SPECIAL_TOKENS) + len(ALPHABET),
            "hidden_size": width,
            "intermediate_size": width * 3,
            "num_hidden_layers": text_layers,
            "num_attention_heads": heads,
            "num_key_value_heads": heads // 2,
            "max_position_embeddings": 2048,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": section,
            },
            "bos_token_id": None,
            "eos_token_id": ids["<|im_end|>"],
            "pad_token_id": ids[PAD],
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
    )


def build_model(config: Qwen2VLConfig, seed: int) -> Qwen2VLForConditionalGeneration:
    """Return the model in fp32 with weights drawn from `seed`."""
    torch.manual_seed(seed)
    model = Qwen2VLForConditionalGeneration(config).float()
    model.generation_config.eos_token_id = config.text_config.eos_token_id
    model.generation_config.pad_token_id = config.text_config.pad_token_id
    return model


@torch.no_grad()
def whiten_patch_embedding(model: Qwen2VLForConditionalGeneration, patches: torch.Tensor) -> None:
    """Set the patch embedding to the leading principal components of `patches`, whitened.

    A random embedding is dominated by a patch's mean colour, which has no information about its
    character; from whitened components the encoder learnt its first characters several times
    sooner. Source of the idea: the frozen whitening layer of K. Jordan's CIFAR-10 speed runs.

    Args:
        model: Changed in place.
        patches: Normalised patches of one frame, (N, C * 14 * 14), N in the thousands.
    """
    kernel = model.model.visual.patch_embed.proj.weight  # (D, C, 2, 14, 14)
    centred = (patches - patches.mean(dim=0)).double()
    variances, components = torch.linalg.eigh(centred.T @ centred / len(patches))
    width = kernel.shape[0]
    leading = components[:, -width:].T  # (D, C * 14 * 14)
    scale = (variances[-width:].clamp_min(0) + 1e-2).rsqrt()
    white = (leading * scale[:, None]).view(width, kernel.shape[1], 1, *kernel.shape[3:])
    kernel.copy_(white.expand_as(kernel) / kernel.shape[2])  # two equal frames are summed


def save_checkpoint(
    model: Qwen2VLForConditionalGeneration,
    processor: Qwen2VLProcessor,
    folder: Path,
) -> None:
    """Write a bf16 checkpoint (safetensors) with processor files, `captcha.json` and graphs.

    A calibration that the folder holds is of other weights, and is removed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CALIBRATION).unlink(missing_ok=True)
    half = Qwen2VLForConditionalGeneration(model.config).to(torch.bfloat16)
    half.load_state_dict(model.state_dict())
    half.generation_config = model.generation_config
    half.save_pretrained(folder, safe_serialization=True)
    processor.save_pretrained(folder)
    facts = {
        "follows_prompts": False,
        "answers_questions": False,
        "pixel_range": [MIN_PIXELS, MAX_PIXELS],
        "crops_to_text": True,
        "stretch": STRETCH,
        "views": asdict(VIEWS),
    }
    (folder / "captcha.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    if not export_if_possible(folder):
        print(f"No graphs were made: see `qwen-captcha export {folder}`.")


def main() -> None:
    """Write an untrained checkpoint to the folder given."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    model = build_model(build_config(), arguments.seed)
    save_checkpoint(model, build_processor(), arguments.folder)
    count = sum(parameter.numel() for parameter in model.parameters())
    print(f"{arguments.folder}: {count / 1e6:.2f}M parameters")


if __name__ == "__main__":
    main()
