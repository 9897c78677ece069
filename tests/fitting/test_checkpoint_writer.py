from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch
from transformers import Qwen2VLForConditionalGeneration

from qwen_captcha.backends.qwen2vl.pytorch import loading
from qwen_captcha.backends.qwen2vl.pytorch.placement import LoadPlan, Precision
from qwen_captcha.checkpoints.files import inspect_checkpoint
from qwen_captcha.fitting.checkpoint_writer import CheckpointWriter, check_out, write_texts
from qwen_captcha.fitting.errors import FittingError
from tests.support.checkpoints import PIXEL_RANGE

pytestmark = pytest.mark.live


@pytest.fixture
def model(small_base: Path) -> Qwen2VLForConditionalGeneration:
    return loading.load_model(small_base, LoadPlan(Precision.FP32))


@pytest.fixture
def writer(small_base: Path, tmp_path: Path) -> CheckpointWriter:
    processor = loading.load_processor(small_base, PIXEL_RANGE)
    return CheckpointWriter(tmp_path / "models" / "mine", small_base, processor)


def norm_weight(folder: Path) -> torch.Tensor:
    model = loading.load_model(folder, LoadPlan(Precision.FP32))
    return model.model.language_model.norm.weight.detach()


def test_a_checkpoint_is_complete_and_its_weights_are_replaced(
    writer: CheckpointWriter, model: Qwen2VLForConditionalGeneration, tmp_path: Path
) -> None:
    out = tmp_path / "models" / "mine"
    for value in (0.25, 0.5):
        with torch.no_grad():
            model.model.language_model.norm.weight.fill_(value)
        writer.write_weights(model)
        facts = inspect_checkpoint(out, "mine").facts
        assert facts.crops_to_text
        assert set(norm_weight(out).tolist()) == {value}
    assert [path.name for path in out.parent.iterdir()] == ["mine"]


def test_a_full_disk_leaves_the_old_labels(
    writer: CheckpointWriter,
    model: Qwen2VLForConditionalGeneration,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "models" / "mine"
    writer.write_weights(model)
    before = (out / "model.safetensors").read_bytes()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Qwen2VLForConditionalGeneration, "save_pretrained", full)
    with pytest.raises(FittingError, match="mine cannot be written: No space left on device"):
        writer.write_weights(model)
    assert (out / "model.safetensors").read_bytes() == before
    assert [path.name for path in out.parent.iterdir()] == ["mine"]


def test_texts_are_put_beside_the_weights(
    writer: CheckpointWriter, model: Qwen2VLForConditionalGeneration, tmp_path: Path
) -> None:
    out = tmp_path / "models" / "mine"
    writer.write_weights(model)
    write_texts(out, {"README.md": "# mine\n"})
    assert (out / "README.md").read_text(encoding="utf-8") == "# mine\n"
    inspect_checkpoint(out, "mine")


def test_a_folder_that_is_not_empty_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    check_out(tmp_path / "empty")
    (tmp_path / "file").write_text("x", encoding="utf-8")
    for place in (tmp_path, tmp_path / "file"):
        with pytest.raises(FittingError, match="is there already: name a new folder"):
            check_out(place)
