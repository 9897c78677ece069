"""The backend that runs a Qwen2-VL checkpoint of any size with PyTorch."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from qwen_captcha.backends import hardware
from qwen_captcha.backends.qwen2vl.backend import Qwen2VLBackend
from qwen_captcha.backends.qwen2vl.pytorch.placement import (
    Gpu,
    LoadPlan,
    plan_for_cpu,
    plan_for_gpus,
)
from qwen_captcha.checkpoints import files as checkpoint_files
from qwen_captcha.checkpoints.files import CheckpointFiles
from qwen_captcha.checkpoints.safetensors_header import Weights
from qwen_captcha.settings import set_unset_variables

if TYPE_CHECKING:
    from qwen_captcha.backends.qwen2vl.engine import Qwen2VLEngine
    from qwen_captcha.backends.qwen2vl.pytorch.model import PyTorchCache

# torch's bridge to oneDNN and oneDNN itself each cache a kernel of half a MiB for every input shape
# of a layer, by default up to 1,024. Captchas of one size need a few dozen. Images and batches of
# many sizes filled both caches, 0.7 GiB, and were read no faster.
LIMITS = {"LRU_CACHE_CAPACITY": "64", "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "256"}

log = logging.getLogger(__name__)


class PyTorchBackend(Qwen2VLBackend):
    """A Qwen2-VL checkpoint of any size, on GPUs or the CPU.

    Args:
        checkpoint: Folder or hub name.
        model_name: Name of the model in the log and in `/health`.
        use_gpu: Whether to use CUDA if a GPU is available.
        options: Further arguments of `Qwen2VLBackend`.
    """

    name = "torch"

    def __init__(self, checkpoint: str, *, model_name: str, use_gpu: bool, **options: int) -> None:
        super().__init__(checkpoint, model_name=model_name, **options)
        self._use_gpu = use_gpu
        # According to the driver; `load` sets it according to torch.
        self._device = "cuda" if use_gpu and self._gpu_available else "cpu"

    @property
    def device(self) -> str:
        """`cuda` or `cpu`."""
        return self._device

    def check(self) -> None:
        """Check within seconds whether the checkpoint can be loaded.

        For a hub name that is not in the cache, a few kB are downloaded. Memory is checked for the
        CPU only: that of GPUs requires torch, and `load` checks it.

        Raises:
            ModelLoadError: The checkpoint is missing, half-downloaded, of another architecture or
            too
                large; the message has the remedy.
        """
        files = checkpoint_files.find_checkpoint(self._checkpoint)
        weights = files.weights if files else self._weights_on_the_hub()
        if weights is not None and self._device == "cpu":
            self._plan_for_cpu(weights)

    def _find_files(self) -> CheckpointFiles:
        files = checkpoint_files.find_checkpoint(self._checkpoint)
        if files is None:
            log.info("Downloading %s …", self._checkpoint)
            files = checkpoint_files.download_checkpoint(self._checkpoint)
        return files

    def _weights_on_the_hub(self) -> Weights | None:
        """Return the size of weights on the hub, None where the hub does not provide it."""
        folder = checkpoint_files.download_description(self._checkpoint)
        checkpoint_files.check_architecture(folder, self._checkpoint)
        log.info("%s is not complete on this machine and will be downloaded.", self._checkpoint)
        return checkpoint_files.described_weights(folder, self._checkpoint)

    def _load_engine(self, files: CheckpointFiles) -> Qwen2VLEngine[PyTorchCache]:
        limit_kernel_caches()
        # torch and transformers take seconds to import, so they are imported only here.
        from qwen_captcha.backends.qwen2vl.pytorch import loading
        from qwen_captcha.backends.qwen2vl.pytorch.processor import create_engine

        plan = self._plan(files, loading.visible_gpus())
        threads = loading.use_available_cores(self._workers)
        loading.retain_freed_memory()
        log.info(
            "%s of weights in %s on the device %s, %d CPU threads",
            hardware.in_gib(
                files.weights.loaded_bytes(plan.precision.bytes_per_parameter), digits=2
            ),
            plan.precision,
            plan.device,
            threads,
        )
        if plan.slow:
            log.warning(
                "%s does not fit the memory in float32, and this processor computes %s slowly: "
                "add memory, or choose a smaller model with QWEN_MODEL.",
                self._model_name,
                plan.precision,
            )
        model = loading.load_model(files.folder, plan)
        processor = loading.load_processor(files.folder, self._agreed_pixel_range(files))
        return create_engine(model, processor)

    def _plan(self, files: CheckpointFiles, gpus: Sequence[Gpu]) -> LoadPlan:
        """Return the placement of the model, and store whether torch finds GPUs."""
        self._gpu_available = bool(gpus)
        if self._use_gpu and gpus:
            plan = plan_for_gpus(self._checkpoint, files.weights, gpus)
        else:
            plan = self._plan_for_cpu(files.weights)
        self._device = plan.device
        return plan

    def _plan_for_cpu(self, weights: Weights) -> LoadPlan:
        return plan_for_cpu(
            self._checkpoint,
            weights,
            flags=hardware.cpu_flags(),
            available_bytes=hardware.available_memory_bytes(),
        )


def limit_kernel_caches() -> None:
    """Set `LIMITS` in the environment; no effect if torch is imported already."""
    set_unset_variables(LIMITS)
