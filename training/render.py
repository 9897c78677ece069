"""Draw a sheet of captchas of all kinds: `python -m training.render --out sheet.png --rows 12`."""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from training.rendering.fonts import FontLibrary
from training.rendering.render import render
from training.rendering.styles import sample_style
from training.rendering.texts import KINDS, sample_text


def contact_sheet(rows: int, columns: int, seed: int, difficulty: float) -> NDArray[np.uint8]:
    """Return a sheet of captchas of all kinds, (rows x 64, columns x 190, 3) uint8."""
    rng = random.Random(seed)
    fonts = FontLibrary.open()
    sheet = np.full((rows * 64, columns * 190, 3), 200, np.uint8)
    for row in range(rows):
        for column in range(columns):
            kind = KINDS[(row * columns + column) % len(KINDS)]
            text = sample_text(rng, kind, longest=8)
            style = sample_style(rng, difficulty)
            image = render(
                text, style, aspect=rng.uniform(2, 4), fonts=fonts, seed=rng.getrandbits(32)
            ).image
            scale = min(60 / image.shape[0], 186 / image.shape[1])
            size = (int(image.shape[1] * scale), int(image.shape[0] * scale))
            small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
            top, left = row * 64, column * 190
            sheet[top : top + small.shape[0], left : left + small.shape[1]] = small
    return sheet


def main() -> None:
    """Write a contact sheet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=12)
    parser.add_argument("--columns", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--difficulty", type=float, default=1.0)
    arguments = parser.parse_args()
    sheet = contact_sheet(arguments.rows, arguments.columns, arguments.seed, arguments.difficulty)
    cv2.imwrite(str(arguments.out), cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))
    print(f"wrote {arguments.out}")


if __name__ == "__main__":
    main()
