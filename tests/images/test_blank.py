from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from qwen_captcha.images.blank import is_blank
from tests.support.captchas import draw


def noise(deviation: float, seed: int, size: tuple[int, int] = (160, 60)) -> Image.Image:
    """Return an image whose pixels have nothing to do with each other."""
    levels = np.random.default_rng(seed).normal(180, deviation, (size[1], size[0], 3))
    return Image.fromarray(np.clip(levels, 0, 255).astype(np.uint8))


def dots(count: int, seed: int) -> Image.Image:
    """Return a white image with single pixels of any color."""
    random = np.random.default_rng(seed)
    pixels = np.full((60, 160, 3), 255, np.uint8)
    rows, columns = random.integers(0, 60, count), random.integers(0, 160, count)
    pixels[rows, columns] = random.integers(0, 200, (count, 3))
    return Image.fromarray(pixels)


def framed(color: str) -> Image.Image:
    image = Image.new("RGB", (100, 40), color)
    image.paste("white", (2, 2, 98, 38))
    return image


@pytest.mark.parametrize("size", [(1, 1), (2, 40), (40, 4), (3, 5), (160, 60), (2000, 1500)])
@pytest.mark.parametrize("color", ["white", "black", "teal"])
def test_one_color_is_blank(size: tuple[int, int], color: str) -> None:
    assert is_blank(Image.new("RGB", size, color))


@pytest.mark.parametrize(
    "image",
    [
        pytest.param(framed("black"), id="a frame"),
        pytest.param(
            noise(2, 0).point(lambda level: 250 if level > 180 else 246), id="no contrast"
        ),
        *(pytest.param(noise(60, seed), id=f"noise {seed}") for seed in range(5)),
        *(pytest.param(noise(20, seed), id=f"faint noise {seed}") for seed in range(5)),
        *(pytest.param(dots(300, seed), id=f"dots {seed}") for seed in range(5)),
    ],
)
def test_nothing_but_noise_is_blank(image: Image.Image) -> None:
    assert is_blank(image)


def over_noise(deviation: float) -> Image.Image:
    """Return print over noise that a person still reads."""
    drawn = np.asarray(draw("4711"), dtype=float)
    levels = (
        140
        + 0.25 * drawn
        + np.random.default_rng(1).normal(0, deviation, drawn.shape[:2])[..., None]
    )
    return Image.fromarray(np.clip(levels, 0, 255).astype(np.uint8))


def one_digit() -> Image.Image:
    """Return a digit of 3 x 5 pixels."""
    rows = ("111", "001", "010", "010", "010")
    image = Image.new("RGB", (7, 9), "white")
    for y, row in enumerate(rows):
        for x, bit in enumerate(row):
            image.putpixel((x + 2, y + 2), (0, 0, 0) if bit == "1" else (255, 255, 255))
    return image


@pytest.mark.parametrize(
    "image",
    [
        pytest.param(draw("4711"), id="print"),
        pytest.param(draw("1"), id="one character"),
        pytest.param(draw("4711").point(lambda level: 235 + level // 13), id="pale print"),
        pytest.param(over_noise(30), id="print over noise"),
        pytest.param(over_noise(50), id="print over much noise"),
        pytest.param(one_digit(), id="the smallest digit"),
    ],
)
def test_a_readable_image_is_not_blank(image: Image.Image) -> None:
    assert not is_blank(image)
