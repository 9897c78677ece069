"""The page on troubleshooting quotes real messages and names only what exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from qwen_captcha.api.forms import NO_BOUNDARY
from qwen_captcha.backends.hardware import GIB
from qwen_captcha.backends.qwen2vl.pytorch.placement import plan_for_cpu
from qwen_captcha.checkpoints.hub import how_to_get
from qwen_captcha.checkpoints.resolve import DEFAULT_MODEL
from qwen_captcha.checkpoints.safetensors_header import Weights
from qwen_captcha.errors import ModelLoadError, every_error_type
from qwen_captcha.images.headers import LOST_BYTES, RECODED, WEB_PAGE
from qwen_captcha.settings import VARIABLES

PAGE = Path(__file__).resolve().parents[2] / "docs" / "troubleshooting.md"
TEXT = PAGE.read_text(encoding="utf-8")
# Of Qwen2-VL-2B, with tied embeddings.
PARAMETERS = 2_208_985_600
NOT_OURS = {"HTTPS_PROXY", "HF_HOME", "HF_ENDPOINT", "HF_HUB_DISABLE_XET", "OMP_NUM_THREADS"}


def test_the_line_of_a_failed_download_is_the_real_one() -> None:
    assert f"Name or service not known. {how_to_get(DEFAULT_MODEL)}\n" in TEXT


def test_the_line_of_too_little_memory_is_the_real_one() -> None:
    with pytest.raises(ModelLoadError) as refused:
        plan_for_cpu(
            DEFAULT_MODEL,
            Weights(PARAMETERS),
            flags=frozenset({"avx512_bf16"}),
            available_bytes=3 * GIB,
        )
    assert f"\n{refused.value}\n" in TEXT


def test_each_variable_that_is_named_is_one() -> None:
    named = set(re.findall(r"\b[A-Z]+(?:_[A-Z]+)+\b", TEXT))
    ours = {name for variable in VARIABLES for name in variable.names}
    assert len(named & ours) >= 5
    assert named - ours - NOT_OURS == set()


def test_each_error_type_that_is_named_is_one() -> None:
    slugs = {error.error_type for error in every_error_type()}
    assert {"out_of_memory", "model_loading"} <= slugs
    assert '"error_type":"out_of_memory"' in TEXT
    assert "503 `model_loading`" in TEXT


def test_each_page_that_is_linked_exists() -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", TEXT)
    assert links
    assert [link for link in links if not (PAGE.parent / link).exists()] == []


@pytest.mark.parametrize("sentence", [LOST_BYTES, RECODED, WEB_PAGE, NO_BOUNDARY])
def test_the_errors_of_the_page_are_the_real_ones(sentence: str) -> None:
    quoted = re.findall("^- `([^`]+)`", TEXT, re.MULTILINE)
    assert any(part in sentence for part in quoted)
