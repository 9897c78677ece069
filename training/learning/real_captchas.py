"""Labelled captchas of real generators, held in memory as PNG for training, and for validation.

Archives of images with a `labels.tsv` are decoded as the service decodes images. A family's share
is largest where half of it is misread. Every sixteenth image of a family is kept for validation and
never used for training.
"""

from __future__ import annotations

import random
import re
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm  # type: ignore[import-untyped]

from qwen_captcha.images.crop import text_box
from qwen_captcha.images.decode import ImageLimits, decode_image
from training.rendering.alphabet import ALPHABET

_LIMITS = ImageLimits(max_image_pixels=20_000_000, max_frames=200)
_HELD_OUT_EVERY = 16  # of a family's images, one in this many is kept for validation
_MAX_SIDE = 480  # pixels; a larger picture is kept at a whole fraction of its size
_MARGIN = 0.4  # of the text's height, kept around it in memory
# Share of a family that is read without a mistake or never, beside one of which half is read.
_MIN_WEIGHT = 0.2
# Added to the square of the misread share in a run on the hardest: what is read comes, too.
_MIN_HARDEST_WEIGHT = 0.02
# What the training calls the kinds of `labels.tsv`.
_KINDS = {"digits": "digits", "alnum": "latin", "math": "math", "chinese": "chinese"}


@dataclass(frozen=True, slots=True)
class RealCaptcha:
    """One labelled picture.

    Attributes:
        pixels: RGB, (H, W, 3) uint8.
        text: What is drawn, without spaces.
        kind: One of `texts.KINDS`.
        family: Name of the family, without the number of a variant.
    """

    pixels: NDArray[np.uint8]
    text: str
    kind: str
    family: str


@dataclass(frozen=True, slots=True)
class _Held:
    """A captcha of a known family in memory: as arrays, all take 5 GB."""

    png: NDArray[np.uint8]
    text: str
    kind: str


class RealCaptchas:
    """Families of captchas, from which training draws.

    Args:
        captchas: At least one.
    """

    def __init__(self, captchas: Iterable[RealCaptcha]) -> None:
        self._families: dict[str, list[_Held]] = {}
        for captcha in captchas:
            png = _png(_near_text(captcha.pixels))
            held = _Held(png, captcha.text, captcha.kind)
            self._families.setdefault(captcha.family, []).append(held)
        self.families = sorted(self._families)
        if not self.families:
            raise ValueError("no captcha of a real generator was found")

    def choose(
        self, rng: random.Random, misses: Sequence[float], *, hardest: bool = False
    ) -> RealCaptcha:
        """Return a captcha.

        Most is learnt from what is read sometimes: a family's weight follows the variance of its
        hits. Source: Rutherford et al. 2024, https://arxiv.org/abs/2408.15099. A family that is
        hardly ever read gets so few captchas that it stays so: `hardest` is for a run on those.

        Args:
            rng: Source of randomness.
            misses: The share misread of each of `families`.
            hardest: A family's weight is the square of that share instead.
        """
        if hardest:
            weights = [_MIN_HARDEST_WEIGHT + miss**2 for miss in misses]
        else:
            weights = [_MIN_WEIGHT + (1 - _MIN_WEIGHT) * 4 * miss * (1 - miss) for miss in misses]
        family = rng.choices(self.families, weights)[0]
        held = rng.choice(self._families[family])
        pixels = cv2.cvtColor(cv2.imdecode(held.png, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
        return RealCaptcha(np.asarray(pixels, np.uint8), held.text, held.kind, family)


def read_archives(paths: Sequence[Path], *, held_out: bool) -> Iterator[RealCaptcha]:
    """Yield the captchas of `.tar` files, or of folders, that hold a `labels.tsv` each.

    Args:
        paths: Archives or folders, one a family or variant.
        held_out: Yield those held out for validation instead of the others.
    """
    for path in tqdm(paths, unit="family", disable=None, leave=False):
        family = re.sub(r"_v\d+$", "", path.stem)
        files = dict(_files(path))
        rows = files.pop("labels.tsv").decode("utf-8").splitlines()
        for index, row in enumerate(rows):
            if (index % _HELD_OUT_EVERY == 0) is not held_out:
                continue
            name, label, kind, *drawn = row.split("\t")
            text = (drawn[0] if drawn else label).replace(" ", "")
            if set(text) <= set(ALPHABET):
                yield RealCaptcha(_decoded(files[name]), text, _KINDS[kind], family)


def _png(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return RGB pixels (H, W, 3) as the bytes of a PNG."""
    _, data = cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
    return np.asarray(data, np.uint8)


def _near_text(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the part around the text: some canvases are ten times as large."""
    height, width = pixels.shape[:2]
    box = text_box(pixels)
    margin = round(_MARGIN * (box.bottom - box.top))
    top, left = max(0, box.top - margin), max(0, box.left - margin)
    bottom, right = min(height, box.bottom + margin), min(width, box.right + margin)
    return pixels[top:bottom, left:right]


def _files(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield names and contents of the files of an archive or a folder."""
    if path.is_dir():
        yield from ((file.name, file.read_bytes()) for file in path.iterdir() if file.is_file())
        return
    with tarfile.open(path) as archive:
        for member in archive:
            content = archive.extractfile(member)
            if content is not None:
                yield Path(member.name).name, content.read()


def _decoded(data: bytes) -> NDArray[np.uint8]:
    image = decode_image(data, _LIMITS)
    shrink = -(-max(image.size) // _MAX_SIDE)
    return np.asarray(image.reduce(shrink) if shrink > 1 else image)


def is_archive(path: Path) -> bool:
    """Return whether a path is an archive, or a folder with labels."""
    return path.suffix == ".tar" or (path / "labels.tsv").is_file()
