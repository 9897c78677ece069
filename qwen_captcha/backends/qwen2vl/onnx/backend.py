"""The backend that runs a small Qwen2-VL checkpoint with ONNX Runtime."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from qwen_captcha.backends import hardware
from qwen_captcha.backends.qwen2vl.backend import Qwen2VLBackend
from qwen_captcha.backends.qwen2vl.onnx.graph_files import choose_precision, has_graphs
from qwen_captcha.checkpoints.files import CheckpointFiles, inspect_checkpoint
from qwen_captcha.errors import ModelLoadError
from qwen_captcha.settings import openmp_threads

if TYPE_CHECKING:
    from qwen_captcha.backends.qwen2vl.engine import Qwen2VLEngine
    from qwen_captcha.backends.qwen2vl.onnx.model import OnnxCache

log = logging.getLogger(__name__)


class OnnxBackend(Qwen2VLBackend):
    """A checkpoint in a folder with graphs, on the CPU; see `Qwen2VLBackend`."""

    name = "onnx"
    device = "cpu"

    def check(self) -> None:
        """Check whether the checkpoint can be loaded.

        Raises:
            ModelLoadError: The checkpoint is missing, of another architecture or without graphs.
        """
        files = self._find_files()
        if not has_graphs(files.folder):
            raise ModelLoadError(
                f"{self._model_name} has no graphs for ONNX Runtime. Create them with "
                f"`qwen-captcha export {self._checkpoint}`, or set QWEN_BACKEND=torch."
            )

    def _find_files(self) -> CheckpointFiles:
        folder = Path(self._checkpoint)
        if not folder.is_dir():
            raise ModelLoadError(
                f"{self._checkpoint} is no folder: ONNX Runtime serves a folder that has its "
                "graphs. Set QWEN_BACKEND=torch, or QWEN_MODEL=bundled."
            )
        return inspect_checkpoint(folder, self._model_name)

    def _load_engine(self, files: CheckpointFiles) -> Qwen2VLEngine[OnnxCache]:
        # Imported here, because it takes a tenth of a second and `check` does not need it.
        from qwen_captcha.backends.qwen2vl.onnx.model import load_engine

        precision = choose_precision(files.folder, hardware.cpu_flags())
        cores = max(1, hardware.usable_cores() // self._workers)
        # ONNX Runtime does not use OpenMP, but users set this variable to divide the cores.
        threads = min(cores, openmp_threads() or cores)
        log.info("ONNX Runtime in %s, %d CPU threads", precision, threads)
        pixel_range = self._agreed_pixel_range(files)
        try:
            return load_engine(files.folder, precision, threads, pixel_range)
        except (KeyError, OSError) as error:
            raise ModelLoadError(f"{self._model_name} cannot be loaded: {error}.") from error
