from __future__ import annotations

import io

from PIL import Image

from evaluation.load.synthetic_captchas import (
    CHARACTERS,
    LENGTHS,
    SIZE,
    draw_captchas,
)


def test_captchas_are_distinct_and_readable_images() -> None:
    drawn = draw_captchas(40)
    assert len({png for png, _ in drawn}) == 40
    for png, label in drawn:
        with Image.open(io.BytesIO(png)) as image:
            assert (image.format, image.size, image.mode) == ("PNG", SIZE, "RGB")
            darkest, brightest = image.convert("L").getextrema()
            assert brightest - darkest > 100
        assert len(label) in LENGTHS
        assert set(label) <= set(CHARACTERS)


def test_the_seed_fixes_every_pixel() -> None:
    assert draw_captchas(5, seed=3) == draw_captchas(5, seed=3)
    assert draw_captchas(5, seed=3) != draw_captchas(5, seed=4)
