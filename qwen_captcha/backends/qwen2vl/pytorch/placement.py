"""Device and precision of a checkpoint, or the reason why it cannot be loaded.

The rules are pure functions of the weights' size and the hardware, without torch. float16 is never
chosen, because Qwen2-VL overflows in it. Weights are never placed where they do not fit, nor on
disk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from qwen_captcha.backends.hardware import GIB, in_gib
from qwen_captcha.checkpoints.resolve import DEFAULT_MODEL
from qwen_captcha.checkpoints.safetensors_header import Weights
from qwen_captcha.errors import ModelLoadError

# Memory for buffers, images and the caches of a batch, in addition to the weights.
CPU_SPARE_BYTES = GIB // 2
GPU_SPARE_BYTES = GIB
# Processors without these compute bf16 far slower than fp32.
FAST_BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16"})


class Precision(StrEnum):
    """The type of the loaded weights, by torch's name."""

    BF16 = "bfloat16"
    FP32 = "float32"

    @property
    def bytes_per_parameter(self) -> int:
        """The bytes of one weight."""
        return 2 if self is Precision.BF16 else 4


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU that this process can use.

    Attributes:
        free_bytes: Unused memory.
        computes_bf16: It has bf16 arithmetic (Ampere and later).
    """

    free_bytes: int
    computes_bf16: bool


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """The placement of the weights.

    Attributes:
        precision: The type to which they are converted.
        gpu: Number of the GPU; None for the CPU or several GPUs.
        slow: Whether the processor computes this precision slowly, because the faster one does not
            fit.
        gpu_budgets: With several GPUs, maximum bytes of weights on each, by its number.
    """

    precision: Precision
    gpu: int | None = None
    slow: bool = False
    gpu_budgets: dict[int, int] = field(default_factory=dict)

    @property
    def device(self) -> str:
        """`cuda` or `cpu`."""
        return "cpu" if self.gpu is None and not self.gpu_budgets else "cuda"


def plan_for_cpu(
    name: str, weights: Weights, *, flags: frozenset[str], available_bytes: int | None
) -> LoadPlan:
    """Return the placement of a checkpoint on the CPU.

    Args:
        name: Name of the checkpoint in errors.
        weights: The size of its weights.
        flags: The processor's features.
        available_bytes: Available memory; None if it is unknown, which is treated as enough.

    Raises:
        ModelLoadError: The weights do not fit.
    """
    fast_bf16 = bool(flags & FAST_BF16_FLAGS)
    choices = [Precision.BF16] if fast_bf16 else [Precision.FP32, Precision.BF16]
    for precision in choices:
        needed = _needed_bytes(weights, precision) + CPU_SPARE_BYTES
        if available_bytes is None or needed <= available_bytes:
            return LoadPlan(precision, slow=precision is not choices[0])
    raise _too_large(name, needed, f"{in_gib(available_bytes or 0)} of memory are free")


def plan_for_gpus(name: str, weights: Weights, gpus: Sequence[Gpu]) -> LoadPlan:
    """Return the placement on the GPU with the most free memory, else on several GPUs.

    Args:
        name: Name of the checkpoint in errors.
        weights: The size of its weights.
        gpus: At least one GPU.

    Raises:
        ModelLoadError: The weights do not fit all GPUs together.
    """
    all_bf16 = all(gpu.computes_bf16 for gpu in gpus)
    precision = Precision.BF16 if all_bf16 else Precision.FP32
    needed = _needed_bytes(weights, precision)
    budgets = {
        number: budget
        for number, gpu in enumerate(gpus)
        if (budget := gpu.free_bytes - GPU_SPARE_BYTES) > 0
    }
    emptiest = max(budgets, key=budgets.__getitem__, default=None)
    if emptiest is not None and needed <= budgets[emptiest]:
        return LoadPlan(precision, gpu=emptiest)
    if needed <= sum(budgets.values()):
        return LoadPlan(precision, gpu_budgets=budgets)
    free = sum(gpu.free_bytes for gpu in gpus)
    raise _too_large(
        name, needed + GPU_SPARE_BYTES, f"{in_gib(free)} of GPU memory are free", "USE_GPU=false, "
    )


def _needed_bytes(weights: Weights, precision: Precision) -> int:
    # A tenth more, for alignment and for layers that cannot be split between devices.
    return weights.loaded_bytes(precision.bytes_per_parameter) * 11 // 10


def _too_large(name: str, needed: int, free: str, also: str = "") -> ModelLoadError:
    # The default is the smallest published Qwen2-VL.
    smaller = "" if name == DEFAULT_MODEL else f"QWEN_MODEL={DEFAULT_MODEL} (5 GiB in bf16) or "
    return ModelLoadError(
        f"{name} needs {in_gib(needed)} and only {free}. Choose a smaller model: {also}{smaller}"
        "QWEN_MODEL=bundled."
    )
