from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qwen_captcha.backends.qwen2vl.onnx import export
from qwen_captcha.backends.qwen2vl.onnx.export import export_graphs
from qwen_captcha.backends.qwen2vl.onnx.graph_files import (
    Precision,
    choose_precision,
    has_graphs,
)
from qwen_captcha.cli import main
from qwen_captcha.errors import ModelLoadError
from tests.support.checkpoints import write_small_checkpoint

pytestmark = pytest.mark.live

NAMES = ["text_fp32.onnx", "text_int8.onnx", "vision_fp32.onnx", "vision_int8.onnx"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_small_checkpoint(tmp_path)


def graphs(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "onnx").iterdir())


def test_the_command_writes_graphs_without_weights(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not has_graphs(folder)
    assert main(["export", str(folder)]) == 0
    assert graphs(folder) == NAMES
    assert all(name in capsys.readouterr().out for name in [NAMES[0]])
    size = sum(path.stat().st_size for path in (folder / "onnx").iterdir())
    assert size < (folder / "model.safetensors").stat().st_size / 4


def test_graphs_of_equal_checkpoints_are_equal_files(folder: Path) -> None:
    first = [path.read_bytes() for path in export_graphs(folder)]
    assert [path.read_bytes() for path in export_graphs(folder)] == first


def test_int8_is_run_where_it_is_there_and_fast(folder: Path) -> None:
    export_graphs(folder)
    assert choose_precision(folder, frozenset({"avx2"})) is Precision.FP32
    for flag in ("avx512_vnni", "avx_vnni", "asimddp"):
        assert choose_precision(folder, frozenset({flag})) is Precision.INT8
    assert main(["export", str(folder), "--precision", "fp32"]) == 0
    assert graphs(folder) == ["text_fp32.onnx", "vision_fp32.onnx"]
    assert choose_precision(folder, frozenset({"avx512_vnni"})) is Precision.FP32


def sliding(config: dict[str, Any]) -> None:
    config["text_config"]["use_sliding_window"] = True


def relu(config: dict[str, Any]) -> None:
    config["text_config"]["hidden_act"] = "relu"


def flat(config: dict[str, Any]) -> None:
    config.update({**config.pop("text_config"), "model_type": "qwen2_vl"})


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (sliding, "text_config.use_sliding_window is True, but the graphs support only False"),
        (relu, "text_config.hidden_act is relu, but the graphs support only silu"),
        (flat, "config.json has no text_config"),
    ],
)
def test_a_model_that_the_graphs_cannot_represent_is_rejected(
    folder: Path, change: Callable[[dict[str, Any]], None], complaint: str
) -> None:
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelLoadError, match=f"cannot be exported: {complaint}"):
        export_graphs(folder)


def test_a_large_model_gets_no_graphs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "MAX_PARAMETERS", 1000)
    with pytest.raises(ModelLoadError, match="PyTorch serves it"):
        export_graphs(folder)


def test_a_folder_that_is_no_checkpoint_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(tmp_path)]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert "config.json missing" in line


def test_without_the_package_onnx_the_install_command_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "qwen_captcha.backends.qwen2vl.onnx.graphs", None)
    with pytest.raises(ModelLoadError, match=r"requirements_qwen\.txt"):
        export_graphs(folder)


def test_a_graph_is_read_by_a_process_without_torch_and_onnx(folder: Path) -> None:
    export_graphs(folder)
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from PIL import Image\n"
        "from qwen_captcha.backends.qwen2vl.onnx.backend import OnnxBackend\n"
        "from qwen_captcha.recognition.reading import GenerationRequest\n"
        "backend = OnnxBackend(sys.argv[1], model_name='m', min_pixels=3136, max_pixels=15680)\n"
        "backend.check()\n"
        "backend.load()\n"
        "[output] = backend.read([GenerationRequest(Image.new('RGB', (160, 60)), 'x', 8)])\n"
        "print(output.log_probability < 0,\n"
        "      [m for m in ('torch', 'transformers', 'onnx', 'flask') if m in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(folder)], capture_output=True, text=True, check=True
    )
    assert done.stdout == "True []\n"
