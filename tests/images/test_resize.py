from __future__ import annotations

import pytest
from PIL import Image
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

from qwen_captcha.images.resize import (
    bordered_size,
    size_shown,
    with_borders,
)

pytestmark = pytest.mark.live

RANGES = [(784, 784), (7840, 18_816), (64_000, 360_000), (3136, 12_845_056)]


@pytest.mark.parametrize("pixel_range", RANGES, ids=str)
def test_the_size_is_the_one_that_the_processor_chooses(pixel_range: tuple[int, int]) -> None:
    low, high = pixel_range
    for width in (*range(1, 90), 160, 1000, 4001):
        for height in (*range(1, 60, 7), 13, 14, 200, 3000):
            w, h = bordered_size((width, height))
            expected_height, expected_width = smart_resize(h, w, 28, low, high)
            shown = size_shown((width, height), min_pixels=low, max_pixels=high)
            assert shown == (expected_width, expected_height), (width, height)
            # What is shown already is left alone by a processor of the same range.
            if low < high and low <= shown[0] * shown[1] <= high:
                assert size_shown(shown, min_pixels=low, max_pixels=high) == shown


def test_a_long_strip_keeps_its_proportions() -> None:
    shown = with_borders(Image.new("RGB", (200, 1), "red"))
    assert shown.size == (200, 2)
    assert shown.getcolors() == [(400, (255, 0, 0))]


def test_an_image_of_ordinary_shape_gets_no_borders() -> None:
    image = Image.new("RGB", (160, 60))
    assert with_borders(image) is image
