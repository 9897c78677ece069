"""Malformed images: Pillow's own test images, and captchas that were damaged.

The same arguments give the same images in the same order.
"""

from __future__ import annotations

import random
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

from evaluation.load.synthetic_captchas import draw_captchas

# The release whose test images are used; it need not be the installed one.
PILLOW = "13.0.0"
IMAGES = f"pillow-{PILLOW}/Tests/images/"
# Shares of a file that remain.
REMAINING = (0.0, 0.01, 0.1, 0.5, 0.9, 0.999)
FLIPS = (1, 4, 64)

NamedImage = tuple[str, bytes]


def pillow_images(cache: Path) -> list[NamedImage]:
    """Return every file of Pillow's `Tests/images` by name, downloaded from PyPI if necessary.

    Args:
        cache: Folder for the source distribution.

    Raises:
        subprocess.CalledProcessError: pip cannot download it.
    """
    archive = cache / f"pillow-{PILLOW}.tar.gz"
    if not archive.is_file():
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary",
             "pillow", f"pillow=={PILLOW}", "--dest", str(cache)],
            check=True,
        )  # fmt: skip
    with tarfile.open(archive) as files:
        members = [entry for entry in files if entry.isfile() and entry.name.startswith(IMAGES)]
        contents = [
            (entry.name.removeprefix(IMAGES), files.extractfile(entry)) for entry in members
        ]
        return sorted((name, file.read()) for name, file in contents if file is not None)


def damaged_captchas(count: int) -> Iterator[NamedImage]:
    """Yield `count` captchas, each truncated to several shares and with flipped bits."""
    rng = random.Random(0)
    for image, label in draw_captchas(count):
        for share in REMAINING:
            yield f"{label} cut to {share:.1%}", image[: int(len(image) * share)]
        for flips in FLIPS:
            yield f"{label} with {flips} flipped bits", flipped(image, flips, rng)


def flipped(data: bytes, flips: int, rng: random.Random) -> bytes:
    """Return bytes with some bits inverted, which `rng` chooses."""
    changed = bytearray(data)
    for _ in range(flips):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)
