"""SVG drawings as PNG files, for captchas such as those of svg-captcha.

A drawing may consist of shapes, gradients and text. Nothing in it is followed: no reference to a
file, an address, a style sheet or an entity, and nothing that repeats a part of the drawing. The
rasterizer is resvg, which the package `resvg-py` brings; the service runs without it.
"""

from __future__ import annotations

import re
from xml.parsers import expat

from qwen_captcha.errors import UndecodableImage, UnsupportedImageType
from qwen_captcha.images.headers import Canvas

MAX_BYTES = 512 * 1024
# svg-captcha draws under 20.
MAX_ELEMENTS = 5000
MAX_DEPTH = 32
ELEMENTS = frozenset(
    {
        *("svg", "g", "defs", "title", "desc", "metadata", "style"),
        *("path", "rect", "circle", "ellipse", "line", "polyline", "polygon", "text", "tspan"),
        *("linearGradient", "radialGradient", "stop"),
    }
)
NOT_INSTALLED = (
    "The image is an SVG, which this service reads where resvg-py is installed: "
    "pip install resvg-py, or send the image as PNG."
)
# References to anything but a part of the drawing, and dashes, of which a line may have millions.
_FORBIDDEN = re.compile(r"url\(\s*[\"']?(?!#)|@|dasharray|expression", re.IGNORECASE)
_LENGTH = re.compile(r"\s*([0-9]{0,6}\.?[0-9]{0,6})\s*(?:px)?\s*")


def svg_canvas(data: bytes) -> Canvas:
    """Return the size of a drawing in pixels after checking that it is harmless.

    Raises:
        UnsupportedImageType: It has parts that are not drawn.
        UndecodableImage: It is no XML, has no size, or is too large.
    """
    if len(data) > MAX_BYTES:
        raise UndecodableImage(f"The SVG is larger than {MAX_BYTES} bytes.")
    checker = _Checker()
    try:
        checker.parse(data)
    except expat.ExpatError as error:
        raise UndecodableImage("The SVG is not valid XML.") from error
    return checker.canvas()


def svg_as_png(data: bytes, canvas: Canvas) -> bytes:
    """Return a drawing that `svg_canvas` has checked as a PNG file of that size.

    Raises:
        UnsupportedImageType: resvg is not installed.
        ValueError: resvg cannot draw it.
    """
    try:
        from resvg_py import svg_to_bytes
    except ImportError:
        raise UnsupportedImageType(NOT_INSTALLED) from None
    try:
        return bytes(
            svg_to_bytes(
                svg_string=data.decode("utf-8-sig"),
                width=canvas.width,
                height=canvas.height,
                # Looking for fonts takes longer than drawing.
                skip_system_fonts=b"<text" not in data,
            )
        )
    except (KeyboardInterrupt, SystemExit):
        raise
    # A panic of Rust is no Exception.
    except BaseException as error:
        raise ValueError("resvg cannot draw the SVG") from error


class _Checker:
    """Goes through a drawing once and rejects elements that are not drawn."""

    def __init__(self) -> None:
        self._parser = expat.ParserCreate("utf-8")
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._text
        self._parser.EntityDeclHandler = self._entity
        self._count = self._depth = 0
        self._in_style = False
        self._root: dict[str, str] = {}

    def parse(self, data: bytes) -> None:
        """Check a whole drawing."""
        self._parser.Parse(data, True)

    def canvas(self) -> Canvas:
        """Return the size that the root element gives, by its view box where it gives none."""
        box = re.split(r"[\s,]+", self._root.get("viewBox", "").strip())
        sizes = []
        for name, place in (("width", 2), ("height", 3)):
            match = _LENGTH.fullmatch(self._root.get(name, ""))
            if match is None or not match[1].strip("."):
                match = _LENGTH.fullmatch(box[place]) if len(box) == len("xywh") else None
            sizes.append(round(float(match[1])) if match and match[1].strip(".") else 0)
        if min(sizes) < 1:
            raise UndecodableImage("The SVG has no width and height in pixels.")
        return Canvas(*sizes)

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        local = name.rpartition(":")[2]
        if local not in ELEMENTS:
            raise UnsupportedImageType(
                f"The SVG has an element {local[:20]}: shapes, gradients and text are drawn."
            )
        self._count += 1
        self._depth += 1
        if self._count > MAX_ELEMENTS or self._depth > MAX_DEPTH:
            raise UndecodableImage("The SVG has too many elements.")
        if self._count == 1:
            self._root = attributes
        self._in_style = local == "style"
        for attribute, value in attributes.items():
            reference = attribute.rpartition(":")[2] == "href" and not value.startswith("#")
            if reference or _FORBIDDEN.search(f"{attribute}={value}"):
                raise UnsupportedImageType(
                    f"The SVG has a reference or dashes in {attribute[:20]}, which are not drawn."
                )

    def _end(self, name: str) -> None:
        self._depth -= 1
        self._in_style = False

    def _text(self, text: str) -> None:
        if self._in_style and _FORBIDDEN.search(text):
            raise UnsupportedImageType("The SVG has a style sheet with references or dashes.")

    def _entity(self, *_: object) -> None:
        raise UnsupportedImageType("The SVG declares entities, which are not drawn.")
