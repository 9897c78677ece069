from __future__ import annotations

import math
import random
from collections import Counter

import numpy as np
from PIL import Image

from qwen_captcha.fitting.examples import Example, Examples, PreparedView
from qwen_captcha.images.crop import crop_to_text
from qwen_captcha.images.resize import size_shown
from tests.support.own_captchas import draw_text


def shown(picture: Image.Image) -> tuple[int, int]:
    return size_shown(picture.size, min_pixels=4 * 784, max_pixels=20 * 784)


def examples(*sizes: tuple[int, int]) -> Examples:
    made = [
        Example(str(n), draw_text(f"{n}{n}", size), f"{n}{n}", f"{n}{n}")
        for n, size in enumerate(sizes)
    ]
    return Examples(made, [PreparedView(lambda picture: picture, shown, 1)])


def test_a_batch_has_one_size_and_images_of_about_one_shape() -> None:
    mixed = examples(*[(112, 40)] * 6, *[(110, 40)] * 2, *[(60, 60)] * 4)
    for seed in range(20):
        batch = mixed.draw(8, random.Random(seed))
        assert len({picture.size for picture in batch.pictures}) == 1
        numbers = {int(text[: len(text) // 2]) for text in batch.texts}
        assert numbers <= set(range(8)) or numbers <= set(range(8, 12))
        assert len(set(batch.texts)) == len(batch.texts)


def test_all_examples_are_tested_with_the_images_of_the_service() -> None:
    sizes = [(112, 40), (60, 60), (112, 40), (112, 40)]
    made = [Example(str(n), draw_text("77", size), str(n), "") for n, size in enumerate(sizes)]
    batches = Examples(made, [PreparedView(crop_to_text, shown, 1)]).batches(2)
    assert sorted(text for batch in batches for text in batch.texts) == list("0123")
    assert max(len(batch.texts) for batch in batches) == 2
    for batch in batches:
        for picture, text in zip(batch.pictures, batch.texts, strict=True):
            part = crop_to_text(made[int(text)].picture)
            expected = part.resize(shown(part), Image.Resampling.BICUBIC)
            np.testing.assert_array_equal(np.asarray(picture), np.asarray(expected))


def test_batches_are_drawn_in_all_views_small_ones_oftener_and_tested_in_the_first() -> None:
    made = [Example(str(n), draw_text("77", (112, 40)), str(n), "") for n in range(4)]
    sizes = [(140, 56), (84, 28), (168, 56)]
    views = [
        PreparedView(lambda picture: picture, lambda _, size=size: size, math.prod(size))
        for size in sizes
    ]
    several = Examples(made, views)
    rng = random.Random(0)
    drawn = Counter(several.draw(4, rng).pictures[0].size for _ in range(300))
    assert drawn.keys() == set(sizes)
    assert drawn[84, 28] > drawn[140, 56] + drawn[168, 56]
    assert {picture.size for batch in several.batches(2) for picture in batch.pictures} == {
        sizes[0]
    }
