"""The choice of the backend for a checkpoint."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from qwen_captcha.backends import factory, hardware
from qwen_captcha.backends.factory import create_backend, create_second_backend
from qwen_captcha.backends.qwen2vl.onnx.export import export_graphs
from qwen_captcha.checkpoints import resolve
from qwen_captcha.checkpoints.resolve import BUNDLED_CHECKPOINT
from qwen_captcha.errors import ModelLoadError
from qwen_captcha.settings import load_settings
from tests.support.checkpoints import write_small_checkpoint
from tests.support.live_server import PROJECT

pytestmark = pytest.mark.live

SERVER = {"OPENAI_BASE_URL": "http://127.0.0.1:9/v1"}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint without graphs."""
    return write_small_checkpoint(tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with graphs."""
    folder = write_small_checkpoint(tmp_path_factory.mktemp("exported"))
    export_graphs(folder)
    return folder


def machine(monkeypatch: pytest.MonkeyPatch, *, pytorch: bool = True, gpus: int = 0) -> None:
    """Make this a machine with or without PyTorch and GPUs."""
    monkeypatch.setattr(factory, "find_spec", lambda name: object() if pytorch else None)
    for module in (factory, hardware):
        monkeypatch.setattr(module, "count_gpus", lambda: gpus)


def chosen(folder: Path, **variables: str) -> str:
    """Return the name of the backend that serves a checkpoint."""
    return create_backend(load_settings({"QWEN_MODEL": str(folder), **variables})).name


@pytest.mark.parametrize(
    ("gpus", "use_gpu", "expected"),
    [(0, "true", "onnx"), (1, "true", "torch"), (1, "false", "onnx")],
    ids=["no GPU", "a GPU", "a GPU that is left alone"],
)
def test_graphs_are_run_by_onnx_runtime_unless_a_gpu_is_used(
    monkeypatch: pytest.MonkeyPatch, exported: Path, gpus: int, use_gpu: str, expected: str
) -> None:
    machine(monkeypatch, gpus=gpus)
    assert chosen(exported, USE_GPU=use_gpu) == expected


def test_a_checkpoint_without_graphs_is_run_by_pytorch(
    monkeypatch: pytest.MonkeyPatch, plain: Path
) -> None:
    machine(monkeypatch)
    assert chosen(plain) == "torch"


def test_a_setting_forces_a_backend(
    monkeypatch: pytest.MonkeyPatch, plain: Path, exported: Path
) -> None:
    machine(monkeypatch)
    assert chosen(exported, QWEN_BACKEND="torch") == "torch"
    assert chosen(exported, QWEN_BACKEND="onnx") == "onnx"
    with pytest.raises(ModelLoadError, match=f"qwen-captcha export {plain}"):
        chosen(plain, QWEN_BACKEND="onnx")
    with pytest.raises(ModelLoadError, match="someone/reader is no folder"):
        chosen(Path("someone/reader"), QWEN_BACKEND="onnx")


def test_without_pytorch_other_checkpoints_name_the_install_command(
    monkeypatch: pytest.MonkeyPatch, plain: Path, exported: Path
) -> None:
    machine(monkeypatch, pytorch=False, gpus=1)
    assert chosen(exported) == "onnx"
    for variables in ({}, {"QWEN_BACKEND": "torch"}):
        with pytest.raises(ModelLoadError, match=r"not installed\. Install it: pip install"):
            chosen(plain, **variables)


def test_without_pytorch_the_default_is_the_bundled_checkpoint(
    monkeypatch: pytest.MonkeyPatch, exported: Path, caplog: pytest.LogCaptureFixture
) -> None:
    machine(monkeypatch, pytorch=False)
    monkeypatch.setattr(resolve, "BUNDLED_CHECKPOINT", exported)
    with caplog.at_level(logging.INFO):
        assert create_backend(load_settings({})).model_name == "bundled"
    assert "PyTorch is not installed" in caplog.text


def test_without_a_cascade_there_is_no_second_backend() -> None:
    assert create_second_backend(load_settings({})) is None


@pytest.mark.parametrize(
    ("cascade", "device", "model_name"),
    [
        ("bundled", "cpu", "bundled"),
        ("ppocr", "cpu", "PP-OCRv6-small"),
        (str(BUNDLED_CHECKPOINT), "cpu", BUNDLED_CHECKPOINT.name),
        ("openai", "remote", "unknown"),
        ("openai:Qwen/Qwen2-VL-7B-Instruct", "remote", "Qwen/Qwen2-VL-7B-Instruct"),
    ],
    ids=["bundled", "ppocr", "folder", "server", "server-model"],
)
def test_the_setting_names_the_second_backend(cascade: str, device: str, model_name: str) -> None:
    # The first model's name is not asked of the second one's server.
    variables = {"QWEN_MODEL": "bundled", "QWEN_CASCADE": cascade, "USE_GPU": "false", **SERVER}
    backend = create_second_backend(load_settings(variables))
    assert backend is not None
    assert (backend.device, backend.model_name) == (device, model_name)


def test_a_second_checkpoint_that_is_not_there_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelLoadError, match="no/such-model"):
        create_second_backend(load_settings({"QWEN_CASCADE": "no/such-model"}))


def test_onnx_runtime_writes_no_identifier(tmp_path: Path) -> None:
    environment = {"HOME": str(tmp_path), "PATH": os.environ["PATH"], "QWEN_BACKEND": "onnx"}
    command = [sys.executable, "-m", "qwen_captcha", "read", "examples/captcha.png"]
    done = subprocess.run(command, env=environment, cwd=PROJECT, capture_output=True, check=True)
    assert b"7KX4M" in done.stdout
    assert not [*tmp_path.rglob("*")]
