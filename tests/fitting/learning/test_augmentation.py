from __future__ import annotations

import random

import numpy as np
import pytest

from qwen_captcha.fitting.learning.augmentation import augment
from tests.support.own_captchas import draw_text


@pytest.mark.parametrize("size", [(112, 40), (60, 9), (8, 60), (300, 100)])
def test_an_image_has_its_size_and_mode(size: tuple[int, int]) -> None:
    picture = draw_text("7a", size)
    for seed in range(40):
        changed = augment(picture, random.Random(seed))
        assert (changed.size, changed.mode) == (size, "RGB")


def test_the_same_seed_gives_the_same_picture_and_others_do_not() -> None:
    picture = draw_text("a3b9")
    changed = [augment(picture, random.Random(seed)).tobytes() for seed in range(20)]
    assert changed == [augment(picture, random.Random(seed)).tobytes() for seed in range(20)]
    assert len(set(changed)) > 15


def test_the_text_stays_in_the_picture() -> None:
    picture = draw_text("a3b9")
    ink = np.asarray(picture.convert("L")).std()
    for seed in range(60):
        changed = np.asarray(augment(picture, random.Random(seed)).convert("L"))
        assert changed.std() > 0.4 * ink
