from __future__ import annotations

import pytest

from qwen_captcha.backends.factory import create_second_backend
from qwen_captcha.checkpoints.resolve import BUNDLED_CHECKPOINT
from qwen_captcha.errors import ModelLoadError
from qwen_captcha.settings import load_settings

SERVER = {"OPENAI_BASE_URL": "http://127.0.0.1:9/v1"}


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
