from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from qwen_captcha.backends.qwen2vl.onnx.weights import Tensors, quantize

pytestmark = pytest.mark.live


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_tensors_are_read_as_they_were_saved(tmp_path: Path, dtype: torch.dtype) -> None:
    saved = {"a": torch.randn(3, 5, dtype=dtype), "b": torch.randn(7, dtype=dtype)}
    save_file(saved, tmp_path / "x.safetensors", metadata={"format": "pt"})
    read = Tensors(tmp_path / "x.safetensors")
    assert set(read) == {"a", "b"}
    for name, tensor in saved.items():
        assert read[name].dtype == np.float32
        assert np.array_equal(read[name], tensor.float().numpy())


def test_other_types_are_rejected(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(2, dtype=torch.float16)}, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="a is stored as F16"):
        Tensors(tmp_path / "x.safetensors")["a"]


def test_each_output_is_quantised_on_a_scale_of_its_own() -> None:
    weight = np.array([[1.0, 0.001, 0.0], [-0.5, 0.0005, 0.0]], np.float32)
    quantised, scale = quantize(weight)
    assert quantised.tolist() == [[127, 127, 0], [-64, 64, 0]]
    assert np.abs(quantised * scale - weight).max(axis=0) == pytest.approx(0, abs=0.5 / 127)
