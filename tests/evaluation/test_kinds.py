from __future__ import annotations

import io
import json

import pytest
from PIL import Image

from evaluation.accuracy.plain_print import KINDS, PALE, draw_kinds
from evaluation.accuracy.readers.model import model_reader
from evaluation.kinds import SURE, Outcome, main, measure
from qwen_captcha.images.blank import is_blank
from qwen_captcha.recognition.arithmetic.evaluate import evaluate_expression
from tests.support.stub_service import Call, stub_service

pytestmark = pytest.mark.live

DRAWN = dict(draw_kinds(6))


def picture(png: bytes) -> Image.Image:
    return Image.open(io.BytesIO(png)).convert("RGB")


def test_the_same_seed_gives_the_same_pixels() -> None:
    assert dict(draw_kinds(6)) == DRAWN
    assert list(DRAWN) == list(KINDS)
    assert dict(draw_kinds(6, seed=1)) != DRAWN


@pytest.mark.parametrize(
    "kind", ["sums of three digits", "unknown operand", "dot, colon, brackets"]
)
def test_a_sum_is_labelled_with_its_value(kind: str) -> None:
    for drawing in DRAWN[kind]:
        assert evaluate_expression(drawing.shown) == int(drawing.label)


@pytest.mark.parametrize("kind", ["pale first", "pale last", "pale inside"])
def test_a_pale_character_is_drawn_in_a_visible_level(kind: str) -> None:
    for drawing in DRAWN[kind]:
        levels = {level for _, (level, *_) in picture(drawing.png).getcolors(1 << 16) or []}
        assert levels & set(range(PALE[0], PALE[1] + 1))


@pytest.mark.parametrize("kind", KINDS)
def test_a_labelled_image_is_not_blank(kind: str) -> None:
    for drawing in DRAWN[kind]:
        shows_something = drawing.label != "" or kind == "lines alone"
        assert is_blank(picture(drawing.png)) is not shows_something


def test_long_codes_have_9_to_16_characters() -> None:
    for kind in ("9 to 16 digits", "9 to 16 letters and digits"):
        assert all(9 <= len(drawing.label) <= 16 for drawing in DRAWN[kind])


def test_the_table_counts_what_is_right_and_what_is_wrong_and_sure(
    capsys: pytest.CaptureFixture[str],
) -> None:
    labels = {drawing.png: drawing.label for group in DRAWN.values() for drawing in group}

    def script(call: Call) -> tuple[int, bytes]:
        if call.path == "/health":
            return 200, b'{"model": "bundled"}'
        text = labels[call.body]
        if len(text) >= 9:
            text = text[:-1]  # one character is left out, at 0.95
        fields = {"success": text != "", "text": text.lower(), "confidence": 0.95}
        return 200, json.dumps({**fields, "raw_response": text}).encode()

    with stub_service(script) as url:
        assert main(["--url", url, "--count", "6", "--misses"]) == 0
    rows = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "pale last 6 6 0 0.950 –" in rows
    assert "9 to 16 digits 6 0 6 – 0.950" in rows
    assert "noise 6 6 0 0.950 –" in rows
    assert sum(row.startswith("9 to 16 digits: ") for row in rows) == 6


@pytest.fixture(scope="module")
def bundled_outcomes() -> dict[str, list[Outcome]]:
    with model_reader("bundled", {}) as reader:
        return measure(reader, 20)


@pytest.mark.parametrize(
    ("kind", "right", "wrong_and_sure"),
    [
        ("pale first", 19, 0),
        ("pale last", 19, 0),
        ("pale inside", 19, 0),
        ("sums of three digits", 19, 1),
        ("unknown operand", 19, 1),
        ("dot, colon, brackets", 18, 2),
        ("9 to 16 digits", 18, 1),
        ("9 to 16 letters and digits", 15, 1),
        ("two lines", 0, 0),
        ("one color", 20, 0),
        ("noise", 20, 0),
    ],
)
def test_the_bundled_checkpoint_reads_plain_print(
    bundled_outcomes: dict[str, list[Outcome]], kind: str, right: int, wrong_and_sure: int
) -> None:
    outcomes = bundled_outcomes[kind]
    wrong = [outcome.answer.confidence for outcome in outcomes if not outcome.right]
    assert len(outcomes) - len(wrong) >= right
    assert sum(confidence >= SURE for confidence in wrong) <= wrong_and_sure


def test_without_a_service_the_reason_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--url", "http://127.0.0.1:9"]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1
