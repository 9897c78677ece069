from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from evaluation.load.plain_generate import PlainGenerate, plain_settings
from evaluation.load.synthetic_captchas import draw_captchas
from qwen_captcha.backends.qwen2vl.pytorch.placement import Precision
from qwen_captcha.errors import ModelLoadError
from qwen_captcha.recognition.options import Kind
from qwen_captcha.recognition.prompts import DEFAULT_PROMPTS
from qwen_captcha.settings import load_settings
from training.build import (
    MAX_PIXELS,
    MIN_PIXELS,
    STRETCH,
    build_config,
    build_model,
    build_processor,
    save_checkpoint,
)

pytestmark = pytest.mark.live


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained checkpoint; with its seed the output is not empty."""
    folder = tmp_path_factory.mktemp("plain") / "tiny"
    model = build_model(build_config(depth=1, width=64, text_layers=2), seed=2)
    save_checkpoint(model, build_processor(), folder)
    return folder


def linked(checkpoint: Path, folder: Path, without: str) -> Path:
    """Fill `folder` with links to all files of a checkpoint but one."""
    for file in checkpoint.iterdir():
        if file.name != without:
            (folder / file.name).symlink_to(file)
    return folder


def loaded(folder: Path) -> PlainGenerate:
    settings = load_settings({"QWEN_MODEL": str(folder), "MAX_NEW_TOKENS": "12"})
    return PlainGenerate(replace(plain_settings(settings, "cpu", 1), precision=Precision.FP32))


def test_settings_are_those_of_the_service(checkpoint: Path) -> None:
    settings = load_settings({"QWEN_MODEL": str(checkpoint), "MAX_NEW_TOKENS": "7"})
    plain = plain_settings(settings, "cpu", 1)
    assert plain.checkpoint == str(checkpoint)
    assert plain.prompt == DEFAULT_PROMPTS[Kind.AUTO]
    assert plain.max_new_tokens == 7
    # Its own range and not the settings' one.
    assert (plain.min_pixels, plain.max_pixels) == (MIN_PIXELS, MAX_PIXELS)
    assert plain.precision in Precision
    assert plain.stretch == STRETCH


def test_a_checkpoint_without_a_pixel_range_uses_the_settings(
    checkpoint: Path, tmp_path: Path
) -> None:
    folder = linked(checkpoint, tmp_path, without="captcha.json")
    settings = load_settings({"QWEN_MODEL": str(folder), "MIN_PIXELS": "3136"})
    plain = plain_settings(settings, "cpu", 1)
    assert (plain.min_pixels, plain.max_pixels) == (3136, settings.max_pixels)


def test_a_missing_checkpoint_has_the_error_of_the_service() -> None:
    with pytest.raises(ModelLoadError, match="neither a folder nor a hub name"):
        plain_settings(load_settings({"QWEN_MODEL": "/no/such/folder"}), "cpu", 1)


def test_reading_is_greedy_despite_the_generation_config(checkpoint: Path, tmp_path: Path) -> None:
    sampling = linked(checkpoint, tmp_path, without="generation_config.json")
    config = json.loads((checkpoint / "generation_config.json").read_text())
    config |= {"do_sample": True, "temperature": 5.0, "repetition_penalty": 50.0}
    (sampling / "generation_config.json").write_text(json.dumps(config))

    images = [image for image, _ in draw_captchas(4)]
    plain, of_sampling = loaded(checkpoint), loaded(sampling)
    texts = [plain.read(image) for image in images]
    assert [of_sampling.read(image) for image in images] == texts
    assert all(0 < len(text) <= 12 for text in texts)
