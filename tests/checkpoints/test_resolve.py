from __future__ import annotations

import logging
from pathlib import Path

import pytest

from qwen_captcha.checkpoints.resolve import (
    BUNDLED_CHECKPOINT,
    DEFAULT_MODEL,
    resolve_model,
)


def never_asked(repo_id: str) -> bool:
    pytest.fail(f"the cache was asked for {repo_id}")


def test_unset_takes_the_default_model_where_it_is_cached(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO):
        assert resolve_model("", lambda repo_id: repo_id == DEFAULT_MODEL) == (
            "Qwen/Qwen2-VL-2B-Instruct",
            "Qwen/Qwen2-VL-2B-Instruct",
        )
    assert caplog.messages == []


def test_unset_takes_the_bundled_one_otherwise_and_logs_the_download_command(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO):
        assert resolve_model("", lambda _: False) == (str(BUNDLED_CHECKPOINT), "bundled")
    [message] = caplog.messages
    assert "bundled checkpoint" in message
    assert "hf download Qwen/Qwen2-VL-2B-Instruct" in message


def test_bundled_is_taken_by_its_name() -> None:
    assert resolve_model("bundled", never_asked) == (str(BUNDLED_CHECKPOINT), "bundled")


@pytest.mark.parametrize("name", ["Qwen/Qwen2-VL-7B-Instruct", "no-owner/nothing"])
def test_a_hub_name_is_never_replaced(name: str) -> None:
    assert resolve_model(name, never_asked) == (name, name)


def test_a_folder_is_reported_by_its_name_alone(tmp_path: Path) -> None:
    folder = tmp_path / "my-model"
    folder.mkdir()
    assert resolve_model(str(folder), never_asked) == (str(folder), "my-model")


def test_a_relative_folder_has_a_name_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "my-model"
    folder.mkdir()
    monkeypatch.chdir(folder)
    assert resolve_model(".", never_asked) == (".", "my-model")
