"""Fit the calibration of a checkpoint to captchas that were kept from training.

The service's backend reads rendered captchas in held-out typefaces and, with `--real`, the held-out
part of generators' captchas. Half of the outcomes are fitted to; the printed figures are of the
other half.

Only the hardest styles of each kind are drawn, so that outputs occur which are sure and wrong.

Run: `python -m training.calibrate CHECKPOINT [--images 6000] [--real FOLDER]`; it writes the file
beside the weights.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from PIL import Image
from tqdm import tqdm  # type: ignore[import-untyped]

from qwen_captcha.fitting.calibrating import Outcome, figures_of, fit, outcomes_of, short
from qwen_captcha.fitting.checkpoint_reader import CheckpointReader
from training.held_out import draw_held_out
from training.learning.real_captchas import is_archive, read_archives
from training.rendering.fonts import FontLibrary

SEED = 40_000_000
_BATCH_SIZE = 16


def draw(count: int, seed: int) -> Iterator[tuple[Image.Image, str]]:
    """Yield captchas of the last level in held-out typefaces, with what is drawn."""
    fonts = FontLibrary.open(held_out=True)
    for drawn, text, _ in draw_held_out(count, fonts, seed, easiest=1.0):
        yield Image.fromarray(drawn.image), text.replace(" ", "")


def kept(folders: Sequence[Path]) -> Iterator[tuple[Image.Image, str]]:
    """Yield the captchas of real generators that training never uses, with what is drawn."""
    paths = [path for folder in folders for path in sorted(folder.iterdir()) if is_archive(path)]
    for captcha in read_archives(paths, held_out=True):
        yield Image.fromarray(captcha.pixels), captcha.text


def calibrate(
    checkpoint: Path, images: int, seed: int, real: Sequence[Path] = ()
) -> dict[str, object]:
    """Fit the calibration of a checkpoint, write it into its folder and return the figures.

    Args:
        checkpoint: Its folder.
        images: How many captchas to draw.
        seed: Fixes which.
        real: Folders of archives of real generators' captchas, read besides.
    """
    reader = CheckpointReader(str(checkpoint), checkpoint.name, use_gpu=True)
    outcomes: list[Outcome] = []
    captchas = [*draw(images, seed), *kept(real)]
    random.Random(seed).shuffle(captchas)
    with tqdm(total=len(captchas), unit="image", disable=None, leave=False) as bar:
        for start in range(0, len(captchas), _BATCH_SIZE):
            batch = captchas[start : start + _BATCH_SIZE]
            readings = reader.read_batch([picture for picture, _ in batch])
            outcomes += outcomes_of([text for _, text in batch], readings, reader.plan)
            bar.update(len(batch))
    half = len(outcomes) // 2
    calibration = fit(outcomes[:half])
    figures: dict[str, object] = {
        "rendered": images,
        "real": len(captchas) - images,
        "seed": seed,
        "fitted": half,
        "tested": len(outcomes) - half,
        "accuracy": short(sum(o.right for o in outcomes) / max(1, len(outcomes))),
        "bare": figures_of(None, outcomes[half:]),
        "calibrated": figures_of(calibration, outcomes[half:]),
    }
    calibration.write(checkpoint, figures)
    return figures


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path, help="folder of the checkpoint")
    parser.add_argument("--images", type=int, default=6000, help="half of them are fitted to")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument(
        "--real",
        type=Path,
        action="append",
        default=[],
        help="folder of archives of real generators' captchas, of which the kept part is read",
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    figures = calibrate(arguments.checkpoint, arguments.images, arguments.seed, arguments.real)
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
