"""The box of the text in a picture."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw

from qwen_captcha.images.crop import (
    Box,
    crop_to_text,
    text_box,
    widened,
)

TEXT = (60, 40, 140, 64)  # left, top, right, bottom of what `picture` draws


def picture() -> Image.Image:
    """Return a picture with strokes over `TEXT`."""
    image = Image.new("RGB", (240, 100), "white")
    draw = ImageDraw.Draw(image)
    left, top, right, bottom = TEXT
    for x in range(left, right - 3, 8):
        draw.rectangle((x, top, x + 3, bottom - 1), "black")
    return image


def holds_little_but_text(box: Box) -> bool:
    """Tell whether a box holds the text and less than a third of its height around it."""
    left, top, right, bottom = TEXT
    inside = box.left <= left and box.top <= top and box.right >= right - 4 and box.bottom >= bottom
    near = box.left > left - 8 and box.top > top - 8 and box.right < right + 8
    return inside and near and box.bottom < bottom + 8


def with_frame(image: Image.Image) -> Image.Image:
    """Add a black frame."""
    ImageDraw.Draw(image).rectangle((0, 0, image.width - 1, image.height - 1), outline="black")
    return image


def with_bars(image: Image.Image) -> Image.Image:
    """Add black bars above and below."""
    ImageDraw.Draw(image).rectangle((0, 0, image.width, 20), "black")
    ImageDraw.Draw(image).rectangle((0, 80, image.width, 100), "black")
    return image


def with_gradient(image: Image.Image) -> Image.Image:
    """Darken from left to right."""
    ramp = np.linspace(1, 0.5, image.width)[None, :, None]
    return Image.fromarray((np.asarray(image) * ramp).astype(np.uint8))


def with_noise(image: Image.Image) -> Image.Image:
    """Add what JPEG leaves."""
    noise = np.random.default_rng(0).integers(-4, 5, np.asarray(image).shape)
    return Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8))


def with_dots(image: Image.Image) -> Image.Image:
    """Add single dots, far from the text, too."""
    draw = ImageDraw.Draw(image)
    for place in range(9):
        draw.point(((place * 83) % image.width, (place * 37) % image.height), "black")
    return image


@pytest.mark.parametrize(
    "change", [None, with_frame, with_bars, with_gradient, with_noise, with_dots]
)
def test_margins_frames_bars_and_gradients_are_left_out(change) -> None:
    image = change(picture()) if change else picture()
    assert holds_little_but_text(text_box(np.asarray(image)))


def test_a_large_picture_is_cropped_at_the_same_place() -> None:
    image = picture().resize((2400, 1000), Image.Resampling.NEAREST)
    cropped = crop_to_text(image)
    expected = text_box(np.asarray(picture()))
    assert abs(cropped.width / 10 - (expected.right - expected.left)) < 4
    assert abs(cropped.height / 10 - (expected.bottom - expected.top)) < 4


def test_a_canvas_full_of_edges_is_not_cropped() -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (60, 160, 3), dtype=np.uint8)
    box = text_box(pixels)
    assert (box.right - box.left) * (box.bottom - box.top) >= 0.97 * 60 * 160


@pytest.mark.parametrize("size", [(1, 1), (3, 3), (1, 50), (50, 1), (200, 1), (160, 60)])
def test_an_image_of_one_color_is_not_cropped(size: tuple[int, int]) -> None:
    assert crop_to_text(Image.new("RGB", size, "red")).size == size


def test_a_speck_is_no_text() -> None:
    image = Image.new("RGB", (160, 60), "white")
    image.putpixel((80, 30), (0, 0, 0))
    assert text_box(np.asarray(image)) == Box(0, 0, 160, 60)


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        (Box(40, 10, 60, 50), Box(20, 10, 80, 50)),  # too narrow
        (Box(0, 10, 20, 50), Box(0, 10, 60, 50)),  # too narrow, at an edge
        (Box(0, 20, 160, 40), Box(0, 10, 160, 50)),  # too wide
        (Box(0, 50, 160, 60), Box(0, 20, 160, 60)),  # too wide, at an edge
        (Box(20, 20, 80, 50), Box(20, 20, 80, 50)),
        (Box(0, 0, 10, 60), Box(0, 0, 90, 60)),
    ],
)
def test_a_box_is_widened_as_far_as_there_is_room(box: Box, expected: Box) -> None:
    assert widened(box, (160, 60), 1.5, 4.0) == expected


def test_a_cut_to_one_letter_has_some_of_its_neighbors() -> None:
    image = Image.new("RGB", (200, 60), "white")
    ImageDraw.Draw(image).rectangle((95, 10, 105, 50), "black")
    box = text_box(np.asarray(image))
    assert 1.6 <= (box.right - box.left) / (box.bottom - box.top) <= 1.8


def test_a_box_is_never_empty_nor_outside() -> None:
    random = np.random.default_rng(2)
    for _ in range(500):
        height, width = random.integers(1, (60, 200))
        pixels = np.full((height, width, 3), random.integers(0, 256), np.uint8)
        for _ in range(random.integers(0, 6)):
            top, left = random.integers(0, (height, width))
            down, across = random.integers(1, 60, 2)
            pixels[top : top + down, left : left + across] = random.integers(0, 256, 3)
        box = text_box(pixels)
        assert 0 <= box.left < box.right <= width
        assert 0 <= box.top < box.bottom <= height


@pytest.mark.parametrize("pale", [200, 215, 225], ids=lambda grey: f"grey {grey}")
@pytest.mark.parametrize("place", [0, 3], ids=["first", "last"])
def test_a_pale_character_at_an_end_is_not_cut_off(pale: int, place: int) -> None:
    image = Image.new("RGB", (120, 40), "white")
    draw = ImageDraw.Draw(image)
    greys = [20, 60, 0, 40]
    greys[place] = pale
    for index, grey in enumerate(greys):
        left = 10 + 26 * index
        draw.rectangle((left, 10, left + 4, 30), (grey, grey, grey))
        draw.rectangle((left + 12, 10, left + 16, 30), (grey, grey, grey))
    box = text_box(np.asarray(image))
    assert box.left <= 10
    assert box.right > 10 + 26 * 3 + 16
