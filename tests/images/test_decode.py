"""Decoding: every accepted file gives one upright RGB image, every other one its own error."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageOps

from qwen_captcha.errors import (
    CaptchaServiceError,
    OutOfMemory,
    TooManyFrames,
    TooManyPixels,
    UndecodableImage,
    UnreadableShape,
    UnsupportedImageType,
)
from qwen_captcha.images import decode as decode_module
from qwen_captcha.images.decode import (
    MAX_ASPECT_RATIO,
    ImageLimits,
    decode_image,
)

LIMITS = ImageLimits(max_image_pixels=1_000_000, max_frames=8)
INK, PAPER = (20, 60, 150), (255, 255, 255)
FORMATS = ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "AVIF", "PPM", "JPEG2000"]


def encoded(image: Image.Image, format_name: str = "PNG", **options: Any) -> bytes:
    buffer = BytesIO()
    image.save(buffer, format_name, **options)
    return buffer.getvalue()


def animated(frames: Sequence[Image.Image], format_name: str, **options: Any) -> bytes:
    return encoded(frames[0], format_name, save_all=True, append_images=frames[1:], **options)


def captcha(*places: int, ink: tuple[int, ...] = INK, mode: str = "RGB") -> Image.Image:
    """Return 120×40 pixels with a thick "character" at each place, from 0 to 3."""
    clear = (*PAPER, 0)
    image = Image.new(mode, (120, 40), clear if mode == "RGBA" else PAPER)
    for place in places:
        ImageDraw.Draw(image).rectangle((30 * place + 10, 8, 30 * place + 20, 32), fill=ink)
    return image


def png_chunk(name: bytes, content: bytes) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(name + content))
    return struct.pack(">I", len(content)) + name + content + checksum


def png_start(width: int, height: int) -> bytes:
    """Return a greyscale PNG of hardly any picture data."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", b"\0")


def decode(data: bytes, limits: ImageLimits = LIMITS) -> Image.Image:
    image = decode_image(data, limits)
    assert type(image) is Image.Image
    assert image.mode == "RGB"
    return image


def ink_places(image: Image.Image) -> list[int]:
    """Return the places that show a character, by their middle pixel's contrast to the corner."""
    pixels = np.asarray(image).astype(int)
    return [
        place
        for place in range(4)
        if np.abs(pixels[20, 30 * place + 15] - pixels[0, 0]).max() > 100
    ]


def assert_close(image: Image.Image, expected: Image.Image, tolerance: float) -> None:
    """Compare the pixels by their mean difference, of 255."""
    assert image.size == expected.size
    difference = np.asarray(image).astype(int) - np.asarray(expected.convert("RGB"))
    assert np.abs(difference).mean() <= tolerance


@pytest.mark.parametrize(
    ("format_name", "options", "tolerance"),
    [
        pytest.param("PNG", {}, 0, id="png"),
        pytest.param("BMP", {}, 0, id="bmp"),
        pytest.param("GIF", {}, 0, id="gif"),
        pytest.param("WEBP", {"lossless": True}, 0, id="webp lossless"),
        pytest.param("WEBP", {"quality": 95}, 3, id="webp"),
        pytest.param("JPEG", {"quality": 95}, 3, id="jpeg"),
        pytest.param("JPEG", {"quality": 95, "progressive": True}, 3, id="jpeg progressive"),
    ],
)
def test_formats_keep_the_picture(
    format_name: str, options: dict[str, Any], tolerance: int
) -> None:
    picture = captcha(0, 2)
    assert_close(decode(encoded(picture, format_name, **options)), picture, tolerance)


@pytest.mark.parametrize(
    ("mode", "format_name", "tolerance"),
    [
        pytest.param("1", "PNG", 0, id="png 1 bit"),
        pytest.param("L", "PNG", 0, id="png greyscale"),
        pytest.param("P", "PNG", 0, id="png palette"),
        pytest.param("LA", "PNG", 0, id="png greyscale and alpha"),
        pytest.param("RGBA", "PNG", 0, id="png alpha"),
        pytest.param("L", "GIF", 0, id="gif greyscale"),
        pytest.param("1", "BMP", 0, id="bmp 1 bit"),
        pytest.param("L", "BMP", 0, id="bmp greyscale"),
        pytest.param("P", "BMP", 0, id="bmp palette"),
        pytest.param("RGBA", "BMP", 0, id="bmp alpha"),
        pytest.param("L", "JPEG", 3, id="jpeg greyscale"),
        pytest.param("CMYK", "JPEG", 3, id="jpeg cmyk"),
        pytest.param("RGBA", "WEBP", 3, id="webp alpha"),
    ],
)
def test_colour_modes_keep_the_picture(mode: str, format_name: str, tolerance: int) -> None:
    picture = captcha(1, 3).convert(mode, dither=Image.Dither.NONE)
    expected = picture.convert("RGB")
    assert_close(decode(encoded(picture, format_name)), expected, tolerance)


