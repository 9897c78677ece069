"""The views in which a backend in this process reads an image until it is sure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest
from PIL import Image

from qwen_captcha.backends.qwen2vl.backend import Qwen2VLBackend
from qwen_captcha.backends.qwen2vl.engine import Qwen2VLEngine
from qwen_captcha.checkpoints.files import CaptchaFacts, CheckpointFiles, View, Views
from qwen_captcha.checkpoints.safetensors_header import Weights
from qwen_captcha.recognition.reading import GenerationOutput, GenerationRequest, TokenLogprob

SURE, UNSURE, HOPELESS = -0.01, -0.8, -3.0
STRETCH = 1.6
VIEWS = Views(sure=0.7, views=(View(1.6, (1, 5)), View(0.8), View(3.2, (2, 20))))


class Engine:
    """Gives each image a log-probability by its width, and records what it reads.

    Args:
        by_width: Log-probabilities of whole outputs.
        either_case: Those of the outputs with their letters in either case, where they differ.
        cut: Widths whose output is not complete.
    """

    def __init__(
        self,
        by_width: dict[int, float],
        either_case: dict[int, float] | None = None,
        cut: Sequence[int] = (),
    ) -> None:
        self.by_width = by_width
        self.either_case = either_case or {}
        self.cut = cut
        self.batches: list[tuple[list[int], tuple[int, int] | None]] = []

    def read(
        self, requests: Sequence[GenerationRequest], pixel_range: tuple[int, int] | None = None
    ) -> list[GenerationOutput]:
        """Return the width of each image as its text."""
        widths = [request.image.width for request in requests]
        self.batches.append((widths, pixel_range))
        return [self._output(width) for width in widths]

    def _output(self, width: int) -> GenerationOutput:
        known = self.either_case.get(width)
        tokens = () if known is None else (TokenLogprob(str(width), known / 2),) * 2
        return GenerationOutput(
            str(width), self.by_width[width], complete=width not in self.cut, tokens=tokens
        )


class Backend(Qwen2VLBackend):
    """A checkpoint whose engine is given."""

    name = "fake"
    device = "cpu"

    def __init__(self, engine: Engine, views: Views | None) -> None:
        super().__init__("fake", model_name="fake", min_pixels=1, max_pixels=10)
        self._given, self._asked = engine, views

    def _find_files(self) -> CheckpointFiles:
        facts = CaptchaFacts(False, False, (1, 10), stretch=STRETCH, views=self._asked)
        return CheckpointFiles(Path("nowhere"), Weights(1), facts)

    def _load_engine(self, files: CheckpointFiles) -> Qwen2VLEngine[Any]:
        return cast(Qwen2VLEngine[Any], self._given)


def texts(engine: Engine, views: Views | None, widths: Sequence[int]) -> list[str]:
    """Return what a backend reads of images of some widths."""
    backend = Backend(engine, views)
    backend.load()
    images = [Image.new("RGB", (width, 10)) for width in widths]
    outputs = backend.read([GenerationRequest(image, "", 8) for image in images])
    return [output.raw_response for output in outputs]


def test_unsure_images_are_read_in_further_views_and_the_surest_output_counts() -> None:
    engine = Engine({100: SURE, 200: HOPELESS, 300: UNSURE, 150: HOPELESS, 600: HOPELESS})
    engine.by_width[200 // 2] = SURE  # 200 is surer at half its width
    assert texts(engine, VIEWS, [100, 200, 300]) == ["100", "100", "300"]
    assert engine.batches == [
        ([100, 200, 300], (1, 5)),
        ([100, 150], None),
        ([600], (2, 20)),  # what is sure by now is not read again
    ]


@pytest.mark.parametrize("views", [None, VIEWS], ids=["one view", "sure"])
def test_a_sure_image_is_read_once(views: Views | None) -> None:
    engine = Engine({100: SURE if views else HOPELESS})
    assert texts(engine, views, [100, 100]) == ["100", "100"]
    assert engine.batches == [([100, 100], (1, 5) if views else None)]


def test_an_image_of_which_only_the_case_is_unsure_is_read_once() -> None:
    engine = Engine({100: UNSURE}, either_case={100: SURE})
    assert texts(engine, VIEWS, [100]) == ["100"]
    assert len(engine.batches) == 1


def test_the_surest_text_counts_with_its_letters_in_either_case() -> None:
    engine = Engine(
        {100: HOPELESS, 50: UNSURE, 200: HOPELESS}, either_case={100: -0.5, 50: -0.7, 200: -2.0}
    )
    assert texts(engine, VIEWS, [100]) == ["100"]


def test_an_output_that_was_cut_is_unsure() -> None:
    engine = Engine({100: SURE, 50: HOPELESS, 200: UNSURE}, cut=[100])
    assert texts(engine, VIEWS, [100]) == ["200"]
