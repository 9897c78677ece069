from __future__ import annotations

import cv2
import numpy as np
import pytest
from PIL import Image, ImageDraw

from qwen_captcha.images.blank import is_blank
from qwen_captcha.images.colors import COLOR_RANGES, HsvRange, hsv_of, keep_colors

WHITE, BLACK, RED, BLUE = (255, 255, 255), (0, 0, 0), (255, 0, 0), (0, 0, 255)


def blocks(background: tuple[int, int, int], *colors: tuple[int, int, int]) -> Image.Image:
    """Return an image with a block of each color on a background."""
    image = Image.new("RGB", (30 * len(colors), 30), background)
    for number, color in enumerate(colors):
        image.paste(color, (30 * number + 10, 10, 30 * number + 20, 20))
    return image


def colors_of(image: Image.Image) -> set[object]:
    return {color for _, color in image.getcolors() or []}


def test_hue_saturation_and_value_are_those_of_opencv() -> None:
    levels = np.array([*range(0, 256, 15), 1, 2, 127, 128, 254], dtype=np.uint8)
    cube = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(1, -1, 3)
    assert (hsv_of(cube) == cv2.cvtColor(cube, cv2.COLOR_RGB2HSV)).all()


@pytest.mark.parametrize(
    ("name", "color"),
    [
        ("red", RED),
        ("red", (220, 20, 60)),
        ("blue", BLUE),
        ("green", (0, 128, 0)),
        ("yellow", (255, 230, 0)),
        ("orange", (255, 140, 0)),
        ("purple", (160, 32, 240)),
        ("cyan", (0, 255, 255)),
        ("black", (30, 30, 30)),
        ("white", (240, 240, 240)),
        ("gray", (128, 128, 128)),
    ],
)
def test_a_color_name_selects_its_pixels(name: str, color: tuple[int, int, int]) -> None:
    background = BLACK if name == "white" else WHITE
    kept = keep_colors(
        blocks(background, color, BLUE if name != "blue" else RED), COLOR_RANGES[name]
    )
    assert color in colors_of(kept)
    assert len(colors_of(kept)) == 2


def test_the_other_characters_of_a_captcha_of_two_colors_are_gone() -> None:
    image = Image.new("RGB", (120, 40), "white")
    draw = ImageDraw.Draw(image)
    for number, character in enumerate("K7M4"):
        draw.text((10 + 25 * number, 8), character, RED if number % 2 else BLUE, font_size=24)
    kept = np.asarray(keep_colors(image, COLOR_RANGES["red"]))
    ink = (kept < 200).any(axis=(0, 2))
    assert [bool(ink[25 * n + 8 : 25 * n + 30].any()) for n in range(4)] == [
        False,
        True,
        False,
        True,
    ]


def test_selected_light_ink_gets_a_dark_background() -> None:
    kept = keep_colors(blocks((40, 60, 160), WHITE, (250, 0, 0)), COLOR_RANGES["white"])
    assert colors_of(kept) == {WHITE, BLACK}


def test_a_selected_background_color_erases_the_other_colors() -> None:
    ranges = [*COLOR_RANGES["white"], *COLOR_RANGES["red"]]
    assert colors_of(keep_colors(blocks(WHITE, RED, BLUE), ranges)) == {WHITE, RED}
    assert is_blank(keep_colors(blocks(WHITE, BLUE), COLOR_RANGES["white"]))


def test_no_pixel_of_a_color_leaves_a_blank_image() -> None:
    assert is_blank(keep_colors(blocks(WHITE, RED), COLOR_RANGES["green"]))


def test_bounds_are_included() -> None:
    one = [HsvRange((0, 255, 255), (0, 255, 255))]
    assert RED in colors_of(keep_colors(blocks(WHITE, RED, (254, 0, 0)), one))
    assert (254, 0, 0) not in colors_of(keep_colors(blocks(WHITE, RED, (254, 0, 0)), one))