def test_bmp_of_run_lengths_is_read() -> None:
    # One row of four pixels of colour 1, then the end of the picture.
    header = struct.pack("<IiiHHIIiiII", 40, 4, 1, 1, 8, 1, 4, 0, 0, 2, 0)
    body = header + bytes([0, 0, 0, 0, 10, 20, 30, 0]) + bytes([4, 1, 0, 1])
    data = b"BM" + struct.pack("<IHHI", 14 + len(body), 0, 0, 14 + 48) + body
    assert decode(data).getpixel((3, 0)) == (30, 20, 10)


def test_sixteen_bit_greyscale_is_scaled_to_eight() -> None:
    levels = np.array([[0, 0x1234, 0x8000, 0xFFFF]], dtype=np.uint16)
    image = decode(encoded(Image.fromarray(levels)))
    assert [image.getpixel((x, 0)) for x in range(4)] == [
        (level, level, level) for level in (0, 0x12, 0x80, 0xFF)
    ]


def test_sixteen_bit_greyscale_may_have_a_transparent_level() -> None:
    levels = np.full((10, 20), 0xFFFE, dtype=np.uint16)
    levels[3:6, 3:9] = 0x1000
    data = encoded(Image.fromarray(levels))
    start = data.index(b"IDAT") - 4
    transparency = png_chunk(b"tRNS", struct.pack(">H", 0xFFFE))
    image = decode(data[:start] + transparency + data[start:])
    assert image.getpixel((0, 0)) == (255, 255, 255)
    assert image.getpixel((4, 4)) == (16, 16, 16)


@pytest.mark.parametrize("ink", [(10, 10, 30, 255), (250, 255, 245, 255)], ids=["dark", "light"])
@pytest.mark.parametrize(
    ("mode", "format_name"),
    [("RGBA", "PNG"), ("LA", "PNG"), ("P", "PNG"), ("RGBA", "GIF"), ("RGBA", "WEBP")],
)
def test_text_on_transparent_stays_visible(
    ink: tuple[int, ...], mode: str, format_name: str
) -> None:
    picture = captcha(0, 1, 3, ink=ink, mode="RGBA")
    # Quantizing makes a palette with one transparent colour.
    picture = picture.quantize(8) if mode == "P" else picture.convert(mode)
    with Image.open(BytesIO(encoded(picture, format_name))) as stored:
        assert stored.has_transparency_data
    assert ink_places(decode(encoded(picture, format_name))) == [0, 1, 3]


def test_rgb_png_may_have_a_transparent_colour() -> None:
    picture = Image.new("RGB", (30, 20), (1, 2, 3))
    ImageDraw.Draw(picture).rectangle((5, 5, 20, 15), fill=(0, 0, 0))
    image = decode(encoded(picture, transparency=(1, 2, 3)))
    assert image.getpixel((0, 0)) == (255, 255, 255)
    assert image.getpixel((10, 10)) == (0, 0, 0)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format_name", ["PNG", "JPEG", "WEBP"])
def test_exif_orientation_is_undone(orientation: int, format_name: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(captcha(0), format_name, exif=exif)
    with Image.open(BytesIO(data)) as stored:
        upright = ImageOps.exif_transpose(stored)
    assert_close(decode(data), upright, 0)


@pytest.mark.parametrize(
    "exif",
    [
        pytest.param(b"Exif\0\0garbage", id="garbage"),
        pytest.param(b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x63\0\0", id="99"),
        pytest.param(b"Exif\0\0II*\0\xff\xff\xff\xff", id="offset beyond the end"),
        pytest.param(b"Exif\0\0", id="empty"),
    ],
)
# Where warnings are no errors, as in the service, Pillow warns and goes on.
@pytest.mark.filterwarnings("ignore:Corrupt EXIF data", "ignore:Metadata Warning")
@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "WEBP"])
def test_broken_exif_is_ignored(exif: bytes, format_name: str) -> None:
    assert ink_places(decode(encoded(captcha(0, 2), format_name, exif=exif))) == [0, 2]


