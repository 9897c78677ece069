"""Read the header of an image file without decoding it.

The format is detected by content. For the two formats for which Pillow reserves memory before it
reports a size, canvas and frame count are read here. Files made to be slow are rejected. Nothing
here takes memory or time in proportion to a number that a file claims.

Sources: the GIF89a specification; the WebP container specification.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

READABLE_FORMATS = "PNG, JPEG, GIF, WebP, BMP, TIFF, AVIF, ICO, PPM, JPEG 2000 or SVG"

# Brands of the files that begin as AVIF does; `mif1` and `msf1` stand for any codec.
_AVIF_BRANDS = (b"avif", b"avis", b"mif1", b"msf1")
_PPM = re.compile(rb"P[1-6][ \t\r\n]+(?:#[^\n]*\n\s*)*[0-9]")
_SVG = re.compile(
    rb"(?:\xef\xbb\xbf)?\s*(?:<\?xml[^>]{0,200}>\s*)?(?:<!--.{0,500}?-->\s*)?"
    rb"(?:<!DOCTYPE\s+svg[^>]{0,300}>\s*)?<svg[\s>]",
    re.DOTALL,
)
# Pillow reads numbers that are spelled out in Python, half a second per MiB.
MAX_PLAIN_PPM_BYTES = 256 * 1024
# One tile is usual; each costs a call of the decoder.
MAX_JPEG_2000_TILES = 1000
JPEG_2000_START_OF_TILE = b"\xff\x90"
ICO_HEADER_BYTES, ICO_ENTRY_BYTES = 6, 16

# Sizes of the BMP information headers in use; "BM" alone also begins many texts.
BMP_INFO_HEADER_BYTES = frozenset({12, 40, 52, 56, 64, 108, 124})
BMP_RUN_LENGTH_ENCODINGS = frozenset({1, 2})
# Pillow decodes run lengths in Python, half a second per MiB.
MAX_RUN_LENGTH_BYTES = 256 * 1024
# A progressive JPEG has about 10 scans. Each may have 30 bytes and still costs a pass over all
# pixels, 14 ms for 16 million.
MAX_JPEG_SCANS = 64
JPEG_START_OF_SCAN = b"\xff\xda"

# A file that was sent as text has lost its line breaks and zeros, which all others have early on.
LOST_BYTES = (
    "The image was sent as text, which took bytes out of it, as curl's -d does: send it with "
    "curl --data-binary @FILE or -F image=@FILE."
)
_PNG_AS_TEXT = (b"\x89PNG\x1a", b"\x89PNG\n\x1a", b"\x89PNG\r\r\n")
_WITH_ZEROS = frozenset({"JPEG", "GIF", "WEBP", "BMP"})
_HEAD_BYTES = 1024
# The first bytes of PNG and JPEG files as characters of a text in UTF-8, where they are none.
RECODED = (
    "The image was decoded as text on its way, which changed its bytes: send them as they are."
)
_RECODED = (
    *(b"\xef\xbf\xbdPNG", b"\xef\xbf\xbd" * 3),
    *("\x89PNG".encode(), "\xff\xd8\xff".encode()),
)

WEB_PAGE = (
    "The data is a web page and not an image: look at what the address of the captcha answered."
)
_WEB_PAGE = re.compile(rb"(?:\xef\xbb\xbf)?\s*<(?:!doctype html|html|head|body)\b", re.IGNORECASE)

WEBP_HEADER_BYTES = 30
GIF_HEADER_BYTES = 13
GIF_FRAME_HEADER_BYTES = 9
GIF_TRAILER, GIF_EXTENSION, GIF_FRAME, GIF_COMMENT = 0x3B, 0x21, 0x2C, 0xFE
GIF_LOOP_NAME = b"NETSCAPE2.0"
# 10 MiB of full blocks, of 255 bytes, are 41,000; Pillow takes half a second for a million.
MAX_GIF_BLOCKS = 100_000


@dataclass(frozen=True, slots=True)
class Canvas:
    """The area in pixels that the frames of a file are drawn on, and their number."""

    width: int
    height: int
    frames: int = 1


def image_format(data: bytes) -> str | None:
    """Return Pillow's name of the format that the first bytes announce, None for any other."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WEBP"
    if data.startswith(b"BM") and _number(data, 14, 4) in BMP_INFO_HEADER_BYTES:
        return "BMP"
    if data.startswith((b"II*\0", b"MM\0*")):
        return "TIFF"
    if data[4:8] == b"ftyp" and data[8:12] in _AVIF_BRANDS and b"avi" in data[8:64]:
        return "AVIF"
    if data.startswith(b"\0\0\1\0") and _number(data, 4, 2) > 0 and data[9:10] == b"\0":
        return "ICO"
    if data.startswith((b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51")):
        return "JPEG 2000"
    if _PPM.match(data):
        return "PPM"
    return "SVG" if _SVG.match(data) else None


def is_web_page(data: bytes) -> bool:
    """Return whether bytes begin as HTML does."""
    return _WEB_PAGE.match(data) is not None


def damage_of(data: bytes) -> str | None:
    """Return a sentence about how a file was damaged on its way, None where it was not so."""
    head = data[:_HEAD_BYTES]
    if head.startswith(_PNG_AS_TEXT) or (
        image_format(head) in _WITH_ZEROS and not any(byte in head for byte in b"\0\r\n")
    ):
        return LOST_BYTES
    if head.startswith(_RECODED):
        return RECODED
    return None


def check_effort(data: bytes, name: str) -> None:
    """Refuse a file whose decoding takes out of all proportion to its size.

    Args:
        data: The whole file.
        name: Its format, as `image_format` calls it.

    Raises:
        ValueError: It is such a file.
    """
    if name == "JPEG" and data.count(JPEG_START_OF_SCAN) > MAX_JPEG_SCANS:
        raise ValueError("a JPEG of too many scans")
    if name == "JPEG 2000" and data.count(JPEG_2000_START_OF_TILE) > MAX_JPEG_2000_TILES:
        raise ValueError("a JPEG 2000 file of too many tiles")
    if name == "PPM" and data[1:2] in b"123" and len(data) > MAX_PLAIN_PPM_BYTES:
        raise ValueError("a PPM of too many numbers")
    run_lengths = name == "BMP" and _number(data, 30, 4) in BMP_RUN_LENGTH_ENCODINGS
    if run_lengths and len(data) > MAX_RUN_LENGTH_BYTES:
        raise ValueError("a BMP of too many run lengths")


def announced_canvas(data: bytes, name: str, max_frames: int) -> Canvas | None:
    """Return the canvas of a GIF, WebP or ICO file; None for formats that Pillow reads lazily.

    Args:
        data: The whole file.
        name: Its format, as `image_format` calls it.
        max_frames: Frames are counted up to one more than this.

    Raises:
        ValueError: The file ends within a header, or is made to be slow.
    """
    if name == "GIF":
        return _gif_canvas(data, max_frames)
    if name == "WEBP":
        return _webp_canvas(data)
    if name == "ICO":
        return _ico_canvas(data)
    return None


def _gif_canvas(data: bytes, max_frames: int) -> Canvas:
    """Return the canvas of a GIF, grown, as by Pillow, to hold frames that stand out of it."""
    if len(data) < GIF_HEADER_BYTES:
        raise ValueError("a GIF ends within its header")
    width, height, frames = _number(data, 6, 2), _number(data, 8, 2), 0
    for left, top, frame_width, frame_height in islice(_GifFrames(data), max_frames + 1):
        width, height = max(width, left + frame_width), max(height, top + frame_height)
        frames += 1
    return Canvas(width, height, frames)


def _webp_canvas(data: bytes) -> Canvas:
    """Return the canvas of a WebP file, whose frames Pillow counts without decoding them."""
    chunk = data[12:16]
    if len(data) < WEBP_HEADER_BYTES or chunk not in {b"VP8X", b"VP8L", b"VP8 "}:
        raise ValueError("a WebP file without a picture")
    if chunk == b"VP8X":
        return Canvas(_number(data, 24, 3) + 1, _number(data, 27, 3) + 1)
    if chunk == b"VP8L":
        bits = _number(data, 21, 4)
        return Canvas((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)
    return Canvas(_number(data, 26, 2) & 0x3FFF, _number(data, 28, 2) & 0x3FFF)


def _ico_canvas(data: bytes) -> Canvas:
    """Return the canvas of the largest picture in an ICO file, which is the one that Pillow reads.

    The directory gives a size in one byte each, and the picture another one, which must be equal.
    """
    largest = Canvas(0, 0)
    start = ICO_HEADER_BYTES
    for entry in range(start, start + ICO_ENTRY_BYTES * _number(data, 4, 2), ICO_ENTRY_BYTES):
        # 0 stands for 256.
        width, height = (_number(data, entry + place, 1) or 256 for place in (0, 1))
        offset = _number(data, entry + 12, 4)
        if data.startswith(b"\x89PNG", offset):
            found = tuple(int.from_bytes(data[offset + at : offset + at + 4]) for at in (16, 20))
        else:  # A bitmap, and a mask below it.
            found = (_number(data, offset + 4, 4), _number(data, offset + 8, 4) // 2)
        if found != (width, height):
            raise ValueError("an ICO file whose directory and pictures disagree")
        if width * height > largest.width * largest.height:
            largest = Canvas(width, height)
    return largest


class _GifFrames:
    """Iterates over left, top, width and height, in pixels, of the frames of a GIF."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = GIF_HEADER_BYTES + _colour_table_bytes(data[10])
        self._blocks_left = MAX_GIF_BLOCKS

    def __iter__(self) -> Iterator[tuple[int, int, int, int]]:
        while self._peek() not in {None, GIF_TRAILER}:
            block = self._peek()
            self._skip(1)
            if block == GIF_EXTENSION:
                self._skip_extension()
            elif block == GIF_FRAME:
                yield self._frame()

    def _frame(self) -> tuple[int, int, int, int]:
        """Return the place of the frame whose header is next, and go to its end."""
        header = self._data[self._position : self._position + GIF_FRAME_HEADER_BYTES]
        if len(header) < GIF_FRAME_HEADER_BYTES:
            raise ValueError("a GIF ends within a frame's header")
        # One byte after the colour table is the initial code length.
        self._skip(GIF_FRAME_HEADER_BYTES + _colour_table_bytes(header[8]) + 1)
        self._skip_sub_blocks()
        left, top = _number(header, 0, 2), _number(header, 2, 2)
        return left, top, _number(header, 4, 2), _number(header, 6, 2)

    def _skip_extension(self) -> None:
        """Go to the end of the extension whose label is next.

        Raises:
            ValueError: It has no data. Pillow reads on into the next block there, and would
                find other frames than this class.
        """
        is_comment = self._peek() == GIF_COMMENT
        self._skip(1)
        is_loop = self._data.startswith(GIF_LOOP_NAME, self._position + 1)
        for _ in range(0 if is_comment else 2 if is_loop else 1):
            if not self._peek():
                raise ValueError("a GIF extension without data")
            self._skip_sub_block()
        self._skip_sub_blocks()

    def _skip_sub_blocks(self) -> None:
        """Go to the end of a chain of sub-blocks."""
        while self._peek():
            self._skip_sub_block()
        self._skip(1)

    def _skip_sub_block(self) -> None:
        """Go to the end of the next sub-block, whose first byte is the number of the others."""
        self._skip(1 + (self._peek() or 0))

    def _peek(self) -> int | None:
        """Return the next byte, None at the end of the file."""
        return self._data[self._position] if self._position < len(self._data) else None

    def _skip(self, size: int) -> None:
        """Go on by `size` bytes.

        Raises:
            ValueError: The file is cut into more blocks than any encoder would make.
        """
        self._blocks_left -= 1
        if self._blocks_left < 0:
            raise ValueError("a GIF of too many blocks")
        self._position += size


def _colour_table_bytes(flags: int) -> int:
    """Return the size of the colour table that a GIF header's flags announce."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _number(data: bytes, offset: int, size: int) -> int:
    """Return the unsigned little-endian number in `size` bytes; what is cut off counts as 0."""
    return int.from_bytes(data[offset : offset + size], "little")
