"""Validation counts the same answers as right as the service returns."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import matplotlib
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, Qwen2VLForConditionalGeneration

from qwen_captcha.backends.qwen2vl.pytorch.backend import PyTorchBackend
from qwen_captcha.checkpoints.resolve import BUNDLED_CHECKPOINT
from qwen_captcha.recognition.plan import image_shown
from qwen_captcha.recognition.reading import GenerationRequest
from training import held_out
from training.build import MAX_PIXELS, MIN_PIXELS
from training.learning.curriculum import LEVELS
from training.learning.objective import Objective
from training.rendering.fonts import FontLibrary
from training.validate import VALIDATION_SEED, rendered, validate

pytestmark = pytest.mark.live

# matplotlib ships DejaVu: enough to draw with on a machine without Debian's fonts.
FACE = str(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf")
FONTS = FontLibrary(latin=((FACE,),), hanzi=())
IMAGES = 60


def test_validation_reads_as_the_service_does_in_one_view(monkeypatch: pytest.MonkeyPatch) -> None:
    level = replace(LEVELS[-1], kinds=(("digits", 1.0), ("latin", 1.0), ("math", 1.0)))
    monkeypatch.setattr(held_out, "LEVELS", (level,))
    backend = PyTorchBackend(
        str(BUNDLED_CHECKPOINT),
        model_name="bundled",
        use_gpu=False,
        min_pixels=MIN_PIXELS,
        max_pixels=MAX_PIXELS,
    )
    backend.load()
    backend._views = None
    hits: dict[str, list[bool]] = defaultdict(list)
    for drawn, text, kind in held_out.draw_held_out(IMAGES, FONTS, VALIDATION_SEED):
        image = image_shown(Image.fromarray(drawn.image), backend.capabilities)
        [reading] = backend.read([GenerationRequest(image, "", 24)])
        hits[kind].append(reading.raw_response == text.replace(" ", ""))
    model = Qwen2VLForConditionalGeneration.from_pretrained(BUNDLED_CHECKPOINT, dtype=torch.float32)
    tokenizer = AutoProcessor.from_pretrained(BUNDLED_CHECKPOINT).tokenizer
    figures = validate(Objective(model, tokenizer).eval(), rendered(IMAGES, FONTS))
    assert figures.keys() == {*hits, *(f"{kind}_caseless" for kind in hits)}
    for kind, found in hits.items():
        # bf16 here and there: at most one answer of a kind differs.
        assert abs(figures[kind] * len(found) - sum(found)) < 1.5
        assert figures[kind] <= figures[f"{kind}_caseless"]
    assert 0.3 < sum(map(sum, hits.values())) / IMAGES < 1
