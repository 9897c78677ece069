"""The backend that reads with PP-OCRv6 small, from the package rapidocr.

Only the model's file in that package is used; its code is not imported.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from qwen_captcha.backends import hardware
from qwen_captcha.backends.base import RemoteEngine
from qwen_captcha.errors import ModelLoadError
from qwen_captcha.recognition.calibration import read_calibration
from qwen_captcha.recognition.reading import (
    Capabilities,
    GenerationOutput,
    GenerationRequest,
    TokenLogprob,
)

MODEL_NAME = "PP-OCRv6-small"
MODEL = Path("models", "PP-OCRv6_rec_small.onnx")
INSTALL = "python -m pip install onnxruntime==1.32.0 rapidocr==3.10.0"


class PPOCRBackend:
    """PP-OCRv6 small in this process, on the CPU; see `base.Backend`.

    Args:
        workers: Processes like this one that share the cores.

    Raises:
        ModelLoadError: The required packages are not installed.
    """

    name = "ppocr"
    model_name = MODEL_NAME
    device = "cpu"
    remote: RemoteEngine | None = None

    def __init__(self, workers: int = 1) -> None:
        self._model = find_model()
        self._threads = max(1, hardware.usable_cores() // workers)
        self.capabilities = Capabilities(
            follows_prompts=False,
            answers_questions=False,
            calibration=read_calibration(Path(__file__).parent),
        )

    @property
    def gpu_available(self) -> bool:
        """Whether this machine has a GPU; this model does not use it."""
        return hardware.count_gpus() > 0

    def load(self) -> None:
        """Load the model.

        Raises:
            ModelLoadError: The model file is damaged or of another model.
        """
        from qwen_captcha.backends.ppocr.recognizer import Recognizer

        try:
            self._recognizer = Recognizer(self._model, self._threads)
        except (KeyError, RuntimeError) as error:
            raise ModelLoadError(f"{self._model.name} cannot be loaded: {error}") from error

    def read(self, requests: Sequence[GenerationRequest]) -> list[GenerationOutput]:
        """Read a batch; return one output for each request, in order."""
        transcripts = self._recognizer.read(
            [request.image for request in requests], [request.constraints for request in requests]
        )
        return [
            GenerationOutput(
                "".join(character.text for character in transcript.characters),
                transcript.log_probability,
                complete=True,
                tokens=tuple(TokenLogprob(*character) for character in transcript.characters),
            )
            for transcript in transcripts
        ]


def find_model() -> Path:
    """Return the model's file in the installed package.

    Raises:
        ModelLoadError: The file or the package onnxruntime is missing.
    """
    package = find_spec("rapidocr")
    folders = package.submodule_search_locations if package else None
    model = Path(folders[0]) / MODEL if folders else None
    if model is None or not model.is_file() or find_spec("onnxruntime") is None:
        raise ModelLoadError(f"{MODEL_NAME} needs the packages rapidocr and onnxruntime: {INSTALL}")
    return model
