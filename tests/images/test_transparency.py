"""Backgrounds: ink of any luminance stays visible once transparency is gone."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from PIL import Image, ImageDraw

from qwen_captcha.images.transparency import make_opaque

Colour = tuple[int, ...]
CLEAR = (0, 0, 0, 0)
WHITE, BLACK, GREY = (255, 255, 255), (0, 0, 0), (128, 128, 128)


def striped(*stripes: tuple[Colour, int], size: tuple[int, int] = (100, 30)) -> Image.Image:
    """Return a transparent picture with stripes of (colour, width in pixels) side by side."""
    image = Image.new("RGBA", size, CLEAR)
    left = 5
    for colour, width in stripes:
        ImageDraw.Draw(image).rectangle((left, 5, left + width - 1, size[1] - 6), fill=colour)
        left += width
    return image


@pytest.mark.parametrize(
    ("stripes", "background"),
    [
        pytest.param([((0, 0, 0), 20)], WHITE, id="black"),
        pytest.param([((60, 20, 90), 20)], WHITE, id="dark colour"),
        pytest.param([((80, 80, 80), 20)], WHITE, id="dark grey"),
        pytest.param([((40, 200, 120), 20)], WHITE, id="middling green"),
        pytest.param([((128, 128, 128), 20)], WHITE, id="middling grey"),
        pytest.param([((255, 255, 255), 20)], BLACK, id="white"),
        pytest.param([((230, 230, 250), 20)], BLACK, id="pale colour"),
        pytest.param([((255, 255, 0), 20)], BLACK, id="yellow"),
        pytest.param([((255, 255, 255, 128), 20)], BLACK, id="half transparent white"),
        pytest.param([((0, 0, 0, 128), 20)], WHITE, id="half transparent black"),
        pytest.param([((0, 0, 0), 18), ((255, 255, 255), 3)], WHITE, id="black, light rim"),
        pytest.param([((255, 255, 255), 18), ((0, 0, 0), 3)], BLACK, id="white, dark rim"),
        pytest.param([((0, 0, 0), 20), ((255, 255, 255), 20)], GREY, id="black and white"),
        pytest.param([((0, 0, 0), 10), ((250, 250, 250), 25)], GREY, id="black under pale noise"),
        pytest.param(
            [((200, 30, 30), 8), ((30, 160, 40), 8), ((40, 40, 200), 8), ((230, 210, 60), 3)],
            WHITE,
            id="all colours",
        ),
        pytest.param([((0, 0, 0), 20), ((255, 255, 255, 20), 60)], WHITE, id="black, faint veil"),
    ],
)
def test_background_keeps_the_ink_visible(
    stripes: Sequence[tuple[Colour, int]], background: Colour
) -> None:
    [opaque] = make_opaque([striped(*stripes)])
    assert opaque.mode == "RGB"
    assert opaque.getpixel((0, 0)) == background


def test_selected_ink_has_its_color_and_blended_edges() -> None:
    [opaque] = make_opaque([striped(((10, 20, 30), 20), ((0, 0, 0, 51), 1))])
    assert opaque.getpixel((6, 6)) == (10, 20, 30)
    assert opaque.getpixel((25, 6)) == (204, 204, 204)


def test_a_large_image_is_classified_alike() -> None:
    [opaque] = make_opaque([striped(((255, 255, 255), 300), size=(2000, 900))])
    assert opaque.getpixel((0, 0)) == BLACK


def test_mostly_opaque_picture_gets_white_where_it_is_clear() -> None:
    sheet = Image.new("RGBA", (60, 20), (250, 250, 250, 255))
    ImageDraw.Draw(sheet).rectangle((10, 5, 20, 15), fill=(0, 0, 0, 255))
    sheet.putpixel((0, 0), CLEAR)
    [opaque] = make_opaque([sheet])
    assert opaque.getpixel((0, 0)) == WHITE


def test_letters_cut_out_of_a_white_sheet_are_dark() -> None:
    sheet = Image.new("RGBA", (60, 20), (255, 255, 255, 255))
    ImageDraw.Draw(sheet).rectangle((10, 5, 20, 15), fill=CLEAR)
    [opaque] = make_opaque([sheet])
    assert opaque.getpixel((12, 8)) == BLACK
    assert opaque.getpixel((0, 0)) == WHITE


def test_wholly_transparent_picture_shows_its_hidden_colours() -> None:
    hidden = Image.new("RGBA", (9, 9), (255, 255, 255, 0))
    hidden.putpixel((4, 4), (10, 20, 30, 0))
    [opaque] = make_opaque([hidden])
    assert opaque.getpixel((4, 4)) == (10, 20, 30)
    assert opaque.getpixel((0, 0)) == WHITE


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_opaque_picture_stays_as_it_is(mode: str) -> None:
    image = Image.linear_gradient("L").convert(mode)
    [opaque] = make_opaque([image])
    assert opaque.mode == "RGB"
    assert opaque.tobytes() == image.convert("RGB").tobytes()


def test_frames_share_one_background() -> None:
    pale, blank = striped(((255, 255, 255), 30)), striped()
    opaque_frame = Image.new("RGB", pale.size, (10, 10, 10))
    frames = make_opaque([blank, pale, opaque_frame])
    assert [frame.getpixel((0, 0)) for frame in frames] == [BLACK, BLACK, (10, 10, 10)]
