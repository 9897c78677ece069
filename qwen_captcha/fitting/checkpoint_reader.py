"""A checkpoint that reads labelled pictures as the service would, before and after it is fitted."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image
from tqdm import tqdm  # type: ignore[import-untyped]

from qwen_captcha.backends.qwen2vl.pytorch.backend import PyTorchBackend
from qwen_captcha.fitting.calibrating import tasks_of
from qwen_captcha.recognition.reading import Capabilities, GenerationOutput
from qwen_captcha.settings import load_settings

_BATCH_SIZE = 16


class CheckpointReader:
    """Reads decoded pictures.

    Args:
        checkpoint: Folder or hub name.
        name: What messages call it.
        use_gpu: Where there is one.

    Raises:
        ModelLoadError: It cannot be loaded.
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

    @property
    def capabilities(self) -> Capabilities:
        """What the checkpoint can do."""
        return self._backend.capabilities

    def read(self, pictures: Sequence[Image.Image], title: str) -> list[GenerationOutput]:
        """Return what the model says about each picture, with a progress bar of a title."""
        readings: list[GenerationOutput] = []
        with tqdm(total=len(pictures), desc=title, unit="image", disable=None, leave=False) as bar:
            for start in range(0, len(pictures), _BATCH_SIZE):
                batch = pictures[start : start + _BATCH_SIZE]
                readings += self.read_batch(batch)
                bar.update(len(batch))
        return readings

    def read_batch(self, pictures: Sequence[Image.Image]) -> list[GenerationOutput]:
        """Return what the model says about pictures that it reads at once."""
        return self._backend.read(tasks_of(pictures, self.capabilities))