@pytest.mark.parametrize(
    ("format_name", "options"),
    [("GIF", {}), ("GIF", {"disposal": 2}), ("PNG", {}), ("WEBP", {"lossless": True})],
    ids=["gif", "gif disposed", "apng", "webp"],
)
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_animation_shows_every_character(
    format_name: str, options: dict[str, Any], mode: str
) -> None:
    ink = INK if mode == "RGB" else (*INK, 255)
    frames = [captcha(0, 1, ink=ink, mode=mode), captcha(1, 2, ink=ink, mode=mode)]
    frames.append(captcha(3, 0, ink=ink, mode=mode))
    image = decode(animated(frames, format_name, **options))
    assert ink_places(image) == [0, 1, 2, 3]
    assert image.size == (120, 40)


def test_an_image_for_viewers_without_animations_is_none_of_its_frames() -> None:
    frames = [captcha(0), captcha(1), captcha(2)]
    assert ink_places(decode(animated(frames, "PNG", default_image=True))) == [1, 2]


def test_an_image_beyond_the_memory_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(decode_module, "make_opaque", fail)
    with pytest.raises(OutOfMemory, match="does not fit"):
        decode(encoded(captcha(0)))


@pytest.mark.parametrize("ink", [(250, 255, 245, 255), (10, 10, 30, 255)], ids=["light", "dark"])
def test_transparent_animation_stays_visible(ink: tuple[int, ...]) -> None:
    frames = [captcha(place, ink=ink, mode="RGBA") for place in range(4)]
    assert ink_places(decode(animated(frames, "GIF", disposal=2))) == [0, 1, 2, 3]


def test_animation_of_one_content_stays_as_it_is() -> None:
    picture = captcha(0, 1, 2)
    almost = picture.copy()
    almost.putpixel((60, 2), (254, 254, 254))
    assert_close(decode(animated([picture, almost], "GIF")), picture, 1)


def test_animation_is_turned_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    data = animated([captcha(0), captcha(1)], "WEBP", lossless=True, exif=exif)
    assert ink_places(decode(data)) == [2, 3]


def test_gif_frame_that_stands_out_of_the_canvas_is_cropped() -> None:
    twice = captcha(1, 3).resize((240, 80), Image.Resampling.NEAREST)
    small, large = encoded(captcha(0), "GIF"), encoded(twice, "GIF")
    large_frame = large[large.index(b"," + struct.pack("<HHHH", 0, 0, 240, 80)) :]
    image = decode(small[:-1] + large_frame)
    assert image.size == (120, 40)
    # One character of the small frame, one of the large frame's that is within the canvas.
    assert image.getpixel((15, 20)) == INK
    assert image.getpixel((90, 30)) == INK


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"a3b9", id="text"),
        pytest.param(encoded(captcha(0), "TGA"), id="tga"),
        pytest.param(encoded(captcha(0), "EPS"), id="eps"),
        pytest.param(encoded(captcha(0), "PDF"), id="pdf"),
    ],
)
def test_other_types_are_unsupported(data: bytes) -> None:
    with pytest.raises(UnsupportedImageType, match="PNG, JPEG, GIF, WebP"):
        decode_image(data, LIMITS)


@pytest.mark.parametrize("format_name", FORMATS)
def test_pixel_limit_is_exact_and_checked_before_decoding(format_name: str) -> None:
    noise = Image.effect_noise((100, 80), 90).convert("RGB")
    data = encoded(noise, format_name)
    assert decode(data, ImageLimits(8000, 1)).size == (100, 80)
    # Half of the file is missing, which only a decoder notices; that of AVIF does before all.
    cut = data if format_name == "AVIF" else data[: len(data) // 2]
    with pytest.raises(TooManyPixels, match="100×80"):
        decode_image(cut, ImageLimits(7999, 1))


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(png_start(60_000, 50_000), id="png"),
        pytest.param(b"GIF89a" + struct.pack("<HHBBB", 60_000, 60_000, 0, 0, 0) + b";", id="gif"),
        pytest.param(
            b"GIF89a\x04\0\x04\0\0\0\0!\xf9\x04\x08\0\0\0\0,\0\0\0\0\xff\xff\xff\xff\0\x02\0;",
            id="gif frame",
        ),
        pytest.param(
            b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0\x02\0\0\0\xff\x3f\0\xff\x3f\0", id="webp canvas"
        ),
        pytest.param(
            b"BM" + bytes(12) + struct.pack("<IiiHHI", 40, 30_000, 30_000, 1, 24, 0) + bytes(20),
            id="bmp",
        ),
    ],
)
def test_a_decompression_bomb_is_rejected_without_a_warning(data: bytes) -> None:
    # Pillow itself would warn, or go on, at these sizes.
    with pytest.raises(TooManyPixels, match="1000000"):
        decode_image(data, LIMITS)


