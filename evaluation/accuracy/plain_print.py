"""Captchas in plain print of kinds that readers get wrong, drawn with fonts that Debian has.

The print has no noise and no distortion, so a mistake means that the reader cannot read the kind.
The same arguments and fonts give the same pixels.
"""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

# Debian's fonts-dejavu-core and fonts-liberation; Pillow finds them by name.
FONTS = (
    *("DejaVuSans.ttf", "DejaVuSans-Bold.ttf", "DejaVuSerif.ttf"),
    *("LiberationSans-Regular.ttf", "LiberationSans-Bold.ttf", "LiberationSerif-Regular.ttf"),
)
FONT_PIXELS = (22, 30)
# Levels of ink on white: of ordinary print, and of a character that is still visible.
DARK, PALE = (10, 70), (200, 226)
# Without characters that look alike in print.
CHARACTERS = "ABCDEFGHJKLMNPQRTUVWXY346789"


@dataclass(frozen=True, slots=True)
class Drawing:
    """One captcha.

    Attributes:
        png: The image file.
        label: The text to type; empty for an image without text.
        shown: The text that is drawn.
    """

    png: bytes
    label: str
    shown: str


# Draws one captcha of a kind.
Draw = Callable[[random.Random], Drawing]


def draw_kinds(count: int, seed: int = 0) -> Iterator[tuple[str, list[Drawing]]]:
    """Yield each kind's name and `count` captchas of it.

    Raises:
        OSError: None of `FONTS` is installed.
    """
    for name, draw in KINDS.items():
        rng = random.Random(f"{seed} {name}")
        yield name, [draw(rng) for _ in range(count)]


def _pale(position: str) -> Draw:
    """Return the function that draws a word with a pale character: first, last or inside."""

    def draw(rng: random.Random) -> Drawing:
        word = _code(rng, rng.randint(4, 6), CHARACTERS)
        last = len(word) - 1
        pale = {"first": 0, "last": last, "inside": rng.randrange(1, last)}[position]
        inks = [rng.randint(*(PALE if index == pale else DARK)) for index in range(len(word))]
        return Drawing(_print(rng, [word], inks, gap=rng.randint(2, 12)), word, word)

    return draw


def _sum_of_three_digits(rng: random.Random) -> Drawing:
    first, second = sorted((rng.randint(100, 999), rng.randint(10, 999)), reverse=True)
    if rng.random() < 0.5:
        return _line(rng, f"{first}-{second}=?", str(first - second))
    return _line(rng, f"{first}+{second}=?", str(first + second))


def _unknown_operand(rng: random.Random) -> Drawing:
    first, second = rng.randint(2, 9), rng.randint(2, 9)
    sign, value = rng.choice((("+", first + second), ("×", first * second)))
    shown = rng.choice((f"{first}{sign}?={value}", f"?{sign}{first}={value}"))
    if rng.random() < 0.3:
        shown = f"{first + second}-?={first}"
    return _line(rng, shown, str(second))


def _other_signs(rng: random.Random) -> Drawing:
    first, second, third = (rng.randint(2, 9) for _ in range(3))
    shown, value = rng.choice(
        (
            (f"{first}·{second}=?", first * second),
            (f"{first * second}:{first}=?", second),
            (f"({first}+{second})×{third}=?", (first + second) * third),
        )
    )
    return _line(rng, shown, str(value))


def _long(characters: str) -> Draw:
    """Return the function that draws 9 to 16 of some characters."""

    def draw(rng: random.Random) -> Drawing:
        code = _code(rng, rng.randint(9, 16), characters)
        return _line(rng, code, code)

    return draw


def _two_lines(rng: random.Random) -> Drawing:
    lines = [_code(rng, 4, CHARACTERS) for _ in range(2)]
    inks = [rng.randint(*DARK)] * 8
    return Drawing(_print(rng, lines, inks), "".join(lines), " / ".join(lines))


def _one_color(rng: random.Random) -> Drawing:
    color = tuple(rng.randint(0, 255) for _ in range(3))
    size = rng.choice(((1, 1), (100, 40), (160, 60)))
    return Drawing(_png(Image.new("RGB", size, color)), "", "one color")


def _noise(rng: random.Random) -> Drawing:
    generator = np.random.default_rng(rng.getrandbits(32))
    levels = generator.normal(rng.randint(120, 220), rng.randint(15, 90), (60, 160, 3))
    return Drawing(_png(Image.fromarray(np.clip(levels, 0, 255).astype(np.uint8))), "", "noise")


def _lines_alone(rng: random.Random) -> Drawing:
    image = Image.new("RGB", (160, 60), "white")
    for _ in range(rng.randint(2, 6)):
        ends = [(rng.randrange(160), rng.randrange(60)) for _ in range(2)]
        ImageDraw.Draw(image).line(ends, (rng.randint(*DARK),) * 3, rng.randint(1, 3))
    return Drawing(_png(image), "", "lines")


KINDS: dict[str, Draw] = {
    "pale first": _pale("first"),
    "pale last": _pale("last"),
    "pale inside": _pale("inside"),
    "sums of three digits": _sum_of_three_digits,
    "unknown operand": _unknown_operand,
    "dot, colon, brackets": _other_signs,
    "9 to 16 digits": _long("0123456789"),
    "9 to 16 letters and digits": _long(CHARACTERS),
    "two lines": _two_lines,
    "one color": _one_color,
    "noise": _noise,
    "lines alone": _lines_alone,
}


def _line(rng: random.Random, shown: str, label: str) -> Drawing:
    return Drawing(_print(rng, [shown], [rng.randint(*DARK)] * len(shown)), label, shown)


def _code(rng: random.Random, length: int, characters: str) -> str:
    return "".join(rng.choices(characters, k=length))


def _print(rng: random.Random, lines: Sequence[str], inks: Sequence[int], gap: int = 0) -> bytes:
    """Return an image of some lines, each character in an ink of its own."""
    font = _font(rng)
    margin, height = rng.randint(5, 14), round(1.3 * font.size)
    width = max(sum(font.getlength(c) + gap for c in line) for line in lines)
    size = (round(width) + 2 * margin, height * len(lines) + 2 * margin)
    image = Image.new("RGB", size, "white")
    ink = iter(inks)
    for number, line in enumerate(lines):
        x = float(margin)
        for character in line:
            corner = (x, margin + number * height)
            ImageDraw.Draw(image).text(corner, character, (next(ink),) * 3, font)
            x += font.getlength(character) + gap
    return _png(image)


def _font(rng: random.Random) -> ImageFont.FreeTypeFont:
    """Return a random installed font in a random size."""
    pixels = rng.randint(*FONT_PIXELS)
    missing: OSError | None = None
    for name in rng.sample(FONTS, len(FONTS)):
        try:
            return ImageFont.truetype(name, pixels)
        except OSError as error:
            missing = error
    raise OSError("Install fonts-dejavu-core or fonts-liberation to draw with.") from missing


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()
