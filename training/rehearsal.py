"""Write the rehearsal set of a checkpoint: captchas that prevent forgetting during `fit`.

    python -m training.rehearsal CHECKPOINT --real FOLDER [--real FOLDER ...]

`rehearsal.tar`, beside the weights, has some captchas of each real generator and some rendered
ones, small enough to be shipped. Images are lossless where that is small. None of them is kept for
validation.
"""

from __future__ import annotations

import argparse
import io
import random
import tarfile
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm  # type: ignore[import-untyped]

from qwen_captcha.fitting.rehearsal import REHEARSAL
from qwen_captcha.samples import LABELS_FILE
from training.generators.archive import add_file
from training.held_out import draw_held_out
from training.learning.real_captchas import RealCaptcha, is_archive, read_archives
from training.rendering.fonts import FontLibrary

SEED = 80_000_000
_LOSSLESS_BYTES = 6000
_QUALITY = 85

# A picture (H, W, 3) and what is drawn.
Row = tuple[NDArray[np.uint8], str]


def choose(captchas: Iterable[RealCaptcha], each: int, rng: random.Random) -> list[RealCaptcha]:
    """Return up to `each` captchas of every family, chosen by chance in one pass."""
    chosen: dict[str, list[RealCaptcha]] = defaultdict(list)
    seen: dict[str, int] = defaultdict(int)
    for captcha in captchas:
        family = chosen[captcha.family]
        seen[captcha.family] += 1
        if len(family) < each:
            family.append(captcha)
        elif (place := rng.randrange(seen[captcha.family])) < each:
            family[place] = captcha
    return [captcha for _, family in sorted(chosen.items()) for captcha in family]


def rendered(count: int) -> Iterator[Row]:
    """Yield captchas of the last level in the typefaces of training."""
    for drawing, text, _ in draw_held_out(count, FontLibrary.open(), SEED):
        yield drawing.image, text.replace(" ", "")


def write_archive(path: Path, rows: Iterable[Row]) -> int:
    """Write captchas in an order of chance; return how many."""
    shuffled = list(rows)
    random.Random(SEED).shuffle(shuffled)
    labels = []
    with tarfile.open(path, "w") as archive:
        for index, (pixels, text) in enumerate(shuffled):
            name = f"{index:05}.webp"
            add_file(archive, name, encoded(pixels))
            labels.append(f"{name}\t{text}")
        add_file(archive, LABELS_FILE, ("\n".join(labels) + "\n").encode())
    return len(shuffled)


def encoded(pixels: NDArray[np.uint8]) -> bytes:
    """Return a picture as WebP, lossless where that takes few bytes."""
    image, file = Image.fromarray(pixels), io.BytesIO()
    image.save(file, "WEBP", lossless=True)
    if file.tell() > _LOSSLESS_BYTES:
        file = io.BytesIO()
        image.save(file, "WEBP", quality=_QUALITY)
    return file.getvalue()


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path, help="folder of the checkpoint")
    parser.add_argument(
        "--real", type=Path, action="append", default=[], help="folder of real generators' captchas"
    )
    parser.add_argument("--each", type=int, default=12, help="of each real family (12)")
    parser.add_argument("--rendered", type=int, default=300, help="rendered ones (300)")
    arguments = parser.parse_args()
    archives = [path for folder in arguments.real for path in sorted(folder.iterdir())]
    real = choose(
        read_archives([path for path in archives if is_archive(path)], held_out=False),
        arguments.each,
        random.Random(SEED),
    )
    drawn = tqdm(rendered(arguments.rendered), total=arguments.rendered, disable=None, leave=False)
    rows = [*((one.pixels, one.text) for one in real), *drawn]
    path = arguments.checkpoint / REHEARSAL
    count = write_archive(path, rows)
    print(f"{path}: {count} captchas, {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