@pytest.mark.parametrize("format_name", ["GIF", "PNG", "WEBP"])
def test_frame_limit_is_exact(format_name: str) -> None:
    frames = [captcha(place % 4, ink=(20 * place, 0, 0)) for place in range(9)]
    decode(animated(frames[:8], format_name))
    with pytest.raises(TooManyFrames, match="8 frames"):
        decode_image(animated(frames, format_name), LIMITS)


def test_all_frames_count_into_the_pixel_limit() -> None:
    data = animated([captcha(0), captcha(1)], "GIF")
    decode(data, ImageLimits(2 * 120 * 40, 8))
    with pytest.raises(TooManyPixels, match="2 frames"):
        decode_image(data, ImageLimits(2 * 120 * 40 - 1, 8))


@pytest.mark.parametrize("size", [(1, 1), (3, 3), (1, 200), (200, 1), (2, 400), (999, 5)])
@pytest.mark.parametrize("format_name", FORMATS)
def test_small_and_long_shapes_are_read(size: tuple[int, int], format_name: str) -> None:
    assert decode(encoded(Image.new("RGB", size, INK), format_name)).size == size


@pytest.mark.parametrize("size", [(1, 201), (201, 1), (1, 400), (400, 1), (2001, 10)])
@pytest.mark.parametrize("format_name", FORMATS)
def test_strips_are_rejected(size: tuple[int, int], format_name: str) -> None:
    with pytest.raises(UnreadableShape, match=f"{size[0]}×{size[1]}.*{MAX_ASPECT_RATIO}"):
        decode_image(encoded(Image.new("RGB", size, INK), format_name), LIMITS)


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("format_name", FORMATS)
def test_truncated_file_is_undecodable(format_name: str, kept: float) -> None:
    data = encoded(Image.effect_noise((90, 60), 90).convert("RGB"), format_name)
    if format_name == "JPEG" and kept > 0.1:  # as browsers show it
        assert decode(data[: int(kept * len(data))]).size == (90, 60)
        return
    with pytest.raises(UndecodableImage, match="image is truncated or corrupt"):
        decode_image(data[: max(18, int(kept * len(data)))], LIMITS)


@pytest.mark.parametrize("progressive", [False, True], ids=["baseline", "progressive"])
def test_a_jpeg_that_lacks_its_last_bytes_is_read(progressive: bool) -> None:
    data = encoded(captcha(0, 1, 3), "JPEG", progressive=progressive)
    for missing in (1, 2, 12):
        assert ink_places(decode(data[:-missing])) == [0, 1, 3]


