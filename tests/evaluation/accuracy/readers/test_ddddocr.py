from __future__ import annotations

import sys
import warnings
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import pytest

from evaluation.accuracy.readers import ddddocr
from evaluation.accuracy.readers.base import ReaderError
from evaluation.accuracy.readers.ddddocr import DdddocrReader
from evaluation.accuracy.readers.transcript import computed
from tests.support.fake_backend import image_bytes


class InputError(Exception):
    pass


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Put a ddddocr in place that reads an image as its bytes; return how it was built."""
    built: list[dict[str, Any]] = []

    class DdddOcr:
        def __init__(self, **options: Any) -> None:
            built.append(options)

        def classification(self, img: bytes, png_fix: bool, probability: bool = False) -> Any:
            assert png_fix
            warnings.warn("palette", stacklevel=1)
            if img == b"broken":
                raise InputError
            text = img.decode()
            return {"text": text, "confidence": 1.0000001} if probability else text

    module, exceptions = ModuleType("ddddocr"), ModuleType("ddddocr.utils.exceptions")
    module.DdddOcr, module.DdddOcrInputError = DdddOcr, InputError
    exceptions.DDDDOCRError = InputError
    monkeypatch.setitem(sys.modules, "ddddocr", module)
    monkeypatch.setitem(sys.modules, "ddddocr.utils", ModuleType("ddddocr.utils"))
    monkeypatch.setitem(sys.modules, "ddddocr.utils.exceptions", exceptions)
    monkeypatch.setattr(ddddocr, "version", lambda _: "9.8")
    return built


@pytest.mark.parametrize(("beta", "name"), [(False, "ddddocr 9.8"), (True, "ddddocr 9.8 beta")])
def test_both_models(engine: list[dict[str, Any]], beta: bool, name: str) -> None:
    assert DdddocrReader(beta=beta).name == name
    assert engine == [{"show_ad": False, "beta": beta}]


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize(
    ("image", "kind", "text", "error_type"),
    [
        pytest.param(b"a3b9", "alnum", "a3b9", None, id="code"),
        pytest.param(b"3+4=?", "math", "7", None, id="sum"),
        pytest.param(b"3+4=?", "alnum", "3+4=?", None, id="no-sum-expected"),
        pytest.param(b"", "alnum", "", "no_answer", id="nothing"),
        pytest.param(b"broken", "alnum", "", "undecodable_image", id="broken"),
    ],
)
def test_answers(image: bytes, kind: str, text: str, error_type: str | None) -> None:
    reply = DdddocrReader(beta=False).read(image, "image/png", kind)
    assert reply.latency_s >= 0
    assert (reply.answer.text, reply.answer.error_type) == (text, error_type)
    assert reply.answer.success is (error_type is None)
    assert reply.answer.confidence == (1.0 if error_type is None else 0.0)


@pytest.mark.parametrize(
    ("text", "value"),
    [("8-3=?", "5"), ("8-3=5", "5"), ("2x7", "14"), ("8-", "8-"), ("=", "="), ("abc", "abc")],
)
def test_the_text_left_of_the_equals_sign_is_computed(text: str, value: str) -> None:
    assert computed(text) == value


def test_without_ddddocr_the_message_has_the_install_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "ddddocr", None)
    with pytest.raises(ReaderError, match=r"pip install -r requirements_compare\.txt"):
        DdddocrReader(beta=False)


@pytest.mark.skipif(find_spec("ddddocr") is None, reason="needs requirements_compare.txt")
@pytest.mark.filterwarnings("default")
def test_the_real_one_gives_a_probability() -> None:
    reader = DdddocrReader(beta=False)
    answer = reader.read(image_bytes(120), "image/png", "alnum").answer
    assert 0.0 <= answer.confidence <= 1.0
    assert answer.success is bool(answer.text)
    broken = reader.read(b"no image", "image/png", "alnum").answer
    assert broken.error_type == "undecodable_image"
