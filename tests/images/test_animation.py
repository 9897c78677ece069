"""Composing frames: every character survives, whichever frames show it; flicker does not."""

from __future__ import annotations

from collections.abc import Sequence

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwen_captcha.images.animation import Pixels, compose_frames

HEIGHT, WIDTH = 40, 160
WHITE, NIGHT = (255, 255, 255), (20, 25, 40)
# Where the "characters" are: bars in four places, as wide as letters' strokes.
PLACES = [slice(12, 20), slice(52, 60), slice(92, 100), slice(132, 140)]
INKS = [(30, 60, 160), (200, 40, 40), (10, 120, 30), (240, 210, 120)]
BODY = slice(8, 32)


def blank(background: Sequence[int] = WHITE) -> Pixels:
    return np.full((HEIGHT, WIDTH, 3), background, dtype=np.uint8)


def draw(frame: Pixels, place: int, opacity: float = 1.0) -> None:
    area = frame[BODY, PLACES[place]]
    area[:] = (area * (1 - opacity) + np.array(INKS[place]) * opacity).astype(np.uint8)


def fading_frames(background: Sequence[int] = WHITE) -> list[Pixels]:
    """Four frames; in each, one character is hidden and the others have three strengths."""
    frames = []
    for shift in range(4):
        frame = blank(background)
        for place in range(4):
            draw(frame, place, opacity=(0, 0.35, 0.7, 1.0)[(place + shift) % 4])
        frames.append(frame)
    return frames


def complete_frame(background: Sequence[int] = WHITE) -> Pixels:
    frame = blank(background)
    for place in range(4):
        draw(frame, place)
    return frame


@pytest.mark.parametrize("background", [WHITE, NIGHT], ids=["light", "dark"])
def test_characters_that_fade_in_turn_are_all_at_full_strength(background: Sequence[int]) -> None:
    inks = [ink if background == WHITE else tuple(255 - part for part in ink) for ink in INKS]
    frames = np.stack(fading_frames(background))
    composed = compose_frames(frames)
    for place, ink in zip(PLACES, inks, strict=True):
        expected = ink if background == WHITE else composed[BODY, place].reshape(-1, 3)[0]
        assert (composed[BODY, place] == expected).all()
        contrast = np.abs(composed[BODY, place].astype(int) - background).max(axis=-1)
        assert (contrast >= 80).all()
    assert (composed[:8] == background).all()


@pytest.mark.parametrize("background", [WHITE, NIGHT], ids=["light", "dark"])
def test_characters_shown_one_by_one_are_all_there(background: Sequence[int]) -> None:
    frames = [blank(background) for _ in range(4)]
    for place, frame in enumerate(frames):
        draw(frame, place)
    assert (compose_frames(np.stack(frames)) == complete_frame(background)).all()


def test_two_halves_are_joined() -> None:
    left, right = blank(), blank()
    for place in (0, 1):
        draw(left, place)
        draw(right, place + 2)
    assert (compose_frames(np.stack([left, right])) == complete_frame()).all()


@pytest.mark.parametrize("count", [1, 2, 7])
def test_equal_frames_stay_as_they_are(count: int) -> None:
    frame = complete_frame()
    frame[3, ::2] = (250, 240, 230)
    assert (compose_frames(np.stack([frame] * count)) == frame).all()


@pytest.mark.parametrize("count", [1, 3])
def test_blank_frames_give_a_blank_picture(count: int) -> None:
    assert (compose_frames(np.stack([blank()] * count)) == blank()).all()


def test_frame_that_shows_everything_is_taken_whole() -> None:
    # The text wobbles by a pixel and one frame is blank: merging frames would smear it.
    wobbling = [np.roll(complete_frame(), shift, axis=(0, 1)) for shift in ((0, 0), (1, 1), (2, 0))]
    composed = compose_frames(np.stack([blank(), *wobbling]))
    assert any((composed == frame).all() for frame in wobbling)


def test_noise_that_flickers_is_left_out() -> None:
    frames = fading_frames()
    for index, frame in enumerate(frames):
        frame[3, 40 * index : 40 * index + 30] = (0, 0, 0)
        frame[10:30, 32 + 40 * index] = (90, 0, 90)
    composed = compose_frames(np.stack(frames))
    assert (composed == compose_frames(np.stack(fading_frames()))).all()


def test_character_of_a_single_frame_is_no_noise() -> None:
    frames = [blank() for _ in range(4)]
    for frame in frames[1:]:
        for place in (0, 1, 3):
            draw(frame, place)
    draw(frames[0], 2)
    assert (compose_frames(np.stack(frames)) == complete_frame()).all()


def test_characters_over_a_busy_background_are_all_there() -> None:
    noise = np.random.default_rng(3).integers(150, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    frames = [noise.copy() for _ in range(4)]
    for place, frame in enumerate(frames):
        frame[BODY, PLACES[place]] = 0
    composed = compose_frames(np.stack(frames))
    for area in PLACES:
        assert (composed[BODY, area] == 0).all()
    assert (composed[:8] == noise[:8]).all()


@given(
    arrays.arrays(
        np.uint8,
        st.tuples(st.integers(1, 5), st.integers(1, 6), st.integers(1, 9), st.just(3)),
        elements=st.sampled_from([0, 21, 128, 235, 255]),
    )
)
@settings(max_examples=150)
def test_every_pixel_is_that_of_some_frame(frames: Pixels) -> None:
    composed = compose_frames(frames)
    assert composed.shape == frames.shape[1:]
    assert (frames == composed).all(axis=-1).any(axis=0).all()
