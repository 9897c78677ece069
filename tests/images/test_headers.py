"""Headers: formats by content, canvases as Pillow reads them, and files made to be slow."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from io import BytesIO

import pytest
from PIL import Image

from qwen_captcha.images.headers import (
    MAX_GIF_BLOCKS,
    MAX_JPEG_SCANS,
    MAX_RUN_LENGTH_BYTES,
    Canvas,
    announced_canvas,
    check_effort,
    image_format,
)

ENOUGH_FRAMES = 100
# A GIF of 6×4 pixels, without frames and trailer yet, and with a colour table of two colours.
GIF_START = b"GIF89a" + struct.pack("<HHBBB", 6, 4, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
# Two bits a code; clear, end: the smallest picture data.
GIF_PICTURE = b"\x02\x02\x44\x01\x00"


def gif_frame(left: int, top: int, width: int, height: int, flags: int = 0) -> bytes:
    table = b"\0\0\0\xff\xff\xff" if flags & 0x80 else b""
    return b"," + struct.pack("<HHHHB", left, top, width, height, flags) + table + GIF_PICTURE


def encoded(format_name: str, size: tuple[int, int] = (6, 4), frames: int = 1) -> bytes:
    pictures = [Image.new("RGB", size, (40 * index, 0, 90)) for index in range(frames)]
    buffer = BytesIO()
    if frames == 1:
        pictures[0].save(buffer, format_name)
    else:
        pictures[0].save(buffer, format_name, save_all=True, append_images=pictures[1:])
    return buffer.getvalue()


@pytest.mark.parametrize(
    "name", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "AVIF", "ICO", "PPM", "JPEG2000"]
)
def test_format_is_known_by_content(name: str) -> None:
    assert (image_format(encoded(name)) or "").replace(" ", "") == name


@pytest.mark.parametrize("name", ["TGA", "PCX", "SGI"])
def test_other_image_formats_are_not_known(name: str) -> None:
    assert image_format(encoded(name)) is None


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"a3b9", id="text"),
        pytest.param(b"BM", id="two letters"),
        pytest.param(b"BMW=1&image=car&colour=black", id="text that begins like BMP"),
        pytest.param(b"RIFF\x24\0\0\0WAVEfmt ", id="sound"),
        pytest.param(b"<html><svg></svg>", id="page"),
        pytest.param(b"P5 is a text", id="text that begins like PPM"),
        pytest.param(b"\0\0\0\x1cftypheic\0\0\0\0mif1heic", id="heic"),
        pytest.param(b"%!PS-Adobe-3.0 EPSF-3.0", id="eps"),
        pytest.param(b"%PDF-1.7", id="pdf"),
    ],
)
def test_other_data_has_no_format(data: bytes) -> None:
    assert image_format(data) is None


@pytest.mark.parametrize("name", ["PNG", "JPEG", "BMP"])
def test_formats_without_a_parsed_header_have_no_canvas(name: str) -> None:
    assert announced_canvas(encoded(name), name, ENOUGH_FRAMES) is None


@pytest.mark.parametrize("frames", [1, 2, 5])
def test_gif_announces_canvas_and_frames(frames: int) -> None:
    data = encoded("GIF", (321, 7), frames)
    assert announced_canvas(data, "GIF", ENOUGH_FRAMES) == Canvas(321, 7, frames)


@pytest.mark.parametrize(
    ("blocks", "expected"),
    [
        pytest.param([], Canvas(6, 4, 0), id="no frame"),
        pytest.param([gif_frame(0, 0, 6, 4)], Canvas(6, 4, 1), id="one"),
        pytest.param([gif_frame(0, 0, 6, 4, 0x80)] * 2, Canvas(6, 4, 2), id="own colours"),
        pytest.param([gif_frame(5, 1, 9, 2)], Canvas(14, 4, 1), id="stands out"),
        pytest.param(
            [b"!\xf9\x04\0\0\0\0\0", gif_frame(0, 0, 1, 1)], Canvas(6, 4, 1), id="control"
        ),
        pytest.param(
            [b"!\xfe\x02hi\x03you\0", gif_frame(0, 0, 1, 1)], Canvas(6, 4, 1), id="comment"
        ),
        pytest.param([b"!\xfe\0", gif_frame(0, 0, 1, 1)], Canvas(6, 4, 1), id="empty comment"),
        pytest.param(
            [b"!\xff\x0bNETSCAPE2.0\x03\x01\0\0\0", gif_frame(0, 0, 1, 1)],
            Canvas(6, 4, 1),
            id="loop",
        ),
        pytest.param([b"\0\0", gif_frame(0, 0, 1, 1), b"\0"], Canvas(6, 4, 1), id="stray zeros"),
        pytest.param([b";", gif_frame(0, 0, 1, 1)], Canvas(6, 4, 0), id="after the trailer"),
    ],
)
def test_gif_blocks_are_walked(blocks: Sequence[bytes], expected: Canvas) -> None:
    assert announced_canvas(GIF_START + b"".join(blocks), "GIF", ENOUGH_FRAMES) == expected


def test_gif_frames_are_counted_up_to_one_over_the_limit() -> None:
    data = GIF_START + gif_frame(0, 0, 6, 4) * 50
    assert announced_canvas(data, "GIF", 10) == Canvas(6, 4, 11)


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        pytest.param(b",\0\0\0", "within a frame's header", id="cut frame header"),
        pytest.param(b"!\xf9\0" + gif_frame(0, 0, 1, 1), "without data", id="empty control"),
        pytest.param(b"!\xff\0" + gif_frame(0, 0, 1, 1), "without data", id="empty application"),
        pytest.param(b"!\xff\x0bNETSCAPE2.0\0", "without data", id="empty loop"),
        pytest.param(b"!\xf9", "without data", id="cut extension"),
        pytest.param(b"\0" * (MAX_GIF_BLOCKS + 1), "too many blocks", id="zeros"),
        pytest.param(b"!\xfe" + b"\x01a" * MAX_GIF_BLOCKS, "too many blocks", id="tiny blocks"),
    ],
)
def test_unreasonable_gif_is_rejected(blocks: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        announced_canvas(GIF_START + blocks, "GIF", ENOUGH_FRAMES)


@pytest.mark.parametrize("size", [(1, 1), (321, 7), (5, 1200)])
@pytest.mark.parametrize("lossless", [False, True], ids=["lossy", "lossless"])
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_webp_announces_its_canvas(size: tuple[int, int], lossless: bool, mode: str) -> None:
    buffer = BytesIO()
    Image.new(mode, size, (9, 9, 9)[: len(mode)] + (90,) * (len(mode) - 3)).save(
        buffer, "WEBP", lossless=lossless
    )
    assert announced_canvas(buffer.getvalue(), "WEBP", ENOUGH_FRAMES) == Canvas(*size)


def test_animated_webp_announces_its_canvas() -> None:
    data = encoded("WEBP", (321, 7), frames=3)
    assert announced_canvas(data, "WEBP", ENOUGH_FRAMES) == Canvas(321, 7)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"RIFF\x04\0\0\0WEBP", id="cut"),
        pytest.param(b"RIFF\x20\0\0\0WEBPALPH" + bytes(20), id="no picture"),
    ],
)
def test_webp_without_a_picture_is_rejected(data: bytes) -> None:
    with pytest.raises(ValueError, match="without a picture"):
        announced_canvas(data, "WEBP", ENOUGH_FRAMES)


@pytest.mark.parametrize(
    "name", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "AVIF", "ICO", "PPM", "JPEG2000"]
)
def test_ordinary_files_take_no_undue_effort(name: str) -> None:
    check_effort(encoded(name, (300, 100)), name)


def test_progressive_jpeg_may_have_its_usual_scans() -> None:
    buffer = BytesIO()
    Image.effect_noise((300, 100), 60).convert("RGB").save(buffer, "JPEG", progressive=True)
    check_effort(buffer.getvalue(), "JPEG")


def test_jpeg_of_many_scans_is_rejected() -> None:
    with pytest.raises(ValueError, match="scans"):
        check_effort(encoded("JPEG") + b"\xff\xda" * MAX_JPEG_SCANS, "JPEG")


@pytest.mark.parametrize(
    ("compression", "extra_bytes", "refused"),
    [
        pytest.param(1, MAX_RUN_LENGTH_BYTES, True, id="large run lengths"),
        pytest.param(2, MAX_RUN_LENGTH_BYTES, True, id="large short run lengths"),
        pytest.param(1, 0, False, id="small run lengths"),
        pytest.param(0, MAX_RUN_LENGTH_BYTES, False, id="large plain"),
    ],
)
def test_bmp_of_many_run_lengths_is_rejected(
    compression: int, extra_bytes: int, refused: bool
) -> None:
    data = bytearray(encoded("BMP") + bytes(extra_bytes))
    data[30] = compression
    if refused:
        with pytest.raises(ValueError, match="run lengths"):
            check_effort(bytes(data), "BMP")
    else:
        check_effort(bytes(data), "BMP")
