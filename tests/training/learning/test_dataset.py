"""What the model learns from: drawn captchas, cropped as the service crops."""

from __future__ import annotations

import random
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from PIL import Image, ImageDraw

from qwen_captcha.images.crop import text_box
from qwen_captcha.images.resize import size_shown
from training.build import CELL, MAX_PIXELS, MIN_PIXELS
from training.learning import dataset
from training.learning.curriculum import LEVELS, Grid
from training.learning.dataset import (
    draw_batch,
    draw_captcha,
    draw_cropped,
)
from training.rendering.fonts import FontLibrary
from training.rendering.render import Drawing

# matplotlib ships DejaVu: enough to draw with on a machine without Debian's fonts.
FACE = str(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf")
FONTS = FontLibrary(latin=((FACE,),), hanzi=())
PLAIN = LEVELS[1]


def test_a_batch_is_a_function_of_seed_and_index() -> None:
    first, again, other = (draw_batch(PLAIN, index, FONTS, 3, 4) for index in (7, 7, 8))
    assert first.images.equal(again.images)
    assert first.boxes.equal(again.boxes)
    assert first.labels == again.labels
    assert first.labels != other.labels
    assert first.images.shape == (4, 56, 112, 3)


@pytest.mark.parametrize(("grid", "least"), [((2, 4), 0), ((3, 6), 15), ((3, 7), 20), ((3, 8), 15)])
def test_a_drawing_is_cropped_to_what_is_shown_in_its_grid(grid: Grid, least: int) -> None:
    rng = random.Random(4)
    shown = 0
    for _ in range(40):
        drawn, _, _ = draw_cropped(PLAIN, grid, FONTS, rng)
        height, width = drawn.image.shape[:2]
        assert 0.75 < width / height * grid[0] / grid[1] < 1.5
        size = size_shown((width, height), min_pixels=MIN_PIXELS, max_pixels=MAX_PIXELS)
        shown += size == (grid[1] * CELL, grid[0] * CELL)
    assert shown >= least  # the first is smaller than the service shows any


def test_boxes_follow_their_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    canvas = Image.new("RGB", (240, 100), "white")
    shades = (0, 80, 160)
    places = [(60, 40, 80, 62), (90, 44, 104, 60), (120, 40, 136, 64)]
    for shade, place in zip(shades, places, strict=True):
        ImageDraw.Draw(canvas).rectangle(place, (shade, shade, shade))
    boxes = [((x + z) / 480, (y + w) / 200, (z - x) / 480, (w - y) / 200) for x, y, z, w in places]
    drawing = Drawing(np.asarray(canvas), np.array(boxes, np.float32))
    monkeypatch.setattr(dataset, "draw_captcha", lambda *_: (drawing, "abc", "latin"))
    part, _, _ = draw_cropped(PLAIN, (2, 6), FONTS, random.Random(0))
    height, width = part.image.shape[:2]
    assert height < 40
    for shade, (x, y, half_width, half_height) in zip(shades, part.boxes, strict=True):
        rows = slice(round((y - half_height) * height), round((y + half_height) * height))
        columns = slice(round((x - half_width) * width), round((x + half_width) * width))
        assert (part.image[rows, columns] == shade).all()


def test_what_is_cropped_keeps_all_ink_in_plain_print() -> None:
    rng = random.Random(6)
    for _ in range(30):
        drawn, _, _ = draw_captcha(LEVELS[0], (2, 4), FONTS, rng)
        box = text_box(drawn.image)
        height, width = drawn.image.shape[:2]
        for x, y, half_width, half_height in drawn.boxes:
            assert box.left <= max(0, (x - half_width) * width) + 3
            assert box.right >= min(width, (x + half_width) * width) - 3
            assert box.top <= max(0, (y - half_height) * height) + 3
            assert box.bottom >= min(height, (y + half_height) * height) - 3
