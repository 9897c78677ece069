"""The backend that runs a Qwen2-VL checkpoint in this process.

Responsible for: the order of things from a checkpoint's name to a warm model: checks, download,
load, first readings. Invariants: a check needs no torch (importing it takes seconds, so this module
imports it only while loading); one thread loads, and the same thread alone reads.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw

from qwen_captcha.backends import hardware
from qwen_captcha.backends.base import RemoteEngine
from qwen_captcha.backends.qwen2vl.pytorch.placement import (
    GIB,
    Gpu,
    LoadPlan,
    plan_for_cpu,
    plan_for_gpus,
)
from qwen_captcha.checkpoints import files as checkpoint_files
from qwen_captcha.checkpoints.files import CheckpointFiles
from qwen_captcha.checkpoints.safetensors_header import Weights
from qwen_captcha.errors import ModelLoadError
from qwen_captcha.recognition.calibration import (
    Calibration,
    CalibrationError,
    read_calibration,
)
from qwen_captcha.recognition.reading import (
    Capabilities,
    GenerationOutput,
    GenerationRequest,
)
from qwen_captcha.settings import set_unset_variables

if TYPE_CHECKING:
    from qwen_captcha.backends.qwen2vl.engine import Qwen2VLEngine
    from qwen_captcha.backends.qwen2vl.pytorch.model import PyTorchCache

WARM_UP_PROMPT = "What does the image say?"
WARM_UP_TOKENS = 4
WARM_UP_BATCH_SIZES = (1, 2)
# For each shape that a layer meets, torch's bridge to oneDNN and oneDNN itself keep a kernel, up to
# 1,024 each by default and half a MiB apiece. Captchas of one size need a few dozen; images of any
# size and batches of any composition filled both, 0.7 GiB, and read no faster for it.
LIMITS = {"LRU_CACHE_CAPACITY": "64", "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "256"}

log = logging.getLogger(__name__)


class Qwen2VLBackend:
    """A Qwen2-VL checkpoint of any size, in this process; see `base.Backend`.

    Args:
        checkpoint: Folder or hub name.
        model_name: What `/health` calls it.
        use_gpu: Use CUDA where there is some.
        min_pixels: Smaller images are enlarged to this, unless the checkpoint has its own range.
        max_pixels: Larger images are reduced to this, unless the checkpoint has its own range.
        workers: Processes like this one that share the cores.
    """

    def __init__(
        self,
        checkpoint: str,
        *,
        model_name: str,
        use_gpu: bool,
        min_pixels: int,
        max_pixels: int,
        workers: int = 1,
    ) -> None:
        self._checkpoint = checkpoint
        self._model_name = model_name
        self._use_gpu = use_gpu
        self._pixel_range = (min_pixels, max_pixels)
        self._workers = workers
        # What the driver says, until torch knows better.
        self._gpu_available = hardware.count_gpus() > 0
        self._device = "cuda" if use_gpu and self._gpu_available else "cpu"
        self._capabilities = Capabilities()
        self._engine: Qwen2VLEngine[PyTorchCache] | None = None

    @property
    def model_name(self) -> str:
        """Hub name, folder name or `bundled`."""
        return self._model_name

    @property
    def device(self) -> str:
        """`cuda` or `cpu`."""
        return self._device

    @property
    def gpu_available(self) -> bool:
        """Whether this process sees a GPU."""
        return self._gpu_available

    @property
    def capabilities(self) -> Capabilities:
        """What the checkpoint can do."""
        return self._capabilities

    @property
    def remote(self) -> RemoteEngine | None:
        """None: the model is in this process."""
        return None

    def check(self) -> None:
        """Find out within seconds whether the checkpoint can be loaded.

        A hub name that is not in the cache is looked up on the hub, a few kB. Memory is checked
        for the CPU; GPUs tell theirs only to torch, in `load`.

        Raises:
            ModelLoadError: It is missing, half-downloaded, of another architecture or too
                large; the message says what to do.
        """
        files = checkpoint_files.find_checkpoint(self._checkpoint)
        weights = files.weights if files else self._weights_on_the_hub()
        if weights is not None and self._device == "cpu":
            self._plan_for_cpu(weights)

    def load(self) -> None:
        """Download what is missing, load the model and read with it once.

        Raises:
            ModelLoadError: With one line that says what is wrong and what to do.
        """
        files = checkpoint_files.find_checkpoint(self._checkpoint)
        if files is None:
            log.info("Downloading %s …", self._checkpoint)
            files = checkpoint_files.download_checkpoint(self._checkpoint)
        log.info("Loading %s from %s …", self._model_name, files.folder)
        started_s = time.monotonic()
        self._capabilities = Capabilities(
            follows_prompts=files.facts.follows_prompts,
            answers_questions=files.facts.answers_questions,
            crops_to_text=files.facts.crops_to_text,
            stretch=files.facts.stretch,
            calibration=_read_calibration(files),
        )
        try:
            self._engine = self._load_engine(files)
            self._warm_up()
        except (ArithmeticError, ValueError, RuntimeError) as error:
            raise ModelLoadError(
                f"{self._model_name} was loaded but cannot read an image: {error}"
            ) from error
        log.info(
            "%s is ready after %.1f s; the process holds %s of memory",
            self._model_name,
            time.monotonic() - started_s,
            _gib(hardware.resident_memory_bytes()),
        )

    def read(self, requests: Sequence[GenerationRequest]) -> list[GenerationOutput]:
        """Read a batch; the result has one output a request, in order.

        Raises:
            MemoryError: The batch does not fit; the caller may try a smaller one.
            RuntimeError: The model is not loaded.
        """
        if self._engine is None:
            raise RuntimeError("The model is not loaded.")
        return self._engine.read(requests)

    def _weights_on_the_hub(self) -> Weights | None:
        """Return the size of weights that are not here, None where the hub does not tell."""
        folder = checkpoint_files.download_description(self._checkpoint)
        checkpoint_files.check_architecture(folder, self._checkpoint)
        log.info("%s is not here, or not all of it; it will be downloaded.", self._checkpoint)
        return checkpoint_files.described_weights(folder, self._checkpoint)

    def _load_engine(self, files: CheckpointFiles) -> Qwen2VLEngine[PyTorchCache]:
        limit_kernel_caches()
        # Seconds: torch and transformers are imported here and not before.
        from qwen_captcha.backends.qwen2vl.pytorch import loading
        from qwen_captcha.backends.qwen2vl.pytorch.processor import create_engine

        plan = self._plan(files, loading.visible_gpus())
        threads = loading.use_available_cores(self._workers)
        loading.keep_freed_memory()
        log.info(
            "%s of weights in %s on the device %s, %d CPU threads",
            _gib(files.weights.loaded_bytes(plan.precision.bytes_per_parameter)),
            plan.precision,
            plan.device,
            threads,
        )
        if plan.slow:
            log.warning(
                "%s does not fit the memory in float32, and this processor computes %s slowly.",
                self._model_name,
                plan.precision,
            )
        model = loading.load_model(files.folder, plan)
        processor = loading.load_processor(files.folder, self._agreed_pixel_range(files))
        engine = create_engine(model, processor)
        loading.spare_what_is_loaded()
        return engine

    def _plan(self, files: CheckpointFiles, gpus: Sequence[Gpu]) -> LoadPlan:
        """Return where to load to, and remember what torch says about GPUs."""
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

    def _agreed_pixel_range(self, files: CheckpointFiles) -> tuple[int, int]:
        """Return the checkpoint's own range of pixels where it has one, else the settings'."""
        own = files.facts.pixel_range
        if own is None or own == self._pixel_range:
            return self._pixel_range
        log.info(
            "%s was trained on images of %d to %d pixels and keeps that range; "
            "MIN_PIXELS=%d and MAX_PIXELS=%d have no effect.",
            self._model_name,
            *own,
            *self._pixel_range,
        )
        return own

    def _warm_up(self) -> None:
        """Read a drawn image, alone and in a batch, so that no caller waits for a first time."""
        image = Image.new("RGB", (160, 60), "white")
        ImageDraw.Draw(image).text((40, 10), "A1", fill="black", font_size=32)
        request = GenerationRequest(image, WARM_UP_PROMPT, WARM_UP_TOKENS)
        for size in WARM_UP_BATCH_SIZES:
            self.read([request] * size)


def _read_calibration(files: CheckpointFiles) -> Calibration | None:
    try:
        return read_calibration(files.folder)
    except CalibrationError as error:
        raise ModelLoadError(str(error)) from error


def _gib(size: int | None) -> str:
    return "an unknown amount" if size is None else f"{size / GIB:.2f} GiB"


def limit_kernel_caches() -> None:
    """Set the limits; it has no effect on a process that has imported torch."""
    set_unset_variables(LIMITS)
