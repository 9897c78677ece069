"""Load a model and its processor from a checkpoint on disk.

Weights are loaded only from safetensors files, once into memory. No code of a checkpoint is run,
and the network is not used.
"""

from __future__ import annotations

import ctypes
import logging
import platform
from pathlib import Path

import torch
from transformers import AutoProcessor, Qwen2VLForConditionalGeneration, Qwen2VLProcessor

from qwen_captcha.backends.hardware import usable_cores
from qwen_captcha.backends.qwen2vl.pytorch.placement import Gpu, LoadPlan
from qwen_captcha.errors import ModelLoadError

# Parameters of glibc's `mallopt`.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
# Maximum freed memory that the process retains, and the largest allocation that is retained:
# tensors of a batch of 32 captchas take a few MiB each.
TRIM_THRESHOLD_BYTES = 128 * 1024**2
MAX_RETAINED_BYTES = 32 * 1024**2  # The maximum of glibc.

log = logging.getLogger(__name__)


def visible_gpus() -> list[Gpu]:
    """Return the GPUs that this process can use, in torch's order."""
    if not torch.cuda.is_available():
        return []
    return [
        Gpu(
            free_bytes=torch.cuda.mem_get_info(number)[0],
            # GPUs before Ampere emulate bf16, slower than fp32.
            computes_bf16=torch.cuda.get_device_capability(number) >= (8, 0),
        )
        for number in range(torch.cuda.device_count())
    ]


def use_available_cores(workers: int) -> int:
    """Set torch's number of threads to this worker's share of the usable cores; return it."""
    # By default OpenMP uses all cores of the host, also in a container with a quota. A smaller
    # number from OMP_NUM_THREADS is not changed.
    threads = min(torch.get_num_threads(), max(1, usable_cores() // workers))
    torch.set_num_threads(threads)
    return threads


def retain_freed_memory() -> None:
    """Configure glibc to retain some freed memory for the next batch.

    Otherwise glibc returns it to the system after each batch. New pages took 7 % of a batch's time.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_TRIM_THRESHOLD, TRIM_THRESHOLD_BYTES)
        libc.mallopt(M_MMAP_THRESHOLD, MAX_RETAINED_BYTES)


def load_model(folder: Path, plan: LoadPlan) -> Qwen2VLForConditionalGeneration:
    """Return the model of a complete checkpoint, ready for inference.

    Raises:
        ModelLoadError: The files are damaged, or weights are missing.
    """
    placement: dict[str, object] = {"device_map": {"": plan.device}}
    if plan.gpu is not None:
        placement = {"device_map": {"": plan.gpu}}
    elif plan.gpu_budgets:
        # Without a budget for the CPU and the disk: the plan has checked that the GPUs suffice.
        placement = {"device_map": "auto", "max_memory": plan.gpu_budgets}
    try:
        model, report = Qwen2VLForConditionalGeneration.from_pretrained(
            folder,
            dtype=getattr(torch, plan.precision),
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
            **placement,
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise _broken(folder, error) from error
    missing = sorted(report["missing_keys"])
    if missing:
        # transformers only warns, and fills missing weights with random numbers.
        raise ModelLoadError(
            f"The checkpoint {folder.name} lacks {len(missing)} weights, {missing[0]} among them: "
            "download or save it again."
        )
    return model.eval()


def load_processor(folder: Path, pixel_range: tuple[int, int]) -> Qwen2VLProcessor:
    """Return the checkpoint's processor, which resizes images to the range of pixels.

    Raises:
        ModelLoadError: A file of the processor is missing or damaged.
    """
    try:
        processor = AutoProcessor.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True
        )
    except (OSError, ValueError, KeyError) as error:
        raise _broken(folder, error) from error
    low, high = pixel_range
    processor.image_processor.size = {"shortest_edge": low, "longest_edge": high}
    processor.tokenizer.padding_side = "left"
    return processor


def _broken(folder: Path, error: Exception) -> ModelLoadError:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return ModelLoadError(f"The checkpoint {folder.name} cannot be loaded: {reason}")