def test_a_jpeg_that_lacks_its_lower_half_is_undecodable() -> None:
    pixels = np.random.default_rng(1).normal(128, 90, (60, 90)).clip(0, 255).astype(np.uint8)
    data = encoded(Image.fromarray(pixels).convert("RGB"), "JPEG")
    with pytest.raises(UndecodableImage):
        decode_image(data[: len(data) - (len(data) - 620) * 3 // 4], LIMITS)


def test_an_icon_is_read_from_its_largest_picture() -> None:
    icon = captcha(0, 2).resize((256, 85))
    for kind in ("png", "bmp"):
        data = encoded(icon, "ICO", sizes=[(64, 21), (256, 85)], bitmap_format=kind)
        assert decode(data).size == (256, 85)


def test_an_icon_larger_than_its_header_is_undecodable() -> None:
    data = encoded(captcha(0).resize((48, 16)), "ICO", sizes=[(48, 16)])
    large = data[:18] + struct.pack("<I", 22) + png_start(30_000, 30_000)
    with pytest.raises(UndecodableImage):
        decode_image(large, LIMITS)


def test_a_tile_beyond_the_limit_is_not_decoded() -> None:
    data = bytearray(encoded(captcha(0), "TIFF", compression="raw"))
    entries = struct.unpack_from("<I", data, 4)[0]
    # Rows per strip become the width of a tile.
    at = data.index(struct.pack("<HHI", 278, 4, 1), entries)
    struct.pack_into("<HHII", data, at, 322, 4, 1, 1 << 20)
    with pytest.raises((TooManyPixels, UnreadableShape, UndecodableImage)):
        decode_image(bytes(data), LIMITS)


@pytest.mark.parametrize(
    ("mode", "format_name"), [("I;16", "TIFF"), ("F", "TIFF"), ("I", "TIFF"), ("I;16", "PPM")]
)
def test_levels_of_more_than_8_bits_are_scaled(mode: str, format_name: str) -> None:
    levels = np.asarray(captcha(1, 2).convert("L")).astype(np.uint32) * 200
    image = Image.fromarray(levels.astype({"F": np.float32, "I": np.int32}.get(mode, np.uint16)))
    assert image.mode == mode
    assert ink_places(decode(encoded(image, format_name))) == [1, 2]


def test_a_plain_ppm_of_too_many_numbers_is_undecodable() -> None:
    head = b"P3\n# a comment\n120 40\n255\n"
    numbers = b" ".join(b"%d" % level for level in captcha(2).tobytes())
    assert ink_places(decode(head + numbers)) == [2]
    with pytest.raises(UndecodableImage):
        decode_image(head + b" " * 300_000 + numbers, LIMITS)


def test_the_pages_of_a_tiff_are_no_frames() -> None:
    data = animated([captcha(0), captcha(1)], "TIFF")
    assert ink_places(decode(data)) == [0]


def test_truncated_animation_is_undecodable() -> None:
    noise = [Image.effect_noise((90, 60), 30 + 40 * index) for index in range(3)]
    data = animated(noise, "GIF")
    with pytest.raises(UndecodableImage):
        decode_image(data[: len(data) * 3 // 4], LIMITS)


def test_jpeg_made_to_be_slow_is_undecodable() -> None:
    data = encoded(captcha(0), "JPEG", progressive=True)
    last_scan = data[data.rindex(b"\xff\xda") : -2]
    with pytest.raises(UndecodableImage):
        decode_image(data[:-2] + last_scan * 100 + b"\xff\xd9", LIMITS)


def seeds() -> list[bytes]:
    """Return a small valid file of each kind, for the mutations below."""
    clear = [captcha(place, ink=(9, 9, 9, 255), mode="RGBA").resize((30, 10)) for place in (0, 2)]
    plain = captcha(0, 3).resize((30, 10))
    exif = Image.Exif()
    exif[0x0112] = 6
    return [
        *(encoded(plain, format_name) for format_name in FORMATS),
        *(encoded(plain.convert(mode)) for mode in ("1", "L", "P", "LA", "RGBA")),
        *(encoded(plain, format_name, exif=exif) for format_name in ("PNG", "JPEG", "WEBP")),
        *(animated(clear, format_name) for format_name in ("GIF", "PNG", "WEBP")),
        encoded(Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) * 999)),
        encoded(plain.convert("CMYK"), "JPEG", progressive=True),
        encoded(plain.convert("P"), "BMP"),
        animated(clear, "GIF", disposal=2),
        animated(clear, "GIF", disposal=3),
    ]


SEEDS = seeds()


def with_png_checksums(data: bytes) -> bytes:
    """Return a PNG file with its checksums made right, so that changes reach the decoder."""
    fixed, position = bytearray(data), 8
    while position + 12 <= len(fixed):
        end = position + 8 + struct.unpack_from(">I", fixed, position)[0]
        if end + 4 > len(fixed):
            break
        struct.pack_into(">I", fixed, end, zlib.crc32(fixed[position + 4 : end]))
        position = end + 4
    return bytes(fixed)


@st.composite
def damaged_files(draw: st.DrawFn) -> bytes:
    data = bytearray(draw(st.sampled_from(SEEDS)))
    # Most of what is fragile is in the first bytes.
    reach = draw(st.sampled_from([len(data), 64]))
    for _ in range(draw(st.integers(0, 4))):
        data[draw(st.integers(0, min(reach, len(data)) - 1))] = draw(st.integers(0, 255))
    if draw(st.booleans()):
        del data[draw(st.integers(0, len(data))) :]
    if data.startswith(b"\x89PNG") and draw(st.booleans()):
        return with_png_checksums(bytes(data))
    return bytes(data)


@given(damaged_files())
@settings(max_examples=400)
def test_a_damaged_file_is_read_or_rejected(data: bytes) -> None:
    try:
        width, height = decode(data).size
    except CaptchaServiceError as error:
        rejection = error
    else:
        assert width * height <= LIMITS.max_image_pixels
        assert max(width, height) <= MAX_ASPECT_RATIO * min(width, height)
        return
    assert rejection.status in {413, 415, 422}


@given(st.sampled_from([b"", *(data[:14] for data in SEEDS)]), st.binary(max_size=64))
@settings(max_examples=200)
def test_random_bytes_are_rejected(start: bytes, rest: bytes) -> None:
    with pytest.raises(CaptchaServiceError):
        decode_image(start + rest, LIMITS)


@pytest.mark.parametrize("page", ["<!DOCTYPE html><html>", " \n<html lang='en'>", "<HEAD><title>"])
def test_an_html_page_is_not_an_image(page: str) -> None:
    with pytest.raises(UnsupportedImageType, match="web page"):
        decode_image(page.encode(), LIMITS)
