from __future__ import annotations

from dataclasses import replace

import pytest

from evaluation.accuracy.readers.base import ReaderError
from evaluation.accuracy.readers.model import loaded_reader, model_reader
from qwen_captcha.backends.factory import create_backend
from qwen_captcha.checkpoints.resolve import BUNDLED
from qwen_captcha.errors import ModelLoadError
from qwen_captcha.recognition.options import Options, parse_options
from qwen_captcha.settings import Settings, load_settings
from tests.support.fake_backend import FakeBackend, image_bytes

pytestmark = pytest.mark.live


def test_an_image_is_read_by_the_backend_each_time(
    backend: FakeBackend, settings: Settings
) -> None:
    with loaded_reader(backend, settings, Options()) as reader:
        replies = [reader.read(image_bytes(77), "image/png", "alnum") for _ in range(2)]
    assert reader.name == "fake-model"
    assert [reply.answer.text for reply in replies] == ["w77", "w77"]
    assert [reply.answer.success for reply in replies] == [True, True]
    assert all(0.0 <= reply.answer.confidence <= 1.0 for reply in replies)
    assert backend.batch_sizes == [1, 1]


def test_options_reach_the_answer(backend: FakeBackend, settings: Settings) -> None:
    options = parse_options({"case": "upper"})
    with loaded_reader(backend, settings, options) as reader:
        assert reader.read(image_bytes(77), "image/png", "alnum").answer.text == "W77"


def test_a_broken_image_is_no_answer(backend: FakeBackend, settings: Settings) -> None:
    with loaded_reader(backend, settings, Options()) as reader:
        answer = reader.read(b"no image", "image/png", "alnum").answer
    assert (answer.success, answer.error_type) == (False, "unsupported_image_type")


def test_contradictory_options_end_the_run(backend: FakeBackend, settings: Settings) -> None:
    options = parse_options({"kind": "digits", "charset": "ab"})
    with (
        loaded_reader(backend, settings, options) as reader,
        pytest.raises(ReaderError, match="charset"),
    ):
        reader.read(image_bytes(77), "image/png", "digits")


def test_a_model_that_cannot_be_loaded_is_one_line(settings: Settings) -> None:
    torn = FakeBackend(load_error=ModelLoadError("the weights are torn"))
    with (
        pytest.raises(ReaderError, match="cannot be loaded: the weights are torn"),
        loaded_reader(torn, settings, Options()),
    ):
        pass


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        pytest.param(BUNDLED, {"kind": "odd"}, "kind is 'odd'", id="option"),
        pytest.param("/nowhere/at/all", {}, "nowhere", id="no-such-checkpoint"),
    ],
)
def test_misuse_is_one_line(model: str, options: dict[str, str], message: str) -> None:
    with pytest.raises(ReaderError, match=message), model_reader(model, options):
        pass


def test_the_bundled_model_reads_as_its_backend_does() -> None:
    image = image_bytes(120)
    settings = replace(load_settings({}), qwen_model=BUNDLED)
    with model_reader(BUNDLED, {}) as reader:
        first = reader.read(image, "image/png", "alnum").answer
    with loaded_reader(create_backend(settings), settings, Options()) as again:
        assert again.read(image, "image/png", "alnum").answer == first
    assert first.error_type in (None, "no_answer")
