"""Decode the bytes of an image file to one upright, opaque RGB picture.

This covers every colour mode, transparency, rotation and animation. Limits on pixels and frames are
checked on the header, before anything is decoded. Only errors of `errors.py` are raised, whatever
the bytes. No global state of Pillow or of `warnings` is changed, so that any thread may call.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from PIL import Image
from PIL.AvifImagePlugin import AvifImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.IcoImagePlugin import IcoImageFile
from PIL.ImageFile import ImageFile
from PIL.Jpeg2KImagePlugin import Jpeg2KImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.PpmImagePlugin import PpmImageFile
from PIL.TiffImagePlugin import TILELENGTH, TILEWIDTH, TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from qwen_captcha.errors import (
    DEFAULT_RETRY_S,
    NO_MEMORY,
    OutOfMemory,
    TooManyFrames,
    TooManyPixels,
    UndecodableImage,
    UnreadableShape,
    UnsupportedImageType,
)
from qwen_captcha.images.animation import compose_frames
from qwen_captcha.images.headers import (
    READABLE_FORMATS,
    WEB_PAGE,
    Canvas,
    announced_canvas,
    check_effort,
    damage_of,
    image_format,
    is_web_page,
)
from qwen_captcha.images.svg import svg_as_png, svg_canvas
from qwen_captcha.images.transparency import make_opaque

# Qwen2-VL's `smart_resize` rejects an image whose longer side is more than 200 times the shorter.
MAX_ASPECT_RATIO = 200

# The decoders are called by name, not through `Image.open`: that one also tries other formats,
# and warns (process-wide) of sizes which `_check_limits` has its own ceiling for.
DECODERS: dict[str, Callable[[BytesIO], ImageFile]] = {
    "PNG": PngImageFile,
    "JPEG": JpegImageFile,
    "GIF": GifImageFile,
    "WEBP": WebPImageFile,
    "BMP": BmpImageFile,
    "TIFF": TiffImageFile,
    "AVIF": AvifImageFile,
    "ICO": IcoImageFile,
    "PPM": PpmImageFile,
    "JPEG 2000": Jpeg2KImageFile,
}
# Whose frames are shown one after the other; the pages of a TIFF are not.
ANIMATED = frozenset({"PNG", "GIF", "WEBP", "AVIF"})
# A JPEG that lacks its end is read as browsers show it, with one color in what is missing. Beyond
# this part of its height that is too much.
JPEG_END = b"\xff\xd9"
MAX_MISSING_PART = 0.5
# What Pillow's decoders raise for broken files, and its warnings where they are made errors.
DECODER_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    Image.DecompressionBombError,
    LookupError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    Warning,
    struct.error,
    zlib.error,
)

EXIF_ORIENTATION = 0x0112
# How to bring the stored image upright, by EXIF orientation; 1 is upright.
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """Limits of decoding.

    Attributes:
        max_image_pixels: Width times height times frames of one image.
        max_frames: Frames of one animation.
    """

    max_image_pixels: int
    max_frames: int


def decode_image(data: bytes, limits: ImageLimits) -> Image.Image:
    """Decode one file of a format in `READABLE_FORMATS` into an upright, opaque RGB image.

    An animation becomes one image that shows the characters of all frames.

    Raises:
        UnsupportedImageType: The bytes are of no readable format.
        TooManyPixels: The image is over `max_image_pixels`; it was not decoded.
        TooManyFrames: The animation is over `max_frames`; it was not decoded.
        UnreadableShape: The aspect ratio is over `MAX_ASPECT_RATIO`.
        UndecodableImage: The file is truncated or corrupt; a JPEG may lack its last bytes.
        OutOfMemory: It does not fit the memory that is left.
    """
    damage = damage_of(data)
    if damage is not None:
        raise UndecodableImage(damage)
    name = image_format(data)
    if name is None:
        if is_web_page(data):
            raise UnsupportedImageType(WEB_PAGE)
        raise UnsupportedImageType(f"The data is not an image: {READABLE_FORMATS} is read.")
    try:
        return _decode(data, name, limits)
    except MemoryError:
        raise OutOfMemory(NO_MEMORY, retry_after_s=DEFAULT_RETRY_S) from None
    except DECODER_ERRORS as error:
        raise UndecodableImage(f"The {name} image is truncated or corrupt.") from error


def _decode(data: bytes, name: str, limits: ImageLimits) -> Image.Image:
    """Decode a file of a known format, or raise what its decoder raises."""
    if name == "SVG":
        drawing = svg_canvas(data)
        _check_limits(drawing, limits)
        return _decode(svg_as_png(data, drawing), "PNG", limits)
    check_effort(data, name)
    announced = announced_canvas(data, name, limits.max_frames)
    if announced is not None:
        _check_limits(announced, limits)
    image = DECODERS[name](BytesIO(data + JPEG_END if name == "JPEG" else data))
    canvas = Canvas(*image.size, frames=getattr(image, "n_frames", 1) if name in ANIMATED else 1)
    _check_limits(canvas, limits)
    if isinstance(image, TiffImageFile):
        # A whole tile is decoded, however little of it the canvas shows.
        tile = Canvas(int(image.tag_v2.get(TILEWIDTH, 1)), int(image.tag_v2.get(TILELENGTH, 1)))
        _check_limits(tile, limits)
    # An APNG's first image may be one that is shown only where animations are not.
    first = 1 if canvas.frames > 1 and image.info.get("default_image") else 0
    shown = range(first, canvas.frames)
    frames = make_opaque([_read_frame(image, index, canvas) for index in shown])
    picture = _compose(frames) if len(frames) > 1 else frames[0]
    if name == "JPEG" and not data.endswith(JPEG_END):
        _check_end(picture)
    turn = UPRIGHT.get(_orientation(image))
    return picture if turn is None else picture.transpose(turn)


def _check_limits(canvas: Canvas, limits: ImageLimits) -> None:
    """Refuse a canvas that is too large, or too long and narrow for the model."""
    width, height = canvas.width, canvas.height
    if canvas.frames > limits.max_frames:
        raise TooManyFrames(f"The animation has more than {limits.max_frames} frames.")
    if width * height * max(1, canvas.frames) > limits.max_image_pixels:
        size = f"{width}×{height}" + (f"×{canvas.frames} frames" if canvas.frames > 1 else "")
        raise TooManyPixels(f"The image is {size}, over {limits.max_image_pixels} pixels.")
    if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
        raise UnreadableShape(
            f"The image is {width}×{height}: one side is more than {MAX_ASPECT_RATIO} times "
            "the other, which the model cannot be shown."
        )


def _check_end(picture: Image.Image) -> None:
    """Refuse a JPEG file without its end whose lower half is missing, that is of one color."""
    pixels = np.asarray(picture)  # (H, W, 3)
    lower = pixels[-math.ceil(len(pixels) * MAX_MISSING_PART) :]
    if (lower == lower[-1, -1]).all() and (pixels != lower[-1, -1]).any():
        raise ValueError("a JPEG lacks its lower half")


def _read_frame(image: ImageFile, index: int, canvas: Canvas) -> Image.Image:
    """Return one frame, of the canvas's size, in mode RGB or RGBA."""
    if index:
        image.seek(index)
    image.load()
    frame: Image.Image = image
    if image.mode.startswith("I;16"):
        frame = _in_eight_bits(image)
    elif image.mode in ("I", "F"):
        frame = _stretched(image)
    frame = frame.convert("RGBA" if frame.has_transparency_data else "RGB")
    # A GIF's later frames may stand out of the canvas.
    return frame.crop((0, 0, canvas.width, canvas.height))


