from __future__ import annotations

import sys

import pytest

from qwen_captcha.errors import TooManyPixels, UndecodableImage, UnsupportedImageType
from qwen_captcha.images.blank import is_blank
from qwen_captcha.images.decode import ImageLimits, decode_image
from qwen_captcha.images.svg import MAX_BYTES, MAX_ELEMENTS

LIMITS = ImageLimits(max_image_pixels=1_000_000, max_frames=8)
SPACE = 'xmlns="http://www.w3.org/2000/svg"'
# As svg-captcha draws: a background, a line, and characters as outlines.
DRAWING = (
    f'<svg {SPACE} width="150" height="50" viewBox="0,0,150,50">'
    '<rect width="100%" height="100%" fill="#fff"/>'
    '<path d="M10 20 C40 5,70 45,140 25" stroke="#999" fill="none"/>'
    '<path fill="#222" d="M20 10L30 10L30 40L20 40Z"/></svg>'
)


def svg(inside: str, attributes: str = 'width="150" height="50"', before: str = "") -> bytes:
    return f"{before}<svg {SPACE} {attributes}>{inside}</svg>".encode()


@pytest.mark.parametrize(
    "before",
    ["", "\ufeff", " \n", '<?xml version="1.0" encoding="UTF-8"?>\n', "<!-- a comment -->"],
)
def test_an_svg_is_read(before: str) -> None:
    image = decode_image((before + DRAWING).encode(), LIMITS)
    assert (image.size, image.mode) == ((150, 50), "RGB")
    assert image.getpixel((25, 25)) == (0x22, 0x22, 0x22)
    assert image.getpixel((100, 45)) == (255, 255, 255)


def test_transparent_pixels_become_white() -> None:
    image = decode_image(svg('<rect x="20" y="10" width="10" height="30"/>'), LIMITS)
    assert (image.getpixel((1, 1)), image.getpixel((25, 25))) == ((255, 255, 255), (0, 0, 0))


def test_a_view_box_is_a_size() -> None:
    assert decode_image(svg('<path d="M9 9H50V20Z"/>', 'viewBox="0 0 80 40"'), LIMITS).size == (
        80,
        40,
    )


@pytest.mark.parametrize(
    "data",
    [
        svg('<image href="file:///etc/hostname" width="9" height="9"/>'),
        svg('<image href="http://127.0.0.1:1/a.png"/>'),
        svg('<rect id="a" width="9" height="9"/><use href="#a"/>'),
        svg("<foreignObject/>"),
        svg("<script>1</script>"),
        svg('<rect fill="url(http://127.0.0.1:1/a#b)"/>'),
        svg('<path style="fill: URL( file:///a )"/>'),
        svg('<style>@import "a.css";</style>'),
        svg('<path d="M0 0H9" stroke-dasharray="0.0001"/>'),
        svg('<linearGradient xmlns:x="http://www.w3.org/1999/xlink" x:href="a.svg#b"/>'),
        svg("&a;", before='<!DOCTYPE svg [<!ENTITY a "b">]>'),
    ],
)
def test_external_references_and_repetitions_are_rejected(data: bytes) -> None:
    with pytest.raises(UnsupportedImageType):
        decode_image(data, LIMITS)


@pytest.mark.parametrize(
    "data",
    [
        svg("<g>" * 5),
        svg("<path/>", 'width="100%"'),
        svg("<path/>", 'width="0" height="0"'),
        svg("<path/>", 'viewBox="0 0 nan inf"'),
        svg("<g>" * 40 + "</g>" * 40),
        svg("<path/>" * MAX_ELEMENTS),
        svg(" " * MAX_BYTES),
    ],
    ids=["malformed", "percent", "zero", "no number", "deep", "many elements", "many bytes"],
)
def test_an_svg_that_cannot_be_drawn_is_undecodable(data: bytes) -> None:
    with pytest.raises(UndecodableImage):
        decode_image(data, LIMITS)


def test_the_size_is_checked_before_drawing() -> None:
    with pytest.raises(TooManyPixels):
        decode_image(svg("<path/>", 'width="90000" height="90000"'), LIMITS)


def test_an_empty_svg_is_blank() -> None:
    assert is_blank(decode_image(svg(""), LIMITS))


def test_without_the_rasterizer_the_error_has_the_install_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    with pytest.raises(UnsupportedImageType, match="pip install resvg-py"):
        decode_image(DRAWING.encode(), LIMITS)
