from __future__ import annotations

import pytest
import torch

from qwen_captcha.backends.qwen2vl.pytorch.processor import create_engine
from qwen_captcha.backends.qwen2vl.pytorch.text_decoder import TextDecoder
from qwen_captcha.recognition.reading import GenerationRequest
from tests.support.checkpoints import Shape, noise_image, small_model, small_processor

pytestmark = pytest.mark.live

REQUEST = GenerationRequest(noise_image(160, 60), "what is it?", 12)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 1 byte"),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 1 byte"),
    ],
    ids=["CUDA", "Linux", "Windows"],
)
def test_every_out_of_memory_error_is_a_memory_error(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(TextDecoder, "forward", fail)
    with pytest.raises(MemoryError, match="does not fit"):
        create_engine(small_model(Shape()), small_processor()).read([REQUEST])


def test_other_errors_are_unchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(TextDecoder, "forward", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        create_engine(small_model(Shape()), small_processor()).read([REQUEST])
