"""Changed pictures keep their text, and boxes follow the geometry."""

from __future__ import annotations

import random

import numpy as np
import pytest

from training.learning.augmentation import MAX_JOINED, Captcha, augment, joined

SPOTS = ((20, 30), (60, 25), (100, 34))  # x and y of black squares, in pixels


def spotted(text: str = "abc", kind: str = "latin") -> Captcha:
    """Return white paper, 120 x 60, with a black square for each character."""
    pixels = np.full((60, 120, 3), 255, np.uint8)
    boxes = []
    for x, y in SPOTS:
        pixels[y - 4 : y + 5, x - 4 : x + 5] = 0
        boxes.append((x / 120, y / 60, 4 / 120, 4 / 60))
    return Captcha(pixels, text, kind, np.array(boxes, np.float32))


def at_centres(captcha: Captcha) -> list[int]:
    """Return the brightness at the middle of each box."""
    height, width = captcha.pixels.shape[:2]
    assert captcha.boxes is not None
    return [
        int(captcha.pixels[round(float(y) * height), round(float(x) * width)].mean())
        for x, y in captcha.boxes[:, :2]
    ]


def test_the_same_seed_gives_the_same_picture_and_others_differ() -> None:
    first, again = (augment(spotted(), random.Random(5)) for _ in "12")
    assert np.array_equal(first.pixels, again.pixels)
    pictures = {augment(spotted(), random.Random(seed)).pixels.tobytes() for seed in range(30)}
    assert len(pictures) > 15


@pytest.mark.parametrize("seed", range(40))
def test_text_stays_and_boxes_follow(seed: int) -> None:
    before = spotted()
    after = augment(before, random.Random(seed))
    assert (after.text, after.kind) == ("abc", "latin")
    assert after.pixels.dtype == np.uint8
    assert after.boxes is not None
    ground = float(np.median(after.pixels))
    # Where a box is, there is its square: not the colour of the paper.
    found = [abs(value - ground) > 12 for value in at_centres(after)]
    assert sum(found) >= 2  # one may be under a line or as pale as an end may be


def test_the_picture_given_is_not_changed() -> None:
    before = spotted()
    copy = before.pixels.copy()
    for seed in range(20):
        augment(before, random.Random(seed))
    assert np.array_equal(before.pixels, copy)


@pytest.mark.parametrize("seed", range(12))
def test_joined_images_have_both_texts(seed: int) -> None:
    both = joined(spotted("abc"), spotted("XYZ"), random.Random(seed))
    assert both is not None
    assert both.text == "abcXYZ"
    assert at_centres(both) == [0] * 6
    if both.one_line:
        assert both.pixels.shape == (60, 240, 3)
    else:
        assert both.pixels.shape == (120, 120, 3)


def test_both_ways_of_joining_occur() -> None:
    lines = {joined(spotted(), spotted(), random.Random(seed)).one_line for seed in range(40)}  # type: ignore[union-attr]
    assert lines == {True, False}


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (spotted(kind="math"), spotted()),
        (spotted(), spotted(kind="chinese_math")),
        (spotted("a" * MAX_JOINED), spotted("b")),
    ],
    ids=["an expression", "after it", "too long"],
)
def test_characters_that_make_no_code_are_not_joined(first: Captcha, second: Captcha) -> None:
    assert joined(first, second, random.Random(0)) is None
