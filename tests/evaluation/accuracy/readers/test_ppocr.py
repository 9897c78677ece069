from __future__ import annotations

from importlib.util import find_spec

import pytest

from evaluation.accuracy.readers import ppocr
from evaluation.accuracy.readers.base import ReaderError
from evaluation.accuracy.readers.ppocr import PPOCRReader
from evaluation.load.synthetic_captchas import draw_captchas
from qwen_captcha.errors import ModelLoadError

pytestmark = pytest.mark.live

needs_rapidocr = pytest.mark.skipif(find_spec("rapidocr") is None, reason="needs rapidocr")


@needs_rapidocr
def test_plain_captchas_are_read() -> None:
    reader = PPOCRReader()
    drawn = draw_captchas(4)
    replies = [reader.read(image, "image/png", "alnum") for image, _ in drawn]
    right = [
        reply.answer.text.lower() == text.lower()
        for reply, (_, text) in zip(replies, drawn, strict=True)
    ]
    assert sum(right) >= 2
    assert all(0.0 < reply.answer.confidence <= 1.0 for reply in replies)
    assert reader.transcribe(drawn[0][0]) == replies[0].answer.raw_response


@needs_rapidocr
def test_a_file_that_is_no_image_fails_alone() -> None:
    reply = PPOCRReader().read(b"no image", "image/png", "alnum")
    assert not reply.answer.success
    assert reply.answer.error_type == "unsupported_image_type"


@needs_rapidocr
def test_sums_are_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    reader = PPOCRReader()
    monkeypatch.setattr(reader, "_read", lambda image: ("3+4=?", 0.9))
    assert reader.read(b"", "image/png", "math").answer.text == "7"
    assert reader.read(b"", "image/png", "alnum").answer.text == "3+4=?"


@needs_rapidocr
def test_an_empty_text_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    reader = PPOCRReader()
    monkeypatch.setattr(reader, "_read", lambda image: ("", 0.9))
    answer = reader.read(b"", "image/png", "alnum").answer
    assert (answer.success, answer.error_type) == (False, "no_answer")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise ModelLoadError("needs the package rapidocr")

    monkeypatch.setattr(ppocr, "find_model", missing)
    with pytest.raises(ReaderError, match="rapidocr"):
        PPOCRReader()
