"""The base class of backends that run a Qwen2-VL checkpoint in this process.

`check` needs neither torch nor ONNX Runtime: torch takes seconds to import, so `load` imports it.
One thread loads, and only that thread reads.
"""

from __future__ import annotations

import atexit
import gc
import logging
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from qwen_captcha.backends import hardware
from qwen_captcha.backends.base import RemoteEngine
from qwen_captcha.checkpoints.files import CheckpointFiles, View, Views
from qwen_captcha.errors import ModelLoadError
from qwen_captcha.images.resize import stretched
from qwen_captcha.recognition.calibration import (
    Calibration,
    CalibrationError,
    read_calibration,
)
from qwen_captcha.recognition.reading import (
    Capabilities,
    GenerationOutput,
    GenerationRequest,
    either_case_log_probability,
)
from qwen_captcha.settings import Settings

if TYPE_CHECKING:
    from qwen_captcha.backends.qwen2vl.engine import Qwen2VLEngine

DEFAULT_PIXEL_RANGE = (Settings().min_pixels, Settings().max_pixels)

log = logging.getLogger(__name__)


class Qwen2VLBackend(ABC):
    """A Qwen2-VL checkpoint in this process; see `base.Backend`.

    Args:
        checkpoint: Folder or hub name.
        model_name: Name of the model in the log and in `/health`.
        min_pixels: Smaller images are enlarged to this, unless the checkpoint has its own range.
        max_pixels: Larger images are reduced to this, unless the checkpoint has its own range.
        workers: Processes like this one that share the cores.
    """

    def __init__(
        self,
        checkpoint: str,
        *,
        model_name: str,
        min_pixels: int,
        max_pixels: int,
        workers: int = 1,
    ) -> None:
        self._checkpoint = checkpoint
        self._model_name = model_name
        self._pixel_range = (min_pixels, max_pixels)
        self._workers = workers
        self._gpu_available = hardware.count_gpus() > 0
        self._capabilities = Capabilities()
        self._views: Views | None = None
        self._engine: Qwen2VLEngine[Any] | None = None

    @property
    def model_name(self) -> str:
        """Hub name, folder name or `bundled`."""
        return self._model_name

    @property
    def gpu_available(self) -> bool:
        """Whether this process can use a GPU."""
        return self._gpu_available

    @property
    def capabilities(self) -> Capabilities:
        """The capabilities of the checkpoint."""
        return self._capabilities

    @property
    def remote(self) -> RemoteEngine | None:
        """None: the model is in this process."""
        return None

    def load(self) -> None:
        """Download missing files and load the model.

        Raises:
            ModelLoadError: The model cannot be loaded; one line with the cause and the remedy.
        """
        files = self._find_files()
        log.info("Loading %s from %s …", self._model_name, files.folder)
        started_s = time.monotonic()
        self._capabilities = Capabilities(
            follows_prompts=files.facts.follows_prompts,
            answers_questions=files.facts.answers_questions,
            crops_to_text=files.facts.crops_to_text,
            stretch=files.facts.stretch,
            calibration=_read_calibration(files),
        )
        self._views = files.facts.views
        try:
            self._engine = self._load_engine(files)
        except (ArithmeticError, ValueError, RuntimeError) as error:
            raise ModelLoadError(f"{self._model_name} cannot be loaded: {error}") from error
        freeze_loaded_objects()
        log.info(
            "%s is loaded after %.1f s; the process holds %s of memory",
            self._model_name,
            time.monotonic() - started_s,
            hardware.in_gib(hardware.resident_memory_bytes(), digits=2),
        )

    def read(self, requests: Sequence[GenerationRequest]) -> list[GenerationOutput]:
        """Read a batch; return one output for each request, in order.

        If the checkpoint has several views, an image is read in one view after the other until the
        probability of an output reaches the limit. The most probable output is returned; its
        probability covers either case of its letters.

        Raises:
            MemoryError: The batch does not fit; the caller may try a smaller one.
            RuntimeError: The model is not loaded.
        """
        if self._engine is None:
            raise RuntimeError("The model is not loaded.")
        if self._views is None:
            return self._engine.read(requests)
        limit = math.log(self._views.sure)
        best: dict[int, GenerationOutput] = {}
        unsure = list(range(len(requests)))
        for view in self._views.views:
            shown = [self._show(requests[n], view) for n in unsure]
            for n, output in zip(unsure, self._engine.read(shown, view.pixel_range), strict=True):
                best[n] = max(best.get(n, output), output, key=_certainty)
            unsure = [n for n in unsure if _certainty(best[n]) < limit]
            if not unsure:
                break
        return [best[n] for n in range(len(requests))]

    def _show(self, request: GenerationRequest, view: View) -> GenerationRequest:
        scale = view.stretch / self._capabilities.stretch
        return replace(request, image=stretched(request.image, scale))

    @abstractmethod
    def _find_files(self) -> CheckpointFiles:
        """Return the files of the checkpoint, and download them if necessary.

        Raises:
            ModelLoadError: The files cannot be found or downloaded.
        """

    @abstractmethod
    def _load_engine(self, files: CheckpointFiles) -> Qwen2VLEngine[Any]:
        """Return the engine that reads with these files.

        Raises:
            ModelLoadError: The files are not those of a supported model.
        """

    def _agreed_pixel_range(self, files: CheckpointFiles) -> tuple[int, int]:
        """Return the checkpoint's own range of pixels if it has one, else that of the settings.

        A warning is logged only if the settings were changed and have no effect.
        """
        own = files.facts.pixel_range
        if own is None:
            return self._pixel_range
        if self._pixel_range not in (own, DEFAULT_PIXEL_RANGE):
            log.warning(
                "%s was trained on images of %d to %d pixels, and reads them in that range: "
                "MIN_PIXELS=%d and MAX_PIXELS=%d have no effect.",
                self._model_name,
                *own,
                *self._pixel_range,
            )
        return own


def _certainty(output: GenerationOutput) -> float:
    """Return the log-probability of an output, in either case of its letters if it has tokens.

    An output that was cut at its maximum length lacks the factor of the end token: -inf.
    """
    assert output.log_probability is not None  # Only remote engines lack it.
    if not output.complete:
        return -math.inf
    return either_case_log_probability(output.log_probability, output.tokens)


def _read_calibration(files: CheckpointFiles) -> Calibration | None:
    try:
        return read_calibration(files.folder)
    except CalibrationError as error:
        raise ModelLoadError(str(error)) from error


def freeze_loaded_objects() -> None:
    """Exclude all objects that exist now from Python's garbage collection.

    Libraries and a model are half a million objects. Collecting them stopped all threads for a
    quarter of a second, several times in a minute under load.
    """
    gc.collect()
    gc.freeze()
    # Some libraries report objects that still exist when the interpreter ends.
    atexit.register(gc.unfreeze)
