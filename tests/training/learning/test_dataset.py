"""Training data: captchas cropped and stretched as the service does."""

from __future__ import annotations

import multiprocessing
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from qwen_captcha.images.crop import text_box
from qwen_captcha.recognition.plan import image_shown
from qwen_captcha.recognition.reading import Capabilities
from training.build import STRETCH
from training.learning import dataset
from training.learning.augmentation import Captcha
from training.learning.curriculum import LEVELS
from training.learning.dataset import Batch, CaptchaStream, Mix, draw_captcha, nearest_grid, show
from training.learning.real_captchas import RealCaptcha, RealCaptchas
from training.rendering.fonts import FontLibrary

pytestmark = pytest.mark.live

# matplotlib ships DejaVu: enough to draw with on a machine without Debian's fonts.
FACE = str(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf")
FONTS = FontLibrary(latin=((FACE,),), hanzi=())
PLAIN = LEVELS[1]


def stream(seed: int, mix: Mix | None = None, batch_size: int = 4) -> Iterator[Batch]:
    level = multiprocessing.Value("i", 0)
    made = CaptchaStream(
        (PLAIN,), level, mix or Mix(), FONTS, seed=seed, start=0, batch_size=batch_size
    )
    return iter(made)


def test_batches_are_a_function_of_the_seed() -> None:
    first, again, other = (list(islice(stream(seed), 3)) for seed in (3, 3, 4))
    for one, same in zip(first, again, strict=True):
        assert one.images.equal(same.images)
        assert one.boxes.equal(same.boxes)
        assert one.labels == same.labels
    assert [batch.labels for batch in first] != [batch.labels for batch in other]
    assert first[0].images.shape == (4, 56, 112, 3)
    assert first[0].boxed.all()


def test_real_captchas_are_mixed_in_by_their_share_and_most_of_what_is_read_sometimes() -> None:
    pixels = np.full((30, 60, 3), 255, np.uint8)
    pixels[8:22:2, 10:50:3] = 0
    real = RealCaptchas(
        RealCaptcha(pixels, "ab1", "latin", family)
        for family in ("always", "sometimes")
        for _ in "12"
    )
    misses = multiprocessing.Array("d", [0.0, 0.5])
    batches = list(islice(stream(1, Mix(real, 0.5, misses)), 60))
    families = [family for batch in batches for family in batch.families]
    counts = {name: families.count(name) for name in ("always", "sometimes", "")}
    assert 0.35 < (counts["always"] + counts["sometimes"]) / len(families) < 0.65
    assert counts["sometimes"] > 3 * counts["always"] > 0
    for batch in batches:
        real_ones = torch.tensor([bool(family) for family in batch.families])
        assert not (batch.boxed & real_ones).any()
        assert not batch.boxes[~batch.boxed].any()


def test_boxes_follow_their_characters() -> None:
    canvas = Image.new("RGB", (240, 100), "white")
    shades = (0, 80, 160)
    places = [(60, 40, 80, 62), (90, 44, 104, 60), (120, 40, 136, 64)]
    for shade, place in zip(shades, places, strict=True):
        ImageDraw.Draw(canvas).rectangle(place, (shade, shade, shade))
    boxes = [((x + z) / 480, (y + w) / 200, (z - x) / 480, (w - y) / 200) for x, y, z, w in places]
    captcha = Captcha(np.asarray(canvas), "abc", "latin", np.array(boxes, np.float32))
    shown = show(captcha)
    part = np.asarray(shown.image)
    height, width = part.shape[:2]
    assert height < 40
    assert shown.boxes is not None
    for shade, (x, y, half_width, half_height) in zip(shades, shown.boxes, strict=True):
        rows = slice(round((y - half_height) * height) + 1, round((y + half_height) * height) - 1)
        columns = slice(round((x - half_width) * width) + 3, round((x + half_width) * width) - 3)
        assert (part[rows, columns] == shade).all()


def test_training_prepares_images_as_the_service_does() -> None:
    drawn, text, kind = draw_captcha(PLAIN, (2, 4), FONTS, random.Random(1))
    shown = show(Captcha(drawn.image, text, kind))
    capabilities = Capabilities(crops_to_text=True, stretch=STRETCH)
    served = image_shown(Image.fromarray(drawn.image), capabilities)
    assert served.size == shown.image.size
    assert np.array_equal(np.asarray(served), np.asarray(shown.image))


def test_captchas_are_shown_at_several_scales_and_stretches() -> None:
    level = multiprocessing.Value("i", 0)
    wide = replace(PLAIN, grids=(((2, 4), 1.0),), other_scales=(((1, 3),), ((4, 8), (4, 9))))
    made = CaptchaStream((wide,), level, Mix(), FONTS, seed=1, start=0, batch_size=1)
    shapes = [next(iter(batch.images)).shape for batch in islice(made, 300)]
    grids = Counter((height // 28, width // 28) for height, width, _ in shapes)
    assert set(grids) == {(2, 4), (1, 3), (4, 8), (4, 9)}
    assert 0.3 < grids[2, 4] / 300 < 0.5
    captcha = Captcha(np.zeros((40, 100, 3), np.uint8), "", "latin")
    assert [show(captcha, stretch).image.width for stretch in (1, 2.2)] == [100, 220]


def test_a_level_without_other_scales_shows_one() -> None:
    assert PLAIN.choose_scale(random.Random(0)) == ((2, 4),)


def test_an_image_is_assigned_a_grid_of_similar_shape() -> None:
    rng = random.Random(0)
    grids = [grid for grid, _ in LEVELS[-1].grids]
    chosen = [nearest_grid((320, 100), grids, rng) for _ in range(200)]
    assert len(set(chosen)) > 1
    for rows, columns in chosen:
        assert 0.6 < columns / rows / 3.2 < 1.6


def test_a_long_text_gets_a_canvas_for_its_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset, "sample_text", lambda *_: "A1B2C3D4E5F6G7H8")
    drawn, _, _ = draw_captcha(PLAIN, (2, 4), FONTS, random.Random(0))
    assert drawn.image.shape[1] / drawn.image.shape[0] > 4


def test_a_crop_has_all_ink_in_plain_print() -> None:
    rng = random.Random(6)
    for _ in range(30):
        drawn, _, _ = draw_captcha(LEVELS[0], (2, 4), FONTS, rng)
        box = text_box(drawn.image)
        ground = np.median(drawn.image, axis=(0, 1))
        ink = np.abs(drawn.image - ground).max(axis=2) > 60
        ink[:3] = ink[-3:] = ink[:, :3] = ink[:, -3:] = False  # may be a frame
        kept = ink[box.top : box.bottom, box.left : box.right].sum()
        assert kept >= 0.98 * ink.sum()
