from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from qwen_captcha.backends.ppocr import backend
from qwen_captcha.backends.ppocr.backend import PPOCRBackend
from qwen_captcha.backends.ppocr.recognizer import BLANK, log_probability_of
from qwen_captcha.errors import ModelLoadError
from qwen_captcha.recognition.charsets import DIGITS, Charset
from qwen_captcha.recognition.constraints import UNRESTRICTED, DecodingConstraints
from qwen_captcha.recognition.options import Case
from qwen_captcha.recognition.reading import GenerationRequest
from tests.support.captchas import draw

pytestmark = pytest.mark.live


@pytest.fixture(scope="module")
def reader() -> PPOCRBackend:
    loaded = PPOCRBackend()
    loaded.load()
    return loaded


def request(text: str, constraints: DecodingConstraints = UNRESTRICTED) -> GenerationRequest:
    return GenerationRequest(draw(text, (40 + 30 * len(text), 60)), "", 8, constraints)


def test_plain_print_is_read_with_a_probability_of_each_character(reader: PPOCRBackend) -> None:
    [output] = reader.read([request("4711")])
    assert output.raw_response == "4711"
    assert [token.text for token in output.tokens] == list("4711")
    assert output.log_probability is not None
    assert -0.5 < output.log_probability <= 0.0


def test_a_batch_of_several_widths_is_read_as_each_alone(reader: PPOCRBackend) -> None:
    requests = [request("4711"), request("93815526719")]
    together = reader.read(requests)
    alone = [reader.read([one])[0] for one in requests]
    assert [output.raw_response for output in together] == ["4711", "93815526719"]
    assert [output.raw_response for output in alone] == ["4711", "93815526719"]


@pytest.mark.parametrize(
    ("constraints", "text"),
    [
        (DecodingConstraints(charset=Charset.of("6789")), set("6789")),
        (DecodingConstraints(charset=DIGITS), set("0123456789")),
    ],
    ids=["some", "digits"],
)
def test_a_charset_restricts_the_text(
    reader: PPOCRBackend, constraints: DecodingConstraints, text: set[str]
) -> None:
    free, held = reader.read([request("AB84", UNRESTRICTED), request("AB84", constraints)])
    assert set(held.raw_response) <= text
    assert held.log_probability is not None
    assert free.log_probability is not None
    assert held.log_probability < free.log_probability


def test_the_two_cases_of_a_letter_add_up(reader: PPOCRBackend) -> None:
    lower = DecodingConstraints(case=Case.LOWER)
    kept, folded = reader.read([request("SWOX"), request("SWOX", lower)])
    assert folded.raw_response == kept.raw_response.lower()
    assert folded.log_probability is not None
    assert kept.log_probability is not None
    assert folded.log_probability >= kept.log_probability


@pytest.mark.parametrize("text", [[], [1], [1, 2], [1, 1], [2, 1, 2]], ids=str)
def test_the_probability_of_a_text_is_that_of_all_its_alignments(text: list[int]) -> None:
    columns = np.random.default_rng(1).dirichlet([1.0, 1.0, 1.0], 5).astype(np.float32)
    total = 0.0
    for path in itertools.product(range(3), repeat=5):
        collapsed = [c for c, _ in itertools.groupby(path) if c != BLANK]
        if collapsed == text:
            total += math.prod(float(columns[place, c]) for place, c in enumerate(path))
    assert math.exp(log_probability_of(text, columns)) == pytest.approx(total, rel=1e-5)


def test_without_its_packages_the_start_names_the_install_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(backend, "find_spec", lambda name: None)
    with pytest.raises(ModelLoadError, match="pip install onnxruntime"):
        PPOCRBackend()
