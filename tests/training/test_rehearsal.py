from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from qwen_captcha.fitting.rehearsal import REHEARSAL, read_rehearsal
from training.learning.real_captchas import RealCaptcha
from training.rehearsal import choose, encoded, write_archive

pytestmark = pytest.mark.live


def captcha(family: str, number: int) -> RealCaptcha:
    return RealCaptcha(np.full((20, 40, 3), number, np.uint8), str(number), "digits", family)


def test_each_family_gives_as_many_and_not_just_its_first() -> None:
    captchas = [captcha(family, n) for family in "ab" for n in range(50)] + [captcha("c", 1)]
    chosen = choose(captchas, 5, random.Random(1))
    families = [one.family for one in chosen]
    assert {family: families.count(family) for family in "abc"} == {"a": 5, "b": 5, "c": 1}
    assert max(int(one.text) for one in chosen) > 20


def test_fit_reads_the_labels_that_are_written(tmp_path: Path) -> None:
    pictures = {
        str(n): np.random.default_rng(n).integers(0, 256, (10, 20, 3), np.uint8) for n in range(5)
    }
    rows = [(pixels, text) for text, pixels in pictures.items()]
    assert write_archive(tmp_path / REHEARSAL, rows) == 5
    examples = read_rehearsal(tmp_path)
    assert sorted(example.text for example in examples) == sorted(pictures)
    for example in examples:
        np.testing.assert_array_equal(np.asarray(example.picture), pictures[example.text])


def test_a_noisy_picture_is_stored_with_loss() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (60, 160, 3), np.uint8)
    assert len(encoded(noise)) < 0.7 * noise.size
    assert len(encoded(np.zeros((60, 160, 3), np.uint8))) < 200
