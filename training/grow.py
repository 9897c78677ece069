"""Add vision blocks to a checkpoint without changing its outputs.

    python -m training.grow CHECKPOINT OUT --depth 6

The new blocks start as the identity and are spread evenly, so that a run continues from weights of
a smaller shape. A checkpoint of that depth is copied. Source: the zero-initialised residual
branches of Goyal et al. 2017, https://arxiv.org/abs/1706.02677.
"""

from __future__ import annotations

import argparse
import copy
import shutil
from pathlib import Path

import torch
from transformers import Qwen2VLForConditionalGeneration

from training.build import AUXILIARY_HEADS, build_processor, save_checkpoint


@torch.no_grad()
def grown(model: Qwen2VLForConditionalGeneration, depth: int) -> Qwen2VLForConditionalGeneration:
    """Return the model with `depth` vision blocks; the new ones add nothing yet.

    Raises:
        ValueError: It has more already.
    """
    old = model.model.visual.blocks
    if depth < len(old):
        raise ValueError(f"the model has {len(old)} vision blocks, not fewer than {depth}")
    config = copy.deepcopy(model.config)
    config.vision_config.depth = depth
    larger = Qwen2VLForConditionalGeneration(config).to(model.dtype)
    places = [round((index + 1) * depth / len(old)) - 1 for index in range(len(old))]
    rest = {
        name: value for name, value in model.state_dict().items() if ".visual.blocks." not in name
    }
    larger.load_state_dict(rest, strict=False)
    source = 0
    for index, block in enumerate(larger.model.visual.blocks):
        block.load_state_dict(old[min(source, len(old) - 1)].state_dict())
        if index in places:
            source += 1
            continue
        for last in (block.attn.proj, block.mlp.fc2):
            last.weight.zero_()
            last.bias.zero_()
    larger.generation_config = model.generation_config
    return larger


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path, help="folder of the checkpoint")
    parser.add_argument("out", type=Path, help="folder of the larger one")
    parser.add_argument("--depth", type=int, required=True, help="vision blocks")
    arguments = parser.parse_args()
    model = Qwen2VLForConditionalGeneration.from_pretrained(
        arguments.checkpoint, dtype=torch.float32
    )
    save_checkpoint(grown(model, arguments.depth), build_processor(), arguments.out)
    if (arguments.checkpoint / AUXILIARY_HEADS).is_file():
        shutil.copy(arguments.checkpoint / AUXILIARY_HEADS, arguments.out)


if __name__ == "__main__":
    main()
