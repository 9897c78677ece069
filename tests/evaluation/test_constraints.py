from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from evaluation.constraints import effect_of, images_outside, main, render_effects
from evaluation.services.client import Answer
from qwen_captcha.recognition.charsets import CHARSET_RANGES
from tests.support.readings import (
    NOTHING_READ,
    answered,
    family_of,
    scored,
)
from tests.support.stub_service import Call, stub_service

pytestmark = pytest.mark.live

DIGITS = CHARSET_RANGES[0]
FAMILY = family_of("numbers", "digits", "10", "22", "33")


@contextmanager
def service(read: Callable[[str, bool], str]) -> Iterator[str]:
    """Serve what `read` makes of an image's bytes and of whether the request is restricted."""

    def script(call: Call) -> tuple[int, bytes]:
        if call.path == "/health":
            return 200, b'{"model": "bundled"}'
        text = read(call.body.decode(), "charset_range" in call.path)
        fields = {"success": True, "text": text, "confidence": 0.5, "raw_response": text}
        return 200, json.dumps(fields).encode()

    with stub_service(script) as url:
        yield url


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Return digits and letters whose bytes are the unrestricted reading."""
    for name, label, content in (("numbers", "10", "1O"), ("letters", "ab", "ab验")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").write_text(content)
        (tmp_path / name / "labels.tsv").write_text(f"1.png\t{label}\n")
    return tmp_path


def test_a_charset_that_restricts_and_raises_accuracy(
    tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def read(drawn: str, restricted: bool) -> str:
        return drawn.replace("O", "0").replace("验", "") if restricted else drawn

    with service(read) as url:
        assert main([str(tree), "--url", url]) == 0
    rows = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "digits, charset_range=0 1 1 0.000 0 1.000 1 0 1.000" in rows
    assert "alnum, charset_range=6 1 1 0.000 0 1.000 1 0 1.000" in rows
    assert rows[-1] == "obeyed, and no accuracy fell"


@pytest.mark.parametrize(
    "read",
    [
        pytest.param(lambda drawn, restricted: drawn, id="ignored"),
        pytest.param(
            lambda drawn, restricted: "7" if restricted else drawn.replace("O", "0"),
            id="obeyed-at-the-cost-of-accuracy",
        ),
    ],
)
def test_a_charset_that_is_ignored_or_costs_accuracy(
    tree: Path, read: Callable[[str, bool], str], capsys: pytest.CaptureFixture[str]
) -> None:
    with service(read) as url:
        assert main([str(tree), "--url", url]) == 1
    assert "does not hold: digits, charset_range=0" in capsys.readouterr().out


def test_a_character_outside_counts_in_the_models_words_too() -> None:
    deleted = Answer("1", 0.5, True, "1O", None)
    reading = scored(FAMILY, deleted, answered("x2"), answered("33"))
    assert images_outside([reading], DIGITS) == 2


def test_an_effect_counts_what_was_gained_and_lost() -> None:
    free = scored(FAMILY, answered("1O"), answered("22"), NOTHING_READ)
    restricted = scored(FAMILY, answered("10"), answered("2"), NOTHING_READ)
    effect = effect_of("digits", DIGITS, [free], [restricted])
    assert (effect.images, effect.free_outside, effect.outside) == (3, 1, 0)
    assert effect.accuracy == effect.free_accuracy == pytest.approx(1 / 3)
    assert (effect.comparison.only_ours, effect.comparison.only_theirs) == (1, 1)
    assert effect.holds
    assert render_effects([effect]).endswith("obeyed, and no accuracy fell")


def test_a_folder_of_neither_kind_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "验证.png").write_bytes(b"image")
    assert main([str(tmp_path)]) == 1
    assert "holds no digits and no letters" in capsys.readouterr().err
