"""Read labelled images with a checkpoint as the service does, before and after it is fitted."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image
from tqdm import tqdm  # type: ignore[import-untyped]

from qwen_captcha.backends.qwen2vl.pytorch.backend import PyTorchBackend
from qwen_captcha.recognition.options import Options
from qwen_captcha.recognition.plan import plan_recognition
from qwen_captcha.recognition.reading import GenerationOutput
from qwen_captcha.settings import load_settings

_BATCH_SIZE = 16
_MAX_NEW_TOKENS = 32


class CheckpointReader:
    """Reads decoded images with the default options.

    Args:
        checkpoint: Folder or hub name.
        name: Name of the checkpoint in messages.
        use_gpu: Use a GPU if there is one.

    Attributes:
        plan: The plan of all requests.

    Raises:
        ModelLoadError: The checkpoint cannot be loaded.
    """

    def __init__(self, checkpoint: str, name: str, *, use_gpu: bool) -> None:
        settings = load_settings({})
        self._backend = PyTorchBackend(
            checkpoint,
            model_name=name,
            use_gpu=use_gpu,
            min_pixels=settings.min_pixels,
            max_pixels=settings.max_pixels,
        )
        self._backend.load()
        self.plan = plan_recognition(Options(), self._backend.capabilities)

    def read(self, pictures: Sequence[Image.Image], title: str) -> list[GenerationOutput]:
        """Return the output for each image; show a progress bar with a title."""
        readings: list[GenerationOutput] = []
        with tqdm(total=len(pictures), desc=title, unit="image", disable=None, leave=False) as bar:
            for start in range(0, len(pictures), _BATCH_SIZE):
                batch = pictures[start : start + _BATCH_SIZE]
                readings += self.read_batch(batch)
                bar.update(len(batch))
        return readings

    def read_batch(self, pictures: Sequence[Image.Image]) -> list[GenerationOutput]:
        """Return the outputs for images that are read as one batch."""
        return self._backend.read(
            [self.plan.request(picture, _MAX_NEW_TOKENS) for picture in pictures]
        )
