"""Low-rank adapters for large checkpoints, which would not fit a GPU with all gradients.

A machine without a GPU is rejected. The package peft is required: `pip install "qwen-
captcha[large]"`. Source: Hu et al. 2021, LoRA, https://arxiv.org/abs/2106.09685.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from qwen_captcha.backends.hardware import usable_cores
from qwen_captcha.checkpoints.safetensors_header import Weights
from qwen_captcha.fitting.errors import FittingError
from qwen_captcha.fitting.trainer import Recipe

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import Qwen2VLForConditionalGeneration

# Checkpoints with more parameters are fitted through adapters.
LARGE = 200_000_000
_RANK = 16
# Every matrix of the blocks of both parts, by the names of its module.
_MODULES = r".*\.(attn\.qkv|attn\.proj|mlp\.fc1|mlp\.fc2|[qkvo]_proj|gate_proj|up_proj|down_proj)"
# A batch of large models is what fits the memory beside 4 GB of weights.
RECIPE = Recipe(learning_rate=2e-4, batch_size=8)
# For an estimate: images that a fit takes, tokens and patches of each, operations of a core.
_IMAGES, _TOKENS, _CORE_FLOPS = 1600, 300, 5e10


def check_large(name: str, weights: Weights, gpus: int) -> None:
    """Refuse to fit a large checkpoint where it takes days or peft is missing.

    Args:
        name: What the user calls the checkpoint.
        weights: Of the checkpoint.
        gpus: How many there are.

    Raises:
        FittingError: With the reason.
    """
    if not gpus:
        cores = usable_cores()
        hours = 6 * weights.parameters * _TOKENS * _IMAGES / (cores * _CORE_FLOPS) / 3600
        raise FittingError(
            f"{name} has {weights.parameters / 1e9:.1f} billion parameters: to fit it on "
            f"{cores} CPU cores would take some {hours:.0f} hours. Use a machine with a GPU, or "
            "--base bundled."
        )
    if find_spec("peft") is None:
        raise FittingError(f'To fit {name}, peft is needed: pip install "qwen-captcha[large]"')


def add_adapters(model: Qwen2VLForConditionalGeneration) -> PeftModel:
    """Freeze a model and put adapters into it, in place; return what merges them again."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=_RANK, lora_alpha=2 * _RANK, target_modules=_MODULES)
    return get_peft_model(model, config)


def merge_adapters(adapted: PeftModel) -> Qwen2VLForConditionalGeneration:
    """Return the model with its adapters added to its weights."""
    merged: Qwen2VLForConditionalGeneration = adapted.merge_and_unload()
    return merged
