"""The second look of a backend that runs a checkpoint in this process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest
from PIL import Image

from qwen_captcha.backends.qwen2vl.backend import Qwen2VLBackend
from qwen_captcha.backends.qwen2vl.engine import Qwen2VLEngine
from qwen_captcha.checkpoints.files import CaptchaFacts, CheckpointFiles, SecondLook
from qwen_captcha.checkpoints.safetensors_header import Weights
from qwen_captcha.recognition.reading import GenerationOutput, GenerationRequest

SURE, UNSURE, HOPELESS = -0.01, -0.8, -3.0
STRETCH, LOOK = 1.6, SecondLook(0.8, 0.7)


class Engine:
    """Gives each image a log-probability by its width, and records what it reads."""

    def __init__(self, by_width: dict[int, float]) -> None:
        self.by_width = by_width
        self.batches: list[list[int]] = []

    def read(self, requests: Sequence[GenerationRequest]) -> list[GenerationOutput]:
        """Return the width of each image as its text."""
        widths = [request.image.width for request in requests]
        self.batches.append(widths)
        return [GenerationOutput(str(width), self.by_width[width], True) for width in widths]


class Backend(Qwen2VLBackend):
    """A checkpoint whose engine is given."""

    name = "fake"
    device = "cpu"

    def __init__(self, engine: Engine, look: SecondLook | None) -> None:
        super().__init__("fake", model_name="fake", min_pixels=1, max_pixels=10)
        self._given, self._look = engine, look

    def _find_files(self) -> CheckpointFiles:
        facts = CaptchaFacts(False, False, (1, 10), stretch=STRETCH, second_look=self._look)
        return CheckpointFiles(Path("nowhere"), Weights(1), facts)

    def _load_engine(self, files: CheckpointFiles) -> Qwen2VLEngine[Any]:
        return cast(Qwen2VLEngine[Any], self._given)


def texts(engine: Engine, look: SecondLook | None, widths: Sequence[int]) -> list[str]:
    """Return what a backend reads of images of some widths."""
    backend = Backend(engine, look)
    backend.load()
    images = [Image.new("RGB", (width, 10)) for width in widths]
    outputs = backend.read([GenerationRequest(image, "", 8) for image in images])
    return [output.raw_response for output in outputs]


def test_unsure_images_are_read_again_in_one_batch_and_the_surer_output_counts() -> None:
    engine = Engine({100: SURE, 200: HOPELESS, 300: UNSURE, 50: SURE, 150: HOPELESS, 400: UNSURE})
    engine.by_width[200 // 2] = SURE  # 200 is surer at half its width
    assert texts(engine, LOOK, [100, 200, 300]) == ["100", "100", "300"]
    assert engine.batches == [[100, 200, 300], [100, 150]]


@pytest.mark.parametrize("look", [None, LOOK], ids=["no second look", "all sure"])
def test_an_image_above_the_threshold_is_read_once(look: SecondLook | None) -> None:
    engine = Engine({100: SURE if look else HOPELESS})
    assert texts(engine, look, [100, 100]) == ["100", "100"]
    assert engine.batches == [[100, 100]]
