import json
import math
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import Qwen2VLForConditionalGeneration

from qwen_captcha.recognition.calibration import CALIBRATION
from training import average
from training.build import (
    AUXILIARY_HEADS,
    build_config,
    build_model,
    build_processor,
    build_tokenizer,
    save_checkpoint,
)

pytestmark = pytest.mark.live


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


def test_the_mean_is_between_both_and_names_them(
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


def test_shares_weigh_the_checkpoints_and_chinese_characters_have_their_own(
    folders: list[Path],
) -> None:
    mixed = average.average(folders, [0.75, 0.25], [-0.5, 1.5])
    first, second = (_weights(folder) for folder in folders)
    hanzi = build_tokenizer().convert_tokens_to_ids(["一", "齄"])  # one of each level of GB 2312
    for name, value in mixed.named_parameters():
        expected = 0.75 * first[name] + 0.25 * second[name]
        if "embed_tokens" in name:
            expected[hanzi] = 1.5 * second[name][hanzi] - 0.5 * first[name][hanzi]
            others = build_tokenizer().convert_tokens_to_ids(["A", "7", "億"])
            rows = [*hanzi, *others]
            value, expected = value[rows], expected[rows]
        torch.testing.assert_close(value, expected)
    assert mixed.lm_head.weight is mixed.get_input_embeddings().weight


@pytest.mark.parametrize("shares", [[1.0], [0.5, 0.6], [0.5, 0.3, 0.2], [math.nan] * 2])
def test_shares_must_make_one(folders: list[Path], shares: list[float]) -> None:
    with pytest.raises(ValueError, match="2 shares that make 1"):
        average.average(folders, shares)


def test_auxiliary_heads_are_averaged_where_all_have_them(
    folders: list[Path], tmp_path: Path
) -> None:
    assert average.average_heads(folders) is None
    for name, value in (("a", 1.0), ("b", 3.0)):
        (tmp_path / name).mkdir()
        save_file({"look": torch.full((2,), value)}, tmp_path / name / AUXILIARY_HEADS)
    heads = average.average_heads([tmp_path / "a", tmp_path / "b"], [0.25, 0.75])
    assert heads is not None
    assert heads["look"].tolist() == [2.5, 2.5]


def test_new_weights_are_without_the_calibration_of_the_old(tmp_path: Path) -> None:
    for seed in (0, 1):
        save_checkpoint(build_model(build_config(), seed), build_processor(), tmp_path)
        assert not (tmp_path / CALIBRATION).exists()
        (tmp_path / CALIBRATION).write_text("{}")


def test_other_shapes_are_rejected(folders: list[Path], tmp_path: Path) -> None:
    config = build_config()
    config.text_config.intermediate_size //= 2
    save_checkpoint(build_model(config, 0), build_processor(), tmp_path / "small")
    with pytest.raises(average.UnlikeCheckpointsError, match="small is not of the shape"):
        average.average([folders[0], tmp_path / "small"])
