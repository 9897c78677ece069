import json
import sys
from pathlib import Path

import pytest
import torch
from transformers import Qwen2VLForConditionalGeneration

from qwen_captcha.calibration import CALIBRATION
from training import average
from training.build import build_config, build_model, build_processor, save_checkpoint


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("checkpoints")
    for seed in (0, 1):
        save_checkpoint(build_model(build_config(), seed), build_processor(), root / str(seed))
    (root / "1/training.json").write_text('{"arguments": {"seed": "1"}}')
    return [root / "0", root / "1"]


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    model = Qwen2VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    return dict(model.named_parameters())


def test_the_mean_lies_in_the_middle_and_says_of_what_it_is_one(
    folders: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "mean"
    monkeypatch.setattr(sys, "argv", ["average", str(out), *map(str, folders)])
    average.main()
    first, second, mean = (_weights(folder) for folder in (*folders, out))
    assert mean.keys() == first.keys()
    for name, value in mean.items():
        torch.testing.assert_close(
            value, (first[name] + second[name]) / 2, rtol=2**-7, atol=1e-6
        )  # bf16 keeps eight bits
    assert any(not torch.equal(first[name], mean[name]) for name in mean)
    description = json.loads((out / "training.json").read_text())
    assert description == {"mean_of": ["0", {"arguments": {"seed": "1"}}]}
    assert (out / "captcha.json").read_text() == (folders[0] / "captcha.json").read_text()


def test_new_weights_are_without_the_calibration_of_the_old(tmp_path: Path) -> None:
    for seed in (0, 1):
        save_checkpoint(build_model(build_config(), seed), build_processor(), tmp_path)
        assert not (tmp_path / CALIBRATION).exists()
        (tmp_path / CALIBRATION).write_text("{}")


def test_other_shapes_are_refused(folders: list[Path], tmp_path: Path) -> None:
    config = build_config()
    config.text_config.intermediate_size //= 2
    save_checkpoint(build_model(config, 0), build_processor(), tmp_path / "small")
    with pytest.raises(average.UnlikeCheckpointsError, match="small is not of the shape"):
        average.average([folders[0], tmp_path / "small"])
