"""From a folder of captchas to a checkpoint that is served, and the errors on the way."""

from __future__ import annotations

import json
from itertools import count
from pathlib import Path

import pytest
from PIL import Image

from qwen_captcha.backends.qwen2vl.pytorch import loading
from qwen_captcha.backends.qwen2vl.pytorch.placement import LoadPlan, Precision
from qwen_captcha.checkpoints.files import inspect_checkpoint
from qwen_captcha.cli import main
from qwen_captcha.fitting.checkpoint_reader import CheckpointReader
from qwen_captcha.fitting.errors import FittingError
from qwen_captcha.fitting.fit import Request, fit, freeze_first_blocks
from qwen_captcha.recognition.calibration import read_calibration
from qwen_captcha.samples import Sample, read_samples
from tests.support.checkpoints import Shape, write_small_checkpoint
from tests.support.own_captchas import write_captchas

pytestmark = [pytest.mark.live, pytest.mark.usefixtures("unchanged_logging")]


def fitted(
    samples: list[Sample], base: Path, out: Path, steps: float = 6
) -> tuple[list[str], object]:
    """Fit with a clock that ticks once a step; return the log lines and the card."""
    said: list[str] = []
    ticks = count()
    request = Request(out, str(base), steps / 60, use_gpu=False)
    card = fit(samples, request, log_line=said.append, clock=lambda: next(ticks))
    return said, card


def test_a_folder_becomes_a_checkpoint_that_is_served(small_base: Path, tmp_path: Path) -> None:
    samples = read_samples(write_captchas(tmp_path / "captchas", 20, "012жщ"))
    out = tmp_path / "mine"
    said, card = fitted(samples, small_base, out)
    assert "New characters: ж щ" in said
    assert "17 images to learn from, 3 held out." in said
    assert any("left" in line and "held out" in line for line in said)
    inspect_checkpoint(out, "mine")
    assert read_calibration(out) is not None
    assert json.loads((out / "training.json").read_text(encoding="utf-8"))["learnt_from"] == 17
    text = (out / "README.md").read_text(encoding="utf-8")
    assert text.startswith("# mine\n")
    assert "Base: small" in text
    assert f"min_confidence`: {card.min_confidence}" in text  # type: ignore[attr-defined]
    reader = CheckpointReader(str(out), "mine", use_gpu=False)
    picture = Image.open(samples[0].path).convert("RGB")
    [reading] = reader.read_batch([picture])
    assert reading.log_probability is not None


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (1, "1 labelled images can be used: at least 10 are needed."),
        (9, "9 labelled images can be used: at least 10 are needed."),
    ],
)
def test_too_few_images_are_rejected(
    files: int, message: str, small_base: Path, tmp_path: Path
) -> None:
    samples = read_samples(write_captchas(tmp_path / "captchas", files))
    with pytest.raises(FittingError, match=message):
        fitted(samples, small_base, tmp_path / "mine")
    assert not (tmp_path / "mine").exists()


def test_one_label_for_all_is_rejected(small_base: Path, tmp_path: Path) -> None:
    samples = read_samples(write_captchas(tmp_path / "captchas", 12))
    alike = [Sample(sample.path, "1234") for sample in samples]
    with pytest.raises(FittingError, match="All images have the label 1234"):
        fitted(alike, small_base, tmp_path / "mine")


def test_unreadable_files_are_named_and_left_out(small_base: Path, tmp_path: Path) -> None:
    folder = write_captchas(tmp_path / "captchas", 9)
    (folder / "9999_x.png").write_bytes(b"no image")
    said: list[str] = []
    with pytest.raises(FittingError, match="9 labelled images can be used"):
        fit(read_samples(folder), Request(tmp_path / "mine", str(small_base)), log_line=said.append)
    assert said[0].startswith("left out: 9999_x.png: The data is not an image")


def test_an_interrupted_run_leaves_a_complete_checkpoint(
    small_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files of a process that is killed at its second write."""
    samples = read_samples(write_captchas(tmp_path / "captchas", 14))
    out = tmp_path / "mine"

    class Killed(BaseException):
        pass

    def killed(*_: object) -> None:
        raise Killed

    monkeypatch.setattr("qwen_captcha.fitting.fit._judge", killed)
    with pytest.raises(Killed):
        fitted(samples, small_base, out)
    inspect_checkpoint(out, "mine")
    CheckpointReader(str(out), "mine", use_gpu=False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{tmp}/none", "--out", "{tmp}/out"], "none is not a folder."),
        (["{tmp}", "--out", "{tmp}/out"], "holds no labelled images"),
    ],
)
def test_an_error_of_the_command_is_one_line(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status = main(["fit", *(one.format(tmp=tmp_path) for one in arguments)])
    assert status == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_without_pytorch_the_command_that_installs_it_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("qwen_captcha.cli.find_spec", lambda _: None)
    assert main(["fit", "captchas", "--out", "mine"]) == 2
    assert capsys.readouterr().err == 'fit needs PyTorch: pip install "qwen-captcha[qwen]"\n'


def test_minutes_must_be_more_than_none(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["fit", "captchas", "--out", "mine", "--minutes", "0"])
    assert "invalid minutes value: '0'" in capsys.readouterr().err


def test_the_first_third_of_the_vision_encoder_does_not_learn(tmp_path: Path) -> None:
    folder = write_small_checkpoint(tmp_path, shape=Shape(vision_depth=3))
    model = loading.load_model(folder, LoadPlan(Precision.FP32))
    freeze_first_blocks(model)
    visual = model.model.visual
    first, *others = visual.blocks
    assert not any(weight.requires_grad for weight in visual.patch_embed.parameters())
    assert not any(weight.requires_grad for weight in first.parameters())
    assert all(weight.requires_grad for block in others for weight in block.parameters())
    assert all(weight.requires_grad for weight in model.model.language_model.parameters())