def _in_eight_bits(image: Image.Image) -> Image.Image:
    """Return a 16-bit greyscale image in mode L, or LA if one of its levels is transparent."""
    levels = np.asarray(image)
    # The upper byte; Pillow's own conversion clips at 255 and leaves a white picture.
    grey = Image.fromarray((levels >> 8).astype(np.uint8))
    transparent = image.info.get("transparency")
    if transparent is not None:
        grey.putalpha(Image.fromarray(np.where(levels == transparent, 0, 255).astype(np.uint8)))
    return grey


def _stretched(image: Image.Image) -> Image.Image:
    """Return an image of 32-bit levels in mode L, its darkest one black and its brightest white."""
    levels = np.nan_to_num(np.asarray(image, dtype=np.float64), posinf=0.0, neginf=0.0)
    levels -= levels.min()
    return Image.fromarray((levels * (255 / max(levels.max(), 1e-9))).astype(np.uint8))


def _compose(frames: Sequence[Image.Image]) -> Image.Image:
    """Return one picture that shows the characters of all frames."""
    return Image.fromarray(compose_frames(np.stack([np.asarray(frame) for frame in frames])))


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 (upright) where it is not given or not readable."""
    try:
        return int(image.getexif().get(EXIF_ORIENTATION, 1))
    except DECODER_ERRORS:
        return 1
